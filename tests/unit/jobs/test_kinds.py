"""Which jobs there are, and which arguments each of them takes: those, of their types, and no others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ConfigError
from replicator.jobs.kinds import KINDS, checked, function_of, kind_of
from replicator.jobs.work import _WORK
from replicator.sandbox.drill import FAULTS

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)

#: What is a setting of a worker, whatever the job.
SETTINGS = ("backups", "keep", "keep_days", "state", "data_dirs", "directory", "dir", "redis", "group", "log_level")


def test_each_kind_is_done_by_something_and_nothing_else_is() -> None:
    assert set(KINDS) == set(_WORK)


def test_a_job_is_called_by_its_own_name_alone() -> None:
    assert kind_of(function_of("verify")) is KINDS["verify"]
    for other in ("verify", "os.system", "replicator.workers.jobs.main", "replicator.workers.jobs.", 7, None, ["x"]):
        assert kind_of(other) is None


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("setting", SETTINGS)
def test_what_a_job_may_touch_is_no_argument_of_it(name: str, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"it has no argument '{setting}'"):
        checked(KINDS[name], {setting: "/"})


@given(
    name=st.sampled_from(list(KINDS)),
    given_=st.dictionaries(
        st.sampled_from(sorted({each for kind in KINDS.values() for each in kind.arguments})), ANYTHING
    ),
)
def test_what_passes_is_small_plain_json(name: str, given_: dict[str, Any]) -> None:
    try:
        arguments = checked(KINDS[name], given_)
    except ConfigError:
        return
    assert len(json.dumps(arguments, allow_nan=False)) < 2000
    assert set(arguments) <= set(KINDS[name].arguments)


def test_faults_are_those_of_the_drill() -> None:
    assert checked(KINDS["drill"], {"faults": list(FAULTS)}) == {"faults": list(FAULTS)}
    with pytest.raises(ConfigError, match="is none of"):
        checked(KINDS["drill"], {"faults": ["kill", "rm -rf"]})


def test_a_switchover_names_a_node_and_a_term() -> None:
    assert checked(KINDS["switchover"], {"to": "b", "term": 5}) == {"to": "b", "term": 5}
    with pytest.raises(ConfigError, match="it needs term, to"):
        checked(KINDS["switchover"], {})
