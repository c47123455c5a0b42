"""A Redis with our scripts, in memory: the server of `testing.MemoryLog`.

Its whole state is one frozen value, so a test can keep it, restore it, or explore every order of events from it
(`tests/model/`). Its methods do what the scripts of `lua/` do, step by step in the same order: what they
check is asked of the state, what they write is written by the server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import orjson

from replicator.errors import LogUnavailable
from replicator.format.acts import decode_act
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
from replicator.format.records import ACT, HEADER_BYTES_MAX, ChangeRecord, PartRecord, Record, last_change_after
from replicator.format.term_ends import show_ends, with_end
from replicator.log.interface import Ack, Confirmation, GroupRequest
from replicator.log.memory_history import MemoryHistory, Stamp, ending_of
from replicator.protocol.group import (
    TAKEN_KEPT,
    Claim,
    Code,
    GroupView,
    Head,
    LeaseText,
    Reply,
    lease_left_ms,
    lease_of,
)
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.history import HistoryEntry

__all__ = ["Entry", "MemoryRedis", "MemoryState"]


def _heard(told: bytes, beaten_at: int, now_ms: int) -> Heartbeat | None:
    return Heartbeat.seen(told, beaten_at=beaten_at, now_ms=now_ms)


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
    requests: tuple[GroupRequest, ...] = field(default=())
    acks: tuple[Ack, ...] = field(default=())
    history: MemoryHistory = field(default=MemoryHistory(), compare=False)

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

    @property
    def marred(self) -> str:
        """What in the keys no script can have written, for people."""
        if wrong := self.wrong_head:
            return f"something else than replicator wrote to the head ({wrong})"
        return f"BADTERM {wrong}; it was changed by hand" if (wrong := self.wrong_key) else ""

    def lease_ms(self, now_ms: float) -> int:
        """What is left of the lease; below 0: there is none."""
        left = int(self.lease.until_ms - now_ms) if self.lease else -1
        return left if left > 0 else -1

    def running_lease(self, now_ms: float) -> str:
        """Its text; empty: none runs."""
        return str(self.lease.text) if self.lease and self.lease_ms(now_ms) >= 0 else ""

    # --- what the scripts check ---

    def check_keys(self, *, head: bool, key: bool) -> None:
        wrong_head, wrong_key = self.wrong_head, self.wrong_key
        if head and wrong_head:
            raise LogUnavailable(url="memory:", problem=f"BADHEAD {wrong_head}")
        if key and wrong_key:
            raise LogUnavailable(url="memory:", problem=f"BADTERM {wrong_key}")

    def fence(self, run: str, term: int, boot: str) -> Reply | None:
        """The refusal of one who does not hold the term (any more)."""
        head = self.head
        if not self.exists or head is None:
            return Reply(Code.LOST)
        # A key that is too far ahead fences like any other key that is ahead.
        self.check_keys(head=True, key=isinstance(self.term, str))
        ahead = isinstance(self.term, int) and self.term > head.term
        if ahead or term != self.effective_term or term != head.term or boot != head.boot:
            return Reply(Code.FENCED, term=max(int(self.term), head.term), node=head.node)
        if run != head.run:
            return Reply(Code.NEW_RUN)
        return None

    def astray(self, head: Head, record: Record, *, rebases: bool) -> Reply | None:
        """The refusal of a record that cannot come next; `rebases`: the first part of a rebase may leave a gap."""
        before = head.position.id
        if not rebases:
            if record.id.n == before.n + 1:
                return None
            return Reply(Code.STRAY if self.last_id != before else Code.BEHIND, id=self.last_id)
        if self.last_id != before:
            return Reply(Code.STRAY, id=self.last_id)
        if record.id.n > before.n + N_LEAP:
            problem = f"BADRECORD number {record.id.n} is beyond every one that can come after {before}"
            raise LogUnavailable(url="memory:", problem=problem)
        return Reply(Code.BEHIND, id=before) if record.id.n <= before.n else None

    def unmet(self, claim: Claim, head: Head | None, now_ms: float) -> Reply | None:
        """The refusal of a claim if something that it depends on has changed."""
        term, node = self.effective_term, head.node if head else ""
        if claim.expect is not None and claim.expect != term:
            return Reply(Code.CONFLICT, term=term, node=node)
        if claim.expect_head is not None and (head is None or head.position.id != claim.expect_head):
            return Reply(Code.CONFLICT, term=term, node=node)
        running = self.running_lease(now_ms)
        if claim.unleased and lease_of(running, head) is not None and running != claim.expired:
            return Reply(Code.CONFLICT, term=term, node=node)
        if claim.run and claim.run != self.run:
            return Reply(Code.NEW_RUN)
        return None


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
        if record.codec == ACT:
            act = decode_act(record.payload, record.digest, record.version, id_=str(record.id))
            self._tell("finalize", node=head.node, by=act["by"], version=record.version, id=str(record.id))
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
        misnamed = anew and head is not None and bool(claim.misnamed) and head.log_id == claim.misnamed
        state.check_keys(head=not anew, key=not anew)
        if anew and exists and head is not None and not state.wrong_head and state.last_id == head.position.id:
            if not (state.wrong_key or misnamed) and head.position.id != claim.unfollowed:
                return Reply(Code.WHOLE, id=head.position.id)
            anew = head.position.id == claim.unfollowed
        least = _least(claim.applied_min, head.applied_min if head else 0)
        app = head.app if head and not state.wrong_head else ""
        if app and claim.app and claim.app != app:
            return Reply(Code.OTHER_APP, app=app)
        if head and head.sealed and not claim.seal:
            return Reply(Code.SEALED)
        claim = replace(claim, app=app or claim.app, applied_min=least)
        before = None if state.wrong_head else head
        if misnamed and not anew and head is not None:
            head = head._replace(log_id=claim.new_log_id)
        if anew:
            head, exists = None, False
        if (not exists or head is None) and not (not exists and head is None and claim.new_log_id):
            return Reply(Code.LOST)
        if head is not None and state.last_id != head.position.id:
            return Reply(Code.STRAY, id=state.last_id)
        refused = state.unmet(claim, head, self.clock_ms())
        if refused:
            return refused
        effective = state.effective_term
        if anew and effective > claim.floor + TERM_LEAP:
            effective = 0  # the numbers of a broken log may be anything: what the caller has seen counts
        base = max(effective, claim.floor)
        term = next_term(base, new_run=base > 0 and (head is None or head.run != state.run))
        if term > TERM_MAX:
            raise LogUnavailable(url="memory", problem="there are no more terms")
        header = _term_header(claim, head, run=state.run, now_ms=self.clock_ms())
        if not claim.writer.node or not claim.writer.boot or len(header) > HEADER_BYTES_MAX:
            problem = "BADRECORD a term record names a node and a boot, and its reason is short"
            raise LogUnavailable(url="memory:", problem=problem)
        history, now_ms = self._notes, int(self.clock_ms())
        lease = state.running_lease(now_ms)
        ended = ending_of(before, claim, history, run=state.run, lease=lease, now_ms=now_ms, anew=anew)
        if anew:
            self._write(head=None, entries=(), last_id=ZERO_ID, exists=False)
        reply = self._take_term(claim, head, term, header)
        if reply.code is Code.OK:
            by_itself = "takeover" if claim.by == claim.writer.node else "promote"
            what = claim.what or ("found" if head is None else by_itself)
            self._write(history=history)
            of_claim = {"by": claim.by, "reason": claim.reason, "forced": claim.forced, "run": state.run}
            self._tell(
                what, **of_claim, **claim.writer._asdict(), **ended, id=str(reply.id), skipped_id=_skipped(claim)
            )
            self._write(history=replace(self.state.history, since=self._newest_stamp))
        return reply

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
            app=claim.app,
            sealed=claim.seal not in ("", "-"),
        )
        self._write(term=term, head=after, lease=_lease(claim.writer, term, claim.lease_ms, self.clock_ms()))
        self.request("term", by=claim.by, node=claim.writer.node)
        return Reply(Code.OK, term=term, id=id_)

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        refused = self._fence(self.state.run, term, writer.boot)
        if refused:
            return refused
        self._write(lease=_lease(writer, term, lease_ms, self.clock_ms()))
        return Reply(Code.OK)

    def give_back(self, writer: Writer, term: int, *, by: str = "") -> None:
        if self.state.lease and self.state.lease.text.holder == _holder_of(writer, term):
            self._write(lease=None)
            by = by or writer.node
            self.request("vacant", by=by, node=writer.node)
            if self.state.head and self.state.head.term == term:
                itself = by == writer.node
                reason = "it stopped in order" if itself else "its process has ended"
                self._tell("stop" if itself else "release", **writer._asdict(), by=by, reason=reason)
                stamp: dict[str, Any] = {"left" if itself else "gone": self._newest_stamp}
                self._write(history=replace(self.state.history, **stamp))

    def confirm(self, writer: Writer, term: int, lease_ms: int, *, replicas: int, fsynced: bool) -> Confirmation:
        """The attributes `replicas` and `fsyncs` decide what is confirmed."""
        reply = self.renew(writer, term, lease_ms)
        return Confirmation(reply, (1 if self.fsyncs else 0) if fsynced else min(replicas, self.replicas))

    def pause(self, why: str, *, by: str = "", reason: str = "") -> Reply:
        if self.state.head is None:
            return Reply(Code.LOST)
        self._write(head=self.state.head._replace(paused=why, paused_at=int(self.clock_ms()) if why else 0))
        self.request("paused", by=why)
        self._tell("pause" if why else "resume", by=by, reason=reason)
        return Reply(Code.OK)

    def ack(self, ack: Ack) -> None:
        self._write(acks=(*self.state.acks, ack))

    def beat(self, heartbeat: Heartbeat, told: bytes | None = None) -> None:
        """`told`: the JSON of the heartbeat, if that is another one than its own."""
        if heartbeat.left and heartbeat.run != self.state.run:
            return  # it may have what Redis lost
        others = tuple(beat for beat in self.state.beats if beat[0] != heartbeat.node)
        self._write(beats=(*others, (heartbeat.node, self.clock_ms(), told or heartbeat.to_json())))
        head = self.state.head
        leads = head and (head.run, head.term, head.boot, heartbeat.role) == (
            heartbeat.run,
            heartbeat.term,
            heartbeat.boot,
            "primary",
        )
        if head and leads and heartbeat.run == self.state.run:
            self._write(head=head._replace(whole=heartbeat.run, whole_at=int(self.clock_ms())))

    def forget(self, node: str, *, by: str, reason: str = "") -> None:
        self._write(beats=tuple(beat for beat in self.state.beats if beat[0] != node))
        self.request("forget", by=by, node=node)
        self._tell("forget", node=node, by=by, reason=reason)

    def reinit(self, node: str, *, by: str) -> str:
        id_ = self.request("reinit", by=by, node=node)
        self._tell("reinit", node=node, by=by)
        return id_

    def refill_history(self, entries: Sequence[HistoryEntry], *, end: str, node: str) -> str | None:
        """`refill.lua`."""
        history = self.state.history
        if history.end != end:
            return None
        self._write(history=history.refilled(entries, node=node))
        return self.state.history.end

    def request(self, what: str, *, by: str, node: str = "") -> str:
        id_ = f"{len(self.state.requests) + 1}-0"
        self._write(requests=(*self.state.requests, GroupRequest(id_, what, node, by)))
        return id_

    def look(self, heard: Callable[[bytes, int, int], Heartbeat | None] = _heard) -> GroupView:
        """`look.lua`, and what `RedisLog` makes of its answer. `heard`: reads a heartbeat, with its stamp and the clock
        of Redis.
        """
        state = self.state
        now_ms = self.clock_ms()
        told = {node: heard(data, int(at), int(now_ms)) for node, at, data in state.beats}
        lease = state.running_lease(now_ms)
        marred = state.marred
        head = state.head if state.exists and not state.wrong_head else None
        if head is not None:
            history = state.history
            since, left = history.since.of(head.term), history.left.of(head.term)
            head = head._replace(history_count=history.count, since=since, left=left)
        look = GroupView(
            run=state.run,
            term=state.effective_term,
            head=head,
            last_id=state.last_id if state.head else ZERO_ID,
            lease_ms=lease_left_ms(lease, state.lease_ms(now_ms), head),
            lease=lease,
            heartbeats={heartbeat.node: heartbeat for heartbeat in told.values() if heartbeat},
            now_ms=int(now_ms),
            marred=marred,
            forged=tuple(sorted(node for node, heartbeat in told.items() if heartbeat is None)),
        )
        if marred:
            raise LogUnavailable.marred(look, url="memory:")
        return look

    # --- what happens to a Redis ---

    def fail_over(self, copy: MemoryState, *, run: str) -> None:
        """Become another run, with the data of `copy` (an earlier state)."""
        self._write(copy, run=run)

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
        self._write(MemoryState(run=self.state.run))

    # --- inside ---

    def _head(self) -> Head:
        assert self.state.head is not None
        return self.state.head

    @property
    def _notes(self) -> MemoryHistory:
        """`read_notes` in history.lua: what the head says of the history goes with it."""
        return self.state.history if self.state.head is not None else self.state.history.without_head()

    @property
    def _newest_stamp(self) -> Stamp:
        entry = self.state.history.entries[-1].entry
        return Stamp(entry.term, entry.at or 0)

    def _tell(self, what: str, **fields: Any) -> None:
        """`tell` in history.lua."""
        head = self.state.head
        told = self._notes.told(
            what, term=head.term if head else 0, at=int(self.clock_ms()), counts=head is not None, **fields
        )
        self._write(history=told)

    def _fence(self, run: str, term: int, boot: str) -> Reply | None:
        return self.state.fence(run, term, boot)

    def _put(self, head: Head, record: Record, *, rebases: bool = False) -> Reply | None:
        """Append the record, unless it is there: an earlier attempt may have stopped before it moved the head."""
        if self.state.entries[-1:] == (Entry(record.id, record.header, record.body),):
            return None
        return self.state.astray(head, record, rebases=rebases) or self._add(record.id, record.header, record.body)

    def _add(self, id_: RecordId, header: bytes | None, body: bytes | None) -> Reply | None:
        if id_ <= self.state.last_id:
            return Reply(Code.STRAY, id=self.state.last_id)
        self._write(entries=(*self.state.entries, Entry(id_, header, body)), last_id=id_, exists=True)
        return None

    def _trim(self, upto: RecordId) -> None:
        keep = RecordId(upto.term, upto.n + 1)
        self._write(entries=tuple(entry for entry in self.state.entries if entry.id >= keep))

    def _write(self, state: MemoryState | None = None, **changes: object) -> None:
        """Become `state`, or stay what it is, but for these changes."""
        with self.changed:
            self.state = replace(state or self.state, **changes)  # type: ignore[arg-type]
            self.changed.notify_all()


def _least(one: int, other: int) -> int:
    """The lesser one of two counts. 0 does not count."""
    return min(one, other) if one and other else one or other


def _skipped(claim: Claim) -> str:
    return "" if claim.skip == ZERO_ID else str(claim.skip)


def _ends_after(head: Head | None) -> tuple[RecordId, ...]:
    return with_end(head.ends, head.position.id) if head else ()


def _holder_of(writer: Writer, term: int) -> str:
    return f"{term} {writer.node} {writer.boot}"


def _lease(writer: Writer, term: int, lease_ms: int, now_ms: float) -> Lease:
    return Lease(LeaseText(_holder_of(writer, term), lease_ms, int(now_ms)), now_ms + lease_ms)


def _term_header(claim: Claim, head: Head | None, *, run: str, now_ms: float) -> bytes:
    fields: dict[str, object] = {
        "v": 1,
        "kind": "term",
        "node": claim.writer.node,
        "boot": claim.writer.boot,
        "prev": head.position.chain if head else ZERO_CHAIN,
        "at": int(now_ms),
        "log_id": head.log_id if head else claim.new_log_id,
        "run": run,
        "by": claim.by,
        "reason": claim.reason,
        "ends": show_ends(_ends_after(head)),
    }
    if claim.app:
        fields["app"] = claim.app
    if head is None and claim.version > 1:
        fields |= {"v": 2, "version": claim.version}
    if claim.skip != ZERO_ID:
        fields["skip"] = _skipped(claim)
    if claim.seal not in ("", "-"):
        fields["seal"] = claim.seal
    return orjson.dumps(fields)
