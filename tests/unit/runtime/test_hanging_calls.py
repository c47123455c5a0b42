"""Questions that hang: who waits for them, and how many there are."""

from __future__ import annotations

import threading

import pytest

from replicator.runtime.hanging_calls import Aside, Question, TooMany
from tests.support.kv import PATIENCE_S, eventually, in_thread


def test_a_question_is_answered_and_one_that_fails_says_why() -> None:
    aside: Aside[int] = Aside("test")
    answered = aside.ask("one", lambda: 1)
    assert answered.wait(PATIENCE_S)
    assert (answered.answer, answered.error) == (1, None)

    def fail() -> int:
        raise OSError("no")

    failed = aside.ask("two", fail)
    assert failed.wait(PATIENCE_S)
    assert (failed.answer, str(failed.error)) == (None, "no")


def test_nobody_waits_longer_than_it_wants_and_the_same_question_is_not_under_way_twice() -> None:
    aside: Aside[int] = Aside("test")
    go = threading.Event()
    asked = aside.ask("one", lambda: int(go.wait(PATIENCE_S)))
    assert not asked.wait(0.01)
    assert not asked.wait(-1)
    assert aside.ask("one", lambda: 2) is asked
    go.set()
    assert asked.wait(PATIENCE_S)
    assert asked.answer == 1
    eventually(lambda: aside.ask("one", lambda: 2) is not asked)


def test_so_many_hang_and_no_more() -> None:
    aside: Aside[bool] = Aside("test", most=2)
    go = threading.Event()
    hanging = [aside.ask(name, lambda: go.wait(PATIENCE_S)) for name in "ab"]
    refused = aside.ask("c", lambda: True)
    assert refused.done
    assert isinstance(refused.error, TooMany)
    go.set()
    assert all(asked.wait(PATIENCE_S) for asked in hanging)


def test_who_waits_for_what_was_given_up_hears_that_and_what_comes_later_is_nothing() -> None:
    aside: Aside[bool] = Aside("test")
    go = threading.Event()
    asked = aside.ask("one", lambda: go.wait(PATIENCE_S))
    aside.give_up(OSError("closed"))
    assert asked.done
    go.set()
    eventually(lambda: aside.ask("one", lambda: True) is not asked)
    assert str(asked.error) == "closed"


class Hesitant(threading.Event):
    """Whoever looks first whether it is set goes on when it may."""

    def __init__(self) -> None:
        super().__init__()
        self.looked, self.go = threading.Event(), threading.Event()

    def is_set(self) -> bool:
        is_set = super().is_set()
        if not self.looked.is_set():
            self.looked.set()
            self.go.wait(PATIENCE_S)
        return is_set


def test_what_it_was_when_it_was_done_it_stays_though_it_was_given_up_in_that_very_moment() -> None:
    asked: Question[int] = Question()
    done = asked._done = Hesitant()
    answering = in_thread(lambda: asked.settle(7))
    assert done.looked.wait(PATIENCE_S)
    giving_up = in_thread(lambda: asked.settle(None, OSError("closed")))
    heard = (asked.answer, asked.error) if asked.wait(0.2) else (7, None)
    done.go.set()
    answering()
    giving_up()
    assert (asked.answer, asked.error) == heard


def test_a_process_that_may_have_no_more_threads_is_an_error_of_that_question(monkeypatch: pytest.MonkeyPatch) -> None:
    aside: Aside[bool] = Aside("test")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        asked = aside.ask("one", lambda: True)
    assert asked.done
    assert str(asked.error) == "can't start new thread"
    assert aside.ask("one", lambda: True).wait(PATIENCE_S)
