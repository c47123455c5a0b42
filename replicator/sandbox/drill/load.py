"""The load of a drill: writers that register nodes over HTTP, following whoever leads."""

from __future__ import annotations

import http.client
import itertools
import threading
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import orjson

from .report import Outcome, Write

__all__ = ["Load", "outcome_of"]

#: Enough that one of them is always on its way; few enough that two cores are not busy with them alone.
WRITERS = 4

#: How long a writer rests between two writes.
REST_S = 0.02

#: One write of so many waits until a standby has it on its disk.
APPLIED_EVERY = 4

#: Who was refused looks elsewhere after this long.
REFUSED_PAUSE_S = 0.03


class Load:
    """Writers that register nodes over HTTP, following whoever leads. A context.

    `urls`: of the nodes. `token`: what their tags begin with.
    """

    def __init__(self, urls: Sequence[str], *, token: str, patience_s: float) -> None:
        #: All writes so far, in the order in which they were answered.
        self.writes: list[Write] = []
        self._ending = threading.Event()
        self._writers = [
            threading.Thread(target=self._write_on, args=[_Caller(urls, number, patience_s), f"{token}-{number}"])
            for number in range(WRITERS)
        ]

    def acknowledged_at(self) -> list[float]:
        return [write.at for write in list(self.writes) if write.outcome is Outcome.ACKNOWLEDGED]

    def stop(self) -> None:
        """Let each write under way have its answer, and send no more."""
        self._ending.set()
        for writer in self._writers:
            writer.join()

    def __enter__(self) -> Load:
        for writer in self._writers:
            writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _write_on(self, caller: _Caller, name: str) -> None:
        for number in itertools.count():
            tag = f"{name}-{number}"
            outcome = caller.register(tag, applied=number % APPLIED_EVERY == 0)
            self.writes.append(Write(tag, outcome, time.monotonic()))
            if self._ending.wait(REST_S if outcome is Outcome.ACKNOWLEDGED else REFUSED_PAUSE_S):
                return


class _Caller:
    """One writer's way to the nodes. It keeps the connection to the node that took its last write."""

    def __init__(self, urls: Sequence[str], first: int, patience_s: float) -> None:
        self._places = [urlsplit(url).netloc for url in urls]
        self._place = self._places[first % len(self._places)]
        self._patience_s = patience_s
        self._connection: http.client.HTTPConnection | None = None

    def register(self, tag: str, *, applied: bool) -> Outcome:
        """Send it to one node after the other, while those answer that somebody else leads."""
        # Nothing here makes a second one a duplicate, neither a key nor a hostname: it would show.
        body = orjson.dumps({"owner": "drill", "tags": [tag]})
        for _ in self._places:
            try:
                status, location = self._send(body, applied)
            except _NotSent:
                self._go_to(self._next())
                return Outcome.REFUSED
            except (OSError, http.client.HTTPException):
                self._go_to(self._next())
                return Outcome.UNKNOWN
            if status != 307:
                break
            self._go_to(urlsplit(location).netloc)
        outcome = outcome_of(status)
        if outcome is not Outcome.ACKNOWLEDGED:
            self._go_to(self._next())
        return outcome

    def _send(self, body: bytes, applied: bool) -> tuple[int, str]:
        if self._connection is None:
            connection = http.client.HTTPConnection(self._place, timeout=self._patience_s)
            try:
                connection.connect()
            except OSError as error:
                raise _NotSent from error
            self._connection = connection
        headers = {"Content-Type": "application/json", **({"Replicator-Ack": "applied:1"} if applied else {})}
        self._connection.request("POST", "/v1/nodes", body, headers)
        response = self._connection.getresponse()
        response.read()
        return response.status, response.headers.get("Location", "")

    def _go_to(self, place: str) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection, self._place = None, place

    def _next(self) -> str:
        known = self._places.index(self._place) if self._place in self._places else -1
        return self._places[(known + 1) % len(self._places)]


class _NotSent(Exception):
    """Nobody listens there."""


def outcome_of(status: int) -> Outcome:
    """What an answer means. 503 and what is the sender's own fault are promises: nothing was written."""
    if status in (200, 201):
        return Outcome.ACKNOWLEDGED
    if status in (307, 503) or 400 <= status < 500:
        return Outcome.REFUSED
    return Outcome.UNKNOWN
