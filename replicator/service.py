"""The registry as a service: a node with a `Registry` in it, its HTTP API, and the signals that end both.

What `replicator node` and `workers/node.py` run. An application of your own has a few lines like these.
"""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path

from .errors import ConfigError
from .node import Node
from .state.registry import Registry

__all__ = ["serve"]

logger = logging.getLogger(__name__)

#: How often a node that failed for good is noticed.
LOOK_EVERY_S = 0.2

#: Looked at here, because a node that has joined its group should not end for that.
PORT_MAX = 65535


def serve(
    *,
    name: str,
    group: str,
    redis: str,
    data_dir: Path,
    http: str,
    advertise: str = "",
    lease_s: float,
    auto_promote: bool = False,
    ack: str = "appended",
    on_restart: str,
    on_log_lost: str,
) -> None:
    """Run until SIGTERM or SIGINT. `http`: HOST:PORT to listen on, port 0 for any.

    `advertise`: the URL that the others are told, where it is not that. Raises what `Node` raises, and what ended it.
    """
    try:
        from .web.registry import registry_app
        from .web.server import WebServer
    except ImportError as missing:
        problem = f'{missing.name} is not installed: pip install "replicator[web]"'
        raise ConfigError(setting="http", problem=problem) from None
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    host, port = _address(http)
    node = Node(
        Registry(),
        group=group,
        name=name,
        redis=redis,
        data_dir=data_dir,
        lease_s=lease_s,
        auto_promote=auto_promote,
        ack=ack,
        on_restart=on_restart,
        on_log_lost=on_log_lost,
    )
    server = WebServer(registry_app(node), host=host, port=port)
    server.listen()  # before the node starts: a port that is taken must not cost the group a term
    node.http = advertise.rstrip("/") or server.url
    try:
        with node, server:
            logger.info("node %s of group %s serves %s", name, group, server.url)
            while not stopping.wait(LOOK_EVERY_S) and node.failed is None:
                pass
    finally:
        server.stop()
    if node.failed is not None:
        raise node.failed


def _address(http: str) -> tuple[str, int]:
    host, colon, port = http.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > PORT_MAX:
        raise ConfigError(setting="http", problem=f"{http!r} is not HOST:PORT, for example 127.0.0.1:8001")
    return host.strip("[]"), int(port)
