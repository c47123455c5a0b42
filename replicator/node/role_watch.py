"""Watches whether a node leads: tells that to who wants to hear of it, and begins and ends the work of a leader.

A thread of its own, which waits for the moment at which the lease ends, or for news. Whatever else of the node hangs,
the work is told in time: neither the connection to Redis, nor a disk, nor the beat has a part in it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence

from ..errors import ReplicatorError
from ..replica.node_state_cell import NodeStateCell
from ..runtime.event_log import EventLogger, Speaker, in_this_context
from ..runtime.process import Owner
from ..runtime.threads import started
from .former_leases import FormerLeases
from .leader_work import AsyncWork, LeaderWork, Pace, Work, runner_of, running_loop, work_name
from .leadership import Leadership, Tenure, Writes
from .lease import Lease, nothing
from .problems import Problems
from .role_callbacks import RoleCallback, RoleCallbacks, RoleEvent

__all__ = ["RoleWatch"]

logger = EventLogger(__name__)

#: What nobody tells (a state that stalled) is seen after so long.
LOOK_EVERY_S = 1.0

#: Why a node is not started.
NO_LOOP = (
    "start() has no event loop for it: start the node with `async with node`, in the event loop in which the function "
    "is to run, or give a function that is no coroutine function"
)

#: How long a node that stops waits for callbacks and for the watch itself.
CLOSE_TIMEOUT_S = 10.0


class RoleWatch:
    """Of one node. `look`: what the node is now. `owner`: the process that it belongs to."""

    def __init__(
        self,
        writes: Writes,
        owner: Owner,
        *,
        lease: Lease,
        problems: Problems,
        stopping: threading.Event,
        look: Callable[[], RoleEvent],
        speaker: Speaker | None = None,
    ) -> None:
        self._writes = writes
        self._owner = owner
        self._lease = lease
        self._problems = problems
        self._stopping = stopping
        self._look = look
        self._speaker = speaker
        self.callbacks = RoleCallbacks(f"{writes.name}-role-callbacks", speaker)
        self._news = threading.Event()
        #: Whether the watch waits for news, and until when by the clock of the lease.
        self._waits = False
        self.looks_at = 0.0
        self._lock = threading.Lock()
        self._works: list[LeaderWork] = []
        self._numbers: dict[str, int] = {}
        #: Told when a run has come to its end.
        self._idle = threading.Condition()
        #: From the start of the node on.
        self._known: NodeStateCell | None = None
        self._former: FormerLeases | None = None
        self._thread: threading.Thread | None = None
        self._wanted = False
        self._closed = False
        #: The present leadership.
        self._tenure: Tenure | None = None
        #: The term that this node holds, and when it was noticed.
        self._held = 0
        self._held_since = 0.0

    # --- what is to be done ------------------------------------------------------------------------------------------

    def call(self, key: object, callback: RoleCallback) -> None:
        """Have it called. Raises `NoThread`."""
        self._want()
        self.callbacks.add(key, callback)

    def add(self, work: Work | AsyncWork, pace: Callable[[], Pace], *, setting: str) -> LeaderWork:
        """Have it done. Raises `ConfigError`, `NoThread`."""
        name = f"{self._writes.name}-{work_name(work)}" if callable(work) else ""
        with self._lock:
            number = self._numbers[name] = self._numbers.get(name, 0) + 1
        name += f"-{number}" if number > 1 else ""

        def tell(problem: ReplicatorError | None) -> None:
            if problem is None:
                self._problems.solved(name)
            else:
                self._problems.report(name, problem)

        added = runner_of(work, setting, name, pace, tell, self._one_ended, self._lease.now)
        with self._lock:
            if self._known is not None:
                added.check_loop("no event loop runs here: register it in a coroutine, or before the node is started")
            self._works.append(added)
        self._want()
        return added

    def remove(self, work: LeaderWork) -> None:
        """Have it not begun any more. A run of it is told to end."""
        with self._lock:
            if work in self._works:
                self._works.remove(work)
            work.forget()

    def hand_over(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """The node is being started in this event loop; None: it was not started. One that runs is left as it is."""
        with self._lock:
            if self._known is None:
                for work in self._works:
                    work.hand_over(loop)

    def check_loops(self) -> None:
        """Raises `ConfigError` if there is work that waits for an event loop still, now that the node is started."""
        for work in self._copy():
            work.check_loop(NO_LOOP)

    # --- life --------------------------------------------------------------------------------------------------------

    def begin(self, known: NodeStateCell, former: FormerLeases) -> None:
        """The node was started. Raises `NoThread`, and `ConfigError` for work that came while it started."""
        with self._lock:
            self._known, self._former = known, former
            former.changed = self.poke
        self.check_loops()
        if self._wanted:
            self._want()

    def _want(self) -> None:
        with self._lock:
            self._wanted = True
            if self._known is not None and self._thread is None and not self._closed:
                self._thread = started(
                    in_this_context(self._watch, speaker=self._speaker), name=f"{self._writes.name}-role-watch"
                )
                self._known.turned.append(self.poke)
                self._lease.changed = self.poke
        self.poke()

    def poke(self) -> None:
        """Something may have changed. Takes no time, and may be called under any lock."""
        self._news.set()

    def stir(self) -> None:
        """The clock of the lease was moved: have the watch, and all work that pauses, look at it."""
        for work in self._copy():
            work.stir()
        self.poke()

    @property
    def watches(self) -> bool:
        """Whether there is a watch: something of it was registered, the node is started, and not stopped."""
        return self._thread is not None and not self._closed

    @property
    def rests(self) -> bool:
        """Whether the watch has seen all that is new."""
        return not self._news.is_set() and self._waits

    @property
    def holds_back(self) -> bool:
        """Whether this node leads and has yet to begin its work, since another one may still have a lease."""
        seen, former = self._look(), self._former
        if former is None or not self._works or not seen.leads:
            return False
        now = self._lease.now()
        return former.over_at(seen.term, self._held_since if self._held == seen.term else now) > now

    def works_beside(self, thread: threading.Thread, loop: asyncio.AbstractEventLoop | None) -> list[LeaderWork]:
        """All work that can go on while that thread waits, and the event loop that runs in it."""
        return [work for work in self._copy() if not work.is_waited_for_by(thread, loop)]

    def _one_ended(self) -> None:
        with self._idle:
            self._idle.notify_all()
        self.poke()

    def end_works(self) -> None:
        """The node stops, and its lease is not renewed any more: tell all work, and wait for it until the lease ends.

        Who calls this from such work, or on the thread of its event loop, is not waited for.
        """
        if self._thread is None:
            return
        until = time.monotonic() + max(self._lease.margin_s, (self._lease.left_ms or 0) / 1000)
        tenure = self._tenure
        if tenure is not None:
            tenure.end()
        here, loop = threading.current_thread(), running_loop()
        for work in self._copy():
            work.end()
        self.poke()
        others = self.works_beside(here, loop)
        with self._idle:
            self._idle.wait_for(lambda: not any(work.runs for work in others), max(0.0, until - time.monotonic()))
        for work in others:
            if work.runs:
                logger.error("work.outlives_node", "%s goes on although this node stops", work.name)

    def close(self) -> None:
        """The node has stopped: tell that, and no more."""
        with self._lock:
            self._closed = True
            thread = self._thread
        self.poke()
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSE_TIMEOUT_S)
        if thread is not None:
            self.callbacks.tell(self._look())
        self.callbacks.close(CLOSE_TIMEOUT_S)
        # What has the lease, or the node state, does not keep the node.
        self._lease.changed = nothing
        if self._known is not None and self.poke in self._known.turned:
            self._known.turned.remove(self.poke)

    # --- the watch ---------------------------------------------------------------------------------------------------

    def goes_on(self, term: int) -> bool:
        """Whether this node leads in this term, and has time for more than writes. The clock is looked at last."""
        seen = self._look()
        return seen.leads and seen.term == term and not self._stopping.is_set() and self._left_s > 0

    @property
    def _left_s(self) -> float:
        return self._lease.work_until - self._lease.now()

    def _watch(self) -> None:
        while not self._closed:
            wait_s = LOOK_EVERY_S
            try:
                wait_s = min(wait_s, self._turn())
            except Exception:  # the work must not go on unwatched
                logger.exception("bug", "a bug in replicator")
                self._end_tenure()
            self.looks_at, self._waits = self._lease.now() + wait_s, True
            self._news.wait(wait_s)
            self._waits = False  # before there is no news: see `rests`
            self._news.clear()

    def _turn(self) -> float:
        """Tell what is new, begin and end what is to be; the seconds until something may have changed by itself."""
        seen = self._look()
        self.callbacks.tell(seen)
        wait_s = LOOK_EVERY_S
        if self._tenure is not None and self._tenure.is_over:
            self._end_tenure()
        if self._tenure is None and self.goes_on(seen.term):
            wait_s = self._begin_tenure(seen.term)
        for work in self._copy():
            if work.runs:
                work.tell_if_it_goes_on(self._lease.margin_s)
                if work.tenure is not self._tenure:
                    wait_s = min(wait_s, self._lease.margin_s)
            elif self._tenure is not None and work.tenure is not self._tenure:
                self._begin(work, self._tenure)
        return max(0.0, min([wait_s, *(left for left in self._times_left() if left > 0)]))

    def _begin(self, work: LeaderWork, tenure: Tenure) -> None:
        with self._lock:
            if work in self._works:  # nobody has removed it meanwhile
                work.begin(tenure, Leadership(tenure, self._writes, self._owner))

    def _times_left(self) -> Sequence[float]:
        return self._left_s, self._lease.until - self._lease.now()

    def _begin_tenure(self, term: int) -> float:
        """Unless another node may still have a lease: then the seconds until it has none any more."""
        assert self._former is not None
        now = self._lease.now()
        if self._held != term:
            self._held, self._held_since = term, now
        wait_s = self._former.over_at(term, self._held_since) - now
        if wait_s > 0:
            return wait_s
        self._former.held(term)
        self._tenure = Tenure(term, self.goes_on, self.poke)
        return LOOK_EVERY_S

    def _end_tenure(self) -> None:
        if self._tenure is not None:
            self._tenure.end()
        self._tenure = None
        for work in self._copy():
            work.end()

    def _copy(self) -> list[LeaderWork]:
        with self._lock:
            return list(self._works)
