"""The log in a real cluster, on the server that the dev stack takes and on another one."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import Node
from replicator.errors import LogUnavailable, OutcomeUnknown
from replicator.format.ids import ERA
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Code
from replicator.sandbox.redis_server import RedisServer, find_server
from tests.support.kv import KV, PATIENCE_S, in_step, put
from tests.support.servers import servers_at_hand
from tests.support.topology import ClusterTopology, ask, wait_until
from tests.support.worlds import GROUP, ids, lead, looked, warm

DEFAULT = find_server()
TWO_SERVERS = [DEFAULT, *[server for server in servers_at_hand() if server.id != DEFAULT.id][:1]]

#: Nobody is taken for dead because the machine is busy. Longer, and an election that failed would not be repeated soon.
PATIENT_MS = 10_000

#: In the slot of the group.
KEY = f"replicator:{{{GROUP}}}:log"


@pytest.fixture(params=TWO_SERVERS, ids=lambda server: server.id)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClusterTopology]:
    with ClusterTopology(tmp_path, request.param, dead_after_ms=PATIENT_MS) as cluster:
        yield cluster


@pytest.fixture
def log(cluster: ClusterTopology) -> Iterator[RedisLog]:
    log = RedisLog(cluster.url, GROUP)
    yield log
    log.close()


def others(cluster: ClusterTopology) -> list[RedisServer]:
    return [server for server in cluster.servers if server is not cluster.owner(KEY)]


def test_the_log_is_found_in_its_slot_whichever_node_is_asked(cluster: ClusterTopology) -> None:
    for server in cluster.servers:
        log = RedisLog(f"redis+cluster://127.0.0.1:{server.port}", GROUP)
        assert lead(log).append().code is Code.OK
        log.close()
    assert ask(cluster.owner(KEY), "XLEN", KEY) == 6


def test_a_node_that_is_down_is_passed_over_when_the_way_is_asked_for(cluster: ClusterTopology) -> None:
    down, up = others(cluster)
    down.kill()
    log = RedisLog(f"redis+cluster://127.0.0.1:{down.port},127.0.0.1:{up.port}", GROUP)
    assert log._other._finder.open().address == ("127.0.0.1", cluster.owner(KEY).port)
    nobody = RedisLog(f"redis+cluster://127.0.0.1:{down.port}", GROUP)
    with pytest.raises(LogUnavailable, match=f"no master was found; 127.0.0.1:{down.port}: "):
        nobody.look()


def test_the_url_of_one_node_is_not_enough_and_the_error_says_what_is(cluster: ClusterTopology) -> None:
    log = RedisLog(others(cluster)[0].tcp_url, GROUP)
    for _ in range(2):
        with pytest.raises(LogUnavailable, match=r"MOVED .*a redis\+cluster:// URL finds it") as caught:
            lead(log)
        assert type(caught.value) is LogUnavailable


def test_a_server_that_is_no_cluster_is_told_so(redis_factory: Any) -> None:
    server = redis_factory(unix_socket=False, port=0)
    with pytest.raises(LogUnavailable, match="cluster support disabled"):
        RedisLog(f"redis+cluster://127.0.0.1:{server.port}", GROUP).look()


def test_the_log_is_found_again_after_its_slot_has_moved(cluster: ClusterTopology, log: RedisLog) -> None:
    author = warm(log)
    target = others(cluster)[0]
    cluster.migrate(KEY, target)
    for call in (author.append, lambda: log.read(author.position.id), log.look):
        with pytest.raises(LogUnavailable, match="MOVED") as caught:
            call()
        assert type(caught.value) is LogUnavailable
    assert log.look().term == 1
    assert log._other.address == ("127.0.0.1", target.port)
    assert author.append().code is Code.NEW_RUN, "the new place is another life of Redis"
    after = lead(log, "b")
    assert after.term == ERA + 1
    assert after.append().code is Code.OK
    assert ids(log) == ["1-1", "1-2", f"{ERA + 1}-3", f"{ERA + 1}-4"]


def test_while_the_slot_is_on_its_way_nothing_is_written(cluster: ClusterTopology, log: RedisLog) -> None:
    author = warm(log)
    source, target = cluster.owner(KEY), others(cluster)[0]
    cluster.begin_migration(KEY, target)
    ask(source, "MIGRATE", "127.0.0.1", target.port, KEY, 0, 5000)
    for _ in range(2):
        with pytest.raises(LogUnavailable, match=r"(TRYAGAIN|ASK) .*it will answer soon") as caught:
            author.append()
        assert type(caught.value) is LogUnavailable
    with pytest.raises(LogUnavailable, match=r"ASK .*it will answer soon"):
        log.read(author.position.id)
    cluster.migrate(KEY, target)
    assert ids(log) == ["1-1", "1-2"]


def test_nodes_work_in_a_cluster_and_go_on_when_their_slot_has_moved(cluster: ClusterTopology, tmp_path: Path) -> None:
    # A connection has to be there within a third of the lease.
    nodes = [
        Node(KV(), group=GROUP, name=name, redis=cluster.url, data_dir=tmp_path / name, lease_s=5) for name in "ab"
    ]
    try:
        a, b = nodes
        for node in nodes:
            node.start()
        a.promote(timeout_s=PATIENCE_S)
        a.submit(put("before", 1))
        in_step(a, b)
        cluster.migrate(KEY, others(cluster)[0])
        wait_until(lambda: a.position.id.term > ERA, 60)
        a.wait(role="primary", timeout_s=60)
        a.submit(put("after", 1))
        in_step(a, b)
        assert b.position == a.position
    finally:
        for node in nodes:
            node.stop()


# --- failover --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=TWO_SERVERS, ids=lambda server: server.id)
def replicated(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClusterTopology]:
    """Whose first master, which has the group's slot, has a replica."""
    with ClusterTopology(tmp_path, request.param, replicas=1, first_key=KEY, dead_after_ms=PATIENT_MS) as cluster:
        yield cluster


def take_over(replica: RedisServer, master: RedisServer) -> None:
    """Have the replica promoted. On a busy machine the servers give it up after 5 s, and have to be asked again."""

    def done() -> bool:
        nonlocal asked_at
        if time.monotonic() - asked_at > 6:
            ask(replica, "CLUSTER", "FAILOVER")
            asked_at = time.monotonic()
        return b"role:slave" in ask(master, "INFO", "replication")

    asked_at = float("-inf")
    wait_until(done, 2 * PATIENCE_S)


def offset(server: RedisServer) -> int:
    """How much of the replicated data it has."""
    name = rb"(?:slave|master)_repl_offset:(\d+)"
    return min(int(number) for number in re.findall(name, ask(server, "INFO", "replication")))


def test_a_replica_that_was_promoted_by_hand_is_found(replicated: ClusterTopology) -> None:
    log = RedisLog(replicated.url, GROUP)
    author = warm(log)
    master, replica = replicated.servers[0], replicated.servers[3]
    before = log.look().run
    take_over(replica, master)
    with pytest.raises(LogUnavailable) as caught:
        author.append()
    # A master that steps down closes its connections of that moment; one that is closed may be noticed by a write.
    assert type(caught.value) in (LogUnavailable, OutcomeUnknown)
    assert looked(log, PATIENCE_S).run != before
    assert log._other.address == ("127.0.0.1", replica.port)
    assert author.append().code is Code.NEW_RUN
    assert lead(log, "b").append().code is Code.OK
    log.close()


def test_the_replica_of_a_master_that_was_killed_is_found(replicated: ClusterTopology) -> None:
    log = RedisLog(replicated.url, GROUP)
    author = warm(log)
    written = offset(replicated.servers[0])
    wait_until(lambda: offset(replicated.servers[3]) >= written, 60)
    replicated.servers[0].kill()
    with pytest.raises(OutcomeUnknown):
        author.append()
    with pytest.raises(LogUnavailable, match=r"no master was found; 127\.0\.0\.1:") as caught:
        author.append()
    assert type(caught.value) is LogUnavailable
    # and once the others have noticed
    replicated.notice_the_dead()
    assert looked(log, PATIENCE_S).head is not None
    assert author.append().code is Code.NEW_RUN
    assert lead(log, "b").term == ERA + 1
    log.close()
