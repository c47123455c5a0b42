"""What a node applied: the state of the application, its lock, and what went wrong in it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import CoroutineType
from typing import Any

from ..errors import ApplyFailed, ChangeRejected, ReplicatorError, Stalled, StateError
from ..format.codec import decode_changes
from ..format.ids import RecordId
from ..format.records import ChangeRecord, Record
from ..runtime.reentrancy import READING, Inside
from ..state import ReplicatedState, State
from ..state.callbacks import Application, asked_to_end, said
from .restore import Failed

__all__ = ["AppliedState", "changes_of", "may_be_rejection", "raising"]

logger = logging.getLogger(__name__)

#: What befalls this node, and not every node at this change: that is no outcome which all nodes share.
_OF_THIS_NODE = (MemoryError, RecursionError, OSError, StateError)


def may_be_rejection(error: BaseException) -> bool:
    """Whether this, out of `apply`, is a rejection where `on_apply_error` says so."""
    return isinstance(error, Exception) and not isinstance(error, _OF_THIS_NODE)


class AppliedState:
    """A state and its readers. `node`: whose it is. Whoever moves the state holds `lock`.

    `rejects_errors`: an exception that `apply` did not mean to raise is a rejection, as if it had said no.
    """

    def __init__(self, state: State | ReplicatedState, node: str, *, rejects_errors: bool = False) -> None:
        self.state = state
        self.rejects_errors = rejects_errors
        #: The callers that must not wait for this node, and the callbacks of the application.
        self.inside = Inside(node)
        self.application = Application(state, self.inside)
        self.lock = threading.Lock()
        #: Why this node applies nothing any more, if it does not: a bug in the application.
        self.stalled = ""
        #: Why the state is not yet what was published, if it is not: something in its surroundings, which may pass.
        self.unwritten: StateError | None = None
        #: The writer's clock (unix ms) of the newest record in the state; 0: not known.
        self.applied_at = 0
        #: The newest marker in the state, if its digest is still to be reported, and the pieces of the state there.
        self.markers: deque[tuple[RecordId, Iterable[Any]]] = deque(maxlen=1)
        #: How often a state that was given up was replaced by a snapshot: digests of before say nothing of the new one.
        self.replaced = 0
        #: The pieces of the state at a marker.
        self.marked: Callable[[], Iterable[Any]] = self.drawn

    @contextmanager
    def reading(self, *, blocks: bool = True) -> Iterator[Any]:
        """The state, between two records. While it is held, nothing is applied. Raises `WouldDeadlock`.

        With `blocks=False`: or not at all, if somebody holds it or it moves right now (`BlockingIOError`).
        """
        self.inside.check("reading()", blocks=blocks)
        # `with` alone: after a call of `acquire` a Ctrl-C may come before any `try`, and then nobody gives it back.
        with self.lock if blocks else _at_once(self.lock), self.inside.of(READING):
            if (behind := self.unwritten) is not None:
                raise type(behind)(**behind.fields)
            yield self.state

    def apply(self, record: Record, changes: Sequence[Any]) -> list[Any]:
        """Apply the changes of one record. Raises `Stalled`, from then on, if the application fails at one."""
        results: list[Any] = []
        with self.inside.of("apply()"):
            for change in changes:
                try:
                    result = self.state.apply(change)  # type: ignore[union-attr]
                    if type(result) is CoroutineType:  # of a function that only returns one: it was not seen before
                        result.close()
                        raise TypeError("apply() gave a coroutine, and did nothing")
                    results.append(result)
                except ChangeRejected as rejected:
                    results.append(rejected)
                except BaseException as error:
                    if self._is_rejection(error):
                        results.append(self._rejection(record.id, change, error))
                        continue
                    logger.exception("apply() failed at %s, at the change %.200r", record.id, change)
                    stalled = self._stall(record.id, error)
                    if asked_to_end(error):
                        raise  # what it left of the state nobody knows
                    raise stalled from error
        if not changes:
            self.markers.append((record.id, self.marked()))
        self.applied_at = record.at
        return results

    def _is_rejection(self, error: BaseException) -> bool:
        return self.rejects_errors and may_be_rejection(error)

    def _rejection(self, id_: RecordId, change: Any, error: BaseException) -> ApplyFailed:
        logger.error("apply() failed at %s, and rejected the change %.200r", id_, change, exc_info=error)
        return ApplyFailed(problem=said(error))

    def was_replaced(self) -> None:
        """It was given up, and this is another one: what was told of that does not count. The caller holds the lock."""
        self.markers.clear()
        self.replaced += 1

    def drawn(self) -> Iterable[Any]:
        """The state as it is now. What is wrong with it is for whoever draws the pieces: no record is to blame."""
        try:
            return self.application.snapshot()
        except ReplicatorError as error:
            return raising(error)

    def interrupted(self, id_: RecordId, interrupt: BaseException) -> None:
        """A Ctrl-C came while this record was applied: whether its changes are in the state nobody knows."""
        if not self.stalled:
            logger.error("interrupted while %s was applied", id_, exc_info=interrupt)
            self._stall(id_, interrupt)

    def fail(self, id_: RecordId, failed: Failed) -> Stalled:
        """`restore` failed at this record: nothing is applied from here on."""
        logger.error("restore() failed at %s", id_, exc_info=failed.__cause__ or failed)
        return self._stall(id_, failed)

    def _stall(self, id_: RecordId, error: BaseException) -> Stalled:
        stalled = Stalled(id=id_, problem=error if isinstance(error, Failed) else said(error))
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


def raising(error: ReplicatorError) -> Iterator[Any]:
    """Pieces that cannot be drawn, for whoever tries."""
    raise error
    yield


def changes_of(record: Record) -> list[Any]:
    """The changes that a record carries, decoded. Raises `CorruptRecord`."""
    if not isinstance(record, ChangeRecord):
        return []
    return decode_changes(record.codec, record.body, record.digest, record.count, id_=str(record.id))
