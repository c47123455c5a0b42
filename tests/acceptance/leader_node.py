"""One node of the failovers (`leader_failovers.py`), as a process: whenever it leads, two jobs write their term down.

    python -m tests.acceptance.leader_node --name a --redis URL --data DIR --out DIR --lease 1.0

One job is a thread and one a task of an event loop. Each appends to a file outside of the group, which all nodes share,
a line for each effect, and one when it ends. An effect is allowed by `leadership.check()`, and nothing else. It ends
when its standard input does: then whoever started it is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import sys
import threading
import time
from pathlib import Path

from replicator import Leadership, LeadershipLost, Node
from tests.support.kv import KV

#: Each run of a job has a number of its own in its process. The address of its leadership is used again.
JOBS = itertools.count(1)

#: Between two effects.
EFFECT_EVERY_S = 0.005


class Out:
    """A file that all processes append to. A line is written in one call, so that lines are whole and in order."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def effect(self, leadership: Leadership, job: int) -> None:
        """Something that is seen outside, if the leadership is not over. The time is taken before it is asked."""
        now = time.monotonic_ns()
        leadership.check()
        self._line("effect", leadership, job, now)

    def end(self, leadership: Leadership, job: int, why: str) -> None:
        self._line(f"end:{why}", leadership, job, time.monotonic_ns())

    def _line(self, what: str, leadership: Leadership, job: int, at_ns: int) -> None:
        os.write(self._file, f"{leadership.term} {os.getpid()} {job} {at_ns} {what}\n".encode())


def thread_job(out: Out, leadership: Leadership) -> None:
    job, why = next(JOBS), "lost"
    try:
        while not leadership.lost.wait(EFFECT_EVERY_S):
            out.effect(leadership, job)
    except LeadershipLost:
        why = "check"
        raise
    finally:
        out.end(leadership, job, why)


async def task_job(out: Out, leadership: Leadership) -> None:
    job, why = next(JOBS), "lost"
    try:
        while True:
            out.effect(leadership, job)
            await asyncio.sleep(EFFECT_EVERY_S)
    except LeadershipLost:
        why = "check"
        raise
    finally:
        out.end(leadership, job, why)


async def main() -> None:
    """Run one node until standard input ends."""
    options = _options()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )  # fmt: skip
    node = Node(
        KV(), group="g", name=options.name, data_dir=options.data, redis=options.redis, lease_s=options.lease,
        auto_promote=True,
    )  # fmt: skip
    of_threads, of_tasks = Out(options.out / "threads"), Out(options.out / "tasks")

    @node.while_leading
    def in_thread(leadership: Leadership) -> None:
        thread_job(of_threads, leadership)

    @node.while_leading
    async def in_task(leadership: Leadership) -> None:
        await task_job(of_tasks, leadership)

    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def wait() -> None:
        # Not through sys.stdin: the interpreter cannot end while a thread has its lock.
        while os.read(0, 1):
            pass
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait, daemon=True).start()
    await asyncio.to_thread(node.start)
    await ended.wait()
    await asyncio.to_thread(node.stop)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.leader_node")
    parser.add_argument("--name", required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lease", type=float, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
