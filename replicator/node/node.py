"""A node: one process' part in a group. Put it around a state, start it, read from it, write through it.

    node = Node(state, group="registry", name="a", redis="redis://localhost:6379/0", data_dir="data/a")
    with node:
        node.submit({"op": "register", ...})

What goes on by itself is in `duties.py`: `consumer.py` (records come in), `ha_loop.py` (what happens once a beat), and
that what a node applied is saved a moment later; `scheduler.py` has the threads that do it. Writes run on the
threads that submit them (`writer.py`). Nothing here decides: it asks its `NodeState`.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Unpack

from ..errors import (
    ChangeRejected,
    ChangeTooLarge,
    ConfigError,
    LogUnavailable,
    NotRunning,
    PositionLost,
    ReplicatorError,
)
from ..format.codec import Encoded, encoded
from ..format.ids import ORIGIN, ZERO_ID, Position, RecordId, Writer
from ..log.interface import Log
from ..log.redis_log import RedisLog
from ..protocol import promotion
from ..protocol.fold import View
from ..protocol.heartbeat import MISSED_BEATS_MAX
from ..protocol.node_state import NodeState
from ..replica.change_upkeep import ChangeUpkeep
from ..replica.replica import Replica
from ..replica.whole_upkeep import WholeUpkeep
from ..runtime import checks
from ..runtime.process import Owner
from ..state import ReplicatedState, State
from ..state.contract import check_state
from ..state.kind import kind_of
from ..storage.checkpoint import Checkpoint
from ..storage.payload import Published
from . import health
from .acks import Acks, Level
from .async_writer import AsyncWriter
from .commit_queue import BATCH_CHANGES_MAX
from .consumer import Reader
from .duties import Duties
from .fresh_read import catch_up
from .ha_loop import HaLoop
from .handover import Handover
from .health import Condition, Lag, Standing, Unready, standing_of
from .identity import Name
from .lease import Lease, answer_within_s
from .options import NodeKeywords, NodeOptions
from .parts import Parts
from .primary import Primary
from .problems import Problems
from .scheduler import NodeWork, OwnThreads, Scheduler

__all__ = ["Node"]

logger = logging.getLogger(__name__)

#: All of a state is on its way: seconds, if it is large. A standby takes it in when all of it is there.
REPLACE_TIMEOUT_S = 30.0
PUBLISH_TIMEOUT_S = 30.0

#: What a node knows that was not started.
NOTHING = View(in_sync=False)


class Node:
    """One node of a group.

    `state`: see `replicator.state`. `redis`: a URL, or `log`: a log (`testing.MemoryLog`). `data_dir`: this node's own
    directory. `http`: the URL at which others reach this node, shown to them. `scheduler`: who works for it, if not
    threads of its own (`host.py`). `options`: `ack`, `lease_s`, `auto_promote` and so on, see `NodeOptions`. Raises
    `ConfigError`, `CheckpointError` (from the constructor and from `start`).

    A node belongs to the process that made it. In a forked child every call, and every fact, raises `WrongProcess`, and
    leaving the node's `with` does nothing: the parent goes on as if there were no child.
    """

    def __init__(
        self,
        state: State | ReplicatedState,
        *,
        group: str,
        name: str,
        data_dir: str | Path,
        redis: str = "",
        log: Log | None = None,
        http: str = "",
        scheduler: Scheduler | None = None,
        **options: Unpack[NodeKeywords],
    ) -> None:
        if not isinstance(redis, str) or bool(redis) == (log is not None):
            raise ConfigError(setting="redis", problem="give a URL, or a log")
        self.name = checks.name("name", name)
        self.group = checks.name("group", group)
        self.data_dir = checks.directory("data_dir", data_dir)
        self.http = checks.url("http", http)
        check_state(state)
        self._options = NodeOptions(**options)
        self._owner = Owner(f"node {name}")
        self._state = state
        self._ack = self._options.level
        self._policy = self._options.policy
        self._lease = Lease(self._options.lease_s)
        answer_s = answer_within_s(self._lease.length_s)
        self._log: Log = log if log is not None else RedisLog(redis, group, timeout_s=answer_s)
        self._scheduler = scheduler or OwnThreads()
        self._stopping = threading.Event()
        #: What is in the way now.
        self._problems = Problems()
        #: What is there from the start on, because it needs the data directory.
        self._checkpoint: Checkpoint
        self._replica: Replica
        self._primary: Primary
        self._async_writer: AsyncWriter
        self._acks: Acks
        self._ha_loop: HaLoop
        self._duties: Duties | None = None
        self._node_work: NodeWork | None = None
        #: What is to be done before a switchover, by somebody beside this node (`service/sidecar.py`).
        self.handover = Handover(self._wake)

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._owner.is_here:
            self.stop()

    def start(self) -> None:
        """Lock the data directory, rebuild the state, join the group. Redis may be down: then it joins later.

        Raises `CheckpointError` (another process has the directory, or it cannot be read), `ConfigError` (another live
        node has this name), `LogLost` (Redis has another log than the one that this node knows), `NotRunning` (it was
        stopped: make another one), `NoThread`.
        """
        self._owner.check()
        if self._stopping.is_set():
            raise NotRunning(self.name, stopped=True)
        self._checkpoint = Checkpoint(self.data_dir, self.group, node=self.name)
        try:
            self._checkpoint.note("state", kind_of(self._state))
            me = Writer(self.name, secrets.token_hex(16))
            self._replica = _replica_of(self._state, self._checkpoint, me, self._options.snapshot_bytes_max)
            self._primary = Primary(self._log, self._replica, self._lease, patience_s=self._lease.length_s)
            self._async_writer = AsyncWriter(self._primary.commits, name=self.name, soon=self._scheduler.soon)
            self._acks = Acks(self._log, self._replica, self._lease)
            parts = Parts(
                log=self._log,
                replica=self._replica,
                primary=self._primary,
                acks=self._acks,
                lease=self._lease,
                problems=self._problems,
            )
            boot = self._replica.node_state.previous_boot
            own_name = Name(self._log, me, self._checkpoint, previous_boot=boot, stopping=self._stopping)
            self._ha_loop = HaLoop(parts, self._policy, own_name, self.handover, wake=self._wake)
            self._ha_loop.reporter.http = self.http
            reader = Reader(parts, stopping=self._stopping)
            every_s = self._policy.beat_every_s
            self._duties = Duties(parts, self._ha_loop, reader, beat_every_s=every_s, stopping=self._stopping)
            try:
                self._ha_loop.join()
            except LogUnavailable as unavailable:
                logger.warning("%s; starting as a standby with what the checkpoint has", unavailable)
        except BaseException:
            self._checkpoint.close()
            raise
        self._node_work = self._duties.work(self.name)
        try:
            self._scheduler.start(self._node_work)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Finish the record under way, write the checkpoint, give the lease back. Safe to call twice.

        Raises `CheckpointError`, and `WouldDeadlock` inside of a read or of a callback of this node.
        """
        self._owner.check()
        if self._stopping.is_set():
            return
        if self._node_work is not None:
            self._replica.applied.inside.check("stop()")
        self._stopping.set()
        self._problems.quiet = True
        if self._node_work is None:  # it was not started, or could not be
            self._log.close()
            return
        self._wake()
        self._replica.close()
        # With the turn nothing is half done; nobody gets it back.
        has_turn = self._replica.write_lock.acquire(timeout=2 * self._lease.length_s)
        self._ha_loop.end(failed=self.failed is not None)
        self._log.close()
        if has_turn:
            self._replica.write_lock.release()
        self._async_writer.close()
        self._scheduler.stop(self._node_work)
        try:
            self._replica.flush()
        finally:
            self._checkpoint.close()
        logger.info("stopped at %s", self.position.id)

    def announce(self, http: str) -> None:
        """Tell the others the URL at which this node is reached, if it was not known at the start."""
        self._owner.check()
        self.http = checks.url("http", http)
        if self._node_work is not None:
            self._ha_loop.reporter.http = self.http
            self._wake()

    # --- facts -------------------------------------------------------------------------------------------------------
    # Before `start` they are those of a standby that has nothing, after `stop` those of the moment at which it ended.

    @property
    def _node_state(self) -> NodeState:
        return self._replica.node_state if self._is_started else NodeState(me=Writer(self.name, ""), view=NOTHING)

    @property
    def _is_started(self) -> bool:
        self._owner.check()
        return self._node_work is not None

    @property
    def failed(self) -> ReplicatorError | None:
        """What ended this node's part in the group, if something did. It serves reads, and nothing else."""
        return self._duties.failed if self._duties is not None else None

    @property
    def role(self) -> str:
        """`"primary"` or `"standby"`, by what this node knows of the log. Derived: see `protocol/node_state.py`.

        A node that is cut off does not know that another one was promoted. Before you act as the primary, ask `leads`.
        """
        return self._standing.role

    @property
    def leads(self) -> bool:
        """Whether this node can take writes: it holds the term, is in sync, and has a lease that runs.

        As fresh as a lease can be: somebody may have been promoted a moment ago. A write of ours is refused then; what
        you do elsewhere, fence by `term`.
        """
        return self._standing.leads

    @property
    def _standing(self) -> Standing:
        return standing_of(
            self._node_state,
            failed=self.failed is not None,
            stalled=self.stalled is not None,
            lease_held=self._lease.held,
        )

    @property
    def unready(self) -> Unready | None:
        """Why this node cannot do its role's work now (`health.why_unready`); None: it can."""
        if not self._is_started:
            return Unready("not_running", "this node was not started")
        node_state = self._replica.node_state
        now = Condition(
            failed=self.failed,
            stopping=self._stopping.is_set(),
            stalled=self.held_up or "",
            problems=self._problems.in_the_way,
            standing=self._standing,
            in_sync=node_state.in_sync,
            has_read=node_state.view.cursor != ORIGIN,
            lag=self._lag(of_what_there_is=True),  # while nobody leads there is nothing else to follow
            behind_s=self._ha_loop.observer.trail.behind_s(self.position.id, time.monotonic()),
        )
        return health.why_unready(now)

    @property
    def boot(self) -> str:
        """What this life of the node is called; empty before it is started."""
        return self._node_state.me.boot

    @property
    def term(self) -> int:
        """The newest term that this node knows."""
        return self._node_state.view.term

    @property
    def position(self) -> Position:
        """What the state contains. `str(node.position.id)` is a token to wait for on another node."""
        return self._node_state.view.position

    @property
    def in_sync(self) -> bool:
        """Whether the state lacks nothing of the log up to `position`; not before it has read the log once."""
        return self._node_state.in_sync

    @property
    def lag(self) -> Lag:
        """How far this node is behind the head, as of the last heartbeat. Not known while nobody holds a lease."""
        return self._lag() if self._is_started else health.UNKNOWN

    def _lag(self, *, of_what_there_is: bool = False) -> Lag:
        return health.lag_of(
            self.position,
            self._replica.applied.applied_at,
            self._ha_loop.observer.seen,
            now_ms=time.monotonic() * 1000,
            fresh_ms=MISSED_BEATS_MAX * self._policy.beat_every_s * 1000,
            of_what_there_is=of_what_there_is,
        )

    @property
    def stalled(self) -> str | None:
        """Why the application's apply() or restore() failed; None: it did not."""
        return (self._replica.stalled or None) if self._is_started else None

    @property
    def held_up(self) -> str | None:
        """Why the state does not become what it should be: the application failed, or something is in its way, a full
        disk for example, and it is tried again. None: it does."""
        unwritten = self._replica.unwritten if self._is_started else None
        return self.stalled or (str(unwritten) if unwritten is not None else None)

    @property
    def problem(self) -> str:
        """What is in this node's way now, in words; empty: nothing is."""
        if not self._is_started:
            return "not started"
        return "stopped" if self._stopping.is_set() else str(self._problems)

    def report(self, name: str, problem: ReplicatorError | None) -> None:
        """Have `status` and `doctor` tell what is in the way of something beside this node; None: nothing, any more."""
        self._owner.check()
        if problem is None:
            self._problems.solved(name)
        else:
            self._problems.report(name, problem)

    @property
    def lease_ms(self) -> int | None:
        """What is left of this node's lease; None: it has none."""
        self._owner.check()
        return self._lease.left_ms

    @property
    def rejected(self) -> int:
        """Stale records that were ignored since the start."""
        return self._replica.rejected if self._is_started else 0

    @property
    def primary_http(self) -> str | None:
        """Where the primary is reached, if there is a live one that says so."""
        if not self._is_started:
            return None
        node_state, look = self._replica.node_state, self._ha_loop.observer.look
        if self.leads:
            return self.http or None
        holder = look.heartbeats.get(node_state.view.holder.node) if look else None
        if holder is None or holder.node == self.name or holder.boot != node_state.view.holder.boot:
            return None
        return holder.http or None if holder.alive else None

    # --- reading and writing -----------------------------------------------------------------------------------------

    @contextmanager
    def reading(self, *, fresh: bool = False, timeout_s: float = 5.0) -> Iterator[Any]:
        """The state, between two records, as old as `lag` says. Hold it shortly: nothing is applied meanwhile.

        What is in it is in the log, and perhaps not on this node's disk yet. If the node is killed, it shows an older
        state until it has read the log again: `wait` for the position of this read where that must not be seen.

        With `fresh`, everything that was committed when this was called is in the state: linearizable on any node, as
        long as Redis itself loses nothing (docs/design.md says what a master that was replaced may still answer). It
        waits while nobody leads with a lease that runs. Raises `LogUnavailable`, `TimeoutError`, `NotRunning` (a node
        that was not started has no state yet; one that was stopped has what it had).
        """
        self._check_is_started()
        self._replica.applied.inside.check("reading()")
        if fresh:
            catch_up(self._ha_loop.observer, self.wait, until=time.monotonic() + timeout_s)
        with self._replica.applied.reading() as state:
            yield state

    def submit(self, change: Any, *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None) -> Any:
        """Commit one change (JSON): in the log, then applied here; what `apply` returned.

        With `term`, only in that one: a caller that acts on what it saw in a term is refused once the term is over.
        `ack`: what this one waits for, instead of what the node was given.

        Raises `ChangeRejected` (by `apply`; a recorded outcome), `ChangeTooLarge`, `NotPrimary`, `LeaseLost`, `Fenced`,
        `LogUnavailable` (nothing was written), `OutcomeUnknown` (it may be in the log), `NotAcknowledged` (it is in the
        log and applied here, and did not come as far as `ack` says in time), `Stalled`, `NotJSON`, and `WouldDeadlock`
        inside of a read or of a callback of this very node.
        """
        return _result(self._submitted(encoded([change]), timeout_s, term, ack)[0])

    def submit_many(
        self, changes: Sequence[Any], *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None
    ) -> list[Any]:
        """Commit changes in one record, so that all of them are in the log, in their order, or none is.

        What `apply` returned for each; one that it rejected has its `ChangeRejected` in its place, and the others are
        applied. At most 1,000 changes, and 256 KiB of JSON: `ChangeTooLarge` otherwise. Raises what `submit` raises.
        """
        _check_fits(changes)
        return self._submitted(encoded(changes), timeout_s, term, ack) if changes else []

    def _submitted(self, changes: Encoded, timeout_s: float, term: int | None, ack: str | None) -> list[Any]:
        level = self._level_for_write(ack)
        deadline = time.monotonic() + timeout_s
        id_, results = self._primary.commits.submit(changes, timeout_s=timeout_s, term=term, wants_acks=level.standbys)
        if level.kind != "appended" and not _are_rejected(results):
            self._acks.wait(level, id_, deadline - time.monotonic())
        return results

    async def asubmit(
        self, change: Any, *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None
    ) -> Any:
        """`submit` from an asyncio task. The event loop goes on meanwhile, and tasks that submit at the same time share
        a round trip: the way to write from many places at once (see `async_writer.py`).
        """
        level = self._level_for_write(ack, blocks=False)
        changes = encoded([change])
        if level.kind != "appended":
            return _result((await self._acknowledged(changes, level, timeout_s, term))[0])
        _, results = await self._async_writer.submit(changes, timeout_s=timeout_s, term=term, wants_acks=0)
        return _result(results[0])

    async def asubmit_many(
        self, changes: Sequence[Any], *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None
    ) -> list[Any]:
        """`submit_many` from an asyncio task."""
        _check_fits(changes)
        level = self._level_for_write(ack, blocks=False)
        return await self._acknowledged(encoded(changes), level, timeout_s, term) if changes else []

    async def _acknowledged(self, changes: Encoded, level: Level, timeout_s: float, term: int | None) -> list[Any]:
        deadline = time.monotonic() + timeout_s
        id_, results = await self._async_writer.submit(
            changes, timeout_s=timeout_s, term=term, wants_acks=level.standbys
        )
        if level.kind != "appended" and not _are_rejected(results):
            await self._acks.awaited(level, id_, deadline - time.monotonic())
        return results

    def _level_for_write(self, ack: str | None, *, blocks: bool = True) -> Level:
        self._check_serves(blocks=blocks)
        self._check_log()
        if self._replica.whole is not None:
            problem = "the state has no apply(): let its program change it, and call publish()"
            raise ConfigError(setting="submit", problem=problem)
        return self._ack if ack is None else Level.parse(ack)

    def replace(
        self,
        pieces: Iterable[Any],
        *,
        timeout_s: float = REPLACE_TIMEOUT_S,
        term: int | None = None,
        ack: str | None = None,
        expect: str | None = None,
    ) -> None:
        """Make `pieces` (as `State.snapshot` gives them) the whole state, on every node, at one record.

        Only on the primary. `term`, `ack`, `timeout_s`: as for `submit`. `expect`: a position (`"5-1042"`); only if the
        state is still what it was there. Raises what `submit` raises, and `Outdated`; what is not sent in time is given
        up, and changes nothing.
        """
        self._check_serves()
        self._check_log()
        level = self._ack if ack is None else Level.parse(ack)
        seen = RecordId.parse(expect) if expect is not None else None
        deadline = time.monotonic() + timeout_s
        id_ = self._primary.publisher.replace(pieces, term=term, expect=seen, wants_acks=level.standbys, until=deadline)
        self._acks.wait(level, id_, deadline - time.monotonic())

    def publish(self, *, timeout_s: float = PUBLISH_TIMEOUT_S, ack: str | None = None) -> Published:
        """Send the state as it is now. Only on the primary; what was sent, and the position that has it.

        Of a state with `apply` that is a snapshot: the others have all of it already. Of one without, it is what
        changed since the last time: a patch where that is smaller, else the whole; nothing, if it is the same. `ack`
        is for that, as in `submit`. Raises what `submit` raises, `StateError` if the state cannot be read, and
        `SnapshotFailed` if its `snapshot` fails. What is not sent in time is given up, and means nothing.
        """
        self._check_serves()
        self._check_log()
        deadline = time.monotonic() + timeout_s
        whole = self._replica.whole
        if whole is None:
            self._primary.publisher.publish(until=deadline)
            return Published("snapshot", self.position.id)
        self._replica.write_state()
        level = self._ack if ack is None else Level.parse(ack)
        published = self._primary.publisher.publish_state(whole, wants_acks=level.standbys, until=deadline)
        if published.what != "nothing":
            self._acks.wait(level, published.id, deadline - time.monotonic())
        return published

    def promote(self, *, reason: str = "asked by the application", force: bool = False, timeout_s: float = 10.0) -> int:
        """Take the next term, and wait until this node leads; the term.

        Raises `PromotionRefused` if another node is the better one, or nodes are missing that may have more
        (`election.refusal`; `force` goes past it: what only others have is lost), `TimeoutError`.
        """
        checks.line("reason", reason)
        self._check_serves("promote()")
        deadline = time.monotonic() + timeout_s
        look = self._ha_loop.observer.sight_by(deadline).look
        mine = self._ha_loop.reporter.heartbeat()._replace(run=look.run)
        promotion.check(self.name, look._replace(heartbeats={**look.heartbeats, self.name: mine}), force=force)
        taken = self._ha_loop.candidate.take_term(reason, look, guarded=not force, until=deadline)
        # Its term record, too: a node that led already is the primary all the while.
        position = str(taken.id) if taken.id != ZERO_ID else None
        self.wait(role="primary", position=position, timeout_s=max(0.0, deadline - time.monotonic()))
        return taken.term

    def wait(
        self, *, role: str | None = None, n: int | None = None, position: str | None = None, timeout_s: float = 5.0
    ) -> None:
        """Wait until this node has that role, and has applied record number `n` or `position` (`"5-1042"`).

        A primary is waited for until it takes writes: until it has its lease, too.
        Raises `TimeoutError`, `PositionLost` (a failover left that position behind), and `ConfigError` for one that
        is none.
        """
        self._check_runs()
        self._replica.applied.inside.check("wait()")
        id_ = RecordId.parse(position) if position is not None else None

        def reached() -> bool:
            view = self._replica.node_state.view
            if id_ is not None and view.in_sync:
                _check_not_lost(id_, view)
            return (
                (role is None or (self.leads if role == "primary" else self.role == role))
                and (n is None or (view.in_sync and view.position.id.n >= n))
                and (id_ is None or (view.in_sync and max(view.position.id, view.cursor.id) >= id_))
            )

        with self._replica.known.moved:
            if not self._replica.known.moved.wait_for(reached, timeout=min(timeout_s, threading.TIMEOUT_MAX)):
                raise TimeoutError(f"{self.name} is {self.role} at {self.position.id} after {timeout_s:.3g} s")

    def _check_log(self) -> None:
        if (lost := self._problems.get("log")) is not None:
            raise lost

    def _check_is_started(self) -> None:
        if not self._is_started:
            raise NotRunning(self.name)

    def _check_runs(self) -> None:
        self._check_is_started()
        if self._stopping.is_set():
            raise NotRunning(self.name, stopped=True)

    def _check_serves(self, call: str = "a write", *, blocks: bool = True) -> None:
        self._check_runs()
        if self.failed is not None:
            raise self.failed
        self._replica.applied.inside.check(call, blocks=blocks)

    def _wake(self) -> None:
        if self._node_work is not None:
            self._scheduler.wake(self._node_work)


def _replica_of(state: State | ReplicatedState, checkpoint: Checkpoint, me: Writer, snapshot_bytes_max: int) -> Replica:
    upkeep = ChangeUpkeep if isinstance(state, State) else WholeUpkeep
    return Replica(state, checkpoint, me, snapshot_bytes_max=snapshot_bytes_max, upkeep=upkeep)


def _result(result: Any) -> Any:
    if isinstance(result, ChangeRejected):
        raise result
    return result


def _are_rejected(results: Sequence[Any]) -> bool:
    """Whether nothing came of the changes: then nobody has to have them."""
    return all(isinstance(result, ChangeRejected) for result in results)


def _check_fits(changes: Sequence[Any]) -> None:
    if len(changes) > BATCH_CHANGES_MAX:
        raise ChangeTooLarge(problem=f"there are {len(changes)}, a record takes {BATCH_CHANGES_MAX}")


def _check_not_lost(id: RecordId, view: View) -> None:
    end = view.left_behind(id)
    if end is not None:
        later = [term.term for term in (*view.ends, view.position.id) if term.term > id.term]
        raise PositionLost(id, term=id.term, term_end=end, next_term=min(later, default=view.term))
