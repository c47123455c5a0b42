"""Runs an ASGI application beside everything else that a process does: in a thread, started and stopped by its owner.

- The socket is bound and listens before the thread starts, so a port that is taken is an error of `start` and not a
  line in a log, and port 0 has become a real one when `start` returns.
- No segment of an answer waits for the acknowledgement of the one before it (TCP_NODELAY).
- Signals stay with the process: uvicorn installs handlers only on the main thread, where it never runs here.
- Logging stays with the process too: uvicorn's loggers pass their records on and configure nothing.
- No connection keeps it waiting, and all of them leave descriptors for the process (`connections.py`).
- `stop` is bounded: requests get `STOP_WITHIN_S` to finish, then they are cancelled, and threads that they wait for are
  left behind (they are daemons).
"""

from __future__ import annotations

import asyncio
import socket
import threading
from functools import partial
from types import TracebackType

import anyio.lowlevel
import uvicorn
from starlette.types import ASGIApp

from replicator.errors import ConfigError
from replicator.runtime.process import Owner, let_go_in_child
from replicator.runtime.threads import started

from ..runtime.event_log import EventLogger, in_this_context
from .certificate import Certificate
from .connections import BACKLOG, Connections, Door, LimitedProtocol, connections_max

__all__ = ["WebServer"]

log = EventLogger(__name__)

#: How long requests may take to finish once the server is told to stop. uvicorn takes whole seconds.
STOP_WITHIN_S = 2

#: What uvicorn itself needs beyond that: two polls of 0.1 s, and closing connections; generous for a busy machine.
STOP_MARGIN_S = 3.0

#: An event loop that runs nothing else starts in milliseconds; this only bounds a hang.
START_WITHIN_S = 10.0

#: How long a connection that nobody uses is kept. Load balancers and our clients go by that.
KEEP_ALIVE_S = 5

#: How many are accepted at a time, before others have their turn.
ACCEPTED_AT_A_TIME = 8

#: uvicorn's ticks in a second.
TICKS_PER_S = 10

PORT_MAX = 65535

#: Of one message of a WebSocket, which is in memory as a whole.
WS_MESSAGE_BYTES_MAX = 16 * 1024 * 1024


class WebServer:
    """One application on one port. Starts once; a stopped server is not started again."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        certificate: Certificate | None = None,
        for_proxy: bool = False,
    ) -> None:
        """Take port 0 for any free one. The application's lifespan events are not sent. `certificate`: for HTTPS.
        `for_proxy`: it serves WebSockets, too (which takes `websockets`), and believes no `X-Forwarded-*`."""
        self._app = app
        self._certificate = certificate
        self._for_proxy = for_proxy
        self.host = host
        #: The port asked for; from `start` on the real one.
        self.port = port
        self._server: _Announcing | None = None
        self._thread: threading.Thread | None = None
        self._listener: Door | None = None
        self._owner = Owner("this HTTP server")
        let_go_in_child(self, WebServer._let_go)

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def scheme(self) -> str:
        return "http" if self._certificate is None else "https"

    def listen(self) -> None:
        """Take the port, and let connections wait. Raises ConfigError if that cannot be. `start` does it if need be."""
        self._owner.check()
        if self._listener is None:
            self._listener = _listen(self.host, self.port, setting="proxy" if self._for_proxy else "http")
            self.port = self._listener.getsockname()[1]

    def start(self) -> None:
        """Return once the server answers. Raises ConfigError if it cannot listen there, or `NoThread`."""
        self._owner.check()
        if self._thread is not None:
            raise RuntimeError("a WebServer starts once; make another")
        self.listen()
        listener = self._listener
        assert listener is not None
        self._server = _Announcing(_config(self._app, self._for_proxy), self._certificate)
        listener.connections = self._server.connections
        self._thread = started(in_this_context(_serve), self._server, listener, name=f"http-{self.port}")
        self._server.settled.wait(START_WITHIN_S)
        if not self._server.started:
            self.stop()
            raise ConfigError(setting=f"http {self.host}:{self.port}", problem="the server did not start; see the log")

    def stop(self) -> None:
        """End it: no new connection from now on, what runs gets `STOP_WITHIN_S`. Does nothing if it does not run."""
        self._owner.check()
        if self._thread is None or self._server is None:
            if self._listener is not None:
                self._listener.close()
            return
        self._server.should_exit = True
        self._thread.join(STOP_WITHIN_S + STOP_MARGIN_S)
        if self._thread.is_alive():
            self._server.force_exit = True
            log.warning(
                "http.left_behind", "the HTTP server on port %d did not stop in time and was left behind", self.port
            )

    def __enter__(self) -> WebServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._owner.is_here:
            self.stop()

    def _let_go(self) -> None:
        """A child that outlives this process would keep the port, and the clients' connections, with nobody there."""
        if self._listener is not None:
            self._listener.close()
        for connection in self._server.server_state.connections if self._server is not None else ():
            _close_copy(connection.transport)


class _Announcing(uvicorn.Server):
    """A uvicorn server that says when it has started, or when it never will, and looks after its connections."""

    def __init__(self, config: uvicorn.Config, certificate: Certificate | None) -> None:
        super().__init__(config)
        self.settled = threading.Event()
        self.connections = Connections(connections_max())
        self._certificate = certificate
        config.load()
        config.http_protocol_class = partial(LimitedProtocol, self.connections)  # type: ignore[assignment]
        config.ssl = None if certificate is None else certificate.context

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # So that what anyio imports for its first call is there: the first request would wait for that, and all others.
        await anyio.lowlevel.checkpoint()
        await super().startup(sockets=sockets)
        self.settled.set()

    async def on_tick(self, counter: int) -> bool:
        if counter % TICKS_PER_S == 0:
            await self.connections.look()
            if self._certificate is not None:
                self._certificate.look()
        return await super().on_tick(counter)


def _close_copy(transport: asyncio.BaseTransport) -> None:
    # The loop is gone in this process, and its registrations are the parent's: asyncio is not to be asked.
    connection = getattr(transport.get_extra_info("socket"), "_sock", None)
    if connection is not None:
        connection.close()


def _serve(server: _Announcing, listener: socket.socket) -> None:
    try:
        asyncio.run(server.serve(sockets=[listener]))
    except Exception:
        log.exception("http.ended", "the HTTP server on port %d ended", server.config.port)
    finally:
        listener.close()
        server.settled.set()


def _config(app: ASGIApp, for_proxy: bool) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        # One that limits can be put on, whatever else is installed.
        http="h11",
        backlog=ACCEPTED_AT_A_TIME,
        timeout_keep_alive=KEEP_ALIVE_S,
        ws="websockets-sansio" if for_proxy else "none",
        ws_max_size=WS_MESSAGE_BYTES_MAX,
        proxy_headers=not for_proxy,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=STOP_WITHIN_S,
    )


def _listen(host: str, port: int, *, setting: str) -> Door:
    """A listening socket, or ConfigError."""
    try:
        if not 0 <= port <= PORT_MAX:
            # Asked of the resolver, such a port would silently become another one.
            raise OSError(f"a port is a number from 0 to {PORT_MAX}")
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return _named_tcp(socket.create_server(address[:2], family=family, backlog=BACKLOG))
    except OSError as error:
        raise ConfigError(
            setting=f"{setting} {host}:{port}", problem=f"cannot listen there ({error}); choose another host or port"
        ) from error


def _named_tcp(listener: socket.socket) -> Door:
    """The same socket, of a protocol that is said: `create_server` leaves it out, and what is accepted inherits that.

    asyncio sets TCP_NODELAY on nothing that does not say TCP. Without it, the second segment of an answer waits until
    the client has acknowledged the first, which takes 40 ms.
    """
    return Door(listener.family, listener.type, socket.IPPROTO_TCP, fileno=listener.detach())
