"""Waiting in turn, and asking for all: who waits for how long, and what each of them hears."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from replicator.runtime.sharing import FairLock, Flights, _Flight
from tests.support.kv import PATIENCE_S, eventually, in_thread

NEVER = float("inf")


class Late(Exception):
    pass


# --- turns -----------------------------------------------------------------------------------------------------------


def test_a_lock_is_had_by_one() -> None:
    lock = FairLock()
    assert lock.acquire()
    assert not lock.acquire()
    assert not lock.acquire(0.01)
    lock.release()
    assert lock.acquire()


def test_those_who_wait_get_it_in_the_order_in_which_they_came() -> None:
    lock = FairLock()
    lock.acquire()
    order: list[int] = []

    def wait(number: int) -> None:
        assert lock.acquire(PATIENCE_S)
        order.append(number)
        lock.release()

    waiting = []
    for number in range(5):
        waiting.append(in_thread(lambda number=number: wait(number)))
        eventually(lambda number=number: len(lock._waiting) == number + 1)
    lock.release()
    # Whoever comes while others wait comes after them, although the lock was free for a moment.
    assert lock.acquire(PATIENCE_S)
    assert order == [0, 1, 2, 3, 4]
    for each in waiting:
        each()


def test_who_gave_up_is_not_given_it() -> None:
    lock = FairLock()
    lock.acquire()
    assert not lock.acquire(0.01)
    lock.release()
    assert lock.acquire()


def test_many_threads_never_have_it_together_and_none_loses_it() -> None:
    lock = FairLock()
    inside, taken = [0], [0]

    def work() -> None:
        for _ in range(200):
            if lock.acquire(0.0005):
                inside[0] += 1
                assert inside[0] == 1
                taken[0] += 1
                inside[0] -= 1
                lock.release()

    for done in [in_thread(work) for _ in range(8)]:
        done()
    assert taken[0] > 0
    assert lock.acquire(), "nobody left with it"


# --- one for all -----------------------------------------------------------------------------------------------------


class Room(threading.Condition):
    """Counts who waits in it."""

    waiting = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.waiting += 1
        try:
            return super().wait(timeout)
        finally:
            self.waiting -= 1


class Sky:
    """Questions that are asked one after another. Each waits for `go`, and is answered by its number."""

    def __init__(self) -> None:
        self.begun = 0
        self.go = threading.Semaphore(0)
        self.fails = False
        self.flights: Flights[int] = Flights(self._go, late=Late)
        self.room = self.flights._changed = Room()

    def _go(self, until: float) -> int:
        self.begun += 1
        number = self.begun
        if not self.go.acquire(timeout=min(PATIENCE_S, max(0.0, until - time.monotonic()))):
            raise Late
        if self.fails:
            raise OSError("it went wrong")
        return number

    def ask(self, timeout_s: float = PATIENCE_S) -> int:
        return self.flights.ask(time.monotonic() + timeout_s, takes_s=1.0)


@pytest.fixture
def sky() -> Iterator[Sky]:
    sky = Sky()
    yield sky
    sky.go.release(1000)


def waits(sky: Sky) -> bool:
    return sky.flights._next is not None


def test_one_who_is_alone_asks_for_itself(sky: Sky) -> None:
    sky.go.release(2)
    assert (sky.ask(), sky.ask()) == (1, 2)


def test_who_comes_while_one_is_under_way_shares_the_next_which_begins_after_they_came(sky: Sky) -> None:
    first = in_thread(sky.ask)
    eventually(lambda: sky.begun == 1)
    others = [in_thread(sky.ask) for _ in range(20)]
    eventually(lambda: sky.room.waiting == 20)
    sky.go.release()
    assert first() == 1, "what began before the others asked is no answer for them"
    sky.go.release(20)
    assert {other() for other in others} == {2}


def test_what_goes_wrong_goes_wrong_for_all_who_shared_it(sky: Sky) -> None:
    first = in_thread(sky.ask)
    eventually(lambda: sky.begun == 1)
    second = in_thread(sky.ask)
    eventually(lambda: waits(sky))
    sky.fails = True
    sky.go.release(2)
    for asked in (first, second):
        with pytest.raises(OSError, match="it went wrong"):
            asked()
    sky.fails = False
    sky.go.release()
    assert sky.ask() == 3


def test_who_waits_for_another_one_waits_no_longer_than_it_may(sky: Sky) -> None:
    first = in_thread(sky.ask)
    eventually(lambda: sky.begun == 1)
    began = time.monotonic()
    with pytest.raises(Late):
        sky.ask(0.05)
    assert time.monotonic() - began < PATIENCE_S / 2
    sky.go.release()
    assert first() == 1


def test_one_that_was_cut_short_by_who_asked_it_says_nothing_to_those_who_have_more_time(sky: Sky) -> None:
    first = in_thread(sky.ask)
    eventually(lambda: sky.begun == 1)
    hasty = in_thread(lambda: sky.ask(0.3))
    eventually(lambda: waits(sky))
    patient = in_thread(sky.ask)
    sky.go.release()  # the first; of the two others, whoever asks next may be the hasty one
    assert first() == 1
    with pytest.raises(Late):
        hasty()
    sky.go.release(5)
    assert patient() >= 2


class Unlucky(Flights[int]):
    """Every question that it shares is led by somebody in a hurry."""

    def _board(self, until: float) -> tuple[_Flight[int], bool]:
        flight: _Flight[int] = _Flight()
        flight.cut_short, flight.error = True, Late()
        return flight, False


def test_nobody_shares_with_those_in_a_hurry_for_ever() -> None:
    assert Unlucky(lambda until: 7, late=Late).ask(NEVER, takes_s=1.0) == 7
