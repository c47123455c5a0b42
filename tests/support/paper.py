"""A group of which there are heartbeats only."""

from __future__ import annotations

from typing import Any

from replicator import RecordId, ops
from replicator.format.ids import Position, Writer
from replicator.protocol.group import Claim, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.testing import MemoryLog, MemoryRedis


class Paper:
    """A group of nodes that exist as heartbeats only, on a clock that only the test moves."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000.0
        self.server = MemoryRedis(clock_ms=lambda: self.now_ms)
        self.log = MemoryLog(self.server, "g")

    def beat(self, name: str, **facts: Any) -> Heartbeat:
        facts = {"run": self.server.state.run, "every_ms": 1000} | facts
        heartbeat = Heartbeat(name, facts.pop("boot", f"{name}-1"), **facts)
        self.server.beat(heartbeat)
        return heartbeat

    def take_term(self, name: str = "a", **more: Any) -> Reply:
        writer = Writer(name, more.pop("boot", f"{name}-1"))
        arguments = {"floor": 0, "lease_ms": 5000, "by": "test", "reason": "", "new_log_id": "log-1"} | more
        return self.log.promote(Claim(writer=writer, **arguments))

    def promote(self, name: str = "b", **options: Any) -> ops.Promotion:
        return ops.promote(self.log, name, by="test", **{"timeout_s": 0.05} | options)


def at(term: int, n: int) -> Position:
    return Position(RecordId(term, n), "1" * 32)
