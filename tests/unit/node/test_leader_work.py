"""When work of a leader is begun again, and what it is called. What runs it: test_role_calls.py."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from replicator import ConfigError
from replicator.node.leader_work import RETRY_S_MAX, Every, Once, is_async, runner_of, work_name


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_times_of_a_job_are_counted_from_the_beginning() -> None:
    clock = Clock()
    pace = Every(60.0, clock=clock)
    clock.now += 7.0  # the first run took so long
    assert pace.pause_s(failed=False) == pytest.approx(53.0)
    clock.now += 53.0 + 0.5
    assert pace.pause_s(failed=False) == pytest.approx(59.5)


def test_times_that_pass_while_a_job_runs_are_skipped() -> None:
    clock = Clock()
    pace = Every(60.0, clock=clock)
    clock.now += 185.0
    assert pace.pause_s(failed=False) == pytest.approx(55.0)


def test_a_run_that_ends_right_at_its_time_is_followed_by_the_next_but_one() -> None:
    clock = Clock()
    pace = Every(60.0, clock=clock)
    clock.now += 60.0
    assert pace.pause_s(failed=True) == pytest.approx(60.0)


def test_work_that_returned_is_done_and_what_failed_is_begun_again_later_and_later() -> None:
    clock = Clock()
    pace = Once(clock=clock)
    assert pace.pause_s(failed=False) is None
    pauses = [pace.pause_s(failed=True) or 0.0 for _ in range(12)]
    assert 0 < pauses[0] <= 0.5
    assert RETRY_S_MAX / 2 <= pauses[-1] <= RETRY_S_MAX
    # and one that went well for long begins anew
    clock.now += 3600.0
    assert 0 < (pace.pause_s(failed=True) or 0.0) <= 0.5


async def _coroutine(_: Any) -> None: ...


class _Callable:
    async def __call__(self, _: Any) -> None: ...


def test_coroutine_functions_are_told_from_functions() -> None:
    assert is_async(_coroutine)
    assert is_async(functools.partial(_coroutine))
    assert is_async(_Callable())
    assert not is_async(lambda _: None)
    assert not is_async(print)


def test_work_is_called_what_its_function_is_called() -> None:
    assert work_name(_coroutine) == "_coroutine"
    assert work_name(functools.partial(_coroutine)) == "_coroutine"
    assert work_name(_Callable()) == "_Callable"


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(ConfigError, match="every: 5 cannot be called: give a function of the leadership"):
        runner_of(5, "every")  # type: ignore[arg-type]
