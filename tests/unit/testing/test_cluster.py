"""A group of nodes in one process whose clock the test moves: what befalls it, and that it says what is in the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from replicator import (
    ConfigError,
    DictState,
    KeyReused,
    LogUnavailable,
    NotPrimary,
    NotRunning,
    WouldDeadlock,
    delete,
    put,
)
from replicator.testing import CheckFailed, Cluster
from tests.support.flags import FlagState
from tests.support.kv import PATIENCE_S, in_thread


@pytest.fixture
def cluster() -> Iterator[Cluster[DictState]]:
    with Cluster(3, DictState) as cluster:
        yield cluster


def test_the_first_one_leads_and_what_it_writes_is_everywhere_at_once(cluster: Cluster[DictState]) -> None:
    assert cluster.names == ["a", "b", "c"]
    assert cluster.primary is cluster["a"]
    assert cluster.standbys == [cluster["b"], cluster["c"]]
    assert cluster.submit(put("x", 1)) is None
    assert cluster.submit(delete("x", "y")) == 1
    cluster.submit(put("z", [1]))
    assert cluster.states() == {name: [{"z": [1]}] for name in "abc"}
    cluster.check_equal()


def test_a_killed_primary_is_replaced_after_its_lease_and_not_before(cluster: Cluster[DictState]) -> None:
    cluster.submit(put("x", 1))
    cluster.kill("a")
    began = cluster.now
    cluster.advance(4.9)
    assert not any(node.leads for node in cluster.nodes.values())
    with pytest.raises(CheckFailed, match=r"no node leads; settle\(\).*a was killed; b is standby at 1-2"):
        _ = cluster.primary
    primary = cluster.settle()
    assert (primary.name, primary.term) == ("b", 2)
    assert 4.9 < cluster.now - began < 6
    cluster.submit(put("y", 2))
    assert cluster.states() == {name: [{"x": 1, "y": 2}] for name in "bc"}


def test_it_is_the_same_each_time_it_runs() -> None:
    def story() -> list[Any]:
        told: list[Any] = []
        with Cluster(3, DictState) as cluster:
            for number, fault in enumerate([cluster.kill, cluster.pause, cluster.cut] * 2):
                cluster.submit(put("x", number))
                name = cluster.primary.name
                fault(name)
                now = cluster.settle().name
                told.append((name, now, cluster.now))
                if fault == cluster.kill:
                    cluster.restart(name)
                (cluster.heal if fault == cluster.cut else cluster.resume)(name)
                cluster.settle()
                told.append([(node.name, node.role, str(node.position.id)) for node in cluster.nodes.values()])
            told.append(cluster.now)
        return told

    first = story()
    assert story() == first


def test_what_a_killed_node_had_not_saved_it_reads_again(cluster: Cluster[DictState]) -> None:
    cluster.advance(1)
    cluster.submit(put("x", 1))
    cluster.submit(put("y", 2))
    cluster.kill("b")
    again = cluster.restart("b")
    cluster.settle()
    cluster.check_equal()
    assert cluster["b"] is again


def test_a_kill_gives_nothing_back_and_a_stop_does(cluster: Cluster[DictState]) -> None:
    began = cluster.now
    cluster.stop("a")
    assert cluster.settle().name == "b"
    assert cluster.now - began < 1
    assert cluster.redis.look().heartbeats["a"].left
    cluster.kill("b")
    assert cluster.redis.look().lease_ms is not None
    assert not cluster.redis.look().heartbeats["b"].left


def test_the_disk_of_a_killed_node_is_as_it_was_at_that_instant(cluster: Cluster[DictState]) -> None:
    cluster.advance(1)
    cluster.submit(put("x", 1))  # saved at once, as nothing was for a while
    cluster.submit(put("y", 2))  # not yet
    cluster.cut()
    cluster.kill("b")
    b = cluster.restart("b")
    assert str(b.position.id) == "1-2"
    with b.reading() as state:
        assert dict(state) == {"x": 1}


def test_a_paused_primary_is_replaced_and_cannot_write_when_it_goes_on(cluster: Cluster[DictState]) -> None:
    old = cluster["a"]
    cluster.pause("a")
    assert cluster.settle() is cluster["b"]
    cluster.submit(put("x", 1))
    with old.reading() as state:
        assert dict(state) == {}
    cluster.resume("a")
    with pytest.raises(NotPrimary):
        old.submit(put("x", 2))
    cluster.settle()
    assert cluster.states() == {name: [{"x": 1}] for name in "abc"}


def test_a_call_of_a_paused_node_that_needs_redis_is_refused(cluster: Cluster[DictState]) -> None:
    cluster.pause("a")
    with pytest.raises(LogUnavailable, match=r"the test paused node a: resume\(\) it first"):
        cluster["a"].submit(put("x", 1))
    cluster.resume("a")
    cluster.submit(put("x", 1))


def test_nothing_is_done_for_a_paused_node_however_long(cluster: Cluster[DictState]) -> None:
    cluster.pause("c")
    beaten_at = cluster.redis.look().heartbeats["c"].beaten_at
    cluster.submit(put("x", 1))
    cluster.advance(600)
    assert cluster.redis.look().heartbeats["c"].beaten_at == beaten_at
    assert cluster.states()["c"] == [{}]
    cluster.resume("c")
    assert cluster.states()["c"] == [{"x": 1}]


def test_a_node_that_is_cut_off_leads_until_its_lease_is_over(cluster: Cluster[DictState]) -> None:
    cluster.cut("a")
    assert cluster["a"].leads
    cluster.advance(4)
    assert cluster["a"].leads
    assert cluster.settle() is cluster["b"]
    assert not cluster["a"].leads
    cluster.heal("a")
    cluster.settle()
    assert cluster.standbys == [cluster["a"], cluster["c"]]


def test_a_switchover(cluster: Cluster[DictState]) -> None:
    cluster.submit(put("x", 1))
    before = cluster.now
    cluster.promote("c")
    assert cluster.primary is cluster["c"]
    assert cluster.now == before
    assert not cluster["a"].leads


def test_redis_that_is_away_and_comes_back(cluster: Cluster[DictState]) -> None:
    cluster.cut()
    cluster.advance(60)
    assert not any(node.leads for node in cluster.nodes.values())
    cluster.heal()
    cluster.settle()
    cluster.submit(put("x", 1))
    cluster.check_equal()


def test_redis_that_comes_back_as_another_run(cluster: Cluster[DictState]) -> None:
    cluster.submit(put("x", 1))
    cluster.restart_redis()
    assert cluster.settle() is cluster["a"]
    assert cluster["a"].term > 1 << 19
    cluster.submit(put("y", 1))
    cluster.check_equal()


def test_redis_that_lost_the_newest_writes_has_them_from_the_nodes(cluster: Cluster[DictState]) -> None:
    kept = cluster.redis.state
    cluster.submit(put("x", 1))
    cluster.restart_redis(kept)
    cluster.settle()
    assert cluster.states() == {name: [{"x": 1}] for name in "abc"}


def test_redis_that_lost_everything_is_told_or_founded_anew(cluster: Cluster[DictState]) -> None:
    cluster.lose_redis()
    with pytest.raises(CheckFailed, match=r"did not settle in 60 s by its clock: no node leads\. .*had log"):
        cluster.settle()
    with Cluster(3, DictState, on_log_lost="recover") as other:
        other.submit(put("x", 1))
        other.lose_redis()
        other.settle()
        assert other.states() == {name: [{"x": 1}] for name in "abc"}


def test_calls_that_wait_for_other_nodes_go_on(cluster: Cluster[DictState]) -> None:
    cluster.submit(put("x", 1), ack="applied:2")
    id_ = str(cluster["a"].position.id)
    cluster["c"].wait(position=id_, timeout_s=PATIENCE_S)
    with cluster["b"].reading(fresh=True, timeout_s=PATIENCE_S) as state:
        assert state["x"] == 1
    cluster["a"].submit(put("x", 2))  # past the cluster
    assert cluster.states()["c"] == [{"x": 2}]


def test_time_stands_still_unless_it_is_moved(cluster: Cluster[DictState]) -> None:
    lease_ms, now = cluster["a"].lease_ms, cluster.now
    beaten_at = cluster.redis.look().heartbeats["b"].beaten_at
    time.sleep(0.05)
    assert (cluster["a"].lease_ms, cluster.now) == (lease_ms, now)
    assert cluster.redis.look().heartbeats["b"].beaten_at == beaten_at
    cluster.advance(600)
    assert cluster.now == now + 600
    assert cluster.redis.look().heartbeats["b"].beaten_at == pytest.approx(beaten_at + 600_000, abs=2000)
    assert cluster.primary is cluster["a"]


def test_a_group_of_no_candidates_stays_without_one_and_says_so() -> None:
    with Cluster(2, DictState, auto_promote=False) as cluster:
        cluster.kill("a")
        with pytest.raises(CheckFailed, match=r"did not settle in 20 s by its clock: no node leads\. a was killed"):
            cluster.settle(within_s=20)
        cluster.promote("b")
        cluster.settle()


class Wrong(DictState):
    """It applies another thing on each node."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self._number = type(self).made

    def apply(self, change: Any) -> Any:
        super().apply(put("who", self._number))
        return super().apply(change)


def test_nodes_that_differ_are_told_with_the_first_difference() -> None:
    with Cluster(2, Wrong) as cluster:
        cluster.submit(put("x", 1))
        with pytest.raises(CheckFailed, match=r"a and b .* up to 1-2, and differ: at snapshot\[0\]\['who'\], a has"):
            cluster.check_equal()


def test_nodes_at_different_positions_are_not_compared(cluster: Cluster[DictState]) -> None:
    cluster.cut("b")
    cluster.submit(put("x", 1))
    cluster.check_equal()  # b cannot take part
    cluster._member("b").cut = False
    with pytest.raises(CheckFailed, match=r"a is at 1-2, and b at 1-1; settle\(\) first"):
        cluster.check_equal()


class Stalls(DictState):
    def apply(self, change: Any) -> Any:
        if change == put("bad", 1):
            raise KeyError("a bug of the application")
        return super().apply(change)


def test_what_is_in_the_way_is_said() -> None:
    with Cluster(2, Stalls) as cluster:
        with pytest.raises(Exception, match="a bug of the application"):
            cluster.submit(put("bad", 1))
        with pytest.raises(CheckFailed, match=r"did not settle .*a bug of the application"):
            cluster.settle(within_s=30)


def test_a_name_that_is_none_and_a_node_that_is_over(cluster: Cluster[DictState]) -> None:
    with pytest.raises(ConfigError, match="there is no node 'x', only a, b, c"):
        cluster.kill("x")
    cluster.kill("c")
    with pytest.raises(ConfigError, match=r"it was killed: restart\(\) it first"):
        cluster.pause("c")
    with pytest.raises(NotRunning):
        cluster["c"].submit(put("x", 1))
    assert list(cluster.nodes) == ["a", "b"]
    cluster.pause("b")
    with pytest.raises(ConfigError, match="it is paused"):
        cluster.stop("b")


@pytest.mark.parametrize("count", [0, 27, "3", True])
def test_a_count_that_is_none(count: Any) -> None:
    with pytest.raises(ConfigError, match="count"):
        Cluster(count, DictState)


def test_an_object_is_no_factory() -> None:
    with pytest.raises(ConfigError, match="give what makes a state"):
        Cluster(1, DictState())  # type: ignore[arg-type]


def threads() -> set[threading.Thread]:
    """All that run now: some of another test may end meanwhile."""
    return set(threading.enumerate())


def test_wrong_options_leave_nothing_behind() -> None:
    before = threads()
    with pytest.raises(ConfigError, match="lease_s"):
        Cluster(3, DictState, lease_s=-1)
    assert threads() <= before


def test_one_that_was_not_started_says_so_and_runs_nothing() -> None:
    before = threads()
    cluster = Cluster(2, DictState)
    with pytest.raises(CheckFailed, match=r"no node leads; .*a was not started; b was not started"):
        cluster.submit(put("x", 1))
    assert threads() <= before
    cluster.close()


def test_a_cluster_that_is_closed_leaves_no_thread_and_no_file() -> None:
    before = threads()
    with Cluster(3, DictState) as cluster:
        place = cluster["a"].data_dir
        cluster.pause("b")
        cluster.kill("c")
        assert place.exists()
    assert not place.exists()
    assert threads() <= before
    cluster.close()


def test_whoever_reads_cannot_move_time(cluster: Cluster[DictState]) -> None:
    with cluster["b"].reading(), pytest.raises(WouldDeadlock, match=r"advance\(\)"):
        cluster.advance(1)
    with cluster["b"].reading(), pytest.raises(WouldDeadlock):
        cluster.submit(put("x", 1))


def test_a_read_on_another_thread_holds_up_its_node_and_no_clock(cluster: Cluster[DictState]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def read() -> None:
        with cluster["b"].reading():
            inside.set()
            leave.wait(PATIENCE_S)

    reader = in_thread(read)
    inside.wait(PATIENCE_S)
    now = cluster.now
    advanced = in_thread(lambda: (cluster.submit(put("x", 1)), cluster.advance(30)))
    leave.set()
    reader()
    advanced()
    assert cluster.now == now + 30
    cluster.check_equal()


def test_a_node_goes_on_with_other_code_after_a_restart() -> None:
    class Newer(DictState):
        def restore(self, pieces: Iterable[Any]) -> None:
            super().restore(pieces)

    with Cluster(2, DictState) as cluster:
        cluster.submit(put("x", 1))
        assert type(cluster.restart("b", Newer, app="DictState", lease_s=2.0)._setup.state) is Newer
        cluster.settle()
        cluster.check_equal()
        assert cluster["b"]._setup.lease.length_s == 2.0


def test_one_node_is_a_group_and_typed_changes_give_what_they_give() -> None:
    with Cluster(1, FlagState) as cluster:
        flag = cluster.submit(FlagState.set_flag("x", on=True))
        assert flag.on
        with cluster["a"].reading() as state:
            assert state.flags["x"] == flag
        cluster.kill("a")
        cluster.restart("a")
        assert cluster.settle() is cluster["a"]
        with cluster["a"].reading() as state:
            assert state.flags["x"].on


def test_a_key_belongs_to_its_change(cluster: Cluster[DictState]) -> None:
    for _ in range(2):
        cluster.submit(put("x", 1), key="order-4711")
    assert str(cluster["a"].position.id) == "1-3"
    with pytest.raises(KeyReused):
        cluster.submit(put("y", 1), key="order-4711")
