"""Serves the page of a group that is somewhere else: all it needs is its Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.applications import Starlette

from ..errors import ConfigError
from ..log.redis_log import RedisLog
from ..node.environment import address_of
from ..runtime import checks
from ..storage.keyring import sealing_of
from ..web.guard.app import Guarded
from ..web.guard.hosts import Hosts
from ..web.guard.rules import Rules
from ..web.guard.token_file import Tokens
from ..web.server import WebServer
from .actions import Actions
from .app import ui_routes
from .feed import Feed

__all__ = ["serving"]


@contextmanager
def serving(
    redis: str, group: str, *, http: str, by: str, token: str, may_act: bool, key_file: Path | None = None
) -> Iterator[str]:
    """Serve it to who has the `token`, and give its URL. `by`: who acts, for the history. `key_file`: the keys of the
    group, if it has some.
    """
    host, port = _loopback(http)

    def log() -> RedisLog:
        return RedisLog(redis, group, sealing=sealing_of(key_file, group))

    feed = Feed(log, told_by="replicator ui", may_act=may_act)
    actions = Actions(log, by=by) if may_act else None
    rules = Rules(Hosts(host), Tokens([("admin" if may_act else "read", token)]))
    server = WebServer(Guarded(Starlette(routes=ui_routes(feed, actions)), rules), host=host, port=port)
    try:
        server.start()
        yield server.url
    finally:
        feed.close()
        server.stop()


def _loopback(http: str) -> tuple[str, int]:
    host, port = address_of(http, setting="http")
    if not checks.is_loopback(host):
        problem = f"{host} is no loopback address, and the page can promote nodes; elsewhere, use ssh -L"
        raise ConfigError(setting="http", problem=problem)
    return host, port
