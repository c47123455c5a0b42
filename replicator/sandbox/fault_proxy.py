"""A TCP proxy that misbehaves on demand, as a network does to a client of Redis. For drills and for tests.

It listens on a loopback port and forwards every connection to a port or a unix socket. Each connection is a link with
three threads: one reads requests into a queue, one takes them out and sends them on, one brings replies back. A fault
is a condition on one of these steps, kept in the proxy under one lock, so it takes effect at once and on every link.

What one can do, and what the client then sees:

- `lead_to(target)`: all connections end, and new ones go elsewhere, as when a virtual address moves.
- `cut()`: all connections end now. A request that was sent on may still be executed, as in life.
- `refuse()` / `accept()`: new connections are refused by the kernel (nobody listens).
- `stall()` / `go()`: nothing moves, in one direction or both; the connections stay. On `go()` it all moves on.
- `delay(seconds)`: each request is delivered that much later; replies are not delayed.
- `drop_reply_after(n)`: the n-th request from now reaches the server; instead of its reply the client sees the end of
  the connection. Replies of earlier requests that are still on their way then are lost with it.
- `lose_flow()`: the next request, and everything behind it on its connection, never gets anywhere, and nobody hears of
  it: a path that drops what is sent on it. New connections take another one.
- `hold_requests()` / `release_requests()`: requests wait in the proxy, even when their client has gone or was cut off,
  and reach the server when they are released: the request that is executed long after it was sent.

`matching` narrows the last three to requests that contain these bytes (the name of a command, of a key): a client says
more on a new connection than is meant. A request is one command in Redis' protocol; anything else counts by what
one `recv` gives.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal

from ..runtime.process import Owner

__all__ = ["Proxy"]

Direction = Literal["requests", "replies"]
BOTH: tuple[Direction, Direction] = ("requests", "replies")

#: How often the listening thread looks whether it should end.
TICK_S = 0.05

CHUNK_BYTES = 1 << 16


@dataclass
class _Drop:
    """The order to lose one reply."""

    remaining: int
    matching: bytes
    done: threading.Event = field(default_factory=threading.Event)


class _Faults:
    """What goes wrong now, as links ask it, under the lock of the proxy."""

    def __init__(self) -> None:
        self.stalled: set[Direction] = set()
        self.holding: bytes | None = None
        self.delay_s = 0.0
        self.drop: _Drop | None = None
        self.lose: tuple[bytes, threading.Event] | None = None
        self.requests_sent = 0

    def is_stalled(self, direction: Direction) -> bool:
        return direction in self.stalled

    def holds(self, request: bytes) -> bool:
        return self.holding is not None and self.holding in request

    def due(self) -> float:
        return time.monotonic() + self.delay_s

    def loses(self, request: bytes) -> bool:
        """Whether the flow of this request is the one to lose."""
        if self.lose is None or self.lose[0] not in request:
            return False
        self.lose[1].set()
        self.lose = None
        return True

    def count(self, request: bytes) -> threading.Event | None:
        """Count a request that goes on now; give the event to set if its reply is to be lost."""
        self.requests_sent += 1
        drop = self.drop
        if drop is None or drop.matching not in request:
            return None
        drop.remaining -= 1
        if drop.remaining > 0:
            return None
        self.drop = None
        return drop.done


class Proxy:
    """Forwards 127.0.0.1:`port` to `target` (a loopback port or the path of a unix socket); ends with its context."""

    def __init__(self, target: int | Path) -> None:
        self.target = target
        self._owner = Owner("this proxy")
        self.changed = threading.Condition()
        self._links: set[_Link] = set()
        self.faults = _Faults()
        # Bound and never listening: keeps the port ours while connections are refused.
        self._reservation = _bound_socket(0)
        self.port: int = self._reservation.getsockname()[1]
        self._listener: socket.socket | None = None
        self._listening: threading.Thread | None = None
        self.accept()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        with self.changed:
            return sum(not link.client_gone for link in self._links)

    @property
    def requests_sent(self) -> int:
        """How many requests went on to the server, since the beginning."""
        with self.changed:
            return self.faults.requests_sent

    @property
    def requests_held(self) -> int:
        """How many requests wait for `release_requests`, those behind a held one on its connection included."""
        with self.changed:
            return sum(len(link.queue) for link in self._links if link.is_held())

    # Faults

    def lead_to(self, target: int | Path) -> None:
        """Lead new connections to `target` from now on, and end those that exist.

        No client may find itself at another server in the middle of a connection: what it learnt at its beginning
        would not hold any more.
        """
        with self.changed:
            self.target = target
            for link in list(self._links):
                link.end()
            self.changed.notify_all()

    def cut(self) -> None:
        """End all connections now; requests on their way are lost, except held ones."""
        with self.changed:
            for link in list(self._links):
                link.cut()
            self.changed.notify_all()

    def refuse(self) -> None:
        """Refuse new connections from now on; those that exist stay."""
        listener, thread = self._listener, self._listening
        if listener is None or thread is None:
            return
        self._listener = None
        _shut(listener)
        thread.join()
        listener.close()

    def accept(self) -> None:
        """Accept new connections (again)."""
        if self._listener is None:
            self._listener = _bound_socket(self.port)
            self._listener.listen(64)
            self._listener.settimeout(TICK_S)
            self._listening = threading.Thread(target=self._listen, args=[self._listener], daemon=True)
            self._listening.start()

    def stall(self, *directions: Direction) -> None:
        """Let nothing move in these directions; without any, in both."""
        with self.changed:
            self.faults.stalled |= set(directions or BOTH)

    def go(self) -> None:
        """Let everything that was stalled move on."""
        self._change(lambda: self.faults.stalled.clear())

    def delay(self, seconds: float) -> None:
        """Deliver each request that arrives from now on `seconds` later; 0 ends it."""
        with self.changed:
            self.faults.delay_s = seconds

    def drop_reply_after(self, n_requests: int = 1, *, matching: bytes = b"") -> threading.Event:
        """Lose the reply of the n-th request from now, once. The event is set when it has happened."""
        drop = _Drop(n_requests, matching)
        with self.changed:
            self.faults.drop = drop
        return drop.done

    def lose_flow(self, *, matching: bytes = b"") -> threading.Event:
        """Lose the next request, and its connection without a word, once. The event is set when it has happened."""
        lost = threading.Event()
        with self.changed:
            self.faults.lose = matching, lost
        return lost

    def hold_requests(self, *, matching: bytes = b"") -> None:
        """Hold requests that match, and all behind them on the same connection."""
        with self.changed:
            self.faults.holding = matching

    def release_requests(self) -> None:
        """Send the held requests on, each connection's in their order."""

        def release() -> None:
            self.faults.holding = None

        self._change(release)

    def wait_held(self, n_requests: int = 1, timeout_s: float = 60.0) -> None:
        """Wait until so many requests are held."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.requests_held >= n_requests, timeout_s), "nothing was held"

    def close(self) -> None:
        """End everything; when this returns no thread of the proxy is left."""
        self.refuse()
        with self.changed:
            links = list(self._links)
            for link in links:
                link.end()
            self.changed.notify_all()
        for link in links:
            link.join()
        self._reservation.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._owner.is_here:
            self.close()

    def forget(self, link: _Link) -> None:
        with self.changed:
            self._links.discard(link)

    def _change(self, change: Callable[[], None]) -> None:
        with self.changed:
            change()
            self.changed.notify_all()

    def _listen(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        client.settimeout(None)
        target = self.target
        try:
            server = _connect(target)
        except OSError:
            client.close()
            return
        link = _Link(self, client, server)
        with self.changed:
            self._links.add(link)
            if target != self.target:  # it changed in this very moment
                link.end()
        link.start()


class _Link:
    """One connection of a client and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy = proxy
        self.client = client
        self.server = server
        #: Requests on their way, with the time when they are due; None stands for the client's end.
        self.queue: deque[tuple[float, bytes | None]] = deque()
        self.client_gone = False
        self.ended = False
        self.lost = False
        self.lost_reply: threading.Event | None = None
        steps = (self._read_requests, self._send_requests, self._bring_replies)
        self.threads = [threading.Thread(target=step, daemon=True) for step in steps]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def join(self) -> None:
        for thread in self.threads:
            thread.join()

    def is_held(self) -> bool:
        request = self.queue[0][1] if self.queue else None
        return request is not None and self.proxy.faults.holds(request)

    def cut(self) -> None:
        """End the client's connection, and the server's unless held requests need it. Under the proxy's lock."""
        if not self.is_held():
            self.end()
        elif not self.client_gone:
            self.client_gone = True
            _shut(self.client)

    def end(self) -> None:
        """End both connections, whatever is on its way. Under the proxy's lock, notified by the caller."""
        self.ended = self.client_gone = True
        self.queue.clear()
        _shut(self.client)
        _shut(self.server)

    def _read_requests(self) -> None:
        buffer = bytearray()
        while chunk := _receive(self.client):
            buffer += chunk
            requests = split_requests(buffer)
            with self.proxy.changed:
                self.queue.extend((self.proxy.faults.due(), request) for request in requests)
                self.proxy.changed.notify_all()
                # A client that sends much while stalled must feel it: its own send blocks, as on a dead network.
                self.proxy.changed.wait_for(lambda: self.ended or not self.proxy.faults.is_stalled("requests"))
        with self.proxy.changed:
            self.client_gone = True
            self.queue.append((0.0, None))
            self.proxy.changed.notify_all()

    def _send_requests(self) -> None:
        while (request := self._next_request()) is not None:
            with contextlib.suppress(OSError):
                self.server.sendall(request)
        # The client has gone: the server reads what it was sent, then sees the end and closes, too.
        with contextlib.suppress(OSError):
            self.server.shutdown(socket.SHUT_WR)

    def _next_request(self) -> bytes | None:
        """Wait for the next request that may go on; None when there will be none."""
        with self.proxy.changed:
            while not self.ended:
                wait_s = self._wait_s()
                if wait_s == 0:
                    request = self.queue.popleft()[1]
                    self.lost = request is not None and self.proxy.faults.loses(request)
                    if self.lost:
                        continue
                    # Noted before the request is sent, or its reply could be quicker than the note.
                    if request is not None:
                        self.lost_reply = self.proxy.faults.count(request) or self.lost_reply
                    return request
                self.proxy.changed.wait(wait_s)
        return None

    def _wait_s(self) -> float | None:
        """How long the first request has to wait: 0 not at all, None until something changes."""
        if not self.queue or self.lost or self.is_held() or self.proxy.faults.is_stalled("requests"):
            return None
        return max(0.0, self.queue[0][0] - time.monotonic())

    def _bring_replies(self) -> None:
        while chunk := _receive(self.server):
            with self.proxy.changed:
                self.proxy.changed.wait_for(lambda: self.ended or not self.proxy.faults.is_stalled("replies"))
                if self.lost_reply is not None:
                    self.end()
                    self.proxy.changed.notify_all()
                    self.lost_reply.set()
                    break
            # A reply that nobody waits for any more is read all the same, so that the server can go on.
            with contextlib.suppress(OSError):
                self.client.sendall(chunk)
        self._close()

    def _close(self) -> None:
        with self.proxy.changed:
            self.end()
            self.proxy.changed.notify_all()
        for thread in self.threads[:2]:
            thread.join()
        self.client.close()
        self.server.close()
        self.proxy.forget(self)


def split_requests(buffer: bytearray) -> list[bytes]:
    """Take all complete requests out of `buffer`; what is not Redis' protocol is one request as it is."""
    requests = []
    while buffer:
        length = _request_length(buffer) if buffer.startswith(b"*") else len(buffer)
        if length is None:
            break
        requests.append(bytes(buffer[:length]))
        del buffer[:length]
    return requests


def _request_length(buffer: bytearray) -> int | None:
    """Length of the command at the start of `buffer`: `*<n>`, then n times `$<length>` and the argument."""
    end = buffer.find(b"\r\n")
    if end < 0:
        return None
    arguments, position = int(buffer[1:end]), end + 2
    for _ in range(arguments):
        end = buffer.find(b"\r\n", position)
        if end < 0:
            return None
        position = end + 2 + int(buffer[position + 1 : end]) + 2
    return position if position <= len(buffer) else None


def _bound_socket(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # What it accepts inherits it: no piece of an answer waits until the client has acknowledged the one before.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _connect(target: int | Path) -> socket.socket:
    if isinstance(target, int):
        connection = socket.create_connection(("127.0.0.1", target))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(target))
    except OSError:
        connection.close()
        raise
    return connection


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(CHUNK_BYTES)
    except OSError:
        return b""


def _shut(connection: socket.socket) -> None:
    """End a connection so that both its peer and a thread that waits on it notice; a close alone would wake nobody."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
