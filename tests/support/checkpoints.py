"""A writer of a log, and a reader that keeps it in a checkpoint: no thread, nothing waits."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from replicator.format import codec
from replicator.format.ids import Writer
from replicator.format.records import PartRecord, Record
from replicator.protocol.fold import Verdict, View
from replicator.protocol.group import Claim, Code
from replicator.protocol.node_state import NodeState, Snapshot
from replicator.storage.checkpoint import Checkpoint, Step
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.checkpoint_child import apply, encoded, state_of


def noise(number: int, size: int = 200) -> str:
    """Text that does not compress much, so that a snapshot of it has parts."""
    return random.Random(number).randbytes(size // 2).hex()


class Primary:
    """Writes a log; `state` is what the log makes."""

    def __init__(self, server: MemoryRedis, name: str = "w", view: View | None = None) -> None:
        self.server, self.log = server, MemoryLog(server)
        self.node_state = NodeState(me=Writer(name, f"boot-{name}"), view=view or View(), run=server.state.run)
        self.state: tuple[str, ...] = ()
        self.promote()

    def promote(self) -> None:
        reply = self.log.promote(
            Claim(writer=self.node_state.me, floor=0, lease_ms=1, by="test", reason="", new_log_id="log-1")
        )
        assert reply.code is Code.OK
        self._fold(self.log.read(self.node_state.view.cursor.id).records[-1])

    def change(self, *texts: str) -> Record:
        name, body, digest = codec.encode_changes([codec.encode_change(text) for text in texts])
        record = self.node_state.change(codec=name, digest=digest, count=len(texts), body=body, at=1)
        assert self.log.append(record).code is Code.OK
        for text in texts:
            self.state = apply(self.state, text)
        return self._fold(record)

    def snapshot(self, *, size: int = 50, replaces: bool = False) -> Iterator[PartRecord]:
        """Sends one part each time it is drawn from."""
        begun = self.node_state.begin_snapshot(replaces=replaces)
        name, digest, bodies = encoded(self.state, size)
        for part, body in enumerate(bodies):
            yield self._part(begun, part, part + 1 == len(bodies), name, digest, body)

    def _part(self, begun: Snapshot, part: int, last: bool, name: str, digest: str, body: bytes) -> PartRecord:
        parts = part + 1 if last else 0
        record = self.node_state.part(begun, part=part, parts=parts, codec=name, digest=digest, body=body, at=1)
        assert self.log.part(record, rebase=begun.rebase).code is Code.OK
        self._fold(record)
        return record

    def _fold(self, record: Record) -> Record:
        _, self.node_state = self.node_state.fold(record)
        return record


class Standby:
    """Reads a log into a checkpoint, one save for all there is to read."""

    def __init__(self, server: MemoryRedis, data_dir: Path, *, synced: bool = True) -> None:
        self.data_dir, self.log, self.synced = data_dir, MemoryLog(server), synced
        self.start()

    def start(self) -> None:
        self.stored = Checkpoint(self.data_dir, "g", node="s")
        loaded = self.stored.load()
        self.node_state = NodeState(me=Writer("s", "boot-s"), view=loaded.view if loaded else View())

    def restart(self) -> None:
        self.stored.close()
        self.start()

    def fold(self, *records: Record) -> list[Verdict]:
        steps = []
        for record in records:
            verdict, self.node_state = self.node_state.fold(record)
            steps.append(Step(record, verdict, self.node_state.view))
        self.stored.save(self.node_state.view, steps, boot="boot-s", synced=self.synced)
        return [step.verdict for step in steps]

    def read(self) -> list[Verdict]:
        verdicts: list[Verdict] = []
        while records := self.log.read(self.node_state.view.cursor.id, count=1).records:
            verdicts += self.fold(*records)
        return verdicts

    @property
    def state(self) -> tuple[str, ...]:
        return state_of(self.stored)


def contents(data_dir: Path) -> bytes:
    return (data_dir / "checkpoint.sqlite").read_bytes()


def tidied(stored: Checkpoint) -> int:
    """Have it delete what it gave up; how many slices that took."""
    slices = 0
    while not stored.is_tidy:
        assert stored.tidy() is not stored.is_tidy
        slices += 1
    assert not stored.tidy()
    return slices


def rows_of(stored: Checkpoint) -> tuple[int, int]:
    """The rows that are there: of changes, and of parts."""
    (changes,) = stored._database.connection.execute("SELECT count(*) FROM change").fetchone()
    (parts,) = stored._database.connection.execute("SELECT count(*) FROM part").fetchone()
    return changes, parts
