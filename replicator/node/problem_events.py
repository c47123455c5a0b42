"""Which event the problem of a node is, by its error: how its beginning and its end are called, and how bad it is.

ERROR is for what somebody has to do something about. What passes by itself is a WARNING.
"""

from __future__ import annotations

import logging

from ..errors import (
    ChangeTooLarge,
    CheckpointError,
    CorruptRecord,
    LogLost,
    LogUnavailable,
    NoThread,
    NotJSON,
    ProgramError,
    PromotionRefused,
    ReplicatorError,
    SnapshotFailed,
    Stalled,
    StateError,
    StateInUse,
    UpgradeNeeded,
)
from ..runtime.log_once import Lasting

__all__ = ["event_of"]

_ERROR = logging.ERROR

#: Of an error and those that derive from it; the first that fits.
_EVENTS: tuple[tuple[type[ReplicatorError] | tuple[type[ReplicatorError], ...], Lasting], ...] = (
    (LogLost, Lasting("log.lost", "log.found", "the log is there again", _ERROR)),
    (CheckpointError, Lasting("disk.failed", "disk.works", "the disk is writable again", _ERROR)),
    (UpgradeNeeded, Lasting("version.unreadable", "version.readable", "the group's version can be read again", _ERROR)),
    (Stalled, Lasting("apply.stalled", "apply.resumed", "applies again", _ERROR)),
    (StateInUse, Lasting("state.in_use", "state.free", "the state is free again")),
    (StateError, Lasting("state.failed", "state.works", "the state can be read and written again", _ERROR)),
    (CorruptRecord, Lasting("record.corrupt", "record.passed", "what is in the log can be read again", _ERROR)),
    (ProgramError, Lasting("program.failed", "program.works", "it works again", _ERROR)),
    (NoThread, Lasting("threads.missing", "threads.enough", "there are enough threads again")),
    (PromotionRefused, Lasting("lead.refused", "lead.granted", "nothing is in the way of leading any more", _ERROR)),
    (
        (SnapshotFailed, NotJSON, ChangeTooLarge),
        Lasting("snapshot.failed", "snapshot.works", "a snapshot of the state can be made again", _ERROR),
    ),
)

_REFUSES = Lasting("redis.refuses", "redis.accepts", "Redis does what it is asked again", _ERROR)

_ANOTHER = Lasting("problem.found", "problem.solved", "a problem is solved", _ERROR)


def event_of(problem: ReplicatorError) -> Lasting:
    """What this problem is called in the log."""
    if isinstance(problem, LogUnavailable):
        return _REFUSES
    return next((event for kind, event in _EVENTS if isinstance(problem, kind)), _ANOTHER)
