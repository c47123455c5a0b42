"""A program that forks while its node leads: `python forking_program.py URL DIRECTORY HOW`.

The child leaves as HOW says, in the way of a real program: its interpreter is taken down, and all that it inherited is
freed. Then the parent goes on, and says in one line what became of it.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import json
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from replicator import Node, WrongProcess
from tests.support.kv import KV, push


def leave(node: Node, how: str) -> None:
    """What the child does."""
    if how == "stop":
        with suppress(WrongProcess):
            node.stop()
    elif how == "asyncio":
        with suppress(WrongProcess):
            asyncio.run(node.asubmit(push("a child's")))
    elif how == "collect":
        node._running.checkpoint.__dict__.clear()  # as if nobody had its database any more
        gc.collect()
    sys.exit(0)


def main(url: str, directory: str, how: str) -> None:
    acknowledged: list[int] = []
    enough = threading.Event()

    with Node(KV(), group="g", name="a", redis=url, data_dir=Path(directory) / "a") as node:
        node.promote(timeout_s=60.0)
        atexit.register(node.stop)

        def write() -> None:
            while not enough.is_set():
                node.submit(push(len(acknowledged)))
                acknowledged.append(len(acknowledged))

        writer = threading.Thread(target=write)
        writer.start()
        statuses = []
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                leave(node, how)
            statuses.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        there = len(acknowledged)
        while len(acknowledged) < there + 20 and writer.is_alive():
            enough.wait(0.01)
        enough.set()
        writer.join()
        node._running.replica.flush()
        wal = (Path(directory) / "a" / "checkpoint.sqlite-wal").exists()
        said = {"statuses": statuses, "term": node.term, "acknowledged": len(acknowledged), "wal": wal}
        said["applied"] = len(node._setup.state.pushed)  # type: ignore[union-attr]
    atexit.unregister(node.stop)
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
