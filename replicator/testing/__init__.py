"""For the tests of an application, and for our own. What is named here is imported when it is first used.

- `Cluster` (`cluster.py`): a group of nodes in one process, with a clock that the test moves.
- `check_state` (`state_check.py`): whether a state is one that nodes can replicate.
- `strategies`: Hypothesis strategies for the changes of the states that are ready; a module to be imported.
- `CheckFailed` (`failures.py`): what these raise, an `AssertionError`.
- `MemoryLog`, `MemoryRedis`, `MemoryState` (`memory_log.py`): a log in memory, the twin of a Redis with our scripts.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cluster import Cluster
    from .failures import CheckFailed
    from .memory_log import MemoryLog, MemoryRedis, MemoryState
    from .state_check import check_state

__all__ = ["CheckFailed", "Cluster", "MemoryLog", "MemoryRedis", "MemoryState", "check_state"]

_WHERE = {
    "CheckFailed": "failures",
    "Cluster": "cluster",
    "MemoryLog": "memory_log",
    "MemoryRedis": "memory_log",
    "MemoryState": "memory_log",
    "check_state": "state_check",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
