"""How many connections a server has, and for how long one may keep it waiting.

A connection costs a descriptor, and a process that has none left reaches neither Redis nor its disk: so some are kept
back, and the server takes no more connections than leaves those. When all are taken, the one whose request has been
awaited for longest makes room for the next: whoever only holds connections loses them, and whoever sends a request has
sent it within milliseconds.

Once a second all are looked at, some at a time, so that a thousand that are over at once keep nobody else waiting:

- The head of a request takes 10 s at the most, from the first byte (of the first one: from the connection, and so does
  a handshake of TLS). So does what is left of a body that nobody wants, once it was answered.
- A body comes at a minimum rate, while it is waited for: 10 kB/s, with 10 s in hand, at the beginning and at any time.
- An answer is taken: one of which nothing was for 60 s is ended.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce

__all__ = ["BACKLOG", "Connections", "Door", "LimitedProtocol", "connections_max"]

log = EventLogger(__name__)

#: More are no help: a node has 2,300 places for requests.
CONNECTIONS_MAX = 2048

#: For Redis, the checkpoint, snapshots, commands, and whatever the application opens.
DESCRIPTORS_KEPT = 256

#: Generous for a slow line, and short for whoever only waits.
HEAD_S = 10.0

#: A body of 80 MB takes two hours at this rate. `BODY_S`: for how long it may stand still.
BODY_BYTES_PER_S = 10_000
BODY_S = 10.0

#: How much is read from one at a time, before others have their turn. asyncio reads eight times as much.
READ_BYTES = 32 * 1024

#: How many are looked at before others have their turn: to end one takes some 30 us.
LOOKED_AT_A_TIME = 32

#: A browser in the background reads nothing for a while.
ANSWER_S = 60.0

#: Connections that wait to be accepted. The kernel's own default limit on Linux.
BACKLOG = 4096

_CROWDED = Lasting("http.crowded", "http.has_room", "there is room for connections")

TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


def connections_max() -> int:
    """How many connections this process can have: all descriptors but those that it has, and some that are kept."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    kept = min(DESCRIPTORS_KEPT, limit // 2)
    return max(1, min(CONNECTIONS_MAX, limit - kept - _descriptors()))


def _descriptors() -> int:
    try:
        return len(os.listdir("/dev/fd"))
    except OSError:
        return 0


@dataclass(slots=True)
class _Held:
    """A connection. `protocol`: None: it is new, or in a handshake."""

    since: float
    protocol: LimitedProtocol | None = None


class Connections:
    """Those of one server. All of it runs on the server's loop."""

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self._clock = clock
        #: In the order in which they came.
        self._held: dict[socket.socket, _Held] = {}
        self._turned_out = False
        self._log_once = LogOnce(log)

    def __len__(self) -> int:
        return len(self._held)

    def admit(self, connection: socket.socket) -> bool:
        """Whether there is room for this one. It is made, if need be."""
        if len(self._held) >= self.most and not self._make_room():
            return False
        self._held[connection] = _Held(self._clock())
        return True

    def made(self, protocol: LimitedProtocol) -> None:
        if (held := self._held.get(protocol.socket)) is not None:
            held.protocol = protocol

    def lost(self, protocol: LimitedProtocol) -> None:
        self._held.pop(protocol.socket, None)

    def _make_room(self) -> bool:
        """End one that has no request under way; first of those that have sent none."""
        going = self._first_to_go()
        if going is None or going[0].fileno() >= 0:
            self._turned_out = True
            message = f"all {self.most} connections are taken: those that wait for no answer make room for others"
            self._log_once.tell("crowded", _CROWDED, message)
        if going is None:
            return False
        connection, held = going
        del self._held[connection]
        _end(connection, held)
        return True

    def _first_to_go(self) -> tuple[socket.socket, _Held] | None:
        """Found at once where many only hold connections: the oldest of them is the first that is looked at."""
        first: tuple[socket.socket, _Held] | None = None
        for connection, held in self._held.items():
            is_closed = connection.fileno() < 0
            if is_closed or (_is_idle(held) and not _has_asked(held)):
                return connection, held
            if first is None and _is_idle(held):
                first = connection, held
        return first

    def _forget_closed(self) -> None:
        # A handshake that fails tells nobody here.
        self._held = {connection: held for connection, held in self._held.items() if connection.fileno() >= 0}

    async def look(self) -> None:
        """End what keeps the server waiting. Once a second."""
        now = self._clock()
        self._forget_closed()
        for number, (connection, held) in enumerate(list(self._held.items()), start=1):
            if held.protocol is not None:
                held.protocol.look(now)
            elif now - held.since > HEAD_S:
                _end(connection, held)
            if number % LOOKED_AT_A_TIME == 0:
                await asyncio.sleep(0)
        if not self._turned_out:
            self._log_once.over("crowded")
        self._turned_out = False


def _let_go(transport: asyncio.BaseTransport) -> None:
    """Have a connection that has ended freed at once: what asyncio keeps to read from it refers to itself.

    So a thousand that end together would be a collector's, which looks at all of them in one go, for some 30 ms. (Those
    of uvloop, which a program may have installed for all of its loops, have no such attribute, nor a place for any.)
    """
    getattr(transport, "__dict__", {}).pop("_read_ready_cb", None)


def _is_idle(held: _Held) -> bool:
    return held.protocol is None or held.protocol.is_idle


def _has_asked(held: _Held) -> bool:
    return held.protocol is not None and held.protocol.cycle is not None


def _end(connection: socket.socket, held: _Held) -> None:
    if held.protocol is not None:
        held.protocol.transport.abort()
        return
    with suppress(OSError):
        # In a handshake it is asyncio's: that sees the end, and closes it.
        connection.shutdown(socket.SHUT_RDWR)


class Door(socket.socket):
    """A listening socket that lets in as many as there is room for."""

    connections: Connections | None = None

    def listen(self, backlog: int = BACKLOG, /) -> None:
        # asyncio's number is how many it accepts at a time. Few, so that others get their turn.
        super().listen(BACKLOG)

    def accept(self) -> tuple[socket.socket, Any]:
        connection, address = super().accept()
        if self.connections is not None and not self.connections.admit(connection):
            connection.close()
            raise ConnectionAbortedError  # as if it had gone by itself
        return connection, address


@dataclass(slots=True)
class _Body:
    """How a body comes in. `in_hand_s`: how long it may still stand still."""

    cycle: RequestResponseCycle
    looked_at: float
    counted: int
    in_hand_s: float = BODY_S

    def look(self, now: float, received: int, *, is_waited_for: bool) -> bool:
        """Whether it comes fast enough."""
        came_s = (received - self.counted) / BODY_BYTES_PER_S
        passed_s = now - self.looked_at if is_waited_for else 0.0
        self.looked_at, self.counted = now, received
        self.in_hand_s = min(BODY_S, self.in_hand_s + came_s) - passed_s
        return self.in_hand_s >= 0


@dataclass(slots=True)
class _Answer:
    """How an answer goes out. `left`: bytes that wait here to be taken."""

    since: float
    left: int = field(default=-1)


class LimitedProtocol(H11Protocol):
    """uvicorn's, with limits on what it waits for."""

    socket: socket.socket
    cycle: RequestResponseCycle | None  # type: ignore[assignment]

    def __init__(self, connections: Connections, **keywords: Any) -> None:
        super().__init__(**keywords)
        self._limits = connections
        self._received = 0
        #: Since when the head of a request is waited for, or the rest of a body that was answered.
        self._waits_since: float | None = None
        self._body: _Body | None = None
        self._answer: _Answer | None = None
        #: It is a WebSocket now: another protocol has it, which asks for signs of life (uvicorn's pings).
        self._is_upgraded = False

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return not self._is_upgraded and (self.cycle is None or self.cycle.response_complete)

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._is_upgraded = True
        super().handle_websocket_upgrade(event)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.socket = getattr(transport.get_extra_info("socket"), "_sock", None)  # type: ignore[assignment]
        self._waits_since = time.monotonic()
        if hasattr(transport, "max_size"):  # that of asyncio, without TLS
            transport.max_size = READ_BYTES
        self._limits.made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._limits.lost(self)
        super().connection_lost(exc)
        _let_go(self.transport)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._waits_since is None and self.is_idle:
            self._waits_since = time.monotonic()
        super().data_received(data)
        if not self.is_idle:
            self._waits_since = None

    def on_response_complete(self) -> None:
        self._waits_since = None
        super().on_response_complete()

    def look(self, now: float) -> None:
        """End it, if it keeps the server waiting."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            self._body = self._answer = None
            if self._waits_since is not None and now - self._waits_since > HEAD_S:
                self._give_up(says=self.conn.their_state is h11.IDLE and self._received > 0)
        elif not self._body_comes(cycle, now):
            self._give_up(says=not cycle.response_started)
        elif not self._answer_goes(now):
            self.transport.abort()

    def _body_comes(self, cycle: RequestResponseCycle, now: float) -> bool:
        if self._body is None or self._body.cycle is not cycle:
            self._body = _Body(cycle, now, self._received)
        is_waited_for = cycle.more_body and not self.flow.read_paused and not cycle.waiting_for_100_continue
        return self._body.look(now, self._received, is_waited_for=is_waited_for)

    def _answer_goes(self, now: float) -> bool:
        left = self.transport.get_write_buffer_size()
        if not self.flow.write_paused:
            self._answer = None
        elif self._answer is None or self._answer.left != left:
            self._answer = _Answer(now, left)
        return self._answer is None or now - self._answer.since <= ANSWER_S

    def _give_up(self, *, says: bool) -> None:
        if says:
            self.transport.write(TIMED_OUT)
        self.transport.close()
