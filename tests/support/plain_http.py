"""httpx without TLS: otherwise each call, and each client, reads all certificates of the machine, which is half a tenth
of a second of processor, and far more than the rest of what it does."""

from __future__ import annotations

from functools import partial

import httpx

__all__ = ["Client", "get", "post", "request"]

Client = partial(httpx.Client, verify=False)
get = partial(httpx.get, verify=False)
post = partial(httpx.post, verify=False)
request = partial(httpx.request, verify=False)
