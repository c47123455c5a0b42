"""Which URLs of nodes are believed. Heartbeats carry them, and whoever can write to Redis can write one.

A node's URL is followed: writes, tokens and whole documents are sent to it, and people click on it. So it is no more
than `http(s)://HOST:PORT` and, of an application below a path, that path: no user, query or fragment, nothing that is
escaped, nothing that a terminal or a browser reads as something else.
"""

from __future__ import annotations

import re

__all__ = ["URL_CHARACTERS_MAX", "believed"]

#: The longest name of a host has 253 characters.
URL_CHARACTERS_MAX = 512

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?"
_IPV6 = r"\[[0-9A-Fa-f:.]{2,45}(?:%25[A-Za-z0-9._-]{1,32})?\]"
_URL = re.compile(rf"https?://(?:{_NAME}|{_IPV6})(?::([0-9]{{1,5}}))?((?:/[A-Za-z0-9._~-]+)*)/?")

PORT_MAX = 65535


def believed(url: str) -> str:
    """The URL; or an empty text, as of a node that serves no HTTP, if it is not that of a node."""
    found = _URL.fullmatch(url) if len(url) <= URL_CHARACTERS_MAX else None
    if found is None or (found[1] is not None and not 0 < int(found[1]) <= PORT_MAX):
        return ""
    return url if {".", ".."}.isdisjoint(found[2].split("/")) else ""
