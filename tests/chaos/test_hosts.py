"""Partitions between hosts, one of each kind that matters; `python -m tests.chaos --servers hosts:*` draws more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from replicator import PromotionRefused, ReplicatorError, ops
from replicator.log.redis_log import RedisLog
from replicator.sandbox.redis_server import RedisServer
from tests.support.needs import needs
from tests.support.servers import servers_at_hand
from tests.support.topology import asked

from . import hosts
from .checker import check
from .cluster import LEASE_S, Cluster
from .hosts import HostsRedis, has_hosts
from .redises import GROUP
from .runs import run, worlds


@pytest.fixture(autouse=True)
def _needs_hosts() -> None:
    needs(has_hosts(), "root, iproute2 and iptables")


#: Where the first node leads: with the master of Redis and one sentinel. The third has a replica and two sentinels.
LEADS, STANDS_BY, ALONE = 0, 1, 2

#: In a new run of Redis a candidate waits for others for 30 beats, of a third of the lease; and as long again.
PATIENCE_S = 2 * 30 * LEASE_S / 3


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostsRedis:
    # The master stays where it is until it is cut off, however busy the machine.
    monkeypatch.setattr(hosts, "DOWN_AFTER_MS", 4000)
    newest = servers_at_hand()[-1]
    return HostsRedis(tmp_path / "redis", newest, count=3, servers=(LEADS, ALONE), sentinels=(LEADS, ALONE, ALONE))


@pytest.fixture
def cluster(redis: HostsRedis, tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "run", redis) as cluster:
        yield cluster


def leads(cluster: Cluster, log: RedisLog, node: str) -> bool:
    """Whether it does. If not, it is promoted: on a busy machine another one may have taken over."""
    if cluster.primary == node:
        return True
    with suppress(ReplicatorError, TimeoutError):
        ops.promote(log, node, by="test", lease_ms=int(LEASE_S * 1000), timeout_s=5)
    return False


def asks(server: RedisServer, question: Callable[[RedisLog], Any]) -> Any:
    """What the log there answers, whichever master there is elsewhere."""
    with closing(RedisLog(server.url, GROUP, timeout_s=60.0)) as log:
        return question(log)


def test_nobody_takes_over_while_those_he_does_not_hear_could_be_all_that_have_an_acknowledged_change(
    cluster: Cluster, redis: HostsRedis
) -> None:
    # given a group in which a leads and has acknowledged to a disk of one other
    log = redis.open_log()
    assert cluster.wait_for(lambda: leads(cluster, log, "a"))
    cluster.start_clients(2, acks=["applied:1"], seed=1)
    assert cluster.wait_for(lambda: cluster.status("c").get("count", 0) > 20)
    # when the master, the primary and b are on one side, and c, a replica and most sentinels on the other
    assert cluster.wait_for(lambda: leads(cluster, log, "a"))
    redis._dispute()
    redis.hosts.network.part({LEADS, STANDS_BY}, hears=False, is_heard=False)
    last_term = asks(redis.data_servers[0], lambda log: log.look().term)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        # then c, which hears of nobody, does not take over, however long it waits
        status = cluster.status("c")
        assert status.get("role") != "primary" or status["term"] <= last_term
        time.sleep(0.05)
    # nor does an operator who does not know what he does, where Sentinel has made another master
    there = redis.data_servers[1]
    assert cluster.wait_for(lambda: asked(there, lambda client: client.info("replication")["role"]) == "master")
    assert cluster.wait_for(lambda: "c" in asks(there, lambda log: log.look().heartbeats))
    with pytest.raises(PromotionRefused, match="missing since Redis came back"):
        asks(there, lambda log: ops.promote(log, "c", by="test", timeout_s=60))
    log.close()
    # and what a acknowledged meanwhile is there in the end, on all; only what b had not confirmed may be gone
    redis.hosts.network.join()
    cluster.heal()
    verdict = check(cluster.collect(cluster.settle()))
    assert not verdict.violations
    assert verdict.counts["ok applied:1"] > 20


def test_whatever_happens_between_hosts_every_promise_is_kept(tmp_path: Path) -> None:
    (*_, world) = (world for world in worlds() if world.name.startswith("hosts:"))
    nodes = ("a", "b", "c", "d", "e")
    outcome = run(world, seed=7, faults=4, directory=tmp_path / "run", say=print, nodes=nodes)
    assert not outcome.verdict.violations
