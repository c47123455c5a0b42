"""Who led when, as far as a node can tell from memory: what it saw since its start, and the ends of older terms.

It is one source of a history (`TermSource`), and the only one that needs nothing but the node. It forgets what it saw
when the process ends, and of a term that came and went between two reads it knows the end alone.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ..protocol.fold import NOBODY, View

__all__ = ["LedTerm", "LedTerms", "TermSource"]

#: As many as the ends of a history are kept for; a group that flaps is not to fill the memory of its nodes.
TERMS_KEPT = 1000


class LedTerm(NamedTuple):
    """One term. `holder`, `boot`: who took it; None: not known, or nobody (a demotion). `noticed_at`: when this node
    saw that it had begun, in unix ms by the node's own clock; None: before its start. `last_id`: the newest record of
    the term in the node's history; None: it has none yet, or it is older than what is remembered.
    """

    term: int
    holder: str | None
    boot: str | None
    noticed_at: int | None
    last_id: str | None


class TermSource(Protocol):
    """Tells who led when. It is asked by probes, on an event loop: it answers from memory, at once."""

    def terms(self) -> Sequence[LedTerm]:
        """Oldest first."""
        ...


class _Seen(NamedTuple):
    holder: str | None
    boot: str | None
    noticed_at: int | None


class LedTerms:
    """Of one node. `view`: what it knows now. `now_ms`: unix ms."""

    def __init__(
        self, view: Callable[[], View], *, now_ms: Callable[[], int] = lambda: time.time_ns() // 10**6
    ) -> None:
        self._view = view
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._seen: OrderedDict[int, _Seen] = OrderedDict()
        self._note(view(), noticed_at=None)

    def turned(self) -> None:
        """The view may be of another term, or holder. Takes no time."""
        self._note(self._view(), noticed_at=self._now_ms())

    def terms(self) -> Sequence[LedTerm]:
        view = self._view()
        last = {end.term: str(end) for end in (*view.ends, view.position.id) if end.term > 0}
        with self._lock:
            seen = dict(self._seen)
        unknown = _Seen(None, None, None)
        return [LedTerm(term, *seen.get(term, unknown), last_id=last.get(term)) for term in sorted({*last, *seen})]

    def _note(self, view: View, *, noticed_at: int | None) -> None:
        if view.term == 0:
            return
        holder = view.holder if view.holder != NOBODY else None
        with self._lock:
            known = self._seen.get(view.term)
            if known is not None and known.holder is not None:
                return
            at = known.noticed_at if known is not None else noticed_at
            self._seen[view.term] = _Seen(
                (holder.node or None) if holder else None, (holder.boot or None) if holder else None, at
            )
            while len(self._seen) > TERMS_KEPT:
                self._seen.popitem(last=False)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
