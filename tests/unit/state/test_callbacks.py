"""Callbacks are contained: whatever an application's method does, what comes out of it is one of ours, in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from replicator import SnapshotFailed, StateChanged, StateError
from replicator.runtime.reentrancy import Inside
from replicator.state.callbacks import Application, asked_to_end, said
from tests.support.kv import KV, in_thread

BUGS = [KeyError("x"), RecursionError("deep"), MemoryError(), ZeroDivisionError(), RuntimeError("a\nb")]
ENDS = [SystemExit(1), KeyboardInterrupt(), GeneratorExit()]


class Faulty(KV):
    def __init__(self, snapshot: Callable[[], Any], published: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._snapshot, self._published = snapshot, published

    def snapshot(self) -> Any:
        return self._snapshot()

    def survived(self) -> bool:
        return True

    def published(self) -> None:
        self._published()


def application(snapshot: Callable[[], Any], **callbacks: Any) -> Application:
    return Application(Faulty(snapshot, **callbacks), Inside("a"))


def raising(error: BaseException) -> Callable[[], Any]:
    def snapshot() -> Any:
        raise error

    return snapshot


def raising_late(error: BaseException) -> Callable[[], Any]:
    def pieces() -> Iterator[Any]:
        yield 1
        raise error

    return pieces


def drawn(state: Application) -> list[Any]:
    return list(state.snapshot())


@pytest.mark.parametrize("error", BUGS, ids=repr)
def test_a_snapshot_that_raises_is_a_failure_of_the_application(error: Exception) -> None:
    for how in (raising, raising_late):
        with pytest.raises(SnapshotFailed, match=r"the application's snapshot\(\) failed") as raised:
            drawn(application(how(error)))
        assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize("error", ENDS, ids=repr)
def test_so_is_an_end_of_the_program_unless_it_comes_up_on_the_main_thread(error: BaseException) -> None:
    for how in (raising, raising_late):
        with pytest.raises(SnapshotFailed):
            in_thread(lambda how=how: drawn(application(how(error))))()
        with pytest.raises(type(error)):
            drawn(application(how(error)))


@pytest.mark.parametrize("error", [StateError(path="p", problem="away"), StateChanged(path="p")], ids=repr)
def test_what_a_state_is_kept_in_is_not_the_application(error: StateError) -> None:
    for how in (raising, raising_late):
        with pytest.raises(type(error)):
            drawn(application(how(error)))


@pytest.mark.parametrize(
    "gave", [None, 7, object(), {"a": 1}, "text", b"bytes", bytearray(b"x")], ids=lambda gave: type(gave).__name__
)
def test_what_is_no_snapshot_is_told_by_what_it_is(gave: Any) -> None:
    with pytest.raises(SnapshotFailed, match="and not an iterable of pieces"):
        application(lambda: gave).snapshot()


def test_pieces_come_as_they_are_drawn() -> None:
    events: list[str] = []

    def pieces() -> Iterator[int]:
        for number in range(2):
            events.append(f"drawn {number}")
            yield number

    for piece in application(pieces).snapshot():
        events.append(f"had {piece}")
    assert events == ["drawn 0", "had 0", "drawn 1", "had 1"]
    assert drawn(application(lambda: [1, 2])) == [1, 2]


def test_what_published_raises_changes_nothing_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    application(list, published=raising(KeyError("x"))).published()
    assert "published() failed" in caplog.text


def test_a_state_that_keeps_nothing_did_not_survive() -> None:
    state = Application(KV(), Inside("a"))
    state.published()
    assert not state.survived()
    assert application(list).survived()


def test_an_error_that_cannot_be_shown_is_named() -> None:
    class Silent(Exception):
        def __repr__(self) -> str:
            raise ValueError

    assert said(Silent()) == "Silent"
    assert said(ValueError("a\n  b")) == r"ValueError('a\n b')"
    assert "\n" not in said(_Tall())


class _Tall(Exception):
    def __repr__(self) -> str:
        return "two\nlines"


def test_who_asks_for_an_end_is_the_main_thread() -> None:
    assert asked_to_end(SystemExit())
    assert not asked_to_end(ValueError())
    assert not in_thread(lambda: asked_to_end(SystemExit()))()


def test_a_restore_gets_its_pieces() -> None:
    got: list[Any] = []

    class Taking(KV):
        def restore(self, pieces: Iterable[Any]) -> None:
            got.extend(pieces)

    Application(Taking(), Inside("a")).restore(iter([1, 2]))
    assert got == [1, 2]
    assert sys.exc_info() == (None, None, None)
