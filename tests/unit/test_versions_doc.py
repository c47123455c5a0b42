"""The example in docs/versions.md keeps the rule that it stands for: at version 1 both codes write what both read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson

from replicator.state.contract import at_version, check_state

PAGE = Path(__file__).parents[2] / "docs" / "versions.md"

OLD_FORMS = [["dark", True], ["beta", False], ["dark", False], ["new", True]]


def flags(version: int) -> Any:
    """The state of the example in this version of its code."""
    code = re.findall(r"^```python\n(class Flags.*?)^node = ", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code[version - 1], names)
    state = names["Flags"]()
    check_state(state)
    return state


def pieces(state: Any, version: int) -> Any:
    """Its snapshot, as JSON gives it back."""
    return orjson.loads(orjson.dumps(list(at_version(state.snapshot, version)())))


def test_at_version_1_either_code_writes_what_the_other_one_reads() -> None:
    old, new = flags(1), flags(2)
    for change in OLD_FORMS:
        old.apply(change)
        new.apply(change)
    assert pieces(new, 1) == pieces(old, 1), "so `verify` finds them equal"
    again, back = flags(2), flags(1)
    at_version(again.restore, 1)(pieces(old, 1))
    at_version(back.restore, 1)(pieces(new, 1))
    assert again.flags == new.flags == {"dark": 0, "beta": 0, "new": 100}
    assert back.flags == old.flags


def test_at_version_2_the_new_code_reads_both_forms() -> None:
    new = flags(2)
    for change in [*OLD_FORMS, ["dark", 40]]:
        new.apply(change)
    again = flags(2)
    at_version(again.restore, 2)(pieces(new, 2))
    assert again.flags == new.flags == {"dark": 40, "beta": 0, "new": 100}
