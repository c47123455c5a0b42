"""Makes a state of what is in an archive: a snapshot, and the changes after it, folded like those of a log.

The records go through the very fold that nodes have (`protocol/fold.py`), so what a node would ignore is ignored, and
what it would not follow ends this with an error. What the changes come to depends on the application:

- with its class, they are applied, rejections and the table of keys included, as a node does it;
- of a state without `apply`, patches are put together, and no class is needed;
- otherwise only a snapshot can be had, at its own position (`NeedsClass`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from ..errors import ChangeRejected
from ..format.codec import SnapshotDecoder, digest_of_pieces, ledger_in
from ..format.ids import ORIGIN, ZERO_CHAIN, RecordId, Writer
from ..format.patch import CODEC
from ..format.records import ACT, ChangeRecord, PartRecord, Record
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..ops.certify import CannotRebuild
from ..protocol.fold import Verdict, View, step
from ..replica.applied_state import changes_of, rejecting
from ..replica.ledger import Ledger
from ..runtime.counted import counted
from ..state import ReplicatedState, State, TypedResults
from ..state.contract import at_version, check_state
from ..storage.payload import Whole
from ..storage.published_pages import whole_at_rest
from .catalog import Lineage
from .errors import ArchiveDamaged, NeedsClass, NotInArchive
from .segment import Snapshot
from .target import Target

__all__ = ["Folded", "Step", "fold", "steps_to"]

#: Nobody's name: who folds an archive leads nothing.
_NOBODY = Writer("-", "-")


class Step(NamedTuple):
    """A record, and what the fold made of it. `parts`: with `RESTORE`, the parts of the snapshot."""

    record: Record
    verdict: Verdict
    view: View
    parts: Sequence[PartRecord] = ()


# --- which records ----------------------------------------------------------------------------------------------------


def steps_to(target: Target) -> Iterator[Step]:
    """The fold of a snapshot before the target, and of all after it up to the target.

    Raises `NotInArchive` if there is no snapshot before it, `ArchiveDamaged`.
    """
    lineage, base = target.lineage, _base(target)
    view = View()
    if base is not None:
        restored = yield from _of_snapshot(lineage, base)
        view = restored
    done = view
    for record in lineage.records(lineage.index_of(_next(view.cursor.id)), after=view.cursor.id):
        if record.id > target.id:
            break
        verdict, view = step(view, record, _NOBODY)
        if not view.in_sync or verdict is Verdict.CONFLICT:
            raise ArchiveDamaged(name=str(record.id), problem=f"no node would take it: {verdict.value}")
        yield Step(record, verdict, view)
        done = view
    if done.position.id < target.id and done.cursor.id < target.id:
        raise ArchiveDamaged(name=str(target.id), problem=f"what comes before it ends at {done.position.id}")


def _next(id_: RecordId) -> RecordId:
    return RecordId(id_.term, id_.n + 1)


def _of_snapshot(lineage: Lineage, base: Snapshot) -> Generator[Step, None, View]:
    """Follow the parts of a snapshot, from the first one to the last; the view after it."""
    first, last = RecordId.parse(base.first), RecordId.parse(base.last)
    view, parts = View(), list[PartRecord]()
    for record in lineage.records(lineage.index_of(first), after=RecordId(first.term, first.n - 1)):
        verdict, view = step(view, record, _NOBODY)
        if isinstance(record, PartRecord):
            parts.append(record)
        is_last = record.id == last
        if is_last != (verdict is Verdict.RESTORE):
            raise ArchiveDamaged(name=str(record.id), problem=f"the snapshot of {base.as_of} is not whole there")
        yield Step(record, verdict, view, parts if is_last else ())
        if is_last:
            return view
    raise ArchiveDamaged(name=str(last), problem=f"the last part of the snapshot of {base.as_of} is missing")


def _base(target: Target) -> Snapshot | None:
    """The newest snapshot that is not after the target; None: the history is there from its very beginning."""
    lineage = target.lineage
    segment = min(target.segment, len(lineage) - 1)
    # Snapshots are complete only after what they are of: that of the target itself, maybe in a later segment.
    of_later = (each for index in range(segment + 1, len(lineage)) for each in lineage.snapshots(index))
    later = next(of_later, None)
    if later is not None and later.position.id == target.id:
        return later
    for index in range(segment, -1, -1):
        usable = [each for each in lineage.snapshots(index) if each.position.id <= target.id]
        if usable:
            return usable[-1]
    if lineage.footer(0).prev == ZERO_CHAIN:
        return None
    if later is None:
        raise NotInArchive(target=target.id, problem="there is no snapshot in its history")
    if later.position.id > target.id:
        problem = f"the first snapshot in its history is that of {later.position.id}"
        raise NotInArchive(target=target.id, problem=problem)
    return later


# --- what they come to ------------------------------------------------------------------------------------------------


class Folded(NamedTuple):
    """A state of the past. `pieces` as a snapshot has them; `ledger`: the table of keys beside it.

    `snapshot_id`: the snapshot that it was made of; `change_count`: the changes since. `kind`: `class`, `whole`, or
    `snapshot` (a snapshot as it is). `state`: of that class.
    """

    view: View
    target: Target
    kind: str
    pieces: Callable[[], Iterable[Any]]
    ledger: bytes
    digest: str
    snapshot_id: RecordId
    change_count: int
    rejected_count: int
    state: ReplicatedState | None = None

    @property
    def position(self) -> str:
        return str(self.view.position)


class _Kind(Protocol):
    """What becomes of records."""

    name: str
    rejected_count: int

    def restore(self, parts: Sequence[PartRecord]) -> None: ...

    def apply(self, record: ChangeRecord, version: int) -> None: ...

    def pieces(self) -> Iterable[Any]: ...

    def ledger(self) -> bytes: ...

    def digest(self) -> str: ...


def fold(
    target: Target,
    stack: ExitStack,
    *,
    make_state: Callable[[], ReplicatedState] | None,
    rejects_errors: bool = False,
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
) -> Folded:
    """The state at the target. `make_state`: None: the class is not known. What it takes is kept until `stack` is left.

    Raises `NotInArchive`, `NeedsClass`, `ArchiveDamaged`, and `CannotRebuild` if the application fails.
    """
    state = make_state() if make_state is not None else None
    kind: _Kind = _Snapshot(snapshot_bytes_max)
    if isinstance(state, State):
        check_state(state)
        kind = _Applied(state, rejects_errors, snapshot_bytes_max)
    count, view, snapshot_id = 0, View(), ORIGIN.id
    for record, verdict, after, parts in steps_to(target):
        if verdict is Verdict.RESTORE:
            kind.restore(parts or [record])  # type: ignore[list-item]
            snapshot_id, count = after.position.id, 0
        elif verdict is Verdict.APPLY and isinstance(record, ChangeRecord) and record.count:
            if isinstance(kind, _Snapshot) and record.codec != ACT:
                kind = _as_patched(kind, record, stack, target, snapshot_id, count)
            kind.apply(record, view.version)
            count += record.count if record.codec != ACT else 0
        view = after
    return Folded(
        view=view,
        target=target,
        kind=kind.name,
        pieces=kind.pieces,
        ledger=kind.ledger(),
        digest=kind.digest(),
        snapshot_id=snapshot_id,
        change_count=count,
        rejected_count=kind.rejected_count,
        state=state if isinstance(kind, _Applied) else None,
    )


class _Snapshot:
    """A snapshot as it is."""

    name = "snapshot"
    rejected_count = 0

    def __init__(self, snapshot_bytes_max: int) -> None:
        self.most = snapshot_bytes_max
        self.parts: Sequence[PartRecord] = ()

    def restore(self, parts: Sequence[PartRecord]) -> None:
        self.parts = parts

    def apply(self, record: ChangeRecord, version: int) -> None:
        pass  # of the group, and not of its application

    def pieces(self) -> Iterable[Any]:
        if not self.parts:
            return ()
        last = self.parts[-1]
        decoder = SnapshotDecoder(last.codec, last.digest, id_=str(last.id), most=self.most)
        return decoder.pieces(part.payload for part in self.parts)

    def ledger(self) -> bytes:
        if not self.parts:
            return b""
        return ledger_in(self.parts[-1].codec, (part.payload for part in self.parts), id_=str(self.parts[-1].id))

    def digest(self) -> str:
        return digest_of_pieces(self.pieces(), ledger=_compared(self.ledger()))


class _Patched:
    """A state without `apply`: its payload, in a temporary directory."""

    name = "whole"
    rejected_count = 0

    def __init__(self, whole: Whole) -> None:
        self._whole = whole

    def restore(self, parts: Sequence[PartRecord]) -> None:
        last = parts[-1]
        bodies = (part.payload for part in parts)
        self._drawn(self._whole.received(last.codec, last.digest, bodies, id_=str(last.id)))

    def apply(self, record: ChangeRecord, version: int) -> None:
        if record.codec != ACT and (patch := self._whole.gatherer.add(record)) is not None:
            self._drawn(self._whole.rebuilt(patch, id_=str(record.id)))

    def _drawn(self, pieces: Iterable[Any]) -> None:
        for _ in pieces:
            pass
        self._whole.adopt()

    def pieces(self) -> Iterable[Any]:
        return self._whole.pieces()

    def ledger(self) -> bytes:
        return b""

    def digest(self) -> str:
        return self._whole.digest


class _Applied:
    """A state with `apply`, and its ledger."""

    name = "class"

    def __init__(self, state: State, rejects_errors: bool, snapshot_bytes_max: int) -> None:
        self._state = state
        self._rejects_errors = rejects_errors
        self._most = snapshot_bytes_max
        self._ledger = Ledger()
        self._version = 1
        self.rejected_count = 0

    def restore(self, parts: Sequence[PartRecord]) -> None:
        last = parts[-1]
        self._version = last.version
        decoder = SnapshotDecoder(last.codec, last.digest, id_=str(last.id), most=self._most)
        self._called(at_version(self._state.restore, last.version), decoder.pieces(part.payload for part in parts))
        self._ledger = Ledger.of(decoder.ledger, id_=str(last.id))

    def apply(self, record: ChangeRecord, version: int) -> None:
        self._version = max(record.version, version)
        apply = at_version(self._state.apply, version)
        apply = rejecting(apply) if self._rejects_errors else apply
        typed = self._state if isinstance(self._state, TypedResults) else None
        for index, change in enumerate(changes_of(record)):
            try:
                self._ledger.applied(change, record.id, index, apply, typed)
            except ChangeRejected:
                self.rejected_count += 1
            except Exception as error:
                raise CannotRebuild(node=f"the archive, at {record.id}", problem=repr(error)) from error

    def _called(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            call(*args)
        except Exception as error:
            raise CannotRebuild(node="the archive", problem=repr(error)) from error

    def pieces(self) -> Iterable[Any]:
        pieces: Iterable[Any] = at_version(self._state.snapshot, self._version)()
        return pieces

    def ledger(self) -> bytes:
        return self._ledger.image().to_bytes()

    def digest(self) -> str:
        return digest_of_pieces(self.pieces(), ledger=self._ledger.image().compared())


def _as_patched(
    kind: _Snapshot, record: ChangeRecord, stack: ExitStack, target: Target, snapshot_id: RecordId, count: int
) -> _Patched:
    """A change after the snapshot: of a state without `apply`, or else one that takes the class."""
    if record.codec != CODEC:
        changes = _count_after(target, snapshot_id)
        raise NeedsClass(target=target.id, changes=counted(changes, "change"), as_of=snapshot_id)
    directory = Path(stack.enter_context(TemporaryDirectory(prefix="replicator-")))
    first = next(iter(kind.pieces()), None) if kind.parts else None
    patched = _Patched(
        whole_at_rest(directory, [record], first=first, snapshot_bytes_max=kind.most, is_private=record.is_sealed)
    )
    if kind.parts:
        patched.restore(kind.parts)
    return patched


def _count_after(target: Target, snapshot_id: RecordId) -> int:
    lineage = target.lineage
    records = lineage.records(lineage.index_of(_next(snapshot_id)), after=snapshot_id)
    count = 0
    for record in records:
        if record.id > target.id:
            break
        count += record.count if isinstance(record, ChangeRecord) and record.codec != ACT else 0
    return count


def _compared(ledger: bytes) -> bytes:
    return Ledger.of(ledger, id_="archive").image().compared() if ledger else b""
