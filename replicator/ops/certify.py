"""Certify a group: walk its log, compare the nodes' checkpoints with it, and their states with one another's.

`log_check.py` has the rules. `Compared` is one checkpoint, held beside the log as that passes by.

A node may run meanwhile, and the log may grow and be trimmed: what is certified is what it was at the first look.
Memory is bounded: records are read in batches, states are rebuilt one after another.
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
from ..format.codec import decode_changes, digest_of_pieces
from ..format.ids import ORIGIN, ZERO_ID, Position, RecordId
from ..format.records import ChangeRecord, PartRecord, Record
from ..format.weight import SNAPSHOT_BYTES_MAX
from ..log.interface import Log
from ..protocol.group import Head
from ..state import ReplicatedState, State
from ..state.contract import check_state
from ..state.kind import are_alike, kind_of
from ..storage.payload import rebuilt_from
from ..storage.stored import DamagedCheckpoint, Stored
from ..storage.untrusted_sqlite import check_is_file, head_of
from .log_check import LogFacts, LogVerifier, Violation, as_violation

__all__ = ["CannotRebuild", "Certificate", "Compared", "NodeFacts", "certify", "copied"]

#: Records in one read: of full ones, 32 MiB.
RECORDS_AT_ONCE = 128

#: A node that writes writes its WAL back every 4 MiB; a copy made meanwhile may be torn.
COPY_ATTEMPTS = 6
COPY_AGAIN_AFTER_S = 0.25

#: How often progress is told.
RECORDS_A_REPORT = 10_000

#: A snapshot that begins trims the log; to read it all takes less time than the next one.
WALKS_MAX = 5

Progress = Callable[[str], None]


# --- one node's checkpoint -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeFacts:
    """One checkpoint. `place`: `in the log`, `before the log` (trimmed), `ahead of the log`, `not in the log`, `new`.

    Of its change records, `changes` are the log's, `trimmed` older than the log, or lost before a rebase;
    `divergent` the log has not. That is no violation where the node's history parted from the group's: they are to
    become a fork. `digest`: of the state.
    """

    node: str
    path: str
    position: str
    place: str
    changes: int
    trimmed: int
    divergent: int
    digest: str


class Compared:
    """A checkpoint beside a log: `take` each record that the log has, then `finish`."""

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        self.node = stored.node
        self.position = stored.view.position
        self.changes = 0
        self.trimmed = 0
        #: Those that the log has not, and which one is the newest of them.
        self.divergent = 0
        self._missing = ZERO_ID
        self._found = False
        self._changes = stored.changes()
        self._next = next(self._changes, None)

    def take(self, record: Record, *, begins: bool, rebases: bool) -> None:
        """`begins`: nothing is known of what was before it. `rebases`: history goes on there from its `as_of`."""
        while self._next is not None and self._next.id < record.id:
            self._lacks(self._next, trimmed=begins)
        if rebases and isinstance(record, PartRecord) and self._missing <= record.as_of.id:
            # Those of the history that the rebase brings were never in this log, or were lost.
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
        """Its place. Raises `Violation` if the log, or a snapshot in it, contradicts the checkpoint."""
        while self._next is not None:
            self._lacks(self._next, trimmed=False)
        if self.stored.view.log_id not in ("", head.log_id):
            self._fail(f"it follows log {self.stored.view.log_id}, and this is log {head.log_id}")
        if self._found and self.divergent:
            problem = f"it is at {self.position.id} like the log, and has {self._missing}, which the log has not"
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


# --- a copy of a file that is being written --------------------------------------------------------------------------


@contextlib.contextmanager
def copied(data_dir: Path, *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX) -> Iterator[Stored]:
    """The checkpoint of a node that may be running: a copy of its files, removed again in the end.

    The file itself changes only when a WAL is written back, and then begins anew: a copy made meanwhile may be torn.
    That shows when it is checked, and another one is made. One that is wrong although neither happened is damaged,
    however much the node writes: what is behind the part of a WAL that was copied is missing, and nothing else.
    Raises `CheckpointError`: it is damaged, or changes too fast to be copied, or cannot be read.
    """
    source = data_dir / "checkpoint.sqlite"
    with (
        tempfile.TemporaryDirectory(prefix="replicator-") as directory,
        _whole(source, Path(directory), snapshot_bytes_max) as copy,
    ):
        yield copy


def _whole(source: Path, directory: Path, snapshot_bytes_max: int) -> Stored:
    for attempt in range(COPY_ATTEMPTS):
        before = _marks(source)
        place = directory / str(attempt)
        try:
            return Stored(_copy(source, place), snapshot_bytes_max=snapshot_bytes_max)
        except DamagedCheckpoint as torn:
            shutil.rmtree(place)
            problem = torn.fields["problem"]
            # Only a pause shows that nobody writes: clocks of file systems have coarse ticks.
            time.sleep(COPY_AGAIN_AFTER_S)
            if _marks(source) == before:
                raise DamagedCheckpoint(path=source, problem=problem) from None
    hint = "its node writes too much, or it is damaged: stop the node, and try again"
    raise CheckpointError(path=source, problem=f"no whole copy of it in {COPY_ATTEMPTS} ({problem}); {hint}")


def _copy(source: Path, place: Path) -> Path:
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
    """Two that are equal, with a pause between them: the file stood still, and its WAL did not begin anew."""
    return _mark(source), _beginning(source.with_name(f"{source.name}-wal"))


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _beginning(wal: Path) -> bytes | None:
    # Its salts are other ones each time (sqlite.org/fileformat.html, 4.1).
    try:
        return head_of(wal, 32)
    except OSError:
        return None


# --- all of it -------------------------------------------------------------------------------------------------------


class CannotRebuild(ReplicatorError):
    """{node}: its state cannot be rebuilt from its checkpoint ({problem}); is the class right that --state names?"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What was checked and holds. `equal`: names of nodes whose states were compared, for each position."""

    log: LogFacts
    nodes: list[NodeFacts] = field(default_factory=list)
    equal: list[list[str]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. The names are a contract."""
        return asdict(self)


def certify(
    log: Log,
    data_dirs: Sequence[Path] = (),
    *,
    make_state: Callable[[], ReplicatedState],
    progress: Progress = lambda _: None,
    assumed: bool = False,
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
) -> Certificate:
    """Check the log as it is now, and the checkpoints in these data directories, of nodes that run or not.

    `assumed`: nobody said that `make_state` is right, so a checkpoint has to. `snapshot_bytes_max`: what a snapshot may
    weigh when it is unpacked (`format/weight.py`).
    `make_state` gives an empty state of the group's application. Raises `Violation` at the first thing that is not as
    it has to be; `LogLost` if there is no log, `CheckpointError` for a checkpoint that cannot be read, `ConfigError`
    for one that is of another application, or group.
    """
    with contextlib.ExitStack() as stack:
        # Before the head is looked at: what a node has, the log had before.
        copies = [
            stack.enter_context(copied(data_dir, snapshot_bytes_max=snapshot_bytes_max)) for data_dir in data_dirs
        ]
        for copy, data_dir in zip(copies, data_dirs, strict=True):
            progress(f"copied the checkpoint of {copy.node}, at {copy.view.position.id}")
            if copy.group != log.group:
                problem = f"{data_dir} is of group {copy.group}, this is group {log.group}"
                raise ConfigError(setting="data-dir", problem=problem)
            _check_kind(copy, kind_of(make_state()), assumed=assumed)
        facts, nodes = _walked(log, copies, progress, snapshot_bytes_max)
        told = [
            _told(node, place, data_dir, make_state()) for (node, place), data_dir in zip(nodes, data_dirs, strict=True)
        ]
        return Certificate(log=facts, nodes=told, equal=_equal([node for node, _ in nodes], told))


def _check_kind(copy: Stored, kind: str, *, assumed: bool) -> None:
    """Another application would make another state of these changes, or none, and find nothing wrong."""
    its = copy.note("state")
    if its is None and assumed:
        problem = f"the checkpoint of {copy.node} does not say of which class its state is: name it"
        raise ConfigError(setting="state", problem=problem)
    if its is not None and not are_alike(its, kind):
        problem = f"the checkpoint of {copy.node} is of a state of {its}, and not of {kind}: give --state {its}"
        raise ConfigError(setting="state", problem=problem)


def _walked(
    log: Log, copies: Sequence[Stored], progress: Progress, snapshot_bytes_max: int
) -> tuple[LogFacts, list[tuple[Compared, str]]]:
    """The log up to its head, with each checkpoint beside it; begun again if it was trimmed under the reader."""
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
    look = log.look()
    if look.head is None:
        raise LogLost(what=f"there is no log of group {log.group} at {log.url}")
    if look.last_id != look.head.position.id:
        problem = f"the newest entry is {look.last_id}, the head knows {look.head.position.id}"
        raise Violation("head", problem, ids=(look.last_id, look.head.position.id))
    return look.head


def _walk(log: Log, head: Head, walk: LogVerifier, nodes: Sequence[Compared], progress: Progress) -> None:
    after, upto, told = ZERO_ID, head.position.id, 0
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
        if walk.facts.records // RECORDS_A_REPORT > told:
            told = walk.facts.records // RECORDS_A_REPORT
            progress(f"{walk.facts.records} records are good, up to {after} of {upto}")


def _check_sources(log: Log, walk: LogVerifier) -> None:
    """A snapshot is of a place in the history: where the log has that place, it has the same history there."""
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
        changes=node.changes,
        trimmed=node.trimmed,
        divergent=node.divergent,
        digest=_digest(node.stored, state),
    )


def _digest(stored: Stored, state: Any) -> str:
    """The digest of the state that the checkpoint describes."""
    try:
        if not isinstance(state, State):
            with rebuilt_from(stored) as whole:
                return whole.digest
        if stored.payload is not None:
            state.restore(stored.pieces())
        for record in stored.changes():
            for change in decode_changes(record.codec, record.body, record.digest, record.count, id_=str(record.id)):
                with contextlib.suppress(ChangeRejected):
                    state.apply(change)
        return digest_of_pieces(state.snapshot())
    except CheckpointError:
        raise
    except Exception as error:
        raise CannotRebuild(node=stored.node, problem=repr(error)) from error


def _equal(nodes: Sequence[Compared], told: Sequence[NodeFacts]) -> list[list[str]]:
    at: dict[Position, list[NodeFacts]] = {}
    for node, facts in zip(nodes, told, strict=True):
        at.setdefault(node.position, []).append(facts)
    for position, there in at.items():
        if len({facts.digest for facts in there}) > 1:
            digests = ", ".join(f"{facts.node} {facts.digest}" for facts in there)
            raise Violation("state", f"nodes at {position.id} have different states: {digests}", ids=(position.id,))
    return [[facts.node for facts in there] for there in at.values() if len(there) > 1]
