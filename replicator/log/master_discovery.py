"""Finds out where the master is. The *sources* are sentinels, or the nodes of a cluster; they may hang, and disagree.

- All are asked at once, each in its own thread (`runtime/hanging_calls.py`). One that hangs costs time only once: a
  source that did not answer the last time is asked again, but not waited for until it has answered.
- The newest *epoch* that any source names counts, not the first answer. Some learn later than others that a master was
  replaced, and one that is cut off with the old master never does. A newer epoch that was heard of is not forgotten
  while no more than half of the sources can be heard.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from ..runtime.hanging_calls import Aside

__all__ = ["Answer", "MasterDiscovery"]

P = TypeVar("P")

#: How long an answer counts: a source that hangs since then has not taken it back.
GOOD_FOR_S = 2.0


class Answer(NamedTuple, Generic[P]):
    """An answer: the master is at `place`, since the change of masters with number `epoch` (0: not known)."""

    epoch: int
    place: P


class MasterDiscovery(Generic[P]):
    """All sources of one master. `ask` asks one of them, and may raise anything. Thread-safe."""

    def __init__(self, sources: Sequence[P], ask: Callable[[P], Answer[P]]) -> None:
        self._sources = tuple(sources)
        self._ask = ask
        self._aside: Aside[None] = Aside("master", most=len(self._sources))
        self._heard = threading.Condition()
        self._said: dict[P, tuple[float, Answer[P]]] = {}
        self._problems: dict[P, Exception] = {}
        #: When each one was heard, or failed.
        self._ended_at: dict[P, float] = {}
        self._prompt = set(self._sources)
        self._newest: Answer[P] | None = None

    def ask(self, wait_s: float, *, someone_s: float = 0.0) -> None:
        """Ask all sources. Wait up to `wait_s` for those that answered the last time, and up to `someone_s` for any."""
        began = time.monotonic()
        asked = {source: self._aside.ask(source, partial(self._ask_one, source)) for source in self._sources}
        for source in self._prompt:
            asked[source].wait(began + wait_s - time.monotonic())
        with self._heard:

            def enough() -> bool:
                return bool(self._lately()) or all(map(has_ended, self._sources))

            def has_ended(source: P) -> bool:
                return self._ended_at.get(source, 0.0) >= began or asked[source].done

            self._heard.wait_for(enough, timeout=max(0.0, began + someone_s - time.monotonic()))
            self._prompt = {source for source in self._sources if has_ended(source)}

    def places(self) -> list[P]:
        """Where the master of the newest epoch may be, the likeliest place first. Empty: no source answered lately."""
        with self._heard:
            said = self._lately()
            if not said:
                return []
            epoch = max(each.epoch for each in said)
            newest = self._newest
            if newest is not None and newest.epoch > epoch and 2 * len(said) <= len(self._sources):
                return [newest.place]
            votes = Counter(each.place for each in said if each.epoch == epoch)
            places = [place for place, _ in votes.most_common()]
            self._newest = Answer(epoch, places[0])
            return places

    def problems(self) -> list[tuple[P, Exception | None]]:
        """The sources without an answer, and why (None: it has not come yet)."""
        with self._heard:
            silent = [source for source in self._sources if source not in self._said]
            return [(source, self._problems.get(source)) for source in silent]

    def _lately(self) -> list[Answer[P]]:
        since = time.monotonic() - GOOD_FOR_S
        return [self._said[each][1] for each in self._sources if each in self._said and self._said[each][0] >= since]

    def _ask_one(self, source: P) -> None:
        """Ask one source, in its own thread, and note the answer: that may be after `ask` has returned."""
        said, problem = None, None
        try:
            said = self._ask(source)
        except Exception as error:
            problem = error
        with self._heard:
            self._ended_at[source] = now = time.monotonic()
            if said is not None:
                self._said[source] = now, said
            elif problem is not None:
                self._said.pop(source, None)
                self._problems[source] = problem
            self._heard.notify_all()
