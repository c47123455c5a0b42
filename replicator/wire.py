"""An open connection to Redis: a command goes out, its answer comes back.

redis-py makes the connection, because it knows all ways to make one (TLS, users, databases, unix sockets). From then on
bytes go straight between hiredis and the socket: redis-py's own way through `pack_command` and `read_response` takes
longer than Redis does for a small append. Nothing here is ever sent twice, and nothing is opened again.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import hiredis
import redis
from redis._parsers import BaseParser

__all__ = ["RedisWire", "Wire"]

#: What one read takes from the socket at the most. A part of a snapshot comes in a few reads.
READ_BYTES = 128 * 1024

_MORE = object()


class Wire(Protocol):
    """One connection. One thread at a time may ask."""

    @property
    def is_open(self) -> bool:
        """Whether another command may be sent. It says nothing of the other end."""
        ...

    def ask(self, *command: Any, meanwhile: Callable[[], None] | None = None) -> Any:
        """Send a command, call `meanwhile`, give the answer. Raises redis' `RedisError` or `OSError`."""
        ...

    def close(self) -> None: ...

    def let_go(self) -> None:
        """Close this process' copy of the socket, which another process goes on with."""
        ...

    def shut_down(self) -> None:
        """End it under a thread that is waiting for an answer: that one gets an error, and closes it."""
        ...


class RedisWire:
    """`connection`: redis-py's, connected, with protocol 2, not used by anybody else from now on."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._socket: socket.socket | None = connection._sock
        self._reader = hiredis.Reader(
            protocolError=redis.exceptions.InvalidResponse,
            replyError=BaseParser.parse_error,  # redis-py's classes of errors, by the first word
            notEnoughData=_MORE,
        )
        self._buffer = bytearray(READ_BYTES)
        _set_timeouts(connection._sock, connection.socket_timeout)

    @property
    def is_open(self) -> bool:
        return self._socket is not None

    def ask(self, *command: Any, meanwhile: Callable[[], None] | None = None) -> Any:
        sock, reader, buffer = self._socket, self._reader, self._buffer
        if sock is None:
            raise redis.exceptions.ConnectionError("the connection is closed")
        try:
            sock.sendall(hiredis.pack_command(command))
            if meanwhile is not None:
                meanwhile()
            while (answer := reader.gets()) is _MORE:
                count = sock.recv_into(buffer)
                if count == 0:
                    raise redis.exceptions.ConnectionError("Connection closed by server.")
                reader.feed(buffer, 0, count)  # type: ignore[arg-type]  # it takes any buffer
        except (BlockingIOError, TimeoutError):
            raise redis.exceptions.TimeoutError("Timeout reading from socket") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        self._socket = None
        self._connection.disconnect()

    def let_go(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def shut_down(self) -> None:
        sock = self._socket
        if sock is not None:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _set_timeouts(sock: socket.socket, timeout_s: float | None) -> None:
    """Have the kernel keep the time. Python's own timeouts cost a poll() before every send and every read."""
    if type(sock) is not socket.socket or not timeout_s:
        return  # TLS reads as often as it likes: there Python keeps the time
    seconds, fraction = divmod(timeout_s, 1)
    interval = struct.pack("@ll", int(seconds), int(fraction * 1e6))
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, interval)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)
