"""Nodes as processes beside what a program writes, and what a test asks them: `replicator node`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from replicator import ReplicatorError, ops
from replicator.log.redis_log import RedisLog

__all__ = ["LEASE_S", "PATIENCE_S", "NodeBeside", "alive", "lead", "until"]

#: One step that takes longer hangs. The machine may be busy.
PATIENCE_S = 120.0

LEASE_S = 2.0

#: What is waited for here takes processor time to look at.
POLL_S = 0.05


class NodeBeside:
    """A node of the group `g`, beside what `options` say. It is not started yet."""

    def __init__(self, url: str, directory: Path, name: str, *options: str, every_s: float = 0.05) -> None:
        self.name = name
        self.data_dir = directory / name
        self._log = directory / f"{name}.log"
        self._words = [
            sys.executable, "-m", "replicator.workers.node", "--name", name, "--data-dir", str(self.data_dir),
            "--lease-s", str(LEASE_S), "--publish-every-s", str(every_s), *options,
        ]  # fmt: skip
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("REPLICATOR_")}
        self._environment |= {"REPLICATOR_REDIS": url, "REPLICATOR_GROUP": "g"}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._words, env=self._environment, stdout=log, stderr=log, process_group=0)

    def kill(self) -> None:
        """As a crash does. What it had started ends by itself."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end(self) -> int:
        """Its exit code. It is asked once it heeds that: for a while after its start the former boot seems alive."""
        assert self.process is not None
        until(lambda: self._is_up, f"{self.name} is up")
        self.process.terminate()
        return self.process.wait()

    @property
    def _is_up(self) -> bool:
        """Whether this process of it heeds signals by now."""
        assert self.process is not None
        return "service.started" in self.said.partition(f"Started server process [{self.process.pid}]")[2]

    @property
    def processes(self) -> list[psutil.Process]:
        """It, and what it has started."""
        assert self.process is not None
        node = psutil.Process(self.process.pid)
        return [node, *node.children(recursive=True)]

    @property
    def said(self) -> str:
        return self._log.read_text() if self._log.exists() else ""

    @property
    def publications(self) -> int:
        """How many it has made, in all of its lives."""
        return self.said.count("publish.done")

    @property
    def bugs(self) -> list[str]:
        """What it took for a bug, and lines that are none of its own."""
        return [line for line in self.said.splitlines() if "a bug in" in line or "Traceback" in line]


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until it does."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:g} s"
        time.sleep(POLL_S)


def alive(log: RedisLog, *names: str) -> None:
    """Wait until they report."""

    def report() -> bool:
        return {beat.node for beat in ops.status(log).nodes if beat.alive} >= set(names)

    until(report, f"{', '.join(names)} report")


def lead(log: RedisLog, node: NodeBeside) -> None:
    """Have it lead, whoever does now, and wait until it does. A busy machine may cost it the term meanwhile."""
    alive(log, node.name)

    def leads() -> bool:
        with suppress(ReplicatorError, TimeoutError):
            ops.promote(log, node.name, by="test", force=True, timeout_s=PATIENCE_S)
            return True
        return False

    until(leads, f"{node.name} leads")
