"""Looks at a group once a second for as long as somebody watches, and gives what it saw to everybody who does.

One thread and one connection serve all who watch. While Redis is away the last picture goes on, with its age, and the
looks go on too. The newest records are read by their place behind the head: a page that is opened beside a log of ten
gigabytes reads twenty records.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from ..errors import CorruptRecord, LogUnavailable, ReplicatorError
from ..format.ids import RecordId
from ..format.records import Record
from ..log.interface import Log
from ..metrics.node_metrics import NodeMetrics
from ..ops import RecentSize, history, looked
from ..protocol.group import GroupView
from ..runtime.event_log import EventLogger
from ..runtime.threads import started
from .picture import Picture, Seen, picture_of, terms_shown, with_redis_away
from .stages import RecentStages

__all__ = ["Feed", "FullHouse"]

logger = EventLogger(__name__)

EVERY_S = 1.0

#: Events to everybody each second; a monitor on every desk is fine, and a loop that opens pages is not.
WATCHERS_MAX = 64

#: A look that hangs with Redis is left behind; it ends by itself.
CLOSES_WITHIN_S = 2.0

#: Who asks now and then does so each second. A tab that nobody sees is let ask once a minute: it begins anew each time.
ASKS_WITHIN_S = 5.0

RECORDS_SHOWN = 20
TERMS_SHOWN = 60


class FullHouse(Exception):
    """As many watch as can be served."""


class Feed:
    """`log`: opens the log, by the first who watches. `told_by`: who says all this. `may_act`: told on to the page.
    `metrics`: of the node that serves it, if one does."""

    def __init__(
        self,
        log: Callable[[], Log],
        *,
        told_by: str,
        may_act: bool = False,
        metrics: Callable[[], NodeMetrics] | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._open = log
        self._told_by = told_by
        self._may_act = may_act
        self._metrics = metrics
        self._every_s = every_s
        self._lock = threading.Lock()
        self._watchers: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closed = False
        self._asked_at = -math.inf
        self._newest: Picture | None = None
        self._newest_at = -math.inf
        self._count = 0

    async def pictures(self) -> AsyncIterator[Picture]:
        """The newest picture, then each one as it comes; who is slow misses some. Raises `FullHouse`, `NoThread`."""
        news = asyncio.Event()
        self._watch(news)
        try:
            seen = 0
            while not self._closed:
                await news.wait()
                news.clear()
                picture, count = self._newest, self._count
                if picture is not None and count != seen:
                    seen = count
                    yield picture
        finally:
            self._leave(news)

    def asked(self) -> Picture | None:
        """The newest picture, for who asks now and then instead of watching; None: there is none yet, or it is of long
        ago, as if a look hangs: whoever watches hears nothing then. Raises `NoThread`.
        """
        with self._lock:
            now = self._asked_at = time.monotonic()
            self._begin()
            return self._newest if now - self._newest_at < ASKS_WITHIN_S else None

    def look_now(self) -> None:
        """Something was done: do not wait for the next second."""
        self._wake.set()

    def end(self) -> None:
        """Whoever watches sees the end; waits for nobody. Before the server stops: it waits for those who watch."""
        self._closed = True
        self._wake.set()
        self._tell()

    def close(self) -> None:
        """`end`, and have the connection closed."""
        self.end()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(CLOSES_WITHIN_S)

    def _watch(self, news: asyncio.Event) -> None:
        with self._lock:
            if len(self._watchers) >= WATCHERS_MAX:
                raise FullHouse
            self._begin()
            self._watchers[news] = asyncio.get_running_loop()
        news.set()

    def _begin(self) -> None:
        if self._thread is None and not self._closed:
            self._newest = None
            self._thread = started(self._run, name="ui-feed")

    def _leave(self, news: asyncio.Event) -> None:
        with self._lock:
            self._watchers.pop(news, None)

    def _is_over(self) -> bool:
        """Whether nobody watches any more; then the thread's place is free for another one."""
        with self._lock:
            is_asked = time.monotonic() - self._asked_at < ASKS_WITHIN_S
            if (self._watchers or is_asked) and not self._closed:
                return False
            self._thread = None
            return True

    def _run(self) -> None:
        log: Log | None = None
        try:
            looks: _Looks | None = None
            while not self._is_over():
                began = time.monotonic()
                self._wake.clear()
                try:
                    log = log or self._open()
                    looks = looks or self._looks_at(log)
                    self._newest, self._newest_at = looks.next(), time.monotonic()
                    self._count += 1
                    self._tell()
                except Exception:
                    logger.exception("bug", "a look for the page failed")
                self._wake.wait(max(0.05, self._every_s - (time.monotonic() - began)))
        finally:
            if log is not None:
                log.close()

    def _looks_at(self, log: Log) -> _Looks:
        stages = RecentStages(self._metrics) if self._metrics is not None else None
        return _Looks(log, told_by=self._told_by, may_act=self._may_act, stages=stages)

    def _tell(self) -> None:
        with self._lock:
            watchers = list(self._watchers.items())
        for news, loop in watchers:
            try:
                loop.call_soon_threadsafe(news.set)
            except RuntimeError:  # that loop is closed
                self._leave(news)


class _Looks:
    """One look after the other at a group."""

    def __init__(self, log: Log, *, told_by: str, may_act: bool, stages: RecentStages | None) -> None:
        self._log = log
        self._told_by = told_by
        self._may_act = may_act
        self._stages = stages
        self._before: GroupView | None = None
        self._last: Picture | None = None
        self._last_at = time.monotonic()
        self._sizes = RecentSize()
        self._records: list[Record] = []
        self._terms_of: tuple[str, int] | None = None
        self._terms: list[dict[str, Any]] = []

    def next(self) -> Picture:
        now = time.time_ns() // 1_000_000
        try:
            picture = self._looked(now)
        except ReplicatorError as error:
            return self._without_redis(error, now)
        self._last, self._last_at = picture, time.monotonic()
        return picture

    def _looked(self, now: int) -> Picture:
        began = time.monotonic()
        look = looked(self._log)
        look_ms = (time.monotonic() - began) * 1000
        self._read_on(look)
        seen = Seen(
            look=look,
            size=self._sizes.of(self._log, look),
            look_ms=look_ms,
            terms=self._of_terms(look),
            records=self._records,
            stages=self._stages.at(began) if self._stages is not None else None,
        )
        before, self._before = self._before, look
        return picture_of(self._log.group, seen, before, taken_at=now, told_by=self._told_by, may_act=self._may_act)

    def _without_redis(self, error: ReplicatorError, now: int) -> Picture:
        away_ms = round((time.monotonic() - self._last_at) * 1000)
        if self._last is None:
            self._last = _nothing_yet(self._log.group, self._told_by, may_act=self._may_act)
        is_reached = not isinstance(error, LogUnavailable) or not error.is_away
        return with_redis_away(self._last, str(error), taken_at=now, away_ms=away_ms, is_reached=is_reached)

    def _read_on(self, look: GroupView) -> None:
        """Have the newest records. What is behind the head of this look is left for the next one."""
        if look.head is None:
            self._records = []
            return
        head = look.head.position.id
        known = self._records[-1].id if self._records else None
        if known is not None and (known > head or head.n - known.n > RECORDS_SHOWN):
            known = None
        after = known or RecordId(head.term, max(0, head.n - RECORDS_SHOWN))
        records = [] if known is None else self._records
        try:
            found = self._log.read(after, count=RECORDS_SHOWN).records
        except CorruptRecord:
            found = []
        self._records = [*records, *found][-RECORDS_SHOWN:]

    def _of_terms(self, look: GroupView) -> Sequence[dict[str, Any]]:
        """Read again when there is another term, or another log: not at each look."""
        if look.head is None:
            return []
        of = (look.head.log_id, look.term)
        if of != self._terms_of:
            self._terms = terms_shown(history(self._log, reads_log=False), TERMS_SHOWN)
            self._terms_of = of
        return self._terms


def _nothing_yet(group: str, told_by: str, *, may_act: bool) -> Picture:
    return Picture(
        taken_at=0, told_by=told_by, redis_problem=None, redis_away_ms=None, look_ms=None, may_act=may_act,
        headline={"level": "problem", "text": "nothing was seen yet."},
        status={"group": group, "term": 0, "holder": None, "nodes": [], "problem": None, "warnings": []},
        findings=[], checks=[], record_rate=None, terms=[], records=[], stages=None,
    )  # fmt: skip
