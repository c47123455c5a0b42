"""Asking where the master is. The *tellers* are sentinels, or the nodes of a cluster; they may hang, and may disagree.

- All are asked at once, each in its own thread (`runtime/aside.py`). One that hangs costs time only once: a teller that
  did not answer the last time is asked again, but not waited for until it has answered.
- The newest *epoch* that any teller names counts, not the first answer. Some learn later than others that a master was
  replaced, and one that is cut off with the old master never does. A newer epoch that was heard of is not forgotten
  while no more than half of the tellers can be heard.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple, TypeVar

from ..runtime.aside import Aside

__all__ = ["Said", "Tellers"]

P = TypeVar("P")

#: How long an answer counts: a teller that hangs since then has not taken it back.
GOOD_FOR_S = 2.0


class Said(NamedTuple, Generic[P]):
    """An answer: the master is at `place`, since the change of masters with number `epoch` (0: not known)."""

    epoch: int
    place: P


class Tellers(Generic[P]):
    """All tellers of one master. `ask` asks one of them, and may raise anything. Thread-safe."""

    def __init__(self, tellers: Sequence[P], ask: Callable[[P], Said[P]]) -> None:
        self._tellers = tuple(tellers)
        self._ask = ask
        self._aside: Aside[None] = Aside("master", most=len(self._tellers))
        self._heard = threading.Condition()
        self._said: dict[P, tuple[float, Said[P]]] = {}
        self._problems: dict[P, Exception] = {}
        #: When each one was heard, or failed.
        self._ended_at: dict[P, float] = {}
        self._prompt = set(self._tellers)
        self._newest: Said[P] | None = None

    def ask(self, wait_s: float, *, someone_s: float = 0.0) -> None:
        """Ask all tellers. Wait up to `wait_s` for those that answered the last time, and up to `someone_s` for any."""
        began = time.monotonic()
        asked = {teller: self._aside.ask(teller, partial(self._ask_one, teller)) for teller in self._tellers}
        for teller in self._prompt:
            asked[teller].wait(began + wait_s - time.monotonic())
        with self._heard:

            def enough() -> bool:
                return bool(self._lately()) or all(map(has_ended, self._tellers))

            def has_ended(teller: P) -> bool:
                return self._ended_at.get(teller, 0.0) >= began or asked[teller].done

            self._heard.wait_for(enough, timeout=max(0.0, began + someone_s - time.monotonic()))
            self._prompt = {teller for teller in self._tellers if has_ended(teller)}

    def places(self) -> list[P]:
        """Where the master of the newest epoch may be, the likeliest place first. Empty: no teller answered lately."""
        with self._heard:
            said = self._lately()
            if not said:
                return []
            epoch = max(each.epoch for each in said)
            newest = self._newest
            if newest is not None and newest.epoch > epoch and 2 * len(said) <= len(self._tellers):
                return [newest.place]
            votes = Counter(each.place for each in said if each.epoch == epoch)
            places = [place for place, _ in votes.most_common()]
            self._newest = Said(epoch, places[0])
            return places

    def problems(self) -> list[tuple[P, Exception | None]]:
        """The tellers without an answer, and why (None: it has not come yet)."""
        with self._heard:
            silent = [teller for teller in self._tellers if teller not in self._said]
            return [(teller, self._problems.get(teller)) for teller in silent]

    def _lately(self) -> list[Said[P]]:
        since = time.monotonic() - GOOD_FOR_S
        return [self._said[each][1] for each in self._tellers if each in self._said and self._said[each][0] >= since]

    def _ask_one(self, teller: P) -> None:
        """Ask one teller, in its own thread, and note the answer: that may be after `ask` has returned."""
        said, problem = None, None
        try:
            said = self._ask(teller)
        except Exception as error:
            problem = error
        with self._heard:
            self._ended_at[teller] = now = time.monotonic()
            if said is not None:
                self._said[teller] = now, said
            elif problem is not None:
                self._said.pop(teller, None)
                self._problems[teller] = problem
            self._heard.notify_all()
