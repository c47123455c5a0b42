"""A node: one process' part in a group. Put it around a state, start it, read from it, write through it.

    node = Node(state, group="registry", name="a", redis="redis://localhost:6379/0", data_dir="data/a")
    with node:
        node.submit({"op": "register", ...})

What goes on by itself is in `consumer.py` (records come in), `ha_loop.py` (what happens once a beat) and here (what a
primary committed is saved a moment later); `scheduler.py` has the threads that do it. Writes run on the threads that
submit them (`writer.py`). Nothing here decides: it asks the member.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import (
    ChangeRejected,
    ChangeTooLarge,
    ConfigError,
    LogLost,
    LogUnavailable,
    NotRunning,
    PositionLost,
    PromotionRefused,
    ReplicatorError,
)
from ..format.codec import Encoded, encoded
from ..format.ids import ORIGIN, TERM_MAX, ZERO_ID, Position, RecordId, Writer
from ..format.weight import SNAPSHOT_BYTES_MAX
from ..log.interface import Batch, Log, ReadRequest
from ..log.redis_log import RedisLog
from ..protocol import election
from ..protocol.fold import View
from ..protocol.heartbeat import MISSED_BEATS_MAX
from ..protocol.liveness import Sight
from ..protocol.node_state import NodeState
from ..replica.change_upkeep import ChangeUpkeep
from ..replica.replica import Replica
from ..replica.whole_upkeep import WholeUpkeep
from ..runtime import checks
from ..runtime.backoff import Backoff
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
from .ha_loop import HaLoop, HaPolicy
from .handover import Handover
from .health import Condition, Lag, Unready
from .identity import Name
from .lease import LEASE_S, Lease, answer_within_s
from .primary import Primary
from .problems import Problems
from .scheduler import NodeWork, OwnThreads, Scheduler

__all__ = ["Node"]

logger = logging.getLogger(__name__)

#: The time of a few round trips.
LEASE_S_MIN = 0.1

#: More heartbeats are of no use to anybody, and each of them is a few round trips.
BEAT_EVERY_S_MIN = 0.001

#: A heartbeat at least this often, however long the lease is.
BEAT_EVERY_S_MAX = election.BEAT_EVERY_MS_MAX / 1000

#: What a primary committed is on its own disk after so long.
SAVE_EVERY_S = 0.1

#: How long the disk is tidied up then, and how long others may have it between two slices.
TIDY_FOR_S = 0.05
TIDY_PAUSE_S = 0.002

#: All of a state is on its way: seconds, if it is large. A standby takes it in when all of it is there.
REPLACE_TIMEOUT_S = 30.0
PUBLISH_TIMEOUT_S = 30.0

#: What a node knows that was not started.
NOTHING = View(in_sync=False)

#: How soon one who waits for the group looks at it again: at first, and at the most.
LOOK_AGAIN_S, LOOK_AGAIN_S_MAX = 0.01, 0.2

#: How soon a duty in whose way something is (Redis is away, the disk is full) is done again: at first, and at the most.
RETRY_S, RETRY_S_MAX = 0.1, 1.0


class Node:
    """One node of a group.

    `state`: see `replicator.state`. `redis`: a URL, or `log`: a log (`testing.MemoryLog`). `data_dir`: this node's own
    directory. `ack`: what `submit` waits for (see `acks.py`). `lease_s`: how long the primary may go on without hearing
    from Redis. `auto_promote`: whether this node takes over by itself when the primary's lease is gone. `http`: the URL
    at which others reach this node, shown to them. `on_restart`: `"primary"` takes the term again that this node held
    when it ended, `"standby"` does not. `on_log_lost`: what it does when Redis has no log any more: `"wait"` for
    `replicator recover`, serving reads; `"recover"` founds it anew, from the most advanced node that does so.
    `failover_without`: when it leads by itself after Redis may have lost something; `"safe"`: only if the nodes that
    are missing cannot be all that hold a change acknowledged as `applied:N` (`protocol/missing_nodes.py`); `"always"`:
    whoever is missing.
    `beat_every_s`: how often it reports, if not once a second or a third of the lease, whichever is shorter; after
    three times that without a report others take it for dead. `snapshot_bytes_max`: what a snapshot may weigh when it
    is unpacked, its bytes and what JSON makes of them (`format/weight.py`); the same on all nodes. `scheduler`: who
    works for it, if not threads of its own (`host.py`). Raises `ConfigError`, `CheckpointError` (from the constructor
    and from `start`).

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
        ack: str = "appended",
        lease_s: float = LEASE_S,
        auto_promote: bool = False,
        http: str = "",
        on_restart: str = "primary",
        on_log_lost: str = "wait",
        failover_without: str = "safe",
        beat_every_s: float | None = None,
        snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
        scheduler: Scheduler | None = None,
    ) -> None:
        if not isinstance(redis, str) or bool(redis) == (log is not None):
            raise ConfigError(setting="redis", problem="give a URL, or a log")
        self.name = checks.name("name", name)
        self.group = checks.name("group", group)
        self.data_dir = checks.directory("data_dir", data_dir)
        self.http = checks.url("http", http)
        check_state(state)
        #: What ended this node's part in the group, if something did. It serves reads, and nothing else.
        self.failed: ReplicatorError | None = None
        #: Behind which of its snapshots the next one was told to be due.
        self._due_behind: RecordId | None = None
        self._owner = Owner(f"node {name}")
        self._state = state
        self._ack = Level.parse(ack)
        self._lease = Lease(checks.seconds("lease_s", lease_s, least=LEASE_S_MIN))
        self._policy = HaPolicy(
            beat_every_s=_beat_every_s(beat_every_s, self._lease),
            auto_promote=checks.flag("auto_promote", auto_promote),
            takes_term_again=checks.choice("on_restart", on_restart, ("primary", "standby")) == "primary",
            recovers=checks.choice("on_log_lost", on_log_lost, ("wait", "recover")) == "recover",
            goes_on=checks.choice("failover_without", failover_without, ("safe", "always")) == "always",
            applied_min=self._ack.standbys,
        )
        answer_s = answer_within_s(self._lease.length_s)
        self._log: Log = log if log is not None else RedisLog(redis, group, timeout_s=answer_s)
        self._snapshot_bytes_max = checks.whole("snapshot_bytes_max", snapshot_bytes_max, least=1, most=TERM_MAX)
        self._scheduler = scheduler or OwnThreads()
        self._stopping = threading.Event()
        #: What is in the way now.
        self._problems = Problems()
        # A lease is renewed, and a heartbeat sent, after a beat at the latest.
        beat_s = min(RETRY_S_MAX, self._policy.beat_every_s)
        most_s = {"holder": beat_s, "ha-loop": beat_s, "saver": RETRY_S_MAX, "reader": RETRY_S_MAX}
        self._backoffs = {duty: Backoff(RETRY_S, s) for duty, s in most_s.items()}
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
            self._replica = _replica_of(self._state, self._checkpoint, me, self._snapshot_bytes_max)
            self._primary = Primary(self._log, self._replica, self._lease, patience_s=self._lease.length_s)
            self._async_writer = AsyncWriter(self._primary.commits, name=self.name, soon=self._scheduler.soon)
            self._acks = Acks(self._log, self._replica, self._lease)
            self._ha_loop = HaLoop(
                self._log,
                self._replica,
                self._primary,
                self._acks,
                self._lease,
                self._policy,
                self._problems,
                Name(
                    self._log,
                    me,
                    self._checkpoint,
                    previous_boot=self._replica.node_state.previous_boot,
                    stopping=self._stopping,
                ),
                wake=self._wake,
                stopping=self._stopping,
            )
            self._ha_loop.http = self.http
            self._ha_loop.handover = self.handover
            self._reader = Reader(
                self._log, self._replica, self._primary, self._acks, self._ha_loop, stopping=self._stopping
            )
            try:
                self._ha_loop.join()
            except LogUnavailable as unavailable:
                logger.warning("%s; starting as a standby with what the checkpoint has", unavailable)
        except BaseException:
            self._checkpoint.close()
            raise
        self._node_work = NodeWork(
            name=self.name,
            log=self._log,
            hold=lambda: min(self._done("holder", self._ha_loop.hold), self._lease.renew_every_s),
            keep=lambda: self._done("ha-loop", self._ha_loop.keep),
            save=lambda: self._done("saver", self._save),
            is_saved=lambda: self._replica.saved.is_flushed and self._replica.saved.is_tidy,
            read=lambda: self._done("reader", self._reader.read),
            wants=self._wants,
            received=lambda batch: self._done("reader", lambda: self._received(batch)),
            ended=lambda: self._stopping.is_set() or self.failed is not None,
        )
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
            self._ha_loop.http = self.http
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
    def role(self) -> str:
        """`"primary"` or `"standby"`, by what this node knows of the log. Derived: see `core.node_state.NodeState`.

        A node that is cut off does not know that another one was promoted. Before you act as the primary, ask `leads`.
        """
        return "primary" if self._node_state.leads and self.failed is None else "standby"

    @property
    def leads(self) -> bool:
        """Whether this node can take writes: it holds the term, is in sync, and has a lease that runs.

        As fresh as a lease can be: somebody may have been promoted a moment ago. A write of ours is refused then; what
        you do elsewhere, fence by `term`.
        """
        return self.role == "primary" and self._lease.held and not self._replica.stalled

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
            role=self.role,
            leads=self.leads,
            in_sync=node_state.in_sync,
            has_read=node_state.view.cursor != ORIGIN,
            lag=self._lag(of_what_there_is=True),  # while nobody leads there is nothing else to follow
            behind_s=self._ha_loop.trail.behind_s(self.position.id, time.monotonic()),
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
            self._ha_loop.seen,
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
        node_state, look = self._replica.node_state, self._ha_loop.look
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

        With `fresh`, everything that was committed when this was called is in the state: linearizable on any node, as
        long as Redis itself loses nothing (docs/design.md says what a master that was replaced may still answer). It
        waits while nobody leads with a lease that runs. Raises `LogUnavailable`, `TimeoutError`, `NotRunning` (a node
        that was not started has no state yet; one that was stopped has what it had).
        """
        self._check_is_started()
        self._replica.applied.inside.check("reading()")
        if fresh:
            self._catch_up(timeout_s)
        with self._replica.applied.reading() as state:
            yield state

    def _catch_up(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        backoff = Backoff(LOOK_AGAIN_S, LOOK_AGAIN_S_MAX)
        looked = False
        while True:
            try:
                look, _, lease_until_ms = self._sight(deadline)
            except LogUnavailable:
                if looked and time.monotonic() >= deadline:
                    raise _nobody_leads() from None
                raise
            looked = True
            leads = lease_until_ms is not None and time.monotonic() * 1000 < lease_until_ms
            if look.head is not None and leads and election.is_settled(look):
                with suppress(PositionLost):  # Redis lost it again meanwhile: there is another head
                    left = max(0.0, deadline - time.monotonic())
                    return self.wait(position=str(look.head.position.id), timeout_s=left)
            time.sleep(max(0.0, min(backoff.failed(), deadline - time.monotonic())))
            if time.monotonic() > deadline - LOOK_AGAIN_S:
                raise _nobody_leads()

    def _sight(self, deadline: float) -> Sight:
        """Look at the group. A request that hung is one too many: another one, on a new connection, may do better."""
        log = self._log.within(deadline)
        try:
            return self._ha_loop.sight(log)
        except LogUnavailable:
            time.sleep(max(0.0, min(LOOK_AGAIN_S, deadline - time.monotonic())))
            return self._ha_loop.sight(log)

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
        (`life.refusal`; `force` goes past it: what only others have is lost), `TimeoutError`.
        """
        checks.line("reason", reason)
        self._check_serves("promote()")
        deadline = time.monotonic() + timeout_s
        look = self._sight(deadline).look
        mine = self._ha_loop.heartbeat()._replace(run=look.run)
        refusal = election.refusal(self.name, look._replace(heartbeats={**look.heartbeats, self.name: mine}))
        if refusal is not None and not force:
            raise PromotionRefused(self.name, refusal.reason, better=refusal.better)
        taken = self._ha_loop.take_term(reason, look, guarded=not force, until=deadline)
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

    # --- what goes on by itself --------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._node_work is not None:
            self._scheduler.wake(self._node_work)

    def _done(self, name: str, work: Callable[[], float | None]) -> float:
        """Do one of the duties; the seconds until it is to be done again. What is in its way is known to `problem`."""
        try:
            pause_s = work()
            self._problems.solved(name)
            self._backoffs[name].succeeded()
            return pause_s or 0.0
        except (LogLost, ConfigError) as error:
            self._fail(error)
        except ReplicatorError as error:
            self._problems.report(name, error)
        except BaseException as error:  # no less than all: the thread is needed, and the lease would go on without it
            self._fail_by(error)
        return self._backoffs[name].failed()

    def _fail_by(self, bug: BaseException) -> None:
        logger.error("a bug in replicator", exc_info=bug)
        self._fail(ReplicatorError(f"a bug in replicator: {bug!r}"))

    def _fail(self, error: ReplicatorError) -> None:
        logger.critical("this node takes no part any more: %s", error)
        self._lease.lost()
        self.failed = error
        with self._replica.known.moved:
            self._replica.known.moved.notify_all()

    def _save(self) -> float:
        """What this node wrote is on its disk a moment later, whether Redis answers or not."""
        # Before: what weighs the changes is what is on disk, and a snapshot that ends meanwhile is not there yet.
        node_state = self._replica.node_state
        self._replica.flush()
        self._tell_if_a_snapshot_is_due(node_state)
        self._tidy()
        return SAVE_EVERY_S

    def _tidy(self) -> None:
        """Delete what a newer snapshot made needless, a slice at a time, out of the way of those who save."""
        until = time.monotonic() + TIDY_FOR_S
        while self._replica.saved.tidy() and time.monotonic() < until and not self._stopping.wait(TIDY_PAUSE_S):
            pass

    def _tell_if_a_snapshot_is_due(self, node_state: NodeState) -> None:
        """A beat is long for a log that grows fast. Told once: a snapshot that fails is tried again by the beat."""
        if node_state.leads and node_state.snapshot_end != self._due_behind and self._primary.publisher.snapshot_is_due:
            self._due_behind = node_state.snapshot_end
            self._wake()

    def _wants(self) -> ReadRequest | None:
        try:
            return self._reader.wants()
        except ReplicatorError as error:
            self._problems.report("reader", error)
        except Exception as error:  # whoever asks reads for others as well
            self._fail_by(error)
        return None

    def _received(self, batch: Batch | ReplicatorError) -> None:
        if isinstance(batch, ReplicatorError):
            raise batch
        self._reader.received(batch)


def _nobody_leads() -> TimeoutError:
    problem = "nobody leads the group with a lease that runs, so nobody knows what is committed"
    return TimeoutError(f"{problem}; read without `fresh`")


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


def _beat_every_s(given: float | None, lease: Lease) -> float:
    if given is None:
        return min(lease.renew_every_s, BEAT_EVERY_S_MAX)
    return checks.seconds("beat_every_s", given, least=BEAT_EVERY_S_MIN, most=lease.renew_every_s)
