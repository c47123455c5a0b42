"""The redirect of a write to the primary: 307, with the same path, query and body.

A node that calls itself primary never redirects, so redirects cannot go round in circles.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from ..errors import Fenced, LeaseLost, NotPrimary
from .answers import error_answer
from .served_node import ServedNode

__all__ = ["on_the_primary", "redirect_to_the_primary"]

#: What a query may have in it as it is; what is escaped already stays so.
ASCII_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def redirect_to_the_primary(error: Exception, node: ServedNode[Any], request: Request) -> Response | None:
    """307 to the primary, if the error is that this node is not the primary, and another one is known to be."""
    elsewhere = isinstance(error, NotPrimary | Fenced) and not isinstance(error, LeaseLost)
    if not elsewhere or not (location := on_the_primary(node, request)):
        return None
    headers = {"Location": location}
    return error_answer(307, "not_primary", str(error), headers=headers, location=location)


def on_the_primary(node: ServedNode[Any], request: Request) -> str | None:
    """The request's own URL on the primary. None if nobody knows it, or if this node takes itself for the primary."""
    base = node.primary_http
    if base is None or node.role == "primary":
        return None
    raw_path: bytes | None = request.scope.get("raw_path")
    path = quote(raw_path, safe=ASCII_PRINTABLE) if raw_path else quote(request.scope["path"])
    # Some servers pass on bytes that are not ASCII. In a URL they are escaped.
    query = quote(request.scope["query_string"], safe=ASCII_PRINTABLE)
    return base.rstrip("/") + path + (f"?{query}" if query else "")
