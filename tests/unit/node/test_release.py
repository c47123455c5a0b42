"""Which application a node runs, and which versions of it: what may be given, and who is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from replicator.errors import ConfigError, PromotionRefused
from replicator.node.release import Release
from tests.support.kv import KV, PATIENCE_S, Group, eventually, put
from tests.support.worlds import promote

# --- what may be given ------------------------------------------------------------------------------------------------


def test_an_application_is_called_as_its_state_and_reads_its_own_version() -> None:
    assert Release.of(KV()) == Release(app="KV", version=1, reads=range(1, 2))
    assert Release.of(KV(), version=3).reads == range(3, 4)
    assert Release.of(KV(), app="flags", version=2, reads=range(1, 3)) == Release(
        app="flags", version=2, reads=range(1, 3)
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"app": ""}, "app: the name of an application has"),
        ({"app": "a\nb"}, "app: "),
        ({"app": 5}, "app: 5 is not a text"),
        ({"app": "x" * 201}, "app: the name of an application has"),
        ({"version": 0}, "version: 0 is not a whole number"),
        ({"version": "2"}, "version: '2' is not a whole number"),
        ({"version": True}, "version: True is not"),
        ({"reads": [1, 2]}, "give range(1, 3)"),
        ({"reads": range(0)}, "is no range of versions"),
        ({"reads": range(1, 9, 2)}, "is no range of versions"),
        ({"reads": range(2)}, "versions are from 1"),
        ({"version": 3, "reads": range(1, 3)}, "has not 3, the version of this code"),
    ],
)
def test_what_is_no_release_is_refused_by_its_name(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Release.of(KV(), **given)
    assert says in str(refused.value)


# --- another application ----------------------------------------------------------------------------------------------


def test_a_node_of_another_application_is_refused_at_its_start(group: Group) -> None:
    group.primary("a", app="Registry").submit(put("k", 1))
    with pytest.raises(ConfigError) as refused:
        group.node("b", app="Flags")
    assert "is of `Registry`, and this node is of `Flags`" in str(refused.value)
    assert 'app="Registry"' in str(refused.value)
    assert "b" not in group.server.look().heartbeats, "nobody ever takes it for a node of the group"
    renamed = group.node("b", app="Registry")
    eventually(lambda: renamed.position.id.n == 2, "the change")


def test_a_data_directory_is_not_given_to_another_application(group: Group, tmp_path: Path) -> None:
    node = group.primary("a", app="Registry")
    node.submit(put("k", 1))
    node.stop()
    group.server.flush()  # the log does not tell
    with pytest.raises(ConfigError) as refused:
        group.node("a", app="Flags")
    assert "the checkpoint in" in str(refused.value)
    assert "is of `Registry`" in str(refused.value)
    with group.node("a", app="Registry").reading() as state:
        assert state.data["k"] == 1


def test_a_directory_that_no_log_was_followed_in_is_free(group: Group) -> None:
    node = group.node("a", app="Registry")
    node.stop()
    assert group.node("a", app="Flags").unready is not None


def test_a_node_that_sees_later_whose_the_log_is_takes_no_part_any_more(group: Group) -> None:
    stranger = group.node("b", app="Flags")  # there is no log yet, so nobody knows
    group.primary("a", app="Registry").submit(put("k", 1))
    eventually(lambda: stranger.failed is not None, "its end")
    assert "is of `Registry`, and this node is of `Flags`" in str(stranger.failed)
    with stranger.reading() as state:
        assert not state.data, "it took nothing in"


def test_a_stranger_that_has_not_seen_it_yet_gets_no_term(group: Group) -> None:
    stranger = group.node("b", app="Flags")
    promote(group.log(), "z", app="Registry")
    with pytest.raises((PromotionRefused, ConfigError)) as refused:
        stranger.promote(force=True, timeout_s=PATIENCE_S)
    assert "`Registry`" in str(refused.value)
    head = group.server.look().head
    assert head is not None
    assert (head.node, head.term) == ("z", 1)


def test_a_log_of_before_takes_the_application_of_the_next_primary(group: Group) -> None:
    promote(group.log(), "z")
    group.primary("a", app="Flags")
    assert group.server.state.head is not None
    assert group.server.state.head.app == "Flags"
    with pytest.raises(ConfigError, match="`Flags`"):
        group.node("b", app="Registry")
