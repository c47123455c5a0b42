"""The receiving end: notes when each ping arrived, and lets another thread wait until so many changes have."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from bench.harness import heard, now_ns

__all__ = ["CPU", "Inbox", "be_receiver", "received_aside"]

#: What was sent and is not there by then does not come any more.
PATIENCE_S = 60.0

#: What a receiver is asked for its processor time.
CPU = "cpu"


class Inbox:
    """A state (see `replicator.state`), and for others where they put what they receive.

    A change `{"ping": number}` is noted with the instant, every other one is only counted. Reading a clock is what a
    real state must not do.
    """

    def __init__(self) -> None:
        self.count = 0
        self._at_ns: dict[int, int] = {}
        self._wanted = math.inf
        self._reached = threading.Event()
        self._error: Exception | None = None

    def apply(self, change: Any) -> None:
        """One change arrived. Only one thread may call this."""
        if (number := change.get("ping")) is not None:
            self._at_ns[number] = now_ns()
        self.count += 1
        if self.count >= self._wanted:
            self._wanted = math.inf
            self._reached.set()

    def until(self, total: int) -> dict[int, int]:
        """Wait until so many changes came in all; when the pings arrived that did since the last call."""
        self._reached.clear()
        self._wanted = total
        in_time = self.count >= total or self._reached.wait(PATIENCE_S)
        if self._error is not None:
            raise self._error
        if not in_time:
            raise RuntimeError(f"{self.count:,} of {total:,} changes came within {PATIENCE_S:g} s")
        at_ns, self._at_ns = self._at_ns, {}
        return at_ns

    def fail(self, error: Exception) -> None:
        """Nothing will come any more."""
        self._error = error
        self._reached.set()

    # A node that comes by a snapshot has counted what is in it.

    def snapshot(self) -> Iterable[Any]:
        return [{"count": self.count}]

    def restore(self, pieces: Iterable[Any]) -> None:
        self.count = sum(piece["count"] for piece in pieces)


@contextmanager
def received_aside(inbox: Inbox, work: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """Receive on a thread of its own: `work(ready)` calls `ready()` once nothing can be missed any more.

    It goes on until the process ends. What it raises, comes out here or of `Inbox.until`.
    """
    is_ready = threading.Event()

    def receive() -> None:
        try:
            work(is_ready.set)
        except Exception as error:
            inbox.fail(error)
            is_ready.set()

    threading.Thread(target=receive, daemon=True).start()
    if not is_ready.wait(PATIENCE_S):
        raise RuntimeError(f"the receiver was not ready within {PATIENCE_S:g} s")
    yield


def be_receiver(pipe: Connection, receive: Callable[..., AbstractContextManager[None]], *address: Any) -> None:
    """A process that receives: within `receive(inbox, *address)`.

    Told a total, it answers with `Inbox.until`; told `CPU`, with the processor time (ns) that it spent so far.
    """
    inbox = Inbox()
    with receive(inbox, *address):
        pipe.send("ready")
        while (told := heard(pipe)) is not None:
            pipe.send(time.process_time_ns() if told == CPU else inbox.until(told))
