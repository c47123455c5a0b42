"""The proxy beside a node: its server, and what the other nodes are told of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType

from ...errors import ConfigError
from ...node.environment import address_of, reachable
from ...node.node import Node
from ...runtime import checks
from ...runtime.event_log import EventLogger
from ...web.certificate import Certificate
from ..sidecar import Sidecar
from .options import ProxyOptions
from .place import Place
from .visit import Receive, Scope, Send

__all__ = ["Proxy"]

App = Callable[[Scope, Receive, Send], Awaitable[None]]

logger = EventLogger(__name__)


class Proxy:
    """Make it before the node starts, and enter it between the node and its sidecar (`with node, proxy, sidecar`).

    `redis`: where the node finds it, which tells by which address this machine is reached. Raises `ConfigError`.
    """

    def __init__(
        self, node: Node, sidecar: Sidecar, options: ProxyOptions, *, redis: str, certificate: Certificate | None = None
    ) -> None:
        try:
            from ...web.server import WebServer
            from .http import HttpProxy
            from .passing import Passing
            from .websocket import WebSocketProxy
        except ImportError as missing:
            problem = f'{missing.name} is not installed: pip install "replicator[proxy]"'
            raise ConfigError(setting="proxy", problem=problem) from None
        self._node = node
        self._place = Place(node, sidecar)
        passing = Passing(self._place, wait_s=options.wait_s, reads=options.reads)
        node.measured_beside = passing.measures.values
        apps: dict[str, App] = {
            "http": HttpProxy(self._place, passing, options),
            "websocket": WebSocketProxy(self._place, passing, options),
        }

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await apps[scope["type"]](scope, receive, send)

        host, port = address_of(options.listen, setting="proxy")
        self._server = WebServer(app, host=host, port=port, certificate=certificate, for_proxy=True)
        self._options = options
        self._redis = redis

    def listen(self) -> None:
        """Take the port, and have the node tell the others where. Raises `ConfigError`."""
        server, advertise = self._server, self._options.advertise.rstrip("/")
        server.listen()
        told = advertise or server.url
        if not advertise and checks.is_anywhere(server.host):
            told = reachable(server.host, server.port, self._redis, scheme=server.scheme)
        self._node.proxy = told

    def __enter__(self) -> Proxy:
        self._server.start()
        options = self._options
        logger.info(
            "proxy.serving", "the proxy of %s listens at %s", options.target, self._server.url, url=self._server.url
        )
        return self

    def close(self) -> None:
        """Nothing waits any more: this node is about to stop."""
        self._place.is_closing = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
        self._server.stop()
