"""Verifies a log record by record: can our scripts and nodes have written it?

`LogVerifier` is fed the records in order and asks nobody. The first rule that does not hold raises a `Violation`, which
names the rule and says what that means. `RULES` lists them; `certify.py` checks two of them.

**One gap is allowed**, a *rebase*: a holder that was ahead of a log which lost records continues at its own n and
chain. That is the first thing that it does in its term, with part 0 of a snapshot of what it had before that term. No
other gap passes for one: what Redis loses in the middle of a term is a violation, even if the holder continued from
what it had.

**Memory** is bounded: the parts of one snapshot wait in a temporary file until their digest is known, and of complete
snapshots only position and digest are kept.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import IO, Any

from ..errors import CorruptRecord, ReplicatorError
from ..format.acts import decode_act
from ..format.codec import SnapshotDecoder, decode_changes
from ..format.ids import ZERO_CHAIN, ZERO_ID, Position, RecordId, Writer, era_of
from ..format.patch import CODEC, MAGIC, Gatherer, PatchHead, placed
from ..format.records import ACT, ChangeRecord, PartRecord, Record, TermRecord, last_change_after
from ..format.term_ends import show_ends, with_end
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..protocol.group import Head
from ..replica.ledger import Ledger

__all__ = ["RULES", "LogFacts", "LogVerifier", "Violation", "as_violation"]


#: What each rule says, and what it means if the rule does not hold.
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
    "vouched": ("the group's key vouches for heartbeats and acks", "somebody without the key wrote them"),
    "checkpoint": ("a node has of the log what the log has (G2, G7)", "the node has another history"),
    "state": ("states at equal positions are equal (G6)", "apply() is not deterministic, or a disk lied"),
}


class Violation(ReplicatorError):
    """{rule}: {what} ({meaning})"""

    def __init__(self, rule: str, message: str, *, ids: Iterable[RecordId] = (), node: str = "") -> None:
        self.meaning = RULES[rule][1]
        super().__init__(rule=rule, what=message, meaning=self.meaning)
        self.rule = rule
        self.message = message
        self.ids = tuple(ids)
        self.node = node

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        ids = [str(id_) for id_ in self.ids]
        return {
            "rule": self.rule,
            "ids": ids,
            "node": self.node or None,
            "message": self.message,
            "meaning": self.meaning,
        }


@dataclass(kw_only=True, slots=True)
class LogFacts:
    """What was read. `trimmed`: the oldest records are gone. `change_count` counts those of the application.

    `records_bytes`: the headers and bodies of all records.
    """

    first_id: str = ""
    last_id: str = ""
    trimmed: bool = False
    record_count: int = 0
    term_count: int = 0
    change_count: int = 0
    marker_count: int = 0
    snapshot_count: int = 0
    broken_snapshot_count: int = 0
    rebase_count: int = 0
    records_bytes: int = 0


class LogVerifier:
    """Verifies a log: `take` each record in order, then `finish`; `close` in any case.

    `snapshot_bytes_max`: the most that an unpacked snapshot may weigh (`format/unpacked_size.py`).
    """

    def __init__(self, *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX) -> None:
        self._snapshot_bytes_max = snapshot_bytes_max
        self.facts = LogFacts()
        #: The oldest record so far.
        self.first = ZERO_ID
        #: The position of the newest record so far.
        self.last: Position | None = None
        #: The digests of the complete snapshots, oldest first, by the positions whose states they are.
        self.snapshots: dict[Position, str] = {}
        # What the newest term record says; empty before the first one.
        self._log_id = ""
        self._run = ""
        self._app = ""
        # The writer of the newest term.
        self._writer = Writer("", "")
        # How many records of that term there were so far.
        self._in_term = 0
        # The parts of the snapshot under way, if there is one.
        self._parts: _Parts | None = None
        # The ends of terms so far. None: they depend on what lies before the first record, which is not known.
        self._ends: tuple[RecordId, ...] | None = None
        # The last change so far. None: as for the ends.
        self._changed: RecordId | None = None
        # Where the history that a rebase brings diverged: the `as_of` of its first part, until its snapshot is
        # complete.
        self._parted: RecordId | None = None
        # The patches of a state without `apply`, as they are put together.
        self._patches: Gatherer | None = None
        # The digest of that state's payload. None: not known.
        self._payload: str | None = None
        # In which form of a patch it is that. A snapshot has it, as one of bytes has.
        self._payload_form = MAGIC
        # Where the newest first part of a snapshot trimmed the log. None: not known.
        self._cut: RecordId | None = None

    def take(self, record: Record) -> bool:
        """Check the next record; return whether it is the first one of a rebase. Raises `Violation`."""
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
        facts.first_id, facts.last_id = facts.first_id or str(record.id), str(record.id)
        facts.record_count += 1
        facts.records_bytes += len(record.header) + len(record.body)
        return rebases

    # --- its place ---

    def _place(self, record: Record) -> bool:
        """Check that the record follows the one before it, in number and chain; return whether it begins a rebase."""
        last = self.last
        if last is None:
            self._begin(record)
            return False
        if record.id <= last.id:
            raise Violation("ids", f"{record.id} comes after {last.id}", ids=(last.id, record.id))
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
        """Check that a term begins with its term record, and that only one writer writes in it."""
        begins = self.last is None or self.last.id.term != record.id.term
        if begins:
            if not isinstance(record, TermRecord) and (self.last is not None or record.id.n == 1):
                problem = f"term {record.id.term} begins with {record}, and not with the record of its promotion"
                raise Violation("term", problem, ids=(record.id,))
            self._writer, self._in_term = record.writer, 0
            self.facts.term_count += 1
        elif isinstance(record, TermRecord):
            raise Violation("term", f"{record.id} opens term {record.id.term} once more", ids=(record.id,))
        elif record.writer != self._writer:
            problem = f"{record.id} was written by {record.writer}, and term {record.id.term} is {self._writer}'s"
            raise Violation("writer", problem, ids=(record.id,), node=record.node)

    def _take_term(self, record: TermRecord) -> None:
        """Check what a promotion wrote: the log's identity, the era of the term, and the ends of terms before it."""
        if self._log_id and record.log_id != self._log_id:
            problem = f"{record.id} is of log {record.log_id}, those before it of log {self._log_id}"
            raise Violation("term", problem, ids=(record.id,))
        last = self.last
        if last and self._run and record.run != self._run and era_of(record.id.term) <= era_of(last.id.term):
            problem = f"term {record.id.term} was taken in another run than {last.id.term}, and in the same era"
            raise Violation("term", problem, ids=(record.id,))
        if self._app and record.app not in ("", self._app):
            problem = f"{record.id} is of the application `{record.app}`, those before it of `{self._app}`"
            raise Violation("term", problem, ids=(record.id,))
        self._log_id, self._run, self._app = record.log_id, record.run, record.app or self._app
        self._drop_parts(broken_off=True)
        self._parted = None
        if self._ends is not None:
            _check_ends(record, record.ends, with_end(self._ends, last.id) if last else ())
        _check_grow(record, record.ends, None if last is None else last.id)
        self._ends = record.ends

    # --- what it carries ---

    def _take_change(self, record: ChangeRecord) -> None:
        with as_violation():
            if record.codec == ACT:
                decode_act(record.payload, record.digest, record.version, id_=str(record.id))
            elif record.codec == CODEC:
                self._take_patch(record)
            else:
                decode_changes(record.codec, record.payload, record.digest, record.count, id_=str(record.id))
        self.facts.change_count += record.count if record.codec != ACT else 0
        self.facts.marker_count += not record.count
        self._changed = last_change_after(record) or self._changed

    def _take_patch(self, record: ChangeRecord) -> None:
        index, _, _ = placed(record)
        if index and self._patches is None:
            return  # this patch began before the first record
        self._patches = self._patches or Gatherer()
        if (patch := self._patches.add(record)) is None:
            return
        head, form = PatchHead.of(patch, id_=str(record.id)), patch[:4]
        # The digest of a snapshot is one of its bytes, and that of a change of pages or of files is not.
        if self._payload not in (None, head.old_digest) and form == self._payload_form:
            problem = (
                f"the patch that {record.id} completes starts from {head.old_digest}, and there is {self._payload}"
            )
            raise Violation("body", problem, ids=(record.id,))
        self._payload, self._payload_form = head.new_digest, form

    def _take_part(self, record: PartRecord, rebases: bool) -> None:
        """Check that parts follow one another, and that a snapshot is of a place in its own term, but for a rebase."""
        if rebases:
            self._parted = record.as_of.id
            self._payload = None
            self.facts.rebase_count += 1
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
        """Take note of a complete snapshot, and check the ends of terms that it brings."""
        if self._parted is not None:
            # The log lacks the history that a rebase brings: only where it diverged can be checked.
            _check_grow(last, last.ends, self._parted)
        elif self._ends is not None:
            _check_ends(last, last.ends, self._ends)
        else:
            _check_grow(last, last.ends, None)
        if self._changed is None:
            # No change was seen yet, so the newest one is before the first record, and the snapshot names it.
            self._changed = last.changed
        self._changed = last_change_after(last, rebase=self._parted is not None) or self._changed
        self._ends, self._parted = last.ends, None
        if last.replaces:
            self._payload, self._payload_form = last.digest, MAGIC
        self.snapshots[last.as_of] = last.digest
        self.facts.snapshot_count += 1

    def _drop_parts(self, *, broken_off: bool) -> None:
        if self._parts is not None:
            self._parts.close()
            self.facts.broken_snapshot_count += broken_off
        self._parts = None

    # --- the end ---

    def finish(self, head: Head) -> None:
        """Check the head, once all records up to it were taken. Raises `Violation` if it is not what the log shows."""
        if self.last is None:
            raise Violation("head", f"the head is at {head.position.id}, and the log is empty", ids=(head.position.id,))
        newest = list(self.snapshots)[-1:]
        shown: dict[str, tuple[Any, Any]] = {
            "position": (head.position, self.last),
            "term": (head.term, self.last.id.term),
            "holder": (head.writer, self._writer),
            "log": (head.log_id, self._log_id or head.log_id),
            "application": (head.app, self._app or head.app),
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
            problem = f"the log begins at {self.first}, but may only be trimmed up to {head.previous_snapshot_at}"
            raise Violation("beginning", problem, ids=(self.first, head.previous_snapshot_at))

    def close(self) -> None:
        """Remove the temporary file."""
        self._drop_parts(broken_off=False)


def _check_ends(record: Record, told: tuple[RecordId, ...], is_so: tuple[RecordId, ...]) -> None:
    if told != is_so:
        ends = f"{show_ends(told) or '-'}, and the log shows {show_ends(is_so) or '-'}"
        problem = f"{record.id} tells the ends of terms {ends}"
        raise Violation("ends", problem, ids=(record.id,))


def _check_grow(record: Record, ends: tuple[RecordId, ...], newest: RecordId | None) -> None:
    """Check that the ends are of ascending terms before the record's own; `newest`: the last one, if it is known."""
    grow = all(end.term < after.term and end.n < after.n for end, after in pairwise((*ends, record.id)))
    if not grow or (newest is not None and ends[-1:] != (newest,)):
        known = f", and the last one is {newest}" if newest is not None else ""
        problem = f"{record.id} tells the ends of terms {show_ends(ends) or '-'}, which cannot be so{known}"
        raise Violation("ends", problem, ids=(record.id,))


@contextlib.contextmanager
def as_violation() -> Iterator[None]:
    """Turn the error about an entry that is no record, or has a bad body, into a `Violation`."""
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
        same = (record.as_of, record.changed, record.codec, record.replaces, record.version)
        if same != (first.as_of, first.changed, first.codec, first.replaces, first.version):
            problem = f"{record.id} is part {record.part} of another snapshot than {first.id}, which it follows"
            raise Violation("snapshot", problem, ids=(first.id, record.id))
        self._file.write(record.payload)
        self._sizes.append(len(record.payload))

    @property
    def count(self) -> int:
        return len(self._sizes)

    def check(self, last: PartRecord, most: int) -> None:
        """Decode all parts, to check them. Raises `CorruptRecord`."""
        decoder = SnapshotDecoder(last.codec, last.digest, id_=str(last.id), most=most)
        for _ in decoder.pieces(self._bodies()):
            pass
        Ledger.of(decoder.ledger, id_=str(last.id))

    def _bodies(self) -> Iterator[bytes]:
        self._file.seek(0)
        return (self._file.read(size) for size in self._sizes)

    def close(self) -> None:
        self._file.close()
