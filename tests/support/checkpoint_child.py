"""The child of tests/integration/test_checkpoint_kill.py: feeds a seeded history through a NodeState into a checkpoint,
until it is killed.

`History(seed)` is a log as a reader meets it, in epochs: what the log holds when the reader comes back to it. Between
two epochs it may have been trimmed beyond the reader's position (the reader needs a snapshot), or Redis may have failed
over to an older copy (the reader has records of a history that lost). `states` says, for the chain of every record,
which state a node has there. Equal seeds give equal histories, so parent and child need not talk about them.

`follow` reads the history into a checkpoint and says on a pipe what it is about to save and what it has saved. It can
be told to kill itself at an event: at an SQL statement, right before a commit, right after one, or at a call that
makes, renames or syncs a file. The hooks are set here, around the standard library, and not in the product.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from replicator.format import codec
from replicator.format.ids import ORIGIN, ZERO_ID, Writer
from replicator.format.records import Record, parse
from replicator.format.snapshot_parts import Cutter
from replicator.protocol.fold import Verdict, View
from replicator.protocol.group import Claim, Code
from replicator.protocol.node_state import NodeState
from replicator.storage import save_transaction
from replicator.storage.checkpoint import Checkpoint, Step
from replicator.testing import MemoryLog, MemoryRedis

GROUP, NODE = "kill", "s"

#: A state is what was applied since the beginning, newest last, capped so that snapshots stay small.
State = tuple[str, ...]
_STATE_LENGTH = 40


def apply(state: State, change: str) -> State:
    return (*state, change)[-_STATE_LENGTH:]


def state_of(stored: Checkpoint) -> State:
    """The state that a node would rebuild from its checkpoint."""
    state: State = tuple(stored.payload() or ())
    for record in stored.changes():
        for change in codec.decode_changes(record.codec, record.body, record.digest, record.count, id_=str(record.id)):
            state = apply(state, change)
    return state


class _Past(NamedTuple):
    """What a failover can go back to: a copy of Redis, and what its newest record stands for."""

    redis: Any
    view: View
    state: State


class History:
    """A log with everything that can be in one: see the module's head."""

    def __init__(self, seed: int, turns: int = 120) -> None:
        self.epochs: list[tuple[Record, ...]] = []
        self.states: dict[str, State] = {ORIGIN.chain: ()}
        self._random = random.Random(seed)
        self._server = MemoryRedis(clock_ms=iter(count(1_700_000_000_000)).__next__)
        self._writers = count(1)
        self._runs = count(2)
        self._state: State = ()
        self._lead(View())
        self._past = self._now()
        for _ in range(turns):
            self._write_lock()
        self._end_epoch()

    def _write_lock(self) -> None:
        turns: dict[Callable[[], None], int] = {
            self._change: 50,
            self._snapshot: 12,
            self._broken_snapshot: 4,
            self._replace_state: 3,
            self._new_term: 6,
            self._end_epoch: 12,
            self._copy: 6,
            self._fail_over: 3,
        }
        self._random.choices(list(turns), weights=list(turns.values()))[0]()

    def _lead(self, view: View) -> None:
        boot = f"boot-{next(self._writers)}"
        writer = Writer(f"w{boot[5:]}", boot)
        self._log = MemoryLog(self._server)
        reply = self._server.promote(
            Claim(writer=writer, floor=view.term, lease_ms=5000, by="test", reason="", new_log_id="log-1")
        )
        assert reply.code is Code.OK
        self._node_state = NodeState(me=writer, view=view, run=self._server.state.run)
        entry = self._server.state.entries[-1]
        self._fold(parse(str(entry.id), entry.header, entry.body))

    def _new_term(self) -> None:
        self._lead(self._node_state.view)

    def _fold(self, record: Record) -> None:
        _, self._node_state = self._node_state.fold(record)
        self.states[record.chain] = self._state

    def _change(self) -> None:
        changes = [f"{self._random.getrandbits(64):x}" for _ in range(self._random.choice([0, 1, 1, 3]))]
        name, body, digest = codec.encode_changes([codec.encode_change(change) for change in changes])
        record = self._node_state.change(codec=name, digest=digest, count=len(changes), body=body, at=1)
        assert self._log.append(record).code is Code.OK
        for change in changes:
            self._state = apply(self._state, change)
        self._fold(record)

    def _snapshot(self, *, parts_max: int = 1000, replaces: bool = False) -> None:
        snapshot = self._node_state.begin_snapshot(replaces=replaces)
        name, digest, bodies = encoded(self._state, self._random.choice([60, 200, 10_000]))
        for part, body in enumerate(bodies[:parts_max]):
            last = part + 1 == len(bodies)
            record = self._node_state.part(
                snapshot, part=part, parts=len(bodies) if last else 0, codec=name, digest=digest, body=body, at=1
            )
            assert self._log.part(record).code is Code.OK
            self._fold(record)
            if not replaces and self._random.random() < 0.3:
                self._change()

    def _broken_snapshot(self) -> None:
        self._snapshot(parts_max=1)

    def _replace_state(self) -> None:
        before, after = self._state, tuple(f"new {self._random.getrandbits(32):x}" for _ in range(20))
        self._state = after
        first = len(self.states)
        self._snapshot(replaces=True)
        # The state changes with the last part only.
        for chain in list(self.states)[first:-1]:
            self.states[chain] = before

    def _end_epoch(self) -> None:
        entries = self._server.state.entries
        self.epochs.append(tuple(parse(str(entry.id), entry.header, entry.body) for entry in entries))

    def _now(self) -> _Past:
        return _Past(self._server.state, self._node_state.view, self._state)

    def _copy(self) -> None:
        self._past = self._now()

    def _fail_over(self) -> None:
        self._end_epoch()
        redis, view, self._state = self._past
        self._server.fail_over(redis, run=f"run-{next(self._runs)}")
        # The new writer was in sync with the copy; the terms that the copy lost, it has seen.
        self._lead(view._replace(holder=self._node_state.view.holder))
        self._snapshot()
        self._past = self._now()


def encoded(pieces: Iterable[str], size: int) -> tuple[str, str, list[bytes]]:
    encoder, cutter = codec.SnapshotEncoder(), Cutter(size)
    bodies = [body for piece in pieces for body in cutter.feed(encoder.feed(piece))]
    bodies += cutter.feed(encoder.finish())
    return encoder.codec, encoder.digest, [*bodies, cutter.finish()]


@lru_cache(maxsize=8)
def history(seed: int) -> History:
    return History(seed)


# --- the reader -------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What one child does: where it begins to read, how it batches, and when it kills itself ("": the parent does)."""

    data_dir: Path
    seed: int
    epoch: int
    batches: int
    kill_at: str = ""
    kill_after: int = 0


def follow(plan: Plan, tell: Callable[[tuple[str, Any]], None]) -> None:
    """Read the history from where the checkpoint left off, to its end. Tells `did` first, then `try` and `did`."""
    # So that there is nearly always something that was given up and is not deleted yet.
    save_transaction._SLICE_CHANGES, save_transaction._SLICE_PARTS = 2, 1
    if plan.kill_at:
        kill_self_at(plan.kill_at, plan.kill_after)
    with Checkpoint(plan.data_dir, GROUP, node=NODE) as stored:
        loaded = stored.load()
        node_state = NodeState(me=Writer(NODE, "boot-s"), view=loaded.view if loaded else View())
        batches = random.Random(plan.batches)
        for epoch in range(plan.epoch, len(history(plan.seed).epochs)):
            tell(("epoch", epoch))
            for after, steps in _folded(node_state, history(plan.seed).epochs[epoch], batches):
                node_state = after
                if steps[-1].verdict is Verdict.RESTORE and len(steps) == 1:
                    stored.write_fork("a snapshot takes its place", ZERO_ID)
                tell(("try", node_state.view))
                # No kill undoes what the system has: whether it was synced makes no difference here.
                stored.save(node_state.view, steps, boot="boot-s", synced=batches.random() < 0.5)
                tell(("did", node_state.view))
                if batches.random() < 0.3:
                    stored.tidy()
    tell(("end", None))


def _folded(
    node_state: NodeState, log: tuple[Record, ...], batches: random.Random
) -> Iterator[tuple[NodeState, list[Step]]]:
    while ahead := [record for record in log if record.id > node_state.view.cursor.id]:
        steps: list[Step] = []
        for record in ahead[: batches.randint(1, 6)]:
            verdict, node_state = node_state.fold(record)
            steps.append(Step(record, verdict, node_state.view))
            if verdict is Verdict.RESTORE:
                break  # reading goes on somewhere else
        yield node_state, steps


# --- killing itself ---------------------------------------------------------------------------------------------------


def kill_self_at(what: str, after: int) -> None:
    """SIGKILL at the event number `after` of this kind: `statement`, `before commit`, `after commit` or `file`."""
    left = count(after, -1)

    def event(kind: str) -> None:
        if kind == what and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def statement(text: str) -> None:
        event("statement")
        if text == "COMMIT":
            event("before commit")

    connect = sqlite3.connect

    def traced(*arguments: Any, **settings: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = connect(*arguments, **settings)
        db.set_trace_callback(statement)
        return db

    def around(call: Callable[..., Any], kind: str) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            event(kind)
            result = call(*arguments)
            event(kind)
            return result

        return called

    sqlite3.connect = traced  # type: ignore[assignment]
    # The lock file is written right after each commit, and nowhere else than there and at the start.
    os.pwrite = around(os.pwrite, "after commit")
    for name in ("open", "rename", "replace", "fsync", "unlink"):
        setattr(os, name, around(getattr(os, name), "file"))
