"""When a snapshot is due: what the changes weigh, how long ago the newest one was sent, and how long that took."""

from __future__ import annotations

import pytest

from replicator.protocol.snapshot_due import (
    NEVER,
    OUTWEIGHED_TIMES_MAX,
    OVERDUE_BYTES_MIN,
    PAUSE_S_MIN,
    PAUSE_TIMES,
    SNAPSHOT_DUE_BYTES_MIN,
    changes_bytes_max,
    snapshot_is_due,
)

MB = 1_000_000
LARGE = 20 * MB


def is_due(changes_bytes: int, snapshot_bytes: int = LARGE, *, took_s: float = 0.0, ago_s: float = NEVER) -> bool:
    return snapshot_is_due(changes_bytes, snapshot_bytes, took_s=took_s, ago_s=ago_s)


@pytest.mark.parametrize("ago_s", [0.0, 1.0, 3600.0, NEVER])
def test_none_is_due_before_the_changes_outweigh_the_newest_one(ago_s: float) -> None:
    assert not is_due(0, ago_s=ago_s)
    assert not is_due(LARGE, ago_s=ago_s)


@pytest.mark.parametrize("snapshot_bytes", [0, 1, 1000, SNAPSHOT_DUE_BYTES_MIN])
def test_few_changes_make_none_due_however_small_the_newest_one_is(snapshot_bytes: int) -> None:
    assert not is_due(SNAPSHOT_DUE_BYTES_MIN, snapshot_bytes)
    assert is_due(SNAPSHOT_DUE_BYTES_MIN + 1, snapshot_bytes)


def test_a_boot_that_sent_none_makes_no_pause() -> None:
    assert is_due(LARGE + 1)


def test_behind_one_that_took_long_is_a_pause_of_many_times_as_long() -> None:
    pause_s = PAUSE_TIMES * 2.0
    assert not is_due(LARGE + 1, took_s=2.0, ago_s=pause_s - 0.001)
    assert is_due(LARGE + 1, took_s=2.0, ago_s=pause_s)


def test_behind_one_that_took_no_time_is_a_short_pause_all_the_same() -> None:
    assert not is_due(2 * MB, 1000, took_s=0.001, ago_s=PAUSE_S_MIN - 0.001)
    assert is_due(2 * MB, 1000, took_s=0.001, ago_s=PAUSE_S_MIN)


@pytest.mark.parametrize("snapshot_bytes", [0, 1000, LARGE])
def test_the_log_stays_bounded_however_long_one_took(snapshot_bytes: int) -> None:
    most = changes_bytes_max(snapshot_bytes)
    assert most == max(OUTWEIGHED_TIMES_MAX * snapshot_bytes, OVERDUE_BYTES_MIN)
    assert not is_due(most, snapshot_bytes, took_s=3600.0, ago_s=0.0)
    assert is_due(most + 1, snapshot_bytes, took_s=3600.0, ago_s=0.0)


@pytest.mark.parametrize("a_second", [0.1 * MB, 2 * MB, 10 * MB, 100 * MB])
@pytest.mark.parametrize(("snapshot_bytes", "took_s"), [(1000, 0.002), (5 * MB, 0.7), (LARGE, 3.0), (5 * MB, 60.0)])
def test_sending_takes_a_small_share_of_the_time_or_the_changes_are_many(
    snapshot_bytes: int, took_s: float, a_second: float
) -> None:
    # given a writer of so many bytes a second, and a primary that looks ten times a second
    at = changes = sent_s = 0.0
    ended = -NEVER
    snapshots: list[float] = []
    while len(snapshots) < 6:
        at, changes = at + 0.1, changes + 0.1 * a_second
        if snapshot_is_due(int(changes), snapshot_bytes, took_s=took_s if snapshots else 0.0, ago_s=at - ended):
            snapshots.append(changes)
            at, changes = at + took_s, took_s * a_second  # what came while it was sent is not in it
            sent_s, ended = sent_s + took_s, at
    # then the time that went into them is bounded, or the bytes that came for each of them are many, and no more
    after_first = snapshots[1:]
    most = changes_bytes_max(snapshot_bytes)
    came_meanwhile = (took_s + 0.1) * a_second
    assert max(after_first) <= max(most, came_meanwhile) + 0.1 * a_second + 1
    assert sent_s <= (at + took_s) / (1 + PAUSE_TIMES) + took_s or min(after_first) >= most
