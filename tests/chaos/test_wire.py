"""Who calls learns whether the request may have been executed."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from .wire import Answer, Caller, NoAnswer, NotSent, Server


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="wire-") as directory:
        yield Path(directory) / "socket"


def serving(path: Path, answer: Answer) -> Server:
    server = Server(path, answer)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    return server


def ended(server: Server) -> None:
    server.shutdown()
    server.server_close()


def test_requests_are_answered_one_after_the_other(path: Path) -> None:
    server = serving(path, lambda request: {"twice": 2 * request["number"]})
    caller = Caller(path)
    assert [caller.call({"number": number}, 5) for number in range(3)] == [{"twice": 0}, {"twice": 2}, {"twice": 4}]
    caller.close()
    ended(server)


def test_without_anybody_there_nothing_was_sent(path: Path) -> None:
    with pytest.raises(NotSent):
        Caller(path).call({}, 5)


def test_an_answer_that_does_not_come_leaves_it_open_and_does_not_come_later(path: Path) -> None:
    # given a server whose first answer takes its time
    given_up, late = threading.Event(), threading.Event()

    def answer(request: dict[str, object]) -> dict[str, object]:
        if request["number"] == 1:
            given_up.wait()
            late.set()
        return request

    server = serving(path, answer)
    caller = Caller(path)
    # when the caller does not wait for it
    with pytest.raises(NoAnswer):
        caller.call({"number": 1}, 0.05)
    given_up.set()
    late.wait()
    # then its next call gets its own answer
    assert caller.call({"number": 2}, 5) == {"number": 2}
    caller.close()
    ended(server)


def test_a_connection_that_was_closed_meanwhile_is_made_anew(path: Path) -> None:
    # given a caller that has a connection to a server that has gone
    server = serving(path, lambda request: {"boot": 1})
    caller = Caller(path)
    caller.call({}, 5)
    assert caller._connection is not None
    caller._connection.shutdown(0)
    ended(server)
    # when another one is there
    server = serving(path, lambda request: {"boot": 2})
    # then the call gets there at once
    assert caller.call({}, 5) == {"boot": 2}
    caller.close()
    ended(server)
