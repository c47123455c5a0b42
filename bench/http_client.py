"""A client over connections that are kept alive, in a process of its own: it shares no interpreter with the server.

Raw sockets, because a client library would cost more than what is measured. A request is bytes that were made before;
of an answer its status and its length are read.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import cycle
from multiprocessing.connection import Connection
from typing import NamedTuple

from bench.harness import heard, now_ns
from bench.loads import Pace, pace_of
from bench.snapshot import Ticks

__all__ = ["ANSWER_TIMEOUT_S", "KeptAlive", "Load", "Watch", "be_client", "loaded", "request_of"]

#: An answer that takes so long does not come any more.
ANSWER_TIMEOUT_S = 60.0

LENGTH = b"content-length: "
HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"


class Load(NamedTuple):
    """So many connections for so long; on each the next request follows the answer to the one before."""

    port: int
    #: Taken in turns.
    requests: Sequence[bytes]
    connections: int
    seconds: float


class Watch(NamedTuple):
    """One request at a time over one connection, with a pause between them, until the next message."""

    port: int
    requests: Sequence[bytes]
    every_s: float


def request_of(method: str, path: str, headers: Sequence[str] = (), body: bytes = b"") -> bytes:
    """The bytes of a request. `headers`: lines."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if method != "GET":
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class KeptAlive:
    """One connection to a server on this machine."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_ns = 0
        self._received = bytearray()

    def send(self, request: bytes) -> None:
        self.sent_ns = now_ns()
        self.socket.sendall(request)

    def ask(self, request: bytes) -> bytes:
        """Send a request, and wait for the answer; its body."""
        self.send(request)
        while (body := self.receive()) is None:
            pass
        return body

    def receive(self) -> bytes | None:
        """Receive once; the body of an answer that is complete by that. Raises `RuntimeError` at an error."""
        chunk = self.socket.recv(1 << 20)
        if not chunk:
            raise RuntimeError("the server closed a connection that was to be kept alive")
        self._received += chunk
        body = _body_of(self._received)
        if body is not None:
            self._received.clear()
        return body

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> KeptAlive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _body_of(received: bytearray) -> bytes | None:
    """The body of an answer, once all of it is there."""
    end = received.find(HEAD_END)
    if end < 0:
        return None
    head = bytes(received[:end])
    if not head.startswith(b"HTTP/1.1 2"):
        status, body = head.partition(b"\r\n")[0], received[end + len(HEAD_END) :]
        raise RuntimeError(f"answered {status.decode()}: {body.decode()[:500]}")
    length = head.lower().partition(LENGTH)[2].partition(b"\r\n")[0]
    if not length:  # in chunks
        return _joined(bytes(received[end + len(HEAD_END) :])) if received.endswith(LAST_CHUNK) else None
    body = received[end + len(HEAD_END) :]
    return bytes(body) if len(body) >= int(length) else None


def _joined(chunks: bytes) -> bytes:
    body, at = [], 0
    while size := int(chunks[at : (begins := chunks.index(b"\r\n", at) + 2)], 16):
        body.append(chunks[begins : begins + size])
        at = begins + size + 2
    return b"".join(body)


def loaded(load: Load) -> Pace:
    """Carry a load out. The processor time is that of this client."""
    latencies_ns: list[int] = []
    with ExitStack() as stack:
        connections = [stack.enter_context(KeptAlive(load.port)) for _ in range(load.connections)]
        requests = cycle(load.requests)
        for connection in connections:
            connection.ask(next(requests))  # the first one of a connection has to be accepted
        return pace_of(latencies_ns, lambda: _ask_until(connections, requests, load.seconds, latencies_ns))


def _ask_until(
    connections: Sequence[KeptAlive], requests: Iterator[bytes], seconds: float, latencies_ns: list[int]
) -> None:
    until_ns = now_ns() + int(seconds * 1e9)
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(next(requests))
        under_way = len(connections)
        while under_way:
            ready = selector.select(ANSWER_TIMEOUT_S)
            if not ready:
                raise RuntimeError(f"no answer within {ANSWER_TIMEOUT_S:g} s")
            for key, _ in ready:
                connection = key.data
                if connection.receive() is None:
                    continue
                ended_ns = now_ns()
                latencies_ns.append(ended_ns - connection.sent_ns)
                if ended_ns < until_ns:
                    connection.send(next(requests))
                else:
                    under_way -= 1


def be_client(pipe: Connection) -> None:
    """The process: told a `Load`, it answers with its `Pace`; told a `Watch`, with `Ticks`, at the next message."""
    pipe.send("ready")
    while (told := heard(pipe)) is not None:
        if isinstance(told, Load):
            pipe.send(loaded(told))
        else:
            pipe.send("begun")
            pipe.send(_watched(pipe, told))
            if heard(pipe) is None:
                return


def _watched(pipe: Connection, watch: Watch) -> Ticks:
    ticks, requests = Ticks([], []), cycle(watch.requests)
    with KeptAlive(watch.port) as connection:
        while not pipe.poll():
            connection.ask(next(requests))
            ended_ns = now_ns()
            ticks.ended_ns.append(ended_ns)
            ticks.took_ns.append(ended_ns - connection.sent_ns)
            time.sleep(watch.every_s)
    return ticks
