"""Whether a file was written: what stamps show, and when they show nothing yet."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.state import file_stamps as module
from replicator.state.file_stamps import COARSE_TICK_S, FINE_TICK_S, Watch

NOW_S = 1_900_000_000.5


class Clocks:
    """What this machine's clocks say."""

    def __init__(self) -> None:
        self.wall_s = NOW_S
        self.monotonic_s = 50.0

    def go(self, seconds: float) -> None:
        self.wall_s += seconds
        self.monotonic_s += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    time = SimpleNamespace(time=lambda: clocks.wall_s, monotonic=lambda: clocks.monotonic_s)
    monkeypatch.setattr(module, "time", time)
    return clocks


def found(changed_s: float, **others: Any) -> os.stat_result:
    fields = {"st_dev": 1, "st_ino": 2, "st_size": 3, "st_mtime_ns": 4, "st_ctime_ns": int(changed_s * 1e9)}
    return SimpleNamespace(**fields | others)  # type: ignore[return-value]


@pytest.mark.parametrize("what", ["st_dev", "st_ino", "st_size", "st_mtime_ns", "st_ctime_ns"])
def test_any_stamp_that_is_another_one_shows(clocks: Clocks, what: str) -> None:
    watch = Watch()
    before = watch.look([found(NOW_S - 60.25)])
    assert watch.look([found(NOW_S - 60.25)]) == before
    assert watch.look([found(NOW_S - 60.25, **{what: 77})]) != before


def test_a_stamp_that_is_younger_than_a_tick_shows_nothing_yet(clocks: Clocks) -> None:
    watch = Watch()
    young = found(NOW_S - FINE_TICK_S / 2)
    assert watch.look([young]) != watch.look([young])
    clocks.go(FINE_TICK_S)
    assert watch.look([young]) == watch.look([young])


def test_a_clock_of_whole_seconds_is_waited_for_whatever_it_says_of_the_time(clocks: Clocks) -> None:
    # given a file server whose clock is an hour behind, and ticks once a second
    watch = Watch()
    old = found(int(NOW_S) - 3600)
    assert watch.look([old]) != watch.look([old])
    clocks.go(COARSE_TICK_S / 2)
    assert watch.look([old]) != watch.look([old])
    clocks.go(COARSE_TICK_S)
    settled = watch.look([old])
    assert watch.look([old]) == settled
    # when it is written, then that is seen at once, and has to settle again
    assert watch.look([found(int(NOW_S) - 3599)]) != settled
    assert watch.look([found(int(NOW_S) - 3599)]) != watch.look([found(int(NOW_S) - 3599)])


def test_a_stamp_from_the_future_settles(clocks: Clocks) -> None:
    watch = Watch()
    ahead = found(NOW_S + 3600.25)
    assert watch.look([ahead]) != watch.look([ahead])
    clocks.go(2 * FINE_TICK_S)
    assert watch.look([ahead]) == watch.look([ahead])


def test_a_counter_shows_what_stamps_do_not(clocks: Clocks) -> None:
    watch = Watch()
    young = found(NOW_S - 0.001)
    before = watch.look([young, None], (b"1", None), counted=True)
    assert watch.look([young, None], (b"1", None), counted=True) == before
    assert watch.look([young, None], (b"2", None), counted=True) != before
    # but a whole database that was copied over it within a second may have the same counter
    coarse = found(int(NOW_S))
    assert watch.look([coarse], (b"2",), counted=True) != watch.look([coarse], (b"2",), counted=True)
