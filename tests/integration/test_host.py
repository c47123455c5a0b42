"""Many groups in one process: they share connections and threads, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

import replicator.log.multiplex
import replicator.node.group_reader
import replicator.node.host
import replicator.node.worker_pool
from replicator import CheckpointError, ConfigError, Node, NoThread, NotPrimary
from replicator.format.ids import ERA
from replicator.log.finders import client_for
from replicator.log.interface import ReadRequest
from replicator.log.redis_log import Connections, RedisLog
from replicator.metrics import exposed
from replicator.node.host import Host
from replicator.node.scheduler import NodeWork
from replicator.node.worker_pool import Team
from replicator.sandbox.redis_server import RedisServer
from replicator.storage.checkpoint import Checkpoint
from tests.conftest import RedisFactory
from tests.support.kv import KV, PATIENCE_S, document, eventually, in_step, push, pushed

GROUPS = [f"g{number}" for number in range(25)]

#: A lease that only a hang costs, and no busy machine.
LONG_LEASE_S = 6.0


@pytest.fixture
def redis(redis_factory: RedisFactory) -> RedisServer:
    return redis_factory(config={"appendonly": "yes"})


@pytest.fixture
def host(redis: RedisServer) -> Iterator[Host]:
    with Host(redis.url) as host:
        yield host


@pytest.fixture
def other(redis: RedisServer) -> Iterator[Host]:
    with Host(redis.url) as host:
        yield host


def nodes_of(host: Host, name: str, directory: Path, **options: object) -> dict[str, Node]:
    return {
        group: host.node(KV(), group=group, name=name, data_dir=directory / name / group, **options) for group in GROUPS
    }


def led(nodes: dict[str, Node]) -> dict[str, Node]:
    for node in nodes.values():
        node.promote(timeout_s=PATIENCE_S)
    return nodes


def test_each_group_has_its_own_log_and_state(host: Host, other: Host, tmp_path: Path) -> None:
    # given as many groups on two hosts
    primaries = led(nodes_of(host, "a", tmp_path))
    standbys = nodes_of(other, "b", tmp_path)
    # when each is written to
    for group, node in primaries.items():
        for number in range(3):
            node.submit(push(f"{group} {number}"))
    # then each standby has what was written in its group, and nothing else
    for group, node in standbys.items():
        in_step(primaries[group], node)
        assert pushed(node) == [f"{group} {number}" for number in range(3)]


def test_they_share_a_few_connections_and_threads(host: Host, redis: RedisServer, tmp_path: Path) -> None:
    nodes = led(nodes_of(host, "a", tmp_path))
    for node in nodes.values():
        node.submit(push("x"))
    with client_for(redis.url) as client:

        def connections() -> int:
            return [each["name"] for each in client.client_list()].count("replicator-host")

        # one reads; with each of two keepers goes one for writes, one for leases and one for the rest
        eventually(lambda: connections() == 7, "a few connections")
    assert [thread for thread in threading.enumerate() if thread.name.startswith("a-")] == []
    # more, for a while, where a busy machine held some of them up
    eventually(lambda: len(of_the_host()) == 9, "a few threads")


def test_groups_fail_over_by_themselves_when_a_host_is_gone(host: Host, redis: RedisServer, tmp_path: Path) -> None:
    lease = {"lease_s": 3.0, "auto_promote": True}
    gone = Host(redis.url)
    try:
        primaries = led(nodes_of(gone, "a", tmp_path, **lease))
        standbys = nodes_of(host, "b", tmp_path, **lease)
        for group, node in primaries.items():
            node.submit(push("x"), ack="applied:1", timeout_s=PATIENCE_S)
            in_step(node, standbys[group])
    finally:
        gone.close()
    for node in standbys.values():
        eventually(lambda node=node: node.role == "primary", "a failover")  # type: ignore[misc]
        node.wait(role="primary", timeout_s=PATIENCE_S)
        assert node.submit(push("y")) == 2


def test_a_group_whose_keys_hold_something_else_keeps_no_other_from_reading(
    host: Host, other: Host, redis: RedisServer, tmp_path: Path
) -> None:
    primaries, standbys = led(nodes_of(host, "a", tmp_path)), nodes_of(other, "b", tmp_path)
    with client_for(redis.url) as client:
        client.delete("replicator:{g0}:requests")
        client.set("replicator:{g0}:requests", "something else")
        for group in GROUPS[1:]:
            primaries[group].submit(push("x"))
            in_step(primaries[group], standbys[group])
        eventually(lambda: "WRONGTYPE" in standbys["g0"].problem, "a problem that says so")
        # and once they are mended, it goes on as well
        client.delete("replicator:{g0}:requests")
    primaries["g0"].submit(push("x"))
    in_step(primaries["g0"], standbys["g0"])
    eventually(lambda: standbys["g0"].problem == "", "the end of the problem")


def test_a_node_is_stopped_and_the_others_go_on(host: Host, other: Host, tmp_path: Path) -> None:
    primaries, standbys = led(nodes_of(host, "a", tmp_path)), nodes_of(other, "b", tmp_path)
    standbys["g0"].stop()
    primaries["g1"].submit(push("x"))
    in_step(primaries["g1"], standbys["g1"])
    # and it can be started again on the same directory
    again = other.node(KV(), group="g0", name="b", data_dir=tmp_path / "b" / "g0")
    primaries["g0"].submit(push("y"))
    in_step(primaries["g0"], again)
    assert document(again) == document(primaries["g0"])


def test_redis_goes_and_comes_back_and_every_group_goes_on(host: Host, redis: RedisServer, tmp_path: Path) -> None:
    nodes = led(nodes_of(host, "a", tmp_path, lease_s=LONG_LEASE_S))
    for node in nodes.values():
        node.submit(push("x"))
    redis.restart()
    for node in nodes.values():
        eventually(lambda node=node: node.term > ERA, "a term of the new run")  # type: ignore[misc]
        node.wait(role="primary", timeout_s=PATIENCE_S)
        assert node.submit(push("y"), timeout_s=PATIENCE_S) == 2


def test_a_host_that_is_closed_leaves_no_thread(redis: RedisServer, tmp_path: Path) -> None:
    host = Host(redis.url)
    led(nodes_of(host, "a", tmp_path))
    host.close()
    assert of_the_host() == []


def test_a_cluster_is_no_place_for_a_host() -> None:
    with pytest.raises(ConfigError, match="each group may be on another server"):
        Host("redis+cluster://127.0.0.1:7000")


def test_tasks_write_to_all_groups_and_share_the_threads_that_commit(host: Host, tmp_path: Path) -> None:
    nodes = led(nodes_of(host, "a", tmp_path))
    # Those that a busy machine held up have others beside them for a while, which do not commit.
    before = {thread.name for thread in threading.enumerate()}

    async def write() -> list[int]:
        return await asyncio.gather(*(node.asubmit(push(number)) for number in range(20) for node in nodes.values()))

    # each is there once, and in its order
    assert asyncio.run(write()) == [number + 1 for number in range(20) for _ in GROUPS]
    assert {thread.name for thread in threading.enumerate()} <= before
    for node in nodes.values():
        assert pushed(node) == list(range(20))


def test_tasks_that_wait_when_their_host_is_closed_are_refused(host: Host, redis: RedisServer, tmp_path: Path) -> None:
    node = led({"g0": host.node(KV(), group="g0", name="a", data_dir=tmp_path)})["g0"]

    async def write() -> list[Any]:
        with node._running.replica.write_lock:  # nobody commits now
            tasks = [asyncio.create_task(node.asubmit(push(number))) for number in range(3)]
            await asyncio.sleep(0.05)
            closed = asyncio.create_task(asyncio.to_thread(host.close))
            await asyncio.sleep(0.05)
            eventually(lambda: node._setup.stopping.is_set(), "the stop")
        await closed
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(write())
    # those that got the write lock before the stop did are committed, and all others know that they are not
    assert all(outcome in (1, 2, 3) or isinstance(outcome, NotPrimary) for outcome in outcomes)


# --- one that takes long, or fails ------------------------------------------------------------------------------------


@pytest.fixture
def held(other: Host) -> Iterator[Callable[..., Any]]:
    """Whoever calls it waits until the test is over. Then, and not before, the other host is closed."""
    over = threading.Event()
    yield lambda *_: over.wait(3 * PATIENCE_S)
    over.set()


def test_groups_whose_apply_hangs_keep_no_other_from_reading(
    host: Host, other: Host, held: Callable[..., Any], tmp_path: Path
) -> None:
    primaries, standbys = led(nodes_of(host, "a", tmp_path)), nodes_of(other, "b", tmp_path)
    # given three groups whose application hangs, each noticed while others wait to be handed what was read
    for group in GROUPS[:3]:
        in_step(primaries[group], standbys[group])
        standbys[group]._setup.state.in_apply = held  # type: ignore[union-attr]
        primaries[group].submit(push("x"))
    # then the others get what is theirs
    for group in GROUPS[3:]:
        primaries[group].submit(push("x"))
    for group in GROUPS[3:]:
        in_step(primaries[group], standbys[group])
        assert pushed(standbys[group]) == ["x"]


def test_a_node_that_was_held_up_is_read_again_at_once(
    redis: RedisServer, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with patient(redis, monkeypatch) as other:
        primaries, standbys = led(nodes_of(host, "a", tmp_path)), nodes_of(other, "b", tmp_path)
        go = threading.Event()
        in_step(primaries["g0"], standbys["g0"])
        standbys["g0"]._setup.state.in_apply = lambda _: go.wait(PATIENCE_S)  # type: ignore[union-attr]
        primaries["g0"].submit(push("x"))
        # given another reader, which waits for all the others
        eventually(lambda: other._reader._waits and not tended(other, "g0").together, "a read without it")
        primaries["g0"].submit(push("y"))
        # when it goes on
        go.set()
        # then it is read, although nothing of the others comes in
        in_step(primaries["g0"], standbys["g0"])


def tended(host: Host, group: str) -> Any:
    return next(each for each in host._tended.values() if each.log.group == group)


def patient(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host whose reads wait for longer than any test."""
    monkeypatch.setattr(replicator.node.group_reader, "BLOCK_S", 5 * PATIENCE_S)
    monkeypatch.setattr(replicator.node.host, "Connections", partial(Connections, timeout_s=10 * PATIENCE_S))
    return Host(redis.url)


def test_a_new_node_is_read_at_once(redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with patient(redis, monkeypatch) as host:
        first = host.node(KV(), group="g0", name="a", data_dir=tmp_path / "g0")
        first.promote(timeout_s=PATIENCE_S)
        # given a read that waits for what there is
        eventually(lambda: host._reader._waits, "a read that waits")
        second = host.node(KV(), group="g1", name="a", data_dir=tmp_path / "g1")
        # then another group is not kept waiting by it
        second.promote(timeout_s=PATIENCE_S)
    with client_for(redis.url) as client:
        assert client.keys("*alarm*") == []


def test_the_only_node_of_a_host_is_read_again_at_once_when_it_has_taken_in_what_came(
    redis: RedisServer, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with patient(redis, monkeypatch) as other:
        a = host.node(KV(), group="g0", name="a", data_dir=tmp_path / "a")
        a.promote(timeout_s=PATIENCE_S)
        b = other.node(KV(), group="g0", name="b", data_dir=tmp_path / "b")
        in_step(a, b)
        # given one that takes its time for it
        go = threading.Event()
        b._setup.state.in_apply = lambda _: go.wait(PATIENCE_S)  # type: ignore[union-attr]
        a.submit(push("x"))
        # when another thread has found nobody to read meanwhile
        eventually(lambda: other._reader._joined._waiters, "a thread that waits")  # type: ignore[attr-defined]
        go.set()
        # then it does not wait on
        eventually(lambda: other._reader._waits, "a read that waits")


def test_a_host_without_the_right_to_its_alarm_reads_all_the_same(redis: RedisServer, tmp_path: Path) -> None:
    with client_for(redis.url) as client:
        client.execute_command(
            "ACL", "SETUSER", "narrow", "on", ">secret", "+@all", "~replicator:{g0}:*", "~replicator:{g1}:*"
        )
    with Host(redis.url.replace("://", "://narrow:secret@", 1)) as host:
        for group in GROUPS[:2]:
            node = host.node(KV(), group=group, name="a", data_dir=tmp_path / group)
            node.promote(timeout_s=PATIENCE_S)
            assert node.submit(push("x")) == 1
            assert node.problem == ""
    # and does not try again each time
    with client_for(redis.url) as client:
        denied = [each for each in client.acl_log() if "alarm" in each["object"]]
        assert sum(each["count"] for each in denied if each["username"] == "narrow") <= 2, denied


def test_disks_that_hang_keep_no_other_node_from_its_lease(
    other: Host, held: Callable[..., Any], tmp_path: Path
) -> None:
    nodes = led(nodes_of(other, "a", tmp_path, lease_s=LONG_LEASE_S))
    # given more disks that hang than there are keepers
    for group in GROUPS[:5]:
        nodes[group]._running.replica.flush = held  # type: ignore[method-assign]
    # when several leases have passed
    until = time.monotonic() + 2 * LONG_LEASE_S
    while time.monotonic() < until:
        # then all others have theirs, all the time
        assert [group for group in GROUPS[5:] if nodes[group].lease_ms is None] == []
        time.sleep(0.05)
    for group in GROUPS[5:]:
        nodes[group].submit(push("x"))
        eventually(lambda group=group: nodes[group]._running.replica.saved.is_flushed, "what was written, on the disk")  # type: ignore[misc]


def test_there_are_no_more_threads_than_before_once_nothing_is_held_up(host: Host, tmp_path: Path) -> None:
    nodes = led(nodes_of(host, "a", tmp_path, lease_s=1.0))
    go = threading.Event()
    flushes = {group: nodes[group]._running.replica.flush for group in GROUPS[:5]}
    for group in GROUPS[:5]:
        nodes[group]._running.replica.flush = lambda: go.wait(PATIENCE_S)  # type: ignore[assignment, method-assign, misc, return-value]
    eventually(lambda: len(of_the_host()) > 12, "more threads")
    for group, flush in flushes.items():
        nodes[group]._running.replica.flush = flush  # type: ignore[method-assign]
    go.set()
    eventually(lambda: len(of_the_host()) == 9, "as many threads as before")


def of_the_host() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("host-")]


def test_a_bug_that_meets_one_node_ends_that_one_alone(host: Host, other: Host, tmp_path: Path) -> None:
    primaries, standbys = led(nodes_of(host, "a", tmp_path)), nodes_of(other, "b", tmp_path)

    def broken() -> ReadRequest:
        raise ValueError("nobody thought of that")

    standbys["g0"]._running.duties._reader.wants = broken  # type: ignore[method-assign]
    for group in GROUPS[1:]:
        primaries[group].submit(push("x"))
        in_step(primaries[group], standbys[group])
    assert "nobody thought of that" in str(standbys["g0"].failed)


def test_what_is_wrong_with_a_group_from_its_start_is_over_when_it_is_mended(
    host: Host, redis: RedisServer, tmp_path: Path
) -> None:
    with client_for(redis.url) as client:
        client.set("replicator:{g0}:requests", "something else")
        node = host.node(KV(), group="g0", name="a", data_dir=tmp_path)
        eventually(lambda: "WRONGTYPE" in node.problem, "a problem that says so")
        client.delete("replicator:{g0}:requests")
    eventually(lambda: node.problem == "", "the end of the problem")


def test_a_broken_group_is_read_aside_and_the_others_together(
    host: Host, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = led(nodes_of(host, "a", tmp_path))
    alone: list[str] = []
    read_alone = replicator.log.multiplex._read_alone

    def noted(log: RedisLog, wants: ReadRequest) -> Any:
        alone.append(log.group)
        return read_alone(log, wants)

    monkeypatch.setattr(replicator.log.multiplex, "_read_alone", noted)
    with client_for(redis.url) as client:
        client.delete("replicator:{g0}:requests")
        client.set("replicator:{g0}:requests", "something else")
        eventually(lambda: "WRONGTYPE" in nodes["g0"].problem, "a problem that says so")
        eventually(lambda: all(tended(host, group).together for group in GROUPS[1:]), "the others together")
        alone.clear()
        eventually(lambda: alone.count("g0") >= 5, "a few tries")
    assert set(alone) == {"g0"}


def test_a_host_is_started_while_redis_is_away(redis: RedisServer, tmp_path: Path) -> None:
    redis.stop()
    with Host(redis.url) as host:
        nodes = nodes_of(host, "a", tmp_path)
        redis.start()
        for node in nodes.values():
            eventually(lambda node=node: node.problem == "", "Redis")  # type: ignore[misc]
        for node in led(nodes).values():
            assert node.submit(push("x"), timeout_s=PATIENCE_S) == 1


# --- how much at once -------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Of each read: of how many groups it was, and how many records of each it asked for at the most."""
    found: list[tuple[int, int]] = []
    read_together = replicator.log.multiplex.read_together

    def noted(connections: Any, logs: Sequence[tuple[RedisLog, ReadRequest]], **options: Any) -> Any:
        found.append((len(logs), max(wants.most for _, wants in logs)))
        return read_together(connections, logs, **options)

    monkeypatch.setattr(replicator.node.group_reader, "read_together", noted)
    return found


def test_groups_that_have_much_to_catch_up_with_are_read_a_few_at_a_time(
    host: Host, redis: RedisServer, tmp_path: Path, reads: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicator.node.group_reader, "RECORDS_TOGETHER", 100)
    primaries = led(nodes_of(host, "a", tmp_path))
    for node in primaries.values():
        for number in range(50):
            node.submit(push(number))
    reads.clear()
    with Host(redis.url) as other:
        standbys = nodes_of(other, "b", tmp_path)
        for group, node in standbys.items():
            in_step(primaries[group], node)
            assert pushed(node) == list(range(50))
    too_much = [(groups, most) for groups, most in reads if groups > 8 and most > 4 and groups * most > 100]
    assert too_much == []


def test_what_comes_in_quickly_is_read_together_and_not_one_by_one(
    host: Host, redis: RedisServer, tmp_path: Path, reads: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    primaries = led(nodes_of(host, "a", tmp_path))
    monkeypatch.setattr(replicator.node.group_reader, "READ_EVERY_S_PER_NODE", 1.0 / len(GROUPS))
    with Host(redis.url) as other:
        standbys = nodes_of(other, "b", tmp_path)
        for group, node in standbys.items():
            in_step(primaries[group], node)
        began, before = time.monotonic(), len([each for each in reads if each[0] > 8])
        # when there is a change every few milliseconds, of all groups in turns
        for number in range(20):
            for group in GROUPS:
                primaries[group].submit(push(number))
        for group, node in standbys.items():
            in_step(primaries[group], node)
        took_s = time.monotonic() - began
    # then both hosts read all of theirs once a second
    assert len([each for each in reads if each[0] > 8]) - before <= 2 * (took_s + 2)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_disk_that_refuses_keeps_no_other_node_from_its_end(redis: RedisServer, tmp_path: Path) -> None:
    host = Host(redis.url)
    nodes = led(nodes_of(host, "a", tmp_path))

    def refuse() -> None:
        raise CheckpointError(path=tmp_path, problem="no space is left")

    nodes["g0"]._running.replica.flush = refuse  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match="no space is left"):
        host.close()
    assert of_the_host() == []
    for group in GROUPS:
        Checkpoint(tmp_path / "a" / group, group, node="a").close()  # nobody has it


def test_a_host_that_is_closed_takes_no_node(redis: RedisServer, tmp_path: Path) -> None:
    host = Host(redis.url)
    host.close()
    with pytest.raises(ConfigError, match="it was closed"):
        host.node(KV(), group="g0", name="a", data_dir=tmp_path)
    host.close()


def test_a_node_that_starts_while_its_host_is_closed_ends_as_well(redis: RedisServer, tmp_path: Path) -> None:
    class Closed(Host):
        def start(self, node_work: NodeWork) -> None:
            super().start(node_work)
            self.close()

    with pytest.raises(ConfigError, match="it was closed"):
        Closed(redis.url).node(KV(), group="g0", name="a", data_dir=tmp_path)
    Checkpoint(tmp_path, "g0", node="a").close()  # nobody has it
    assert of_the_host() == []


def test_a_node_that_was_stopped_is_forgotten(host: Host, tmp_path: Path) -> None:
    node = host.node(KV(), group="g0", name="a", data_dir=tmp_path)
    gone = weakref.ref(node)
    node.stop()
    del node
    eventually(lambda: (gc.collect(), gone())[1] is None, "its end")


def test_nodes_are_started_by_several_threads(host: Host, tmp_path: Path) -> None:
    threads = [
        threading.Thread(target=host.node, args=[KV()], kwargs={"group": g, "name": "a", "data_dir": tmp_path / g})
        for g in GROUPS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(host._tended) == len(GROUPS)


def test_nobody_is_no_number_of_keepers(redis: RedisServer) -> None:
    with pytest.raises(ConfigError, match="ha_loops: 0 is not a whole number"):
        Host(redis.url, ha_loops=0)


class TestNoThreads:
    def test_a_team_that_gets_no_more_threads_goes_on_with_those_it_has(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(replicator.node.worker_pool, "PATIENCE_S", 0.0)
        work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        team = Team("ha-loop", work.get, size=1)
        team.begin()
        start, held, free = threading.Thread.start, threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            free.wait()

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        work.put(hold)
        assert held.wait(PATIENCE_S)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        team.relieve()
        team.relieve()
        assert caplog.text.count("the system starts no thread") == 1
        monkeypatch.setattr(threading.Thread, "start", start)
        team.relieve()
        done = threading.Event()
        work.put(done.set)
        assert done.wait(PATIENCE_S)
        free.set()
        for _ in range(10):
            work.put(None)
        team.join(PATIENCE_S)

    def test_a_thread_of_a_team_outlives_whatever_its_work_raises(self) -> None:
        work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        team = Team("ha-loop", work.get, size=1)
        team.begin()
        done = threading.Event()

        def leave() -> None:
            raise SystemExit

        work.put(leave)
        work.put(done.set)
        assert done.wait(PATIENCE_S)
        work.put(None)
        team.join(PATIENCE_S)

    def test_a_host_that_gets_none_leaves_none_behind(
        self, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name == "host-ha-loop":
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(NoThread, match="host-ha-loop"):
            Host(redis.url)
        eventually(lambda: not [each for each in threading.enumerate() if each.name.startswith("host-")])

    def test_a_host_that_gets_no_more_stops_its_nodes_all_the_same(
        self, redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host = Host(redis.url)
        node = host.node(KV(), group="g", name="a", data_dir=tmp_path / "a")

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        host.close()
        assert node.problem == "stopped"


def test_one_scrape_has_all_of_its_groups(host: Host, tmp_path: Path) -> None:
    nodes = led(nodes_of(host, "a", tmp_path))
    found = {each.group: each.values for each in host.metrics()}
    assert set(found) == set(GROUPS)
    assert all(values["replicator_may_write"] == 1 for values in found.values())
    _, text = exposed(nodes[GROUPS[3]])  # that of any of them is that of the host
    assert {f'replicator_may_write{{group="{group}",node="a"}} 1.0' for group in GROUPS} <= set(
        text.decode().split("\n")
    )
    nodes[GROUPS[0]].stop()
    left = {each.group for each in host.metrics()}
    assert left == set(GROUPS[1:]), "one that was stopped has left"
