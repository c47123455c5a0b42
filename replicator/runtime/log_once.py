"""Log lines about what goes on for long: one when it begins, and one when it is over, however often it is noticed.

The second one says how long it lasted. What comes and goes is told less and less: each time that it is back soon, it
has to be gone for twice as long before it is called over. Numbers do not make another problem of it: a position or a
count may move while it lasts.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .event_log import EventLogger

__all__ = ["BUG", "Lasting", "LogOnce", "duration"]

#: What is back within this time is the same again.
SOON_S = 60.0

#: How long something has to be gone for, once it was back, before it is called over; and at the most.
PATIENCE_S = 1.0
PATIENCE_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Lasting:
    """What goes on for a while: the event that it begins, at `level`, and the one that it is over, at INFO.

    `over`: a sentence to which "after 12 s" can be added.
    """

    begins: str
    ends: str
    over: str
    level: int = logging.WARNING


#: Of something that is done again and again.
BUG = Lasting("bug", "bug.over", "it works again", logging.ERROR)


def duration(seconds: float) -> str:
    """In words: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 3 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


@dataclass(slots=True)
class _Told:
    what: Lasting
    since: float
    #: So long it has to be gone for.
    patience_s: float
    #: Since when it is gone; None: it is not.
    gone_at: float | None = None
    fields: dict[str, Any] = field(default_factory=dict)


class LogOnce:
    """What was told to `logger`, and is not over. Thread-safe.

    `patience_s`: so long something has to be gone for, the first time, before it is called over.
    """

    def __init__(
        self, logger: EventLogger, *, patience_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._least_s = patience_s
        self._clock = clock
        self._lock = threading.Lock()
        self._told: dict[tuple[str, str], _Told] = {}
        #: When something was over, and how patient one was with it.
        self._past: dict[tuple[str, str], tuple[float, float]] = {}

    def tell(self, name: str, what: Lasting, text: str, *, kind: str = "", **fields: Any) -> bool:
        """Log it, unless it is known: by `name`, and by `kind`, or else by its text. Whether it was news."""
        key = name, kind or re.sub(r"\d+", "0", text)
        with self._lock:
            known = self._told.get(key)
            gone = known is not None and self._is_gone(known)
            if known is not None and not gone:
                known.gone_at = None
                return False
            if known is not None:  # nobody said so since
                self._past[key] = self._clock(), known.patience_s
            self._told[key] = _Told(what, self._clock(), self._patience_s(key), fields={**fields, "exc_info": None})
        if known is not None:
            self._tell_over(known)
        self._logger.at(what.level, what.begins, "%s", text, **fields)
        return True

    @property
    def is_silent(self) -> bool:
        """Whether nothing was told that is not over."""
        return not self._told

    def _is_gone(self, told: _Told) -> bool:
        return told.gone_at is not None and self._clock() - told.gone_at >= told.patience_s

    def over(self, name: str, *, but: str = "") -> None:
        """What was told by that name goes on no more, but for what is of the kind `but`."""
        if not self._told:  # as almost always: whatever goes well says so
            return
        now, ended = self._clock(), []
        with self._lock:
            for key, told in list(self._told.items()):
                if key[0] != name or key[1] == but:
                    continue
                told.gone_at = told.gone_at if told.gone_at is not None else now
                if self._is_gone(told):
                    del self._told[key]
                    self._past[key] = now, told.patience_s
                    ended.append(told)
        for told in ended:
            self._tell_over(told)

    def forget(self, name: str) -> float | None:
        """It is over, which another line says; how long it lasted, in seconds, if it was told."""
        with self._lock:
            ended = [self._told.pop(key) for key in list(self._told) if key[0] == name]
        return self._clock() - min(told.since for told in ended) if ended else None

    def _tell_over(self, told: _Told) -> None:
        lasted_s = (told.gone_at if told.gone_at is not None else self._clock()) - told.since
        fields = {**told.fields, "lasted_s": round(lasted_s, 1)}
        self._logger.info(told.what.ends, "%s after %s", told.what.over, duration(lasted_s), **fields)

    def _patience_s(self, key: tuple[str, str]) -> float:
        now = self._clock()
        self._past = {each: past for each, past in self._past.items() if now - past[0] < SOON_S + past[1]}
        if key not in self._past:
            return self._least_s
        return min(PATIENCE_S_MAX, max(PATIENCE_S, self._least_s, 2 * self._past[key][1]))
