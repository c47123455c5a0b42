"""Until when another node may still do what only a leader does, although this one holds the term now.

A write needs no wait: Redis fences the old term. Anything else does. A node that is replaced goes on until it hears of
it, and one that is cut off goes on to the end of its lease. So whoever takes the term waits with such work until every
lease of another boot is over, by its own clock:

- It took the term because nobody had a lease any more: what it saw last of a lease is as long ago as that lease is.
- It was promoted while one may have run: a whole lease from the moment in which it noticed.
- It led in the term before, or there was none: nobody was in between.
- The boot that held the term before says that its work is over (`handover.py`), which it does in a switchover. It had
  waited for those before it, and begins nothing more in that term. Only a boot that was seen to hold that term is
  believed, by a look at the group: what another one says, or one of another term, counts for nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..format.ids import Writer
from ..protocol.group import GroupView, LeaseText, lease_of

__all__ = ["FormerLeases"]


class FormerLeases:
    """Of all boots but `me`. `length_s`: of the own lease, which those of the others are taken to be like, until one is
    seen that is longer. Times are of `time.monotonic`. Thread-safe.
    """

    def __init__(self, me: Writer, length_s: float) -> None:
        self._me = f" {me.node} {me.boot}"
        self._lock = threading.Lock()
        self._longest_s = length_s
        #: The newest lease of another boot that was seen, and the end of all that were.
        self._lease: LeaseText | None = None
        self._until = float("-inf")
        #: The newest term that this boot held.
        self._held = 0
        #: The term that it took when nobody had a lease any more.
        self._vacant = 0
        #: The newest term whose holder says that its work is over.
        self._over = 0
        #: Called when that is another one.
        self.changed: Callable[[], None] = _nobody

    def saw(self, look: GroupView, now: float) -> None:
        """Redis has answered, before `now`, with this look."""
        lease = lease_of(look.lease, look.head)  # what nobody can have is waited for by nobody
        if lease is not None and not lease.holder.endswith(self._me):
            self._saw_lease(lease, now)
        if self._saw_end_of_work(look):
            self.changed()

    def _saw_lease(self, lease: LeaseText, now: float) -> None:
        with self._lock:
            known, self._lease = self._lease, lease
            if known == lease:
                return
            lengths = [lease.length_ms / 1000]
            if known is not None and known.holder != lease.holder:
                lengths.append(known.length_ms / 1000)  # it may have been renewed since it was seen
            self._longest_s = max(self._longest_s, *lengths)
            if 0 < _term_of(lease) <= self._over:
                return  # it is renewed until another one leads
            self._until = max(self._until, now + max(lengths))

    def _saw_end_of_work(self, look: GroupView) -> bool:
        """Whether the holder that was seen last says now that its work is over."""
        with self._lock:
            if self._lease is None or not _term_of(self._lease):
                return False
            term, (_, node, boot) = _term_of(self._lease), self._lease.holder.split(" ")
            said = look.heartbeats.get(node)
            if said is None or (said.boot, said.work_over) != (boot, term) or term <= self._over:
                return False
            self._over = term
            self._until = float("-inf")  # nor is any of those before it
            return True

    def took_vacant(self, term: int) -> None:
        """This node took `term`, which it did not get unless every lease had run out, or was its own."""
        with self._lock:
            self._vacant = max(self._vacant, term)

    def over_at(self, term: int, noticed_at: float) -> float:
        """From when on nobody else has a lease, now that this node holds `term`, as it noticed at `noticed_at`."""
        with self._lock:
            if term == self._over + 1 and self._over:
                return float("-inf")
            until = self._until
            if term not in (self._vacant, self._held, self._held + 1):
                until = max(until, noticed_at + self._longest_s)
            return until

    def held(self, term: int) -> None:
        """This boot held `term`, and no other one does what only a leader does."""
        with self._lock:
            self._held = max(self._held, term)


def _term_of(lease: LeaseText) -> int:
    """That of its holder, or 0 if it is not the text of one of ours."""
    term, *others = lease.holder.split(" ")
    return int(term) if len(others) == 2 and term.isascii() and term.isdigit() and len(term) < 17 else 0


def _nobody() -> None:
    """Where nobody waits."""
