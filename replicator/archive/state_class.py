"""Of which class an archived state is: as somebody says, or as the archive or a checkpoint of the group does."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from ..errors import CheckpointError, ConfigError
from ..ops.certify import copied
from ..state.class_name import are_alike
from ..state.named_class import REGISTRY
from .segment import Footer

__all__ = ["class_of"]

#: The name under which a node of the registry says what it is, unless told otherwise.
_APP_OF_REGISTRY = "Registry"


def class_of(given: str, footer: Footer, data_dirs: tuple[Any, ...] = ()) -> str:
    """The class of the state: as given, as the archive or a checkpoint of the group says; empty: nobody knows.

    Raises `ConfigError` if what is given is not what they say.
    """
    known = footer.state or _in_checkpoints(footer.group, data_dirs)
    if given and known and not are_alike(known, given):
        raise ConfigError(setting="state", problem=f"the state is of {known}, not of {given}: give --state {known}")
    return given or known or (REGISTRY if footer.app == _APP_OF_REGISTRY else "")


def _in_checkpoints(group: str, data_dirs: tuple[Any, ...]) -> str:
    for data_dir in data_dirs:
        with suppress(CheckpointError), copied(data_dir, is_closed=True) as stored:
            if stored.group == group and (found := stored.note("state")):
                return found
    return ""
