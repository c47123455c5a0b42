"""A node: one process' part in a group. Put it around a state, start it, read from it, write through it.

    node = Node(state, group="registry", name="a", redis="redis://localhost:6379/0", data_dir="data/a")
    with node:
        node.submit({"op": "register", ...})

What there is of it from `start` to `stop` is a `RunningNode` (`running.py`); what it says of itself is in `facts.py`.
What goes on by itself is in `duties.py`: `consumer.py` (records come in), `ha_loop.py` (what happens once a beat), and
that what a node applied is saved a moment later; `scheduler.py` has the threads that do it. Writes run on the
threads that submit them (`writer.py`). Nothing here decides: it asks its `NodeState`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, Unpack, overload

from .. import tracing
from ..errors import ConfigError, NotRunning, ReplicatorError
from ..format.codec import Encoded
from ..format.ids import RecordId, Writer
from ..log.interface import Log
from ..log.redis_log import RedisLog
from ..protocol.group import GroupView, Reply
from ..runtime import checks
from ..runtime.event_log import speaking
from ..runtime.request_writes import NOTED
from ..state.changes import Change
from ..state.contract import check_state
from ..storage.keyring import sealing_of
from ..storage.payload import Published
from .acks import Level
from .async_calls import AsyncCalls
from .calls import ResultT, StateT, are_rejected, check_fits, checked, noting, result_of
from .environment import named_by_variable, set_up_logging, settings_of
from .fresh_read import catch_up
from .handover import Handover
from .keyed_changes import change_in_json, changes_in_json
from .lease import Lease, answer_within_s
from .options import NodeArguments, NodeKeywords, NodeOptions, NodeSettings
from .position_waits import has_reached
from .problems import Problems
from .promotion import replaced, take_term
from .release import Release
from .role_calls import RoleCalls
from .running import NodeSetup, RunningNode, joined
from .scheduler import OwnThreads
from .speaker import NodeSpeaker
from .vitals import Vitals, check_watchdog
from .watch import Watch

if TYPE_CHECKING:
    from ..format.sealing import Sealing

__all__ = ["Node"]

#: All of a state is on its way: seconds, if it is large. A standby takes it in when all of it is there.
REPLACE_TIMEOUT_S = 30.0
PUBLISH_TIMEOUT_S = 30.0


class Node(AsyncCalls[StateT], RoleCalls, Generic[StateT]):
    """One node of a group. A `Node[FlagState]` has a `FlagState`, which `reading()` gives; facts are in `facts.py`,
    what depends on its role in `role_calls.py`, the calls for tasks in `async_calls.py`.

    `state`: see `replicator.state`. `redis`: a URL, or `log`: a log (`testing.MemoryLog`). `data_dir`: this node's own
    directory. `http`: the URL at which others reach this node, shown to them. `scheduler`: who works for it, if not
    threads of its own (`host.py`). `watchdog`: says whether the application is well (`vitals.py`). `app`, `version`,
    `reads`: see `Release`. The rest, `ack`, `lease_s`, `auto_promote` and so on: see `NodeOptions`. Raises
    `ConfigError`, `CheckpointError` (from the constructor and from `start`).

    A node belongs to the process that made it. In a forked child every call, and every fact, raises `WrongProcess`, and
    leaving the node's `with` does nothing: the parent goes on as if there were no child.
    """

    def __init__(
        self,
        state: StateT,
        *,
        group: str,
        name: str,
        data_dir: str | Path,
        redis: str = "",
        http: str = "",
        **more: Unpack[NodeArguments],
    ) -> None:
        log, scheduler = more.pop("log", None), more.pop("scheduler", None)
        watchdog = check_watchdog(more.pop("watchdog", None))
        app, version, reads = more.pop("app", None), more.pop("version", 1), more.pop("reads", None)
        keywords: NodeKeywords = more
        if not isinstance(redis, str) or bool(redis) == (log is not None):
            raise ConfigError(setting="redis", problem="give a URL, or a log")
        checks.name("name", name)
        checks.name("group", group)
        directory = checks.directory("data_dir", data_dir)
        checks.public_url("http", http)
        check_state(state)
        options, release = NodeOptions(**keywords), Release.of(state, app=app, version=version, reads=reads)
        scheduler = scheduler or OwnThreads()
        lease = Lease(options.lease_s, clock=scheduler.clock)
        #: What is to be done before a switchover, by somebody beside this node (`service/sidecar.py`). It has the node,
        #: and the duties have it: a node that runs stays, whoever has forgotten it.
        self.handover = Handover(self._wake)
        shared = scheduler.shared
        speaker = NodeSpeaker(group, name, shared.crowd if shared is not None else None)
        watch = Watch(name, self._outlook, lambda: lease.left_ms, speaker)
        problems = Problems(shared.outage if shared is not None else None)
        problems.stir = watch.stir
        limit_s = options.watchdog_s or lease.length_s
        setup = NodeSetup(
            name=name,
            group=group,
            data_dir=directory,
            state=state,
            options=options,
            release=release,
            log=_log_with(sealing_of(options.key_file, group), log, redis, group, answer_within_s(lease.length_s)),
            scheduler=scheduler,
            lease=lease,
            problems=problems,
            handover=self.handover,
            vitals=Vitals(problems, watchdog, limit_s=limit_s, watches_loop=options.watchdog_s != 0),
            watch=watch,
            stopping=threading.Event(),
            speaker=speaker,
        )
        super().__init__(setup, http=http)
        #: Held while it begins to run, and while it begins to stop. A signal may stop it on the thread that starts it.
        self._turning = threading.RLock()

    @classmethod
    def from_env(cls, state: StateT, *, environ: Mapping[str, str] = os.environ, **given: Unpack[NodeSettings]) -> Self:
        """A node whose settings are in its environment, but for those that are `given` here.

        REPLICATOR_GROUP and REPLICATOR_NAME have to be there. REPLICATOR_REDIS (redis://localhost:6379/0),
        REPLICATOR_DATA_DIR (data/NAME) and REPLICATOR_APP are as for `replicator node`, and so is each option:
        REPLICATOR_LEASE_S, REPLICATOR_AUTO_PROMOTE and so on. `http` is REPLICATOR_ADVERTISE, or else follows from
        REPLICATOR_HTTP, the HOST:PORT at which the process serves. With REPLICATOR_LOG_LEVEL or REPLICATOR_LOG_FORMAT,
        what is logged is written to stderr, unless the application has set up a handler before. Raises `ConfigError`,
        which names the variable, and what `Node` raises.
        """
        set_up_logging(environ)
        with named_by_variable(given):
            return cls(state, **settings_of(given, environ))

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._owner.is_here:
            self.stop()

    def start(self) -> None:
        """Lock the data directory, rebuild the state, join the group. Redis may be down: then it joins later.

        Raises `CheckpointError` (another process has the directory, or it cannot be read), `ConfigError` (another live
        node has this name; work of the leader needs `async with node`), `LogLost` (Redis has another log than the one
        that this node knows), `NotRunning` (it was stopped: make another one), `NoThread`.
        """
        self._owner.check()
        if self._setup.stopping.is_set():
            raise NotRunning(self.name, stopped=True)
        self._roles.check_loops()
        with speaking(self._setup.speaker):
            self._start()

    def _start(self) -> None:
        running = joined(self._setup)
        try:
            with self._turning:
                if self._setup.stopping.is_set():  # it was stopped meanwhile
                    running.checkpoint.close()
                    raise NotRunning(self.name, stopped=True)
                self._running = running
                running.ha_loop.reporter.http, running.ha_loop.reporter.proxy = self.http, self.proxy
                running.begin()
                self._watch_role(running)
        except BaseException:
            if self._running is None:
                running.checkpoint.close()
            self.stop()
            raise

    def stop(self) -> None:
        """Finish the record under way, write the checkpoint, give the lease back. Safe to call twice.

        Raises `CheckpointError`, and `WouldDeadlock` inside of a read or of a callback of this node.
        """
        self._owner.check()
        setup = self._setup
        if setup.stopping.is_set():
            return
        if self._running is not None:
            self._running.replica.applied.inside.check("stop()")
        with self._turning:
            if setup.stopping.is_set():
                return
            setup.stopping.set()
            running = self._running
        setup.problems.be_quiet()
        with speaking(setup.speaker):
            self._stop(running)

    def _stop(self, running: RunningNode | None) -> None:
        setup = self._setup
        try:
            if running is None:  # it was not started, or could not be
                setup.log.close()
                return
            # Its own lease hides the one of another node that may still work: so it stays, until that is over as well.
            keeps_lease = self._roles.holds_back
            try:
                self._roles.end_works()  # before the lease is given back
            finally:
                running.end(keeps_lease=keeps_lease)
                self._roles.close()
        finally:
            self._threads.close()
            setup.watch.close()

    def announce(self, http: str) -> None:
        """Tell the others the URL at which this node is reached, if it was not known at the start."""
        self._owner.check()
        self.http = checks.public_url("http", http)
        if self._running is not None:
            self._running.ha_loop.reporter.http = self.http
            self._wake()

    def report(self, name: str, problem: ReplicatorError | None) -> None:
        """Have `status` and `doctor` tell what is in the way of something beside this node; None: nothing, any more."""
        self._owner.check()
        if problem is None:
            self._setup.problems.solved(name)
        else:
            self._setup.problems.report(name, problem)

    # --- reading and writing -----------------------------------------------------------------------------------------

    @contextmanager
    def reading(self, *, fresh: bool = False, timeout_s: float = 5.0, blocks: bool = True) -> Iterator[StateT]:
        """The state, between two records, as old as `lag` says. Hold it shortly: nothing is applied meanwhile.

        What is in it is in the log, and perhaps not on this node's disk yet. If the node is killed, it shows an older
        state until it has read the log again: `wait` for the position of this read where that must not be seen.

        With `fresh`, everything that was committed when this was called is in the state: linearizable on any node, as
        long as Redis itself loses nothing (docs/reads.md says what a master that was replaced may still answer). It
        waits while nobody leads with a lease that runs. Raises `LogUnavailable`, `TimeoutError`, `NotRunning` (a node
        that was not started has no state yet; one that was stopped has what it had).

        With `blocks=False` it waits for nobody, and an event loop can use it: `BlockingIOError` if another reader has
        the state, or a change is applied right now. Read on a thread then. Not with `fresh`, which has to wait for
        Redis: `ConfigError`.
        """
        if fresh and not blocks:
            problem = "a read that is fresh waits for Redis: leave out blocks=False, and read on a thread"
            raise ConfigError(setting="fresh", problem=problem)
        running = self._started()
        if fresh:
            running.replica.applied.inside.check("reading()")
            catch_up(running.ha_loop.observer, self.wait, until=time.monotonic() + timeout_s)
        with running.replica.applied.reading(blocks=blocks) as state:
            yield state

    @overload
    def submit(
        self,
        change: Change[ResultT],
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        key: str | None = None,
    ) -> ResultT: ...
    @overload
    def submit(
        self,
        change: Any,
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        key: str | None = None,
    ) -> Any: ...
    def submit(
        self,
        change: Any,
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        key: str | None = None,
    ) -> Any:
        """Commit one change (JSON): in the log, then applied here; what `apply` returned.

        With `term`, only in that one: a caller that acts on what it saw in a term is refused once the term is over.
        `ack`: what this one waits for, instead of what the node was given. `key`: 1 to 256 characters that belong to
        this change. Whoever repeats it with the same key, on any node, changes nothing, and gets what came of it the
        first time (docs/api.md, *Keys*): the answer to `OutcomeUnknown` and `NotAcknowledged`.

        Raises `KeyReused` (that key is another change's) and `ResultNotKept` (a repeat; it was committed), with a `key`
        alone, `ChangeRejected` (by `apply`: a recorded outcome; or by `check`: nothing was written), `CheckFailed`
        (nothing was written), `ChangeTooLarge`, `NotPrimary`, `LeaseLost`, `Fenced`,
        `LogUnavailable` (nothing was written), `OutcomeUnknown` (it may be in the log), `NotAcknowledged` (it is in the
        log and applied here, and did not come as far as `ack` says in time), `Stalled`, `NotJSON`, and `WouldDeadlock`
        inside of a read or of a callback of this very node.
        """
        changes = change_in_json(change, key)
        running, level = self._changing(), self._level(ack)
        return result_of(_committed(running, changes, level, timeout_s=timeout_s, term=term)[0])

    def submit_many(
        self,
        changes: Sequence[Any],
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        keys: Sequence[str | None] | None = None,
    ) -> list[Any]:
        """Commit changes in one record, so that all of them are in the log, in their order, or none is.

        What `apply` returned for each; one that it rejected has its `ChangeRejected` in its place, and the others are
        applied. One that `check` rejected has it in its place, too, and is left out of the record. At most 1,000
        changes, and 256 KiB of JSON: `ChangeTooLarge` otherwise. `keys`: for each change a key, or None; a repeat whose
        result was not kept has its `ResultNotKept` there. Raises what `submit` raises.
        """
        check_fits(changes)
        in_json = changes_in_json(changes, keys)
        if not changes:
            return []
        running, level = self._changing(), self._level(ack)
        return checked(_committed(running, in_json, level, timeout_s=timeout_s, term=term))

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
        state is still what it was there. Raises what `submit` raises, `Outdated`, and what the `check_pieces` of the
        state raises, if it has one; what is not sent in time is given up, and changes nothing.
        """
        running, level = self._writing(), self._level(ack)
        seen = RecordId.parse(expect) if expect is not None else None
        deadline = time.monotonic() + timeout_s
        publisher = running.primary.publisher
        with NOTED:
            id_ = publisher.replace(pieces, term=term, expect=seen, wants_acks=level.standbys, until=deadline)
        running.acks.wait(level, id_, deadline - time.monotonic())

    def publish(self, *, timeout_s: float = PUBLISH_TIMEOUT_S, ack: str | None = None) -> Published:
        """Send the state as it is now. Only on the primary; what was sent, and the position that has it.

        Of a state with `apply` that is a snapshot: the others have all of it already. Of one without, it is what
        changed since the last time: a patch where that is smaller, else the whole; nothing, if it is the same. `ack`
        is for that, as in `submit`. Raises what `submit` raises, `StateError` if the state cannot be read, and
        `SnapshotFailed` if its `snapshot` fails. What is not sent in time is given up, and means nothing.
        """
        running = self._writing()
        deadline = time.monotonic() + timeout_s
        whole, publisher = running.replica.whole, running.primary.publisher
        if whole is None:
            publisher.publish(until=deadline)
            return Published("snapshot", self.position.id)
        running.replica.write_state()
        level = self._level(ack)
        with NOTED:
            published = publisher.publish_state(whole, wants_acks=level.standbys, until=deadline)
        if published.what != "nothing":
            running.acks.wait(level, published.id, deadline - time.monotonic())
        return published

    def promote(
        self,
        *,
        reason: str = "asked by the application",
        force: bool = False,
        expect: int | None = None,
        timeout_s: float = 10.0,
    ) -> int:
        """Take the next term, and wait until this node leads; the term. If the group changes meanwhile, once more.

        `expect`: only if that is the term by then. Raises `PromotionRefused` if it is not, if another node is the
        better one, or nodes are missing that may have more (`election.refusal`; `force` goes past it: what only others
        have is lost), or if another one took a term before this node led; `LogLost`, `LogUnavailable`, `TimeoutError`.
        """
        checks.line("reason", reason)
        running = self._serving("promote()")
        deadline = time.monotonic() + timeout_s
        ha_loop = running.ha_loop
        # Just after the start: the rest of the time is for the promotion.
        self._setup.vitals.wait_for_answer(timeout_s / 2)

        def look() -> GroupView:
            seen = ha_loop.observer.sight_by(deadline).look
            mine = ha_loop.reporter.heartbeat()._replace(run=seen.run)
            return seen._replace(heartbeats={**seen.heartbeats, self.name: mine})

        def claim(seen: GroupView) -> Reply:
            return ha_loop.candidate.take_term(reason, seen, guarded=not force, until=deadline)

        _, taken = take_term(self._setup.log, self.name, look, claim, until=deadline, force=force, expect=expect)
        self._wait_until_it_leads(running, taken.term, deadline)
        return taken.term

    def _wait_until_it_leads(self, running: RunningNode, term: int, deadline: float) -> None:
        def leads() -> bool:
            node_state = running.replica.node_state
            view = node_state.view
            if view.term > term and Writer(view.holder.node, view.holder.boot) != node_state.me:
                raise replaced(self.name, by=view.holder.node, term=view.term)
            # Its term record, too: a node that led already is the primary all the while.
            return view.term >= term and self.leads

        self._wait_for(running, leads, deadline - time.monotonic())

    def wait(
        self, *, role: str | None = None, n: int | None = None, position: str | None = None, timeout_s: float = 5.0
    ) -> None:
        """Wait until this node has that role, and has applied record number `n` or `position` (`"5-1042"`).

        A primary is waited for until it takes writes: until it has its lease, too. With `timeout_s=0` it only looks,
        and may be called inside of a read or of a callback of this node; otherwise that is `WouldDeadlock`.
        Raises `TimeoutError`, `PositionLost` (a failover left that position behind), and `ConfigError` for one that
        is none.
        """
        running = self._working()
        if timeout_s > 0:
            running.replica.applied.inside.check("wait()")
        id_ = RecordId.parse(position) if position is not None else None

        def reached() -> bool:
            view = running.replica.node_state.view
            there = id_ is None or has_reached(id_, view)
            return (
                there
                and (role is None or self._has_role(role))
                and (n is None or (view.in_sync and view.position.id.n >= n))
            )

        self._wait_for(running, reached, timeout_s)


def _committed(
    running: RunningNode, changes: Encoded, level: Level, *, timeout_s: float, term: int | None
) -> list[Any]:
    deadline = time.monotonic() + timeout_s
    commits = running.primary.commits
    with NOTED if tracing.active is None else noting(running):
        id_, results = commits.submit(changes, timeout_s=timeout_s, term=term, wants_acks=level.standbys)
    if level.kind != "appended" and not are_rejected(results):
        running.acks.wait(level, id_, deadline - time.monotonic())
    return results


def _log_with(sealing: Sealing | None, log: Log | None, redis: str, group: str, timeout_s: float) -> Log:
    """The log that was given, or that in this Redis, by whose keys its records are sealed, if the group has some."""
    if log is None:
        return RedisLog(redis, group, timeout_s=timeout_s, sealing=sealing)
    if sealing is not None:
        log.sealing = sealing
    return log
