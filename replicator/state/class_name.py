"""Which application a state is of, as text. It stands in the checkpoint, so that nobody makes another one of that."""

from __future__ import annotations

from typing import Any

from . import State

__all__ = ["WHOLE", "are_alike", "kind_of", "name_of"]

#: Any state without `apply`. What is published of it is what counts, and not its class.
WHOLE = "whole"


def kind_of(state: Any) -> str:
    """`MODULE:CLASS`, as `certify --state` takes it; `whole` for a state without `apply`."""
    if not isinstance(state, State):
        return WHOLE
    kind = type(state)
    return f"{kind.__module__}:{kind.__qualname__}"


def name_of(state: Any) -> str:
    """The name of its class, and nothing of where that is: code may be moved."""
    return type(state).__name__


def are_alike(kind: str, other: str) -> bool:
    """Whether they may be the same class. That of a script that was run is in `__main__`, whatever its file's name."""
    if kind == other:
        return True
    (module, _, name), (other_module, _, other_name) = kind.partition(":"), other.partition(":")
    return name == other_name != "" and "__main__" in (module, other_module)
