"""What a repeat of a request has to have in common with the first attempt: method, path, query and body.

Nothing of a body is held: it is hashed (xxh3-128) as it passes to the application. One that the application has not
read to its end when it asks for the key does not count, since nothing that it does can follow from it yet; how much of
it has come would be chance.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import orjson
import xxhash

from ..format.keyed import RequestKey
from .head import QUERY_SAFE, Head

__all__ = ["Content", "Heard"]


class Content:
    """That of one request. Its parts come in order, from whichever thread reads them."""

    def __init__(self, head: Head) -> None:
        # As it is sent on: what is escaped on the way to another node is the same.
        target = (head.method, head.path, quote(head.query, safe=QUERY_SAFE))
        self._head = orjson.dumps(target)
        self._hash = xxhash.xxh3_128(self._head)
        self._has_ended = False
        self._keys: dict[str, RequestKey] = {}

    def takes(self, part: bytes, *, is_last: bool) -> None:
        """The application has read so much more of the body."""
        if not self._has_ended:
            self._hash.update(part)
            self._has_ended = is_last

    def key(self, text: str) -> RequestKey:
        """The key of that text: the same object each time, which knows the change that it was given to."""
        if text not in self._keys:
            self._keys[text] = RequestKey(text, fingerprint=self._fingerprint())
        return self._keys[text]

    def _fingerprint(self) -> str:
        return self._hash.hexdigest() if self._has_ended else xxhash.xxh3_128_hexdigest(self._head)


class Heard:
    """The `wsgi.input` of a request, which notes what is read. `length`: of the body in bytes, if that is known.

    It has the four methods that WSGI asks for and no other: what a server has besides would pass by unnoted.
    """

    def __init__(self, source: Any, content: Content, length: int | None) -> None:
        self._source = source
        self._content = content
        self._left = length

    def read(self, size: int = -1, /) -> bytes:
        part: bytes = self._source.read(size)
        return self._noted(part, at_end=size is None or size < 0 or (size > 0 and not part))

    def readline(self, size: int = -1, /) -> bytes:
        part: bytes = self._source.readline(size)
        return self._noted(part, at_end=size != 0 and not part)

    def readlines(self, hint: int = -1, /) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _noted(self, part: bytes, *, at_end: bool) -> bytes:
        if self._left is not None:
            self._left -= len(part)
            at_end = at_end or self._left <= 0
        self._content.takes(part, is_last=at_end)
        return part
