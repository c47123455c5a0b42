"""One way to mistreat a Redis, whether it is a real one or its twin in memory.

A contract that both must keep is written once, against a `World`: it gives clients, and does to the server what life
does to servers. `MemoryWorld` and `RedisWorld` are siblings; neither knows more about replicator than its keys.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import redis

from replicator.errors import LogUnavailable
from replicator.format.codec import encode_changes, encoded_keyed
from replicator.format.ids import ZERO_ID, Position, RecordId, Writer
from replicator.format.records import ChangeRecord, PartRecord, seal_change, seal_part
from replicator.log.interface import Log
from replicator.log.memory_redis import Entry, Lease
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Claim, Code, GroupView, Head, LeaseText, Reply
from replicator.sandbox.redis_server import RedisServer, ServerBinary
from replicator.testing import MemoryLog, MemoryRedis, MemoryState

GROUP = "contract"
LOG_ID = "log-1"
LEASE_MS = 60_000
HOUR_MS = 3_600_000

#: What a stray `XADD key *` gives: a clock-sized id.
CLOCK_ID = RecordId(1_700_000_000_000, 0)


class World(Protocol):
    """A server, its clients, and what happens to it."""

    def log(self) -> Log:
        """A client with connections of its own."""
        ...

    def copy(self) -> object:
        """What the server has now, as a lagging replica or an older dump would keep it."""
        ...

    def fail_over(self, copy: object) -> None:
        """The server goes on in a new run, with what the copy has. All connections are broken."""
        ...

    def flush(self) -> None: ...

    def drop(self, name: Literal["log", "head"]) -> None:
        """Take one key away, as an eviction does."""
        ...

    def write_raw(self, id_: RecordId, header: bytes | None = None, body: bytes = b"") -> bool:
        """Somebody's own XADD that asks nobody; whether the server took it."""
        ...

    def set_term_key(self, term: int | str | None) -> None:
        """Set the term key by hand, or delete it."""
        ...

    def set_head(self, **fields: str) -> None:
        """Set `term`, `id` or `log_id` of the head by hand."""
        ...

    def stretch_lease(self) -> None:
        """The lease lives on for an hour, as where the server's clock was set back by that."""
        ...

    def set_lease(self, lease: LeaseText) -> None:
        """Write a lease by hand, which Redis keeps for an hour."""
        ...

    def contents(self) -> object:
        """All that the group has in the server but heartbeats, to compare before and after."""
        ...

    def close(self) -> None: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.server = MemoryRedis()
        self._runs = 1

    def log(self) -> MemoryLog:
        return MemoryLog(self.server)

    def copy(self) -> MemoryState:
        return self.server.state

    def fail_over(self, copy: object) -> None:
        assert isinstance(copy, MemoryState)
        self._runs += 1
        self.server.fail_over(copy, run=f"run-{self._runs}")

    def flush(self) -> None:
        self.server.flush()

    def drop(self, name: Literal["log", "head"]) -> None:
        state = self.server.state
        if name == "log":
            self.server.state = replace(state, entries=(), last_id=ZERO_ID, exists=False)
        else:
            self.server.state = replace(state, head=None)

    def write_raw(self, id_: RecordId, header: bytes | None = None, body: bytes = b"") -> bool:
        state = self.server.state
        if id_ <= state.last_id:
            return False
        entry = Entry(id_, header, body if header else None)
        self.server.state = replace(state, entries=(*state.entries, entry), last_id=id_, exists=True)
        return True

    def set_term_key(self, term: int | str | None) -> None:
        self.server.state = replace(self.server.state, term=term or 0)

    def set_head(self, **fields: str) -> None:
        head = self.server.state.head
        assert head is not None
        if "term" in fields:
            head = head._replace(term=int(fields["term"]))
        if "log_id" in fields:
            head = head._replace(log_id=fields["log_id"])
        if "id" in fields:
            head = head._replace(position=head.position._replace(id=RecordId.parse(fields["id"])))
        self.server.state = replace(self.server.state, head=head)

    def stretch_lease(self) -> None:
        lease = self.server.state.lease
        assert lease is not None
        self.server.state = replace(self.server.state, lease=lease._replace(until_ms=lease.until_ms + HOUR_MS))

    def set_lease(self, lease: LeaseText) -> None:
        kept = Lease(lease, self.server.clock_ms() + HOUR_MS)
        self.server.state = replace(self.server.state, lease=kept)

    def contents(self) -> object:
        return replace(self.server.state, beats=())

    def close(self) -> None:
        pass


class RedisWorld:
    """A server without an AOF, so that an older dump can be put under it in a few milliseconds."""

    def __init__(self, binary: ServerBinary, directory: Path, **config: Any) -> None:
        self.server = RedisServer(directory, binary=binary, config={"appendonly": "no", **config}).start()
        self.directory = directory
        self._copies = 0
        self._logs: list[RedisLog] = []
        self.admin: Any = redis.Redis.from_url(self.server.url)

    def log(self) -> RedisLog:
        self._logs.append(RedisLog(self.server.url, GROUP))
        return self._logs[-1]

    def key(self, name: str) -> str:
        return f"replicator:{{{GROUP}}}:{name}"

    def copy(self) -> Path:
        self.admin.save()
        self._copies += 1
        kept = self.directory / f"copy-{self._copies}.rdb"
        shutil.copy(self.directory / "dump.rdb", kept)
        return kept

    def fail_over(self, copy: object) -> None:
        assert isinstance(copy, Path)
        self.server.kill()
        shutil.copy(copy, self.directory / "dump.rdb")
        self.server.start()

    def flush(self) -> None:
        self.admin.flushall()

    def drop(self, name: Literal["log", "head"]) -> None:
        self.admin.delete(self.key(name))

    def write_raw(self, id_: RecordId, header: bytes | None = None, body: bytes = b"") -> bool:
        fields: dict[str | bytes, bytes] = {"h": header, "b": body} if header is not None else {"hello": b"world"}
        try:
            self.admin.xadd(self.key("log"), fields, id=str(id_))
        except redis.exceptions.ResponseError as error:
            if "equal or smaller" not in str(error):
                raise
            return False
        return True

    def set_term_key(self, term: int | str | None) -> None:
        if term is None:
            self.admin.delete(self.key("term"))
        else:
            self.admin.set(self.key("term"), term)

    def set_head(self, **fields: str) -> None:
        self.admin.hset(self.key("head"), mapping=fields)

    def stretch_lease(self) -> None:
        assert self.admin.pexpire(self.key("lease"), HOUR_MS)

    def set_lease(self, lease: LeaseText) -> None:
        self.admin.set(self.key("lease"), str(lease), px=HOUR_MS)

    def contents(self) -> object:
        names = sorted(name for name in self.admin.keys("*") if not name.endswith(b":nodes"))
        return {name: self.admin.dump(name) for name in names}

    def forget_clients(self) -> None:
        """Close what a test opened, before the next one uses the server."""
        for log in self._logs:
            log.close()
        self._logs.clear()

    def close(self) -> None:
        self.forget_clients()
        self.admin.close()
        self.server.kill()


class Author:
    """A holder of a term that writes one record after another, without the wits of a `NodeState`."""

    def __init__(self, log: Log, writer: Writer, term: int, position: Position) -> None:
        self.log = log
        self.writer = writer
        self.term = term
        self.position = position

    def change(self, value: Any = "x", *, key: str | None = None) -> ChangeRecord:
        """The change record that would come next."""
        json, _, keyed = encoded_keyed([value], [key])
        codec, body, digest = encode_changes([json], "keyed" if keyed else "json")
        return seal_change(
            writer=self.writer,
            term=self.term,
            after=self.position,
            at=0,
            codec=codec,
            digest=digest,
            count=1,
            body=body,
        )

    def part(self, part: int, parts: int = 0, *, as_of: Position, skip: int = 0) -> PartRecord:
        """The part record that would come next; `skip` leaves a gap of so many n before it."""
        return seal_part(
            writer=self.writer,
            term=self.term,
            after=self.position,
            n=self.position.id.n + 1 + skip,
            at=0,
            codec="json+zstd",
            digest="0" * 32,
            part=part,
            parts=parts,
            as_of=as_of,
            changed=ZERO_ID,
            replaces=False,
            body=b"part",
        )

    def append(self, value: Any = "x", *, key: str | None = None) -> Reply:
        record = self.change(value, key=key)
        return self._sent(record, self.log.append(record))

    def append_part(self, part: int, parts: int = 0, *, as_of: Position | None = None) -> Reply:
        record = self.part(part, parts, as_of=as_of or self.position)
        return self._sent(record, self.log.part(record))

    def snapshot(self, parts: int = 2) -> list[RecordId]:
        """All parts of a snapshot of the present; the ids of their records."""
        as_of = self.position
        replies = [self.append_part(i, parts if i + 1 == parts else 0, as_of=as_of) for i in range(parts)]
        assert [reply.code for reply in replies] == [Code.OK] * parts
        return [reply.id for reply in replies]

    def _sent(self, record: ChangeRecord | PartRecord, reply: Reply) -> Reply:
        if reply.code is Code.OK:
            self.position = record.position
        return reply


def warm(log: Log) -> Author:
    """Lead, with every connection made."""
    author = lead(log)
    author.append()
    log.read(author.position.id, block_ms=1)
    return author


def looked(log: Log, timeout_s: float) -> GroupView:
    """Look until there is an answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return log.look()
        except LogUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def promote(log: Log, name: str = "a", *, boot: str = "1", floor: int = 0, **more: Any) -> Reply:
    """Promote with what most tests do not care about filled in."""
    arguments: dict[str, Any] = {"lease_ms": LEASE_MS, "by": "test", "reason": "", "new_log_id": LOG_ID} | more
    return log.promote(Claim(writer=Writer(name, boot), floor=floor, **arguments))


def lead(log: Log, name: str = "a", *, boot: str = "1", **more: Any) -> Author:
    """Promote, and give the author that may write from then on."""
    reply = promote(log, name, boot=boot, **more)
    assert reply.code is Code.OK, reply
    record = log.find(reply.id)
    assert record is not None
    return Author(log, Writer(name, boot), reply.term, record.position)


def ids(log: Log, after: RecordId = ZERO_ID) -> list[str]:
    """The ids of all records behind `after`."""
    return [str(record.id) for record in log.read(after, count=1000).records]


def head_of(log: Log) -> Head:
    head = log.look().head
    assert head is not None
    return head
