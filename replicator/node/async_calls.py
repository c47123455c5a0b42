"""The calls of a node for asyncio tasks. None of them blocks the event loop, or uses its default executor.

    async with node:
        await node.asubmit(change)
        async with node.areading() as state: ...
        count = await node.view(lambda state: len(state.flags))

What has to block does so on threads of ours, a few for each node (`runtime/task_threads.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, overload

from .. import tracing
from ..errors import NoThread, NotRunning
from ..format.codec import Encoded
from ..format.ids import RecordId
from ..protocol.liveness import Sight
from ..replica.applied_state import AppliedState
from ..runtime import checks
from ..runtime.event_log import EventLogger
from ..runtime.request_writes import NOTED
from ..runtime.task_threads import TaskThreads, begun, waited_out
from ..state.changes import Change
from .acks import Level
from .calls import NodeCalls, ResultT, StateT, are_rejected, check_fits, checked, noting, result_of
from .events import EventQueue, NodeEvent, Outlook
from .fresh_read import caught_up
from .keyed_changes import change_in_json, changes_in_json
from .loop_read import LoopRead
from .running import NodeSetup, RunningNode
from .viewing import check_function, viewed

__all__ = ["AsyncCalls"]

logger = EventLogger(__name__)

#: Threads of a node for what its tasks cannot do on their loop: a look at Redis, a view of a state that is in use.
TASK_THREADS_MAX = 8

#: A look at Redis ends in time; there may be no thread for it.
GRACE_S = 0.05

ROLES = ("primary", "standby")

ViewT = TypeVar("ViewT")


class AsyncCalls(NodeCalls, Generic[StateT]):
    """Those of one node."""

    if TYPE_CHECKING:

        def start(self) -> None: ...
        def stop(self) -> None: ...
        def _hand_over(self, loop: asyncio.AbstractEventLoop | None) -> None: ...

    def __init__(self, setup: NodeSetup, *, http: str) -> None:
        super().__init__(setup, http=http)
        self._threads = TaskThreads(f"{self.name}-tasks", most=TASK_THREADS_MAX)

    # --- life --------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """`start`, on a thread of ours. From now on the running loop has to turn (`watchdog_s`). It is the loop of all
        coroutine functions that were registered where none ran (`while_leading`, `every`).

        A task that is cancelled meanwhile leaves no node behind that runs: it goes on once that is stopped.
        """
        loop = asyncio.get_running_loop()
        self._hand_over(loop)
        try:
            await self._start_aside()
        except BaseException:
            self._hand_over(None)
            raise
        self._setup.vitals.serve(loop)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """`stop`, on a thread of ours, to its end: also if the task is cancelled meanwhile."""
        if self._owner.is_here:
            self._setup.vitals.serve(None)
            await waited_out(self._stop_aside())

    async def _start_aside(self) -> None:
        start = begun(self.start, name=f"{self.name}-start")
        try:
            await asyncio.wait([start])
        except asyncio.CancelledError:
            await self._undo(start)
            raise
        start.result()

    async def _undo(self, start: asyncio.Future[None]) -> None:
        """Stop what is started, or was. The task that calls this was cancelled, and is told so by its caller."""
        for ending in (self._stop_aside(), start):
            try:
                await waited_out(ending)
            except (asyncio.CancelledError, NotRunning):
                pass
            except Exception as error:
                logger.warning("node.start_cancelled", "%s was cancelled while it started: %s", self.name, error)

    def _stop_aside(self) -> asyncio.Future[None]:
        try:
            return begun(self.stop, name=f"{self.name}-stop")
        except NoThread:  # it has to be stopped all the same
            self.stop()
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done

    # --- reading -----------------------------------------------------------------------------------------------------

    def areading(self, *, fresh: bool = False, timeout_s: float = 5.0) -> LoopRead[StateT]:
        """`reading` for a task: `async with node.areading() as state`. The event loop goes on until it has the state.

        The block has to be plain code: nothing is applied meanwhile. If it awaits something, the read is over, so that
        the node goes on, and the block ends with `ReadSuspended`, which names the line. An `await` that does not give
        control back to the loop does no harm, and is not noticed.

        Raises what `reading` raises, and `TimeoutError` if others have the state for all of `timeout_s`.
        """
        return LoopRead(self.name, partial(self._readable, fresh=fresh), timeout_s=timeout_s, speaker=self.speaker)

    async def view(
        self,
        function: Callable[[StateT], ViewT],
        *,
        fresh: bool = False,
        position: str | None = None,
        timeout_s: float = 5.0,
    ) -> ViewT:
        """What `function` makes of the state: `await node.view(lambda state: len(state.flags))`.

        It is called on the event loop, or, if the state is in use, on a thread of ours, and nothing is applied
        meanwhile: it has to be quick, and give what it copied, not what it would read from later. `position`: once that
        is applied; `fresh`: as in `reading`. Raises what it raises, what `reading` and `await_position` raise, and
        `ConfigError` for a function that is async, or a generator.
        """
        check_function(function)
        until = time.monotonic() + timeout_s
        applied = await self._readable(until, fresh=fresh, position=position)
        with ExitStack() as stack:
            try:
                state = stack.enter_context(applied.reading(blocks=False))
            except BlockingIOError:
                pass
            else:
                return viewed(function, state)
        return await self._threads.run(partial(_viewed_aside, applied, function, until))

    async def _readable(self, until: float, *, fresh: bool, position: str | None = None) -> AppliedState:
        """What is to be read, once it has all that it is to have."""
        running = self._started()
        applied = running.replica.applied
        applied.inside.check("a read", blocks=False)
        if position is not None:
            await self._await_id(RecordId.parse(position), until)
        if fresh:
            look, wait = partial(self._sight, running, until), partial(self._await_id, until=until)
            await caught_up(look, wait, until=until, clock=running.ha_loop.observer.now)
        return applied

    async def _sight(self, running: RunningNode, until: float) -> Sight:
        """A look at the group, by then."""
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic()) + GRACE_S):
                return await self._threads.run(partial(running.ha_loop.observer.sight_by, until))
        except TimeoutError:
            raise TimeoutError(f"{self.name} could not look at its group in time") from None

    # --- waiting -----------------------------------------------------------------------------------------------------

    async def await_position(self, position: str, *, timeout_s: float = 5.0) -> None:
        """Wait until this node has applied that position (`"5-1042"`). With `timeout_s=0` it only looks.

        Raises `TimeoutError`, `PositionLost` (a failover left it behind), `NotRunning` (the node stopped meanwhile),
        `ConfigError` for one that is none.
        """
        await self._await_id(RecordId.parse(position), time.monotonic() + timeout_s)

    async def _await_id(self, id: RecordId, until: float) -> None:
        running, began = self._working(), time.monotonic()
        if began < until:
            running.replica.applied.inside.check("a wait", blocks=False)
        if not await running.position_waits.awaited(id, until):
            raise self._too_late(time.monotonic() - began)

    async def await_role(self, role: str, *, timeout_s: float = 5.0) -> None:
        """Wait until this node is `"standby"`, or `"primary"` and takes writes. Raises `TimeoutError`, `NotRunning`."""
        checks.choice("role", role, ROLES)
        self._working()
        if self._has_role(role):
            return
        queue = EventQueue()
        forget = self._setup.watch.listen(queue.put)
        try:
            async with asyncio.timeout(timeout_s):
                while not self._has_role(role):
                    if await queue.get() is None:
                        raise NotRunning(self.name, stopped=True)
        except TimeoutError:
            raise self._too_late(timeout_s) from None
        finally:
            forget()

    async def events(self) -> AsyncGenerator[NodeEvent, None]:
        """What becomes of this node, as it comes: `async for event in node.events()`. See `NodeEvent`.

        First how it stands (`"now"`). It may begin before the node is started, and ends when the node has stopped. A
        loop that is slower than the events is told how many it missed, and how the node stands then.
        """
        self._owner.check()
        queue = EventQueue()
        forget = self._setup.watch.listen(queue.put)
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            forget()

    def _outlook(self) -> Outlook:
        node_state = self._node_state
        problems = self._setup.problems.by_part
        for name, problem in (("failed", self.failed), ("stalled", self.stalled)):
            if problem is not None:
                problems[name] = str(problem)
        return Outlook(
            role=self.role,
            leads=self.leads,
            term=node_state.view.term,
            primary=node_state.view.holder.node or None,
            in_sync=node_state.in_sync,
            problems=problems,
        )

    # --- writing -----------------------------------------------------------------------------------------------------

    @overload
    async def asubmit(
        self,
        change: Change[ResultT],
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        key: str | None = None,
    ) -> ResultT: ...
    @overload
    async def asubmit(
        self,
        change: Any,
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        key: str | None = None,
    ) -> Any: ...
    async def asubmit(
        self,
        change: Any,
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        key: str | None = None,
    ) -> Any:
        """`submit` from an asyncio task. The event loop goes on meanwhile, and tasks that submit at the same time share
        a round trip: the way to write from many places at once (see `async_writer.py`).
        """
        running, level = self._changing(blocks=False), self._level(ack)
        changes = change_in_json(change, key)
        if level.kind != "appended":
            return result_of((await _acknowledged(running, changes, level, timeout_s=timeout_s, term=term))[0])
        with NOTED if tracing.active is None else noting(running):
            _, results = await running.async_writer.submit(changes, timeout_s=timeout_s, term=term, wants_acks=0)
        return result_of(results[0])

    async def asubmit_many(
        self,
        changes: Sequence[Any],
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        keys: Sequence[str | None] | None = None,
    ) -> list[Any]:
        """`submit_many` from an asyncio task."""
        check_fits(changes)
        running, level = self._changing(blocks=False), self._level(ack)
        in_json = changes_in_json(changes, keys)
        if not changes:
            return []
        return await _acknowledged(running, in_json, level, timeout_s=timeout_s, term=term)


async def _acknowledged(
    running: RunningNode, changes: Encoded, level: Level, *, timeout_s: float, term: int | None
) -> list[Any]:
    deadline = time.monotonic() + timeout_s
    writer, wants_acks = running.async_writer, level.standbys
    with NOTED if tracing.active is None else noting(running):
        id_, results = await writer.submit(changes, timeout_s=timeout_s, term=term, wants_acks=wants_acks)
    if level.kind != "appended" and not are_rejected(results):
        await running.acks.awaited(level, id_, deadline - time.monotonic())
    return checked(results)


def _viewed_aside(applied: AppliedState, function: Callable[[StateT], ViewT], until: float) -> ViewT:
    with applied.reading(wait_s=until - time.monotonic()) as state:
        return viewed(function, state)
