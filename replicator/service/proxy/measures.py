"""What the proxy counts, for Prometheus (`metrics/catalogue.py`).

All of it is counted on the loop of the proxy, and read by any thread: whoever reads takes no lock, and asks nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ...metrics.histogram import Histogram
from ...metrics.node_metrics import Value
from ...web.failures import Refusal
from .body import Body, ClientGone
from .routing import Follow, Local, Remote

__all__ = ["GaveUp", "Measures", "Waiting", "outcome_of"]

#: Who answered, or why nobody did.
OUTCOMES = ("here", "standby", "forwarded", "gave_up", "refused", "unknown", "no_answer", "client_left", "failed")

#: From one look for a program to the next, up to three times the default of how long a request waits.
WAIT_BOUNDS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0)

_TAKEN_BY: Mapping[type, str] = {Local: "here", Follow: "standby", Remote: "forwarded"}
_BY_CODE = {"outcome_unknown": "unknown", "no_answer": "no_answer"}


class GaveUp(Refusal):
    """The request waited for as long as one may."""


def outcome_of(error: Exception) -> str:
    """Of a request that no program answered."""
    if isinstance(error, ClientGone):
        return "client_left"
    if isinstance(error, GaveUp):
        return "gave_up"
    return _BY_CODE.get(error.code, "refused") if isinstance(error, Refusal) else "failed"


class Measures:
    """Of one proxy."""

    def __init__(self) -> None:
        self._requests = dict.fromkeys(OUTCOMES, 0)
        #: How long those waited that had to, whether a program took them or not.
        self._waits = Histogram(WAIT_BOUNDS_S)
        self._waiting = 0
        self._websockets = 0
        self._bodies: dict[int, Body] = {}

    def taken(self, where: Local | Follow | Remote) -> None:
        """A request was answered by the program that is there."""
        self._requests[_TAKEN_BY[type(where)]] += 1

    def not_taken(self, error: Exception) -> None:
        self._requests[outcome_of(error)] += 1

    def begins_to_wait(self) -> None:
        self._waiting += 1

    def has_waited(self, seconds: float) -> None:
        self._waiting -= 1
        self._waits.add(seconds)

    @contextmanager
    def keeping(self, body: Body) -> Iterator[None]:
        """What is kept of this body meanwhile counts."""
        self._bodies[id(body)] = body
        try:
            yield
        finally:
            del self._bodies[id(body)]

    @contextmanager
    def websocket(self) -> Iterator[None]:
        """One is open meanwhile."""
        self._websockets += 1
        try:
            yield
        finally:
            self._websockets -= 1

    def values(self) -> dict[str, Value]:
        """By the names of the catalogue."""
        return {
            "replicator_proxy_requests_total": {outcome: float(count) for outcome, count in self._requests.items()},
            "replicator_proxy_wait_seconds": self._waits,
            "replicator_proxy_waiting": self._waiting,
            "replicator_proxy_body_bytes": sum(body.kept_bytes for body in list(self._bodies.values())),
            "replicator_proxy_websockets": self._websockets,
        }


class Waiting:
    """One request that may have to wait: from when it first finds no program that takes it, until one does.

    Without one it ends when the request gives up. What the program takes for its answer is no wait.
    """

    def __init__(self, measures: Measures, clock: Callable[[], float]) -> None:
        self._measures = measures
        self._clock = clock
        self._since: float | None = None
        self._tried_at: float | None = None

    def begins(self) -> None:
        """Nobody has taken it."""
        self._tried_at = None
        if self._since is None:
            self._since = self._clock()
            self._measures.begins_to_wait()

    def tries(self) -> None:
        """It goes to a program, which may take it."""
        self._tried_at = self._clock()

    def __enter__(self) -> Waiting:
        return self

    def __exit__(self, *error: object) -> None:
        if self._since is not None:
            until = self._clock() if self._tried_at is None else self._tried_at
            self._measures.has_waited(until - self._since)
