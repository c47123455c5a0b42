from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import redis

from replicator.sandbox import fault_proxy
from replicator.sandbox.fault_proxy import Proxy, split_requests
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import PATIENCE_S


class EchoServer:
    """Answers with what it receives and remembers it; on a loopback port."""

    def __init__(self) -> None:
        self.received = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._echo, args=[connection], daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while data := connection.recv(1 << 16):
                self.received += data
                connection.sendall(data)


@pytest.fixture
def echo() -> Iterator[EchoServer]:
    server = EchoServer()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[Proxy]:
    with Proxy(echo.port) as proxy:
        yield proxy


@pytest.fixture
def redis_proxy(any_redis: RedisServer) -> Iterator[Proxy]:
    assert any_redis.socket_path is not None
    with Proxy(any_redis.socket_path) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", proxy.port))
    connection.settimeout(PATIENCE_S)
    return connection


def exchange(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return connection.recv(1 << 16)


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def nothing_comes(connection: socket.socket) -> bool:
    connection.settimeout(0.1)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    else:
        return False
    finally:
        connection.settimeout(PATIENCE_S)


def eventually(condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


# Over an echo


def test_no_piece_waits_for_the_acknowledgement_of_the_one_before_on_either_side(proxy: Proxy) -> None:
    with connect(proxy) as client:
        assert exchange(client, b"one") == b"one"
        [link] = proxy._links
        for side in (link.client, link.server):
            assert side.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_bytes_pass_both_ways(proxy: Proxy) -> None:
    with connect(proxy) as first, connect(proxy) as second:
        assert exchange(first, b"one") == b"one"
        assert exchange(second, b"two") == b"two"
        assert proxy.connections == 2
        assert proxy.requests_sent == 2


def test_the_end_of_a_client_reaches_the_server_and_the_link_goes(proxy: Proxy) -> None:
    with connect(proxy) as client:
        exchange(client, b"x")

    assert eventually(lambda: proxy.connections == 0)


def test_a_cut_ends_every_connection_and_new_ones_work(proxy: Proxy) -> None:
    with connect(proxy) as first, connect(proxy) as second, connect(proxy) as third:
        exchange(first, b"x")
        exchange(second, b"x")
        proxy.cut()
        assert ended(first)
        assert ended(second)
        third.close()

    with connect(proxy) as client:
        assert exchange(client, b"again") == b"again"


def test_refused_connections_fail_at_once_and_existing_ones_go_on(proxy: Proxy) -> None:
    with connect(proxy) as existing:
        exchange(existing, b"x")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        assert exchange(existing, b"still here") == b"still here"

    for _ in range(3):
        proxy.accept()
        with connect(proxy) as client:
            assert exchange(client, b"back") == b"back"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)


def test_when_it_leads_elsewhere_old_connections_end_and_new_ones_go_there(proxy: Proxy, echo: EchoServer) -> None:
    other = EchoServer()
    with connect(proxy) as before:
        exchange(before, b"before")

        proxy.lead_to(other.port)

        assert ended(before)
    with connect(proxy) as after:
        exchange(after, b"after")
    assert (echo.received, other.received) == (b"before", b"after")
    other.close()


def test_it_leads_elsewhere_while_connections_are_refused_and_requests_held(proxy: Proxy, echo: EchoServer) -> None:
    other = EchoServer()
    with connect(proxy) as before:
        proxy.hold_requests()
        before.sendall(b"held")
        proxy.wait_held()
        proxy.refuse()

        proxy.lead_to(other.port)
        proxy.release_requests()
        proxy.accept()

    # then what was held for the old server reaches neither
    with connect(proxy) as after:
        assert exchange(after, b"after") == b"after"
    assert (echo.received, other.received) == (b"", b"after")
    other.close()


def test_a_stall_moves_nothing_until_go(proxy: Proxy, echo: EchoServer) -> None:
    with connect(proxy) as client:
        exchange(client, b"x")
        proxy.stall()
        client.sendall(b"later")
        assert nothing_comes(client)
        assert echo.received == b"x"

        proxy.go()
        assert client.recv(100) == b"later"


def test_a_stall_of_replies_lets_requests_through(proxy: Proxy, echo: EchoServer) -> None:
    with connect(proxy) as client:
        exchange(client, b"x")
        proxy.stall("replies")
        client.sendall(b"y")
        assert eventually(lambda: echo.received == b"xy")
        assert nothing_comes(client)

        proxy.go()
        assert client.recv(100) == b"y"


def test_a_stall_of_requests_lets_replies_through(any_redis: RedisServer) -> None:
    # given a subscriber, whose messages come without a request
    assert any_redis.socket_path is not None
    with Proxy(any_redis.socket_path) as proxy, redis.Redis.from_url(proxy.url) as client:
        subscriber = client.pubsub(ignore_subscribe_messages=True)
        subscriber.subscribe("news")
        subscriber.get_message(timeout=PATIENCE_S)
        proxy.stall("requests")

        with redis.Redis.from_url(any_redis.url) as publisher:
            publisher.publish("news", "hello")

        assert eventually(lambda: (subscriber.get_message(timeout=1) or {}).get("data") == b"hello")
        subscriber.close()


def test_a_client_that_sends_much_into_a_stall_blocks(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.stall()
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):
            client.sendall(b"x" * (64 << 20))


def test_a_cut_during_a_stall_loses_what_was_on_its_way(proxy: Proxy, echo: EchoServer) -> None:
    with connect(proxy) as client:
        exchange(client, b"x")
        proxy.stall()
        client.sendall(b"lost")
        assert nothing_comes(client)
        proxy.cut()
        proxy.go()
        assert ended(client)

    assert echo.received == b"x"


def test_a_delay_adds_to_each_request_and_not_to_their_sum(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(fault_proxy, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with connect(proxy) as first, connect(proxy) as second:
        # given requests of two connections, and another one that comes later
        proxy.delay(0.2)
        first.sendall(b"a")
        second.sendall(b"b")
        assert eventually(lambda: on_their_way(proxy) == 2)
        now[0] += 0.1
        first.sendall(b"c")
        assert eventually(lambda: on_their_way(proxy) == 3)
        assert nothing_comes(first)
        assert nothing_comes(second)
        # when the delay of the first two is over
        now[0] += 0.125
        # then both of them are there, and the third is not
        assert first.recv(100) + second.recv(100) == b"ab"
        assert nothing_comes(first)
        now[0] += 0.1
        assert first.recv(100) == b"c"

        proxy.delay(0)
        assert exchange(first, b"at once") == b"at once"


def on_their_way(proxy: Proxy) -> int:
    with proxy.changed:
        return sum(len(link.queue) for link in proxy._links)


def test_a_dropped_reply_means_that_the_server_had_the_request(proxy: Proxy, echo: EchoServer) -> None:
    with connect(proxy) as client:
        dropped = proxy.drop_reply_after(2)
        assert exchange(client, b"one") == b"one"
        client.sendall(b"two")
        assert ended(client)
        assert dropped.wait(PATIENCE_S)

    assert echo.received == b"onetwo"
    with connect(proxy) as client:
        assert exchange(client, b"three") == b"three"


def test_only_matching_requests_count_for_the_reply_to_drop(proxy: Proxy) -> None:
    with connect(proxy) as client:
        dropped = proxy.drop_reply_after(matching=b"SECRET")
        assert exchange(client, b"hello") == b"hello"
        assert not dropped.is_set()
        client.sendall(b"a SECRET")
        assert ended(client)


def test_a_held_request_reaches_the_server_after_its_client_has_gone(proxy: Proxy, echo: EchoServer) -> None:
    with connect(proxy) as client:
        proxy.hold_requests()
        client.sendall(b"late")
        proxy.wait_held()
    assert eventually(lambda: proxy.connections == 0)
    assert echo.received == b""

    proxy.release_requests()

    assert eventually(lambda: echo.received == b"late")


def test_a_held_request_survives_a_cut(proxy: Proxy, echo: EchoServer) -> None:
    with connect(proxy) as client:
        proxy.hold_requests(matching=b"late")
        assert exchange(client, b"early") == b"early"
        client.sendall(b"late")
        proxy.wait_held()
        proxy.cut()
        assert ended(client)

    proxy.release_requests()

    assert eventually(lambda: echo.received == b"earlylate")


def test_a_held_request_of_a_client_that_waits_is_answered_after_its_release(proxy: Proxy) -> None:
    with connect(proxy) as client:
        proxy.hold_requests()
        client.sendall(b"patient")
        proxy.wait_held()
        assert nothing_comes(client)
        proxy.release_requests()
        assert client.recv(100) == b"patient"


def test_a_client_sees_the_end_when_the_server_is_not_there() -> None:
    with socket.socket() as nobody:  # it has the port, and does not listen
        nobody.bind(("127.0.0.1", 0))
        with Proxy(nobody.getsockname()[1]) as proxy, connect(proxy) as client:
            assert ended(client)


def test_after_close_no_thread_of_the_proxy_is_left(echo: EchoServer) -> None:
    # given a proxy with every kind of unfinished business
    before = {thread for thread in threading.enumerate() if "_echo" not in thread.name}
    proxy = Proxy(echo.port)
    with connect(proxy) as first, connect(proxy) as second:
        exchange(second, b"x")
        proxy.hold_requests()
        first.sendall(b"held")
        proxy.wait_held()
        proxy.stall()

        # when it is closed
        proxy.close()

    # then only threads of the echo server may be new
    assert all("_echo" in thread.name for thread in set(threading.enumerate()) - before)


# Over Redis


def test_redis_commands_are_split_whole_wherever_the_bytes_are_cut() -> None:
    first, second = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$4\r\n\r\n*1\r\n"
    buffer = bytearray()
    found = []
    for byte in first + second:
        buffer.append(byte)
        found += split_requests(buffer)

    assert found == [first, second]
    assert not buffer


def test_a_lost_reply_of_a_redis_command_leaves_its_effect(redis_proxy: Proxy, any_redis: RedisServer) -> None:
    with redis.Redis.from_url(redis_proxy.url) as client, redis.Redis.from_url(any_redis.url) as direct:
        redis_proxy.drop_reply_after(matching=b"INCR")
        with pytest.raises(redis.ConnectionError):
            client.incr("counter")

        assert direct.get("counter") == b"1"
        assert client.incr("counter") == 2


def test_the_nth_of_several_commands_loses_its_reply(redis_proxy: Proxy, any_redis: RedisServer) -> None:
    with redis.Redis.from_url(redis_proxy.url) as client:
        redis_proxy.drop_reply_after(3, matching=b"INCR")
        assert client.incr("counter") == 1
        assert client.incr("counter") == 2
        with pytest.raises(redis.ConnectionError):
            client.incr("counter")
        assert client.incr("counter") == 4


def test_a_delayed_redis_command_is_executed_after_what_came_later(redis_proxy: Proxy, any_redis: RedisServer) -> None:
    # given a client whose write is held until it gave up
    with connect(redis_proxy) as client:
        redis_proxy.hold_requests(matching=b"SET")
        client.sendall(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$4\r\nlate\r\n")
        redis_proxy.wait_held()
    assert eventually(lambda: redis_proxy.connections == 0)

    with redis.Redis.from_url(any_redis.url) as direct:
        # when somebody else writes first and the held request is released
        direct.set("key", "early")
        redis_proxy.release_requests()

        # then the late one is executed all the same
        assert eventually(lambda: direct.get("key") == b"late")


def test_large_values_pass_unharmed(redis_proxy: Proxy) -> None:
    value = bytes(range(256)) * (1 << 14)
    with redis.Redis.from_url(redis_proxy.url) as client:
        client.set("key", value)
        assert client.get("key") == value


def test_a_pipeline_of_many_commands_passes(redis_proxy: Proxy) -> None:
    with redis.Redis.from_url(redis_proxy.url) as client:
        pipeline = client.pipeline(transaction=False)
        for _ in range(2000):
            pipeline.incr("counter")
        assert pipeline.execute()[-1] == 2000


def test_a_flow_that_is_lost_says_nothing_any_more_and_another_one_goes_on(
    redis_proxy: Proxy, any_redis: RedisServer
) -> None:
    lost = redis_proxy.lose_flow(matching=b"SET")
    with connect(redis_proxy) as flow:
        flow.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert flow.recv(100) == b"+PONG\r\n"
        flow.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\n1\r\n")
        assert lost.wait(PATIENCE_S)
        flow.sendall(b"*1\r\n$4\r\nPING\r\n")
        assert nothing_comes(flow)
        with redis.Redis.from_url(redis_proxy.url) as another:
            assert another.get("k") is None
            assert another.set("k", "2")
