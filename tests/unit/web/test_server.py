"""The HTTP server in its thread: it listens when start returns, and it ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import signal
import socket
import threading
import time

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from replicator.errors import ConfigError
from replicator.web import server as module
from replicator.web.server import STOP_WITHIN_S, WebServer
from tests.support import plain_http
from tests.support.kv import PATIENCE_S, eventually


def application(arrived: threading.Event | None = None) -> Starlette:
    """`arrived`: a slow request has come."""

    async def hello(request: Request) -> Response:
        return PlainTextResponse("hello")

    async def slow(request: Request) -> Response:
        if arrived is not None:
            arrived.set()
        await asyncio.sleep(float(request.query_params["s"]))
        return PlainTextResponse("late")

    return Starlette(routes=[Route("/", hello), Route("/slow", slow)])


def test_port_zero_becomes_a_real_one_that_answers_at_once() -> None:
    # given
    server = WebServer(application(), port=0)
    # when
    server.start()
    # then
    try:
        assert server.port > 0
        assert server.url == f"http://127.0.0.1:{server.port}"
        assert plain_http.get(server.url).text == "hello"
    finally:
        server.stop()


def test_stop_closes_the_port_soon_and_twice_is_fine() -> None:
    def stop_s() -> float:
        # given
        server = WebServer(application())
        server.start()
        with plain_http.Client() as client:
            client.get(server.url)  # a connection that is kept alive must not hold the stop up
            # when
            began = time.monotonic()
            server.stop()
            server.stop()
            took_s = time.monotonic() - began
        # then
        with pytest.raises(httpx.ConnectError):
            plain_http.get(server.url)
        is_left = any(thread.name == f"http-{server.port}" for thread in threading.enumerate())
        return math.inf if is_left else took_s

    eventually(lambda: stop_s() < STOP_WITHIN_S, "a stop that is not held up")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_segment_of_an_answer_waits_for_the_acknowledgement_of_the_one_before(host: str) -> None:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with WebServer(application(), host=host) as server, plain_http.Client() as client:
        # given a connection that was answered, and is kept alive
        client.get(server.url)
        assert server._server is not None
        [connection] = server._server.server_state.connections
        # then
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_port_in_use_is_an_error_that_names_it_and_leaves_no_thread() -> None:
    # given
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = WebServer(application(), port=port)
        threads = threading.active_count()
        # when
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}: cannot listen there"):
            server.start()
    # then
    assert threading.active_count() <= threads
    server.stop()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 99999), ("no-such-host.invalid", 0)])
def test_an_address_that_does_not_exist_is_an_error_of_the_settings(host: str, port: int) -> None:
    with pytest.raises(ConfigError):
        WebServer(application(), host=host, port=port).start()


def test_a_port_can_be_taken_again_right_after_a_stop() -> None:
    # given
    first = WebServer(application())
    first.start()
    plain_http.get(first.url)
    first.stop()
    # when
    with WebServer(application(), port=first.port) as second:
        # then
        assert plain_http.get(second.url).text == "hello"


def test_a_request_that_runs_gets_its_answer_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    # given
    monkeypatch.setattr(module, "STOP_WITHIN_S", PATIENCE_S)
    answers: list[str] = []
    arrived = threading.Event()
    server = WebServer(application(arrived))
    server.start()
    caller = threading.Thread(target=lambda: answers.append(plain_http.get(f"{server.url}/slow?s=0.6").text))
    caller.start()
    assert arrived.wait(PATIENCE_S)
    # when
    server.stop()
    caller.join()
    # then
    assert answers == ["late"]


def test_a_request_that_never_ends_does_not_hold_the_stop_up() -> None:
    # given
    arrived = threading.Event()
    server = WebServer(application(arrived))
    server.start()
    caller = threading.Thread(target=lambda: _swallow(f"{server.url}/slow?s=60"))
    caller.start()
    assert arrived.wait(PATIENCE_S)
    # when
    began = time.monotonic()
    server.stop()
    # then
    assert time.monotonic() - began < PATIENCE_S / 2
    caller.join(PATIENCE_S)
    assert not caller.is_alive()


def _swallow(url: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        plain_http.get(url, timeout=PATIENCE_S)


def test_signals_and_logging_stay_with_the_process() -> None:
    # given
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    outputs = list(logging.getLogger().handlers)
    # when
    with WebServer(application()) as server:
        plain_http.get(server.url)
        running = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    # then
    assert running == handlers == [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    assert logging.getLogger().handlers == outputs
    assert logging.getLogger("uvicorn").handlers == []


def test_a_server_starts_once() -> None:
    with WebServer(application()) as server, pytest.raises(RuntimeError):
        server.start()


def test_an_ipv6_address_is_written_with_brackets() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    with WebServer(application(), host="::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert plain_http.get(server.url).text == "hello"
