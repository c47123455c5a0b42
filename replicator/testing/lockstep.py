"""A scheduler for all nodes of a group in a test: they take turns, and time is what the test says it is.

One thread does the duties of all nodes, one after the other, in an order that is always the same: what there is to read
first, then what is due by the clock, and nodes by their names. What needs no time to pass happens at once, as it does
among real nodes: a record is read, a refused lease is noticed. The clock stands still meanwhile. It moves only when
somebody moves it (`advance`, `step`), from one moment at which something is due to the next, and at each of them all
that follows is done before it moves on. So a lease runs out after exactly its length, whatever the machine has to do.

It is a thread of its own, and not the one that tests, because calls of a node wait for others: a write that wants to
be applied on a standby, a promotion, a wait for a position. They go on while their caller waits. Timeouts of such calls
are in real seconds: this clock is that of leases, heartbeats and looks.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from ..errors import LogUnavailable
from ..log.interface import Batch, ReadRequest
from ..log.memory_redis import MemoryRedis, MemoryState
from ..node.scheduler import NodeWork
from ..runtime.threads import started
from .failures import CheckFailed
from .leader_time import LeaderTime

__all__ = ["BEGINNING_S", "Lockstep"]

#: Where the clock begins. Not at 0: a node may take that for never.
BEGINNING_S = 1000.0

#: A duty is not due again before the clock has moved by so much.
PAUSE_S_MIN = 0.001

#: What failed is done again after so long: the back-off of a node has chance in it.
RETRY_S = 0.5

#: A duty that takes longer is held up by the test itself. What a duty does takes milliseconds; a busy machine has time.
PATIENCE_S = 60.0

#: More turns than this at one moment lead nowhere.
TURNS_MAX = 100_000

#: How often it is looked whether what goes on aside is over: nobody tells.
ASIDE_S = 0.0005


@dataclass(eq=False, slots=True)
class _Tended:
    """A node that is looked after, and by the clock when each of its duties is due."""

    work: NodeWork
    due: dict[str, float]
    woken: bool = False
    #: The server and the request of a read that gave nothing: it gives nothing until one of them is another.
    in_vain: tuple[MemoryState, ReadRequest] | None = None
    #: The last read failed, so an empty one is news.
    troubled: bool = False


@dataclass(frozen=True, slots=True)
class _Turn:
    tended: _Tended
    duty: str
    do: Callable[[], float]
    began: float = field(default_factory=time.monotonic)


class Lockstep:
    """See `Scheduler`. `unreachable` says of a node, by name, why it does not reach Redis; empty: it does.
    `leader_time`: what its clock is the clock of besides.
    """

    def __init__(self, server: MemoryRedis, *, unreachable: Callable[[str], str], leader_time: LeaderTime) -> None:
        self._server = server
        self._leader_time = leader_time
        self._unreachable = unreachable
        self._now = BEGINNING_S
        # Whatever is written to the server is told here, so it is the lock of this as well.
        self._changed = server.changed
        self._tended: dict[int, _Tended] = {}
        self._paused: set[str] = set()
        self._turn: _Turn | None = None
        self._turns = 0
        self._closed = False
        self._thread: threading.Thread | None = None

    # --- a scheduler ---

    def start(self, node_work: NodeWork) -> None:
        with self._changed:
            due = dict.fromkeys(("read", "hold", "keep", "save"), self._now)
            self._tended[id(node_work)] = _Tended(node_work, due)
            self._tended = dict(sorted(self._tended.items(), key=lambda each: each[1].work.name))
            self._changed.notify_all()

    def wake(self, node_work: NodeWork) -> None:
        with self._changed:
            if (tended := self._tended.get(id(node_work))) is not None:
                tended.woken = True
                self._changed.notify_all()

    def stop(self, node_work: NodeWork) -> None:
        with self._changed:
            tended = self._tended.pop(id(node_work), None)
            self._changed.wait_for(lambda: self._turn is None or self._turn.tended is not tended, PATIENCE_S)

    def clock(self) -> float:
        """The time of all nodes, in seconds."""
        return self._now

    @property
    def soon(self) -> None:
        return None

    @property
    def shared(self) -> None:
        return None

    # --- for the cluster ---

    def begin(self) -> None:
        """Have turns taken, until `close`. Raises `NoThread`."""
        if self._thread is None:
            self._thread = started(self._run, name="lockstep")

    def pause(self, name: str) -> None:
        """Nothing is done for this node any more, once what is being done is done."""
        with self._changed:
            self._paused.add(name)
            if not self._changed.wait_for(lambda: self._at_turn != name, PATIENCE_S):
                raise self._stuck()

    def resume(self, name: str) -> None:
        with self._changed:
            self._paused.discard(name)
            self._changed.notify_all()

    def nudge(self) -> None:
        """Redis is reached again, or is another run: all look at once, and not when a pause is over."""
        with self._changed:
            for tended in self._tended.values():
                tended.woken = True
                tended.due.update(read=min(tended.due["read"], self._now))
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(PATIENCE_S)

    def quiet(self) -> None:
        """Wait until nothing is left to be done before the clock moves. Raises `CheckFailed` if that does not end."""
        with self._changed:
            seen, since, began = self._turns, time.monotonic(), self._turns
            while not self._is_quiet():
                self._changed.notify_all()
                self._changed.wait(ASIDE_S)
                if self._turns != seen:
                    seen, since = self._turns, time.monotonic()
                if time.monotonic() - since > PATIENCE_S or self._turns - began > TURNS_MAX:
                    raise self._stuck()

    def advance(self, seconds: float) -> None:
        """Move the clock on by so much, and do all that is due on the way."""
        until = self._now + seconds
        while self.step(until):
            pass
        self._now = until
        self._leader_time.moved()
        self._kick()

    def step(self, until: float) -> bool:
        """Move the clock to the next moment at which something is due, and do that; whether there is one by `until`."""
        self.quiet()
        with self._changed:
            due = min([*map(self._due_at, self._going), self._leaders_due_at], default=until)
            if due >= until:
                return False
            self._now = max(self._now, due)
        self._leader_time.moved()
        self._kick()
        return True

    # --- turns ---

    def _kick(self) -> None:
        with self._changed:
            self._changed.notify_all()
        self.quiet()

    def _run(self) -> None:
        while (turn := self._next()) is not None:
            pause_s = PAUSE_S_MIN
            try:
                pause_s = turn.do()  # a duty raises nothing
            finally:
                self._done(turn, pause_s)

    def _next(self) -> _Turn | None:
        """Wait for the next turn; None: closed."""
        with self._changed:
            while not self._closed:
                if (turn := next(self._ready(), None)) is not None:
                    self._turn = turn
                    return turn
                self._changed.wait()
            return None

    def _done(self, turn: _Turn, pause_s: float) -> None:
        with self._changed:
            if turn.duty != "read" or pause_s:
                failed = turn.duty == "read" or self._unreachable(turn.tended.work.name)
                turn.tended.due[turn.duty] = self._now + (RETRY_S if failed else max(pause_s, PAUSE_S_MIN))
            self._turn = None
            self._turns += 1
            self._changed.notify_all()

    @property
    def _at_turn(self) -> str:
        return "" if self._turn is None else self._turn.tended.work.name

    @property
    def _going(self) -> Iterator[_Tended]:
        for tended in self._tended.values():
            if tended.work.name not in self._paused and not tended.work.ended():
                yield tended

    def _is_quiet(self) -> bool:
        if self._turn is not None or next(self._ready(), None) is not None:
            return False
        return not any(tended.work.works_aside() for tended in self._going) and self._leader_time.rests()

    def _ready(self) -> Iterator[_Turn]:
        """What can be done now, in the order in which it is. The caller has the lock."""
        for tended in self._going:
            if tended.due["read"] <= self._now and (turn := self._read_of(tended)) is not None:
                yield turn
        for duty in ("hold", "keep", "save"):
            for tended in self._going:
                if duty == "keep" and tended.woken:
                    yield _Turn(tended, duty, partial(self._keep, tended))
                elif tended.due[duty] <= self._now and not (duty == "save" and tended.work.is_saved()):
                    yield _Turn(tended, duty, getattr(tended.work, duty))

    def _keep(self, tended: _Tended) -> float:
        tended.woken = False
        return tended.work.keep()

    def _read_of(self, tended: _Tended) -> _Turn | None:
        if why := self._unreachable(tended.work.name):
            return _Turn(tended, "read", partial(self._read_nothing, tended, why))
        wants = tended.work.wants()
        if wants is None:
            return None
        if not tended.troubled and tended.in_vain is not None:
            server, before = tended.in_vain
            if server is self._server.state and before == wants:
                return None
        return _Turn(tended, "read", partial(self._read, tended, wants))

    def _read_nothing(self, tended: _Tended, why: str) -> float:
        tended.troubled = True
        return tended.work.received(LogUnavailable(url=tended.work.log.url, problem=why))

    def _read(self, tended: _Tended, wants: ReadRequest) -> float:
        server = self._server.state
        try:
            batch: Batch | LogUnavailable = tended.work.log.read(
                wants.after, requests_after=wants.requests_after, acks_after=wants.acks_after, count=wants.most
            )
        except LogUnavailable as unavailable:
            batch = unavailable
        if isinstance(batch, Batch) and batch.is_empty and not tended.troubled:
            tended.in_vain = server, wants
            return 0.0
        pause_s = tended.work.received(batch)
        tended.troubled, tended.in_vain = pause_s > 0, None
        return pause_s

    @property
    def _leaders_due_at(self) -> float:
        due = self._leader_time.due_at()
        return math.inf if due is None else max(due, self._now + PAUSE_S_MIN)

    def _due_at(self, tended: _Tended) -> float:
        due = [tended.due["hold"], tended.due["keep"]]
        if not tended.work.is_saved():
            due.append(tended.due["save"])
        if tended.due["read"] > self._now:
            due.append(tended.due["read"])
        return min(due)

    def _stuck(self) -> CheckFailed:
        if self._turn is None:
            aside = "a snapshot or a digest is drawn, or work of the leader is to begin"
            return CheckFailed(f"the nodes do not come to rest: {aside}, and that does not end")
        name, duty = self._turn.tended.work.name, self._turn.duty
        if time.monotonic() - self._turn.began < PATIENCE_S:
            return CheckFailed(f"the nodes do not come to rest: {self._turns} turns so far, and {name} is at {duty!r}")
        hint = "does another thread hold `reading()` of that node, or does its apply() wait for something?"
        return CheckFailed(f"node {name} has been at {duty!r} for {PATIENCE_S:.0f} s, and nothing else goes on: {hint}")
