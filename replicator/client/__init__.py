"""Clients of a service that replicator keeps: `Client` for threads, `AsyncClient` for asyncio. Extra: `client`.

They send HTTP to any application whose answers have the `Replicator-...` headers (docs/http.md, docs/client.md).
"""

from __future__ import annotations

try:
    import httpx  # noqa: F401
except ImportError as error:
    problem = "replicator.client needs httpx, which the extra `client` brings: pip install 'replicator[client]'"
    raise ImportError(problem, name="httpx") from error

from .answers import raise_for_error
from .async_client import AsyncClient
from .client import Client

__all__ = ["AsyncClient", "Client", "raise_for_error"]
