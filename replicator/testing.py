"""A log in memory, the twin of a Redis with our scripts: for the tests of an application, and for our own.

`MemoryRedis` is the server. Its whole state is one frozen value, so a test can keep it, restore it, or explore every
order of events from it (`tests/model/`). Its methods do what the scripts of `lua/` do, step by step in the same order.
One contract suite and the scenario transcripts run over both, so each proves the other.

`MemoryLog` is one client of it, with the interface of `RedisLog`. Like a real connection, it learns the run when it
connects, and not again until it reconnects.

    server = MemoryRedis()
    node = Node(state, group="g", name="a", log=MemoryLog(server), data_dir=tmp_path)
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import orjson

from replicator.errors import CorruptRecord, LogUnavailable
from replicator.format.ids import (
    N_LEAP,
    ORIGIN,
    TERM_LEAP,
    TERM_MAX,
    ZERO_CHAIN,
    ZERO_ID,
    Position,
    RecordId,
    Writer,
    extend_chain,
    next_term,
)
from replicator.format.records import HEADER_BYTES_MAX, ChangeRecord, PartRecord, Record, last_change_after, parse
from replicator.format.term_ends import show_ends, with_end
from replicator.log.interface import Ack, Batch, Confirmation, GroupRequest, Log, LogSize
from replicator.protocol.group import TAKEN_KEPT, Claim, Code, GroupView, Head, LeaseText, Reply, lease_left_ms
from replicator.protocol.heartbeat import Heartbeat
from replicator.runtime import checks
from replicator.runtime.process import Owner

__all__ = ["MemoryLog", "MemoryRedis", "MemoryState"]


class Entry(NamedTuple):
    """A log entry as Redis stores it."""

    id: RecordId
    header: bytes | None
    body: bytes | None


class Lease(NamedTuple):
    text: LeaseText
    until_ms: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryState:
    """Everything that Redis holds about a group. `last_id` stays when entries are trimmed.

    `term`: what the term key holds; a text if that is no number.
    """

    run: str = "run-1"
    term: int | str = 0
    head: Head | None = None
    entries: tuple[Entry, ...] = ()
    last_id: RecordId = ZERO_ID
    exists: bool = False
    lease: Lease | None = None
    beats: tuple[tuple[str, float, bytes], ...] = ()
    asks: tuple[GroupRequest, ...] = field(default=())
    acks: tuple[Ack, ...] = field(default=())

    @property
    def effective_term(self) -> int:
        """The greater one of the key's and the head's term; the head's alone if the key cannot be right."""
        of_head = self.head.term if self.head and not self.wrong_head else 0
        return of_head if self.wrong_key or isinstance(self.term, str) else max(self.term, of_head)

    @property
    def wrong_key(self) -> str:
        """What is wrong with the term key, if no script can have written it."""
        if isinstance(self.term, str):
            return "the term key holds no number"
        if self.term >= TERM_MAX:
            return f"the term key holds {self.term}, and there are no more terms"
        of_head = self.head.term if self.head and not self.wrong_head else 0
        if of_head and self.term > of_head + TERM_LEAP:
            return f"the term key holds {self.term}, which is beyond every term that can have been taken"
        return ""

    @property
    def wrong_head(self) -> str:
        """What is wrong with the head, if no script can have written it."""
        if self.head is None:
            return ""
        id_ = self.head.position.id
        if id_.term != self.head.term:
            return f"its newest record is {id_}, and its term {self.head.term}"
        if not (0 < id_.term <= TERM_MAX and 0 < id_.n <= TERM_MAX):
            return f"the head is at {id_}, which is beyond every record"
        return ""


_parse = functools.lru_cache(maxsize=4096)(parse)


class MemoryRedis:
    """The server. `clock_ms` replaces its clock, so that no test has to wait."""

    def __init__(self, *, clock_ms: Callable[[], float] | None = None) -> None:
        self.state = MemoryState()
        self.clock_ms = clock_ms or (lambda: time.time() * 1000)
        self.changed = threading.Condition()
        #: How many replicas WAIT would report.
        self.replicas = 0
        #: Whether WAITAOF would report that the disk has everything.
        self.fsyncs = False

    # --- the scripts ---

    def append(self, run: str, record: ChangeRecord) -> Reply:
        """`append.lua`, without its shortcut."""
        refused = self._fence(run, record.id.term, record.boot)
        if refused:
            return refused
        head = self._head()
        if head.position.chain == record.chain:
            return Reply(Code.DUPLICATE, id=head.position.id)
        if head.position.chain != record.prev:
            return Reply(Code.BEHIND, id=head.position.id)
        failed = self._put(head, record)
        if failed:
            return failed
        changed = last_change_after(record) or head.changed
        least = _least(head.applied_min, record.wants_acks)
        self._write(head=head._replace(position=record.position, changed=changed, applied_min=least))
        return Reply(Code.OK)

    def part(self, run: str, record: PartRecord, *, rebase: bool = False) -> Reply:
        """`part.lua`. The order of writes differs, which does not show: nothing stops in the middle here."""
        refused = self._fence(run, record.id.term, record.boot)
        if refused:
            return refused
        head = self._head()
        if head.position.chain == record.chain:
            return Reply(Code.DUPLICATE, id=head.position.id)
        if head.position.chain != record.prev and not (rebase and record.part == 0):
            return Reply(Code.BEHIND, id=head.position.id)
        if record.part != 0 and record.part != head.part_next:
            return Reply(Code.RESTART)
        failed = self._put(head, record, rebases=rebase and record.part == 0)
        if failed:
            return failed
        complete = head.snapshot_at
        head = head._replace(position=record.position, part_next=record.part + 1)
        if record.part == 0 and complete > head.previous_snapshot_at:
            head = head._replace(previous_snapshot_at=complete)
            self._trim(complete)
        if record.is_last:
            changed = last_change_after(record, rebase=rebase) or head.changed
            head = head._replace(part_next=0, changed=changed, snapshot_at=record.as_of.id)
            head = head._replace(applied_min=_least(head.applied_min, record.wants_acks))
            head = head._replace(ends=record.ends) if rebase else head
        self._write(head=head)
        return Reply(Code.OK)

    def promote(self, claim: Claim) -> Reply:
        state, head, exists = self.state, self.state.head, self.state.exists
        anew = claim.anew and claim.new_log_id != ""
        self._check_keys(head=not anew, key=not anew)
        if anew and exists and head is not None and not state.wrong_head and state.last_id == head.position.id:
            if not state.wrong_key and head.position.id != claim.unfollowed:
                return Reply(Code.WHOLE, id=head.position.id)
            anew = head.position.id == claim.unfollowed
        least = _least(claim.applied_min, head.applied_min if head else 0)
        if anew:
            head, exists = None, False
        if (not exists or head is None) and not (not exists and head is None and claim.new_log_id):
            return Reply(Code.LOST)
        if head is not None and state.last_id != head.position.id:
            return Reply(Code.STRAY, id=state.last_id)
        refused = self._expectations(claim, head)
        if refused:
            return refused
        effective = state.effective_term
        if anew and effective > claim.floor + TERM_LEAP:
            effective = 0  # the numbers of a broken log may be anything: what the caller has seen counts
        base = max(effective, claim.floor)
        term = next_term(base, new_run=base > 0 and (head is None or head.run != state.run))
        if term > TERM_MAX:
            raise LogUnavailable(url="memory", problem="there are no more terms")
        header = self._term_header(claim, head)
        if not claim.writer.node or not claim.writer.boot or len(header) > HEADER_BYTES_MAX:
            problem = "BADRECORD a term record names a node and a boot, and its reason is short"
            raise LogUnavailable(url="memory:", problem=problem)
        if anew:
            self._write(head=None, entries=(), last_id=ZERO_ID, exists=False)
        return self._take_term(replace(claim, applied_min=least), head, term, header)

    def _expectations(self, claim: Claim, head: Head | None) -> Reply | None:
        """The refusal of a claim if something that it depends on has changed."""
        term, node = self.state.effective_term, head.node if head else ""
        if claim.expect is not None and claim.expect != term:
            return Reply(Code.CONFLICT, term=term, node=node)
        if claim.expect_head is not None and (head is None or head.position.id != claim.expect_head):
            return Reply(Code.CONFLICT, term=term, node=node)
        running = self._running_lease()
        if claim.unleased and running and running != claim.expired:
            return Reply(Code.CONFLICT, term=term, node=node)
        if claim.run and claim.run != self.state.run:
            return Reply(Code.NEW_RUN)
        return None

    def _take_term(self, claim: Claim, head: Head | None, term: int, header: bytes) -> Reply:
        """The writes of the promote script: term record, head, term key, lease, and the announcement."""
        id_ = RecordId(term, head.position.id.n + 1 if head else 1)
        failed = self._add(id_, header, b"")
        if failed:
            return failed
        prev = head.position.chain if head else ZERO_CHAIN
        before = head or Head("", "", 0, "", "", ORIGIN)
        taken = (*before.taken, (int(self.clock_ms()), claim.by)) if claim.by == claim.writer.node else before.taken
        after = before._replace(
            log_id=before.log_id or claim.new_log_id,
            run=self.state.run,
            term=term,
            node=claim.writer.node,
            boot=claim.writer.boot,
            position=Position(id_, extend_chain(prev, header, b"")),
            part_next=0,
            ends=_ends_after(head),
            taken=taken[-TAKEN_KEPT:],
            applied_min=claim.applied_min,
        )
        self._write(term=term, head=after, lease=self._lease(claim.writer, term, claim.lease_ms))
        self.ask("term", by=claim.by, node=claim.writer.node)
        return Reply(Code.OK, term=term, id=id_)

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        refused = self._fence(self.state.run, term, writer.boot)
        if refused:
            return refused
        self._write(lease=self._lease(writer, term, lease_ms))
        return Reply(Code.OK)

    def give_back(self, writer: Writer, term: int) -> None:
        if self.state.lease and self.state.lease.text.holder == _holder_of(writer, term):
            self._write(lease=None)
            self.ask("vacant", by=writer.node, node=writer.node)

    def confirm(self, writer: Writer, term: int, lease_ms: int, *, replicas: int, fsynced: bool) -> Confirmation:
        """The attributes `replicas` and `fsyncs` decide what is confirmed."""
        reply = self.renew(writer, term, lease_ms)
        return Confirmation(reply, (1 if self.fsyncs else 0) if fsynced else min(replicas, self.replicas))

    def pause(self, why: str) -> Reply:
        if self.state.head is None:
            return Reply(Code.LOST)
        self._write(head=self.state.head._replace(paused=why, paused_at=int(self.clock_ms()) if why else 0))
        self.ask("paused", by=why)
        return Reply(Code.OK)

    def ack(self, ack: Ack) -> None:
        self._write(acks=(*self.state.acks, ack))

    def beat(self, heartbeat: Heartbeat) -> None:
        if heartbeat.left and heartbeat.run != self.state.run:
            return  # it may have what Redis lost
        others = tuple(beat for beat in self.state.beats if beat[0] != heartbeat.node)
        self._write(beats=(*others, (heartbeat.node, self.clock_ms(), heartbeat.to_json())))
        head = self.state.head
        leads = head and (head.run, head.term, head.boot, heartbeat.role) == (
            heartbeat.run,
            heartbeat.term,
            heartbeat.boot,
            "primary",
        )
        if head and leads and heartbeat.run == self.state.run:
            self._write(head=head._replace(whole=heartbeat.run, whole_at=int(self.clock_ms())))

    def forget(self, node: str, *, by: str) -> None:
        self._write(beats=tuple(beat for beat in self.state.beats if beat[0] != node))
        self.ask("forget", by=by, node=node)

    def ask(self, what: str, *, by: str, node: str = "") -> str:
        id_ = f"{len(self.state.asks) + 1}-0"
        self._write(asks=(*self.state.asks, GroupRequest(id_, what, node, by)))
        return id_

    def look(self) -> GroupView:
        """`look.lua`, and what `RedisLog` makes of its answer."""
        state = self.state
        now_ms = self.clock_ms()
        heartbeats = (Heartbeat.seen(data, beaten_at=int(at), now_ms=int(now_ms)) for _, at, data in state.beats)
        lease = self._running_lease()
        marred = self._marred()
        head = state.head if state.exists and not state.wrong_head else None
        look = GroupView(
            run=state.run,
            term=state.effective_term,
            head=head,
            last_id=state.last_id if state.head else ZERO_ID,
            lease_ms=lease_left_ms(lease, self._lease_ms()),
            lease=lease,
            heartbeats={heartbeat.node: heartbeat for heartbeat in heartbeats if heartbeat},
            now_ms=int(now_ms),
            marred=marred,
        )
        if marred:
            raise LogUnavailable.marred(look, url="memory:")
        return look

    # --- what happens to a Redis ---

    def fail_over(self, copy: MemoryState, *, run: str) -> None:
        """Become another run, with the data of `copy` (an earlier state)."""
        self._write_all(replace(copy, run=run))

    def stray(self, id_: RecordId) -> None:
        """An XADD by another program into the stream."""
        self._add(id_, None, None)

    def set_term(self, term: int | str) -> None:
        """A SET of the term key by hand."""
        self._write(term=term)

    def set_head(self, **fields: object) -> None:
        """An HSET of the head by hand."""
        self._write(head=self._head()._replace(**fields))  # type: ignore[arg-type]

    def flush(self) -> None:
        """FLUSHALL."""
        self._write_all(MemoryState(run=self.state.run))

    # --- inside ---

    def _head(self) -> Head:
        assert self.state.head is not None
        return self.state.head

    def _marred(self) -> str:
        if wrong := self.state.wrong_head:
            return f"something else than replicator wrote to the head ({wrong})"
        return f"BADTERM {wrong}; it was changed by hand" if (wrong := self.state.wrong_key) else ""

    def _check_keys(self, *, head: bool, key: bool) -> None:
        wrong_head, wrong_key = self.state.wrong_head, self.state.wrong_key
        if head and wrong_head:
            raise LogUnavailable(url="memory:", problem=f"BADHEAD {wrong_head}")
        if key and wrong_key:
            raise LogUnavailable(url="memory:", problem=f"BADTERM {wrong_key}")

    def _not_next(self, head: Head, record: Record) -> Reply | None:
        if record.id.n == head.position.id.n + 1:
            return None
        astray = self.state.last_id != head.position.id
        return Reply(Code.STRAY if astray else Code.BEHIND, id=self.state.last_id)

    def _leaps(self, head: Head, record: Record) -> Reply | None:
        """The refusal of the first part of a rebase if its number may not leave that gap."""
        before = head.position.id
        if self.state.last_id != before:
            return Reply(Code.STRAY, id=self.state.last_id)
        if record.id.n > before.n + N_LEAP:
            problem = f"BADRECORD number {record.id.n} is beyond every one that can come after {before}"
            raise LogUnavailable(url="memory:", problem=problem)
        return Reply(Code.BEHIND, id=before) if record.id.n <= before.n else None

    def _fence(self, run: str, term: int, boot: str) -> Reply | None:
        state, head = self.state, self.state.head
        if not state.exists or head is None:
            return Reply(Code.LOST)
        # A key that is too far ahead fences like any other key that is ahead.
        self._check_keys(head=True, key=isinstance(state.term, str))
        ahead = isinstance(state.term, int) and state.term > head.term
        if ahead or term != state.effective_term or term != head.term or boot != head.boot:
            return Reply(Code.FENCED, term=max(int(state.term), head.term), node=head.node)
        if run != head.run:
            return Reply(Code.NEW_RUN)
        return None

    def _put(self, head: Head, record: Record, *, rebases: bool = False) -> Reply | None:
        """Append the record, unless it is there: an earlier attempt may have stopped before it moved the head."""
        if self.state.entries[-1:] == (Entry(record.id, record.header, record.body),):
            return None
        astray = self._leaps(head, record) if rebases else self._not_next(head, record)
        return astray or self._add(record.id, record.header, record.body)

    def _add(self, id_: RecordId, header: bytes | None, body: bytes | None) -> Reply | None:
        if id_ <= self.state.last_id:
            return Reply(Code.STRAY, id=self.state.last_id)
        self._write(entries=(*self.state.entries, Entry(id_, header, body)), last_id=id_, exists=True)
        return None

    def _trim(self, upto: RecordId) -> None:
        keep = RecordId(upto.term, upto.n + 1)
        self._write(entries=tuple(entry for entry in self.state.entries if entry.id >= keep))

    def _lease_ms(self) -> int:
        """What is left of the lease; below 0: there is none."""
        lease = self.state.lease
        left = int(lease.until_ms - self.clock_ms()) if lease else -1
        return left if left > 0 else -1

    def _running_lease(self) -> str:
        return str(self.state.lease.text) if self.state.lease and self._lease_ms() >= 0 else ""

    def _lease(self, writer: Writer, term: int, lease_ms: int) -> Lease:
        now_ms = self.clock_ms()
        return Lease(LeaseText(_holder_of(writer, term), lease_ms, int(now_ms)), now_ms + lease_ms)

    def _term_header(self, claim: Claim, head: Head | None) -> bytes:
        fields = {
            "v": 1,
            "kind": "term",
            "node": claim.writer.node,
            "boot": claim.writer.boot,
            "prev": head.position.chain if head else ZERO_CHAIN,
            "at": int(self.clock_ms()),
            "log_id": head.log_id if head else claim.new_log_id,
            "run": self.state.run,
            "by": claim.by,
            "reason": claim.reason,
            "ends": show_ends(_ends_after(head)),
        }
        return orjson.dumps(fields)

    def _write(self, **changes: object) -> None:
        self._write_all(replace(self.state, **changes))  # type: ignore[arg-type]

    def _write_all(self, state: MemoryState) -> None:
        with self.changed:
            self.state = state
            self.changed.notify_all()


class MemoryLog:
    """One client of a `MemoryRedis`. A text in `down` makes the server unreachable; it is the problem reported."""

    def __init__(self, server: MemoryRedis, group: str = "memory") -> None:
        self.server = server
        self.group = checks.name("group", group)
        self.url = "memory:"
        self.down = ""
        self._run = ""
        self._closed = False
        self._owner = Owner("this log in memory")

    @property
    def takes_s(self) -> float:
        return 0.0

    def within(self, until: float) -> Log:
        return self  # nothing ever hangs here

    def append(self, record: ChangeRecord) -> Reply:
        with self._reach():
            return self.server.append(self._run, record)

    def part(self, record: PartRecord, *, rebase: bool = False) -> Reply:
        with self._reach():
            return self.server.part(self._run, record, rebase=rebase)

    def sweep(self) -> bool:
        """The first part deleted all that it cut."""
        with self._reach():
            return False

    def promote(self, claim: Claim) -> Reply:
        with self._reach():
            return self.server.promote(claim)

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        with self._reach():
            return self.server.renew(writer, term, lease_ms)

    def give_back(self, writer: Writer, term: int) -> None:
        with self._reach():
            self.server.give_back(writer, term)

    def confirm(
        self, writer: Writer, term: int, lease_ms: int, *, replicas: int, fsynced: bool, timeout_ms: int
    ) -> Confirmation:
        with self._reach():
            return self.server.confirm(writer, term, lease_ms, replicas=replicas, fsynced=fsynced)

    def pause(self, why: str) -> Reply:
        with self._reach():
            return self.server.pause(why)

    def ack(self, ack: Ack) -> None:
        with self._reach():
            self.server.ack(ack)

    def read(
        self,
        after: RecordId | None,
        *,
        asks_after: str = "",
        acks_after: str = "",
        count: int = 32,
        block_ms: int | None = None,
    ) -> Batch:
        deadline = time.monotonic() + (block_ms or 0) / 1000
        while True:
            with self._reach():
                batch = self._read(after, asks_after, acks_after, count)
            left = deadline - time.monotonic()
            if batch.records or batch.asks or batch.acks or batch.corrupt or left <= 0:
                return batch
            with self.server.changed:
                self.server.changed.wait(min(left, 0.05))

    def _read(self, after: RecordId | None, asks_after: str, acks_after: str, count: int) -> Batch:
        records: list[Record] = []
        corrupt = None
        state = self.server.state
        entries = [] if after is None else [entry for entry in state.entries if entry.id > after][:count]
        for entry in entries:
            try:
                records.append(_parse(str(entry.id), entry.header, entry.body))
            except CorruptRecord as problem:
                corrupt = problem
                break
        asks = [ask for ask in state.asks if asks_after and _ask_n(ask.id) > _ask_n(asks_after)]
        acks = list(state.acks[_ask_n(acks_after) :]) if acks_after else []
        return Batch(records, asks, corrupt, acks, f"{len(state.acks)}-0" if acks_after else "")

    def find(self, id: RecordId) -> Record | None:
        with self._reach():
            found = [entry for entry in self.server.state.entries if entry.id == id]
            return _parse(str(id), found[0].header, found[0].body) if found else None

    def look(self) -> GroupView:
        with self._reach():
            return self.server.look()

    def groups(self) -> list[str] | None:
        with self._reach():
            return []  # a server in memory has one group

    def size(self) -> LogSize:
        with self._reach():
            entries = self.server.state.entries
            return LogSize(len(entries), sum(len(entry.header or b"") + len(entry.body or b"") for entry in entries))

    def newest_ask(self) -> str:
        with self._reach():
            asks = self.server.state.asks
            return asks[-1].id if asks else "0-0"

    def check_rights(self) -> None:
        """A server in memory has no users, so all have all rights."""
        with self._reach():
            pass

    def beat(self, heartbeat: Heartbeat) -> None:
        with self._reach():
            self.server.beat(heartbeat)

    def forget(self, node: str, *, by: str) -> None:
        with self._reach():
            self.server.forget(node, by=by)

    def ask(self, what: str, *, by: str, node: str = "") -> str:
        with self._reach():
            return self.server.ask(what, by=by, node=node)

    def disconnect(self) -> None:
        """Break the connection: the next call makes a new one, which learns the run anew."""
        self._run = ""

    def close(self) -> None:
        self._owner.check()
        self._closed = True
        with self.server.changed:
            self.server.changed.notify_all()

    def _reach(self) -> threading.Condition:
        """The lock of the server, which does one thing at a time. Raises `LogUnavailable` if it cannot be reached."""
        self._owner.check()
        if self.down or self._closed:
            raise LogUnavailable(url=self.url, problem=self.down or "the connection is closed")
        if not self._run:
            self._run = self.server.state.run
        return self.server.changed


def _least(one: int, other: int) -> int:
    """The lesser one of two counts. 0 does not count."""
    return min(one, other) if one and other else one or other


def _ends_after(head: Head | None) -> tuple[RecordId, ...]:
    return with_end(head.ends, head.position.id) if head else ()


def _holder_of(writer: Writer, term: int) -> str:
    return f"{term} {writer.node} {writer.boot}"


def _ask_n(id_: str) -> int:
    return int(id_.partition("-")[0])
