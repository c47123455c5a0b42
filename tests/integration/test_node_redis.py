"""Nodes over a real Redis, under load, while the network and the server misbehave.

The checker: every writer numbers its changes. Whatever happens, each number that was acknowledged is in both states
exactly once, those of one writer are in their order, and nothing is there twice, acknowledged or not.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from replicator import Fenced, LeaseLost, LogUnavailable, Node, NotPrimary, OutcomeUnknown, RecordId, ops
from replicator.format.ids import ERA
from replicator.log.redis_log import RedisLog
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.redis_server import RedisServer, ServerBinary
from tests.conftest import RedisFactory
from tests.support.kv import (
    KV,
    LEASE_S,
    PATIENCE_S,
    eventually,
    in_step,
    in_thread,
    push,
    pushed,
    put,
    submitted,
)

#: Of nodes that are to lose it. A stalled connection is not waited for longer than that.
SHORT: dict[str, float] = {"lease_s": 2.0, "timeout_s": 0.5}


class Nodes:
    """Nodes of one group, ended with the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.nodes: list[Node] = []

    def start(self, name: str, url: str, *, timeout_s: float = PATIENCE_S, **options: Any) -> Node:
        log = RedisLog(url, "g", timeout_s=timeout_s)
        options = {"lease_s": LEASE_S} | options
        node = Node(KV(), group="g", name=name, log=log, data_dir=self.directory / name, **options)
        self.nodes.append(node)
        node.start()
        return node

    def close(self) -> None:
        for node in self.nodes:
            node.stop()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    yield nodes
    nodes.close()


class Load:
    """Writers that go on whatever happens, and the checker of what became of their changes."""

    def __init__(self, primary: Callable[[], Node], writers: int = 4) -> None:
        self._primary = primary
        self._enough = threading.Event()
        self.acknowledged: list[list[list[int]]] = [[] for _ in range(writers)]
        self.unknown = 0
        self.refused = 0
        self._writers = [in_thread(lambda i=i: self._write(i)) for i in range(writers)]

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged))

    def more(self, count: int = 20) -> None:
        """Wait until so many more writes were acknowledged."""
        reached = self.count + count
        eventually(lambda: self.count >= reached, f"{count} more writes")

    def _write(self, writer: int) -> None:
        number = 0
        while not self._enough.is_set():
            number += 1
            try:
                self._primary().submit(push([writer, number]))
            except OutcomeUnknown:
                self.unknown += 1
            except (NotPrimary, LeaseLost, LogUnavailable, Fenced):
                self.refused += 1
                self._enough.wait(0.005)
            else:
                self.acknowledged[writer].append([writer, number])

    def end(self) -> None:
        self._enough.set()
        for writer in self._writers:
            writer()

    def check(self, *nodes: Node) -> None:
        in_step(*nodes)
        values = pushed(nodes[0])
        for node in nodes[1:]:
            assert pushed(node) == values
        counted = Counter(map(tuple, values))
        assert not [value for value, times in counted.items() if times > 1], "something is there twice"
        for writer, acknowledged in enumerate(self.acknowledged):
            there = [value for value in values if value[0] == writer]
            assert there == sorted(there), "out of order"
            assert [value for value in acknowledged if tuple(value) not in counted] == [], "something is missing"


class TestEveryServer:
    def test_promote_write_fail_over_and_come_back(self, redis_server: RedisServer, nodes: Nodes) -> None:
        a, b = (nodes.start(name, redis_server.url) for name in "ab")
        assert a.promote(timeout_s=PATIENCE_S) == 1
        assert [a.submit(push(i)) for i in range(5)] == [1, 2, 3, 4, 5]
        with b.reading(fresh=True, timeout_s=PATIENCE_S) as state:
            assert state.pushed == list(range(5))
        assert b.promote(timeout_s=PATIENCE_S) == 2
        assert b.submit(push(5)) == 6
        b.publish()
        in_step(a, b)
        with pytest.raises(NotPrimary):
            a.submit(push(6))
        log = RedisLog(redis_server.url, "g")
        eventually(lambda: {node.role for node in ops.status(log).nodes} == {"primary", "standby"})
        assert ops.verify(log, by="test").equal
        head = log.look().head
        assert head is not None
        assert ops.snapshot(log, by="test") == str(head.position.id)
        b.replace([["pushed", ["new"]]])
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["new"]
        b.stop()
        assert ops.status(log).lease_ms is None
        b = nodes.start("b", redis_server.url)
        b.wait(role="primary", timeout_s=PATIENCE_S)
        b.submit(push("on"))
        in_step(a, b)
        assert pushed(a) == ["new", "on"]
        log.close()

    def test_a_snapshot_of_many_parts_builds_a_new_node(self, redis_server: RedisServer, nodes: Nodes) -> None:
        a = nodes.start("a", redis_server.url)
        a.promote(timeout_s=PATIENCE_S)
        for i in range(60):
            a.submit(put(f"k{i}", random.Random(i).randbytes(12 * 1024).hex()))
        a.publish()
        a.publish()
        a.submit(push("after"))
        b = nodes.start("b", redis_server.url)
        in_step(a, b)
        with a.reading() as here, b.reading() as there:
            assert (here.data, here.pushed) == (there.data, there.pushed)
        log = RedisLog(redis_server.url, "g")
        assert ops.verify(log, by="test").equal
        log.close()


class TestNetwork:
    @pytest.fixture
    def proxy(self, any_redis: RedisServer, tmp_path: Path) -> Iterator[Proxy]:
        assert any_redis.url.startswith("unix://")
        with Proxy(Path(any_redis.url.removeprefix("unix://").partition("?")[0])) as proxy:
            yield proxy

    @pytest.fixture
    def pair(self, proxy: Proxy, any_redis: RedisServer, nodes: Nodes) -> tuple[Node, Node]:
        """A primary behind the proxy, and a standby that is not."""
        a, b = nodes.start("a", proxy.url, **SHORT), nodes.start("b", any_redis.url, **SHORT)
        a.promote(timeout_s=PATIENCE_S)
        return a, b

    def test_lost_answers_neither_lose_nor_repeat_a_write(self, proxy: Proxy, pair: tuple[Node, Node]) -> None:
        a, b = pair
        load = Load(lambda: a)
        load.more()
        for n in (1, 2, 3, 1, 5):
            lost = proxy.drop_reply_after(n, matching=b"EVALSHA")
            assert lost.wait(PATIENCE_S)
            load.more()
        load.end()
        load.check(a, b)

    def test_cut_connections_neither_lose_nor_repeat_a_write(self, proxy: Proxy, pair: tuple[Node, Node]) -> None:
        a, b = pair
        load = Load(lambda: a)
        for _ in range(10):
            load.more()
            proxy.cut()
        load.more()
        load.end()
        load.check(a, b)

    @pytest.mark.parametrize("direction", ["requests", "replies"])
    def test_a_stall_longer_than_the_lease_stops_writes_and_they_go_on(
        self, proxy: Proxy, pair: tuple[Node, Node], direction: Any
    ) -> None:
        a, b = pair
        load = Load(lambda: a)
        load.more()
        proxy.stall(direction)
        eventually(lambda: a.lease_ms is None)
        refused = load.refused
        eventually(lambda: load.refused > refused)
        proxy.go()
        load.more()
        load.end()
        load.check(a, b)

    def test_an_append_that_is_executed_long_after_it_was_sent_lands_once_or_never(
        self, proxy: Proxy, any_redis: RedisServer, nodes: Nodes
    ) -> None:
        a, b = nodes.start("a", proxy.url), nodes.start("b", any_redis.url)
        a.promote(timeout_s=PATIENCE_S)
        a.submit(push("first"))
        proxy.hold_requests(matching=b'"kind":"change"')
        written = in_thread(lambda: a.submit(push("late")))
        proxy.wait_held(timeout_s=PATIENCE_S)
        proxy.cut()
        b.promote(timeout_s=PATIENCE_S)
        b.submit(push("next"))
        proxy.release_requests()
        with pytest.raises((Fenced, OutcomeUnknown, NotPrimary)):
            written()
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["first", "next"]

    def test_a_primary_that_was_cut_off_and_replaced_comes_back_and_follows(
        self, proxy: Proxy, pair: tuple[Node, Node], any_redis: RedisServer
    ) -> None:
        a, b = pair
        leads = a
        load = Load(lambda: leads)
        load.more()
        proxy.refuse()
        proxy.cut()
        eventually(lambda: a.lease_ms is None)
        log = RedisLog(any_redis.url, "g")
        assert ops.promote(log, "b", by="test", timeout_s=PATIENCE_S).term == 2
        leads = b
        load.more()
        assert a.role == "primary"  # it cannot know
        proxy.accept()
        a.wait(role="standby", timeout_s=PATIENCE_S)
        load.more()
        load.end()
        load.check(a, b)
        assert ops.verify(log, by="test").equal
        log.close()

    def test_promotions_to_and_fro_under_load_lose_nothing(
        self, proxy: Proxy, pair: tuple[Node, Node], any_redis: RedisServer
    ) -> None:
        a, b = pair
        leads = a
        load = Load(lambda: leads)
        log = RedisLog(any_redis.url, "g")
        for target in (b, a, b, a):
            load.more()
            proxy.drop_reply_after(1, matching=b"EVALSHA")
            ops.promote(log, target.name, by="test", timeout_s=PATIENCE_S)
            leads = target
        load.more()
        load.end()
        load.check(a, b)
        assert a.term == 5
        log.close()


class TestRestart:
    def test_redis_restarts_under_load_and_the_group_goes_on_by_itself(
        self, redis_factory: Callable[..., RedisServer], nodes: Nodes
    ) -> None:
        server = redis_factory()
        a, b = nodes.start("a", server.url), nodes.start("b", server.url)
        a.promote(timeout_s=PATIENCE_S)
        load = Load(lambda: a)
        load.more()
        server.kill()
        eventually(lambda: a.problem and b.problem)
        server.start()
        a.wait(role="primary", position=str(RecordId(ERA + 1, 1)), timeout_s=PATIENCE_S)
        load.more()
        load.end()
        load.check(a, b)
        assert a.term == ERA + 1

    def test_redis_is_not_there_at_the_start_and_comes_later(
        self, redis_factory: Callable[..., RedisServer], nodes: Nodes
    ) -> None:
        server = redis_factory()
        server.kill()
        a = nodes.start("a", server.url)
        assert a.role == "standby"
        eventually(lambda: "not available" in a.problem)
        server.start()
        eventually(lambda: a.problem == "")
        assert a.promote(timeout_s=PATIENCE_S) == 1

    def test_a_redis_that_pauses_longer_than_the_lease_is_waited_for(
        self, redis_factory: Callable[..., RedisServer], nodes: Nodes
    ) -> None:
        server = redis_factory()
        a, b = nodes.start("a", server.url, **SHORT), nodes.start("b", server.url, **SHORT)
        a.promote(timeout_s=PATIENCE_S)
        load = Load(lambda: a)
        load.more()
        server.pause()
        eventually(lambda: a.lease_ms is None)
        server.resume()
        load.more()
        load.end()
        load.check(a, b)
        assert a.term == 1


class TestForeignHead:
    """Somebody else wrote into the head: the nodes stay and say so, and what the message says to do leads out of it."""

    def test_nodes_say_so_and_the_group_goes_on_once_it_was_founded_anew(
        self, any_redis: RedisServer, nodes: Nodes
    ) -> None:
        a, b = nodes.start("a", any_redis.url), nodes.start("b", any_redis.url)
        a.promote(timeout_s=PATIENCE_S)
        a.submit(push("x"))
        in_step(a, b)
        key = "replicator:{g}:head"
        with redis.Redis.from_url(any_redis.url) as client:
            client.hset(key, "part_next", "yesterday")
            for node in (a, b):
                eventually(lambda node=node: f"wrote to {key}" in node.problem)
            assert [node.failed for node in (a, b)] == [None, None]
            assert pushed(a) == pushed(b) == ["x"], "they serve reads"
            client.delete(key)
        log = RedisLog(any_redis.url, "g")
        eventually(lambda: all(heartbeat.alive for heartbeat in log.look().heartbeats.values()))
        leads = ops.recover(log, by="test", timeout_s=PATIENCE_S).primary
        primary = a if leads == "a" else b
        primary.wait(role="primary", timeout_s=PATIENCE_S)
        primary.submit(push("y"))
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["x", "y"]
        log.close()

    def test_a_head_that_is_put_right_again_costs_nothing(self, any_redis: RedisServer, nodes: Nodes) -> None:
        a = nodes.start("a", any_redis.url)
        a.promote(timeout_s=PATIENCE_S)
        with redis.Redis.from_url(any_redis.url) as client:
            boot = client.hget("replicator:{g}:head", "boot")
            client.hdel("replicator:{g}:head", "boot")
            eventually(lambda: "it has no boot" in a.problem)
            client.hset("replicator:{g}:head", "boot", boot)
        eventually(lambda: a.problem == "")
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert a.submit(push("x")) == 1


class TestAMasterThatTakesNoWrites:
    """It was cut off, and has fewer replicas than it needs: reads go on, and heartbeats stand as they were."""

    def test_it_answers_no_fresh_read_and_tells_no_lag(
        self, nodes: Nodes, redis_factory: RedisFactory, redis_binary: ServerBinary
    ) -> None:
        redis_server = redis_factory(binary=redis_binary)
        a, b = (nodes.start(name, redis_server.url, lease_s=2.0) for name in "ab")
        a.promote(timeout_s=PATIENCE_S)
        submitted(a, push("x"))
        in_step(a, b)
        assert self._fresh(b) == ["x"]
        eventually(lambda: b.lag == (0, 0.0))
        with redis.Redis.from_url(redis_server.url) as admin_client:
            admin_client.config_set("min-replicas-to-write", 1)
            log = RedisLog(redis_server.url, "g")
            eventually(lambda: log.look().lease_ms is None)
            assert log.look().heartbeats["a"].role == "primary", "it cannot say anything else"
            for node in (a, b):
                with (
                    pytest.raises(TimeoutError, match="with a lease that runs"),
                    node.reading(fresh=True, timeout_s=2.0),
                ):
                    pass
                eventually(lambda node=node: node.lag == (None, None))
            read = in_thread(lambda: self._fresh(b))
            admin_client.config_set("min-replicas-to-write", 0)
        assert read() == ["x"]

    def _fresh(self, node: Node) -> list[Any]:
        with node.reading(fresh=True, timeout_s=PATIENCE_S) as state:
            return list(state.pushed)


class TestAUserWithoutARight:
    RULES = ("reset", "on", ">p", "~replicator:{g}:*", "+@all")

    def test_a_node_says_what_it_is_and_takes_part_once_it_has_it(
        self, nodes: Nodes, redis_server: RedisServer
    ) -> None:
        with redis.Redis.from_url(redis_server.url) as client:
            client.execute_command("ACL", "SETUSER", "u", *self.RULES, "-hset")
            a = nodes.start("a", f"{redis_server.url}?username=u&password=p")
            eventually(lambda: "may not use hset, which a node has to: `ACL SETUSER u +hset`" in a.problem)
            assert client.keys("*") == [], "it does not even report"
            client.execute_command("ACL", "SETUSER", "u", "+hset")
        eventually(lambda: a.problem == "")
        a.promote(timeout_s=PATIENCE_S)
        a.submit(push("x"))

    def test_a_write_that_stopped_in_the_middle_lands_once_when_the_right_is_back(
        self, nodes: Nodes, redis_server: RedisServer
    ) -> None:
        """G4: who was told that nobody knows is not told, by the state, that it is there twice."""
        with redis.Redis.from_url(redis_server.url) as client:
            client.execute_command("ACL", "SETUSER", "u", *self.RULES)
            a, b = (nodes.start(name, f"{redis_server.url}?username=u&password=p") for name in "ab")
            a.promote(timeout_s=PATIENCE_S)
            a.submit(push("before"))
            in_step(a, b)
            client.execute_command("ACL", "SETUSER", "u", "-hset")
            with pytest.raises((OutcomeUnknown, LogUnavailable)) as caught:
                a.submit(push("halfway"))
            assert isinstance(caught.value, OutcomeUnknown)
            client.execute_command("ACL", "SETUSER", "u", "+hset")
        eventually(lambda: "halfway" in pushed(a) and a.lease_ms is not None)
        a.submit(push("after"))
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["before", "halfway", "after"]
