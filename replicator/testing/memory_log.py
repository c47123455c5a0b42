"""A log in memory, the twin of a Redis with our scripts: for the tests of an application, and for our own.

`MemoryRedis` (`log/memory_redis.py`) is the server. `MemoryLog` is one client of it, with the interface of `RedisLog`.
Like a real connection, it learns the run when it connects, and not again until it reconnects. One contract suite and
the scenario transcripts run over both, so each proves the other.

    server = MemoryRedis()
    node = Node(state, group="g", name="a", log=MemoryLog(server), data_dir=tmp_path)
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import CorruptRecord, LogUnavailable
from ..format.ids import RecordId, Writer
from ..format.records import ChangeRecord, Closed, Opens, PartRecord, Record, parse
from ..log.interface import Ack, Appending, Batch, Confirmation, HistoryPage, Log, LogSize, Memory
from ..log.memory_redis import MemoryRedis, MemoryState
from ..log.replies import heard, sealed_promotion, signed_ack, told_by, vouched_acks
from ..protocol.group import Claim, GroupView, Reply
from ..protocol.heartbeat import Heartbeat
from ..protocol.history import HistoryEntry
from ..runtime import checks
from ..runtime.process import Owner

if TYPE_CHECKING:
    from ..format.sealing import Sealing

__all__ = ["MemoryLog", "MemoryRedis", "MemoryState"]


_parse = functools.lru_cache(maxsize=4096)(parse)


class MemoryLog:
    """One client of a `MemoryRedis`. A text in `down` makes the server unreachable; it is the problem reported.

    `sealing`: see `Log`.
    """

    def __init__(self, server: MemoryRedis, group: str = "memory", *, sealing: Opens = None) -> None:
        self.sealing = sealing
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

    def apart(self) -> Log:
        return MemoryLog(self.server, self.group, sealing=self.sealing)

    def append(self, record: ChangeRecord) -> Reply:
        with self._reach():
            return self.server.append(self._run, record)

    def appending(self, record: ChangeRecord) -> Appending:
        return _Appending(self, record)

    def part(self, record: PartRecord, *, rebase: bool = False) -> Reply:
        with self._reach():
            return self.server.part(self._run, record, rebase=rebase)

    def sweep(self) -> bool:
        """The first part deleted all that it cut."""
        with self._reach():
            return False

    @property
    def _vouching(self) -> Sealing | None:
        return None if isinstance(self.sealing, Closed) else self.sealing

    def promote(self, claim: Claim) -> Reply:
        if (sealing := self._vouching) is not None:
            return sealed_promotion(claim, sealing, self.look, self._promote)
        return self._promote(claim)

    def _promote(self, claim: Claim) -> Reply:
        with self._reach():
            return self.server.promote(claim)

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        with self._reach():
            return self.server.renew(writer, term, lease_ms)

    def give_back(self, writer: Writer, term: int, *, by: str = "") -> None:
        with self._reach():
            self.server.give_back(writer, term, by=by)

    def confirm(
        self, writer: Writer, term: int, lease_ms: int, *, replicas: int, fsynced: bool, timeout_ms: int
    ) -> Confirmation:
        with self._reach():
            return self.server.confirm(writer, term, lease_ms, replicas=replicas, fsynced=fsynced)

    def pause(self, why: str, *, by: str = "", reason: str = "") -> Reply:
        with self._reach():
            return self.server.pause(why, by=by, reason=reason)

    def ack(self, ack: Ack) -> None:
        if (sealing := self._vouching) is not None:
            ack = signed_ack(ack, sealing)
        with self._reach():
            self.server.ack(ack)

    def read(
        self,
        after: RecordId | None,
        *,
        requests_after: str = "",
        acks_after: str = "",
        count: int = 32,
        block_ms: int | None = None,
    ) -> Batch:
        deadline = time.monotonic() + (block_ms or 0) / 1000
        while True:
            with self._reach():
                batch = self._read(after, requests_after, acks_after, count)
            left = deadline - time.monotonic()
            if batch.records or batch.requests or batch.acks or batch.corrupt or left <= 0:
                return batch
            with self.server.changed:
                self.server.changed.wait(min(left, 0.05))

    def _read(self, after: RecordId | None, requests_after: str, acks_after: str, count: int) -> Batch:
        records: list[Record] = []
        corrupt = None
        state = self.server.state
        entries = [] if after is None else [entry for entry in state.entries if entry.id > after][:count]
        for entry in entries:
            try:
                records.append(_parse(str(entry.id), entry.header, entry.body, self.sealing))
            except CorruptRecord as problem:
                corrupt = problem
                break
        requests = [
            each for each in state.requests if requests_after and _sequence_of(each.id) > _sequence_of(requests_after)
        ]
        acks = state.acks[_sequence_of(acks_after) :] if acks_after else ()
        vouched, forged = vouched_acks(acks, self._vouching)
        return Batch(records, requests, corrupt, vouched, f"{len(state.acks)}-0" if acks_after else "", forged)

    def find(self, id: RecordId) -> Record | None:
        with self._reach():
            found = [entry for entry in self.server.state.entries if entry.id == id]
            return _parse(str(id), found[0].header, found[0].body, self.sealing) if found else None

    def look(self) -> GroupView:
        sealing = self._vouching
        with self._reach():
            if sealing is None:
                return self.server.look()
            return self.server.look(lambda told, at, now_ms: heard(told, at, now_ms, sealing))

    def groups(self) -> list[str] | None:
        with self._reach():
            return []  # a server in memory has one group

    def size(self) -> LogSize:
        with self._reach():
            entries = self.server.state.entries
            return LogSize(len(entries), sum(len(entry.header or b"") + len(entry.body or b"") for entry in entries))

    def memory(self) -> Memory | None:
        return None

    def newest_request(self) -> str:
        with self._reach():
            requests = self.server.state.requests
            return requests[-1].id if requests else "0-0"

    def check_rights(self) -> str:
        """A server in memory has no users, so all have all rights."""
        with self._reach():
            return ""

    def beat(self, heartbeat: Heartbeat) -> None:
        if (sealing := self._vouching) is not None:
            sealing.refresh()
        with self._reach():
            self.server.beat(heartbeat, told_by(heartbeat, sealing))

    def forget(self, node: str, *, by: str, reason: str = "") -> None:
        with self._reach():
            self.server.forget(node, by=by, reason=reason)

    def history(self, after: str = "", *, count: int = 1000) -> HistoryPage:
        with self._reach():
            entries, place = self.server.state.history.entries, _sequence_of(after or "0-0")
            found = [each for each in entries if each.place > place][:count]
            return HistoryPage([each.entry for each in found], f"{found[-1].place}-0" if found else after)

    def refill_history(self, entries: Sequence[HistoryEntry], *, end: str, node: str) -> str | None:
        with self._reach():
            return self.server.refill_history(entries, end=end, node=node)

    def request(self, what: str, *, by: str, node: str = "") -> str:
        with self._reach():
            return self.server.request(what, by=by, node=node)

    def reinit(self, node: str, *, by: str) -> str:
        with self._reach():
            return self.server.reinit(node, by=by)

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


class _Appending:
    """See `Appending`. The server has done it when it is entered, and its answer waits."""

    def __init__(self, log: MemoryLog, record: ChangeRecord) -> None:
        self._log = log
        self._record = record
        self._reply: Reply | None = None

    def __enter__(self) -> _Appending:
        self._reply = self._log.append(self._record)
        return self

    def receive(self) -> Reply:
        reply, self._reply = self._reply, None
        assert reply is not None
        return reply

    def __exit__(self, *_: object) -> None:
        if self._reply is not None:
            self._log.disconnect()


def _sequence_of(id_: str) -> int:
    return int(id_.partition("-")[0])
