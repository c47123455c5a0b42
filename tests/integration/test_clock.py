"""A real Redis whose clock is set while nodes use it. Needs libfaketime (`apt-get install faketime`)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from replicator import ConfigError, Node
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import LeaseText
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.redis_server import RedisServer, ServerBinary
from tests.conftest import RedisFactory
from tests.support.fake_clock import LIBRARIES, environment, set_clock
from tests.support.kv import KV, PATIENCE_S, after_beats, eventually, in_step, push, pushed, submitted
from tests.support.needs import needs

LEASE_S = 3.0

HOUR_S = 3600


class Clocked:
    """A server, and by how much its clock is set."""

    def __init__(self, server: RedisServer, setting: Path) -> None:
        self.server = server
        self._setting = setting

    def set(self, by_s: int) -> None:
        """Also for those who look at it: from now on, if not at once."""
        set_clock(self._setting, by_s)
        with redis.Redis.from_url(self.server.url) as client:
            eventually(lambda: abs(client.time()[0] - time.time() - by_s) < 60)

    def look(self) -> Any:
        log = RedisLog(self.server.url, "g")
        try:
            return log.look()
        finally:
            log.close()


@pytest.fixture
def clocked(
    redis_factory: RedisFactory, redis_binary: ServerBinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Clocked:
    needs(bool(LIBRARIES), "libfaketime")
    setting = tmp_path / "faketime"
    set_clock(setting, 0)
    server = redis_factory(binary=redis_binary, start=False)
    with monkeypatch.context() as patch:
        for name, value in environment(setting).items():
            patch.setenv(name, value)
        server.start()
    return Clocked(server, setting)


class Nodes:
    """`a` and `b`, both of which take over by themselves; `a` through a proxy, which can cut it off."""

    def __init__(self, clocked: Clocked, proxy: Proxy, directory: Path) -> None:
        self.proxy = proxy
        self.directory = directory
        self.running: list[Node] = []
        self.a = self.start("a", proxy.url)
        self.a.promote(timeout_s=PATIENCE_S)
        self.b = self.start("b", clocked.server.url)
        submitted(self.a, push("x"))
        in_step(self.a, self.b)

    def start(self, name: str, url: str, directory: str = "") -> Node:
        data_dir = self.directory / (directory or name)
        node = Node(KV(), group="g", name=name, redis=url, data_dir=data_dir, lease_s=LEASE_S, auto_promote=True)
        self.running.append(node)
        node.start()
        return node

    def cut_off(self) -> None:
        self.proxy.refuse()
        self.proxy.cut()


@pytest.fixture
def nodes(clocked: Clocked, tmp_path: Path) -> Iterator[Nodes]:
    assert clocked.server.socket_path is not None
    with Proxy(clocked.server.socket_path) as proxy:
        nodes = Nodes(clocked, proxy, tmp_path)
        yield nodes
        for node in nodes.running:
            node.stop()


def test_set_back_a_primary_that_is_gone_is_followed(clocked: Clocked, nodes: Nodes) -> None:
    nodes.cut_off()
    clocked.set(-HOUR_S)
    nodes.b.wait(role="primary", timeout_s=PATIENCE_S)
    submitted(nodes.b, push("y"))
    assert pushed(nodes.b) == ["x", "y"]


def test_set_back_a_primary_that_lives_keeps_the_term_and_nobody_is_dead(clocked: Clocked, nodes: Nodes) -> None:
    clocked.set(-HOUR_S)
    after_beats(4, nodes.a, nodes.b)
    assert (nodes.a.role, nodes.a.term, nodes.b.role) == ("primary", 1, "standby")
    submitted(nodes.a, push("y"))
    with nodes.b.reading(fresh=True, timeout_s=PATIENCE_S) as state:
        assert list(state.pushed) == ["x", "y"]
    look = clocked.look()
    assert all(heartbeat.alive for heartbeat in look.heartbeats.values())
    assert look.lease_ms <= LEASE_S * 1000
    lease = LeaseText.parse(look.lease)
    assert lease is not None
    assert lease.length_ms == LEASE_S * 1000


def test_set_back_the_name_of_a_node_that_is_gone_is_free(clocked: Clocked, nodes: Nodes) -> None:
    nodes.cut_off()
    clocked.set(-HOUR_S)
    again = nodes.start("a", clocked.server.url, "another-directory")
    after_beats(2, again)
    assert again.failed is None
    with pytest.raises(ConfigError, match="is taken in group"):
        nodes.start("b", clocked.server.url, "yet-another")


def test_set_forward_the_group_goes_on(clocked: Clocked, nodes: Nodes) -> None:
    """The lease of the moment is gone. Whoever leads then, everything is there."""
    clocked.set(HOUR_S)
    after_beats(4, nodes.a, nodes.b)
    eventually(lambda: [node.role for node in (nodes.a, nodes.b)].count("primary") == 1)
    leader = nodes.a if nodes.a.role == "primary" else nodes.b
    eventually(lambda: leader.lease_ms is not None)
    submitted(leader, push("y"))
    in_step(nodes.a, nodes.b)
    assert pushed(nodes.a) == pushed(nodes.b) == ["x", "y"]
