"""What the registry's API answers: JSON, and for an error `{"error": code, "field": name or null, "message": ...}`.

Handlers only raise: a `Refusal`, or an error of this package, which comes to an answer by a table (`failures.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from .failures import ALL_ANSWERS, Answers, Failure, Refusal, plain

__all__ = ["ANSWERS", "Answers", "Refusal", "error_answer", "json_answer", "no_route"]

#: What errors come to here; an application adds those of its own.
ANSWERS = ALL_ANSWERS


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def error_answer(status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> Response:
    failure = Failure(status=status, code=code, message=message)
    media_type, body = plain(failure)
    return Response(body, status, {**dict(failure.headers), **(headers or {})}, media_type)


async def no_route(request: Request, error: Exception) -> Response:
    """What the router refuses: unknown routes and wrong methods."""
    assert isinstance(error, HTTPException)
    known = {404: ("unknown_route", "there is nothing at this path"), 405: ("wrong_method", "not with this method")}
    code, message = known.get(error.status_code, ("refused", str(error.detail)))
    return error_answer(error.status_code, code, message, headers=error.headers)
