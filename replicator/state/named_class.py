"""The class of a state, as a setting names it: MODULE:CLASS."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from replicator.errors import ConfigError
from replicator.state import ReplicatedState
from replicator.state.class_name import WHOLE

__all__ = ["REGISTRY", "state_class"]

#: The reference application.
REGISTRY = "replicator.registry.state:Registry"


class _Whole:
    """Stands for any state without `apply`: what is compared of those is the payload that was published."""

    def snapshot(self) -> Iterable[Any]:
        return ()

    def restore(self, pieces: Iterable[Any]) -> None:
        pass


def state_class(name: str) -> Callable[[], ReplicatedState]:
    """Import the class. The working directory comes first, as the application is most likely there."""
    if name == WHOLE:
        return _Whole
    module, _, attribute = name.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(setting="state", problem=f"{name!r} is not MODULE:CLASS ({error})") from None
    finally:
        del sys.path[0]
    if not callable(found):
        raise ConfigError(setting="state", problem=f"{name!r} is not a class")
    make: Callable[[], ReplicatedState] = found
    return make
