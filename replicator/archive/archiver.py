"""The archiver: it follows the log like a standby that applies nothing, and publishes what it read, segment by segment.

One loop, on one thread: look, read, add, publish, say. It needs no node, writes nothing into the log (but a request for
a snapshot, now and then), and reads many records at a time and seldom, so that Redis has next to nothing to do for it.

What was published is there for good. What was not is in memory alone: an archiver that is killed reads it again, from
where its newest segment ends. A segment that a full disk refuses stays in memory, and is tried again; nothing more is
read meanwhile, so memory is bounded. If the log was cut before the archiver read it, that is a gap, and the archive
says so (`continuation.py`).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from ..errors import LogUnavailable
from ..format.ids import ZERO_ID, Position, RecordId, is_beyond
from ..format.records import PartRecord, Record, TermRecord
from ..format.snapshot_parts import Progress, follow
from ..log.interface import Batch, Log
from ..protocol.group import GroupView, Head
from ..runtime.backoff import Backoff
from ..runtime.counted import counted
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce
from .catalog import Catalog
from .checking import check
from .continuation import Break, Tail, break_before, rebases
from .errors import ArchiveInUse, ArchiveUnavailable, StoppedBefore
from .places import Place, Taken
from .retention import removable
from .segment import Builder, Footer, Parent
from .status import Status, write_status

__all__ = ["Archiver", "Settings"]

logger = EventLogger(__name__)

_TROUBLE = Lasting("archive.blocked", "archive.goes_on", "the archive can be written again", logging.ERROR)
_BEHIND_THE_LOG = Lasting("archive.no_log", "archive.follows", "the archiver follows the log again")

#: How often the log is read. Each read costs a round trip, so fewer reads cost less, and an archive need not be newer.
READ_EVERY_S = 0.2

#: How often it looks at the group, and says where it is.
LOOK_EVERY_S = 1.0

#: Records per read: Redis does nothing else while it copies an answer, so few where they are large.
RECORDS_AT_ONCE = 512
PARTS_AT_ONCE = 8
_LARGE_BYTES = 16 * 1024

#: How often retention is looked after, and how soon a snapshot is asked for again.
TIDY_EVERY_S = 600.0
ASK_AGAIN_S = 60.0

AGAIN_S, AGAIN_S_MAX = 0.5, 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A segment is closed once it has `segment_bytes` (headers and bodies) or is `segment_every_s` old.

    `snapshot_every_s`: a snapshot is asked for if there were changes and the newest one is as old as that; 0: never.
    `keep_s`, `keep_snapshots`: see `retention.py`. `state`: the class of the state, for whoever restores.
    `check_contents`: read every segment at the start, or only what they say of themselves.
    """

    segment_bytes: int = 8 * 1024 * 1024
    segment_every_s: float = 5.0
    snapshot_every_s: float = 86_400.0
    keep_s: float | None = None
    keep_snapshots: int | None = None
    state: str = ""
    check_contents: bool = True


class Archiver:
    """Of one group, at one place: `run` it. `log` is closed by the caller."""

    def __init__(
        self, log: Log, place: Place, settings: Settings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._log = log
        self._place = place
        self._settings = settings
        self._log_once = LogOnce(logger)
        self.status = Status(
            group=log.group, host=socket.gethostname(), pid=os.getpid(), every_ms=int(LOOK_EVERY_S * 1000)
        )
        self._backoff = Backoff(AGAIN_S, AGAIN_S_MAX)
        self._catalog: Catalog
        self._builder: Builder
        self._tail = Tail()
        #: The last entry that was read, whether it was archived or not: reading goes on after it.
        self._after: RecordId | None = None
        #: The record at which the log was last read anew: it is not read anew for the same one again.
        self._broke_at: RecordId | None = None
        self._opened_at = 0.0
        self._looked_at = self._tidied_at = self._asked_at = -1e9
        #: What the log had at a look (the head, and the clock of Redis), which is not all published yet.
        self._pending: tuple[RecordId, int] | None = None
        self._at_once = RECORDS_AT_ONCE
        #: The newest complete snapshot: when that was seen, and of which record; and whether there were changes since.
        self._snapshot_at: float | None = None
        self._snapshot_id = ZERO_ID
        self._has_changes = False

    def run(self, stopping: threading.Event) -> None:
        """Archive until `stopping` is set; what was read by then is published.

        Raises `ArchiveInUse`, `ArchiveDamaged`, and `ArchiveUnavailable` if it cannot even begin.
        """
        with self._place.held():
            self.begin()
            try:
                while not stopping.is_set():
                    stopping.wait(self.turn())
            finally:
                self.end()

    # --- beginning and ending ---

    def begin(self) -> None:
        """Check what is there, and find out where it ends. The caller holds the place. Raises what `run` raises."""
        self._catalog = Catalog(self._place, is_closed=True)
        report = check(self._catalog, contents=self._settings.check_contents, group=self._log.group)
        newest = self._catalog.newest
        if newest is None:
            self._builder = Builder(self._footer(1, 1))
        else:
            self._tail = Tail(newest.end, newest.run, newest.log_id)
            self._after = newest.end.id
            self._builder = Builder(self._next_footer(newest), progress=self._progress(newest))
            self._snapshot_at = self._age_of_snapshot()
            self._has_changes = True
            self.status.position, self.status.timeline = str(newest.end.id), newest.timeline
        self.status.segment_count = report.segment_count
        where = f"goes on after {newest.end.id}" if newest else "is new"
        segments = counted(report.segment_count, "segment")
        logger.info("archive.begins", "the archive at %s %s: %s, whole", self._place.name, where, segments)

    def _footer(self, timeline: int, number: int) -> Footer:
        return Footer(group=self._log.group, timeline=timeline, number=number, state=self._settings.state)

    def _next_footer(self, last: Footer) -> Footer:
        """Of the segment after this one, in the same timeline."""
        return replace(
            self._footer(last.timeline, last.number + 1),
            log_id=last.log_id, app=last.app, rejects_errors=last.rejects_errors, version=last.version, run=last.run,
            reason=last.reason, parent=last.parent, begun=last.begun, max_at_before=last.max_at, max_at=last.max_at,
            state=self._settings.state or last.state,
        )  # fmt: skip

    def _progress(self, newest: Footer) -> Progress | None:
        """Of the snapshot that was passing by at the end of the archive."""
        if newest.begun is None:
            return None
        lineage = self._catalog.lineage(newest.timeline)
        first = RecordId.parse(newest.begun.first)
        found: Progress | None = None
        before = ZERO_ID
        for record in lineage.records(lineage.index_of(first)):
            if record.id >= first and isinstance(record, PartRecord):
                found = follow(found, record, before)
            before = record.id
        return found

    def _age_of_snapshot(self) -> float | None:
        lineage = self._catalog.lineage(max(self._catalog.timelines))
        for index in reversed(range(len(lineage))):
            if snapshots := lineage.snapshots(index):
                self._snapshot_id = snapshots[-1].position.id
                return self._clock() - max(0.0, time.time() - snapshots[-1].at / 1000)
        return None

    def end(self) -> None:
        """Publish what was read."""
        try:
            self._publish()
            self.status.ended = True
            write_status(self._place, self.status)
        except ArchiveUnavailable as error:
            logger.warning("archive.ended_early", "%s; what was not published is read again at the next start", error)

    # --- one turn ---

    def turn(self) -> float:
        """Do what is to be done now; the seconds until the next turn.

        An archiver that has much to catch up on rests for as long as it worked: others need Redis and the processor.
        """
        began = time.monotonic()
        try:
            self._publish_if_due()
            more = self._read() if self._look_if_due() else False
            self._publish_if_due()
            self._tidy()
        except (LogUnavailable, ArchiveUnavailable, StoppedBefore) as error:
            self._trouble(str(error))
            return self._backoff.failed()
        self._backoff.succeeded()
        self._log_once.over("trouble")
        return time.monotonic() - began if more else READ_EVERY_S

    def _trouble(self, problem: str) -> None:
        self._log_once.tell("trouble", _TROUBLE, f"{problem}; trying again")
        self.status.problem = problem
        with suppress(ArchiveUnavailable):  # the very place that has no room for a segment
            write_status(self._place, self.status)

    def _look_if_due(self) -> bool:
        """Whether there is a log to read."""
        if self._clock() < self._looked_at + LOOK_EVERY_S:
            return self._after is not None
        look = self._log.look()
        head = look.head
        self._looked_at = self._clock()
        if head is None:
            self._say_where(look, "there is no log to archive")
            return False
        if self._tail.log_id and head.log_id != self._tail.log_id:
            self._break(Break(f"another log, {head.log_id}, is there instead of {self._tail.log_id}"))
        if self._after is None:
            self._begin_at(head)
        self._learn(look, head)
        if self._pending is None:
            self._pending = head.position.id, look.now_ms
        self._ask_for_snapshot(head)
        self._say_where(look, self._behind(head))
        return True

    def _begin_at(self, head: Head) -> None:
        """From here on the log is whole: what comes before was cut, and is deleted when there is time."""
        self._after = head.previous_snapshot_at
        self._tail = Tail(None, self._tail.run, head.log_id)

    def _learn(self, look: GroupView, head: Head) -> None:
        leader = look.heartbeats.get(head.node)
        footer = self._builder.footer
        footer.app, footer.log_id = head.app or footer.app, self._tail.log_id or head.log_id
        if leader is not None:
            footer.rejects_errors = leader.rejects_errors

    def _behind(self, head: Head) -> str:
        archived = RecordId.parse(self.status.position)
        if self._tail.position is not None and head.position.id < archived:
            return f"Redis has lost what came after {head.position.id}; the archive has it up to {archived}"
        return ""

    def _say_where(self, look: GroupView, problem: str) -> None:
        status, head = self.status, look.head
        if head is not None:
            archived = RecordId.parse(status.position)
            status.head_id = str(head.position.id)
            status.lag_records = max(0, head.position.id.n - archived.n)
            if self._builder.is_empty and archived >= head.position.id and not problem:
                status.complete_at, self._pending = look.now_ms, None
        status.problem = problem
        if problem:
            self._log_once.tell("log", _BEHIND_THE_LOG, problem)
        else:
            self._log_once.over("log")
        write_status(self._place, status)

    # --- reading ---

    def _read(self) -> bool:
        """Read what there is; whether there may be more."""
        batch: Batch = self._log.read(self._after, count=self._at_once)
        for record in batch.records:
            if not self._take(record):
                return True
            if self._is_full:
                self._publish()
        if batch.corrupt is not None:
            # As a node does: it stops before what is no record, and skips nothing.
            raise StoppedBefore(problem=batch.corrupt)
        if not batch.records:
            return False
        size = max(len(record.body) for record in batch.records)
        full = len(batch.records) >= self._at_once
        self._at_once = PARTS_AT_ONCE if size >= _LARGE_BYTES else RECORDS_AT_ONCE
        return full

    def _take(self, record: Record) -> bool:
        """Add it; False: reading begins anew elsewhere."""
        end = self._tail.position
        if end is not None and is_beyond(record.id, end.id.term, end.id.n):
            raise StoppedBefore(problem=f"{record.id} cannot come after {end.id}: it was written by hand")
        found = break_before(record, self._tail)
        if found is not None and not self._break(found, record):
            return False
        if self._builder.is_empty:
            self._opened_at = self._clock()
        self._builder.add(record, self._after or ZERO_ID)
        if isinstance(record, TermRecord):
            self._tail = self._tail._replace(run=record.run, log_id=record.log_id)
            self._builder.footer.run, self._builder.footer.log_id = record.run, record.log_id
        elif isinstance(record, PartRecord):
            if record.is_last:
                self._snapshot_at, self._snapshot_id, self._has_changes = self._clock(), record.as_of.id, False
        else:
            self._has_changes = True
        self._tail = self._tail._replace(position=record.position)
        self._after = record.id
        return True

    def _break(self, found: Break, record: Record | None = None) -> bool:
        """Begin another timeline; whether the record that was read is its first one. If not, the log is read anew.

        A rebase has all that it needs after it. Otherwise the log may have more from where it begins.
        """
        if record is not None and record.id == self._broke_at:
            raise StoppedBefore(problem=f"{record.id} does not follow what is before it in the log")
        self._publish()
        timeline = self._parent_of(found.parent)
        first, last = self._footer(max(self._catalog.timelines, default=0) + 1, 1), self._builder.footer
        first.reason = found.reason
        first.app, first.rejects_errors, first.run = last.app, last.rejects_errors, last.run
        if timeline is None or found.parent is None:
            if found.parent is not None:
                first.reason += f"; the archive has not {found.parent.id}, so this is a gap"
            logger.error(
                "archive.gap", "%s: timeline %d begins, and nothing before it is known", first.reason, first.timeline
            )
            self._builder, self._snapshot_at, self._tail = Builder(first), None, Tail(None, last.run, last.log_id)
            if record is not None and rebases(record):
                return True
            self._broke_at = record.id if record is not None else None
            self._tail, self._after, self._looked_at = Tail(), None, -1e9
            return False
        logger.warning(
            "archive.timeline", "%s: timeline %d begins after %s", first.reason, first.timeline, found.parent.id
        )
        first.parent = Parent(timeline, str(found.parent))
        first.log_id, first.version = last.log_id, last.version
        first.max_at_before = first.max_at = self._max_at(timeline, found.parent)
        self._builder = Builder(first)
        return True

    def _parent_of(self, position: Position | None) -> int | None:
        return None if position is None else self._catalog.find(position)

    def _max_at(self, timeline: int, position: Position) -> int:
        lineage = self._catalog.lineage(timeline)
        index = lineage.index_of(position.id)
        found = lineage.footer(index).max_at_before
        for record in lineage.records(index):
            if record.id > position.id:
                break
            found = max(found, record.at)
        return found

    # --- publishing ---

    @property
    def _is_full(self) -> bool:
        return self._builder.footer.records_bytes >= self._settings.segment_bytes

    def _publish_if_due(self) -> None:
        old = self._clock() - self._opened_at >= self._settings.segment_every_s
        if not self._builder.is_empty and (old or self._is_full):
            self._publish()

    def _publish(self) -> None:
        """Publish what was read, and begin the next segment. Raises `ArchiveUnavailable`: then it is still there."""
        builder = self._builder
        if builder.is_empty:
            return
        footer = builder.footer
        try:
            self._place.publish(footer.name, builder.finish())
        except Taken:
            raise ArchiveInUse(place=self._place.name, who=f"somebody else, who wrote {footer.name},") from None
        self._catalog.add(footer)
        self._builder = Builder(self._next_footer(footer), progress=builder.progress)
        self.status.position, self.status.timeline = str(footer.end.id), footer.timeline
        self.status.segment_count += 1
        if self._pending is not None and footer.end.id >= self._pending[0]:
            self.status.complete_at, self._pending = self._pending[1], None

    # --- now and then ---

    def _ask_for_snapshot(self, head: Head) -> None:
        every_s = self._settings.snapshot_every_s
        if not every_s or not self._has_changes or self._clock() < self._asked_at + ASK_AGAIN_S:
            return
        comes = head.part_next > 0 or head.snapshot_at > self._snapshot_id  # it was not read yet
        if not comes and (self._snapshot_at is None or self._clock() >= self._snapshot_at + every_s):
            self._asked_at = self._clock()
            self._log.request("snapshot", by="archive")

    def _tidy(self) -> None:
        if self._clock() < self._tidied_at + TIDY_EVERY_S:
            return
        self._tidied_at = self._clock()
        settings = self._settings
        for footer in removable(
            self._catalog,
            now_ms=int(time.time() * 1000),
            keep_s=settings.keep_s,
            keep_snapshots=settings.keep_snapshots,
        ):
            self._place.remove(footer.name)
            self._catalog.remove(footer)
            self.status.segment_count -= 1
            logger.info("archive.removed", "removed %s, which ends at %s", footer.name, footer.end.id)
