"""A node of a fire drill: `python -m replicator.workers.drill_node --name a`. It is a node like any other, except for
two things in the directory REPLICATOR_DRILL_CONTROL:

- While there is a file `slow-NAME`, each save of the node takes that many seconds longer.
- The node adds a line to `refused-NAME` whenever Redis refuses a record of its own because the term is over, or belongs
  to an earlier run of Redis.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from replicator.cli import main
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Code, Reply
from replicator.storage.checkpoint import Checkpoint

P = ParamSpec("P")
T = TypeVar("T")


def slowed(save: Callable[P, T], control: Path) -> Callable[P, T]:
    """`save`, delayed by the number of seconds in the file `control`, if that exists."""

    @functools.wraps(save)
    def slow(*args: P.args, **kwargs: P.kwargs) -> T:
        with contextlib.suppress(FileNotFoundError, ValueError):  # there is no file, or it is just being written
            time.sleep(float(control.read_text()))
        return save(*args, **kwargs)

    return slow


def counted(write: Callable[P, Reply], record: Path) -> Callable[P, Reply]:
    """`write`, which also adds a line to `record` for each refusal because another node may write now."""

    @functools.wraps(write)
    def counting(*args: P.args, **kwargs: P.kwargs) -> Reply:
        reply = write(*args, **kwargs)
        if reply.code in (Code.FENCED, Code.NEW_RUN):
            with record.open("a") as lines:
                lines.write(f"{reply.code.value}\n")
        return reply

    return counting


if __name__ == "__main__":
    control, name = Path(os.environ["REPLICATOR_DRILL_CONTROL"]), os.environ["REPLICATOR_NAME"]
    Checkpoint.save = slowed(Checkpoint.save, control / f"slow-{name}")  # type: ignore[method-assign]
    RedisLog.append = counted(RedisLog.append, control / f"refused-{name}")  # type: ignore[method-assign]
    RedisLog.part = counted(RedisLog.part, control / f"refused-{name}")  # type: ignore[method-assign]
    main(["node", *sys.argv[1:]], prog_name="replicator.workers.drill_node")
