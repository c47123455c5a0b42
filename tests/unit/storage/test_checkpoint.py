"""The checkpoint alone: what it keeps, what it gives back, and whose it is. A file or a disk that is wrong, and what is
given up, are in test_checkpoint_*.py.

Records come from a real NodeState over a MemoryRedis. What a kill leaves is tested in
integration/test_checkpoint_kill.py.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from replicator.errors import CheckpointError
from replicator.format import codec
from replicator.format.ids import Position, RecordId, Writer
from replicator.format.records import Record
from replicator.format.sealing import Key, Keyring, Sealing
from replicator.format.snapshot_parts import Progress
from replicator.protocol.fold import Holder, Verdict, View
from replicator.protocol.node_state import NodeState
from replicator.protocol.snapshot_due import changes_bytes_max
from replicator.storage import checkpoint, checkpoint_file
from replicator.storage.checkpoint import Checkpoint, Step
from replicator.storage.directory_lock import DirectoryLock, Mark
from replicator.storage.save_transaction import ROWS_TOGETHER
from replicator.testing import MemoryRedis
from tests.support.checkpoint_child import encoded, state_of
from tests.support.checkpoints import Primary, Standby, contents, noise, tidied

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
    version=st.integers(1, 2**31),
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
    assume((name, fault) != ("version", "missing"))  # it is the first one then
    value = saved["view"].pop(name, 1)
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


def test_what_the_file_says_of_itself_is_said_anew_after_so_many_changes(
    primary: Primary, standby: Standby, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a file that is to say it after two changes, synced or not
    monkeypatch.setattr(checkpoint, "_UNSAID_MAX", 2)
    primary.change("x")
    standby.read()
    said = [_said(standby.stored.path)]
    # when five come, one at a time
    for turn in range(5):
        standby.synced = turn % 2 == 0
        primary.change("y")
        standby.read()
        said.append(_said(standby.stored.path))
    # then every third one said so, with the first
    assert said[0] == said[1] != said[2] == said[3] == said[4] != said[5]
    standby.restart()
    assert standby.stored.load() == (primary.node_state.view, "boot-s", "g")


def test_a_mark_of_changes_counts_for_the_save_that_it_is_of(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    lock.runs("b1")
    lock.mark(Mark(7, 3))
    lock.release()
    # when it is taken again, then it is there, and so is the boot
    lock = DirectoryLock(tmp_path)
    assert (lock.marked, lock.ended) == ((7, 3), "b1")
    lock.mark(Mark(7, 4))
    lock.release()
    lock = DirectoryLock(tmp_path)
    assert (lock.marked, lock.ended) == ((7, 4), "b1")
    # and that another boot works here takes nothing of it
    lock.runs("b2-longer")
    lock.release()
    lock = DirectoryLock(tmp_path)
    assert (lock.marked, lock.ended) == ((7, 4), "b2-longer")
    lock.release()
    # and when a program of before, which knows the first two lines, has marked another save, then no changes count
    text = (tmp_path / "lock").read_bytes()
    (tmp_path / "lock").write_bytes(text.replace(b"save %020d" % 7, b"save %020d" % 8, 1))
    lock = DirectoryLock(tmp_path)
    assert lock.marked == (8, 0)
    lock.release()


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
    # then the node finds itself in it, also when the parts are gone of which nothing comes any more
    tidied(standby.stored)
    standby.restart()
    assert standby.stored.set_aside is None
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


@pytest.mark.parametrize("more", [-1, 0, 1, ROWS_TOGETHER + 1])
def test_changes_that_are_saved_at_once_come_back_whole_however_many_fit_into_a_statement(
    primary: Primary, standby: Standby, more: int
) -> None:
    records = [primary.change(str(number)) for number in range(ROWS_TOGETHER + more)]
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


def test_a_file_of_another_group_or_node_is_refused_and_left_alone(tmp_path: Path) -> None:
    # given the checkpoint of node a of group g
    with Checkpoint(tmp_path, "g", node="a") as stored:
        stored.save(View(term=5), boot="b1")
    before = contents(tmp_path)
    # when another group or node takes the directory, then it is told whose it is
    with pytest.raises(CheckpointError, match="belongs to group g, this is group h"):
        Checkpoint(tmp_path, "h", node="a")
    with pytest.raises(CheckpointError, match="belongs to node a, this is node b"):
        Checkpoint(tmp_path, "g", node="b")
    # and the file is as before
    assert contents(tmp_path) == before
    with Checkpoint(tmp_path, "g", node="a") as stored:
        assert stored.load() == (View(term=5), "b1", "g")


def test_a_file_with_sealed_records_has_a_number_that_older_programs_know_as_newer(tmp_path: Path) -> None:
    """They look at it in the file itself, before SQLite opens it, and say: update replicator. Nothing is set aside."""

    def number() -> int:
        return int.from_bytes((tmp_path / "checkpoint.sqlite").read_bytes()[60:64], "big")

    # given a file of a group without a key
    with Checkpoint(tmp_path, "g", node="a"):
        assert number() == 1
    # when the group has a key, then the file says so while the node runs: it may be killed
    key = Key(b"k" * 32)
    opens = Sealing(Keyring(key, {key.id: key}, takes_unsealed=True), "g", random=os.urandom)
    with Checkpoint(tmp_path, "g", node="a", opens=opens) as stored:
        assert (number(), stored.set_aside) == (2, None)
    # and today's program reads it, also without the key
    with Checkpoint(tmp_path, "g", node="a") as stored:
        assert (number(), stored.set_aside) == (2, None)


@pytest.mark.parametrize(
    ("pragma", "message"),
    [
        ("user_version = 3", "its format is 3, .*update replicator"),
        ("application_id = 1", "belongs to another program"),
    ],
)
def test_a_newer_file_or_another_programs_is_refused_and_left_alone(tmp_path: Path, pragma: str, message: str) -> None:
    # given a file that says so
    Checkpoint(tmp_path, "g", node="a").close()
    with closing(sqlite3.connect(tmp_path / "checkpoint.sqlite")) as db:
        db.execute(f"PRAGMA {pragma}")
    before = contents(tmp_path)
    # when a node starts on it, then it is refused and left alone
    with pytest.raises(CheckpointError, match=message):
        Checkpoint(tmp_path, "g", node="a")
    assert contents(tmp_path) == before
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
