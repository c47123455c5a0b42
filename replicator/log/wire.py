"""An open connection to Redis: a command goes out, its answer comes back.

redis-py makes the connection, because it knows all ways to make one (TLS, users, databases, unix sockets). From then on
bytes go straight between hiredis and the socket: redis-py's own way through `pack_command` and `read_response` takes
longer than Redis takes for a small append. Nothing is ever sent twice, and nothing is reopened.
"""

from __future__ import annotations

import math
import socket
import struct
import time
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

import hiredis
import redis
from redis._parsers import BaseParser

__all__ = ["Limit", "RedisWire", "Wire"]

#: The most that one read takes from the socket. A part of a snapshot comes in a few reads.
READ_BYTES = 128 * 1024

#: How long a request may take by default.
ANSWER_S = 5.0

#: A request of this size fits into an empty socket buffer: it is sent at once.
SMALL_BYTES = 16 * 1024

#: The slowest network on which a group can run. A large request gets the additional time that it takes there.
BYTES_PER_S_MIN = 250_000

#: The kernel is told of a new timeout only if it differs by this much.
EXACT_S = 0.005

_MORE = object()

_CLOSED = "the connection is closed"


class Limit(NamedTuple):
    """How long a request may take.

    `answer_s`: the longest silence (a large answer comes in pieces, each of which may take as long). `until`: the
    caller's deadline (`time.monotonic`), whatever comes. `blocks_s`: how long the request itself waits in Redis for
    something.
    """

    answer_s: float
    until: float = math.inf
    blocks_s: float = 0.0

    @property
    def left_s(self) -> float:
        """How long to wait for what has to happen before the request, such as a connection."""
        return self.answer_s if self.until == math.inf else min(self.answer_s, self.until - time.monotonic())


class Wire(Protocol):
    """One connection. Only one thread at a time may ask."""

    @property
    def is_open(self) -> bool:
        """Whether another command may be sent: it is not closed, and owes no answer. It says nothing about the other
        end.
        """
        ...

    def ask(self, *command: Any, limit: Limit | None = None) -> Any:
        """Send a command, give the answer. Raises redis' `RedisError` or `OSError`."""
        ...

    def send(self, *command: Any, limit: Limit | None = None) -> Limit:
        """Send a command, give the limit for its answer, which has to be received before anything else is sent."""
        ...

    def send_packed(self, request: bytes, limit: Limit) -> Limit:
        """`send`, of a command that is packed already."""
        ...

    def receive(self, limit: Limit) -> Any:
        """Give the answer to what was sent."""
        ...

    def close(self) -> None: ...

    def let_go(self) -> None:
        """Close this process' copy of the socket, which the parent process goes on using."""
        ...

    def shut_down(self) -> None:
        """End the connection while another thread waits for an answer: that thread gets an error, and closes it."""
        ...


class RedisWire:
    """Takes over a `connection` of redis-py: connected, with protocol 2, and used by nobody else from now on."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._socket: socket.socket | None = connection._sock
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse,
            replyError=BaseParser.parse_error,  # redis-py's error classes, chosen by the first word
            notEnoughData=_MORE,
        )
        self._buffer = bytearray(READ_BYTES)
        self._limit = Limit(connection.socket_timeout or ANSWER_S)
        #: See `Wire`. An answer that nobody took would be taken for that of the next command.
        self.is_open = True
        #: The timeout of the socket; not a number at first, because it was not set here yet.
        self._waits_s = math.nan
        #: The limit without a deadline by which it was set, if it was: requests that have the same one set nothing.
        self._kept: Limit | None = None
        # For a plain socket the kernel keeps the time: Python's own timeouts cost a poll() before every send and every
        # read. With TLS one read may be many of the socket's, so there Python keeps it.
        self._kernel_keeps_time = type(self._socket) is socket.socket
        if self._kernel_keeps_time:
            connection._sock.settimeout(None)

    def ask(self, *command: Any, limit: Limit | None = None) -> Any:
        return self.receive(self.send_packed(hiredis.pack_command(command), limit or self._limit))

    def send(self, *command: Any, limit: Limit | None = None) -> Limit:
        return self.send_packed(hiredis.pack_command(command), limit or self._limit)

    def send_packed(self, request: bytes, limit: Limit) -> Limit:
        sock = self._socket
        if sock is None:
            raise redis.exceptions.ConnectionError(_CLOSED)
        self.is_open = False
        try:
            if limit is not self._kept:
                self._keep_time(sock, limit)
            if len(request) > SMALL_BYTES:
                return self._send_large(sock, request, limit)
            sock.sendall(request)
            return limit
        except (BlockingIOError, TimeoutError):
            raise redis.exceptions.TimeoutError("Timeout writing to socket") from None

    def receive(self, limit: Limit) -> Any:
        sock, reader, buffer = self._socket, self._reader, self._buffer
        if sock is None:
            raise redis.exceptions.ConnectionError(_CLOSED)
        try:
            count = 0
            while (answer := reader.gets()) is _MORE:
                if count:  # for the first piece the timeout was set when it was sent
                    self._keep_time(sock, limit)
                count = sock.recv_into(buffer)
                if count == 0:
                    raise redis.exceptions.ConnectionError("Connection closed by server.")
                reader.feed(buffer, 0, count)  # type: ignore[arg-type]  # it takes any buffer
        except (BlockingIOError, TimeoutError):
            raise redis.exceptions.TimeoutError("Timeout reading from socket") from None
        self.is_open = not reader.has_data()  # one that nobody asked for would be the answer to the next command
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _send_large(self, sock: socket.socket, request: bytes, limit: Limit) -> Limit:
        """Send all of the request; return the limit for its answer."""
        rest = memoryview(request)
        while rest:
            self._keep_time(sock, limit)
            rest = rest[sock.send(rest) :]
        # The system took it all, but that may still be on its way for a while.
        limit = limit._replace(answer_s=limit.answer_s + len(request) / BYTES_PER_S_MIN)
        self._keep_time(sock, limit)
        return limit

    def _keep_time(self, sock: socket.socket, limit: Limit) -> None:
        """Set the timeout for the next operation of the socket. Raises `TimeoutError` if no time is left."""
        answer_s, until, blocks_s = limit
        waits_s = answer_s + blocks_s
        self._kept = limit if until == math.inf else None
        if until != math.inf:
            waits_s = min(waits_s, until - time.monotonic())
            if waits_s <= 0:
                raise TimeoutError
        if -EXACT_S < waits_s - self._waits_s < EXACT_S:
            return
        self._waits_s = waits_s = max(waits_s, EXACT_S)  # 0 would be for ever
        if not self._kernel_keeps_time:
            sock.settimeout(waits_s)
            return
        seconds, fraction = divmod(waits_s, 1)
        interval = struct.pack("@ll", int(seconds), int(fraction * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)

    def close(self) -> None:
        self._socket = None
        self.is_open = False
        self._connection.disconnect()

    def let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def shut_down(self) -> None:
        sock = self._socket
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
