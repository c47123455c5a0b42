"""The checkpoint alone: what it keeps, what it gives back, and what it does about a file or a disk that is wrong.

Records come from a real NodeState over a MemoryRedis. What a kill leaves is tested in
integration/test_checkpoint_kill.py.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import CheckpointError
from replicator.format import codec
from replicator.format.ids import ZERO_ID, Position, RecordId, Writer
from replicator.format.records import PartRecord, Record
from replicator.format.snapshot_parts import Progress
from replicator.protocol.fold import Holder, Verdict, View
from replicator.protocol.group import Claim, Code
from replicator.protocol.node_state import NodeState, Snapshot
from replicator.protocol.snapshot_policy import changes_bytes_max
from replicator.storage import checkpoint, checkpoint_file, draft
from replicator.storage.checkpoint import Checkpoint, Step
from replicator.storage.stored import Stored
from replicator.testing import MemoryLog, MemoryRedis
from tests.integration.checkpoint_child import apply, encoded, state_of
from tests.kv import PATIENCE_S, in_thread


def noise(number: int, size: int = 200) -> str:
    """Text that does not compress much, so that a snapshot of it has parts."""
    return random.Random(number).randbytes(size // 2).hex()


# --- a writer, a reader -----------------------------------------------------------------------------------------------


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


@pytest.fixture
def server() -> MemoryRedis:
    return MemoryRedis(clock_ms=lambda: 1.0)


@pytest.fixture
def primary(server: MemoryRedis) -> Primary:
    return Primary(server)


@pytest.fixture(params=[True, False], ids=["synced", "not synced"])
def standby(server: MemoryRedis, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Standby]:
    standby = Standby(server, tmp_path / "s", synced=request.param)
    yield standby
    standby.stored.close()


# --- the view ---------------------------------------------------------------------------------------------------------

_numbers = st.integers(0, 2**53 - 1)
_ids = st.builds(RecordId, _numbers, _numbers)
_positions = st.builds(Position, _ids, st.text("0123456789abcdef", min_size=32, max_size=32))
_progress = st.builds(
    Progress, st.builds(Writer, st.text(), st.text()), _positions, _positions, _numbers, st.booleans()
)
_views = st.builds(
    View,
    log_id=st.text(),
    term=_numbers,
    holder=st.builds(Holder, st.text(), st.text(), st.text()),
    position=_positions,
    changed=_ids,
    in_sync=st.booleans(),
    ends=st.lists(_ids, max_size=3).map(tuple),
    cursor=_positions,
    snapshot=st.none() | _progress,
)


@given(_views)
def test_every_field_of_a_view_comes_back_as_it_was(view: View) -> None:
    # given any view, when it is written down and read
    read = checkpoint_file.Saved.from_bytes(checkpoint_file.Saved("g", "s", view=view).to_bytes()).view
    # then it is the same, types included
    assert read == view
    assert repr(read) == repr(view)


@given(_views, st.sampled_from(list(View._fields)), st.sampled_from(["missing", "foreign", "other"]))
def test_a_view_with_a_missing_or_foreign_field_is_damaged(view: View, name: str, fault: str) -> None:
    # given a view in which one field is missing, of another name, or of another type
    saved = orjson.loads(checkpoint_file.Saved("g", "s", view=view).to_bytes()[32:])
    value = saved["view"].pop(name)
    if fault == "foreign":
        saved["view"][f"{name}_"] = value
    elif fault == "other":
        saved["view"][name] = 1.5
    data = orjson.dumps(saved)
    # when it is read, then it is refused, although its digest fits
    with pytest.raises(checkpoint_file.Damaged):
        checkpoint_file.Saved.from_bytes(codec.digest_of(data).encode() + data)


def test_a_new_node_has_nothing_and_a_save_without_records_is_enough_to_be_found_again(tmp_path: Path) -> None:
    # given a new directory
    with Checkpoint(tmp_path / "deep" / "a", "g", node="a") as stored:
        assert stored.load() is None
        assert stored.payload() is None
        assert list(stored.changes()) == []
        # when a view is saved alone
        stored.save(View(term=5), boot="b1")
    # then the next process finds it, and the files are for their owner only
    with Checkpoint(tmp_path / "deep" / "a", "g", node="a") as stored:
        assert stored.load() == (View(term=5), "b1", "g")
        assert stat.S_IMODE(stored.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(stored.data_dir.stat().st_mode) == 0o700


# --- records ----------------------------------------------------------------------------------------------------------


def test_a_node_that_runs_has_a_file_its_wal_and_a_lock_open_and_nothing_else(tmp_path: Path) -> None:
    with Checkpoint(tmp_path, "g", node="a") as checkpoint:
        checkpoint.save(View(), boot="b")
        # no -shm: with a thousand nodes in a process that is a thousand files
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == ["checkpoint.sqlite", "checkpoint.sqlite-wal", "lock"]


def test_changes_come_back_in_order_as_the_records_they_were(primary: Primary, standby: Standby) -> None:
    # given changes, markers and terms in a log
    records = [primary.change("x", "y"), primary.change()]
    primary.promote()
    records.append(primary.change("z"))
    # when a standby has read them, and starts again
    standby.read()
    standby.restart()
    # then it has the changes, and nothing else
    assert list(standby.stored.changes()) == records
    assert standby.stored.changes_bytes == sum(len(record.header) + len(record.body) for record in records)
    assert standby.state == ("x", "y", "z")
    assert standby.stored.load() == (primary.node_state.view, "boot-s", "g")


def test_what_follows_is_saved_as_rows_alone_and_folded_when_the_file_is_opened(
    primary: Primary, standby: Standby
) -> None:
    # given a snapshot under way, changes that follow, and a marker, not synced
    primary.change(noise(1))
    next(primary.snapshot())
    standby.read()
    said = _said(standby.stored.path)
    standby.synced = False
    records = [primary.change("x", "y"), primary.change(), primary.change("z")]
    standby.read()
    # then what the file says of itself is as it was, and what comes back is not
    assert _said(standby.stored.path) == said
    standby.restart()
    assert standby.stored.load() == (primary.node_state.view, "boot-s", "g")
    assert list(standby.stored.changes())[1:] == records
    assert standby.state == (noise(1), "x", "y", "z")


def test_a_change_that_opens_a_term_is_not_saved_as_a_row_alone(primary: Primary, standby: Standby) -> None:
    # given a snapshot under way
    primary.change(noise(1))
    next(primary.snapshot())
    standby.read()
    # when a change of a higher term follows, whose term record was trimmed away: the snapshot is broken off
    standby.synced = False
    view = standby.node_state.view
    next_term = NodeState(
        me=Writer("n", "boot-n"), view=view._replace(term=2, holder=Holder("n", "boot-n", "r")), run="r"
    )
    name, body, digest = codec.encode_changes([codec.encode_change("second")])
    assert standby.fold(next_term.change(codec=name, body=body, digest=digest, count=1, at=1)) == [Verdict.APPLY]
    # then the node finds itself in it
    standby.restart()
    assert standby.stored.load() == (standby.node_state.view, "boot-s", "g")
    assert standby.node_state.view.term == 2


def test_a_change_of_another_boot_or_behind_a_gap_is_not_saved_as_a_row_alone(
    primary: Primary, standby: Standby
) -> None:
    standby.read()
    standby.synced = False

    def follow(boot: str) -> View:
        record = primary.change(boot)
        verdict, standby.node_state = standby.node_state.fold(record)
        standby.stored.save(
            standby.node_state.view, [Step(record, verdict, standby.node_state.view)], boot=boot, synced=False
        )
        return standby.node_state.view

    # when the node's next boot saves, then it is that boot which is found
    view = follow("boot-t")
    standby.restart()
    assert standby.stored.load() == (view, "boot-t", "g")
    # when a save leaves a record out, then what is found is the view that it was given
    _, standby.node_state = standby.node_state.fold(primary.change("left out"))
    view = follow("boot-t")
    standby.restart()
    assert standby.stored.load() == (view, "boot-t", "g")


def test_a_row_that_does_not_follow_is_damage(primary: Primary, standby: Standby) -> None:
    # given changes whose rows say all, and one among them that does not follow, although the hash over them is right
    primary.change("first")
    standby.read()
    elsewhere = Primary(MemoryRedis(clock_ms=lambda: 1.0), "w")
    stray = elsewhere.change("stray")
    run = standby.stored._saved.changes.with_row("1-9", stray.header, stray.body)
    standby.stored.close()
    with closing(sqlite3.connect(standby.stored.path)) as db, db:
        db.execute("INSERT INTO change VALUES (1, 9, ?, ?, ?)", (run.link, stray.header, stray.body))
    # then the file is set aside
    standby.start()
    assert standby.stored.set_aside is not None


def _said(path: Path) -> bytes:
    """What a file says of itself, while a node has it."""
    copies = path.parent / "copied"
    copies.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", copies / f"c{suffix}")
    with closing(sqlite3.connect(copies / "c")) as db:
        value: bytes = db.execute("SELECT value FROM meta WHERE key = 'saved'").fetchone()[0]
    shutil.rmtree(copies)
    return value


def test_more_changes_than_are_read_at_once_come_back_whole(primary: Primary, standby: Standby) -> None:
    # given more changes than one query fetches
    records = [primary.change(str(number)) for number in range(3 * checkpoint_file.ROWS_AT_ONCE + 1)]
    # when they were read, then all come back
    standby.read()
    assert list(standby.stored.changes()) == records


def test_a_snapshot_that_passes_by_becomes_the_payload_with_its_last_part(primary: Primary, standby: Standby) -> None:
    # given changes, and a snapshot with changes between its parts
    for number in range(20):
        primary.change(noise(number))
    parts = primary.snapshot()
    bodies = [next(parts).body]
    between = primary.change("between")
    bodies.append(next(parts).body)
    standby.read()
    # when the standby starts again in the middle of it, then it has the parts so far and every change
    standby.restart()
    assert list(standby.stored.staged()) == bodies
    assert standby.stored.payload() is None
    assert standby.state == primary.state
    # when the rest comes, then the snapshot is the payload, and only what it does not contain is left of the changes
    bodies += [part.body for part in parts]
    after = primary.change("after")
    standby.read()
    in_log = sum(len(record.header) + len(record.body) for record in (between, after))
    assert standby.stored.changes_bytes == in_log
    standby.restart()
    assert list(standby.stored.changes()) == [between, after]
    assert list(standby.stored.staged()) == []
    assert standby.stored.payload_bytes == sum(map(len, bodies))
    assert standby.stored.changes_bytes == in_log
    assert standby.state == primary.state


def test_what_the_log_keeps_is_told_by_when_it_is_cut(primary: Primary, standby: Standby) -> None:
    def weights(*records: Record) -> int:
        return sum(len(record.header) + len(record.body) for record in records)

    # given changes and no snapshot, the log has them all
    first = primary.change("first")
    standby.read()
    assert standby.stored.kept_bytes == standby.stored.changes_bytes == weights(first)
    # when a snapshot is complete, it still has those that are in it
    parts = primary.snapshot(size=10)
    next(parts)
    between = primary.change("between")
    list(parts)
    standby.read()
    assert standby.stored.changes_bytes == weights(between)
    assert standby.stored.kept_bytes == weights(first, between)
    # when the next one begins, it does not
    parts = primary.snapshot(size=10)
    next(parts)
    standby.read()
    assert standby.stored.kept_bytes == standby.stored.changes_bytes == weights(between)
    standby.restart()
    assert standby.stored.kept_bytes == standby.stored.changes_bytes == weights(between)
    list(parts)
    standby.read()
    assert (standby.stored.changes_bytes, standby.stored.kept_bytes) == (0, weights(between))
    # after a restart nobody knows any more: as many as there may have been when the snapshot was due
    standby.restart()
    most = changes_bytes_max(standby.stored.payload_bytes)
    assert (standby.stored.changes_bytes, standby.stored.kept_bytes) == (0, most)


def test_part_0_of_another_snapshot_clears_what_was_staged(primary: Primary, standby: Standby) -> None:
    # given a snapshot that its writer gave up, and the first part of the next one
    primary.change(noise(1))
    next(primary.snapshot())
    standby.read()
    again = next(primary.snapshot(size=60))
    # when it is read, then that part is all there is
    standby.read()
    assert list(standby.stored.staged()) == [again.body]


def test_a_new_term_clears_what_was_staged(primary: Primary, standby: Standby) -> None:
    # given a snapshot under way
    primary.change(noise(1))
    parts = primary.snapshot()
    next(parts)
    standby.read()
    # when a new term breaks it off
    primary.promote()
    standby.read()
    # then nothing is staged
    assert list(standby.stored.staged()) == []


def test_a_restore_replaces_all_and_the_changes_behind_as_of_come_again(server: MemoryRedis, tmp_path: Path) -> None:
    # given a standby that stopped early, a log that was trimmed since, and changes between the parts of its snapshot
    primary = Primary(server)
    standby = Standby(server, tmp_path / "s")
    primary.change("early")
    standby.read()
    for _ in range(3):
        for part in primary.snapshot(size=20):
            primary.change(f"after part {part.part}")
    # when the standby reads on
    verdicts = standby.read()
    # then it was rebuilt from the snapshot and has each change once
    assert Verdict.RESTORE in verdicts
    assert standby.state == primary.state
    standby.restart()
    assert standby.state == primary.state
    assert standby.node_state.view == primary.node_state.view
    standby.stored.close()


def test_a_restore_drops_the_changes_of_a_history_that_lost(server: MemoryRedis, tmp_path: Path) -> None:
    # given a standby with changes that Redis lost in a failover
    primary, standby = Primary(server), Standby(server, tmp_path / "s")
    primary.change("kept")
    copy, view, state = server.state, primary.node_state.view, primary.state
    primary.change("lost")
    standby.read()
    server.fail_over(copy, run="run-2")
    # when another node leads in the new run and sends its snapshot
    heir = Primary(server, "v", view)
    heir.state = state
    list(heir.snapshot())
    heir.change("new")
    verdicts = standby.read()
    # then the standby has its history
    assert Verdict.RESTORE in verdicts
    assert standby.state == heir.state == ("kept", "new")
    # and what the log has of those in the snapshot it did not see: as many as there may be
    most = changes_bytes_max(standby.stored.payload_bytes)
    assert standby.stored.kept_bytes == standby.stored.changes_bytes + most
    standby.stored.close()


def test_a_snapshot_that_replaces_the_history_leaves_no_change(primary: Primary, standby: Standby) -> None:
    # given a standby in sync, with changes before and between the parts of a snapshot that replaces the history
    primary.change("before" * 20)
    primary.state = ("another", "state")
    parts = primary.snapshot(size=10, replaces=True)
    next(parts)
    between = primary.change("between")
    # when its last part was read
    primary.state = ("another", "state")
    list(parts)
    verdicts = standby.read()
    # then the state is the snapshot's, and the change between its parts is gone
    assert verdicts[-1] is Verdict.RESTORE
    assert between.id > RecordId(1, 1)
    assert list(standby.stored.changes()) == []
    assert standby.state == ("another", "state")


def test_a_rebasing_primary_adopts_its_own_snapshot(server: MemoryRedis, tmp_path: Path) -> None:
    # given a node whose log lost a change that it has
    primary, standby = Primary(server), Standby(server, tmp_path / "s")
    primary.change("kept")
    copy = server.state
    primary.change("only here")
    standby.read()
    server.fail_over(copy, run="run-2")
    # when it takes the new run's first term and rebases
    standby.log.disconnect()
    standby.node_state = standby.node_state.talks_to("run-2")
    heir = Primary.__new__(Primary)
    heir.server, heir.log, heir.node_state, heir.state = server, standby.log, standby.node_state, primary.state
    heir.promote()
    assert standby.read() == [Verdict.LEAD_AFTER_REBASE]
    verdicts = [standby.fold(part)[0] for part in heir.snapshot(size=20)]
    # then its snapshot is its payload
    assert verdicts[-1] is Verdict.LEAD
    assert list(standby.stored.changes()) == []
    assert standby.state == ("kept", "only here")
    standby.stored.close()


def test_a_stale_part_is_not_staged_in_a_snapshot_of_the_present_term(primary: Primary, standby: Standby) -> None:
    # given a part of a term that is over, and a snapshot of the present term under way
    primary.change(noise(1))
    old = list(primary.snapshot())
    primary.promote()
    now = [next(parts) for parts in [primary.snapshot()]]
    standby.read()
    # when the old parts turn up again
    assert standby.fold(*old) == [Verdict.REJECT_STALE] * len(old)
    # then the snapshot under way is as it was
    assert list(standby.stored.staged()) == [part.body for part in now]
    assert standby.state == primary.state


def test_a_snapshot_of_another_than_the_holder_never_becomes_the_payload(primary: Primary, standby: Standby) -> None:
    # given a standby in sync, and a whole snapshot in one part by a boot that does not hold its term
    primary.change("seen")
    standby.read()
    primary.node_state = primary.node_state._replace(
        me=Writer("x", "boot-x"),
        view=primary.node_state.view._replace(holder=Holder("x", "boot-x", "run-1")),
    )
    name, digest, (body,) = encoded(["foreign"], 1000)
    whole = primary.node_state.part(
        primary.node_state.begin_snapshot(), part=0, parts=1, codec=name, digest=digest, body=body, at=1
    )
    # when it meets that part
    assert standby.fold(whole) == [Verdict.CONFLICT]
    # then its state is still the one of its position, and nothing is staged
    assert standby.stored.payload() is None
    assert list(standby.stored.staged()) == []
    assert standby.state == ("seen",)


def test_steps_that_leave_out_a_part_are_refused_and_nothing_is_saved(primary: Primary, standby: Standby) -> None:
    # given two parts of a snapshot
    primary.change(noise(1))
    standby.read()
    parts = primary.snapshot()
    first, second = next(parts), next(parts)
    _, node_state = standby.node_state.fold(first)
    verdict, node_state = node_state.fold(second)
    # when only the second one is given to save, or none
    for steps in ([Step(second, verdict, node_state.view)], []):
        with pytest.raises(ValueError, match="part"):
            standby.stored.save(node_state.view, steps, boot="boot-s")
    # then the checkpoint is as before
    standby.restart()
    assert standby.fold(first, second) == [Verdict.SKIP, Verdict.SKIP]


def test_what_was_replaced_while_it_was_read_is_not_mixed_with_what_took_its_place(
    primary: Primary, standby: Standby
) -> None:
    # given a reader in the middle of a payload
    for number in range(30):
        primary.change(noise(number))
    list(primary.snapshot())
    standby.read()
    pieces = standby.stored.payload()
    assert pieces is not None
    # when another snapshot takes its place
    list(primary.snapshot())
    standby.read()
    # then it is told so
    with pytest.raises(CheckpointError, match="read it again"):
        list(pieces)


def test_a_payload_that_its_writer_damaged_says_what_to_do(primary: Primary, standby: Standby) -> None:
    # given a snapshot whose digest is not that of its parts
    primary.change("x")
    begun = primary.node_state.begin_snapshot()
    name, _, (body,) = encoded(["x"], 1000)
    primary._part(begun, 0, True, name, "0" * 32, body)
    standby.read()
    # when it is read, then the error says so
    with pytest.raises(CheckpointError, match=r"cannot be decoded .* move the file away"):
        list(standby.stored.payload() or ())


def test_threads_may_save_at_once(tmp_path: Path) -> None:
    # given four threads that save views
    with Checkpoint(tmp_path, "g", node="a") as stored:
        saves = [
            threading.Thread(target=stored.save, args=(View(term=term),), kwargs={"boot": "b"}) for term in (1, 2, 3, 4)
        ]
        # when they run
        for thread in saves:
            thread.start()
        for thread in saves:
            thread.join()
        # then every save was one
        assert stored._saved.save == 4


def test_the_file_and_its_wal_do_not_grow_over_many_snapshots(primary: Primary, standby: Standby) -> None:
    # given a state of some 100 KB, and a checkpoint that has had three snapshots of it
    primary.state = tuple(os.urandom(2000).hex() for _ in range(40))

    def one_more() -> int:
        for part in primary.snapshot(size=20_000):
            standby.fold(part)
        return standby.stored.path.stat().st_size + Path(f"{standby.stored.path}-wal").stat().st_size

    standby.read()
    bound = max(one_more() for _ in range(60))
    # when it has many more
    size = max(one_more() for _ in range(120))
    # then it takes no more room
    assert size <= bound * 1.1


# --- whose file -------------------------------------------------------------------------------------------------------


def _contents(data_dir: Path) -> bytes:
    return (data_dir / "checkpoint.sqlite").read_bytes()


def test_a_file_of_another_group_or_node_is_refused_and_left_alone(tmp_path: Path) -> None:
    # given the checkpoint of node a of group g
    with Checkpoint(tmp_path, "g", node="a") as stored:
        stored.save(View(term=5), boot="b1")
    before = _contents(tmp_path)
    # when another group or node takes the directory, then it is told whose it is
    with pytest.raises(CheckpointError, match="belongs to group g, this is group h"):
        Checkpoint(tmp_path, "h", node="a")
    with pytest.raises(CheckpointError, match="belongs to node a, this is node b"):
        Checkpoint(tmp_path, "g", node="b")
    # and the file is as before
    assert _contents(tmp_path) == before
    with Checkpoint(tmp_path, "g", node="a") as stored:
        assert stored.load() == (View(term=5), "b1", "g")


@pytest.mark.parametrize(
    ("pragma", "message"),
    [
        ("user_version = 2", "its format is 2, .*update replicator"),
        ("application_id = 1", "belongs to another program"),
    ],
)
def test_a_newer_file_or_another_programs_is_refused_and_left_alone(tmp_path: Path, pragma: str, message: str) -> None:
    # given a file that says so
    Checkpoint(tmp_path, "g", node="a").close()
    with closing(sqlite3.connect(tmp_path / "checkpoint.sqlite")) as db:
        db.execute(f"PRAGMA {pragma}")
    before = _contents(tmp_path)
    # when a node starts on it, then it is refused and left alone
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(tmp_path, "g", node="a")
    assert _contents(tmp_path) == before
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint.sqlite", "lock"}


def test_which_boot_worked_here_last_is_known_to_the_next_in_the_same_directory(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "a", "g", node="a") as stored:
        assert stored.lock.ended == ""
        stored.lock.runs("0" * 32)
        stored.lock.runs("b1")
    with Checkpoint(tmp_path / "a", "g", node="a") as stored:
        assert stored.lock.ended == "b1"
        stored.save(View(term=1), boot="b2")
    # it is told until the next one says that it works here
    with Checkpoint(tmp_path / "a", "g", node="a") as stored:
        assert stored.lock.ended == "b1"


def test_in_a_copy_of_a_directory_nobody_knows_whether_that_boot_has_ended(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "a", "g", node="a") as stored:
        stored.lock.runs("b1")
        shutil.copytree(tmp_path / "a", tmp_path / "copy")
    with Checkpoint(tmp_path / "copy", "g", node="a") as stored:
        assert stored.lock.ended == ""


def test_neither_where_a_copy_was_written_over_the_directory_of_another_boot(tmp_path: Path) -> None:
    for name in "ab":
        with Checkpoint(tmp_path / name, "g", node="a") as stored:
            stored.lock.runs(f"boot-{name}")
    (tmp_path / "b" / "lock").write_bytes((tmp_path / "a" / "lock").read_bytes())
    with Checkpoint(tmp_path / "b", "g", node="a") as stored:
        assert stored.lock.ended == ""


def test_a_directory_that_was_moved_is_still_the_same_one(tmp_path: Path) -> None:
    with Checkpoint(tmp_path / "a", "g", node="a") as stored:
        stored.lock.runs("b1")
    (tmp_path / "a").rename(tmp_path / "moved")
    with Checkpoint(tmp_path / "moved", "g", node="a") as stored:
        assert stored.lock.ended == "b1"


@pytest.mark.parametrize("text", [b"", b"pid 1\n", b"\xff" * 600, b"pid %10d\nsave %020d\nboot x\n" % (1, 0)])
def test_a_lock_file_that_says_nothing_of_the_kind_says_of_no_boot_that_it_ended(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "lock").write_bytes(text)
    with Checkpoint(tmp_path, "g", node="a") as stored:
        assert stored.lock.ended == ""


def test_a_second_process_on_the_directory_is_told_who_has_it(tmp_path: Path) -> None:
    # given a process that has the directory
    text = (
        "import sys; from pathlib import Path; from replicator.storage.checkpoint import Checkpoint\n"
        "with Checkpoint(Path(sys.argv[1]), 'g', node='a'): print('ready', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", text, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    # when a second one starts on it, then it is told which one to stop
    with pytest.raises(CheckpointError, match=rf"process {other.pid} is using it; stop it"):
        Checkpoint(tmp_path, "g", node="a")
    # when the first one has ended, then it starts
    other.communicate("")
    Checkpoint(tmp_path, "g", node="a").close()


def test_a_closed_checkpoint_says_so(tmp_path: Path) -> None:
    # given a checkpoint that was closed, twice
    stored = Checkpoint(tmp_path, "g", node="a")
    stored.close()
    stored.close()
    # when it is used, then that is an error
    with pytest.raises(CheckpointError, match="closed"):
        stored.save(View(), boot="b")


# --- what is given up -------------------------------------------------------------------------------------------------


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


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft, "_SLICE_CHANGES", 10)
    monkeypatch.setattr(draft, "_SLICE_PARTS", 2)


def test_what_a_snapshot_takes_the_place_of_is_given_up_at_once_and_deleted_in_slices(
    primary: Primary, standby: Standby, small_slices: None
) -> None:
    # given many changes, a snapshot that is adopted, and one more change
    for number in range(100):
        primary.change(str(number))
    standby.read()
    *_, last = primary.snapshot(size=10_000)
    standby.fold(*standby.log.read(standby.node_state.view.cursor.id).records)
    after = primary.change("after")
    standby.read()
    # then only what is behind it is told, though all of it is there
    assert rows_of(standby.stored) == (101, 1)
    assert list(standby.stored.changes()) == [after]
    assert standby.stored.changes_bytes == len(after.header) + len(after.body)
    assert standby.state == primary.state
    # and it is deleted in slices, in which nothing else changes
    saves = standby.stored._saved.save
    assert not standby.stored.is_tidy
    assert standby.stored.tidy()
    assert rows_of(standby.stored) == (91, 1)
    assert tidied(standby.stored) >= 9
    assert rows_of(standby.stored) == (1, 1)
    assert (list(standby.stored.changes()), standby.state) == ([after], primary.state)
    assert standby.stored._saved.save == saves
    assert last.is_last


def test_parts_that_nobody_needs_are_deleted_in_slices(
    primary: Primary, standby: Standby, small_slices: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a snapshot of many parts, and another one of one part that takes its place
    for number in range(20):
        primary.change(noise(number))
    parts = len(list(primary.snapshot(size=100)))
    standby.read()
    tidied(standby.stored)
    assert rows_of(standby.stored) == (0, parts)
    list(primary.snapshot(size=1_000_000))
    standby.read()
    # then its parts go in slices; a part that is saved has taken one along
    assert rows_of(standby.stored)[1] == parts + 1
    assert standby.stored.tidy()
    assert rows_of(standby.stored)[1] == parts - 1
    tidied(standby.stored)
    assert rows_of(standby.stored) == (0, 1)
    # so do those of one that broke off: here by a new term
    begun = primary.snapshot(size=100)
    for _ in range(9):
        next(begun)
    primary.promote()
    standby.read()
    assert list(standby.stored.staged()) == []
    assert rows_of(standby.stored)[1] == 10
    tidied(standby.stored)
    assert rows_of(standby.stored) == (0, 1)
    assert standby.state == primary.state


def test_a_slice_is_small_in_bytes_too(primary: Primary, standby: Standby, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft, "_SLICE_BYTES", 1000)
    for number in range(10):
        primary.change("x" * 400 + str(number))
    standby.read()
    list(primary.snapshot(size=1_000_000))
    standby.read()
    there = rows_of(standby.stored)[0]
    standby.stored.tidy()
    assert there - rows_of(standby.stored)[0] == 3


def test_a_node_that_is_killed_between_two_slices_goes_on_with_the_rest(
    primary: Primary, standby: Standby, small_slices: None, tmp_path: Path
) -> None:
    # given changes and a payload that were given up, and some behind them, two of which are rows alone
    for number in range(30):
        primary.change(noise(number))
    list(primary.snapshot(size=300))
    standby.read()
    for number in range(35):
        primary.change(str(number))
    list(primary.snapshot(size=300))
    primary.change("after")
    standby.read()
    standby.synced = False
    primary.change("row")
    primary.change("alone")
    standby.read()
    # when it is killed before, between and after slices
    left = True
    slices = 0
    while left:
        copy = tmp_path / f"copy-{slices}"
        shutil.copytree(standby.data_dir, copy)
        left = standby.stored.tidy()
        slices += 1
        again = Standby(primary.server, copy)
        # then nothing is missing, nothing comes twice, and the rest is deleted
        assert again.stored.set_aside is None
        assert again.state == primary.state
        assert again.stored.changes_bytes == standby.stored.changes_bytes
        with Stored(again.stored.write_fork("because", ZERO_ID)) as fork:
            assert list(fork.changes()) == list(again.stored.changes())
        tidied(again.stored)
        assert rows_of(again.stored)[0] == 3
        assert again.state == primary.state
        again.stored.close()
    assert slices > 3


def test_another_snapshot_may_be_adopted_before_all_is_deleted(
    primary: Primary, standby: Standby, small_slices: None
) -> None:
    for _ in range(4):
        for number in range(30):
            primary.change(str(number))
        list(primary.snapshot(size=1_000_000))
        standby.read()
    primary.change("after")
    standby.read()
    assert rows_of(standby.stored)[0] > 30
    standby.restart()
    assert standby.state == primary.state
    tidied(standby.stored)
    assert rows_of(standby.stored) == (1, 1)
    standby.restart()
    assert standby.state == primary.state
    assert standby.stored.is_tidy


def test_a_restore_leaves_nothing_of_what_was_given_up(primary: Primary, standby: Standby, small_slices: None) -> None:
    # given a standby that has not deleted all yet, and misses something
    for number in range(30):
        primary.change(str(number))
    list(primary.snapshot(size=1_000_000))
    standby.read()
    assert not standby.stored.is_tidy
    primary.change("missed")
    primary.change("seen")
    standby.fold(*standby.log.read(standby.node_state.view.cursor.id).records[-1:])
    # when a snapshot takes the place of its state
    list(primary.snapshot(size=1_000_000))
    assert Verdict.RESTORE in standby.read()
    # then there is nothing else
    assert rows_of(standby.stored)[0] == 0
    primary.change("after")
    standby.read()
    standby.restart()
    assert standby.state == primary.state
    tidied(standby.stored)
    assert rows_of(standby.stored) == (1, 1)


def test_a_disk_that_refuses_a_slice_keeps_it_for_later(primary: Primary, standby: Standby, small_slices: None) -> None:
    for number in range(30):
        primary.change(str(number))
    list(primary.snapshot(size=1_000_000))
    standby.read()
    before = rows_of(standby.stored)
    standby.stored._database.connection.execute("PRAGMA query_only = ON")
    with pytest.raises(CheckpointError):
        standby.stored.tidy()
    standby.stored._database.connection.execute("PRAGMA query_only = OFF")
    assert rows_of(standby.stored) == before
    tidied(standby.stored)
    assert rows_of(standby.stored) == (0, 1)


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(primary: Primary, tmp_path: Path) -> Path:
    """A directory as a kill leaves it: a payload, changes, staged parts; some in the file, some in the WAL."""
    standby = Standby(primary.server, tmp_path / "running")
    for number in range(40):
        primary.change(noise(number))
    list(primary.snapshot(size=300))
    primary.change("in the file")
    standby.read()
    tidied(standby.stored)
    standby.restart()
    primary.change("in the WAL")
    primary.promote()
    parts = primary.snapshot(size=300)
    next(parts)
    next(parts)
    standby.read()
    shutil.copytree(standby.data_dir, tmp_path / "left")
    standby.stored.close()
    return tmp_path / "left"


@pytest.fixture
def untidy(primary: Primary, tmp_path: Path, small_slices: None) -> Path:
    """The same in the middle of deleting what was given up."""
    standby = Standby(primary.server, tmp_path / "running")
    for number in range(40):
        primary.change(noise(number))
    list(primary.snapshot(size=300))
    standby.read()
    for number in range(40):
        primary.change(noise(number))
    list(primary.snapshot(size=1_000_000))
    primary.change("in the file")
    standby.read()
    standby.stored.tidy()
    assert rows_of(standby.stored)[0] > 20
    standby.stored.close()
    shutil.copytree(standby.data_dir, tmp_path / "left")
    return tmp_path / "left"


def _try(written: Path, name: str, damage: Callable[[bytearray], None]) -> tuple[str, object]:
    """Damage one of the files of a copy, and start on it: what came of it."""
    copy = written.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(written, copy)
    data = bytearray((copy / name).read_bytes())
    damage(data)
    (copy / name).write_bytes(data)
    try:
        with Checkpoint(copy, "g", node="s") as stored:
            if stored.set_aside is not None:
                assert stored.load() is None
                assert any(path.name.startswith(stored.set_aside.name) for path in copy.iterdir())
                return "set aside", None
            return "loaded", (stored.load(), state_of(stored), list(stored.staged()))
    except CheckpointError as problem:
        return "refused", str(problem)


def _untouched(data: bytearray) -> None:
    pass


def test_a_truncated_file_is_set_aside_at_every_length(written: Path) -> None:
    # given a checkpoint as a kill leaves it, and what it holds
    right = _try(written, "checkpoint.sqlite", _untouched)
    assert right[0] == "loaded"
    for name in ("checkpoint.sqlite", "checkpoint.sqlite-wal"):
        size = (written / name).stat().st_size
        # when the file or its WAL is cut at any of many lengths
        for length in [0, 1, 24, 32, 99, 100, 511, 512, 4095, 4096, *range(0, size, size // 40), size - 1]:
            got = _try(written, name, lambda data, length=length: data.__delitem__(slice(length, None)))  # type: ignore[misc]
            # then it is set aside; what the WAL has anew of a page does not need the file's
            assert got[0] == "set aside" or got == right, (name, length, got)


@pytest.mark.parametrize("name", ["checkpoint.sqlite", "checkpoint.sqlite-wal"])
def test_flipped_bits_never_give_another_state(written: Path, name: str) -> None:
    # given a checkpoint as a kill leaves it, and what it holds
    right = _try(written, name, _untouched)
    size = (written / name).stat().st_size
    outcomes = []
    # when one byte is another one, in any of many places
    for place in [*range(100), *range(100, size, size // 300)]:

        def flip(data: bytearray, place: int = place) -> None:
            data[place] ^= 0x55

        outcome, got = _try(written, name, flip)
        outcomes.append(outcome)
        # then it loads as it was, or is set aside; two numbers in the header make it another program's or a newer one
        assert outcome != "loaded" or got == right[1], place
        assert outcome != "refused" or (name == "checkpoint.sqlite" and 60 <= place < 72), (place, got)
    assert outcomes.count("set aside") > 50


def test_flipped_bits_in_what_was_given_up_never_give_another_state(untidy: Path) -> None:
    name = "checkpoint.sqlite"
    right = _try(untidy, name, _untouched)
    assert right[0] == "loaded"
    size = (untidy / name).stat().st_size
    for place in range(100, size, size // 200):

        def flip(data: bytearray, place: int = place) -> None:
            data[place] ^= 0x55

        outcome, got = _try(untidy, name, flip)
        assert outcome == "set aside" or (outcome, got) == right, place


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = '1-x' WHERE key = 'given_up'",
        "UPDATE meta SET value = 7 WHERE key = 'given_up'",
        "UPDATE meta SET value = '9-9' WHERE key = 'given_up'",
        "DELETE FROM meta WHERE key = 'given_up'",
        "INSERT INTO part VALUES (99, 0, x'00')",
        "UPDATE part SET snapshot = 'x' WHERE snapshot = (SELECT min(snapshot) FROM part)",
    ],
)
def test_what_is_given_up_is_known_for_certain(untidy: Path, statement: str) -> None:
    with closing(sqlite3.connect(untidy / "checkpoint.sqlite", isolation_level=None)) as db:
        db.execute(statement)
    with Checkpoint(untidy, "g", node="s") as stored:
        assert stored.set_aside is not None


def test_a_lost_row_or_a_changed_id_is_found(written: Path) -> None:
    # given statements that leave a sound SQLite file
    for statement in (
        "DELETE FROM change WHERE n = (SELECT max(n) FROM change)",
        "DELETE FROM change WHERE n = (SELECT min(n) FROM change)",
        "UPDATE change SET n = n + 1000",
        "UPDATE change SET link = 'another' WHERE n = (SELECT min(n) FROM change)",
        "UPDATE change SET body = x'5b5d' WHERE n = (SELECT min(n) FROM change)",
        "DELETE FROM part WHERE part = 1",
        "UPDATE part SET part = part + 1000",
        "INSERT INTO part VALUES (99, 0, x'00')",
        "DELETE FROM part WHERE snapshot = (SELECT max(snapshot) FROM part)",
        "DELETE FROM meta",
        "DROP TABLE part",
        "UPDATE meta SET value = 'text'",
    ):
        copy = written.parent / "sound"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(written, copy)
        with closing(sqlite3.connect(copy / "checkpoint.sqlite", isolation_level=None)) as db:
            db.execute(statement)
        # when a node starts on it, then it is set aside
        with Checkpoint(copy, "g", node="s") as stored:
            assert stored.set_aside is not None, statement


def test_a_damaged_file_is_kept_under_another_name_and_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # given a checkpoint that is damaged twice within a second
    names = set()
    for term in (1, 2):
        with Checkpoint(tmp_path, "g", node="a") as stored:
            stored.save(View(term=term), boot="b")
        (tmp_path / "checkpoint.sqlite").write_bytes(b"damaged %d" % term)
        # when a node starts on it
        with Checkpoint(tmp_path, "g", node="a") as stored:
            # then the file is there under the name that is logged at ERROR, and the node begins anew
            assert stored.set_aside is not None
            assert stored.set_aside.read_bytes() == b"damaged %d" % term
            assert stored.set_aside.name.startswith("checkpoint.sqlite.damaged-")
            assert caplog.records[-1].levelname == "ERROR"
            assert str(stored.path) in caplog.text
            assert str(stored.set_aside) in caplog.text
            assert stored.load() is None
            names.add(stored.set_aside)
    assert len(names) == 2
    # when it starts the next time, then nothing is wrong
    with Checkpoint(tmp_path, "g", node="a") as stored:
        assert stored.set_aside is None


def test_an_older_copy_put_back_in_place_of_the_file_is_set_aside(tmp_path: Path) -> None:
    # given a copy of the file from before the last save
    with Checkpoint(tmp_path, "g", node="a") as stored:
        stored.save(View(term=5), boot="b")
    old = _contents(tmp_path)
    with Checkpoint(tmp_path, "g", node="a") as stored:
        stored.save(View(term=6), boot="b")
    # when it takes the file's place, then the term that it lost does not go unnoticed
    (tmp_path / "checkpoint.sqlite").write_bytes(old)
    with Checkpoint(tmp_path, "g", node="a") as stored:
        assert stored.set_aside is not None


# --- the disk ---------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_an_error_and_the_same_save_works_later(primary: Primary, standby: Standby) -> None:
    # given a file that may not grow
    standby.read()
    db = standby.stored._database.connection
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    db.execute(f"PRAGMA max_page_count = {pages}")
    record = primary.change(noise(1, 100_000))
    verdict, after = standby.node_state.fold(record)
    step = Step(record, verdict, after.view)
    # when a save does not fit, then it says how much is free, and nothing was saved
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"full \([\d,.]+ MB are free"):
            standby.stored.save(after.view, [step], boot="boot-s")
    assert list(standby.stored.changes()) == []
    # when there is room again, then the same save works
    db.execute(f"PRAGMA max_page_count = {pages * 1000}")
    standby.stored.save(after.view, [step], boot="boot-s")
    assert list(standby.stored.changes()) == [record]


def test_a_file_that_the_system_does_not_let_grow_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    # given a process that may write 256 KiB to a file
    text = """
import resource, sys
from pathlib import Path
from replicator.storage.checkpoint import Checkpoint
from replicator.protocol.fold import View
from replicator.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, 256 * 1024))
with Checkpoint(Path(sys.argv[1]), "g", node="a") as stored:
    for term in range(1, 1000):
        try:
            stored.save(View(term=term), boot="b")
        except CheckpointError as problem:
            print(stored.load().view.term, problem)
            break
"""
    # when its WAL has reached that
    done = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    term, _, problem = done.stdout.partition(" ")
    # then the save is refused, and the one before it is there
    assert "nothing was saved" in problem
    with Checkpoint(tmp_path, "g", node="a") as stored:
        loaded = stored.load()
        assert loaded is not None
        assert loaded.view.term == int(term) > 1


@pytest.mark.parametrize(("name", "mode"), [(".", 0o500), ("checkpoint.sqlite", 0o000), ("checkpoint.sqlite", 0o400)])
def test_a_directory_or_file_without_permission_is_an_error_and_not_a_fresh_start(
    tmp_path: Path, name: str, mode: int
) -> None:
    (tmp_path / "locked").touch(mode=0)
    if os.access(tmp_path / "locked", os.R_OK):
        pytest.skip("this user may read and write everything")
    # given a checkpoint that this user may not read or write
    with Checkpoint(tmp_path / "a", "g", node="a") as stored:
        stored.save(View(term=5), boot="b")
    (tmp_path / "a" / "lock").unlink()
    (tmp_path / "a" / name).chmod(mode)
    # when a node starts on it, then it does not
    try:
        with pytest.raises(CheckpointError), Checkpoint(tmp_path / "a", "g", node="a") as stored:
            stored.save(View(term=6), boot="b")
    finally:
        (tmp_path / "a" / name).chmod(0o700)
    with Checkpoint(tmp_path / "a", "g", node="a") as stored:
        assert stored.load() == (View(term=5), "b", "g")


@pytest.mark.parametrize("call", ["open", "read"])
def test_a_disk_that_fails_to_read_is_an_error_and_not_a_fresh_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    # given a checkpoint, and a disk on which reading fails
    with Checkpoint(tmp_path, "g", node="a") as stored:
        stored.save(View(term=5), boot="b")

    def failing(*_: object) -> None:
        if call == "open":
            raise OSError(5, "Input/output error", str(tmp_path))
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
        raise error

    with monkeypatch.context() as failure:
        failure.setattr(checkpoint_file, "_check_header" if call == "open" else "_verified", failing)
        # when a node starts on it, then it does not, and the file stays
        with pytest.raises(CheckpointError, match=r"(?i)(input/output|i/o) error"):
            Checkpoint(tmp_path, "g", node="a")
    with Checkpoint(tmp_path, "g", node="a") as stored:
        assert stored.load() == (View(term=5), "b", "g")


def test_a_data_directory_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    # given a file of that name, when a node starts on it, then that is said
    (tmp_path / "a").touch()
    with pytest.raises(CheckpointError, match="exists"):
        Checkpoint(tmp_path / "a", "g", node="a")


# --- forks ------------------------------------------------------------------------------------------------------------


def test_a_fork_is_a_whole_copy_with_its_reason_and_none_is_overwritten(primary: Primary, standby: Standby) -> None:
    # given a standby with a payload and a change
    primary.change("x")
    list(primary.snapshot())
    primary.change("y")
    standby.read()
    # when two forks are written within a second, and the second one's process was killed in its first attempt
    first = standby.stored.write_fork("one", RecordId(1, 1))
    (standby.data_dir / "forks" / "new.sqlite").write_bytes(b"half a file")
    second = standby.stored.write_fork("two", RecordId(1, 1))
    # then both are there, named after the position, with their reasons
    assert first != second
    assert f"-{standby.node_state.view.position.id}" in first.name
    for path, reason in ((first, "one"), (second, "two")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT value FROM meta WHERE key = 'reason'").fetchone() == (reason,)
    assert {path.name for path in first.parent.iterdir()} == {first.name, second.name}
    # and one in place of a checkpoint is read like any
    view = standby.node_state.view
    elsewhere = standby.data_dir.parent / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(first, elsewhere / "checkpoint.sqlite")
    with Checkpoint(elsewhere, "g", node="s") as stored:
        assert stored.load() == (view, "boot-s", "g")
        assert state_of(stored) == ("x", "y")
    # and the standby goes on
    primary.change("z")
    standby.read()
    assert standby.state == ("x", "y", "z")


# --- found by tests.fuzz ----------------------------------------------------------------------------------------------


def test_damage_that_sqlite_tells_in_no_utf8_is_damage_too(written: Path) -> None:
    # given a name in the schema that is no UTF-8, so that not even SQLite's message about it can be read
    def damage(data: bytearray) -> None:
        assert data.count(b"tablepart") == 1
        data[:] = data.replace(b"tablepart", b"tablep\xffrt")

    # then the file is set aside like any other
    assert _try(written, "checkpoint.sqlite", damage)[0] == "set aside"


@pytest.mark.parametrize(
    "table", [b"TABLE part (snapshot INTEGER, part INTEGER, ", b"link TEXT NOT NULL, header BLOB NOT NULL, "]
)
def test_a_column_of_another_name_is_damage(written: Path, table: bytes) -> None:
    # given a letter of the schema that was changed: SQLite itself finds nothing wrong with that
    def damage(data: bytearray) -> None:
        assert data.count(table + b"body") == 1
        data[:] = data.replace(table + b"body", table + b"bodx")

    # then the file is set aside at once, and does not fail when it is read
    assert _try(written, "checkpoint.sqlite", damage)[0] == "set aside"


@pytest.mark.parametrize(
    "change",
    [
        {"base": "é" * 32},
        {"save": 2**64 - 1},
        {"save": -1},
        {"staged": [2**63, [0, 0, "0" * 32]]},
        {"changes": [-1, 0, "0" * 32]},
    ],
    ids=["chain", "save", "negative", "snapshot", "rows"],
)
def test_what_it_says_of_itself_is_in_range_although_its_digest_fits(tmp_path: Path, change: dict[str, object]) -> None:
    # given a file whose own account was written by a program that was wrong
    with Checkpoint(tmp_path / "s", "g", node="s") as stored:
        path = stored.path
    with closing(sqlite3.connect(path)) as db, db:
        value = db.execute("SELECT value FROM meta WHERE key = 'saved'").fetchone()[0]
        data = orjson.dumps(orjson.loads(value[32:]) | change)
        db.execute("UPDATE meta SET value = ?", (codec.digest_of(data).encode() + data,))
        if "base" in change:  # it is looked at with the first row
            db.execute("INSERT INTO change VALUES (1, 1, '', x'', x'')")
    # then it is set aside, and no number of it gets anywhere
    with Checkpoint(tmp_path / "s", "g", node="s") as stored:
        assert stored.set_aside is not None


# --- a power cut ------------------------------------------------------------------------------------------------------


class Cut:
    """A standby whose saves are as they are while it follows changes, and what a power cut could leave of it."""

    def __init__(self, standby: Standby, primary: Primary, place: Path) -> None:
        self.standby, self.primary, self.place = standby, primary, place
        self.wal = Path(f"{standby.stored.path}-wal")
        #: Bytes of the WAL, and the state, after each save.
        self.saves: list[tuple[int, tuple[str, ...]]] = []

    def follow(self, text: str, *, synced: bool) -> None:
        record = self.primary.change(text)
        verdict, self.standby.node_state = self.standby.node_state.fold(record)
        step = Step(record, verdict, self.standby.node_state.view)
        self.standby.stored.save(self.standby.node_state.view, [step], boot="boot-s", synced=synced)
        self.noted()

    def noted(self) -> None:
        self.saves.append((self.wal.stat().st_size, self.primary.state))

    def left(self, upto: int) -> tuple[Path | None, tuple[str, ...]]:
        """Where a damaged file went, if it was set aside, and the state, if so many bytes of the WAL reached the disk.

        All else did: the lock file is written after the save that it names, but may reach the disk before it.
        """
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.standby.data_dir, self.place)
        os.truncate(self.place / "checkpoint.sqlite-wal", upto)
        with Checkpoint(self.place, "g", node="s") as stored:
            return stored.set_aside, () if stored.set_aside else state_of(stored)


@pytest.fixture
def cut(standby: Standby, primary: Primary, tmp_path: Path) -> Cut:
    standby.synced = True
    standby.read()
    return Cut(standby, primary, tmp_path / "cut")


def test_a_power_cut_takes_the_newest_saves_that_were_not_synced_and_nothing_else(cut: Cut) -> None:
    # given a synced save, and three that were not
    cut.follow("one", synced=True)
    for text in ("two", "three", "four"):
        cut.follow(text, synced=False)
    # when the power goes, and any number of the bytes behind the synced save have reached the disk
    (synced, _), (end, _) = cut.saves[0], cut.saves[-1]
    for upto in range(synced, end + 1, 997):
        set_aside, state = cut.left(upto)
        # then the node has the newest save that is whole, and takes it for no damage
        assert set_aside is None
        assert state == [state for size, state in cut.saves if size <= upto][-1]


def test_what_was_synced_and_is_missing_is_damage(cut: Cut) -> None:
    cut.follow("one", synced=True)
    before = cut.saves[-1][0]
    cut.follow("two", synced=False)
    cut.standby.stored.sync()
    set_aside, _ = cut.left(before)
    assert set_aside is not None


def test_it_says_what_outlives_a_power_cut(cut: Cut) -> None:
    stored, node_state = cut.standby.stored, cut.standby.node_state
    assert stored.synced_upto == node_state.view.position.id
    cut.follow("one", synced=False)
    assert stored.synced_upto == node_state.view.position.id
    stored.sync()
    assert stored.synced_upto == cut.standby.node_state.view.position.id > node_state.view.position.id


def test_saves_go_on_while_the_disk_syncs_and_only_those_before_outlive_a_power_cut(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a sync that waits for the disk
    stored = cut.standby.stored
    cut.follow("before", synced=False)
    before = stored.load()
    begun, ends = threading.Event(), threading.Event()
    sync = checkpoint.disk.sync

    def slow(path: Path) -> None:
        begun.set()
        assert ends.wait(PATIENCE_S)
        sync(path)

    monkeypatch.setattr(checkpoint.disk, "sync", slow)
    syncing = in_thread(stored.sync)
    assert begun.wait(PATIENCE_S)
    # when a save comes meanwhile, then it does not wait, and what the sync vouches for is what was there before
    cut.follow("meanwhile", synced=False)
    assert stored.synced_upto < before.view.position.id
    ends.set()
    syncing()
    assert stored.synced_upto == before.view.position.id
    assert not stored.is_synced
    # and when a later save was synced before it ends, it takes nothing of that back
    begun.clear()
    ends.clear()
    syncing = in_thread(stored.sync)
    assert begun.wait(PATIENCE_S)
    cut.follow("later", synced=True)
    ends.set()
    syncing()
    assert stored.synced_upto == cut.standby.node_state.view.position.id
    assert stored.is_synced
    size = cut.wal.stat().st_size
    assert cut.left(size)[0] is None


def test_a_disk_that_refuses_a_sync_is_an_error_and_nothing_is_vouched_for(
    cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    cut.follow("one", synced=False)
    stored, before = cut.standby.stored, cut.standby.stored.synced_upto
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.disk, "sync", refused)
        with pytest.raises(CheckpointError, match="Input/output error"):
            stored.sync()
    # what it could not write the system forgets, and the next sync has nothing to do: its word is worth nothing
    with pytest.raises(CheckpointError, match="an empty data directory on another disk"):
        stored.sync()
    with pytest.raises(CheckpointError, match="may be lost"):
        cut.follow("two", synced=True)
    assert (stored.synced_upto, stored.is_synced) == (before, False)
    # and what does not have to outlive a power cut goes on
    stored.save(cut.standby.node_state.view, (), boot="boot-s", synced=False)


def test_a_synced_save_that_does_not_reach_the_disk_is_the_last_one(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, before = cut.standby.stored, cut.standby.stored.synced_upto
    with monkeypatch.context() as patched:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
        patched.setattr(checkpoint, "_write_saved", Mock(side_effect=error))
        with pytest.raises(CheckpointError, match="disk I/O error"):
            cut.follow("one", synced=True)
    with pytest.raises(CheckpointError, match="may be lost"):
        cut.follow("two", synced=True)
    assert stored.synced_upto == before


def test_a_sync_that_could_not_open_the_file_is_tried_again(cut: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    cut.follow("one", synced=False)
    stored = cut.standby.stored
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.disk, "sync", Mock(side_effect=OSError(errno.EMFILE, "Too many open files")))
        with pytest.raises(CheckpointError, match="Too many open files"):
            stored.sync()
    stored.sync()
    assert stored.is_synced


@pytest.fixture
def synced_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are synced from now on, but for what SQLite does by itself."""
    seen: list[str] = []
    sync = checkpoint.disk.sync

    def noted(path: Path) -> None:
        sync(path)
        seen.append(path.name)

    monkeypatch.setattr(checkpoint.disk, "sync", noted)
    return seen


def test_a_sync_reaches_the_file_wherever_the_process_has_gone(
    server: MemoryRedis, primary: Primary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synced_files: list[str]
) -> None:
    # given a data directory with a relative path, and a process that changes its directory
    monkeypatch.chdir(tmp_path)
    standby = Standby(server, Path("s"), synced=False)
    standby.read()
    primary.change("x")
    standby.read()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    del synced_files[:]
    # then what it vouches for is on the disk
    standby.stored.sync()
    assert synced_files == ["checkpoint.sqlite-wal"]
    assert standby.stored.is_synced


def test_a_directory_that_was_moved_away_is_an_error_and_nothing_is_vouched_for(cut: Cut) -> None:
    cut.follow("one", synced=False)
    stored, before = cut.standby.stored, cut.standby.stored.synced_upto
    os.rename(cut.standby.data_dir, cut.place)
    with pytest.raises(CheckpointError, match="No such file"):
        stored.sync()
    assert (stored.synced_upto, stored.is_synced) == (before, False)


def test_what_a_killed_process_had_not_synced_is_synced_before_it_is_vouched_for(
    cut: Cut, synced_files: list[str]
) -> None:
    # given what a process that is killed leaves behind: its last save is with the system, and not on the disk
    cut.follow("one", synced=False)
    shutil.copytree(cut.standby.data_dir, cut.place)
    del synced_files[:]
    # then the next one, which says that it has that, brings it there
    with Checkpoint(cut.place, "g", node="s") as stored:
        assert stored.synced_upto == cut.standby.node_state.view.position.id
        assert "checkpoint.sqlite-wal" in synced_files


def test_the_mark_of_a_file_that_is_gone_does_not_come_back_behind_a_power_cut(
    cut: Cut, synced_files: list[str]
) -> None:
    # given a checkpoint of many saves that somebody moves away
    cut.follow("one", synced=True)
    cut.follow("two", synced=True)
    cut.standby.stored.close()
    for path in cut.standby.data_dir.glob("checkpoint.sqlite*"):
        path.unlink()
    del synced_files[:]
    # then the new one does not begin before the lock file, on the disk, says nothing of the old one
    cut.standby.start()
    assert synced_files[0] == "lock"
    assert b"save %020d" % 0 in (cut.standby.data_dir / "lock").read_bytes()


def test_a_sync_of_nothing_new_writes_nothing(cut: Cut) -> None:
    cut.follow("one", synced=True)
    size, changed_at = cut.wal.stat().st_size, cut.wal.stat().st_mtime_ns
    cut.standby.stored.sync()
    assert (cut.wal.stat().st_size, cut.wal.stat().st_mtime_ns) == (size, changed_at)
