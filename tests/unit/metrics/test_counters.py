"""What a node counts."""

from __future__ import annotations

import time

import pytest

from replicator.errors import LogUnavailable, OutcomeUnknown, ReplicatorError, name_of
from replicator.metrics.counters import NOTED_MAX, STAGES, Counters, Timings, phase


def test_times_are_taken_only_once_somebody_asks() -> None:
    counters = Counters()
    assert counters.timings is None
    counters.watch()
    timings = counters.timings
    assert isinstance(timings, Timings)
    counters.watch()
    assert counters.timings is timings, "what was measured stays"
    assert tuple(timings.by_stage) == STAGES


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LogUnavailable(url="u", problem="p"), "log_unavailable"),
        (OutcomeUnknown(url="u", problem="p"), "outcome_unknown"),
        (ReplicatorError("x"), "replicator_error"),
    ],
)
def test_errors_are_counted_by_a_code(error: ReplicatorError, code: str) -> None:
    counters = Counters()
    counters.failed(error, 2)
    assert counters.errors == {code: 2}
    assert name_of(error) == code


def test_a_phase_counts_what_failed_in_it_as_well() -> None:
    counters = Counters()

    def fails() -> None:
        with phase(counters.snapshot_s, "draw"):
            time.sleep(0.001)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert counters.snapshot_s["draw"] >= 0.001


def test_building_is_what_is_neither_saving_nor_swapping() -> None:
    counters = Counters()
    counters.restore_s["save"] = 100.0  # of a restore before
    with counters.restoring():
        time.sleep(0.002)
        with phase(counters.restore_s, "save"):
            time.sleep(0.001)
        counters.restore_s["swap"] += 1000.0
    assert counters.restore_s["build"] == 0.0, "it took no thousand seconds"
    with counters.restoring():
        time.sleep(0.002)
    assert counters.restore_s["build"] >= 0.002


def test_a_standby_that_applied_many_records_at_once_counts_each() -> None:
    timings = Timings()
    timings.followed(4, 0.2, [round(time.time() * 1000) - 1000] * 3)
    apply, standby = timings.by_stage["apply"], timings.by_stage["standby"]
    assert (apply.count, apply.sum) == (4, pytest.approx(0.2))
    assert standby.count == 3
    assert standby.sum == pytest.approx(3.0, abs=0.1) or standby.sum > 3.0


def test_a_clock_that_is_behind_the_writers_makes_no_negative_time() -> None:
    timings = Timings()
    timings.followed(1, 0.1, [round(time.time() * 1000) + 60_000])
    assert timings.by_stage["standby"].sum == 0.0


def test_what_a_write_took_is_in_its_buckets_once_somebody_has_the_time() -> None:
    timings = Timings()
    timings.wrote(([7.0, 8.5], 5, 9.0, 9.25, 9.75))
    assert timings.by_stage["append"].count == 0
    timings.settle()
    timings.settle()
    told = {stage: (each.count, each.sum) for stage, each in timings.by_stage.items() if each.count}
    assert told == {"queue": (2, 2.5), "append": (1, 0.25), "apply": (1, 0.5)}
    assert (timings.batch.count, timings.batch.sum) == (1, 5)


def test_a_record_for_which_nobody_waits_has_no_queue_and_is_no_batch() -> None:
    timings = Timings()
    timings.wrote(((), 0, 9.0, 9.25, 9.75))
    timings.settle()
    assert (timings.by_stage["append"].count, timings.batch.count) == (1, 0)


def test_what_is_noted_does_not_grow_for_ever() -> None:
    timings = Timings()
    for _ in range(3 * NOTED_MAX):
        timings.wrote(((), 1, 0.0, 0.0, 0.0))
    assert len(timings._writes) < NOTED_MAX
    timings.settle()
    assert timings.by_stage["append"].count == 3 * NOTED_MAX


def test_a_save_that_is_synced_is_a_sync() -> None:
    timings = Timings()
    timings.saved(0.1, synced=False)
    timings.saved(0.2, synced=True)
    assert [timings.by_stage[stage].sum for stage in ("save", "sync")] == [0.1, 0.2]
