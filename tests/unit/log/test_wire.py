"""Bytes out, an answer in: over a pair of sockets, without a server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest
import redis

from replicator.log.wire import READ_BYTES, Limit, RedisWire
from tests.support.kv import PATIENCE_S, in_thread


class Connected:
    """What redis-py gives: a connection with a socket. The other end of it is `heartbeat`."""

    def __init__(self, *, timeout_s: float | None = PATIENCE_S) -> None:
        self._sock, self.heartbeat = socket.socketpair()
        self._sock.settimeout(timeout_s)
        self.socket_timeout = timeout_s
        self.disconnects = 0

    def disconnect(self) -> None:
        self.disconnects += 1
        self._sock.close()


@pytest.fixture
def connected() -> Iterator[Connected]:
    connected = Connected()
    yield connected
    connected.disconnect()
    connected.heartbeat.close()


def answering(connected: Connected, *pieces: bytes) -> Callable[[], bytes]:
    """The other end reads one command, and answers piece by piece; calling what this gives waits for the command."""

    def answer() -> bytes:
        command = connected.heartbeat.recv(READ_BYTES)
        for piece in pieces:
            connected.heartbeat.sendall(piece)
            time.sleep(0.01)
        return command

    return in_thread(answer)


def test_a_command_goes_out_and_its_answer_comes_back(connected: Connected) -> None:
    sent = answering(connected, b"*2\r\n$2\r\nok\r\n:5\r\n")
    assert RedisWire(connected).ask(b"EVALSHA", "text", 1) == [b"ok", 5]
    assert sent() == b"*3\r\n$7\r\nEVALSHA\r\n$4\r\ntext\r\n$1\r\n1\r\n"


def test_there_may_be_other_work_between_a_command_and_its_answer(connected: Connected) -> None:
    sent = answering(connected, b"+OK\r\n")
    wire = RedisWire(connected)
    limit = wire.send("GET", "k")
    assert sent().startswith(b"*2")  # it has gone out, and the answer is there
    assert wire.receive(limit) == b"OK"


def test_one_that_owes_an_answer_is_not_open_until_it_was_taken(connected: Connected) -> None:
    wire = RedisWire(connected)
    for answer in (b"+OK\r\n", b"-ERR no\r\n"):
        limit = wire.send("GET", "k")
        assert not wire.is_open
        connected.heartbeat.sendall(answer)
        with suppress(redis.exceptions.ResponseError):
            wire.receive(limit)
        assert wire.is_open
    # nor is one that said more than it was asked for
    limit = wire.send("GET", "k")
    connected.heartbeat.sendall(b"+OK\r\n+O")
    assert (wire.receive(limit), wire.is_open) == (b"OK", False)


def test_one_that_answered_in_a_torn_form_is_not_open(connected: Connected) -> None:
    wire = RedisWire(connected)
    limit = wire.send("GET", "k")
    connected.heartbeat.sendall(b"?")
    with pytest.raises(redis.exceptions.InvalidResponse):
        wire.receive(limit)
    assert not wire.is_open


def test_an_answer_that_is_there_is_taken_although_the_time_is_over(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = answering(connected, b"+OK\r\n")
    wire = RedisWire(connected)
    limit = wire.send("GET", "k", limit=Limit(PATIENCE_S, until=time.monotonic() + PATIENCE_S))
    sent()
    monkeypatch.setattr("replicator.log.wire.time", SimpleNamespace(monotonic=lambda: limit.until + 1))
    assert wire.receive(limit) == b"OK"


def test_a_deadline_is_looked_at_for_each_request_that_has_it(
    connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire = RedisWire(connected)
    limit = Limit(PATIENCE_S, until=time.monotonic() + PATIENCE_S)
    sent = answering(connected, b"+OK\r\n")
    assert wire.ask("GET", "k", limit=limit) == b"OK"
    sent()
    monkeypatch.setattr("replicator.log.wire.time", SimpleNamespace(monotonic=lambda: limit.until))
    with pytest.raises(redis.exceptions.TimeoutError):
        wire.send("GET", "k", limit=limit)
    connected.heartbeat.setblocking(False)
    with pytest.raises(BlockingIOError):
        connected.heartbeat.recv(1)


def test_an_answer_may_come_in_any_pieces(connected: Connected) -> None:
    large = b"x" * (2 * READ_BYTES + 7)
    whole = b"*2\r\n$%d\r\n%s\r\n$-1\r\n" % (len(large), large)
    answering(connected, whole[:3], whole[3:1000], whole[1000:-2], whole[-2:])
    assert RedisWire(connected).ask("GET", "k") == [large, None]


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (b"-NOSCRIPT No matching script\r\n", redis.exceptions.NoScriptError, "No matching script"),
        (b"-READONLY You can't write\r\n", redis.exceptions.ReadOnlyError, "You can't write"),
        (b"-OOM command not allowed\r\n", redis.exceptions.OutOfMemoryError, "command not allowed"),
        (b"-NOAUTH Authentication required.\r\n", redis.exceptions.AuthenticationError, "Authentication required."),
        (b"-BADTERM the key\r\n", redis.exceptions.ResponseError, "BADTERM the key"),
        (b"not redis at all\r\n", redis.exceptions.InvalidResponse, "Protocol error"),
    ],
)
def test_a_refusal_has_the_class_that_redis_py_gives_it(
    connected: Connected, answer: bytes, error: type[Exception], text: str
) -> None:
    answering(connected, answer)
    with pytest.raises(error, match=text):
        RedisWire(connected).ask("GET", "k")


def test_a_server_that_goes_away_is_an_error_and_not_an_answer(connected: Connected) -> None:
    def half() -> None:
        connected.heartbeat.recv(100)
        connected.heartbeat.sendall(b"$10\r\nhal")
        connected.heartbeat.close()

    in_thread(half)
    with pytest.raises(redis.exceptions.ConnectionError, match="closed by server"):
        RedisWire(connected).ask("GET", "k")


def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    connected = Connected(timeout_s=0.2)
    began = time.monotonic()
    with pytest.raises(redis.exceptions.TimeoutError):
        RedisWire(connected).ask("GET", "k")
    assert time.monotonic() - began < PATIENCE_S
    connected.disconnect()
    connected.heartbeat.close()


def test_a_server_that_takes_nothing_in_is_given_up_too() -> None:
    connected = Connected(timeout_s=0.2)
    with pytest.raises(redis.exceptions.TimeoutError):
        RedisWire(connected).ask("SET", "k", b"x" * 50_000_000)
    connected.disconnect()
    connected.heartbeat.close()


def test_one_that_is_closed_says_so(connected: Connected) -> None:
    wire = RedisWire(connected)
    assert wire.is_open
    wire.close()
    assert (wire.is_open, connected.disconnects) == (False, 1)
    with pytest.raises(redis.exceptions.ConnectionError, match="closed"):
        wire.ask("GET", "k")


def test_who_waits_for_an_answer_is_woken_when_it_is_shut_down(connected: Connected) -> None:
    wire = RedisWire(connected)
    asking = threading.Event()

    def ask() -> object:
        asking.set()
        with pytest.raises(redis.exceptions.ConnectionError):
            wire.ask("XREAD")
        return True

    waiting = in_thread(ask)
    assert asking.wait(PATIENCE_S)
    connected.heartbeat.recv(100)
    wire.shut_down()
    assert waiting()
