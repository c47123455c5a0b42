"""How a node listens: to whom, by which tokens, under which names, with which certificate."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import ASGIApp

from ..errors import ConfigError
from ..runtime import checks
from ..runtime.event_log import EventLogger
from ..web.certificate import Certificate
from ..web.guard.app import Guarded
from ..web.guard.hosts import Hosts
from ..web.guard.rules import Rules
from ..web.guard.token_file import TokenFile
from .access import Access

__all__ = ["certificate_of", "guarded", "listens_safely"]

logger = EventLogger(__name__)


def listens_safely(host: str, access: Access) -> None:
    """Raises `ConfigError` if others could reach this port, and everything were theirs."""
    if checks.is_loopback(host) or access.tokens is not None:
        return
    if not access.insecure:
        problem = (
            f"{host} is beyond loopback, and whoever reaches it could read and write everything: give --http-tokens "
            "FILE (docs/http-security.md), or --insecure if everybody who can reach it may"
        )
        raise ConfigError(setting="http", problem=problem)
    logger.warning("http.insecure", "whoever reaches %s may read and write everything: it is --insecure", host)


def certificate_of(access: Access) -> Certificate | None:
    """Raises `ConfigError`."""
    if access.cert is None and access.key is None:
        return None
    if access.cert is None or access.key is None:
        missing = "http-cert" if access.cert is None else "http-key"
        raise ConfigError(setting=missing, problem="a certificate and its key are given together")
    return Certificate(access.cert, access.key)


def guarded(
    app: ASGIApp, *, host: str, advertised: str, access: Access, elsewhere: Callable[[], str] | None = None
) -> ASGIApp:
    """The application, for those who may. `host`: where it listens; `elsewhere`: for `Rules`. Raises `ConfigError`."""
    tokens = None if access.tokens is None else TokenFile(access.tokens)
    if tokens is not None and access.cert is None and not checks.is_loopback(host):
        logger.warning(
            "http.tokens_in_clear",
            "tokens come to %s in the clear: give --http-cert and --http-key, or have TLS end before it, close by",
            host,
        )
    return Guarded(app, Rules(Hosts(host, advertised=advertised, more=access.hosts), tokens, elsewhere=elsewhere))
