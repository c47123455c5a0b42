"""What is seen of a run from outside: what each node says of itself, and every record and every run in the log."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from replicator.errors import LogUnavailable, ReplicatorError
from replicator.format.ids import ZERO_ID
from replicator.log.redis_log import RedisLog

from .checker import Sighting, Written
from .history import Notes
from .wire import Caller, NoAnswer, NotSent

#: Often enough to see a term that lasts for one beat.
LOOK_EVERY_S = 0.05

#: A paused node answers once it goes on.
PATIENCE_S = 0.5


class Loops:
    """Threads that each do one thing again and again until the end."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, once: Callable[[], None], every_s: float = LOOK_EVERY_S) -> None:
        def run() -> None:
            while not self._ended.wait(every_s):
                once()

        self._threads.append(threading.Thread(target=run, daemon=True))
        self._threads[-1].start()

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


class NodeWatcher:
    """Asks one node for its status, and notes each change of what matters."""

    def __init__(self, node: str, socket: Path, notes: Notes) -> None:
        self.node = node
        self.sightings: list[Sighting] = []
        #: What it said last; empty if it did not answer.
        self.status: dict[str, Any] = {}
        self._caller = Caller(socket)
        self._notes = notes

    def once(self) -> None:
        asked_at = time.monotonic_ns()
        try:
            self.status = self._caller.call({"op": "status"}, PATIENCE_S)
        except (NotSent, NoAnswer):
            self.status = {}
            return
        fields = {name: self.status[name] for name in ("boot", "term", "role")}
        seen = Sighting(at=asked_at, node=self.node, **fields)
        if not self.sightings or _what(self.sightings[-1]) != _what(seen):
            self.sightings.append(seen)
            self._notes.add(asdict(seen))


def _what(seen: Sighting) -> tuple[str, int, str]:
    return seen.boot, seen.term, seen.role


class LogWatcher:
    """Reads the log as it grows, past whatever is trimmed or lost later, and notes when Redis is in another run.

    `open_log` gives a log that is connected directly: no fault is between it and Redis.
    """

    def __init__(self, open_log: Callable[[], RedisLog], notes: Notes) -> None:
        self.written: list[Written] = []
        #: Each run of Redis that was seen, and when first.
        self.runs: list[tuple[int, str]] = []
        self.problem = ""
        #: Terms of which the log may have had records that were trimmed before they were read.
        self.unread: list[range] = []
        self._log = open_log()
        self._after = ZERO_ID
        self._notes = notes

    def once(self) -> None:
        try:
            self._see_run(self._log.look().run)
            while self._read_on():
                pass
        except LogUnavailable:
            return
        except ReplicatorError as error:
            self.problem = str(error)

    def close(self) -> None:
        with contextlib.suppress(ReplicatorError):
            self._log.close()

    def _see_run(self, run: str) -> None:
        if not self.runs or self.runs[-1][1] != run:
            self.runs.append((time.monotonic_ns(), run))
            self._notes.add({"at": self.runs[-1][0], "run": run})

    def _read_on(self) -> bool:
        batch = self._log.read(self._after, count=500)
        for record in batch.records:
            if record.id.n != self._after.n + 1:
                self.unread.append(range(self._after.term + 1, record.id.term))
            seen = Written(term=record.id.term, n=record.id.n, node=record.node, boot=record.boot)
            self.written.append(seen)
            self._notes.add({"kind": record.kind, **asdict(seen)})
            self._after = record.id
        if batch.corrupt is not None:
            self.problem = str(batch.corrupt)
        return len(batch.records) == 500
