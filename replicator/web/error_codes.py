"""What an error of this package is over HTTP: its status and its code.

Both sides use the table: `failures.py` makes answers of errors, and `replicator.client` makes errors of answers. So no
web framework is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import (
    ChangeRejected,
    ChangeTooLarge,
    CheckFailed,
    CorruptRecord,
    Fenced,
    KeyReused,
    LeaseLost,
    LogLost,
    LogUnavailable,
    NotAcknowledged,
    NotJSON,
    NotPrimary,
    NotRunning,
    OutcomeUnknown,
    Outdated,
    PositionLost,
    ReplicatorError,
    ResultNotKept,
    SnapshotFailed,
    Stalled,
    WrongProcess,
)

__all__ = ["BUSY", "ERROR_CODES", "INVALID_HEADER", "PRIMARY_UNREACHABLE", "WAIT_TIMEOUT", "Answers"]

Answers = Mapping[type[BaseException], tuple[int, str]]

#: Codes that are no error of this package: there was no place for the request, the primary took no connection from the
#: node that was to forward it, and the position did not come in time.
BUSY = "busy"
PRIMARY_UNREACHABLE = "primary_unreachable"
WAIT_TIMEOUT = "wait_timeout"

#: What came with the request is wrong.
INVALID_HEADER = "invalid_header"

#: Error -> status and code; the entry of the nearest base class counts. An application adds the errors of its own.
#: NotPrimary and Fenced are redirected where that can be (`redirect.py`).
ERROR_CODES: Answers = {
    ChangeRejected: (422, "rejected"),
    KeyReused: (422, "key_reused"),
    ResultNotKept: (409, "result_not_kept"),
    ChangeTooLarge: (413, "change_too_large"),
    NotJSON: (422, "not_json"),
    CheckFailed: (500, "check_failed"),
    LeaseLost: (503, "lease_lost"),
    NotRunning: (503, "not_running"),
    NotPrimary: (503, "not_primary"),
    Fenced: (409, "fenced"),
    Outdated: (412, "outdated"),
    OutcomeUnknown: (504, "outcome_unknown"),
    NotAcknowledged: (504, "not_acknowledged"),
    LogUnavailable: (503, "log_unavailable"),
    LogLost: (503, "log_lost"),
    CorruptRecord: (503, "corrupt_record"),
    PositionLost: (409, "position_lost"),
    Stalled: (500, "stalled"),
    SnapshotFailed: (500, "snapshot_failed"),
    WrongProcess: (500, "wrong_process"),
    ReplicatorError: (500, "failed"),
}
