"""Asks a server over HTTP: this very one.

Not through a proxy of the environment (`http_proxy`): one for the way out of a site is none for the way to a node or to
the program beside it, and would be shown the tokens that are for a node.
"""

from __future__ import annotations

import ssl
import urllib.request
from typing import Any

__all__ = ["ask"]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Nowhere: the redirect is the answer, as an `HTTPError`."""


def ask(
    request: urllib.request.Request | str, *, timeout_s: float, context: ssl.SSLContext | None = None, follow: bool
) -> Any:
    """The answer, as of `urllib.request.urlopen`, which raises the same.

    `context`: for TLS; None: what the machine trusts. `follow`: where a redirect leads.
    """
    handlers: list[Any] = [urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)]
    if not follow:
        handlers.append(_NoRedirect())
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout_s)
