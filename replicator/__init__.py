"""Warm standbys of a stateful service through a Redis stream, and failover without a split brain.

    from replicator import Node

    with Node(state, group="registry", name="a", redis="redis://localhost:6379/0", data_dir="data/a") as node:
        node.submit({"op": "register", "hostname": "db1"})

What is public is in `__all__`; it is imported when it is first used. `__version__` is that of the installed package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        ApplyFailed,
        ChangeRejected,
        ChangeTooLarge,
        CheckFailed,
        CheckpointError,
        ConfigError,
        CorruptRecord,
        DirectoryInUse,
        Fenced,
        InvalidChange,
        InvalidHeader,
        KeyReused,
        LeadershipLost,
        LeaseLost,
        LogLost,
        LogUnavailable,
        NotAcknowledged,
        NotAllowed,
        NoThread,
        NotJSON,
        NotPrimary,
        NotRunning,
        NotSubmitted,
        OutcomeUnknown,
        Outdated,
        PositionLost,
        ProgramError,
        ProgramStillRuns,
        PromotionRefused,
        ReadSuspended,
        ReinitRefused,
        ReplicatorError,
        ResultNotKept,
        SkipRefused,
        SnapshotFailed,
        SnapshotRefused,
        Stalled,
        StateChanged,
        StateError,
        StateInUse,
        StillRuns,
        UnknownGroup,
        UpgradeNeeded,
        VersionRefused,
        WorkFailed,
        WouldDeadlock,
        WrongProcess,
    )
    from .format.ids import Position, RecordId
    from .format.keyed import Key
    from .node.events import NodeEvent
    from .node.host import Host
    from .node.leadership import Leadership
    from .node.node import Node
    from .node.role_callbacks import RoleEvent
    from .state import CheckedState, CheckingState, KeptState, ReplicatedState, SharedState, State, TypedResults
    from .state.changes import Change
    from .state.commands import Commands, change
    from .state.expiry import expiry
    from .state.mapping import DictState, delete, put, put_many
    from .storage.payload import Published

    __version__: str

__all__ = [
    "ApplyFailed",
    "Change",
    "ChangeRejected",
    "ChangeTooLarge",
    "CheckFailed",
    "CheckedState",
    "CheckingState",
    "CheckpointError",
    "Commands",
    "ConfigError",
    "CorruptRecord",
    "DictState",
    "DirectoryInUse",
    "Fenced",
    "Host",
    "InvalidChange",
    "InvalidHeader",
    "KeptState",
    "Key",
    "KeyReused",
    "Leadership",
    "LeadershipLost",
    "LeaseLost",
    "LogLost",
    "LogUnavailable",
    "NoThread",
    "Node",
    "NodeEvent",
    "NotAcknowledged",
    "NotAllowed",
    "NotJSON",
    "NotPrimary",
    "NotRunning",
    "NotSubmitted",
    "OutcomeUnknown",
    "Outdated",
    "Position",
    "PositionLost",
    "ProgramError",
    "ProgramStillRuns",
    "PromotionRefused",
    "Published",
    "ReadSuspended",
    "RecordId",
    "ReinitRefused",
    "ReplicatedState",
    "ReplicatorError",
    "ResultNotKept",
    "RoleEvent",
    "SharedState",
    "SkipRefused",
    "SnapshotFailed",
    "SnapshotRefused",
    "Stalled",
    "State",
    "StateChanged",
    "StateError",
    "StateInUse",
    "StillRuns",
    "TypedResults",
    "UnknownGroup",
    "UpgradeNeeded",
    "VersionRefused",
    "WorkFailed",
    "WouldDeadlock",
    "WrongProcess",
    "change",
    "delete",
    "expiry",
    "put",
    "put_many",
]

_ELSEWHERE = {
    "Change": "state.changes",
    "CheckedState": "state",
    "CheckingState": "state",
    "Commands": "state.commands",
    "DictState": "state.mapping",
    "Host": "node.host",
    "KeptState": "state",
    "Leadership": "node.leadership",
    "Key": "format.keyed",
    "Node": "node.node",
    "NodeEvent": "node.events",
    "Position": "format.ids",
    "Published": "storage.payload",
    "RecordId": "format.ids",
    "ReplicatedState": "state",
    "RoleEvent": "node.role_callbacks",
    "SharedState": "state",
    "State": "state",
    "TypedResults": "state",
    "change": "state.commands",
    "delete": "state.mapping",
    "expiry": "state.expiry",
    "put": "state.mapping",
    "put_many": "state.mapping",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata  # takes as long to import as all the rest

        return metadata.version(__name__)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
