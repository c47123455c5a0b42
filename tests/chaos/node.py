"""One node of a chaos run, as a process: a `Node` around `Values`, and a socket through which it is used and watched.

    python -m tests.chaos.node --name a --group g --redis URL --data DIR --socket PATH --lease 0.6

Requests (`op`): `submit`, `read`, `values`, `status`, `slow` (each save of the checkpoint takes so much longer for a
while), `frail` (the application's `snapshot` fails from now on), `silent-names` (nobody resolves a name), `fork` (the
process forks). It ends when its standard input does: then whoever started it is gone. `--break NAME` takes a rule out
of replicator in this process (`broken.py`).
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from replicator import Node, ReplicatorError
from replicator.format.snapshot_parts import Cutter
from replicator.protocol import snapshot_due
from replicator.runtime.signals import wait_until
from replicator.storage.checkpoint import Checkpoint

from . import broken
from .values import Values
from .wire import Server

#: So many values go into one answer.
VALUES_MAX = 5000

#: A child of a node does nothing that takes time.
CHILD_TIMEOUT_S = 10.0

#: A second of writes brings about 2 KiB of changes.
SNAPSHOT_DUE_BYTES = 2 * 1024
PART_BYTES = 512


def shrink_snapshots() -> None:
    """Snapshots of this small state as often, and in as many parts, as those of a large one."""
    Cutter.__init__.__defaults__ = (PART_BYTES,)
    assert snapshot_due.SNAPSHOT_DUE_BYTES_MIN > SNAPSHOT_DUE_BYTES
    snapshot_due.SNAPSHOT_DUE_BYTES_MIN = SNAPSHOT_DUE_BYTES
    snapshot_due.PAUSE_S_MIN = 0.0
    snapshot_due.OVERDUE_BYTES_MIN = SNAPSHOT_DUE_BYTES


class SlowDisk:
    """Makes every save of a checkpoint in this process take `seconds` longer, `until` a time of the monotonic clock."""

    def __init__(self) -> None:
        self.seconds = self.until = 0.0
        save = Checkpoint.save

        def slowly(checkpoint: Checkpoint, *args: Any, **options: Any) -> None:
            if time.monotonic() < self.until:
                time.sleep(self.seconds)
            save(checkpoint, *args, **options)

        Checkpoint.save = slowly  # type: ignore[assignment, method-assign]


class SilentNames:
    """While it is silent, no look-up of a name in this process gets an answer."""

    def __init__(self) -> None:
        self._answers = threading.Event()
        self._answers.set()
        look_up = socket.getaddrinfo

        def asked(*args: Any, **options: Any) -> Any:
            self._answers.wait()
            return look_up(*args, **options)

        socket.getaddrinfo = asked

    def be_silent(self, silent: bool) -> None:
        if silent:
            self._answers.clear()
        else:
            self._answers.set()


class Service:
    """Answers the requests of clients and of the harness."""

    def __init__(self, node: Node, state: Values, disk: SlowDisk, names: SilentNames) -> None:
        self._node = node
        self._state = state
        self._disk = disk
        self._names = names
        self._answers: dict[str, Callable[..., dict[str, Any]]] = {
            "submit": self.submit,
            "read": self.read,
            "values": self.values,
            "status": self.status,
            "slow": self.slow,
            "frail": self.frail,
            "silent-names": self.silent_names,
            "fork": self.fork,
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the request gives; or `error`, the name of what it raised, and what that says."""
        try:
            return self._answers[request.pop("op")](**request)
        except (ReplicatorError, TimeoutError) as error:
            told = {"error": type(error).__name__, "text": str(error)}
            return told | {"primary": getattr(error, "primary", None)}

    def submit(self, value: str, ack: str, timeout_s: float, key: str = "") -> dict[str, Any]:
        index = self._node.submit(value, ack=ack, timeout_s=timeout_s, key=key or None)
        with self._node.reading() as state:
            # Between the answer and now a failover may have taken the value away again: then there is no token.
            there = len(state.values) > index and state.values[index] == value
            return {"index": index, "token": str(self._node.position.id) if there else ""}

    def read(self, index: int = -1, token: str = "", fresh: bool = False, timeout_s: float = 2.0) -> dict[str, Any]:
        if token:
            self._node.wait(position=token, timeout_s=timeout_s)
        with self._node.reading(fresh=fresh, timeout_s=timeout_s) as state:
            found = state.values[index] if 0 <= index < len(state.values) else None
            return {"count": len(state.values), "digest": state.digest, "found": found}

    def values(self, since: int) -> dict[str, Any]:
        with self._node.reading() as state:
            return {"count": len(state.values), "values": state.values[since : since + VALUES_MAX]}

    def status(self) -> dict[str, Any]:
        node = self._node
        term, role = self._term_and_role()
        return {
            "boot": node.boot,
            "term": term,
            "role": role,
            "position": str(node.position),
            "in_sync": node.in_sync,
            "takes_writes": node.lease_ms is not None,
            "failed": repr(node.failed) if node.failed else "",
            "stalled": node.stalled or "",
            "problem": node.problem,
            "count": len(self._state.values),
        }

    def _term_and_role(self) -> tuple[int, str]:
        # A node that just lost the term must not look like the primary of the next one.
        while True:
            term, role = self._node.term, self._node.role
            if term == self._node.term:
                return term, role

    def slow(self, seconds: float, until: float) -> dict[str, Any]:
        self._disk.seconds, self._disk.until = seconds, until
        return {}

    def frail(self, how: str) -> dict[str, Any]:
        self._state.frail = how
        return {}

    def silent_names(self, on: bool) -> dict[str, Any]:
        self._names.be_silent(on)
        return {}

    def fork(self, seconds: float) -> dict[str, Any]:
        """Have a child that does with the node what it can, for so long; whether it hangs in that."""
        child = os.fork()
        if child == 0:
            try:
                self._misuse(time.monotonic() + seconds)
            finally:
                os._exit(0)
        deadline = time.monotonic() + seconds + CHILD_TIMEOUT_S
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return {"hangs": True}
            time.sleep(0.01)
        return {"hangs": False}

    def _misuse(self, until: float) -> None:
        node = self._node
        calls: list[Callable[[], object]] = [
            lambda: node.submit("a child's", timeout_s=0.2),
            lambda: node.promote(timeout_s=0.2),
            node.publish,
            node.stop,
            lambda: node.__exit__(None, None, None),
        ]
        while time.monotonic() < until:
            for call in calls:
                with suppress(ReplicatorError, TimeoutError):
                    call()
            time.sleep(0.01)


def main() -> None:
    """Run one node until SIGTERM, or until standard input ends."""
    options = _options()
    faulthandler.enable()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s.%(msecs)03d %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
    )  # fmt: skip
    if options.breaks:
        broken.VARIANTS[options.breaks].apply()
    shrink_snapshots()
    _end_with_parent()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    state, disk, names = Values(), SlowDisk(), SilentNames()
    node = Node(
        state, group=options.group, name=options.name, data_dir=options.data, redis=options.redis,
        lease_s=options.lease, auto_promote=True,
    )  # fmt: skip
    with node:
        server = Server(options.socket, Service(node, state, disk, names).answer)
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        wait_until(ended)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.node")
    parser.add_argument("--name", required=True)
    parser.add_argument("--group", required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--lease", type=float, default=0.6)
    parser.add_argument("--break", dest="breaks", default="", choices=["", *broken.VARIANTS])
    return parser.parse_args()


def _end_with_parent() -> None:
    def wait() -> None:
        # Not through sys.stdin: the interpreter cannot end while a thread has its lock.
        while os.read(0, 1):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main()
