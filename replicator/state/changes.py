"""The form that the changes of `DictState` and `Commands` have in the log. It is a contract: it outlives the code.

A change is a JSON object with one member. Its name is that of the change, its value are the arguments:

    {"set_flag": {"name": "dark-mode", "on": true, "percent": 100}}     Commands: an object, all arguments by name
    {"put": {"dark-mode": true}}                                        DictState
    {"delete": ["dark-mode", "beta"]}
    {"expire": {"keys": ["s1", "s2"], "until": "until", "now": 1764500000.5}}
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from ..errors import InvalidChange
from ..format.codec import encoded

__all__ = ["Change", "checked_change", "named"]

ResultT = TypeVar("ResultT")


class Change(dict[str, Any], Generic[ResultT]):
    """A change that was checked, to be submitted: a dict in the form above.

    `ResultT` is what `apply` returns for it, for type checkers alone: `node.submit` of a `Change[Flag]` gives a `Flag`.
    """


def checked_change(name: str, arguments: Any) -> Change[Any]:
    """The change as every node will decode it. Raises `NotJSON` and `ChangeTooLarge`, as `Node.submit` does."""
    return Change(encoded([{name: arguments}]).changes[0])


def named(change: Any) -> tuple[str, Any]:
    """The name of a change, and its arguments. Raises `InvalidChange` if it does not have the form above."""
    if not isinstance(change, dict) or len(change) != 1:
        raise InvalidChange('a change must be an object with one member, its name: {"put": {"key": "value"}}')
    ((name, arguments),) = change.items()
    return name, arguments
