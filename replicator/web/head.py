"""The head of a request, as far as the middleware looks at it: the same from ASGI and from WSGI."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

__all__ = ["FORWARDED", "POSITION", "Head"]

POSITION = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")

#: Of a request that another node sent on: its name. Nobody sends it on once more.
FORWARDED = "replicator-forwarded"

#: What a query may have in it as it is, and a path; what is escaped already stays so. A # would end them, in what is
#: sent on, and a ? the path.
QUERY_SAFE = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")
PATH_SAFE = QUERY_SAFE.replace("?", "")

#: Whoever follows a URL takes these out of its path, and is somewhere else then.
DOT_SEGMENTS = frozenset((".", ".."))


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
        path = quote(self.raw_path, safe=PATH_SAFE) if self.raw_path else quote(self.path)
        return path + (f"?{quote(self.query, safe=QUERY_SAFE)}" if self.query else "")

    @property
    def has_plain_path(self) -> bool:
        """Whether it is one that stays below whatever URL it is appended to."""
        path = self.raw_path.decode("latin-1") or self.path
        segments = unquote(path).replace("\\", "/").split("/")
        return path[:1] in ("", "/") and DOT_SEGMENTS.isdisjoint(segments)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"
