"""What a node applied: the state of the application, its lock, and what went wrong in it."""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import CoroutineType
from typing import Any, NamedTuple, NoReturn

from ..errors import ApplyFailed, ChangeRejected, ReplicatorError, Stalled, StateError, UpgradeNeeded
from ..format.acts import decode_act
from ..format.codec import decode_changes
from ..format.ids import ORIGIN, ZERO_ID, RecordId
from ..format.keyed import Keyed, change_in
from ..format.records import ACT, ChangeRecord, Record
from ..protocol.fold import View
from ..protocol.versions import in_words
from ..runtime.event_log import EventLogger
from ..runtime.reentrancy import READING, Inside, Stay
from ..state import ReplicatedState, State, TypedResults
from ..state.callbacks import Application, asked_to_end, said
from ..state.contract import takes_version
from ..state.replaced_files import Kept
from .ledger import Ledger, LedgerImage
from .restore import Failed

__all__ = ["AppliedState", "Marker", "changes_of", "raising", "rejecting"]

logger = EventLogger(__name__)

#: What befalls this node, and not every node at this change: that is no outcome which all nodes share. What programs
#: raise in such a case besides (the errors of a driver, for example) nobody can list.
_OF_THIS_NODE = (MemoryError, RecursionError, OSError, StateError, ImportError, sqlite3.OperationalError)


def _may_be_rejection(error: BaseException) -> bool:
    """Whether this, out of `apply`, is a rejection where `on_apply_error` says so."""
    return isinstance(error, Exception) and not isinstance(error, _OF_THIS_NODE)


def rejecting(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Where `on_apply_error` says so: an `apply` that raises `ApplyFailed` for what it did not mean to raise.

    What that says is the same on every node; the error itself is its cause.
    """

    def apply_or_reject(change: Any, **told: int) -> Any:
        try:
            return apply(change, **told)
        except ChangeRejected:
            raise
        except BaseException as error:
            if not _may_be_rejection(error):
                raise
            raise ApplyFailed(problem=type(error).__name__) from error

    return apply_or_reject


def _no_coroutine(result: CoroutineType[Any, Any, Any]) -> NoReturn:
    """Of a function that only returns one: it was not seen before."""
    result.close()
    raise TypeError("apply() gave a coroutine, and did nothing")


class Marker(NamedTuple):
    """A place in the log at which nodes digest what they have: the pieces of the state there, and the ledger."""

    id: RecordId
    pieces: Iterable[Any]
    ledger: LedgerImage
    #: Of its record: by the key that sealed it, nodes tell what they found (`Sealing.blinded`).
    body: bytes = b""


class AppliedState:
    """A state and its readers. `node`: whose it is. Whoever moves the state holds `lock`.

    `reads`: the versions of the group at which the application can apply changes and take snapshots. `rejects_errors`:
    an exception that `apply` did not mean to raise is a rejection, as if it had said no. `is_private`: the group has a
    key, so what the application says in an exception is for this node's own log, and not for a disk or the others.
    """

    def __init__(
        self,
        state: State | ReplicatedState,
        node: str,
        *,
        reads: range = range(1, 2),
        rejects_errors: bool = False,
        is_private: bool = False,
    ) -> None:
        self.state = state
        self._is_private = is_private
        self.reads = reads
        #: The one that the group is at, at the place of this state.
        self.version = 1
        self._takes_version = takes_version(getattr(state, "apply", None))
        self._apply: Callable[..., Any] = rejecting(self._apply_one) if rejects_errors else self._apply_one
        #: Whether a change goes to the application as it is, and what comes of it is its result.
        self._is_plain = isinstance(state, State) and not (rejects_errors or self._takes_version)
        self.rejects_errors = rejects_errors
        #: The callers that must not wait for this node, and the callbacks of the application.
        self.inside = Inside(node)
        self.application = Application(state, self.inside)
        self.lock = threading.Lock()
        self._typed = state if isinstance(state, TypedResults) else None
        #: What the library keeps beside the state. It is moved with it, and by nothing else.
        self.ledger = Ledger()
        #: Why this node applies nothing any more, if it does not: a bug in the application.
        self.stalled = ""
        #: The change at which `apply` failed, if that is why: the node has all before it. 0-0: it is not.
        self.stalled_at = ZERO_ID
        #: Why it had stalled before it was given up for a snapshot: it lacks some of what the node's view says it has.
        self.unfit = ""
        #: Why the state is not yet what was published, if it is not: something in its surroundings, which may pass.
        self.unwritten: StateError | None = None
        #: The writer's clock (unix ms) of the newest record in the state; 0: not known.
        self.applied_at = 0
        #: The newest marker in the state, if its digest is still to be reported.
        self.markers: deque[Marker] = deque(maxlen=1)
        #: How often a state that was given up was replaced by a snapshot: digests of before say nothing of the new one.
        self.replaced = 0
        #: The pieces of the state at a marker.
        self.marked: Callable[[], Iterable[Any]] = self.drawn

    @contextmanager
    def reading(self, *, blocks: bool = True, wait_s: float | None = None) -> Iterator[Any]:
        """The state, between two records. While it is held, nothing is applied. Raises `WouldDeadlock`.

        With `blocks=False`: or not at all, if somebody holds it or it moves right now (`BlockingIOError`). `wait_s`: or
        not at all, if it is held for so long (`TimeoutError`); not on a thread that a Ctrl-C interrupts.
        """
        self.inside.check("reading()", blocks=blocks)
        lock: AbstractContextManager[object] = self.lock if wait_s is None else _within(self.lock, wait_s)
        # `with` alone: after a call of `acquire` a Ctrl-C may come before any `try`, and then nobody gives it back.
        with lock if blocks else _at_once(self.lock), self.inside.of(READING):
            if (behind := self.unwritten) is not None:
                raise type(behind)(**behind.fields)
            yield self.state

    def apply(self, record: Record, changes: Sequence[Any], version: int = 1) -> list[Any]:
        """Apply the changes of one record, where the group is at this version.

        Raises `Stalled`, from then on, if the application fails at one.
        """
        self.version = version
        if isinstance(record, ChangeRecord) and record.codec == ACT:
            self.applied_at = record.at
            return []  # of the group, and not of its application: the view has what comes of it
        results: list[Any] = []
        # The application's own, at that version, as far as it asks for one.
        apply: Callable[..., Any] = partial(self._apply, version=version) if self._takes_version else self._apply
        once, typed = self.ledger.once, self._typed
        plain = self.state.apply if self._is_plain else apply  # type: ignore[union-attr]
        with Stay(self.inside, "apply()"):
            for index, change in enumerate(changes):
                try:
                    # As `Ledger.applied` and `_apply_one` do, without a call of them for each change without a key.
                    result = once(change, record.id, index, apply, typed) if type(change) is Keyed else plain(change)
                    results.append(_no_coroutine(result) if type(result) is CoroutineType else result)
                except ChangeRejected as rejected:
                    if isinstance(rejected, ApplyFailed) and rejected.__cause__ is not None:
                        what = "apply() failed at %s, and rejected the change %.200r"
                        logger.error("apply.rejected", what, record.id, change_in(change), exc_info=rejected.__cause__)
                    results.append(rejected)
                except BaseException as error:
                    logger.exception(
                        "apply.failed",
                        "apply() failed at %s, at the change %.200r",
                        record.id,
                        change_in(change),
                        record=str(record.id),
                    )
                    stalled = self._stall(record.id, error)
                    self.stalled_at = ZERO_ID if asked_to_end(error) else record.id
                    if asked_to_end(error):
                        raise  # what it left of the state nobody knows
                    raise stalled from error
        if not changes:
            self.markers.append(Marker(record.id, self.marked(), self.ledger.image(), record.body))
        self.applied_at = record.at
        return results

    def _apply_one(self, change: Any, **told: int) -> Any:
        result = self.state.apply(change, **told)  # type: ignore[union-attr]
        return _no_coroutine(result) if type(result) is CoroutineType else result

    def was_replaced(self) -> None:
        """It was given up, and this is another one: what was told of that does not count. The caller holds the lock."""
        self.unfit = ""
        self.markers.clear()
        self.replaced += 1

    def given_up(self) -> None:
        """It waits for a snapshot. If it had stalled, records are taken again until then. The caller holds the lock."""
        self.unfit, self.stalled = self.stalled or self.unfit, ""
        self.stalled_at = ZERO_ID

    def not_to_lead(self, id_: RecordId) -> Stalled:
        """This node was made the holder by force, with a state that lacks changes: the others must not get that one.

        Its next start makes the state anew from its disk.
        """
        known, what = bool(self.stalled), f"its state stalled ({self.unfit}) and lacks changes that are on its disk"
        self.stalled = f"it was promoted at {id_}, and does not lead: {what}; restart this node, or promote another one"
        if not known:
            logger.error("lead.unfit", "%s", self.stalled)
        return Stalled(self.stalled)

    @property
    def kept_count(self) -> int:
        """How many files were put aside for the one in which the state is kept, if it is in one."""
        kept = getattr(self.state, "kept", None)
        return kept.count() if isinstance(kept, Kept) else 0

    @property
    def as_now(self) -> Application:
        """The application at the version of the state as it is now, for a snapshot of it or a check against it."""
        return self.application.at(self.version)

    def drawn(self) -> Iterable[Any]:
        """The state as it is now. What is wrong with it is for whoever draws the pieces: no record is to blame."""
        try:
            return self.as_now.snapshot()
        except ReplicatorError as error:
            return raising(error)

    def checked(self, version: int, view: View) -> int:
        """The version that a checkpoint begins at, which has to be one that this node reads (`UpgradeNeeded`).

        One of a node that has nothing yet begins at none.
        """
        if version not in self.reads and view.position != ORIGIN:
            raise self.unreadable(view.position.id, version)
        return version

    def unreadable(self, id_: object, version: int) -> UpgradeNeeded:
        """From this place on the group is at a version that this node does not read: nothing is applied any more."""
        unreadable = UpgradeNeeded(id=id_, version=version, reads=in_words(self.reads[0], self.reads[-1]))
        if not self.stalled:
            logger.error("version.unreadable", "%s", unreadable)
        self.stalled = str(unreadable)
        return unreadable

    def interrupted(self, id_: RecordId, interrupt: BaseException) -> None:
        """A Ctrl-C came while this record was applied: whether its changes are in the state nobody knows."""
        if not self.stalled:
            logger.error("apply.interrupted", "interrupted while %s was applied", id_, exc_info=interrupt)
            self._stall(id_, interrupt)

    def fail(self, id_: RecordId, failed: Failed) -> Stalled:
        """`restore` failed at this record: nothing is applied from here on."""
        logger.error("restore.failed", "restore() failed at %s", id_, exc_info=failed.__cause__ or failed)
        return self._stall(id_, failed)

    def _stall(self, id_: RecordId, error: BaseException) -> Stalled:
        problem = error if isinstance(error, Failed) else said(error)
        if self._is_private:
            cause = error.__cause__ if isinstance(error, Failed) and error.__cause__ is not None else error
            problem = f"{type(cause).__name__}, of which the log of this node says more"
        stalled = Stalled(id=id_, problem=problem)
        self.stalled = str(stalled)
        return stalled


@contextmanager
def _at_once(lock: threading.Lock) -> Iterator[None]:
    """For an event loop: have the lock, if nobody else has it (`BlockingIOError`)."""
    if not lock.acquire(blocking=False):
        raise BlockingIOError("the state is in use")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _within(lock: threading.Lock, wait_s: float) -> Iterator[None]:
    """Have the lock within that time (`TimeoutError`)."""
    if not lock.acquire(timeout=min(max(0.0, wait_s), threading.TIMEOUT_MAX)):
        raise TimeoutError("the state is in use")
    try:
        yield
    finally:
        lock.release()


def raising(error: ReplicatorError) -> Iterator[Any]:
    """Pieces that cannot be drawn, for whoever tries."""
    raise error
    yield


def changes_of(record: Record) -> list[Any]:
    """The changes that a record carries, decoded; one with a key is a `Keyed`. Raises `CorruptRecord`."""
    if not isinstance(record, ChangeRecord):
        return []
    if record.codec == ACT:
        decode_act(record.payload, record.digest, record.version, id_=str(record.id))
        return []
    return decode_changes(record.codec, record.payload, record.digest, record.count, id_=record.id)
