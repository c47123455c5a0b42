"""Work of the leader in a group whose clock the test moves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from replicator import DictState, Leadership, put
from replicator.node import leader_work, watch
from replicator.node.events import NodeEvent
from replicator.testing import Cluster, leader_time
from tests.support.kv import PATIENCE_S, eventually

NEVER_S = 10 * PATIENCE_S


@pytest.fixture(autouse=True)
def the_clock_waits_for_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a machine that stands still for so long that a run would count as one that takes long."""
    monkeypatch.setattr(leader_time, "RUN_S", PATIENCE_S / 2)


def until_told(begun: list[Leadership]) -> Callable[[Leadership], None]:
    def work(leadership: Leadership) -> None:
        begun.append(leadership)
        leadership.lost.wait(NEVER_S)

    return work


def test_a_job_is_done_at_its_times_by_the_clock_of_the_cluster() -> None:
    with Cluster(3, DictState) as cluster:
        began, ticks = cluster.now, []

        @cluster["a"].every(7.31)  # when nothing else is due
        def job(leadership: Leadership) -> None:
            time.sleep(0.01)  # it takes a while, and the clock waits for it
            leadership.submit(put("ticks", len(ticks)))
            ticks.append(round(cluster.now - began, 3))

        cluster.advance(100)
        assert ticks == [round(7.31 * count, 3) for count in range(14)]
        assert cluster.states()["c"] == [{"ticks": 13}]


def test_work_is_told_and_has_ended_when_the_group_has_settled() -> None:
    with Cluster(3, DictState) as cluster:
        begun: dict[str, list[Leadership]] = {name: [] for name in cluster}
        ended: list[tuple[str, float]] = []

        def work_of(name: str) -> Callable[[Leadership], None]:
            def work(leadership: Leadership) -> None:
                until_told(begun[name])(leadership)
                time.sleep(0.1)
                ended.append((name, cluster.now))

            return work

        for name in cluster:
            cluster[name].while_leading(work_of(name))
        eventually(lambda: begun["a"])
        cluster.cut("a")
        over_at = cluster["a"]._setup.lease.work_until
        cluster.settle()
        assert ended == [("a", pytest.approx(over_at, abs=0.01))]
        eventually(lambda: begun["b"])
        cluster.advance(600)
        assert (len(begun["a"]), len(begun["b"]), begun["c"]) == (1, 1, [])
        assert len(ended) == 1, "it leads on"


def test_the_whole_lease_for_which_work_waits_passes_by_the_clock() -> None:
    with Cluster(2, DictState, lease_s=3600.0, beat_every_s=60.0) as cluster:
        begun: list[Leadership] = []
        cluster["b"].while_leading(until_told(begun))
        cluster.promote("b")
        cluster.advance(3500)
        assert begun == []
        cluster.advance(200)
        eventually(lambda: begun)


def test_what_failed_is_tried_again_by_the_clock() -> None:
    with Cluster(1, DictState) as cluster:
        attempts: list[float] = []

        @cluster["a"].while_leading
        def fails(leadership: Leadership) -> None:
            attempts.append(cluster.now)
            raise ValueError("no disk")

        (work,) = cluster["a"]._roles._works
        for _ in range(10):
            eventually(lambda: work.due_at is not None, "it pauses")
            cluster.advance(leader_work.RETRY_S_MAX)
        eventually(lambda: len(attempts) > 10)
        assert attempts == sorted(set(attempts))
        assert "no disk" in cluster["a"].problem


def test_a_job_that_takes_long_does_not_hold_the_clock_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_time, "RUN_S", 0.1)
    with Cluster(1, DictState) as cluster:
        goes_on, runs = threading.Event(), []

        @cluster["a"].every(10)
        def waits(leadership: Leadership) -> None:
            runs.append(cluster.now)
            goes_on.wait(NEVER_S)

        now = cluster.now
        cluster.advance(100)
        assert cluster.now == now + 100
        eventually(lambda: runs)
        assert len(runs) == 1, "once at a time"
        goes_on.set()


def test_tasks_of_another_loop_keep_time_as_well() -> None:
    async def main(cluster: Cluster[DictState]) -> list[float]:
        began, ticks = cluster.now, []

        @cluster["a"].every(10)
        async def job(leadership: Leadership) -> None:
            await asyncio.sleep(0.01)
            ticks.append(round(cluster.now - began, 3))

        await asyncio.to_thread(cluster.advance, 50)
        return ticks

    with Cluster(2, DictState) as cluster:
        assert asyncio.run(main(cluster)) == [0, 10, 20, 30, 40, 50]


def test_a_task_that_was_cancelled_in_its_pause_is_not_due_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[None] = []

    def moved(self: leader_time.LeaderTime) -> None:
        moves.append(None)
        real(self)

    async def main() -> None:
        @cluster["a"].every(10)
        async def job(leadership: Leadership) -> None: ...

        await asyncio.to_thread(cluster.advance, 15)
        cluster.cut("a")
        await asyncio.to_thread(cluster.settle)
        await asyncio.to_thread(cluster.advance, 60)

    real = leader_time.LeaderTime.moved
    monkeypatch.setattr(leader_time.LeaderTime, "moved", moved)
    with Cluster(2, DictState) as cluster:
        asyncio.run(main())
    assert len(moves) < 10_000, "it goes on in steps of a millisecond"


def test_tasks_of_the_loop_that_moves_the_clock_go_on_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_time, "RUN_S", NEVER_S)

    async def main(cluster: Cluster[DictState]) -> None:
        ticks: list[float] = []

        @cluster["a"].every(10)
        async def job(leadership: Leadership) -> None:
            ticks.append(cluster.now)

        until = time.monotonic() + PATIENCE_S
        for count in (1, 2, 3):
            while len(ticks) < count:
                assert time.monotonic() < until
                await asyncio.sleep(0.001)
            cluster.advance(10)
            assert len(ticks) == count, "the loop does not turn meanwhile"

    with Cluster(2, DictState) as cluster:
        asyncio.run(main(cluster))


def test_events_come_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY_S", 3600.0)
    with Cluster(1, DictState, lease_s=3600.0, beat_every_s=60.0) as cluster:
        heard: list[NodeEvent] = []
        cluster["a"]._setup.watch.listen(lambda event: heard.append(event) if event else None)
        assert heard[-1].leads
        time.sleep(0.1)  # the thread that looks waits now
        cluster.pause("a")  # so that nothing of it reports anything
        cluster.advance(3700)
        eventually(lambda: not heard[-1].leads)
