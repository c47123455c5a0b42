"""What a node keeps of the history of its group: the newest entries, in memory and on its disk.

Redis has the history, and scripts write it. A node reads what is new once the head counts more than before, so that
costs nothing while nothing happens. A Redis that comes back as another run, or is empty, may have lost entries: then
each node reads all that is left, and puts back what only it has. Whatever goes wrong with that is tried again at the
next beat, and keeps the node from nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from ..errors import CheckpointError, LogUnavailable
from ..format.ids import era_of
from ..log.interface import Log
from ..protocol.group import GroupView
from ..protocol.history import History, HistoryEntry, merged
from ..replica.replica import Replica
from ..runtime.counted import counted
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce

__all__ = ["HistoryKeeper"]

logger = EventLogger(__name__)

_BEHIND = Lasting("history.behind", "history.current", "the history of the group is up to date here again")

#: How many entries a node keeps, in so many bytes of JSON: some 250 bytes an entry.
KEPT, KEPT_BYTES_MAX = 1000, 256 * 1024

#: How many are put back in one step: Redis does nothing else meanwhile.
PUT_BACK_AT_ONCE = 50

#: The name under which the checkpoint has them.
NOTE = "history"


class _Seen(NamedTuple):
    """A history in Redis, as far as a look tells."""

    run: str
    run_of_term: str
    era: int
    log_id: str
    entry_count: int

    def continues(self, before: _Seen) -> bool:
        """Whether nothing was lost since. A log that is founded anew begins an era, in whatever run."""
        return self[:4] == before[:4] and self.entry_count >= before.entry_count


class HistoryKeeper:
    """Of one node."""

    def __init__(self, log: Log, replica: Replica) -> None:
        self._log = log
        self._replica = replica
        self._log_once = LogOnce(logger)
        self._log_id, self._entries = _parsed(replica.saved.checkpoint.noted(NOTE))
        self._is_saved = True
        self._seen: _Seen | None = None
        self._end = ""

    def shown(self, look: GroupView | None) -> History:
        """What it has; the look says whether that is all."""
        head = look.head if look is not None else None
        count, term = (head.history_count, head.term) if head is not None else (0, 0)
        return History.of(self._entries, count=count, term=term)

    def keep(self, look: GroupView, *, puts_back: bool = True) -> None:
        """Read what is new, put back what is lost (`puts_back`: if this node may write it), save."""
        head, log_id = look.head, self._replica.node_state.view.log_id
        if head is None or look.marred or (log_id and log_id != head.log_id):
            return
        try:
            seen = _Seen(look.run, head.run, era_of(head.term), head.log_id, head.history_count)
            self._follow(seen, puts_back=puts_back)
            self._save()
            self._log_once.over("history")
        except (LogUnavailable, CheckpointError) as error:
            self._log_once.tell("history", _BEHIND, f"the history of the group is not up to date here: {error}")

    def _follow(self, now: _Seen, *, puts_back: bool) -> None:
        before = self._seen
        if now == before:
            return
        if self._log_id != now.log_id:
            self._log_id, self._entries = now.log_id, ()
        if before is not None and now.continues(before):
            self._take(list(self._pages(self._end)))
        else:
            there = list(self._pages(""))
            # What is missing in a run in which nobody holds a term yet, the old one may still bring back.
            if puts_back and now.run == now.run_of_term and not self._put_back(there):
                return  # somebody else did it meanwhile
            self._take(there)
        self._seen = now

    def _pages(self, end: str) -> Iterator[HistoryEntry]:
        page = self._log.history(end)
        while page.entries:
            yield from page.entries
            page = self._log.history(page.end)
        self._end = page.end

    def _put_back(self, there: Sequence[HistoryEntry]) -> bool:
        known = {replace(entry, restored_by=None) for entry in there}
        lost = [entry for entry in self._entries if replace(entry, restored_by=None) not in known]
        for i in range(0, len(lost), PUT_BACK_AT_ONCE):
            some = lost[i : i + PUT_BACK_AT_ONCE]
            end = self._log.refill_history(some, end=self._end, node=self._replica.node_state.me.node)
            if end is None:
                return False
            self._end = end
        if lost:
            entries = counted(len(lost), "entry", "entries")
            logger.warning("history.restored", "put %s of the history back that Redis had lost", entries)
        return True

    def _take(self, entries: Sequence[HistoryEntry]) -> None:
        kept = tuple(merged(self._entries, entries)[-KEPT:])
        self._is_saved = self._is_saved and kept == self._entries
        self._entries = kept

    def _save(self) -> None:
        if self._is_saved:
            return
        self._replica.saved.checkpoint.note(NOTE, _shown(self._log_id, self._entries))
        self._is_saved = True


def _shown(log_id: str, entries: Sequence[HistoryEntry]) -> str:
    """As the checkpoint has them: the newest ones."""
    texts: list[str] = []
    left = KEPT_BYTES_MAX
    for entry in reversed(entries):
        text = orjson.dumps(entry.to_fields()).decode()
        left -= len(text.encode())
        if left < 0:
            break
        texts.append(text)
    return f'{{"log_id":{orjson.dumps(log_id).decode()},"entries":[{",".join(reversed(texts))}]}}'


def _parsed(text: str) -> tuple[str, tuple[HistoryEntry, ...]]:
    """The inverse. The history is for people, so a note that cannot be read is none."""
    try:
        noted: Any = orjson.loads(text or "null")
        found = [HistoryEntry.from_fields({str(name): str(each[name]) for name in each}) for each in noted["entries"]]
        return str(noted["log_id"]), tuple(entry for entry in found if entry is not None)
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return "", ()
