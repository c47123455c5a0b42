"""Nodes as processes beside a database of SQLite, and what a test asks them: `replicator node --sqlite`."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from replicator import ReplicatorError, ops
from replicator.log.redis_log import RedisLog

from .bank import Broken, audited, content

__all__ = ["PATIENCE_S", "WAYS", "DatabaseNode", "alive", "database_nodes", "lead", "until"]

#: One step that takes longer hangs. The machine may be busy.
PATIENCE_S = 120.0

#: How a database is replicated: as copies of it, or by the pages that changed; with `live`, to where programs read it.
WAYS: dict[str, tuple[str, ...]] = {
    "copy": (),
    "pages": ("--sqlite-by", "pages"),
    "live": ("--sqlite-by", "pages", "--sqlite-live"),
}

LEASE_S = 2.0

#: What is waited for here takes processor time to look at.
POLL_S = 0.05


class DatabaseNode:
    """A node of the group `g`, beside the database `path`. It is not started yet."""

    def __init__(self, url: str, directory: Path, name: str, *, way: str = "copy", every_s: float = 0.05) -> None:
        self.name = name
        self.way = way
        self.path = directory / f"{name}.db"
        self.data_dir = directory / name
        self._log = directory / f"{name}.log"
        self._words = [
            sys.executable, "-m", "replicator.workers.node", "--name", name, "--data-dir", str(self.data_dir),
            "--lease-s", str(LEASE_S), "--publish-every-s", str(every_s), "--sqlite", str(self.path), *WAYS[way],
        ]  # fmt: skip
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("REPLICATOR_")}
        self._environment |= {"REPLICATOR_REDIS": url, "REPLICATOR_GROUP": "g"}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> DatabaseNode:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._words, env=self._environment, stdout=log, stderr=log, process_group=0)
        return self

    def kill(self) -> None:
        """As a crash does. What it had started ends by itself."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait()

    @property
    def is_up(self) -> bool:
        """Whether this process of it heeds signals by now. For a while after its start the former boot seems alive."""
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

    def content(self) -> str:
        """What it has of the group's database, as a digest of what programs would read in it. Empty: not to be said
        now, because it is being written.
        """
        with suppress(OSError, sqlite3.Error, Broken):
            return content(self._copy_of(self._published))
        return ""

    def audited(self) -> int:
        """How many transfers are in it. Raises `Broken`."""
        return audited(self._copy_of(self._published)) if self._published.exists() else -1

    @property
    def _published(self) -> Path:
        """By pages it is in the data directory, until the node is to lead."""
        return self.data_dir / "shadow" if self.way == "pages" else self.path

    def _copy_of(self, path: Path) -> Path:
        copy = self.data_dir.with_name(f"{self.name}-looked-at")
        for suffix in ("", "-wal", "-journal", "-shm"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
        if path == self.path:
            return path
        return Path(shutil.copyfile(path, copy))

    @property
    def replaced(self) -> list[Path]:
        """What it put aside."""
        found = self.path.parent.glob(f"{self.path.name}.replaced-*")
        return [path for path in found if not path.name.endswith(("-wal", "-shm", "-journal"))]


def until(holds: Callable[[], object], what: str) -> None:
    """Wait until it does."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:g} s"
        time.sleep(POLL_S)


def database_nodes(url: str, directory: Path, *names: str, way: str) -> dict[str, DatabaseNode]:
    """They are started."""
    return {name: DatabaseNode(url, directory, name, way=way).start() for name in names}


def alive(log: RedisLog, *names: str) -> None:
    """Wait until they report."""

    def report() -> bool:
        return {beat.node for beat in ops.status(log).nodes if beat.alive} >= set(names)

    until(report, f"{', '.join(names)} report")


def lead(log: RedisLog, node: DatabaseNode) -> None:
    """Have it lead, whoever does now, and wait until it does. A busy machine may cost it the term meanwhile."""
    alive(log, node.name)

    def leads() -> bool:
        with suppress(ReplicatorError, TimeoutError):
            ops.promote(log, node.name, by="test", force=True, timeout_s=PATIENCE_S)
            return True
        return False

    until(leads, f"{node.name} leads")
