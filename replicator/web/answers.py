"""What a node answers: JSON, and for an error always `{"error": code, "field": name or null, "message": what to do}`.

Handlers only raise: a `Refusal`, or an error of this package, which comes to an answer by the table `ANSWERS`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..errors import (
    ChangeRejected,
    ChangeTooLarge,
    ConfigError,
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
from .thread_pools import Full

__all__ = ["ANSWERS", "Answers", "Refusal", "answer_to", "error_answer", "json_answer", "no_route"]

log = logging.getLogger(__name__)

#: A client that comes back sooner finds the same: renewals and promotions take about this long.
RETRY_AFTER_S = 1

Answers = Mapping[type[BaseException], tuple[int, str]]


class Refusal(Exception):
    """A request that HTTP itself is enough to refuse."""

    def __init__(self, status: int, code: str, message: str, *, field: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        #: Further members of the answer.
        self.more = more


#: Error -> status and code; the entry of the nearest base class counts. An application adds the errors of its own.
#: NotPrimary and Fenced are redirected where that can be (`redirect.py`).
ANSWERS: Answers = {
    Full: (503, "busy"),
    ChangeRejected: (422, "rejected"),
    KeyReused: (422, "key_reused"),
    ResultNotKept: (409, "result_not_kept"),
    ChangeTooLarge: (413, "change_too_large"),
    NotJSON: (422, "not_json"),
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
    ConfigError: (400, "invalid_header"),
    Stalled: (500, "stalled"),
    SnapshotFailed: (500, "snapshot_failed"),
    WrongProcess: (500, "wrong_process"),
    ReplicatorError: (500, "failed"),
}


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def error_answer(
    status: int,
    code: str,
    message: str,
    field: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    retry = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return json_answer(
        {"error": code, "field": field, "message": message, **more}, status, {**retry, **(headers or {})}
    )


def answer_to(error: Exception, request: Request, answers: Answers = ANSWERS) -> Response:
    """The answer that an exception comes to."""
    if isinstance(error, Refusal):
        return error_answer(error.status, error.code, str(error), error.field, **error.more)
    for kind in type(error).__mro__:
        if kind in answers:
            status, code = answers[kind]
            if kind is ReplicatorError:
                log.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
            return error_answer(status, code, str(error), getattr(error, "field", None))
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_answer(500, "internal", "something went wrong in this node; its log has the details")


async def no_route(request: Request, error: Exception) -> Response:
    """What the router refuses: unknown routes and wrong methods."""
    assert isinstance(error, HTTPException)
    known = {404: ("unknown_route", "there is nothing at this path"), 405: ("wrong_method", "not with this method")}
    code, message = known.get(error.status_code, ("refused", str(error.detail)))
    return error_answer(error.status_code, code, message, headers=error.headers)
