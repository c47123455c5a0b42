"""A service of asyncio whose loop is blocked by one call, over a real Redis: another process leads, and all see why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import Node, ops
from replicator.log.redis_log import RedisLog
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import KV, PATIENCE_S, eventually, push, pushed

ROOT = Path(__file__).parents[2]

#: One that a busy machine does not cost.
LEASE_S = 4.0

PROGRAM = """
import asyncio, sys, time
from replicator import Node
from tests.support.kv import KV, push

async def main():
    async with Node(KV(), group="g", name="a", redis=sys.argv[1], data_dir=sys.argv[2], lease_s=4.0) as node:
        print("started", flush=True)
        await node.await_role("primary", timeout_s=60)
        await node.asubmit(push("x"))
        print("leads", flush=True)
        await asyncio.get_running_loop().create_task(report(), name="a task that knows no better")

async def report():
    time.sleep(3600)

asyncio.run(main())
"""


@pytest.fixture
def blocked(any_redis: RedisServer, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose node leads, and whose loop is blocked since then."""
    program = [sys.executable, "-c", PROGRAM, any_redis.url, str(tmp_path / "a")]
    process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        log = RedisLog(any_redis.url, "g", timeout_s=5.0)
        eventually(lambda: "a" in log.look().heartbeats)
        ops.promote(log, "a", by="test", timeout_s=PATIENCE_S)
        log.close()
        assert process.stdout.readline() == "leads\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_another_one_takes_over_and_status_says_why(
    blocked: subprocess.Popen[str], any_redis: RedisServer, tmp_path: Path
) -> None:
    state = KV()
    with Node(
        state, group="g", name="b", redis=any_redis.url, data_dir=tmp_path / "b", lease_s=LEASE_S, auto_promote=True
    ) as b:
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(b) == ["x"]
        b.submit(push("y"), timeout_s=PATIENCE_S)
        log = RedisLog(any_redis.url, "g", timeout_s=5.0)

        def said() -> str:
            return next((str(node.problem) for node in ops.status(log).nodes if node.node == "a"), "")

        eventually(lambda: "the event loop of the application does not turn" in said())
        log.close()
    assert blocked.poll() is None, "it lives, and its threads go on"
