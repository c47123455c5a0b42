"""Where a write belongs: the same path and query on the primary, for a redirect (307) or to be forwarded.

A node that calls itself primary never redirects, so redirects cannot go round in circles. The client chooses the path
and never the host: what is not plainly a path below the primary's URL is refused, because whatever followed that URL
without a slash would be read as a part of its host (`http://b:7002` and `@elsewhere/`).
"""

from __future__ import annotations

from typing import Any

from ..errors import Fenced, LeaseLost, NotPrimary
from .failures import Failure, Refusal
from .head import Head
from .served_node import ServedNode

__all__ = ["on_the_primary", "redirect_of", "redirect_to"]


def redirect_of(error: Exception, node: ServedNode[Any], head: Head) -> Failure | None:
    """307 to the primary, if the error is that this node is not the primary, and another one is known to be."""
    elsewhere = isinstance(error, NotPrimary | Fenced) and not isinstance(error, LeaseLost)
    if not elsewhere or not (location := on_the_primary(node, head)):
        return None
    return redirect_to(location, str(error))


def redirect_to(location: str, message: str) -> Failure:
    return Failure(status=307, code="not_primary", message=message, location=location)


def on_the_primary(node: ServedNode[Any], head: Head) -> str | None:
    """The request's own URL on the primary. None if nobody knows it, or if this node takes itself for the primary.

    Raises `Refusal` (400) if the request has no path that can be appended to a URL.
    """
    base = node.primary_http
    if base is None or node.role == "primary":
        return None
    if not head.has_plain_path:
        message = "the target of a request to a standby must be a path that begins with / and has no . or .. in it"
        raise Refusal(400, "invalid_target", message)
    return base.rstrip("/") + head.target
