"""The header `Idempotency-Key`, for routes of one's own: what a client sends with a write that it may send again.

    node.submit(change, key=idempotency_key(request.headers))

It is a string as RFC 8941 writes it down, in double quotes, as everywhere in this package; the quotes are no part of
the key. What is said wrongly raises `InvalidHeader`, which the middleware answers with 400 and says what to send. It
needs no framework: whatever has the headers of a request will do.

In a request that the middleware serves, the key goes by what was sent, as the IETF's draft suggests: a repeat is of the
same method, path, query and body (`content.py`). So the change may have in it what is new with each attempt.
"""

from __future__ import annotations

import re
from typing import Literal, Protocol, overload

from ..errors import InvalidHeader
from ..format.keyed import Key, is_key
from .middleware import CURRENT, Visit

__all__ = ["Headers", "idempotency_key"]

HEADER = "Idempotency-Key"

#: A string of RFC 8941: printable ASCII, in which a backslash comes before a quote and before itself.
KEY = re.compile(r'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')

HOW = 'must be a string in double quotes, of 1 to 256 characters, like "8e03978e-40d5-43e8"'


class Headers(Protocol):
    """Headers of Starlette, FastAPI, Flask, Quart, Django: a mapping that does not mind capitals."""

    def get(self, name: str, /) -> str | None: ...


@overload
def idempotency_key(headers: Headers | str | None, *, part: str = "", required: Literal[True]) -> str: ...
@overload
def idempotency_key(
    headers: Headers | str | None, *, content: bytes | bytearray, part: str = "", required: Literal[True]
) -> Key: ...
@overload
def idempotency_key(
    headers: Headers | str | None, *, content: bytes | bytearray, part: str = "", required: bool = False
) -> Key | None: ...
@overload
def idempotency_key(headers: Headers | str | None, *, part: str = "", required: bool = False) -> str | None: ...
def idempotency_key(
    headers: Headers | str | None, *, content: bytes | bytearray | None = None, part: str = "", required: bool = False
) -> str | None:
    """The key of a request, 1 to 256 characters; None: it has none.

    `headers`: of the request, or the text of this header if the framework has found it already. `required`: a request
    without one is refused. `part`: of a request that makes several changes, which one this is for: it is added to the
    key. `content`: bytes that a repeat has to have in common with the first attempt; gives a `Key`. Without, that is
    method, path, query and body of the request that the middleware (`Replicated`) has under way here; of a body as far
    as the application has read it, if that is to its end. Where there is none, the key goes by its change.
    Raises `InvalidHeader`.
    """
    texts = _sent(headers)
    if not texts:
        if required:
            raise InvalidHeader(HEADER, f"is missing: this write takes one. It {HOW}")
        return None
    found = KEY.fullmatch(texts[0].strip(" \t")) if len(texts) == 1 else None
    key = re.sub(r"\\(.)", r"\1", found[1]) if found is not None else ""
    if not is_key(key):
        raise InvalidHeader(HEADER, HOW)
    if part:
        key = _with_part(key, part)
    if content is not None:
        return Key(key, content=content)
    visit = CURRENT.get()
    return visit.content.key(key) if isinstance(visit, Visit) and visit.content is not None else key


def _with_part(key: str, part: str) -> str:
    key = f"{key}/{part}"
    if not is_key(key):
        raise InvalidHeader(HEADER, f"is too long here: {HOW}, less the {len(part) + 1} that are added to it")
    return key


def _sent(headers: Headers | str | None) -> list[str]:
    """Each time that it was sent."""
    if headers is None or isinstance(headers, str):
        return [] if headers is None else [headers]
    if (several := getattr(headers, "getlist", None)) is not None:
        return list(several(HEADER))
    if type(headers) is dict:
        return [text for name, text in headers.items() if name.lower() == HEADER.lower()]
    text = headers.get(HEADER)
    return [] if text is None else [text]
