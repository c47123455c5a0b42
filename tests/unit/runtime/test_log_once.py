"""One line when something begins, one when it is over, and few where it comes and goes."""

from __future__ import annotations

import logging

import pytest

from replicator.runtime.log_once import SOON_S, LogOnce

LOGGER = logging.getLogger("replicator.test")


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
        telling.tell("disk", logging.ERROR, f"the disk is full at 5-{n}")
        clock.now += 1
    telling.over("disk")
    telling.over("disk")
    assert lines(caplog) == ["ERROR the disk is full at 5-0", "INFO over: the disk is full at 5-0"]


def test_another_problem_and_one_of_another_kind_are_told(telling: LogOnce, caplog: pytest.LogCaptureFixture) -> None:
    assert telling.tell("disk", logging.ERROR, "full")
    assert telling.tell("log", logging.ERROR, "full")
    assert telling.tell("disk", logging.ERROR, "gone")
    assert telling.tell("disk", logging.ERROR, "x", kind="k")
    assert not telling.tell("disk", logging.ERROR, "y", kind="k")
    assert len(caplog.records) == 4


def test_what_is_not_over_is_left_out(telling: LogOnce, caplog: pytest.LogCaptureFixture) -> None:
    telling.tell("disk", logging.ERROR, "full", kind="full")
    telling.tell("disk", logging.ERROR, "slow", kind="slow")
    telling.tell("log", logging.ERROR, "gone")
    telling.over("disk", but="slow")
    assert lines(caplog)[3:] == ["INFO over: full"]


def test_what_comes_and_goes_all_the_time_is_told_a_few_times(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(36_000):  # an hour, ten times a second
        telling.tell("disk", logging.ERROR, "full")
        clock.now += 0.05
        telling.over("disk")
        clock.now += 0.05
    assert len(caplog.records) < 5
    clock.now += 10
    telling.over("disk")
    assert lines(caplog)[-1] == "INFO over: full"


def test_what_comes_back_every_now_and_then_is_told_less_and_less(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(360):  # an hour, every 10 s
        telling.tell("disk", logging.ERROR, "full")
        for _ in range(20):
            clock.now += 0.5
            telling.over("disk")
    assert len(caplog.records) < 12


def test_what_comes_back_after_a_long_time_is_news_and_over_at_once(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        telling.tell("disk", logging.ERROR, "full")
        telling.over("disk")
        clock.now += SOON_S + 1
    assert len(caplog.records) == 6


def test_what_was_gone_for_long_is_news_although_nobody_said_so_again(
    telling: LogOnce, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    # given something that comes and goes, of which each end is told once
    for _ in range(2):
        telling.tell("claim", logging.WARNING, "refused")
        clock.now += 1
        telling.over("claim")
    assert lines(caplog) == ["WARNING refused", "INFO over: refused", "WARNING refused"]
    # when it comes again much later
    clock.now += 10 * SOON_S
    assert telling.tell("claim", logging.WARNING, "refused")
    # then its end before that is told, too
    assert lines(caplog)[3:] == ["INFO over: refused", "WARNING refused"]
