"""What an error comes to over HTTP: a status, a code, and a body, whatever server and framework there is.

`failure_of` says what is answered, by the table `ANSWERS`, or by what an error of the application says of itself
(`status`, `code`); a renderer says how it is written down. `problem` gives problem details (RFC 9457), `plain` the
errors of the registry's own API.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from dataclasses import field as a_field
from typing import Any, NamedTuple

import orjson

from ..errors import ConfigError, ReplicatorError
from ..runtime.event_log import EventLogger
from .error_codes import BUSY, ERROR_CODES, INVALID_HEADER, Answers

__all__ = [
    "ALL_ANSWERS",
    "ANSWERS",
    "Answer",
    "Answers",
    "Failure",
    "Full",
    "Refusal",
    "Renderer",
    "answer_of",
    "failure_of",
    "half_done",
    "plain",
    "problem",
]

log = EventLogger(__name__)

#: A client that comes back sooner finds the same: renewals and promotions take about this long.
RETRY_AFTER_S = 1


class Refusal(Exception):
    """A request that HTTP itself is enough to refuse."""

    def __init__(self, status: int, code: str, message: str, *, field: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        #: Further members of the answer.
        self.more = more


class Full(Exception):
    """There are as many requests of this kind under way as this node takes, or as many bytes of them."""

    def __init__(self, what: str, places: int, unit: str = "") -> None:
        super().__init__(
            f"{places}{unit} {what} are under way on this node, and it takes no more at once; try again soon"
        )


#: Those of every application, which adds the errors of its own.
ANSWERS: Answers = {Full: (503, BUSY), **ERROR_CODES}

#: For an application that is all ours: what it is given wrongly came with the request, and whatever it does not expect
#: is answered as well.
ALL_ANSWERS: Answers = {**ANSWERS, ConfigError: (400, INVALID_HEADER), Exception: (500, "internal")}

#: These say that something is wrong here: the log of this process is to have it.
LOGGED = (ReplicatorError, Exception)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An error as it is answered. `field`: what of the request is at fault. `more`: further members of the body."""

    status: int
    code: str
    message: str
    field: str | None = None
    location: str | None = None
    more: Mapping[str, Any] = a_field(default_factory=dict)

    @property
    def headers(self) -> list[tuple[str, str]]:
        retry = [("Retry-After", str(RETRY_AFTER_S))] if self.status == 503 else []
        return [*retry, *([("Location", self.location)] if self.location else [])]


class Answer(NamedTuple):
    """All of an answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes


#: Gives the media type and the body.
Renderer = Callable[[Failure], tuple[str, bytes]]


def failure_of(error: Exception, answers: Answers = ANSWERS, *, request: str = "a request") -> Failure | None:
    """What an exception comes to; None: it is none of these. `request`: what failed, for the log."""
    if isinstance(error, Refusal):
        return Failure(status=error.status, code=error.code, message=str(error), field=error.field, more=error.more)
    kind = next((kind for kind in type(error).__mro__ if kind in answers), None)
    if kind is None:
        return None
    status, code = answers[kind]
    if isinstance(error, ReplicatorError) and _says_itself(type(error), kind):
        status, code = error.status, error.code
    elif kind in LOGGED:
        log.error("http.failed", "%s failed: %s", request, error, exc_info=error)
    message = str(error) if kind is not Exception else "something went wrong in this node; its log has the details"
    return Failure(status=status, code=code, message=message, field=getattr(error, "field", None))


def _says_itself(kind: type[BaseException], known: type[BaseException]) -> bool:
    """Whether a class of this kind has a status or a code that the one in the table has not."""
    nearer = kind.__mro__[: kind.__mro__.index(known)]
    return any(name in vars(each) for each in nearer for name in ("status", "code"))


def half_done(error: Exception) -> Failure:
    """What an error comes to that says that nothing was written, in a request that had written something before."""
    message = f"{error}; but the request had written something before: read before you repeat it"
    return Failure(status=504, code="outcome_unknown", message=message)


def plain(failure: Failure) -> tuple[str, bytes]:
    """`{"error": code, "field": name or null, "message": what to do}`, and what else helps."""
    location = {"location": failure.location} if failure.location else {}
    body = {"error": failure.code, "field": failure.field, "message": failure.message, **location, **failure.more}
    return "application/json", orjson.dumps(body)


def problem(failure: Failure) -> tuple[str, bytes]:
    """Problem details (RFC 9457), with the code in `error`; `field`, and what else helps, where there is such."""
    body: dict[str, Any] = {
        "type": f"urn:replicator:error:{failure.code}",
        "title": failure.code.replace("_", " ").capitalize(),
        "status": failure.status,
        "detail": failure.message,
        "error": failure.code,
    }
    if failure.field is not None:
        body["field"] = failure.field
    if failure.location is not None:
        body["location"] = failure.location
    return "application/problem+json", orjson.dumps({**body, **failure.more})


def answer_of(failure: Failure, render: Renderer) -> Answer:
    media_type, body = render(failure)
    headers = [("Content-Type", media_type), ("Content-Length", str(len(body))), *failure.headers]
    return Answer(failure.status, headers, body)
