"""What the page is made of: its files, and a look as an event that a browser understands.

- Nothing comes from elsewhere, and nothing is framed (`POLICY`).
- No payloads, passwords or tokens are in what is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import orjson

from ..runtime import checks
from .picture import Picture

__all__ = ["BEGINS", "FILES", "POLICY", "event", "read_file"]

POLICY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

FILES: Mapping[str, tuple[str, str]] = {
    "": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
}

#: A browser that lost its connection tries again after so long.
AGAIN_MS = 1000

#: What an answer of events begins with.
BEGINS = b"retry: %d\n\n" % AGAIN_MS


def read_file(name: str) -> bytes:
    return resources.files(__package__).joinpath("static", name).read_bytes()


def event(picture: Picture) -> bytes:
    """A picture as an event of server-sent events."""
    return b"data: " + orjson.dumps(_plain(orjson.loads(orjson.dumps(picture)))) + b"\n\n"


def _plain(value: Any) -> Any:
    """The same, and no text in it controls how it is shown: others wrote them (docs/trust.md)."""
    if isinstance(value, str):
        return checks.plain(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value
