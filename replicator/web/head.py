"""The head of a request, as far as the middleware looks at it: the same from ASGI and from WSGI."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

__all__ = ["FORWARDED", "NONCE", "POSITION", "Head", "below", "raw_below"]

POSITION = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")

#: Of a request that another node sent on: its name. Nobody sends it on once more.
FORWARDED = "replicator-forwarded"

#: Of a request by which somebody finds out whose URL this is (`node/url_proof.py`).
NONCE = "replicator-nonce"

#: What a query may have in it as it is, and a path; what is escaped already stays so. A # would end them, in what is
#: sent on, and a ? the path.
QUERY_SAFE = "".join(map(chr, range(0x21, 0x7F))).replace("#", "")
PATH_SAFE = QUERY_SAFE.replace("?", "")

#: Whoever follows a URL takes these out of its path, and is somewhere else then.
DOT_SEGMENTS = frozenset((".", ".."))


def below(root: str, path: str) -> str:
    """The path within an application that is at `root`. Some servers give it with the root, some without."""
    root = root.rstrip("/")
    return path[len(root) :] if path == root or path.startswith(f"{root}/") else path


def raw_below(root: str, raw_path: bytes) -> bytes:
    """The same for one as it was sent: the root is in it as it is, or escaped."""
    path = raw_path.decode("latin-1")
    cut = below(root, path)
    return (cut if cut != path else below(quote(root), path)).encode("latin-1")


class Head(NamedTuple):
    """`path` is decoded. `raw_path` and `query` are bytes of the URL; without a `raw_path` it is made of the path.

    Both paths are those within the application: what it is mounted at (the root path) is not in them.
    """

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
    #: `Replicator-Nonce`.
    nonce: str | None = None
    #: The `Authorization` headers. They are secrets.
    authorization: tuple[str, ...] = ()

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
