"""The head of a request, as far as the middleware looks at it: the same from ASGI and from WSGI."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote

__all__ = ["FORWARDED", "POSITION", "Head", "escaped"]

POSITION = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")

#: Of a request that another node sent on: its name. Nobody sends it on once more.
FORWARDED = "replicator-forwarded"

#: What a path or a query may have in it as it is; what is escaped already stays so.
ASCII_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def escaped(text: bytes) -> str:
    """A path or a query as a URL has it: some servers pass on bytes that are not ASCII."""
    return quote(text, safe=ASCII_PRINTABLE)


class Head(NamedTuple):
    """`path` is decoded. `raw_path` and `query` are bytes of the URL; without a `raw_path` it is made of the path."""

    method: str
    path: str
    raw_path: bytes
    query: bytes
    #: `Replicator-Wait`.
    wait: str | None
    #: The `Cookie` headers, joined.
    cookies: str
    #: Whether another node sent it on.
    is_forwarded: bool

    @property
    def target(self) -> str:
        """Path and query, as they go into a URL."""
        path = escaped(self.raw_path) if self.raw_path else quote(self.path)
        return path + (f"?{escaped(self.query)}" if self.query else "")

    def __str__(self) -> str:
        return f"{self.method} {self.path}"
