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

__all__ = [
    "BUSY",
    "ERROR_CODES",
    "INVALID_HEADER",
    "OF_THE_TOKEN",
    "PRIMARY_UNNAMED",
    "PRIMARY_UNREACHABLE",
    "WAIT_TIMEOUT",
    "Answers",
]

Answers = Mapping[type[BaseException], tuple[int, str]]

#: Codes that are no error of this package: there was no place for the request, the primary took no connection from the
#: node that was to forward it, that node is not to show it to the primary, and the position did not come in time.
BUSY = "busy"
PRIMARY_UNREACHABLE = "primary_unreachable"
PRIMARY_UNNAMED = "primary_unnamed"
WAIT_TIMEOUT = "wait_timeout"

#: A token is missing, is nobody's, or has not the right that is needed.
OF_THE_TOKEN = ("no_token", "wrong_token", "right_missing")

#: What came with the request is wrong.
INVALID_HEADER = "invalid_header"

#: Error -> status and code, as the classes have them; the entry of the nearest base class counts. An application adds
#: the errors of its own. NotPrimary and Fenced are redirected where that can be (`redirect.py`).
ERROR_CODES: Answers = {
    kind: (kind.status, kind.code)
    for kind in (
        ChangeRejected,
        KeyReused,
        ResultNotKept,
        ChangeTooLarge,
        NotJSON,
        CheckFailed,
        LeaseLost,
        NotRunning,
        NotPrimary,
        Fenced,
        Outdated,
        OutcomeUnknown,
        NotAcknowledged,
        LogUnavailable,
        LogLost,
        CorruptRecord,
        PositionLost,
        Stalled,
        SnapshotFailed,
        WrongProcess,
        ReplicatorError,
    )
}
