"""An answer of a node as its client sees it, and the error of this package that its code stands for.

The table is that of the server (`web/error_codes.py`), read the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import orjson

from ..errors import ChangeRejected, ConfigError, Fenced, NotAllowed, NotPrimary, PositionLost, ReplicatorError
from ..format.ids import RecordId
from ..web.error_codes import ERROR_CODES, INVALID_HEADER, OF_THE_TOKEN

__all__ = ["Answer", "HTTPAnswer", "base_of", "error_of", "raise_for_error", "read_answer"]

#: Code -> the error that it stands for.
KINDS: Mapping[str, type[ReplicatorError]] = {
    INVALID_HEADER: ConfigError,
    **dict.fromkeys(OF_THE_TOKEN, NotAllowed),
    **{code: kind for kind, (_, code) in ERROR_CODES.items() if issubclass(kind, ReplicatorError)},
}

#: Attributes that errors promise; an answer may have them among its members.
PROMISED: Mapping[type[ReplicatorError], tuple[str, ...]] = {
    NotPrimary: ("primary",),
    Fenced: ("term", "current_term", "primary"),
    PositionLost: ("position", "term_end"),
    ChangeRejected: ("field",),
}

#: An error is a few hundred bytes. A larger body is something of the application's.
ERROR_BYTES_MAX = 64 * 1024


class HTTPAnswer(Protocol):
    """An `httpx.Response` that was read."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What of an answer decides. `code`: of an error, if it has one. `role`: empty: no node of ours sent it."""

    status: int
    code: str = ""
    message: str = ""
    role: str = ""
    position: RecordId | None = None
    location: str = ""
    retry_after_s: float = 0.0
    members: Mapping[str, Any]

    @property
    def kind(self) -> type[ReplicatorError] | None:
        """The error that its code stands for. None: none of ours."""
        return KINDS.get(self.code)


def read_answer(answer: HTTPAnswer) -> Answer:
    headers, members = answer.headers, _members(answer)
    return Answer(
        status=answer.status_code,
        code=_text(members.get("error")),
        message=_text(members.get("message")) or _text(members.get("detail")),
        role=headers.get("replicator-role", ""),
        position=_position(headers.get("replicator-position", "")),
        location=headers.get("location", ""),
        retry_after_s=_seconds(headers.get("retry-after", "")),
        members=members,
    )


def error_of(answer: Answer) -> ReplicatorError | None:
    """The error that an answer stands for, with the message of the node; None: none of this package.

    `error.fields` are the members of the answer.
    """
    kind = answer.kind
    if kind is None:
        return None
    # Their constructors make a message. This one has its message already.
    error = kind.__new__(kind)
    ReplicatorError.__init__(error, answer.message or f"the node answers {answer.status}, {answer.code}")
    error.fields = dict(answer.members)
    for owner, names in PROMISED.items():
        if isinstance(error, owner):
            vars(error).update({name: answer.members.get(name) for name in names})
    return error


def raise_for_error(answer: HTTPAnswer) -> None:
    """Raise what an answer stands for, if that is an error of this package: `ChangeRejected` for 422 `rejected`, say.

    For answers that `request` gives back because they are about the request, and not about the service.
    """
    error = error_of(read_answer(answer)) if answer.status_code >= 400 else None
    if error is not None:
        raise error


def base_of(location: str, path: str) -> str:
    """The node that a redirect leads to: `http://h:1/x/v1/nodes?y=1` of `/v1/nodes` -> `http://h:1/x`.

    Empty for what is no URL with a host.
    """
    try:
        parts = urlsplit(location)
        has_host = bool(parts.scheme in ("http", "https") and parts.hostname)
    except ValueError:
        return ""
    before = parts.path.removesuffix(path.partition("?")[0])
    return f"{parts.scheme}://{parts.netloc}{'' if before == parts.path else before}" if has_host else ""


def _members(answer: HTTPAnswer) -> Mapping[str, Any]:
    is_json = "json" in answer.headers.get("content-type", "")
    if answer.status_code < 300 or not is_json or len(answer.content) > ERROR_BYTES_MAX:
        return {}
    try:
        members = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        return {}
    return members if isinstance(members, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _position(text: str) -> RecordId | None:
    try:
        return RecordId.parse(text)
    except ReplicatorError:
        return None


def _seconds(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0.0
