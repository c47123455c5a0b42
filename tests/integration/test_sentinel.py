"""The log behind real sentinels, on the server that the dev stack takes and on another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from replicator import Node, NotPrimary
from replicator.errors import LogUnavailable, OutcomeUnknown
from replicator.format.ids import ERA
from replicator.log.finders import client_for
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Code
from replicator.sandbox.redis_server import RedisServer, ServerBinary, find_server
from tests.conftest import RedisFactory
from tests.support.kv import KV, LEASE_S, PATIENCE_S, eventually, in_step, in_thread, put
from tests.support.servers import servers_at_hand
from tests.support.topology import CALM_MS, SERVICE, Sentinel, SentinelTopology
from tests.support.worlds import GROUP, ids, lead, looked, warm

DEFAULT = find_server()
TWO_SERVERS = [DEFAULT, *[server for server in servers_at_hand() if server.id != DEFAULT.id][:1]]


@pytest.fixture(params=TWO_SERVERS, ids=lambda server: server.id)
def topology(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SentinelTopology]:
    with SentinelTopology(tmp_path, request.param, calm=True) as topology:
        yield topology


@pytest.fixture
def log(topology: SentinelTopology) -> Iterator[RedisLog]:
    log = RedisLog(topology.url, GROUP, timeout_s=2)
    yield log
    log.close()


def test_the_log_is_found_again_at_the_new_master_and_a_term_of_a_new_era_is_taken(
    topology: SentinelTopology, log: RedisLog
) -> None:
    """G3."""
    author = warm(log)
    before = log.look()
    topology.master.kill()
    with pytest.raises(OutcomeUnknown):
        author.append("may be there")
    with pytest.raises(LogUnavailable, match=r"no master was found; 127\.0\.0\.1:") as caught:
        author.append("is certainly not there")
    assert type(caught.value) is LogUnavailable
    topology.wait_for_failover()
    assert looked(log, 5.0).run != before.run
    assert author.append("in the old run").code is Code.NEW_RUN
    after = lead(log, "b")
    assert after.term == ERA + 1
    assert after.append().code is Code.OK
    assert ids(log)[:2] == ["1-1", "1-2"]


def test_a_master_that_was_paused_is_left_with_the_next_look_after_it_was_replaced(
    topology: SentinelTopology, log: RedisLog
) -> None:
    author = warm(log)
    old = topology.master
    assert {link.address for link in (log._write, log._other, log._read)} == {("127.0.0.1", old.port)}
    old.pause()
    new = topology.wait_for_failover()
    old.resume()
    opened = log._read._opened
    assert opened is not None
    reading = in_thread(lambda: log.read(author.position.id, block_ms=round(PATIENCE_S * 1000)))
    eventually(lambda: not opened.wire.is_open, "the read was sent")
    started = time.monotonic()

    def leaves() -> bool:
        # No look waits long for sentinels: on a busy machine it may be one of the next.
        log.look()
        return {link.address for link in (log._write, log._other)} <= {None, ("127.0.0.1", new.port)}

    eventually(leaves, patience_s=PATIENCE_S / 2)
    with pytest.raises(LogUnavailable):
        reading()
    assert time.monotonic() - started < PATIENCE_S / 2, "a read that waits there does not wait on"
    assert author.append("in the old run").code is Code.NEW_RUN
    assert lead(log, "b").term == ERA + 1


def test_without_sentinels_the_log_goes_on_where_it_is(topology: SentinelTopology, log: RedisLog) -> None:
    author = warm(log)
    for sentinel in topology.sentinels:
        sentinel.kill()
    for _ in range(3):
        assert log.look().term == 1
        assert author.append().code is Code.OK
        time.sleep(0.11)
    fresh = RedisLog(topology.url, GROUP)
    with pytest.raises(LogUnavailable, match=r"no master was found; 127\.0\.0\.1:.*; 127\.0\.0\.1:.*; "):
        fresh.look()


def test_one_sentinel_is_enough_and_one_that_hangs_costs_a_second(topology: SentinelTopology) -> None:
    topology.sentinels[0].pause()
    topology.sentinels[1].kill()
    log = RedisLog(topology.url, GROUP)
    started = time.monotonic()
    author = warm(log)
    assert time.monotonic() - started < PATIENCE_S / 2, "it is not waited for without an end"

    def asked_s() -> float:
        began = time.monotonic()
        assert author.append().code is Code.OK
        log.look()
        return time.monotonic() - began

    eventually(lambda: asked_s() < 0.5, "the one that answered is asked first")
    log.close()


def test_nodes_go_on_after_a_failover_and_lose_nothing_that_the_new_master_has(
    topology: SentinelTopology, tmp_path: Path
) -> None:
    nodes = []
    for name in "ab":
        log = RedisLog(topology.url, GROUP, timeout_s=1)
        nodes.append(Node(KV(), group=GROUP, name=name, log=log, data_dir=tmp_path / name, lease_s=LEASE_S))
        nodes[-1].start()
    try:
        a, b = nodes
        a.promote(timeout_s=PATIENCE_S)
        a.submit(put("before", 1))
        in_step(a, b)
        topology.master.kill()
        topology.wait_for_failover()
        eventually(_submits(a, "after"))
        in_step(a, b)
        assert b.position == a.position
        assert a.position.id.term > ERA
    finally:
        for node in nodes:
            node.stop()


def _submits(node: Node, key: str) -> Callable[[], bool]:
    def submits() -> bool:
        try:
            node.submit(put(key, 1))
        except (LogUnavailable, NotPrimary):
            return False
        return True

    return submits


def test_jobs_get_a_client_that_asks_the_sentinels(topology: SentinelTopology) -> None:
    with client_for(topology.url) as client:
        client.set("job", "1")
    with redis.Redis(port=topology.master.port or 0) as direct:
        assert direct.get("job") == b"1"


# --- one sentinel, one server ----------------------------------------------------------------------------------------


@pytest.fixture(params=TWO_SERVERS, ids=lambda server: server.id)
def binary(request: pytest.FixtureRequest) -> ServerBinary:
    binary: ServerBinary = request.param
    return binary


@pytest.fixture
def sentinel_of(tmp_path: Path, binary: ServerBinary) -> Iterator[Callable[..., Sentinel]]:
    """Start the one sentinel of a server, which may have further lines in its configuration.

    It never takes the server for dead: for redis-py there is no master then.
    """
    sentinels: list[Sentinel] = []

    def start(server: RedisServer, *lines: str) -> Sentinel:
        assert server.port is not None
        told: dict[str, Any] = {"master": server.port, "quorum": 1, "lines": lines, "down_after_ms": CALM_MS}
        sentinels.append(Sentinel(tmp_path / "sentinel", binary=binary, **told))
        sentinels[-1].start()
        return sentinels[-1]

    yield start
    for sentinel in sentinels:
        sentinel.kill()


def test_the_sentinels_have_a_password_of_their_own(
    redis_factory: RedisFactory, binary: ServerBinary, sentinel_of: Callable[..., Sentinel]
) -> None:
    server = redis_factory(binary=binary, unix_socket=False, port=0, config={"requirepass": "secret"})
    sentinel = sentinel_of(server, "requirepass watch", f"sentinel auth-pass {SERVICE} secret")
    hosts = f"127.0.0.1:{sentinel.port}"
    log = RedisLog(f"redis+sentinel://:secret@{hosts}/{SERVICE}?sentinel_password=watch", GROUP)
    assert lead(log).append().code is Code.OK
    log.look()
    log.close()
    with pytest.raises(LogUnavailable, match="goes into the URL as \\?sentinel_password="):
        RedisLog(f"redis+sentinel://:secret@{hosts}/{SERVICE}", GROUP).look()
    with pytest.raises(LogUnavailable, match="it wants a password; put it into the URL"):
        RedisLog(f"redis+sentinel://{hosts}/{SERVICE}?sentinel_password=watch", GROUP).look()
    with pytest.raises(LogUnavailable, match="knows no master 'other'"):
        RedisLog(f"redis+sentinel://:secret@{hosts}/other?sentinel_password=watch", GROUP).look()
    with client_for(f"redis+sentinel://:secret@{hosts}/{SERVICE}?sentinel_password=watch") as client:
        assert client.ping()


def test_a_replica_that_is_said_to_be_the_master_is_not_taken(
    redis_factory: RedisFactory, binary: ServerBinary, sentinel_of: Callable[..., Sentinel]
) -> None:
    server = redis_factory(binary=binary, unix_socket=False, port=0)
    sentinel = sentinel_of(server)
    log = RedisLog(f"redis+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}", GROUP)
    author = warm(log)
    with redis.Redis(port=server.port or 0) as admin:
        admin.replicaof("127.0.0.1", "1")
        with pytest.raises(LogUnavailable, match="READONLY"):
            author.append()
        with pytest.raises(LogUnavailable, match="said to be the master, but calls itself slave"):
            author.append()
        admin.replicaof("NO", "ONE")
    assert author.append().code is Code.NEW_RUN
    log.close()
