"""Asking Redis whether a write is on its disk (WAITAOF), or in the memory of replicas (WAIT).

One answer covers everything that was written before Redis was asked, so all that wait share it. Among threads that wait
for the same level, one asks for all; the others sleep on its lock. For tasks, of any number of event loops, a thread
asks, which starts when the first task waits and ends when none does.

That thread asks one question at a time, of each kind in turn. The answer says how many replicas have the write, so one
question covers every number of replicas; it asks for the smallest number that is waited for. So a wait for replicas
that never come delays the waits for fewer of them by no more than one question.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ..errors import ConfigError, LogUnavailable, NotAcknowledged, NoThread
from ..format.ids import RecordId
from ..log.interface import Log
from ..protocol.group import Code
from ..protocol.node_state import NodeState
from ..runtime.backoff import Backoff
from ..runtime.counted import counted
from ..runtime.threads import started
from .lease import Lease
from .waiters import Level, Task, Waiter, Waiters, tell

__all__ = ["Confirmations"]

#: The pause before Redis is asked again: after too few replicas had the write, and the first one after no answer.
RETRY_EVERY_S = 0.05

#: The longest pause after no answer.
RETRY_S_MAX = 1.0

#: Redis waits for this much less than the caller, so that its answer is there in time; and it may answer this much
#: late.
GRACE_S = 0.05

#: How long one question for all tasks waits for replicas. Another one may be due: for fewer replicas, or for the disk.
QUESTION_S_MAX = 1.0


class _Answer(NamedTuple):
    """`upto`: the newest record that is covered, if enough have it; `have`: how many do. `is_final`: asking again is in
    vain. `is_missing`: Redis did not answer.
    """

    upto: RecordId | None = None
    have: int = 0
    problem: str = ""
    is_final: bool = False
    is_missing: bool = False


class Confirmations:
    """What Redis confirms of the writes of this node. `node_state` returns its present state."""

    def __init__(self, log: Log, lease: Lease, node_state: Callable[[], NodeState]) -> None:
        self._log = log
        self._lease = lease
        self._node_state = node_state
        self._lock = threading.Lock()
        self._confirmed: dict[Level, RecordId] = {}
        self._asking: dict[Level, threading.Lock] = {}
        #: The tasks that wait, by the kind of their level.
        self._waiting = {"fsynced": Waiters(), "replicated": Waiters()}
        self._asker: threading.Thread | None = None

    # --- threads -----------------------------------------------------------------------------------------------------

    def wait(self, level: Level, id: RecordId, deadline: float) -> None:
        """Return once Redis confirms the record `id`. Raises `NotAcknowledged`."""
        with self._lock:
            asking = self._asking.setdefault(level, threading.Lock())
        if not asking.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise NotAcknowledged(id=id, problem=f"Redis is still asked about earlier changes ({level})")
        try:
            backoff = Backoff(RETRY_EVERY_S, RETRY_S_MAX)
            while not self._is_confirmed(level, id):
                answer = self._ask(level, id, max(0.0, deadline - time.monotonic()))
                if answer.upto is None:
                    left_s = deadline - time.monotonic()
                    if answer.is_final or left_s <= GRACE_S:
                        raise NotAcknowledged(id=id, problem=answer.problem)
                    time.sleep(min(_pause_s(answer, backoff), left_s))
        finally:
            asking.release()

    def _is_confirmed(self, level: Level, id: RecordId) -> bool:
        upto = self._confirmed.get(level)
        return upto is not None and upto.term == id.term and upto >= id

    # --- tasks -------------------------------------------------------------------------------------------------------

    async def awaited(self, level: Level, id: RecordId, deadline: float) -> None:
        """`wait`, for a task."""
        if self._is_confirmed(level, id):
            return
        waiter = Task(level, id, deadline)
        waiter.problem = f"Redis is still asked about earlier changes ({level})"
        with self._lock:
            self._waiting[level.kind].add(waiter)
            if self._asker is None:
                try:
                    self._asker = started(self._ask_for_tasks, name="confirmations")
                except NoThread as problem:
                    self._waiting[level.kind].drop(waiter)
                    raise NotAcknowledged(id=id, problem=str(problem)) from None
        try:
            await waiter.wait()
        finally:
            with self._lock:
                self._waiting[level.kind].drop(waiter)
        if not waiter.done:
            raise NotAcknowledged(id=id, problem=waiter.problem)
        if waiter.error is not None:
            raise waiter.error

    def _ask_for_tasks(self) -> None:
        """Ask until no task waits any more. The kinds take turns, so that neither keeps the other waiting."""
        kinds = ("replicated", "fsynced")
        backoff = Backoff(RETRY_EVERY_S, RETRY_S_MAX)
        while True:
            with self._lock:
                due = [kind for kind in kinds if len(self._waiting[kind])]
                if not due:
                    self._asker = None
                    return
                waiting = list(self._waiting[due[0]])
            if due[0] == kinds[0]:
                kinds = kinds[::-1]  # the other kind is next
            time.sleep(_pause_s(self._ask_for(due[0], waiting), backoff))

    def _ask_for(self, kind: str, waiting: list[Waiter]) -> _Answer:
        """Ask one question for all tasks that wait for this kind, and settle those that it answers."""
        level = min(waiter.level for waiter in waiting)
        left_s = max(waiter.left_s for waiter in waiting)
        if kind == "replicated":
            left_s = min(left_s, QUESTION_S_MAX)
        answer = self._ask(level, waiting[-1].id, left_s)
        for waiter in waiting:
            needed = max(1, waiter.level.others)
            if answer.upto is not None and answer.have >= needed and answer.upto >= waiter.id:
                waiter.settle()
            elif answer.is_final:
                waiter.settle(NotAcknowledged(id=waiter.id, problem=answer.problem))
            else:
                waiter.problem = _missing(waiter.level, answer.have) if answer.upto is not None else answer.problem
        with self._lock:
            over = [waiter for waiter in waiting if waiter.done]
            for waiter in over:
                self._waiting[kind].drop(waiter)
        tell(over)
        return answer

    # --- one question ------------------------------------------------------------------------------------------------

    def _ask(self, level: Level, id: RecordId, timeout_s: float) -> _Answer:
        """Ask once. The answer covers what is in the log when this begins, which includes `id`."""
        node_state = self._node_state()
        if not node_state.holds_term:  # a confirmation renews the lease, which this node may have given back
            return _Answer(problem="the term ended meanwhile", is_final=True)
        if self._lease.is_lost:
            return _Answer(problem="this node does not lead any more", is_final=True)
        try:
            confirmation = self._log.within(time.monotonic() + timeout_s + GRACE_S).confirm(
                node_state.me,
                id.term,
                self._lease.length_ms,
                replicas=level.others,
                fsynced=level.kind == "fsynced",
                timeout_ms=int(max(0.0, timeout_s - GRACE_S) * 1000),
            )
        except ConfigError as error:
            return _Answer(problem=str(error), is_final=True)
        except LogUnavailable as unavailable:
            return _Answer(problem=str(unavailable), is_missing=True)
        if confirmation.reply.code is not Code.OK:
            problem = f"the term ended meanwhile ({confirmation.reply.code.value})"
            return _Answer(problem=problem, is_final=True)
        if confirmation.have < max(1, level.others):
            return _Answer(have=confirmation.have, problem=_missing(level, confirmation.have))
        # It covers everything that this node knew to be in the log before it asked.
        upto = self._confirmed[level] = max(id, node_state.view.position.id)
        return _Answer(upto, confirmation.have)


def _pause_s(answer: _Answer, backoff: Backoff) -> float:
    """The pause until Redis is asked again. Short if too few had the write: that question has waited already."""
    if answer.is_missing:
        return backoff.failed()
    backoff.succeeded()
    return 0.0 if answer.upto is not None else RETRY_EVERY_S


def _missing(level: Level, have: int) -> str:
    if level.kind == "fsynced":
        return "it is not on the disk of Redis yet"
    return f"{have} of {counted(level.others, 'replica has it', 'replicas have it')}"
