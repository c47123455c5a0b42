"""What is done when a node's role changes, and while it leads: callbacks, and work that only the leader does.

docs/roles.md says what is guaranteed of such work, and what is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from ..errors import ConfigError, NotRunning
from ..runtime import checks
from .facts import NodeFacts
from .leader_work import Every, Once, Pace, is_async
from .leadership import Leadership, Writes
from .role_callbacks import RoleCallback, RoleEvent
from .role_watch import RoleWatch
from .running import NodeSetup, RunningNode

__all__ = ["Registered", "RoleCalls"]

P = ParamSpec("P")
R = TypeVar("R")

#: A job that is done more often is a loop: write one in `while_leading`.
EVERY_S_MIN = 0.001


class Registered(Generic[P, R]):
    """What was registered with a node. It is called like the function that it was, and can be taken back."""

    def __init__(self, function: Callable[P, R], take_back: Callable[[], None]) -> None:
        self.__wrapped__ = function
        self._take_back = take_back

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.__wrapped__(*args, **kwargs)

    def unregister(self) -> None:
        """The node does not call it any more. A call that is under way goes on; work is told to end."""
        self._take_back()


class RoleCalls(NodeFacts):
    """What a node does when its role changes, and while it leads. All of it may be called before `start`."""

    def __init__(self, setup: NodeSetup, *, http: str) -> None:
        super().__init__(setup, http=http)
        self._roles = RoleWatch(
            cast(Writes, self),  # a `Node` is more than this, and has them
            self._owner,
            lease=setup.lease,
            problems=setup.problems,
            stopping=setup.stopping,
            look=self._role_event,
            speaker=setup.speaker,
        )

    def on_role(self, callback: Callable[[RoleEvent], R]) -> Registered[[RoleEvent], R]:
        """Have `callback` called with what this node is (`RoleEvent`: role, term, leads): now, and after each change.

        Before `start`, it is called when the node has started. All callbacks of a node are called in order, on one
        thread that nothing of the node waits for, and may call what they like of it. Changes that pass while nobody
        looks are left out; the newest state is always told. What a callback raises is logged.

        Can be used as a decorator; what it gives has `unregister()`. Raises `ConfigError`, `NotRunning` (the node was
        stopped), `NoThread`.
        """
        self._check_not_stopped()
        if not callable(callback) or is_async(callback):
            problem = f"{callback!r:.80} is not a function of a RoleEvent, and no coroutine function either"
            raise ConfigError(setting="on_role", problem=problem)
        key = object()
        self._roles.call(key, cast(RoleCallback, callback))
        return Registered(callback, lambda: self._roles.callbacks.remove(key))

    def while_leading(self, work: Callable[[Leadership], R]) -> Registered[[Leadership], R]:
        """Have `work(leadership)` done while this node leads: once in each leadership, never twice at the same time.

        A function gets a thread of its own; a coroutine function becomes a task of the event loop in which this is
        called, or, where none runs, of that of `async with node` (a plain `start` is refused then). Once
        `leadership.lost` is set, or the task is cancelled, the work has a tenth of the lease to end. Work that returns
        is not begun again in this leadership. Work that raises is a problem of the node (`status`, `doctor`), and is
        begun again, later and later.

        Can be used as a decorator; what it gives has `unregister()`. Raises `ConfigError` (no function; a coroutine
        function where no event loop runs, once the node is started), `NotRunning` (the node was stopped), `NoThread`.
        """
        return self._led(work, partial(Once, clock=self._setup.lease.now), "while_leading")

    @overload
    def every(self, seconds: float) -> Callable[[Callable[[Leadership], R]], Registered[[Leadership], R]]: ...
    @overload
    def every(self, seconds: float, job: Callable[[Leadership], R]) -> Registered[[Leadership], R]: ...
    def every(self, seconds: float, job: Callable[[Leadership], Any] | None = None) -> Any:
        """Have `job(leadership)` done every `seconds` while this node leads, at first when its leadership begins.

        The times are counted from the beginning of the leadership, and do not drift. Those that pass while the job
        still runs are skipped: it runs once at a time. A run that raises is a problem of the node until one goes well;
        the next one comes at its time. Everything else is as for `while_leading`.

        `@node.every(60)` is a decorator.
        """
        checks.seconds("every", seconds, least=EVERY_S_MIN)
        pace = partial(Every, seconds, clock=self._setup.lease.now)
        if job is None:
            return partial(self._led, pace=pace, setting="every")
        return self._led(job, pace, "every")

    def _led(
        self, work: Callable[[Leadership], R], pace: Callable[[], Pace], setting: str
    ) -> Registered[[Leadership], R]:
        self._check_not_stopped()
        added = self._roles.add(work, pace, setting=setting)
        return Registered(work, lambda: self._roles.remove(added))

    def _check_not_stopped(self) -> None:
        self._owner.check()
        if self._setup.stopping.is_set():
            raise NotRunning(self.name, stopped=True)

    def _hand_over(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._roles.hand_over(loop)

    def _watch_role(self, running: RunningNode) -> None:
        self._roles.begin(running.replica.known, running.ha_loop.observer.former_leases)

    def _role_event(self) -> RoleEvent:
        node_state = self._node_state
        standing = self._standing_of(node_state)
        return RoleEvent(standing.role, node_state.view.term, standing.leads)
