"""One request, one answer, each a line of JSON on a unix socket: how clients and the harness talk to a node.

What matters to whoever writes a history is whether a request may have been executed. `NotSent`: certainly not.
`NoAnswer`: nobody knows.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Answer = Callable[[dict[str, Any]], dict[str, Any]]

#: A paused node accepts no connections. Its kernel does until the backlog is full; then a caller waits this long.
CONNECT_TIMEOUT_S = 0.3


class NotSent(Exception):
    """Nobody took the request."""


class NoAnswer(Exception):
    """The request was sent, and no answer came."""


class Caller:
    """A connection to one node, made when it is needed. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: socket.socket | None = None
        self._buffer = b""

    def call(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Send a request, give its answer. Raises `NotSent` or `NoAnswer`; the next call has a new connection then."""
        connection = self._connected()
        try:
            connection.settimeout(timeout_s)
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer: dict[str, Any] = json.loads(self._line(connection, time.monotonic() + timeout_s))
            return answer
        except (OSError, ValueError) as error:
            self.close()
            raise NoAnswer(str(error) or type(error).__name__) from None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._buffer = b""

    def _connected(self) -> socket.socket:
        if self._connection is not None and _was_closed(self._connection):
            self.close()
        if self._connection is None:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.settimeout(CONNECT_TIMEOUT_S)
                connection.connect(str(self._path))
            except OSError as error:
                connection.close()
                raise NotSent(str(error)) from None
            self._connection = connection
        return self._connection

    def _line(self, connection: socket.socket, deadline: float) -> bytes:
        while b"\n" not in self._buffer:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            chunk = connection.recv(1 << 16)
            if not chunk:
                raise ConnectionResetError("the connection was closed")
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _was_closed(connection: socket.socket) -> bool:
    """Whether the other side has ended the connection already: then a request on it would not be executed."""
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers each request with what `answer` gives, on a thread per connection."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, path: Path, answer: Answer) -> None:
        # Of a process of the same name that was killed.
        path.unlink(missing_ok=True)
        self.answer = answer
        super().__init__(str(path), _Handler)


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Server)
        # Whoever asked may have gone by the time of the answer.
        with contextlib.suppress(OSError):
            for line in self.rfile:
                answer = self.server.answer(json.loads(line))
                self.wfile.write(json.dumps(answer).encode() + b"\n")
