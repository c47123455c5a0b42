"""What `status --watch` knows: the group as of the last look, what its nodes said meanwhile, lags, and what happened.

`Watch` is fed with looks and is a plain value for whoever shows it (`watch_screen.py`, `watch.py`). Events are what
differs between two looks. While Redis is away the nodes are asked over HTTP, at the URLs that they told before.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import orjson

from replicator.errors import ConfigError
from replicator.ops import NodeStatus, Status
from replicator.protocol.reasons import ReasonCode
from replicator.runtime.checks import plain

from .node_http import ANYBODY, NodeHttp

__all__ = ["EVENTS_KEPT", "LAGS_KEPT", "Event", "Health", "Watch", "asked_over_http"]

#: How many of the newest events are kept, and for how many seconds the lag of a node.
EVENTS_KEPT = 50
LAGS_KEPT = 24

#: A node that does not answer within this time is not waited for: the others have answered long ago.
HTTP_TIMEOUT_S = 1.0

#: What a node says of its health is a few hundred bytes.
HEALTH_BYTES_MAX = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What a node said of itself over HTTP while Redis was away; `problem`: why it said nothing, or what it reports."""

    node: str
    http: str | None
    answers: bool
    role: str | None = None
    leads: bool | None = None
    ready: bool | None = None
    term: int | None = None
    position: str | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, and when (unix seconds)."""

    at: float
    text: str


@dataclass
class Watch:
    """All of it. `status`: as of the last look that succeeded, `seen_at` (unix seconds); `away`: why none does now."""

    status: Status
    seen_at: float
    away: str = ""
    away_since: float = 0.0
    healths: Mapping[str, Health] = field(default_factory=dict)
    events: deque[Event] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    #: By node, one for each second: the greatest one in it; None: not known.
    lags: dict[str, deque[int | None]] = field(default_factory=dict)
    _second: int = 0

    @classmethod
    def begun(cls, status: Status, at: float) -> Watch:
        watch = cls(status=status, seen_at=at)
        watch._happened(at, [_as_it_is(status), *_reasons_that_came([], status.codes)])
        watch._keep_lags(at)
        return watch

    def saw(self, status: Status, at: float) -> list[Event]:
        """A look succeeded. The events since the last one."""
        news = list(_differences(self.status, status))
        if self.away:
            news.insert(0, f"Redis is back, after {at - self.away_since:.0f} s")
        self.status, self.seen_at, self.away, self.healths = status, at, "", {}
        self._keep_lags(at)
        return self._happened(at, news)

    def missed(self, why: str, healths: Mapping[str, Health], at: float) -> list[Event]:
        """A look failed, and the nodes were asked instead. The events since the last one."""
        news = [] if self.away else ["Redis is away; the nodes are asked over HTTP"]
        self.away_since = self.away_since if self.away else at
        news += _of_healths(self.healths, healths)
        self.away, self.healths = why, healths
        self._keep_lags(at)
        return self._happened(at, news)

    def _happened(self, at: float, news: list[str]) -> list[Event]:
        found = [Event(at, plain(text)) for text in news]
        self.events.extend(found)
        return found

    def _keep_lags(self, at: float) -> None:
        new_second, self._second = int(at) != self._second, int(at)
        for node in self.status.nodes:
            kept = self.lags.setdefault(node.node, deque(maxlen=LAGS_KEPT))
            lag = None if self.away else node.lag_records
            if new_second or not kept:
                kept.append(lag)
            else:
                known = [each for each in (kept.pop(), lag) if each is not None]
                kept.append(max(known, default=None))


# --- what happened ---------------------------------------------------------------------------------------------------


def _as_it_is(status: Status) -> str:
    leader = next((node.node for node in status.nodes if node.leads), None)
    return f"{leader} leads in term {status.term}" if leader else f"no node leads; the term is {status.term}"


def _differences(before: Status, now: Status) -> Iterator[str]:
    if before.run != now.run:
        yield "Redis is in another run"
    if before.term != now.term:
        yield f"{now.holder or 'nobody'} took term {now.term}; {before.holder or 'nobody'} held term {before.term}"
    known = {node.node: node for node in before.nodes}
    for node in now.nodes:
        yield from _of_node(known.pop(node.node, None), node)
    yield from (f"{name} is forgotten" for name in known)
    yield from _reasons_that_came(before.codes, now.codes)
    yield from (f"group: no longer {code}" for code in before.codes if code not in (*now.codes, *_OF_NODES))


#: Reasons of the group that are told of a node anyway.
_OF_NODES = (ReasonCode.NOT_REPORTING, ReasonCode.STOPPED)


def _reasons_that_came(before: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    return (f"group: {code}" for code in now if code not in (*before, *_OF_NODES))


def _of_node(before: NodeStatus | None, now: NodeStatus) -> Iterator[str]:
    if before is None:
        yield f"{now.node} reports for the first time"
        return
    if before.alive != now.alive:
        yield f"{now.node} reports again" if now.alive else f"{now.node} does not report"
    if before.boot != now.boot:
        yield f"{now.node} was restarted"
    if before.leads != now.leads:
        yield f"{now.node} leads in term {now.term}" if now.leads else f"{now.node} does not lead any more"
    if now.alive and before.codes != now.codes:
        yield f"{now.node} is not ready: {', '.join(now.codes)}" if now.codes else f"{now.node} is ready"


def _of_healths(before: Mapping[str, Health], now: Mapping[str, Health]) -> list[str]:
    news = []
    for name, health in now.items():
        known = before.get(name)
        if known is not None and known.answers != health.answers:
            news.append(f"{name} {'answers' if health.answers else 'does not answer'} over HTTP")
        if known is not None and known.leads != health.leads and health.leads is not None:
            news.append(f"{name} {'leads' if health.leads else 'does not lead any more'}")
    return news


# --- over HTTP -------------------------------------------------------------------------------------------------------


def asked_over_http(
    status: Status, *, timeout_s: float = HTTP_TIMEOUT_S, asks: NodeHttp = ANYBODY
) -> dict[str, Health]:
    """What each node says at the URL that it told last, all asked at once."""
    nodes = [(node.node, node.http) for node in status.nodes]
    if not nodes:
        return {}
    with ThreadPoolExecutor(max_workers=min(16, len(nodes))) as threads:
        found = threads.map(lambda each: _asked(each[0], each[1], timeout_s, asks), nodes)
        return {health.node: health for health in found}


def _asked(node: str, url: str | None, timeout_s: float, asks: NodeHttp) -> Health:
    if url is None:
        return Health(node=node, http=None, answers=False, problem="it told no URL")
    try:
        request = urllib.request.Request(f"{url}/health")
        with asks.open(request, timeout_s, how="--token-to URL, or --ca-file with the CA of the nodes") as answer:
            told: Any = orjson.loads(answer.read(HEALTH_BYTES_MAX))
        return _health(node, url, told)
    except ConfigError as error:
        return Health(node=node, http=url, answers=False, problem=str(error))
    except urllib.error.HTTPError as error:
        hint = ": give --token-file" if error.code in (401, 403) else ""
        return Health(node=node, http=url, answers=False, problem=f"{url} answers {error.code}{hint}")
    except (OSError, ValueError, http.client.HTTPException, KeyError, TypeError) as error:
        return Health(node=node, http=url, answers=False, problem=f"no answer at {url} ({_short(error)})")


def _health(node: str, url: str, told: dict[str, Any]) -> Health:
    if told["node"] != node:
        problem = f"another node answers at {url}: {plain(str(told['node']))[:64]}"
        return Health(node=node, http=url, answers=False, problem=problem)
    return Health(
        node=node,
        http=url,
        answers=True,
        role=str(told["role"]),
        leads=bool(told["leads"]),
        ready=bool(told["ready"]),
        term=int(told["term"]),
        position=str(told["position"]),
        problem=None if told["problem"] is None else str(told["problem"]),
    )


def _short(error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return plain(getattr(reason, "strerror", None) or str(reason) or type(error).__name__)


def clock(at: float) -> str:
    """The time of day, in UTC."""
    return time.strftime("%H:%M:%S", time.gmtime(at))
