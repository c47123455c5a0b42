"""One line when something begins, one when it is over, and few where it comes and goes."""

from __future__ import annotations

import logging

import pytest

from replicator.runtime.event_log import EventLogger
from replicator.runtime.log_once import SOON_S, Lasting, LogOnce, duration

LOGGER = EventLogger("replicator.test")

BAD = Lasting("bad", "bad.over", "it is well again", logging.ERROR)
ODD = Lasting("odd", "odd.over", "it is even again")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def telling(clock: Clock, caplog: pytest.LogCaptureFixture) -> LogOnce:
    caplog.set_level(logging.INFO, logger="replicator.test")
    return LogOnce(LOGGER, clock=clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]


def test_what_lasts_is_told_when_it_begins_and_when_it_is_over(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(1000):
        telling.tell("disk", BAD, f"the disk is full at 5-{n}")
        clock.now += 1
    telling.over("disk")
    telling.over("disk")
    assert lines(caplog) == ["ERROR the disk is full at 5-0", "INFO it is well again after 16 min 40 s"]


def test_another_problem_and_one_of_another_kind_are_told(telling: LogOnce, caplog: pytest.LogCaptureFixture) -> None:
    assert telling.tell("disk", BAD, "full")
    assert telling.tell("log", BAD, "full")
    assert telling.tell("disk", BAD, "gone")
    assert telling.tell("disk", BAD, "x", kind="k")
    assert not telling.tell("disk", BAD, "y", kind="k")
    assert len(caplog.records) == 4


def test_what_is_not_over_is_left_out(telling: LogOnce, caplog: pytest.LogCaptureFixture) -> None:
    telling.tell("disk", BAD, "full", kind="full")
    telling.tell("disk", BAD, "slow", kind="slow")
    telling.tell("log", BAD, "gone")
    telling.over("disk", but="slow")
    assert lines(caplog)[3:] == ["INFO it is well again after 0.0 s"]


def test_what_comes_and_goes_all_the_time_is_told_a_few_times(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(36_000):  # an hour, ten times a second
        telling.tell("disk", BAD, "full")
        clock.now += 0.05
        telling.over("disk")
        clock.now += 0.05
    assert len(caplog.records) < 5
    clock.now += 10
    telling.over("disk")
    assert lines(caplog)[-1].startswith("INFO it is well again after ")


def test_what_comes_back_every_now_and_then_is_told_less_and_less(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(360):  # an hour, every 10 s
        telling.tell("disk", BAD, "full")
        for _ in range(20):
            clock.now += 0.5
            telling.over("disk")
    assert len(caplog.records) < 12


def test_what_comes_back_after_a_long_time_is_news_and_over_at_once(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        telling.tell("disk", BAD, "full")
        telling.over("disk")
        clock.now += SOON_S + 1
    assert len(caplog.records) == 6


def test_what_was_gone_for_long_is_news_although_nobody_said_so_again(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    # given something that comes and goes, of which each end is told once
    for _ in range(2):
        telling.tell("claim", ODD, "refused")
        clock.now += 1
        telling.over("claim")
    assert lines(caplog) == ["WARNING refused", "INFO it is even again after 1.0 s", "WARNING refused"]
    # when it comes again much later
    clock.now += 10 * SOON_S
    assert telling.tell("claim", ODD, "refused")
    # then its end before that is told, too
    assert lines(caplog)[3:] == ["INFO it is even again after 1.0 s", "WARNING refused"]


def test_it_lasted_until_it_was_first_seen_to_be_gone(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    # given something that was back soon, so that it has to be gone for a while before it is called over
    telling.tell("disk", BAD, "full")
    telling.over("disk")
    telling.tell("disk", BAD, "full", place="/data")
    clock.now += 30
    telling.over("disk")
    # when that while is over
    clock.now += 5
    telling.over("disk")
    # then the while is none of its time
    last = caplog.records[-1]
    assert (last.getMessage(), vars(last)["event"]) == ("it is well again after 30 s", "bad.over")
    assert (vars(last)["lasted_s"], vars(last)["place"]) == (30.0, "/data")


def test_the_end_of_an_exception_has_no_traceback(telling: LogOnce, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("x")
    except ValueError:
        telling.tell("bug", BAD, "a bug", exc_info=True)
    telling.over("bug")
    assert [record.exc_info is None for record in caplog.records] == [False, True]


def test_what_another_line_ends_is_told_no_more(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert telling.forget("disk") is None
    telling.tell("disk", BAD, "full")
    clock.now += 2
    assert telling.forget("disk") == 2.0
    telling.over("disk")
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7380, "2 h 3 min")],
)
def test_a_duration_is_said_as_exactly_as_matters(seconds: float, words: str) -> None:
    assert duration(seconds) == words
