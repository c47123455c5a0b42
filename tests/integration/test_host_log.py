"""What hundreds of groups in one process log when the Redis that they share stops and starts: a few lines."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from replicator import Node
from replicator.format.ids import ERA
from replicator.node.host import Host
from replicator.node.speaker import QUIET_S
from replicator.sandbox.redis_server import RedisServer
from tests.conftest import RedisFactory
from tests.support.kv import KV, eventually

#: Many times as many as there may be lines: if one of them spoke for itself, the others would, too.
GROUPS = 100

#: A round over all of them takes its time, on a machine that does other things as well.
LEASE_S = 60.0
WAIT_S = 300.0

#: Of all groups: that Redis is away, and back; that they lead in a new term, summed up every 10 s, or where nobody says
#: it for a second. So where a busy machine draws it out, there may be one more each second.
LINES_MAX = 24

pytestmark = pytest.mark.slow


@pytest.fixture
def redis(redis_factory: RedisFactory) -> RedisServer:
    return redis_factory(config={"appendonly": "yes"})


@pytest.fixture
def nodes(redis: RedisServer, tmp_path: Path) -> Iterator[list[Node]]:
    """Of all groups, each of which has a primary here."""
    with Host(redis.url, ha_loops=4) as host:

        def led(number: int) -> Node:
            group = f"t{number}"
            node = host.node(KV(), group=group, name="a", data_dir=tmp_path / group, lease_s=LEASE_S)
            node.promote(timeout_s=WAIT_S)
            return node

        with ThreadPoolExecutor(8) as pool:
            yield list(pool.map(led, range(GROUPS)))


def test_a_redis_that_stops_and_starts_is_a_few_lines(
    redis: RedisServer, nodes: list[Node], caplog: pytest.LogCaptureFixture
) -> None:
    # given groups that all lead, and have said so
    caplog.set_level(logging.INFO, logger="replicator")
    eventually(lambda: all(node.leads for node in nodes), patience_s=WAIT_S)
    time.sleep(2 * QUIET_S)
    caplog.clear()
    # when their Redis stops for a while, and is there again
    began = time.monotonic()
    redis.stop()
    eventually(lambda: _named(caplog, "redis.unavailable"), patience_s=WAIT_S)
    redis.start()
    eventually(lambda: all(node.leads and node.term > ERA for node in nodes), patience_s=WAIT_S)
    eventually(lambda: _named(caplog, "redis.back"), patience_s=WAIT_S)
    eventually(
        lambda: sum(vars(record).get("groups", 1) for record in _named(caplog, "term.began")) >= GROUPS,
        patience_s=WAIT_S,
    )
    # then that is said once, and what followed for each of them is summed up
    lines = [record for record in caplog.records if record.name.startswith("replicator")]  # asyncio logs as well
    told = Counter(vars(record)["event"] for record in lines)
    assert told["redis.unavailable"] == told["redis.back"] == 1, told
    assert len(lines) <= LINES_MAX + time.monotonic() - began, [record.getMessage() for record in lines]
    # and each line says which group, or how many
    assert all("group" in vars(record) or "groups" in vars(record) for record in lines)
    assert [record.levelname for record in lines if record.levelno > logging.WARNING] == []


def _named(caplog: pytest.LogCaptureFixture, event: str) -> list[logging.LogRecord]:
    return [record for record in list(caplog.records) if vars(record).get("event") == event]
