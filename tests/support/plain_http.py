"""httpx without TLS: otherwise each call, and each client, reads all certificates of the machine, which is half a tenth
of a second of processor, and far more than the rest of what it does. And with the time that a busy machine needs."""

from __future__ import annotations

from functools import partial

import httpx

from tests.support.kv import PATIENCE_S

__all__ = ["Client", "get", "post", "request"]

Client = partial(httpx.Client, verify=False, timeout=PATIENCE_S)
get = partial(httpx.get, verify=False, timeout=PATIENCE_S)
post = partial(httpx.post, verify=False, timeout=PATIENCE_S)
request = partial(httpx.request, verify=False, timeout=PATIENCE_S)
