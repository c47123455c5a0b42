"""What counts as an answer of a program, and that whatever it does instead holds nobody up."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from replicator import ConfigError
from replicator.service.run import checking
from tests.support.kv import PATIENCE_S, eventually

Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """The URL of a server that does this with each connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve(answer: Callable[[socket.socket], None]) -> str:
            def run() -> None:
                with suppress(OSError):
                    while True:
                        with server.accept()[0] as connection, suppress(OSError):
                            answer(connection)

            threading.Thread(target=run, daemon=True).start()
            return f"http://127.0.0.1:{server.getsockname()[1]}/"

        yield serve
        server.shutdown(socket.SHUT_RDWR)


def test_what_speaks_no_http_does_not_answer_for_as_long_as_it_goes_on(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "START_S", 0.0)
    url = serve(lambda connection: connection.sendall(b"-ERR unknown command\r\n"))
    asked = checking.Checking(checking.question(url), 0.01)
    eventually(lambda: asked.problem)
    assert "does not answer" in asked.problem
    assert not asked.is_well


def test_one_that_sends_a_little_now_and_then_does_not_answer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "ANSWER_WITHIN_S", 0.2)
    ask_with = checking.ask
    # given that no byte is waited for too long, not even on a machine that stands still now and then

    def patient(url: str, **more: Any) -> Any:
        return ask_with(url, **more | {"timeout_s": PATIENCE_S})

    monkeypatch.setattr(checking, "ask", patient)
    over = threading.Event()

    def drips(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not over.wait(0.02):
            connection.sendall(b"x")

    ask = checking.question(serve(drips))
    said: list[str] = []
    asking = threading.Thread(target=lambda: said.append(ask()), daemon=True)
    asking.start()
    eventually(lambda: said)
    over.set()
    assert "has not answered within 0.2 s" in said[0]


def test_silence_counts_by_the_clock_and_not_by_how_often_it_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now, count = [1000.0], []
    monkeypatch.setattr(checking, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def ask() -> str:
        count.append(now[0])
        return "nothing"

    asked = checking.Checking(ask, 0.001)
    eventually(lambda: len(count) > 10 * checking.MISSING_MAX)
    assert not asked.problem
    now[0] += checking.START_S
    eventually(lambda: asked.problem)
    # the one that was under way may have been asked before that
    assert checking.MISSING_MAX - 1 <= count.count(now[0]) <= checking.MISSING_MAX


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:99999/", "http://127.0.0.1:8080 /health"])
def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match="check: "):
        checking.question(url)
