"""The walk: is this log, record by record, what Redis' scripts and the nodes may have written?

`LogVerifier` is fed the records in order and asks nobody. The first thing that is not as it has to be is a `Violation`,
which names the rule and says what it means. `RULES` lists them; two of them are `certify.py`'s.

**A log may break off** in one way that is right: a holder that was ahead of a log which lost records goes on at its own
n and chain (a *rebase*). It does so first of all in its term, with part 0 of a snapshot of what it had before that
term. No other gap is taken for one, so what Redis loses in the middle of a term is a violation, even if the holder went
on from what it had.

**Memory** is bounded: the parts of one snapshot wait in a temporary file until their digest is known, and of complete
snapshots only what they are of is kept.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

from ..errors import CorruptRecord, ReplicatorError
from ..format.codec import SnapshotDecoder, decode_changes
from ..format.ids import ZERO_CHAIN, ZERO_ID, Position, RecordId, Writer, era_of
from ..format.patch import CODEC, Gatherer, PatchHead, placed
from ..format.records import ChangeRecord, PartRecord, Record, TermRecord, last_change_after
from ..format.term_ends import show_ends, with_end
from ..format.weight import SNAPSHOT_BYTES_MAX
from ..protocol.group import Head

__all__ = ["RULES", "LogFacts", "LogVerifier", "Violation", "as_violation"]


#: What each rule says, and what it means if it does not hold.
RULES = {
    "ids": ("ids only grow, and n counts without a gap", "records were deleted, or inserted"),
    "chain": ("a record's `prev` is the chain before it", "a record was changed, or stands in another place"),
    "beginning": ("the log begins at its beginning, or where a snapshot allows a cut (G8)", "it was cut by hand"),
    "writer": ("one boot of one node writes in a term (G1)", "a fence did not hold"),
    "term": ("its record opens a term, a new run begins a new era (G3)", "a term was taken past the script"),
    "ends": ("the ends of terms that a record tells are those of the log", "nodes misjudge what was lost"),
    "body": ("every entry is a record, whose body decodes and fits its digest", "it is damaged, or somebody else's"),
    "snapshot": ("parts follow one another, and show a state of their own term", "no node can be rebuilt from it"),
    "head": ("what Redis keeps beside the log is what the log shows", "something wrote past the scripts"),
    "checkpoint": ("a node has of the log what the log has (G2, G7)", "the node has another history"),
    "state": ("states at equal positions are equal (G6)", "apply() is not deterministic, or a disk lied"),
}


class Violation(ReplicatorError):
    """{rule}: {problem} ({meaning})"""

    def __init__(self, rule: str, problem: str, *, ids: Iterable[RecordId] = (), node: str = "") -> None:
        self.meaning = RULES[rule][1]
        super().__init__(rule=rule, problem=problem, meaning=self.meaning)
        self.rule = rule
        self.problem = problem
        self.ids = tuple(ids)
        self.node = node

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. The names are a contract."""
        ids = [str(id_) for id_ in self.ids]
        return {"rule": self.rule, "ids": ids, "node": self.node, "problem": self.problem, "meaning": self.meaning}


@dataclass(kw_only=True, slots=True)
class LogFacts:
    """What was walked. `trimmed`: it does not begin at its beginning. `changes` are those of the application."""

    first: str = ""
    last: str = ""
    trimmed: bool = False
    records: int = 0
    terms: int = 0
    changes: int = 0
    markers: int = 0
    snapshots: int = 0
    snapshots_broken_off: int = 0
    rebases: int = 0
    bytes: int = 0


class LogVerifier:
    """A log, record by record: `take` each in order, then `finish`, and `close` whatever came of it.

    `snapshot_bytes_max`: what a snapshot may weigh when it is unpacked (`format/weight.py`).
    """

    def __init__(self, *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX) -> None:
        self._snapshot_bytes_max = snapshot_bytes_max
        self.facts = LogFacts()
        #: The oldest record of what was walked, and the newest.
        self.first = ZERO_ID
        self.last: Position | None = None
        #: What the complete snapshots were of, oldest first, and the digests of their payloads.
        self.snapshots: dict[Position, str] = {}
        # Of the newest term record; empty until there was one.
        self._log_id = ""
        self._run = ""
        self._writer = Writer("", "")
        # How many records of the term came before.
        self._in_term = 0
        # Of the snapshot under way, if one is.
        self._parts: _Parts | None = None
        # None: what lies before the first record decides, and nobody can know it.
        self._ends: tuple[RecordId, ...] | None = None
        self._changed: RecordId | None = None
        # Where the history that a rebase brings parted: the `as_of` of its first part, until its snapshot is complete.
        self._parted: RecordId | None = None
        # The patches of a state that is replicated whole, and the digest of its payload, where it is known.
        self._patches: Gatherer | None = None
        self._payload: str | None = None
        # Where the newest first part cut the log.
        self._cut: RecordId | None = None

    def take(self, record: Record) -> bool:
        """The next record; whether it is the first one of a rebase. Raises `Violation`."""
        rebases = self._place(record)
        self._hold_term(record)
        if isinstance(record, TermRecord):
            self._take_term(record)
        elif isinstance(record, ChangeRecord):
            self._take_change(record)
        else:
            assert isinstance(record, PartRecord)
            self._take_part(record, rebases)
        self.last = record.position
        self._in_term += 1
        facts = self.facts
        facts.first, facts.last = facts.first or str(record.id), str(record.id)
        facts.records += 1
        facts.bytes += len(record.header) + len(record.body)
        return rebases

    # --- its place ---

    def _place(self, record: Record) -> bool:
        last = self.last
        if last is None:
            self._begin(record)
            return False
        if record.id <= last.id:
            raise Violation("ids", f"{record.id} stands behind {last.id}", ids=(last.id, record.id))
        rebases = self._rebases(record, last)
        before = max(last.id.n, record.as_of.id.n) if rebases and isinstance(record, PartRecord) else last.id.n
        if record.id.n != before + 1:
            missing = f"{before + 1}" if record.id.n == before + 2 else f"{before + 1} to {record.id.n - 1}"
            what = f"number {missing} is missing" if record.id.n > before else f"it counts back from {before}"
            raise Violation("ids", f"between {last.id} and {record.id}, {what}", ids=(last.id, record.id))
        if not rebases and record.prev != last.chain:
            problem = f"{record.id} follows the chain {record.prev}, and {last.id} before it has {last.chain}"
            raise Violation("chain", problem, ids=(last.id, record.id))
        return rebases

    def _begin(self, record: Record) -> None:
        self.first = record.id
        if record.id.n > 1:
            self.facts.trimmed = True
            return
        if record.prev != ZERO_CHAIN:
            raise Violation("chain", f"{record.id} is the first record, and follows another one", ids=(record.id,))
        self._ends, self._changed, self._cut = (), ZERO_ID, ZERO_ID

    def _rebases(self, record: Record, last: Position) -> bool:
        if not isinstance(record, PartRecord) or record.prev == last.chain:
            return False
        of_before = record.as_of.chain == record.prev and record.as_of.id.term < record.id.term
        return record.part == 0 and of_before and self._in_term == 1 and last.id.term == record.id.term

    # --- its term ---

    def _hold_term(self, record: Record) -> None:
        begins = self.last is None or self.last.id.term != record.id.term
        if begins:
            if not isinstance(record, TermRecord) and (self.last is not None or record.id.n == 1):
                problem = f"term {record.id.term} begins with {record}, and not with the record of its promotion"
                raise Violation("term", problem, ids=(record.id,))
            self._writer, self._in_term = record.writer, 0
            self.facts.terms += 1
        elif isinstance(record, TermRecord):
            raise Violation("term", f"{record.id} opens term {record.id.term} once more", ids=(record.id,))
        elif record.writer != self._writer:
            problem = f"{record.id} was written by {record.writer}, and term {record.id.term} is {self._writer}'s"
            raise Violation("writer", problem, ids=(record.id,), node=record.node)

    def _take_term(self, record: TermRecord) -> None:
        if self._log_id and record.log_id != self._log_id:
            problem = f"{record.id} is of log {record.log_id}, those before it of log {self._log_id}"
            raise Violation("term", problem, ids=(record.id,))
        last = self.last
        if last and self._run and record.run != self._run and era_of(record.id.term) <= era_of(last.id.term):
            problem = f"term {record.id.term} was taken in another run than {last.id.term}, and in the same era"
            raise Violation("term", problem, ids=(record.id,))
        self._log_id, self._run = record.log_id, record.run
        self._drop_parts(broken_off=True)
        self._parted = None
        if self._ends is not None:
            _check_ends(record, record.ends, with_end(self._ends, last.id) if last else ())
        _check_grow(record, record.ends, None if last is None else last.id)
        self._ends = record.ends

    # --- what it carries ---

    def _take_change(self, record: ChangeRecord) -> None:
        with as_violation():
            if record.codec == CODEC:
                self._take_patch(record)
            else:
                decode_changes(record.codec, record.body, record.digest, record.count, id_=str(record.id))
        self.facts.changes += record.count
        self.facts.markers += not record.count
        self._changed = last_change_after(record) or self._changed

    def _take_patch(self, record: ChangeRecord) -> None:
        index, _, _ = placed(record)
        if index and self._patches is None:
            return  # it began before the first record
        self._patches = self._patches or Gatherer()
        if (patch := self._patches.add(record)) is None:
            return
        head = PatchHead.of(patch, id_=str(record.id))
        if self._payload not in (None, head.old_digest):
            problem = (
                f"the patch that {record.id} completes starts from {head.old_digest}, and there is {self._payload}"
            )
            raise Violation("body", problem, ids=(record.id,))
        self._payload = head.new_digest

    def _take_part(self, record: PartRecord, rebases: bool) -> None:
        if rebases:
            self._parted = record.as_of.id
            self._payload = None
            self.facts.rebases += 1
        if record.part == 0:
            of_its_term = record.as_of.id.term == record.id.term and record.as_of.id < record.id
            if not rebases and not of_its_term:
                problem = (
                    f"the snapshot that begins at {record.id} is of {record.as_of.id}, and that is not in its term"
                )
                raise Violation("snapshot", problem, ids=(record.id, record.as_of.id))
            self._drop_parts(broken_off=True)
            self._parts = _Parts(record)
            if self.snapshots:
                self._cut = max(self._cut or ZERO_ID, list(self.snapshots)[-1].id)
        elif self._parts is None or self._parts.count != record.part:
            before = f"part {self._parts.count - 1}" if self._parts else "no part"
            problem = f"{record.id} is part {record.part}, and {before} is before it"
            raise Violation("snapshot", problem, ids=(record.id,))
        self._parts.add(record)
        if record.is_last:
            with as_violation():
                self._parts.check(record, self._snapshot_bytes_max)
            self._drop_parts(broken_off=False)
            self._complete(record)

    def _complete(self, last: PartRecord) -> None:
        if self._parted is not None:
            # Of a history that the log does not have, only where it parted can be seen.
            _check_grow(last, last.ends, self._parted)
        elif self._ends is not None:
            _check_ends(last, last.ends, self._ends)
        else:
            _check_grow(last, last.ends, None)
        if self._changed is None:
            # No change was seen yet: the newest one is before the first record, and so in the snapshot.
            self._changed = last.changed
        self._changed = last_change_after(last, rebase=self._parted is not None) or self._changed
        self._ends, self._parted = last.ends, None
        if last.replaces:
            self._payload = last.digest
        self.snapshots[last.as_of] = last.digest
        self.facts.snapshots += 1

    def _drop_parts(self, *, broken_off: bool) -> None:
        if self._parts is not None:
            self._parts.close()
            self.facts.snapshots_broken_off += broken_off
        self._parts = None

    # --- the end ---

    def finish(self, head: Head) -> None:
        """The newest record when `head` was looked at was taken. Raises `Violation` if the head is not the log's."""
        if self.last is None:
            raise Violation("head", f"the head is at {head.position.id}, and the log is empty", ids=(head.position.id,))
        newest = list(self.snapshots)[-1:]
        shown: dict[str, tuple[Any, Any]] = {
            "position": (head.position, self.last),
            "term": (head.term, self.last.id.term),
            "holder": (head.writer, self._writer),
            "log": (head.log_id, self._log_id or head.log_id),
            "last change": (head.changed, head.changed if self._changed is None else self._changed),
            "ends of terms": (show_ends(head.ends), show_ends(head.ends if self._ends is None else self._ends)),
            "next part": (head.part_next, self._parts.count if self._parts else 0),
            "newest complete snapshot": (head.snapshot_at, newest[-1].id if newest else ZERO_ID),
            "place of the cut": (
                head.previous_snapshot_at,
                head.previous_snapshot_at if self._cut is None else self._cut,
            ),
        }
        for what, (told, is_so) in shown.items():
            if told != is_so:
                problem = f"as the {what}, the head has {told}, and the log shows {is_so}"
                raise Violation("head", problem, ids=(self.last.id,))
        if self.first.n > head.previous_snapshot_at.n + 1:
            problem = f"the log begins at {self.first}, and may be cut behind {head.previous_snapshot_at} only"
            raise Violation("beginning", problem, ids=(self.first, head.previous_snapshot_at))

    def close(self) -> None:
        """Give the temporary file back."""
        self._drop_parts(broken_off=False)


def _check_ends(record: Record, told: tuple[RecordId, ...], is_so: tuple[RecordId, ...]) -> None:
    if told != is_so:
        ends = f"{show_ends(told) or '-'}, and the log shows {show_ends(is_so) or '-'}"
        problem = f"{record.id} tells the ends of terms {ends}"
        raise Violation("ends", problem, ids=(record.id,))


def _check_grow(record: Record, ends: tuple[RecordId, ...], newest: RecordId | None) -> None:
    """Ends are of terms before the record's own, each of another term; `newest`: the last one, where that is known."""
    grow = all(end.term < after.term and end.n < after.n for end, after in pairwise((*ends, record.id)))
    if not grow or (newest is not None and ends[-1:] != (newest,)):
        known = f", and the last one is {newest}" if newest is not None else ""
        problem = f"{record.id} tells the ends of terms {show_ends(ends) or '-'}, which cannot be so{known}"
        raise Violation("ends", problem, ids=(record.id,))


@contextlib.contextmanager
def as_violation() -> Iterator[None]:
    """What is no record, or has no good body, as a `Violation`."""
    try:
        yield
    except CorruptRecord as problem:
        id_ = RecordId.parse(problem.fields["id"])
        raise Violation("body", f"{id_}: {problem.fields['problem']}", ids=(id_,)) from None


class _Parts:
    """The parts of one snapshot so far, in a temporary file."""

    def __init__(self, first: PartRecord) -> None:
        self._first = first
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._sizes: list[int] = []

    def add(self, record: PartRecord) -> None:
        first = self._first
        same = (record.as_of, record.changed, record.codec, record.replaces)
        if same != (first.as_of, first.changed, first.codec, first.replaces):
            problem = f"{record.id} is part {record.part} of another snapshot than {first.id}, which it follows"
            raise Violation("snapshot", problem, ids=(first.id, record.id))
        self._file.write(record.body)
        self._sizes.append(len(record.body))

    @property
    def count(self) -> int:
        return len(self._sizes)

    def check(self, last: PartRecord, most: int) -> None:
        """Raises `CorruptRecord`."""
        for _ in SnapshotDecoder(last.codec, last.digest, id_=str(last.id), most=most).pieces(self._bodies()):
            pass

    def _bodies(self) -> Iterator[bytes]:
        self._file.seek(0)
        return (self._file.read(size) for size in self._sizes)

    def close(self) -> None:
        self._file.close()
