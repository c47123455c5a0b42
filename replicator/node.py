"""A node: one process' part in a group. Put it around a state, start it, read from it, write through it.

    node = Node(state, group="registry", name="a", redis="redis://localhost:6379/0", data_dir="data/a")
    with node:
        node.submit({"op": "register", ...})

Two threads of its own, and those of its callers. The *reader* waits for records and asks, and folds. The *keeper*
looks at the group once a beat: it renews the lease, sends the heartbeat, and does what a node owes (`core/life.py`
decides). Writes run on the threads that submit them (`primary.py`). Nothing here decides: it asks the member.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import health
from .checkpoint import Checkpoint
from .core import life
from .core.codec import digest_of_pieces
from .core.fold import Verdict
from .core.ids import Position, RecordId, Writer
from .core.records import Record
from .core.replies import MISSED_BEATS_MAX, Ask, Code, Log, Look, Peer, Reply
from .errors import (
    ConfigError,
    LogLost,
    LogUnavailable,
    NotPrimary,
    PromotionRefused,
    ReplicatorError,
    Stalled,
)
from .health import Lag
from .lease import Lease
from .log import RedisLog
from .primary import Primary
from .replica import Replica
from .state import ReplicatedState, State

__all__ = ["Node"]

logger = logging.getLogger(__name__)

#: A heartbeat at least this often, however long the lease is.
BEAT_EVERY_S_MAX = 1.0

#: How long a read waits in Redis for the next record. What ends it early is a record, an ask, or stop().
BLOCK_MS = 1000

#: How soon Redis is tried again after it did not answer.
RETRY_EVERY_S = 0.1

#: A problem of the disk or of the log does not go away by itself at once.
PROBLEM_PAUSE_S = 1.0


class Node:
    """One node of a group.

    `state`: see `replicator.state`. `redis`: a URL, or `log`: a log (`testing.MemoryLog`). `data_dir`: this node's own
    directory. `lease_s`: how long the primary may go on without hearing from Redis. `http`: the URL at which others
    reach this node, shown to them. `on_restart`: `"primary"` takes the term again that this node held when it ended,
    `"standby"` does not. `on_log_lost`: `"stop"` raises `LogLost`, `"recover"` founds the log anew from what this node
    has. Raises `ConfigError`, `CheckpointError` (from the constructor and from `start`).
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
        lease_s: float = 5.0,
        http: str = "",
        on_restart: str = "primary",
        on_log_lost: str = "stop",
    ) -> None:
        _check(name != "" and not set(name) & set(" /{}"), "name", f"{name!r} is not a name")
        _check(lease_s >= 0.1, "lease_s", f"{lease_s} is below 0.1 s, the time of a few round trips")
        _check(on_restart in ("primary", "standby"), "on_restart", "is `primary` or `standby`")
        _check(on_log_lost in ("stop", "recover"), "on_log_lost", "is `stop` or `recover`")
        _check(bool(redis) != (log is not None), "redis", "give a URL, or a log")
        self.name = name
        self.group = group
        self.data_dir = Path(data_dir)
        self.http = http
        #: What ended this node's part in the group, if something did. It serves reads, and nothing else.
        self.failed: ReplicatorError | None = None
        self._state = state
        self._log: Log = log if log is not None else RedisLog(redis, group)
        self._lease = Lease(lease_s)
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
        node has this name), `LogLost`.
        """
        self._checkpoint = Checkpoint(self.data_dir, self.group, node=self.name)
        try:
            me = Writer(self.name, secrets.token_hex(16))
            self._replica = Replica(self._state, self._checkpoint, me)
            self._primary = Primary(self._log, self._replica, self._lease, patience_s=self._lease.length_s)
            self._asks_after = ""
            try:
                self._join()
            except LogUnavailable as unavailable:
                logger.warning("%s; starting as a standby with what the checkpoint has", unavailable)
        except BaseException:
            self._checkpoint.close()
            raise
        for name, loop in (("reader", self._read_once), ("keeper", self._keep_once)):
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
        alive = holder is not None and holder.alive and holder.boot == member.view.holder.boot
        return (holder.http or None) if holder is not None and alive else None

    # --- reading and writing -----------------------------------------------------------------------------------------

    @contextmanager
    def reading(self, *, fresh: bool = False, timeout_s: float = 5.0) -> Iterator[Any]:
        """The state, between two records, as old as `lag` says. Hold it shortly: nothing is applied meanwhile.

        With `fresh`, everything that was in the log when this was called is in the state. Raises `LogUnavailable`,
        `TimeoutError`.
        """
        if fresh:
            head = self._log.look().head
            if head is not None:
                self.wait(position=str(head.position.id), timeout_s=timeout_s)
        with self._replica.reading() as state:
            yield state

    def submit(self, change: Any, *, timeout_s: float = 10.0, term: int | None = None) -> Any:
        """Commit one change (JSON): in the log, then applied here; what `apply` returned.

        With `term`, only in that one: a caller that acts on what it saw in a term is refused once the term is over.
        Raises `ChangeRejected` (by `apply`; a recorded outcome), `ChangeTooLarge`, `NotPrimary`, `LeaseLost`, `Fenced`,
        `LogUnavailable` (nothing was written), `OutcomeUnknown` (it may be in the log), `Stalled`.
        """
        self._check_serves()
        return self._primary.submit(change, timeout_s=timeout_s, term=term)

    def replace(self, pieces: Iterable[Any], *, term: int | None = None) -> None:
        """Make `pieces` (as `State.snapshot` gives them) the whole state, on every node, at one record.

        Only on the primary. Raises what `submit` raises.
        """
        self._check_serves()
        self._primary.replace(pieces, term=term)

    def publish(self) -> None:
        """Send a snapshot of the state now. Only on the primary. Raises what `submit` raises."""
        self._check_serves()
        self._primary.publish()

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
        Raises `TimeoutError`, and `ConfigError` for a position that is none.
        """
        id_ = RecordId.parse(position) if position is not None else None

        def reached() -> bool:
            view = self._replica.member.view
            return (
                (role is None or (self.role == role and (role == "standby" or self._lease.held)))
                and (n is None or (view.in_sync and view.position.id.n >= n))
                and (id_ is None or (view.in_sync and max(view.position.id, view.cursor.id) >= id_))
            )

        with self._replica.moved:
            if not self._replica.moved.wait_for(reached, timeout=timeout_s):
                raise TimeoutError(f"{self.name} is {self.role} at {self.position.id} after {timeout_s} s")

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
        if str(problem) != str(self._problems.get(name, "")) and not self._stopping.is_set():
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
        after = None if member.holds_term else member.view.cursor.id
        batch = self._log.read(after, asks_after=self._asks_after, block_ms=BLOCK_MS)
        for ask in batch.asks:
            self._asks_after = ask.id
            self._hear(ask)
        if batch.records:
            self._take(batch.records)
        if batch.corrupt is not None and not self._replica.member.holds_term:
            raise batch.corrupt

    def _take(self, records: list[Record]) -> None:
        with self._replica.turn:
            if self._replica.member.holds_term or self._stopping.is_set():
                return
            verdicts = self._replica.take(records)
        if Verdict.LEAD in verdicts or Verdict.LEAD_AFTER_REBASE in verdicts:
            self._lead()
        elif Verdict.FOLLOW in verdicts or Verdict.STEP_DOWN in verdicts:
            self._wake.set()  # to learn where the new primary is reached, and to report
        if self._replica.markers:
            self._wake.set()

    def _lead(self) -> None:
        """This node holds the term since now. It writes once it has its lease from Redis; until then it is refused."""
        self._renew()
        self._wake.set()

    def _hear(self, ask: Ask) -> None:
        if ask.what == "term":
            # Somebody took a term. If it ends ours, the renewal is refused, and the log tells the rest.
            self._renew()
        elif ask.what == "snapshot" and self._replica.member.holds_term:
            # Not here: one that is under way may be older than what is asked for, then another one follows it.
            self._snapshot_asked_by = ask.by
            self._wake.set()
        elif ask.what == "digest" and self._replica.member.leads:
            self._primary.mark()
            self._wake.set()

    # --- the keeper --------------------------------------------------------------------------------------------------

    def _keep_once(self) -> None:
        started = time.monotonic()
        self._wake.clear()
        self._join()
        self._renew()
        self._digest_marker()
        self._beat()
        self._primary.settle()
        self._replica.flush()
        self._do_what_it_owes()
        self._wake.wait(max(0.0, self._beat_every_s - (time.monotonic() - started)))

    def _join(self) -> None:
        """Look at the group, and take in what that says."""
        look = self._log.look()
        first = self._look is None
        self._look, self._looked_at = look, time.monotonic()
        self._replica.talks_to(look.run)
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

    def _check_log_is_there(self, look: Look) -> None:
        view = self._replica.member.view
        if not view.log_id or (look.head is not None and look.head.log_id == view.log_id):
            return
        if look.head is None and self._recovers:
            self._found_anew(look)
            return
        found = f"there is log {look.head.log_id}" if look.head else "there is none"
        raise LogLost(what=f"group {self.group} had log {view.log_id}, and now {found} at {self._log.url}")

    def _found_anew(self, look: Look) -> None:
        logger.warning("the log of group %s is gone: founding it anew from %s", self.group, self.position.id)
        self._log.promote(
            self._replica.member.me,
            floor=self.term,
            lease_ms=self._lease.length_ms,
            by=self.name,
            reason="the log was lost",
            expect=look.term,
            run=look.run,
            new_log_id=self._replica.member.view.log_id,
        )

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
        self._replica.beaten()

    def _heartbeat(self) -> Peer:
        digest_at, digest = self._digest or (RecordId(0, 0), "")
        # Whoever can report has Redis: that it had none a moment ago is nobody's concern.
        lasting = [
            str(problem) for problem in self._problems.copy().values() if not isinstance(problem, LogUnavailable)
        ]
        return self._replica.member.peer()._replace(
            every_ms=int(self._beat_every_s * 1000),
            http=self.http,
            applied_at=self._replica.applied_at,
            stalled=self._replica.stalled or "; ".join(lasting),
            digest=digest,
            digest_at=digest_at,
        )

    def _digest_marker(self) -> None:
        """Digest the state at the newest marker, on a thread of its own: the lease does not wait for a large state."""
        if self._replica.markers and not _runs(self._digester):
            self._digester = self._aside("digester", self._digest_now)

    def _digest_now(self) -> None:
        at, pieces = self._replica.markers.pop()
        self._digest = at, digest_of_pieces(pieces)
        self._wake.set()

    def _aside(self, name: str, work: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=work, name=f"{self.name}-{name}", daemon=True)
        thread.start()
        return thread

    def _do_what_it_owes(self) -> None:
        member, look = self._replica.member, self._look
        if look is None or self._replica.stalled:
            return
        if member.takes_term(look, restart_as_primary=self._takes_term_again):
            self._take_term("it held the term before", look, guarded=True)
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

    def _take_term(self, reason: str, look: Look, *, guarded: bool = False) -> Reply:
        member = self._replica.member
        reply = self._log.promote(
            member.me,
            floor=max(member.view.term, life.newest_term(look)),
            lease_ms=self._lease.length_ms,
            by=self.name,
            reason=reason,
            expect=look.term if guarded else None,
            run=look.run,
            expect_head=life.expected_head(member.view, look) if guarded else None,
            new_log_id=secrets.token_hex(16) if life.may_found(look) else "",
        )
        if reply.code is not Code.OK:
            raise PromotionRefused(self.name, f"{reply.code.value}: {reply.node or 'nobody'} holds term {reply.term}")
        return reply

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


def _runs(thread: threading.Thread | None) -> bool:
    return thread is not None and thread.is_alive()


def _check(holds: bool, setting: str, problem: str) -> None:
    if not holds:
        raise ConfigError(setting=setting, problem=problem)
