"""Logs that members write over a `MemoryRedis`, without threads, disks or waiting; and the same logs, forged.

`Pen` is a member that reads and writes. Its state is that of `kv.KV`: what was pushed. `forged` takes the entries of a
log apart, lets a test change them, and seals them again: each header gets the chain before it, unless it is told to
keep its own, and the head gets the place of the last one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from replicator.format.codec import SnapshotEncoder, decode_changes, encode_changes, encoded_keyed
from replicator.format.ids import ZERO_CHAIN, Position, RecordId, Writer, extend_chain
from replicator.format.keyed import change_in
from replicator.format.records import ChangeRecord, PartRecord, Record
from replicator.format.snapshot_parts import Cutter
from replicator.log.memory_redis import Entry as RedisEntry
from replicator.protocol.fold import Verdict, View
from replicator.protocol.group import Claim, Code
from replicator.protocol.node_state import NodeState, Snapshot
from replicator.storage.checkpoint import Step
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.kv import push


class Pen:
    """A member that has read everything, and writes once it was promoted."""

    def __init__(self, server: MemoryRedis, name: str = "a", *, boot: str = "") -> None:
        self.server, self.log = server, MemoryLog(server)
        self.node_state = NodeState(me=Writer(name, boot or f"{name}-1"), view=View())
        self.pushed: list[Any] = []
        #: The stamp of what it writes.
        self.at = 1_767_225_600_000
        #: What it folded, as a checkpoint takes it.
        self.steps: list[Step] = []
        self.read()

    def read(self) -> None:
        """Fold what it has not read yet. After a snapshot that it restores, `pushed` is not its state."""
        self.node_state = self.node_state.talks_to(self.server.state.run)
        while records := self.log.read(self.node_state.view.cursor.id, count=1).records:
            self._fold(records[0])

    def promote(self, **claim: Any) -> None:
        self.log.disconnect()
        given = {"floor": self.node_state.view.term, "lease_ms": 1, "by": "test", "reason": "", "new_log_id": "log-1"}
        reply = self.log.promote(Claim(writer=self.node_state.me, **given | claim))
        assert reply.code is Code.OK
        self.read()

    def change(self, *values: Any, key: str | None = None) -> ChangeRecord:
        """Push these values; none: a marker. `key`: of one that nobody had before."""
        json, _, keyed = encoded_keyed([push(value) for value in values], [key] * len(values))
        codec, body, digest = encode_changes([json], "keyed" if keyed else "json")
        record = self.node_state.change(codec=codec, digest=digest, count=len(values), body=body, at=self.at)
        assert self.log.append(record).code is Code.OK
        self._fold(record)
        return record

    def parts(self, size: int = 40, *, replaces: bool = False) -> Iterator[PartRecord]:
        """A snapshot: one part is sent each time this is drawn from."""
        begun = self.node_state.begin_snapshot(replaces=replaces)
        encoder, cutter = SnapshotEncoder(), Cutter(size)
        bodies = cutter.feed(encoder.feed(["pushed", list(self.pushed)]) + encoder.finish())
        bodies.append(cutter.finish())
        for part, body in enumerate(bodies):
            yield self._part(begun, part, part + 1 == len(bodies), encoder, body)

    def snapshot(self, size: int = 40, *, replaces: bool = False) -> list[PartRecord]:
        return list(self.parts(size, replaces=replaces))

    def _part(self, begun: Snapshot, part: int, last: bool, encoder: SnapshotEncoder, body: bytes) -> PartRecord:
        parts = part + 1 if last else 0
        record = self.node_state.part(
            begun, part=part, parts=parts, codec=encoder.codec, digest=encoder.digest, body=body, at=self.at
        )
        assert self.log.part(record, rebase=begun.rebase).code is Code.OK
        self._fold(record)
        return record

    def _fold(self, record: Record) -> None:
        verdict, self.node_state = self.node_state.fold(record)
        self.steps.append(Step(record, verdict, self.node_state.view))
        if verdict is Verdict.APPLY:
            assert isinstance(record, ChangeRecord)
            changes = decode_changes(record.codec, record.body, record.digest, record.count, id_=str(record.id))
            self.pushed += [change_in(change)["push"] for change in changes]

    @property
    def position(self) -> Position:
        return self.node_state.view.position


def fail_over(server: MemoryRedis, copy: Any = None, *, run: str = "run-2") -> None:
    """Redis comes back as another run, with what it has now or had at `copy`."""
    server.fail_over(copy or server.state, run=run)


# --- forged ----------------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """A record taken apart. `keep`: its `prev` stays what it is."""

    id: RecordId
    header: dict[str, Any]
    body: bytes
    keep: bool = field(default=False)


def forged(server: MemoryRedis, change: Callable[[list[Entry]], Any], *, rechain: bool = True) -> MemoryLog:
    """A log like the server's, but for what `change` did to its entries."""
    state = server.state
    assert state.head is not None
    before = [Entry(entry.id, orjson.loads(entry.header or b"{}"), entry.body or b"") for entry in state.entries]
    gaps = _gaps(before)
    entries = list(before)
    change(entries)
    chain = before[0].header.get("prev", ZERO_CHAIN)
    made = []
    for entry in entries:
        if rechain and not entry.keep and id(entry) not in gaps:
            entry.header["prev"] = chain
        header = orjson.dumps(entry.header)
        chain = extend_chain(entry.header.get("prev", chain), header, entry.body)
        made.append(RedisEntry(entry.id, header, entry.body))
    last = max(entry.id for entry in made)
    head = state.head._replace(position=Position(last, chain))
    copy = MemoryRedis(clock_ms=server.clock_ms)
    copy.state = replace(state, entries=tuple(made), head=head, last_id=last)
    return MemoryLog(copy, "g")


def _gaps(entries: list[Entry]) -> set[int]:
    """Those that do not follow the one before: the first parts of rebases."""
    chain = entries[0].header["prev"]
    found = set()
    for entry in entries:
        if entry.header["prev"] != chain:
            found.add(id(entry))
        chain = extend_chain(entry.header["prev"], orjson.dumps(entry.header), entry.body)
    return found
