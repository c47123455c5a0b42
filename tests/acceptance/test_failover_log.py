"""The log of a failover, all nodes together, fits on a screen, and every line says whose it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from replicator.log.redis_log import RedisLog
from replicator.sandbox.stack import DevStack
from tests.support.kv import eventually

#: A screen.
LINES_MAX = 24

WAIT_S = 300.0

pytestmark = pytest.mark.slow


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[DevStack]:
    environment = {"REPLICATOR_AUTO_PROMOTE": "1", "REPLICATOR_LEASE_S": "5"}
    with DevStack(tmp_path, port=0, environment=environment) as stack:
        stack.wait_ready(WAIT_S)
        yield stack


@pytest.fixture
def log(stack: DevStack) -> Iterator[RedisLog]:
    log = RedisLog(stack.redis_url, stack.group)
    yield log
    log.close()


def leader(log: RedisLog) -> tuple[str, int]:
    """The node that has the lease, and its term; ("", 0) if none has."""
    look = log.look()
    return (look.head.node, look.term) if look.head is not None and look.lease_ms is not None else ("", 0)


#: How many lines each log had.
Mark = dict[str, int]


def mark(stack: DevStack) -> Mark:
    return {name: len(text) for name, text in _texts(stack).items()}


def lines(stack: DevStack, after: Mark) -> list[dict[str, Any]]:
    """Of all nodes together, in their order; those that were written since."""
    new = [line for name, text in _texts(stack).items() for line in text[after.get(name, 0) :]]
    return sorted(map(orjson.loads, new), key=lambda line: str(line["time"]))


def _texts(stack: DevStack) -> dict[str, list[str]]:
    """Of each log, the lines that are whole."""
    paths = (stack.directory / "log").glob("node-*.log")
    return {path.name: path.read_text().rpartition("\n")[0].splitlines() for path in paths}


def leads(stack: DevStack, after: Mark, *, but: str = "") -> list[dict[str, Any]]:
    told = lines(stack, after)
    return [line for line in told if line.get("event") == "node.leads" and line["node"] != but]


def has_settled(stack: DevStack, log: RedisLog, after: Mark) -> bool:
    """Whether all nodes have told the newest term, and its holder that it leads."""
    name, term = leader(log)
    told = lines(stack, after)
    began = {line["node"] for line in told if line.get("event") == "term.began" and line["term"] == term}
    return began == set("abc") and any(line["node"] == name and line["term"] == term for line in leads(stack, after))


def test_a_primary_that_is_killed(stack: DevStack, log: RedisLog) -> None:
    eventually(lambda: has_settled(stack, log, {}), patience_s=WAIT_S)
    name, _ = leader(log)
    before = mark(stack)
    os.kill(stack.pids()[f"node-{name}"], signal.SIGKILL)
    # then it is there again, before its lease has run out or after, and everybody says who leads now
    eventually(lambda: has_settled(stack, log, before), patience_s=WAIT_S)
    _fits_on_a_screen(lines(stack, before))


def test_a_primary_that_is_paused(stack: DevStack, log: RedisLog) -> None:
    eventually(lambda: has_settled(stack, log, {}), patience_s=WAIT_S)
    name, _ = leader(log)
    before = mark(stack)
    os.kill(stack.pids()[f"node-{name}"], signal.SIGSTOP)
    try:
        eventually(lambda: leads(stack, before, but=name), patience_s=WAIT_S)
    finally:
        os.kill(stack.pids()[f"node-{name}"], signal.SIGCONT)
    eventually(lambda: has_settled(stack, log, before), patience_s=WAIT_S)
    told = eventually(lambda: _of(lines(stack, before), name, "node.stands_by"), patience_s=WAIT_S)
    # then it says that it lost its lease, and who leads now
    assert len(told) == 1
    assert [line["level"] for line in _of(lines(stack, before), name, "lease.lost")] == ["warning"]
    _fits_on_a_screen(lines(stack, before))


def test_a_redis_that_is_killed(stack: DevStack, log: RedisLog) -> None:
    eventually(lambda: has_settled(stack, log, {}), patience_s=WAIT_S)
    before = mark(stack)
    stack.stop_program("redis")
    eventually(lambda: {line["node"] for line in lines(stack, before)} == set("abc"), patience_s=WAIT_S)
    stack.start_program("redis")
    # then each node says that it is back, and after how long
    for node in "abc":
        back = eventually(lambda node=node: _of(lines(stack, before), node, "redis.back"), patience_s=WAIT_S)
        assert [line["lasted_s"] > 0 for line in back] == [True]
    _fits_on_a_screen(lines(stack, before))


def _of(told: list[dict[str, Any]], node: str, event: str) -> list[dict[str, Any]]:
    return [line for line in told if line["node"] == node and line.get("event") == event]


def _fits_on_a_screen(told: list[dict[str, Any]]) -> None:
    assert len(told) <= LINES_MAX, [line["message"] for line in told]
    assert [line for line in told if not {"group", "node", "boot", "term", "position"} <= set(line)] == []
    assert [line for line in told if line["level"] in ("error", "critical")] == []
