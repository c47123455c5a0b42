"""The history of a group: what was done to it, by whom and why, and how each term ended (docs/history.md).

Scripts write it, in the very step that they tell of; nodes keep the newest entries, and put back what a Redis lost. It
is for people. No rule reads it, and none may.

An entry has a number, counted in the head of the log, so that a missing one shows. A log that is founded anew counts
from 1 again. So entries are in order by their terms, and by their numbers in a term.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any

from .election import NOBODY

__all__ = ["HISTORY_KEPT", "TERMS", "History", "HistoryEntry", "in_order", "merged"]

#: How many entries Redis keeps (history.lua has the same number).
HISTORY_KEPT = 10_000

#: Of a longer text, an entry has so many bytes (history.lua has the same number).
TEXT_BYTES_MAX = 1000

#: What takes a term. `takeover`: a node by itself.
TERMS = frozenset({"found", "takeover", "promote", "switchover", "skip", "demote", "recover"})

#: A number in Redis that is longer was not written by a script.
DIGITS_MAX = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryEntry:
    """One thing that was done. What is not known, or has no meaning for it, is None.

    `what`: one of `TERMS`; `stop` (the holder stopped in order), `release` (somebody saw that it had ended), `pause`,
    `resume`, `forget`, `reinit`, `finalize`.
    `number`: the count, 0 if it is not known. `at`: unix ms, by the clock of Redis. `term`: the one that was taken, or
    the one in which it was done. `node`, `boot`: who took the term, or whom it is about. `by`, `reason`: who asked for
    it, and why. `forced`: it went past what forbids it. `run`, `id`: the run in which a term was taken, and its record.
    `version`: the one that the group is at since. `skipped_id`: the change that it goes on without.

    `ended_term`, `ended_node`: the term before, and its holder. `ended`: how it ended (docs/history.md). `ended_at`:
    when, or when its holder was last heard of; `lasted_ms`: until then.

    `restored_by`: the node that put the entry back after Redis had lost it. `from_log`: it was never in the history,
    and is what the log still tells of a term.
    """

    what: str
    term: int
    number: int = 0
    at: int | None = None
    node: str | None = None
    boot: str | None = None
    by: str | None = None
    reason: str | None = None
    forced: bool = False
    run: str | None = None
    id: str | None = None
    version: int | None = None
    skipped_id: str | None = None
    ended: str | None = None
    ended_term: int | None = None
    ended_node: str | None = None
    ended_at: int | None = None
    lasted_ms: int | None = None
    restored_by: str | None = None
    from_log: bool = False

    @property
    def takes_term(self) -> bool:
        return self.what in TERMS

    def to_fields(self) -> dict[str, str]:
        """As Redis and checkpoints have it. What is None, or false, is left out."""
        known = ((name, value) for name, value in self.to_dict().items() if value is not None and value is not False)
        return {name: "1" if value is True else str(value) for name, value in known}

    @classmethod
    def from_fields(cls, texts: Mapping[str, str]) -> HistoryEntry | None:
        """The inverse of `to_fields`; None for what no script of ours wrote. It skips fields that it does not know."""
        try:
            return cls(**{name: _READ[name](text) for name, text in texts.items() if name in _READ})
        except (ValueError, TypeError):
            return None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract. All are plain, so nothing is copied: of 1,000 that shows."""
        return {name: getattr(self, name) for name in _NAMES}


_NAMES = tuple(each.name for each in fields(HistoryEntry))


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX):
        raise ValueError
    return int(text)


_READ: dict[str, Any] = {
    **dict.fromkeys(
        ("what", "node", "boot", "by", "reason", "run", "id", "ended", "ended_node", "restored_by", "skipped_id"), str
    ),
    **dict.fromkeys(("term", "number", "at", "version", "ended_term", "ended_at", "lasted_ms"), _number),
    "forced": lambda text: text == "1",
}


def in_order(entries: Iterable[HistoryEntry]) -> list[HistoryEntry]:
    """Oldest first. What was done while there was no log has no term, and stands where its time has it."""
    every = list(entries)
    known = sorted((each for each in every if each.term), key=lambda each: (each.term, each.number, each.at or 0))
    for each in sorted((each for each in every if not each.term), key=lambda each: each.at or 0):
        later = (i for i, other in enumerate(known) if (other.at or 0) >= (each.at or 0))
        known.insert(next(later, len(known)), each)
    return known


def merged(*lists: Iterable[HistoryEntry]) -> list[HistoryEntry]:
    """All of them in order, each once: whether it was put back makes no other entry of it."""
    found: dict[HistoryEntry, HistoryEntry] = {}
    for entries in lists:
        for each in entries:
            found.setdefault(replace(each, restored_by=None), each)
    return in_order(found.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Entries in order, oldest first. `complete`: nothing is missing since the founding.

    `complete_since_at`: nothing is missing since then (unix ms, by the clock of Redis), as far as anybody can tell;
    None: not even the newest entry is there.
    """

    complete: bool
    complete_since_at: int | None
    entries: Sequence[HistoryEntry]

    @classmethod
    def of(cls, entries: Sequence[HistoryEntry], *, count: int, term: int) -> History:
        """`entries`: in order. `count`, `term`: those of the head, 0 if there is none."""
        entries = _with_lost_logs(entries)
        told = [each for each in entries if not each.from_log]
        newest = max((each.number for each in told if each.term == term), default=0)
        if not told or told[-1].term != term or newest < count:
            return cls(complete=False, complete_since_at=None, entries=entries)
        gaps = [i for i, (earlier, later) in enumerate(pairwise(told), 1) if _is_gap(earlier, later)]
        begins = max([0, *gaps, *_unknown_terms(told)])
        complete = begins == 0 and told[0].what == "found" and told[0].number == 1
        return cls(complete=complete, complete_since_at=told[begins].at, entries=entries)

    def newest(self, count: int) -> History:
        """The same, with so many entries at the most."""
        return replace(self, entries=self.entries[max(0, len(self.entries) - count) :])

    def since(self, at: int) -> History:
        """The same, without what was before (unix ms)."""
        return replace(self, entries=[each for each in self.entries if (each.at or 0) >= at])

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        return {
            "complete": self.complete,
            "complete_since_at": self.complete_since_at,
            "entries": [each.to_dict() for each in self.entries],
        }


def _with_lost_logs(entries: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """Where a log was founded anew because Redis had lost it, only the entries before say whose term ended there."""
    found: list[HistoryEntry] = []
    before: HistoryEntry | None = None
    for each in entries:
        if each.what == "recover" and each.ended is None and before is not None and before.node != NOBODY.node:
            each = replace(each, ended="log lost", ended_term=before.term, ended_node=before.node)
        found.append(each)
        before = each if each.takes_term else before
    return found


def _is_gap(earlier: HistoryEntry, later: HistoryEntry) -> bool:
    # What has no number was done while there was no log. Where a log was founded anew, or Redis came back with less,
    # numbers begin again, or twice.
    return 0 < earlier.number < later.number - 1


def _unknown_terms(entries: Sequence[HistoryEntry]) -> Iterator[int]:
    """The entries before which a program that writes no history took a term."""
    last = 0
    for i, entry in enumerate(entries):
        before = entry.ended_term if entry.takes_term else entry.term
        if last and before and before != last:
            yield i
        last = entry.term or last
