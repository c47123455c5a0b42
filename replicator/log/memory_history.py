"""The history of a group in memory: what `history.lua`, `refill.lua` and the ending of a term in `promote.lua` do.

It is no part of what a `MemoryState` is compared by: nothing that a group does may depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from replicator.protocol.election import NOBODY
from replicator.protocol.group import Claim, Head
from replicator.protocol.history import HISTORY_KEPT, TEXT_BYTES_MAX, HistoryEntry

__all__ = ["MemoryHistory", "Stamp", "ending_of"]


class Placed(NamedTuple):
    """An entry, and its place in the stream."""

    place: int
    entry: HistoryEntry


class Stamp(NamedTuple):
    """When something happened in that term, unix ms."""

    term: int
    at: int

    def of(self, term: int) -> int:
        """It, if that is the term; else 0."""
        return self.at if self.term == term else 0


NEVER = Stamp(0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryHistory:
    """The stream, and what the head says of it.

    `count`: how many entries there are. `since`: when the term was taken; `left`: when its holder gave the lease back;
    `gone`: when somebody did who saw that it had ended.
    """

    entries: tuple[Placed, ...] = ()
    count: int = 0
    since: Stamp = NEVER
    left: Stamp = NEVER
    gone: Stamp = NEVER

    def without_head(self) -> MemoryHistory:
        """What is left of it if there is no head."""
        return MemoryHistory(entries=self.entries)

    def told(self, what: str, *, term: int, at: int, counts: bool = True, **fields: Any) -> MemoryHistory:
        """With one more entry. `counts`: there is a head to count in."""
        number = self.count + 1 if counts else 0
        known: dict[str, Any] = {name: _known(value) for name, value in fields.items() if value not in (None, "")}
        entry = HistoryEntry(what=what, term=term, at=at, number=number, **known)
        return replace(self._with(entry), count=number if counts else self.count)

    def refilled(self, entries: Sequence[HistoryEntry], *, node: str) -> MemoryHistory:
        """With these entries, which that node has put back."""
        after = self
        for entry in entries:
            after = after._with(replace(entry, restored_by=node))
        return after

    @property
    def end(self) -> str:
        """The place of the newest entry."""
        return f"{self.entries[-1].place}-0" if self.entries else ""

    def _with(self, entry: HistoryEntry) -> MemoryHistory:
        place = self.entries[-1].place + 1 if self.entries else 1
        return replace(self, entries=(*self.entries, Placed(place, entry))[-HISTORY_KEPT:])


def _known(value: Any) -> Any:
    """Of a long text the beginning."""
    return value.encode()[:TEXT_BYTES_MAX].decode(errors="ignore") if isinstance(value, str) else value


def ending_of(
    head: Head | None, claim: Claim, history: MemoryHistory, *, run: str, lease: str, now_ms: int, anew: bool
) -> dict[str, Any]:
    """How the term of `head` ends by this claim: the fields of its entry. `lease`: the text of the one that runs."""
    if head is None or head.writer == NOBODY:
        return {}
    how, at = ("log lost", 0) if anew else _how_it_ends(head, claim, history, run=run, lease=lease, now_ms=now_ms)
    since = history.since.of(head.term)
    fields = {"ended": how, "ended_term": head.term, "ended_node": head.node, "ended_at": at or None}
    return fields | ({"lasted_ms": at - since} if since and at >= since else {})


def _how_it_ends(
    head: Head, claim: Claim, history: MemoryHistory, *, run: str, lease: str, now_ms: int
) -> tuple[str, int]:
    if left := history.left.of(head.term):
        return "stopped", left
    if gone := history.gone.of(head.term):
        return "crashed", gone
    seen = head.whole_at if head.whole == head.run and head.whole_at >= history.since.of(head.term) else 0
    if head.run != run:
        return "run changed", seen
    ran = lease.startswith(f"{head.term} {head.node} {head.boot} ") and lease != claim.expired
    if claim.what in ("switchover", "demote") or claim.writer == head.writer:
        return "stepped down", now_ms if ran else seen
    if claim.writer.node == head.node:
        return "crashed", seen
    return ("fenced", now_ms) if ran else (claim.ended or "lease ran out", seen)
