"""Who waits for an acknowledgement: in the order of records, told once, forgotten when they leave."""

from __future__ import annotations

import random

from replicator.format.ids import RecordId
from replicator.node.waiters import Level, Sleeper, Waiter, Waiters, tell

LEVEL = Level("applied", 1)


def waiter(n: int, term: int = 1) -> Sleeper:
    return Sleeper(LEVEL, RecordId(term, n), 0.0)


def test_they_are_in_the_order_of_their_records_whoever_came_first() -> None:
    waiters = Waiters()
    every = [waiter(n, term) for term in (1, 2) for n in (3, 1, 2, 2)]
    for each in random.Random(1).sample(every, len(every)):
        waiters.add(each)
    assert [each.id for each in waiters] == sorted(each.id for each in every)
    assert len(waiters) == 8


def test_the_first_ones_whose_wait_is_over_are_taken_out_and_no_others_are_looked_at() -> None:
    waiters, looked_at = Waiters(), []
    for n in range(10):
        waiters.add(waiter(n))

    def is_over(each: Waiter) -> bool:
        looked_at.append(each.id.n)
        return each.id.n < 3

    assert [each.id.n for each in waiters.take_while(is_over)] == [0, 1, 2]
    assert looked_at == [0, 1, 2, 3]
    assert [each.id.n for each in waiters] == [3, 4, 5, 6, 7, 8, 9]


def test_who_leaves_is_forgotten_and_may_have_been_taken_out_before() -> None:
    waiters = Waiters()
    every = [waiter(n) for n in (1, 1, 1, 2)]
    for each in every:
        waiters.add(each)
    waiters.drop(every[1])
    waiters.drop(every[1])
    assert list(waiters) == [every[0], every[2], every[3]]
    waiters.take_while(lambda each: True)
    waiters.drop(every[0])
    assert len(waiters) == 0


def test_a_thread_that_was_told_does_not_sleep_for_its_time() -> None:
    sleeper = Sleeper(LEVEL, RecordId(1, 1), float("inf"))
    tell([sleeper])
    sleeper._woken.wait()
