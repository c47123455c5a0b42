"""A node: one process' part in a group. Put it around a state, start it, read from it, write through it.

    node = Node(state, group="registry", name="a", redis="redis://localhost:6379/0", data_dir="data/a")
    with node:
        node.submit({"op": "register", ...})

Three threads of its own, and those of its callers. The *reader* waits for records and asks, and folds. The *keeper*
looks at the group once a beat: it renews the lease, sends the heartbeat, and does what a node owes or, as a candidate,
may claim (`core/life.py` decides). The *saver* writes what a primary committed to its own disk. Writes run on the
threads that submit them (`primary.py`). Nothing here decides: it asks the member.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import health
from .acks import Acks, Level
from .checkpoint import Checkpoint
from .core import life
from .core.codec import digest_of_pieces
from .core.fold import Verdict, View
from .core.ids import Position, RecordId, Writer
from .core.member import Member
from .core.records import ChangeRecord, Record
from .core.replies import MISSED_BEATS_MAX, Ack, Ask, Claim, Code, Log, Look, Peer, Reply
from .errors import (
    ConfigError,
    CorruptRecord,
    LogLost,
    LogUnavailable,
    NotPrimary,
    OutcomeUnknown,
    PositionLost,
    PromotionRefused,
    ReplicatorError,
    Stalled,
    StateError,
)
from .health import Lag
from .lease import Lease
from .log import RedisLog
from .patches import Published
from .primary import Primary
from .replica import Replica
from .state import ReplicatedState, State

__all__ = ["Node"]

logger = logging.getLogger(__name__)

#: A heartbeat at least this often, however long the lease is.
BEAT_EVERY_S_MAX = life.BEAT_EVERY_MS_MAX / 1000

#: How long a read waits in Redis for the next record. What ends it early is a record, an ask, or stop().
BLOCK_MS = 1000

#: What a primary committed is on its own disk after so long.
SAVE_EVERY_S = 0.1

#: Candidates claim the term one after the other, this far apart, should the first one be dead, too.
CLAIM_EVERY_S = 0.05

#: Redis tells the rest of a lease in whole milliseconds.
ROUNDING_S = 0.002

#: How soon one who waits for the group looks at it again.
LOOK_AGAIN_S = 0.01

#: How soon Redis is tried again after it did not answer.
RETRY_EVERY_S = 0.1

#: A problem of the disk or of the log does not go away by itself at once.
PROBLEM_PAUSE_S = 1.0


class Node:
    """One node of a group.

    `state`: see `replicator.state`. `redis`: a URL, or `log`: a log (`testing.MemoryLog`). `data_dir`: this node's own
    directory. `ack`: what `submit` waits for (see `acks.py`). `lease_s`: how long the primary may go on without hearing
    from Redis. `auto_promote`: whether this node takes over by itself when the primary's lease is gone. `http`: the URL
    at which others reach this node, shown to them. `on_restart`: `"primary"` takes the term again that this node held
    when it ended, `"standby"` does not. `on_log_lost`: what it does when Redis has no log any more: `"wait"` for
    `replicator recover`, serving reads; `"recover"` founds it anew, from the most advanced node that does so. Raises
    `ConfigError`, `CheckpointError` (from the constructor and from `start`).
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
        lease_s: float = 5.0,
        auto_promote: bool = False,
        http: str = "",
        on_restart: str = "primary",
        on_log_lost: str = "wait",
    ) -> None:
        _check(name != "" and not set(name) & set(" /{}"), "name", f"{name!r} is not a name")
        _check(lease_s >= 0.1, "lease_s", f"{lease_s} is below 0.1 s, the time of a few round trips")
        _check(on_restart in ("primary", "standby"), "on_restart", "is `primary` or `standby`")
        _check(on_log_lost in ("wait", "recover"), "on_log_lost", "is `wait` or `recover`")
        _check(bool(redis) != (log is not None), "redis", "give a URL, or a log")
        self.name = name
        self.group = group
        self.data_dir = Path(data_dir)
        self.http = http
        #: What ended this node's part in the group, if something did. It serves reads, and nothing else.
        self.failed: ReplicatorError | None = None
        self._state = state
        self._log: Log = log if log is not None else RedisLog(redis, group)
        self._ack = Level.parse(ack)
        self._lease = Lease(lease_s)
        self._auto_promote = auto_promote
        self._beat_every_s = min(self._lease.renew_every_s, BEAT_EVERY_S_MAX)
        self._takes_term_again = on_restart == "primary"
        self._recovers = on_log_lost == "recover"
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        #: What is in the way of each of them now.
        self._problems: dict[str, ReplicatorError] = {}
        self._publisher: threading.Thread | None = None
        self._digester: threading.Thread | None = None
        self._snapshot_asked_by = ""
        self._look: Look | None = None
        self._looked_at = 0.0
        self._beaten_at: float | None = None
        self._counted_at = 0.0
        #: Since when nobody holds the term, and when it is this candidate's turn to claim it.
        self._vacant_since: float | None = None
        self._claim_at: float | None = None
        self._held_back_for = ""
        #: Since when Redis has no log, and how long it takes until all have reported, by the heartbeats that it had.
        self._log_lost_at: float | None = None
        self._time_to_report_s = life.time_to_report_ms(()) / 1000
        self._digest: tuple[RecordId, str] | None = None

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Lock the data directory, rebuild the state, join the group. Redis may be down: then it joins later.

        Raises `CheckpointError` (another process has the directory, or it cannot be read), `ConfigError` (another live
        node has this name), `LogLost` (Redis has another log than the one that this node knows).
        """
        self._checkpoint = Checkpoint(self.data_dir, self.group, node=self.name)
        try:
            me = Writer(self.name, secrets.token_hex(16))
            self._replica = Replica(self._state, self._checkpoint, me)
            self._primary = Primary(self._log, self._replica, self._lease, patience_s=self._lease.length_s)
            self._acks = Acks(self._log, self._replica, self._lease)
            self._asks_after = ""
            self._acks_after = "0-0"
            try:
                self._join()
            except LogUnavailable as unavailable:
                logger.warning("%s; starting as a standby with what the checkpoint has", unavailable)
        except BaseException:
            self._checkpoint.close()
            raise
        for name, loop in (("reader", self._read_once), ("keeper", self._keep_once), ("saver", self._save_once)):
            thread = threading.Thread(target=self._loop, args=(name, loop), name=f"{self.name}-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Finish the record under way, write the checkpoint, give the lease back. Safe to call twice."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._wake.set()
        if not self._threads:  # it was not started, or could not be
            self._log.close()
            return
        # With the turn nothing is half done; nobody gets it back.
        has_turn = self._replica.turn.acquire(timeout=2 * self._lease.length_s)
        member = self._replica.member
        try:
            if member.holds_term and self._lease.held:
                self._log.give_back(member.me, member.view.term)
        except LogUnavailable as unavailable:
            logger.warning("the lease was not given back and runs out by itself: %s", unavailable)
        self._lease.lost()
        self._replica.talks_to("")
        self._log.close()
        if has_turn:
            self._replica.turn.release()
        for thread in self._threads:
            thread.join(timeout=10)
        try:
            self._replica.flush()
        finally:
            self._checkpoint.close()
        logger.info("stopped at %s", self.position.id)

    def announce(self, http: str) -> None:
        """Tell the others the URL at which this node is reached, if it was not known at the start."""
        self.http = http
        self._wake.set()

    # --- facts -------------------------------------------------------------------------------------------------------

    @property
    def role(self) -> str:
        """`"primary"` or `"standby"`. Derived: see `core.member.Member`."""
        return "primary" if self._replica.member.leads and self.failed is None else "standby"

    @property
    def boot(self) -> str:
        return self._replica.member.me.boot

    @property
    def term(self) -> int:
        """The newest term that this node knows."""
        return self._replica.member.view.term

    @property
    def position(self) -> Position:
        """What the state contains. `str(node.position.id)` is a token to wait for on another node."""
        return self._replica.member.view.position

    @property
    def in_sync(self) -> bool:
        return self._replica.member.view.in_sync

    @property
    def lag(self) -> Lag:
        """How far this node is behind the head, as of the last heartbeat."""
        look, age_s = self._look, time.monotonic() - self._looked_at
        fresh_s = MISSED_BEATS_MAX * self._beat_every_s
        return health.lag_of(self.position, self._replica.applied_at, look, age_s, fresh_s)

    @property
    def stalled(self) -> str | None:
        """Why the application's apply() failed; None: it did not."""
        return self._replica.stalled or None

    @property
    def problem(self) -> str:
        """What is in this node's way now, in words; empty: nothing is."""
        return "; ".join(str(problem) for problem in self._problems.copy().values())

    @property
    def lease_ms(self) -> int | None:
        """What is left of this node's lease; None: it has none."""
        return self._lease.left_ms

    @property
    def rejected(self) -> int:
        """Stale records that were ignored since the start."""
        return self._replica.rejected

    @property
    def primary_http(self) -> str | None:
        """Where the primary is reached, if there is a live one that says so."""
        member, look = self._replica.member, self._look
        if self.role == "primary":
            return self.http or None
        holder = look.peers.get(member.view.holder.node) if look else None
        if holder is None or holder.node == self.name or holder.boot != member.view.holder.boot:
            return None
        return holder.http or None if holder.alive else None

    # --- reading and writing -----------------------------------------------------------------------------------------

    @contextmanager
    def reading(self, *, fresh: bool = False, timeout_s: float = 5.0) -> Iterator[Any]:
        """The state, between two records, as old as `lag` says. Hold it shortly: nothing is applied meanwhile.

        With `fresh`, everything that was committed when this was called is in the state: linearizable on any node, as
        long as Redis itself loses nothing. Raises `LogUnavailable`, `TimeoutError`.
        """
        if fresh:
            self._catch_up(timeout_s)
        with self._replica.reading() as state:
            yield state

    def _catch_up(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            look = self._log.look()
            if look.head is not None and life.is_settled(look):
                with suppress(PositionLost):  # Redis lost it again meanwhile: there is another head
                    left = max(0.0, deadline - time.monotonic())
                    return self.wait(position=str(look.head.position.id), timeout_s=left)
            if time.monotonic() > deadline:
                raise TimeoutError("nobody leads the group, so nobody knows what is committed; read without `fresh`")
            time.sleep(LOOK_AGAIN_S)

    def submit(self, change: Any, *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None) -> Any:
        """Commit one change (JSON): in the log, then applied here; what `apply` returned.

        With `term`, only in that one: a caller that acts on what it saw in a term is refused once the term is over.
        `ack`: what this one waits for, instead of what the node was given.

        Raises `ChangeRejected` (by `apply`; a recorded outcome), `ChangeTooLarge`, `NotPrimary`, `LeaseLost`, `Fenced`,
        `LogUnavailable` (nothing was written), `OutcomeUnknown` (it may be in the log), `NotAcknowledged` (it is in the
        log and applied here, and did not come as far as `ack` says in time), `Stalled`.
        """
        self._check_serves()
        self._check_log()
        if self._replica.whole is not None:
            problem = "the state has no apply(): let its program change it, and call publish()"
            raise ConfigError(setting="submit", problem=problem)
        level = self._ack if ack is None else Level.parse(ack)
        deadline = time.monotonic() + timeout_s
        id_, result = self._primary.submit(change, timeout_s=timeout_s, term=term, wants_acks=level.kind == "applied")
        self._acks.wait(level, id_, deadline - time.monotonic())
        return result

    def replace(self, pieces: Iterable[Any], *, term: int | None = None) -> None:
        """Make `pieces` (as `State.snapshot` gives them) the whole state, on every node, at one record.

        Only on the primary. Raises what `submit` raises.
        """
        self._check_serves()
        self._check_log()
        self._primary.replace(pieces, term=term)

    def publish(self, *, timeout_s: float = 10.0, ack: str | None = None) -> Published:
        """Send the state as it is now. Only on the primary; what was sent, and the position that has it.

        Of a state with `apply` that is a snapshot: the others have all of it already. Of one without, it is what
        changed since the last time: a patch where that is smaller, else the whole; nothing, if it is the same. `ack`
        and `timeout_s` are for that, as in `submit`. Raises what `submit` raises, and `StateError` if the state cannot
        be read.
        """
        self._check_serves()
        self._check_log()
        whole = self._replica.whole
        if whole is None:
            self._primary.publish()
            return Published("snapshot", self.position.id)
        level = self._ack if ack is None else Level.parse(ack)
        deadline = time.monotonic() + timeout_s
        published = self._primary.publish_state(whole, wants_acks=level.kind == "applied")
        if published.what != "nothing":
            self._acks.wait(level, published.id, deadline - time.monotonic())
        return published

    def promote(self, *, reason: str = "asked by the application", force: bool = False, timeout_s: float = 10.0) -> int:
        """Take the next term, and wait until this node leads; the term.

        Raises `PromotionRefused` if another node is the better one (`life.refusal`; `force` goes past it: what only
        others have is lost), `TimeoutError`.
        """
        self._check_serves()
        look = self._log.look()
        mine = self._heartbeat()._replace(run=look.run)
        refusal = life.refusal(self.name, look._replace(peers={**look.peers, self.name: mine}))
        if refusal is not None and not force:
            raise PromotionRefused(self.name, refusal.reason, better=refusal.better)
        taken = self._take_term(reason, look, guarded=not force)
        # Its term record, too: a node that led already is the primary all the while.
        self.wait(role="primary", position=str(taken.id), timeout_s=timeout_s)
        return taken.term

    def wait(
        self, *, role: str | None = None, n: int | None = None, position: str | None = None, timeout_s: float = 5.0
    ) -> None:
        """Wait until this node has that role, and has applied record number `n` or `position` (`"5-1042"`).

        A primary is waited for until it takes writes: until it has its lease, too.
        Raises `TimeoutError`, `PositionLost` (a failover left that position behind), and `ConfigError` for one that
        is none.
        """
        id_ = RecordId.parse(position) if position is not None else None

        def reached() -> bool:
            view = self._replica.member.view
            if id_ is not None and view.in_sync:
                _check_not_lost(id_, view)
            return (
                (role is None or (self.role == role and (role == "standby" or self._lease.held)))
                and (n is None or (view.in_sync and view.position.id.n >= n))
                and (id_ is None or (view.in_sync and max(view.position.id, view.cursor.id) >= id_))
            )

        with self._replica.moved:
            if not self._replica.moved.wait_for(reached, timeout=timeout_s):
                raise TimeoutError(f"{self.name} is {self.role} at {self.position.id} after {timeout_s} s")

    def _check_log(self) -> None:
        if (lost := self._problems.get("log")) is not None:
            raise lost

    def _check_serves(self) -> None:
        if self.failed is not None:
            raise self.failed
        if self._replica.read_here:
            raise ReplicatorError("a write inside `reading()` would wait for itself: end the read first")
        if self._stopping.is_set():
            raise NotPrimary(node=self.name)

    # --- the threads -------------------------------------------------------------------------------------------------

    def _loop(self, name: str, once: Callable[[], None]) -> None:
        while not self._stopping.is_set() and self.failed is None:
            try:
                once()
                self._problems.pop(name, None)
            except LogUnavailable as unavailable:
                self._report(name, unavailable)
                self._stopping.wait(RETRY_EVERY_S)
            except (LogLost, ConfigError) as error:
                self._fail(error)
            except ReplicatorError as error:
                self._report(name, error)
                self._stopping.wait(PROBLEM_PAUSE_S)
            except Exception as error:
                logger.exception("a bug in replicator")
                self._fail(ReplicatorError(f"a bug in replicator: {error!r}"))

    def _report(self, name: str, problem: ReplicatorError) -> None:
        if isinstance(problem, OutcomeUnknown):
            problem = LogUnavailable(**problem.fields)  # of its own asking, and it asks again: nobody waits for it
        known = self._problems.get(name)
        # That Redis is away is told in many ways, and is news only once.
        told = str(known) == str(problem) or (isinstance(known, LogUnavailable) and isinstance(problem, LogUnavailable))
        if not told and not self._stopping.is_set():
            logger.error("%s", problem)
        self._problems[name] = problem

    def _fail(self, error: ReplicatorError) -> None:
        logger.critical("this node takes no part any more: %s", error)
        self._lease.lost()
        self.failed = error
        with self._replica.moved:
            self._replica.moved.notify_all()

    # --- the reader --------------------------------------------------------------------------------------------------

    def _read_once(self) -> None:
        member = self._replica.member
        if not self._asks_after:
            self._asks_after = self._log.newest_ask()
        holds = member.holds_term
        batch = self._log.read(
            None if holds else member.view.cursor.id,
            asks_after=self._asks_after,
            acks_after=self._acks_after if holds else "",
            block_ms=BLOCK_MS,
        )
        self._acks_after = batch.acks_after or self._acks_after
        self._acks.hear(batch.acks)
        for ask in batch.asks:
            self._asks_after = ask.id
            self._hear(ask)
        if batch.records:
            self._take(batch.records)
        if batch.corrupt is not None and not self._replica.member.holds_term:
            raise batch.corrupt

    def _take(self, records: list[Record]) -> None:
        if any(record.id.term > self.term for record in records):
            # Records do not say whose they are, and the keeper may not have looked yet since the connection was made.
            self._check_log_is_mine(self._log.look())
        with self._replica.turn:
            if self._replica.member.holds_term or self._stopping.is_set():
                return
            verdicts = self._replica.take(records)
            self._follow()
        if Verdict.LEAD in verdicts or Verdict.LEAD_AFTER_REBASE in verdicts:
            self._lead()
        elif Verdict.FOLLOW in verdicts or Verdict.STEP_DOWN in verdicts:
            self._wake.set()  # to learn where the new primary is reached, and to report
        if self._replica.markers:
            self._wake.set()
        if Verdict.RESTORE in verdicts or any(isinstance(r, ChangeRecord) and r.wants_acks for r in records):
            self._acknowledge()

    def _acknowledge(self) -> None:
        """Somebody waits until standbys have a change on their disks: this one has."""
        view = self._replica.member.view
        if view.in_sync:
            with suppress(LogUnavailable):  # the next heartbeat says it, too
                self._log.ack(Ack(self.name, view.position.id))

    def _lead(self) -> None:
        """This node holds the term since now. It writes once it has its lease from Redis; until then it is refused."""
        self._renew()
        self._wake.set()

    def _hear(self, ask: Ask) -> None:
        if ask.what in ("vacant", "paused", "report"):
            self._wake.set()
        elif ask.what == "term":
            # Somebody took a term. If it ends ours, the renewal is refused, and the log tells the rest.
            self._renew()
        elif ask.what == "snapshot" and self._replica.member.holds_term:
            # Not here: one that is under way may be older than what is asked for, then another one follows it.
            self._snapshot_asked_by = ask.by
            self._wake.set()
        elif ask.what == "digest" and self._replica.member.leads:
            with suppress(LogLost):  # the keeper reports it
                self._primary.mark()
            self._wake.set()

    # --- the saver ---------------------------------------------------------------------------------------------------

    def _save_once(self) -> None:
        """What this node wrote is on its disk a moment later, whether Redis answers or not."""
        self._replica.flush()
        self._stopping.wait(SAVE_EVERY_S)

    # --- the keeper --------------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        """A node that stopped leading gives up what it did not publish. The caller has the turn."""
        try:
            self._replica.follow()
            self._problems.pop("state", None)
        except (StateError, Stalled) as error:
            self._report("state", error)

    def _keep_once(self) -> None:
        started = time.monotonic()
        self._wake.clear()
        if "state" in self._problems and self._replica.turn.acquire(blocking=False):
            try:
                self._follow()
            finally:
                self._replica.turn.release()
        self._join()
        self._renew()
        self._digest_marker()
        self._beat()
        self._primary.settle()
        self._replica.flush()  # whether a snapshot is due is asked of what is on disk
        self._do_what_it_owes()
        self._wake.wait(self._pause_s(started))

    def _pause_s(self, started: float) -> float:
        """Until the next beat; or, for a candidate, until the holder's lease runs out, or it is its turn to claim."""
        now, look = time.monotonic(), self._look
        until = started + self._beat_every_s
        if self._claim_at is not None:
            until = min(until, self._claim_at)
        elif self._auto_promote and look is not None and look.lease_ms is not None:
            until = min(until, self._looked_at + look.lease_ms / 1000 + ROUNDING_S)
        return max(0.0, until - now)

    def _join(self) -> None:
        """Look at the group, and take in what that says."""
        look = self._log.look()
        first = self._look is None
        self._look, self._looked_at = look, time.monotonic()
        self._replica.talks_to(look.run, log_lost=look.head is None)
        others = (peer for peer in look.peers.values() if peer.in_sync and peer.node != self.name)
        self._acks.hear(Ack(peer.node, peer.position.id) for peer in others)
        if first:
            self._check_name_is_free(look)
        else:
            self._check_name_is_mine(look)
        self._check_log_is_there(look)

    def _check_name_is_free(self, look: Look) -> None:
        """A boot of this name that still beats is another process. The one before this cannot be: the lock is ours.

        Any other may have been killed on another machine a moment ago: see whether it beats again.
        """
        member = self._replica.member
        other = look.peers.get(self.name)
        if other is None or not other.alive or other.boot in (member.previous_boot, member.me.boot):
            return
        wait_s = MISSED_BEATS_MAX * other.every_ms / 1000 - other.age_ms / 1000
        logger.warning("another boot of %s reported %d ms ago: waiting whether it lives", self.name, other.age_ms)
        beaten_at = look.now_ms - other.age_ms
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not self._stopping.wait(0.1):
            now = self._log.look()
            again = now.peers.get(self.name)
            # By when it beat, not by its age: one that just beat is hardly ever seen younger. 1 ms for rounding.
            if again is not None and now.now_ms - again.age_ms > beaten_at + 1:
                where = again.http or "another process"
                problem = (
                    f"{self.name!r} is taken in group {self.group}: {where} (boot {again.boot}) reports by that name"
                )
                raise ConfigError(setting="name", problem=problem)

    def _check_name_is_mine(self, look: Look) -> None:
        """Two that started at the same moment did not see each other then. The one with the lower boot yields."""
        other = look.peers.get(self.name)
        if other is None or other.boot <= self.boot or self._beaten_at is None:
            return
        # Only one that beat after this node did: Redis may have come back with heartbeats from before.
        if other.age_ms / 1000 < time.monotonic() - self._beaten_at:
            where = other.http or "another process"
            raise ConfigError(setting="name", problem=f"{self.name!r} is taken by {where} (boot {other.boot})")

    def _check_log_is_mine(self, look: Look) -> None:
        """Another log is somebody else's Redis, or database. Nothing is written there, and nothing taken from there."""
        view = self._replica.member.view
        if view.log_id and look.head is not None and look.head.log_id != view.log_id:
            raise LogLost(
                f"group {self.group} had log {view.log_id}, and at {self._log.url} there is log {look.head.log_id}: "
                f"the URL leads to another Redis, or the data directory is another group's. Give this node the right "
                f"--redis, or an empty --data-dir"
            )

    def _check_log_is_there(self, look: Look) -> None:
        self._check_log_is_mine(look)
        view = self._replica.member.view
        if not view.log_id or look.head is not None:
            self._problems.pop("log", None)
            self._log_lost_at = None
            self._time_to_report_s = life.time_to_report_ms(look.peers.values()) / 1000
            return
        what = f"group {self.group} had log {view.log_id}, and at {self._log.url} there is none"
        self._report("log", LogLost(what=what))
        if self._log_lost_at is None:
            self._log_lost_at = time.monotonic()
        # The heartbeats went with the log: those who beat more slowly than this node must have the time to say more.
        all_had_time = time.monotonic() - self._log_lost_at >= self._time_to_report_s
        if self._recovers and all_had_time and self._replica.member.refounds(self._heartbeat(), look):
            logger.warning("founding the log of group %s anew from %s", self.group, self.position.id)
            self._claim("the log was lost", look, new_log_id=view.log_id)

    def _renew(self) -> None:
        member = self._replica.member
        if not member.holds_term:
            return
        if self._replica.stalled:
            # It does not renew, so nobody refuses it: it has to see for itself that it was replaced.
            look = self._look
            if look is not None and look.term > member.view.term:
                self._lease.lost()
                self._replica.refused(Reply(Code.FENCED, term=look.term))
            return
        asked_at = self._lease.now()
        reply = self._log.renew(member.me, member.view.term, self._lease.length_ms)
        if reply.code is Code.OK:
            self._lease.renewed(asked_at)
            with self._replica.moved:
                self._replica.moved.notify_all()
            return
        self._lease.lost()
        self._replica.refused(reply)
        logger.warning("the lease was refused (%s): %s holds term %d", reply.code.value, reply.node, reply.term)

    def _beat(self) -> None:
        self._log.beat(self._heartbeat())
        self._beaten_at = time.monotonic()
        # The others had the time of whole beats to say something, however often this node was woken meanwhile.
        if self._beaten_at - self._counted_at >= self._beat_every_s * 0.9:
            self._counted_at = self._beaten_at
            self._replica.beaten()

    def _heartbeat(self) -> Peer:
        digest_at, digest = self._digest or (RecordId(0, 0), "")
        # Whoever can report has Redis: that it had none a moment ago is nobody's concern.
        problems = [problem for problem in self._problems.copy().values() if not isinstance(problem, LogUnavailable)]
        of_the_log = [problem for problem in problems if isinstance(problem, LogLost | CorruptRecord)]
        lasting = [str(problem) for problem in problems if problem not in of_the_log]
        return self._replica.member.peer()._replace(
            every_ms=int(self._beat_every_s * 1000),
            http=self.http,
            applied_at=self._replica.applied_at,
            stalled=self._replica.stalled or "; ".join(lasting),
            problem="; ".join(str(problem).partition(". ")[0] for problem in of_the_log),
            candidate=self._auto_promote,
            digest=digest,
            digest_at=digest_at,
        )

    def _digest_marker(self) -> None:
        """Digest the state at the newest marker, on a thread of its own: the lease does not wait for a large state."""
        if self._replica.markers and not _runs(self._digester):
            self._digester = self._aside("digester", self._digest_now)

    def _digest_now(self) -> None:
        at, pieces = self._replica.markers.pop()
        try:
            self._digest = at, digest_of_pieces(pieces)
        except StateError as error:
            # A file that is gone, or that somebody writes to: it is not what the others have.
            logger.error("%s", error)
            self._digest = at, "none"
        self._wake.set()

    def _aside(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=f"{self.name}-{name}", daemon=True)
        thread.start()
        return thread

    def _do_what_it_owes(self) -> None:
        member, look = self._replica.member, self._look
        if look is None or self._replica.stalled:
            return
        self._tell_if_held_back(look)
        if member.takes_term(look, restart_as_primary=self._takes_term_again):
            self._claim("it held the term before", look)
        elif self._is_its_turn(member, look):
            gone = f"the lease of {look.head.node} ran out" if look.head else "the group has no log yet"
            self._claim(gone, look, unleased=look.same_run)
        elif member.must_rebase:
            self._publish_aside("the log does not have this node's state")
        elif member.holds_term and not member.view.in_sync:
            raise PromotionRefused(self.name, "it holds nothing, and the log is not whole: promote another node")
        elif member.owes_snapshot(look.peers.values()):
            self._publish_aside("a node needs one")
        elif member.leads and self._snapshot_asked_by:
            if self._publish_aside("asked by " + self._snapshot_asked_by):
                self._snapshot_asked_by = ""
        elif member.leads and self._replica.snapshot_is_due:
            self._publish_aside("the changes outweigh the last one")

    def _is_its_turn(self, member: Member, look: Look) -> bool:
        """Whether nobody holds the term, and this candidate is the one to claim it now."""
        rank = member.election_rank(self._heartbeat(), look) if self._auto_promote else None
        if rank is None:
            self._vacant_since = self._claim_at = None
            return False
        if self._vacant_since is None:
            self._vacant_since = time.monotonic()
        self._claim_at = self._vacant_since + rank * (CLAIM_EVERY_S if look.same_run else self._beat_every_s)
        return time.monotonic() >= self._claim_at

    def _tell_if_held_back(self, look: Look) -> None:
        held = life.held_back(self.name, look)
        better = (held.better or "") if held else ""
        if held and better != self._held_back_for:
            logger.warning("held back in favour of %s: %s", better, held.reason)
        self._held_back_for = better

    def _claim(self, reason: str, look: Look, *, unleased: bool = False, new_log_id: str = "") -> None:
        """Take the term unasked. That another one was faster is no problem."""
        reply = self._log.promote(self._new_claim(reason, look, guarded=True, unleased=unleased, new_log_id=new_log_id))
        self._vacant_since = self._claim_at = None
        if reply.code is not Code.OK:
            logger.info("did not get the term (%s): %s holds term %d", reply.code.value, reply.node, reply.term)

    def _take_term(self, reason: str, look: Look, *, guarded: bool = False) -> Reply:
        reply = self._log.promote(self._new_claim(reason, look, guarded=guarded, by=f"{self.name}'s application"))
        if reply.code is not Code.OK:
            raise PromotionRefused(self.name, f"{reply.code.value}: {reply.node or 'nobody'} holds term {reply.term}")
        return reply

    def _new_claim(
        self, reason: str, look: Look, *, guarded: bool, unleased: bool = False, new_log_id: str = "", by: str = ""
    ) -> Claim:
        member = self._replica.member
        return Claim(
            writer=member.me,
            floor=max(member.view.term, life.newest_term(look)),
            lease_ms=self._lease.length_ms,
            by=by or self.name,
            reason=reason,
            expect=look.term if guarded else None,
            run=look.run,
            expect_head=life.expected_head(member.view, look) if guarded else None,
            unleased=unleased,
            new_log_id=new_log_id or (secrets.token_hex(16) if life.may_found(look) else ""),
        )

    def _publish_aside(self, reason: str) -> bool:
        """Send a snapshot on a thread of its own, unless one is under way; whether it was begun."""
        if not self._replica.member.holds_term or _runs(self._publisher) or self._primary.publishes:
            return False
        logger.info("publishing a snapshot: %s", reason)
        self._publisher = self._aside("publisher", self._publish_quietly)
        return True

    def _publish_quietly(self) -> None:
        try:
            self._primary.publish()
        except (LogUnavailable, NotPrimary, Stalled) as error:
            logger.warning("the snapshot was not published: %s", error)
        except ReplicatorError as error:
            logger.error("the snapshot was not published: %s", error)
        self._wake.set()


def _check_not_lost(id: RecordId, view: View) -> None:
    end = view.left_behind(id)
    if end is not None:
        later = [term.term for term in (*view.ends, view.position.id) if term.term > id.term]
        raise PositionLost(id, term=id.term, term_end=end, next_term=min(later, default=view.term))


def _runs(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()


def _check(holds: bool, setting: str, problem: str) -> None:
    if not holds:
        raise ConfigError(setting=setting, problem=problem)
