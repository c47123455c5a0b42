"""Certifies a group: reads its whole log, compares the nodes' checkpoints with it, and their states with one another.

`log_check.py` has the rules. `Compared` is one checkpoint, which is compared with each record as the log is read.

Nodes may run meanwhile, and the log may grow and be trimmed: what is certified is the log as it was at the first look.
Memory is bounded: records are read in batches, and states are rebuilt one after the other.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ChangeRejected, CheckpointError, ConfigError, LogLost, ReplicatorError
from ..format.codec import digest_of_pieces
from ..format.ids import ORIGIN, ZERO_ID, Position, RecordId
from ..format.records import ChangeRecord, PartRecord, Record
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..log.interface import Log
from ..protocol.group import Head
from ..replica.applied_state import changes_of, rejecting
from ..replica.ledger import Ledger
from ..state import ReplicatedState, State, TypedResults
from ..state.class_name import are_alike, kind_of
from ..state.contract import at_version, check_state
from ..storage.checkpoint_reader import CheckpointReader, DamagedCheckpoint
from ..storage.keyring import Keys
from ..storage.published_pages import rebuilt_from
from ..storage.untrusted_sqlite import check_is_file, head_of
from .common import Step
from .log_check import LogFacts, LogVerifier, Violation, as_violation

__all__ = ["CannotRebuild", "Certificate", "Compared", "NodeFacts", "certify", "copied"]

#: Records per read: at most 32 MiB, if all of them are full.
RECORDS_AT_ONCE = 128

#: The stream keeps about a thousand.
ACKS_AT_ONCE = 10_000

#: How often a checkpoint is copied, and the pause in between. A node that writes much checkpoints its write-ahead log
#: every 4 MiB, and a copy that is made meanwhile may be torn.
COPY_ATTEMPTS = 6
COPY_AGAIN_AFTER_S = 0.25

#: Progress is reported once per this many records.
RECORDS_A_REPORT = 10_000

#: How often reading the log is begun anew. The first part of a snapshot trims the log under the reader, but reading all
#: of it takes less time than until the next snapshot.
WALKS_MAX = 5

Progress = Callable[[str], None]


# --- one node's checkpoint -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """One checkpoint. `place`: `in the log`, `before the log` (trimmed), `ahead of the log`, `not in the log`, `new`.

    Of its change records, `common_record_count` are also in the log, and `trimmed_record_count` are older than the log,
    or were lost before a rebase. The log lacks `divergent_record_count` of them. They are no violation if the node's
    history diverged from the group's: then they will become a fork. `digest`: that of the state.
    """

    node: str
    path: str
    position: str
    place: str
    common_record_count: int
    trimmed_record_count: int
    divergent_record_count: int
    digest: str


class Compared:
    """Compares a checkpoint with a log: `take` each record of the log in order, then `finish`."""

    def __init__(self, stored: CheckpointReader) -> None:
        self.stored = stored
        self.node = stored.node
        self.position = stored.view.position
        self.changes = 0
        self.trimmed = 0
        #: How many changes the log lacks.
        self.divergent = 0
        #: The newest of them.
        self._missing = ZERO_ID
        self._found = False
        self._changes = stored.changes()
        self._next = next(self._changes, None)

    def take(self, record: Record, *, begins: bool, rebases: bool) -> None:
        """Take the next record of the log.

        `begins`: it is the first one, so nothing is known of what was before it. `rebases`: the history continues there
        from the record's `as_of`.
        """
        while self._next is not None and self._next.id < record.id:
            self._lacks(self._next, trimmed=begins)
        if rebases and isinstance(record, PartRecord) and self._missing <= record.as_of.id:
            # The changes in the history that the rebase brings were never in this log, or were lost.
            self.trimmed, self.divergent, self._missing = self.trimmed + self.divergent, 0, ZERO_ID
        if self._next is not None and self._next.id == record.id:
            if self._next != record:
                self._fail(f"its record {record.id} is not the one that the log has there", record.id)
            self.changes += 1
            self._next = next(self._changes, None)
        if record.id == self.position.id:
            self._meet(record.position)
        if isinstance(record, PartRecord) and record.as_of.id == self.position.id:
            self._meet(record.as_of)

    def _lacks(self, change: ChangeRecord, *, trimmed: bool) -> None:
        self.trimmed += trimmed
        self.divergent += not trimmed
        self._missing = self._missing if trimmed else change.id
        self._next = next(self._changes, None)

    def _meet(self, there: Position) -> None:
        if there != self.position:
            problem = f"it is at {self.position}, and the log has the chain {there.chain} there"
            self._fail(problem, self.position.id)
        self._found = True

    def finish(self, walk: LogVerifier, head: Head) -> str:
        """Return its place. Raises `Violation` if the log, or a snapshot in it, contradicts the checkpoint."""
        while self._next is not None:
            self._lacks(self._next, trimmed=False)
        if self.stored.view.log_id not in ("", head.log_id):
            self._fail(f"it follows log {self.stored.view.log_id}, and this is log {head.log_id}")
        if self._found and self.divergent:
            problem = f"it is at {self.position.id} like the log, but has {self._missing}, which the log lacks"
            self._fail(problem, self.position.id, self._missing)
        payload = self.stored.payload
        digest = walk.snapshots.get(payload.as_of) if payload else None
        if payload is not None and digest not in (None, payload.digest):
            self._fail(f"its snapshot of {payload.as_of.id} is not the one that the log has", payload.as_of.id)
        return self._place(walk, head)

    def _place(self, walk: LogVerifier, head: Head) -> str:
        if self._found:
            return "in the log"
        if self.position == ORIGIN:
            return "new"
        if self.position.id < walk.first:
            return "before the log"
        return "ahead of the log" if self.position.id > head.position.id else "not in the log"

    def _fail(self, problem: str, *ids: RecordId) -> None:
        raise Violation("checkpoint", f"{self.node}: {problem}", ids=ids, node=self.node)


# --- copying a file that is being written ----------------------------------------------------------------------------


@contextlib.contextmanager
def copied(
    data_dir: Path,
    *,
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
    keys: Keys | None = None,
    is_closed: bool = False,
) -> Iterator[CheckpointReader]:
    """Open a copy of the checkpoint of a node that may be running; the copy is removed in the end.

    The file itself changes only when the write-ahead log is written back, after which that begins anew. A copy made
    meanwhile may be torn; the check of the copy finds that, and another copy is made. If a copy is wrong although
    neither happened, the checkpoint is damaged, however much the node writes: a copy of a growing write-ahead log lacks
    only its end.
    Raises `CheckpointError` if it is damaged, changes too fast to be copied, or cannot be read.
    """
    source = data_dir / "checkpoint.sqlite"
    with (
        tempfile.TemporaryDirectory(prefix="replicator-") as directory,
        _whole(source, Path(directory), snapshot_bytes_max, keys, is_closed=is_closed) as copy,
    ):
        yield copy


def _whole(
    source: Path, directory: Path, snapshot_bytes_max: int, keys: Keys | None, *, is_closed: bool
) -> CheckpointReader:
    """Copy until a copy is whole. Damaged is only what is wrong although nothing changed meanwhile."""
    for attempt in range(COPY_ATTEMPTS):
        before = _marks(source)
        place = directory / str(attempt)
        try:
            copy = _copy(source, place)
            return CheckpointReader(copy, snapshot_bytes_max=snapshot_bytes_max, keys=keys, is_closed=is_closed)
        except DamagedCheckpoint as torn:
            shutil.rmtree(place)
            problem = torn.fields["problem"]
            # Without a pause, equal marks prove nothing: the clocks of file systems are coarse.
            time.sleep(COPY_AGAIN_AFTER_S)
            if _marks(source) == before:
                raise DamagedCheckpoint(path=source, problem=problem) from None
    hint = "its node writes too much, or it is damaged: stop the node, and try again"
    raise CheckpointError(path=source, problem=f"no whole copy of it in {COPY_ATTEMPTS} ({problem}); {hint}")


def _copy(source: Path, place: Path) -> Path:
    """Copy the checkpoint, then its write-ahead log, which may be missing."""
    try:
        check_is_file(source)
        place.mkdir()
        copy = place / source.name
        shutil.copyfile(source, copy)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{source}-wal", f"{copy}-wal")
    except OSError as error:
        raise CheckpointError(path=error.filename or source, problem=error.strerror or error) from error
    return copy


def _marks(source: Path) -> tuple[object, object]:
    """If these are equal before and after a pause, the file did not change, and its WAL did not begin anew."""
    return _mark(source), _beginning(source.with_name(f"{source.name}-wal"))


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _beginning(wal: Path) -> bytes | None:
    # It has new salts each time (sqlite.org/fileformat.html, 4.1).
    try:
        return head_of(wal, 32)
    except OSError:
        return None


# --- all of it -------------------------------------------------------------------------------------------------------


class CannotRebuild(ReplicatorError):
    """{node}: its state cannot be rebuilt from its checkpoint ({problem}); is the class right that --state names?"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What was checked and found good. `equal_nodes`: for each position, the names of nodes with equal states there."""

    log: LogFacts
    nodes: list[NodeFacts] = field(default_factory=list)
    equal_nodes: list[list[str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        return asdict(self)


def certify(
    log: Log,
    data_dirs: Sequence[Path] = (),
    *,
    make_state: Callable[[], ReplicatedState],
    progress: Progress = lambda _: None,
    assumed: bool = False,
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
    keys: Keys | None = None,
) -> Certificate:
    """Check the log as it is now, and the checkpoints in these data directories. Their nodes may be running.

    `make_state` makes an empty state of the group's application. `assumed`: it is only a default, so the checkpoints
    have to confirm it. `snapshot_bytes_max`: the most that an unpacked snapshot may weigh (`format/unpacked_size.py`).
    `keys`: those of the group, if it has some.

    Raises `Violation` at the first rule that does not hold; `LogLost` if there is no log, `CheckpointError` for a
    checkpoint that cannot be read, `ConfigError` for one of another application or group.
    """
    with contextlib.ExitStack() as stack:
        # Copied before the look at the head: the log has everything that a node had before.
        copies = [
            stack.enter_context(copied(data_dir, snapshot_bytes_max=snapshot_bytes_max, keys=keys))
            for data_dir in data_dirs
        ]
        for copy, data_dir in zip(copies, data_dirs, strict=True):
            progress(f"copied the checkpoint of {copy.node}, at {copy.view.position.id}")
            if copy.group != log.group:
                problem = f"{data_dir} is of group {copy.group}, this is group {log.group}"
                raise ConfigError(setting="data-dir", problem=problem)
            _check_kind(copy, kind_of(make_state()), assumed=assumed)
        facts, nodes = _walked(log, copies, progress, snapshot_bytes_max)
        _check_vouched(log)
        told = [
            _told(node, place, data_dir, make_state()) for (node, place), data_dir in zip(nodes, data_dirs, strict=True)
        ]
        return Certificate(log=facts, nodes=told, equal_nodes=_equal([node for node, _ in nodes], told))


def _check_kind(copy: CheckpointReader, kind: str, *, assumed: bool) -> None:
    """Check that the state is of the right class: another one might accept the changes, and find nothing wrong."""
    its = copy.note("state")
    if its is None and assumed:
        problem = f"the checkpoint of {copy.node} does not say of which class its state is: name it"
        raise ConfigError(setting="state", problem=problem)
    if its is not None and not are_alike(its, kind):
        problem = f"the checkpoint of {copy.node} is of a state of {its}, not of {kind}: give --state {its}"
        raise ConfigError(setting="state", problem=problem)


def _walked(
    log: Log, copies: Sequence[CheckpointReader], progress: Progress, snapshot_bytes_max: int
) -> tuple[LogFacts, list[tuple[Compared, str]]]:
    """Read the log up to its head, and compare each checkpoint; begin anew if the log was trimmed under the reader."""
    for _ in range(WALKS_MAX):
        head = _head(log)
        nodes = [Compared(copy) for copy in copies]
        try:
            with contextlib.closing(LogVerifier(snapshot_bytes_max=snapshot_bytes_max)) as walk:
                _walk(log, head, walk, nodes, progress)
                walk.finish(head)
                _check_sources(log, walk)
                return walk.facts, [(node, node.finish(walk, head)) for node in nodes]
        except Violation:
            if _head(log).previous_snapshot_at == head.previous_snapshot_at:
                raise
            progress("the log was trimmed meanwhile; once more")
    raise ReplicatorError(f"the log was trimmed {WALKS_MAX} times while it was read; try again when less is written")


def _head(log: Log) -> Head:
    """The head; it must be at the newest entry of the stream."""
    look = log.look()
    if look.head is None:
        raise LogLost(what=f"there is no log of group {log.group} at {log.url}")
    if look.last_id != look.head.position.id:
        problem = f"the newest entry is {look.last_id}, the head knows {look.head.position.id}"
        raise Violation("head", problem, ids=(look.last_id, look.head.position.id))
    return look.head


def _walk(log: Log, head: Head, walk: LogVerifier, nodes: Sequence[Compared], progress: Progress) -> None:
    """Feed all records up to the head to the verifier and to each checkpoint."""
    # What was cut is deleted a slice at a time, also under the reader: it counts no more.
    after, upto, told = head.previous_snapshot_at, head.position.id, 0
    first = after.n
    while after < upto:
        batch = log.read(after, count=RECORDS_AT_ONCE)
        for record in batch.records:
            if record.id > upto:
                return
            begins = walk.last is None
            rebases = walk.take(record)
            for node in nodes:
                node.take(record, begins=begins, rebases=rebases)
        with as_violation():
            if batch.corrupt is not None:
                raise batch.corrupt
        if not batch.records:
            return
        after = batch.records[-1].id
        if walk.facts.record_count // RECORDS_A_REPORT > told:
            told = walk.facts.record_count // RECORDS_A_REPORT
            text = f"{walk.facts.record_count} records are good, up to {after} of {upto}"
            progress(Step(text, after.n - first, upto.n - first))


def _check_vouched(log: Log) -> None:
    """Check what nodes said of themselves, where the group has a key. Nobody went by what that does not vouch for."""
    if forged := log.look().forged:
        raise Violation("vouched", f"the key does not vouch for the heartbeats of {', '.join(forged)}")
    if forged_acks := sorted(set(log.read(None, acks_after="0-0", count=ACKS_AT_ONCE).forged_acks)):
        raise Violation("vouched", f"the key does not vouch for acks of {', '.join(forged_acks)}")


def _check_sources(log: Log, walk: LogVerifier) -> None:
    """Check the places in the history whose states the snapshots are: the log must have the same chain there."""
    for as_of in walk.snapshots:
        there = log.find(as_of.id)
        if there is not None and there.position != as_of:
            problem = f"there is a snapshot of {as_of}, and the log has the chain {there.chain} there"
            raise Violation("snapshot", problem, ids=(as_of.id,))


# --- states ----------------------------------------------------------------------------------------------------------


def _told(node: Compared, place: str, data_dir: Path, state: ReplicatedState) -> NodeFacts:
    check_state(state)
    return NodeFacts(
        node=node.node,
        path=str(data_dir),
        position=str(node.position.id),
        place=place,
        common_record_count=node.changes,
        trimmed_record_count=node.trimmed,
        divergent_record_count=node.divergent,
        digest=_digest(node.stored, state),
    )


def _digest(stored: CheckpointReader, state: Any) -> str:
    """Rebuild the state that the checkpoint describes; return its digest."""
    try:
        if not isinstance(state, State):
            with rebuilt_from(stored) as whole:
                return whole.digest
        ledger, version = Ledger.of(stored.ledger(), id_="checkpoint"), stored.base_version
        typed = state if isinstance(state, TypedResults) else None
        if stored.payload is not None:
            at_version(state.restore, version)(stored.pieces())
        rejects_errors = stored.note("on_apply_error") == "reject"
        for record in stored.changes():
            apply = at_version(state.apply, version)
            apply = rejecting(apply) if rejects_errors else apply
            for index, change in enumerate(changes_of(record)):
                with contextlib.suppress(ChangeRejected):
                    ledger.applied(change, record.id, index, apply, typed)
            version = max(record.version, version)
        return digest_of_pieces(at_version(state.snapshot, version)(), ledger=ledger.image().compared())
    except CheckpointError:
        raise
    except Exception as error:
        raise CannotRebuild(node=stored.node, problem=repr(error)) from error


def _equal(nodes: Sequence[Compared], told: Sequence[NodeFacts]) -> list[list[str]]:
    """Compare the states of nodes at equal positions (G6); return the names of those that were compared."""
    at: dict[Position, list[NodeFacts]] = {}
    for node, facts in zip(nodes, told, strict=True):
        at.setdefault(node.position, []).append(facts)
    for position, there in at.items():
        if len({facts.digest for facts in there}) > 1:
            digests = ", ".join(f"{facts.node} {facts.digest}" for facts in there)
            raise Violation("state", f"nodes at {position.id} have different states: {digests}", ids=(position.id,))
    return [[facts.node for facts in there] for there in at.values() if len(there) > 1]
