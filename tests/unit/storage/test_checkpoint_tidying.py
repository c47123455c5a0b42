"""What a checkpoint gives up: it counts no more at once, and is deleted in slices."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from replicator.errors import CheckpointError
from replicator.format.ids import ZERO_ID
from replicator.protocol.fold import Verdict
from replicator.storage import save_transaction
from replicator.storage.checkpoint_reader import CheckpointReader
from replicator.testing import MemoryRedis
from tests.support.checkpoints import Primary, Standby, noise, rows_of, tidied


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
    monkeypatch.setattr(save_transaction, "_SLICE_BYTES", 1000)
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
        with CheckpointReader(again.stored.write_fork("because", ZERO_ID)) as fork:
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
    assert list(standby.stored.changes()) == []
    primary.change("after")
    standby.read()
    standby.restart()
    assert standby.state == primary.state
    tidied(standby.stored)
    assert rows_of(standby.stored) == (1, 1)


@pytest.mark.parametrize("misses", [False, True], ids=["replaces", "restore"])
def test_a_snapshot_in_the_place_of_all_there_is_gives_it_up_and_deletes_nothing_at_once(
    primary: Primary, standby: Standby, small_slices: None, misses: bool
) -> None:
    # given many changes, none of them after what the snapshot is of
    for number in range(100):
        primary.change(str(number))
    standby.read()
    if misses:
        primary.change("missed")
        primary.change("seen")
        standby.fold(*standby.log.read(standby.node_state.view.cursor.id).records[-1:])
    # when it is adopted
    list(primary.snapshot(size=1_000_000, replaces=not misses))
    assert Verdict.RESTORE in standby.read()
    # then it counts alone, though all is there; what comes then is beside that, also after a restart
    assert rows_of(standby.stored)[0] >= 90
    assert standby.stored.changes_bytes == 0
    after = primary.change("after")
    standby.read()
    standby.restart()
    assert list(standby.stored.changes()) == [after]
    assert standby.state == primary.state
    assert tidied(standby.stored) >= 9
    assert rows_of(standby.stored) == (1, 1)


def test_what_lost_and_has_higher_ids_than_what_follows_is_deleted_at_once(
    server: MemoryRedis, primary: Primary, standby: Standby, small_slices: None
) -> None:
    # given a standby that has more of a term than a log which lost its end, and then went on in that term
    for number in range(20):
        primary.change(str(number))
    kept, seen = server.state, primary.node_state
    for number in range(40):
        primary.change(f"lost {number}")
    standby.read()
    server.state = kept
    primary.node_state, primary.state = seen, tuple(str(number) for number in range(20))
    list(primary.snapshot(size=1_000_000, replaces=True))
    # when the snapshot comes by that is as of a record before those
    standby.node_state = standby.node_state._replace(
        view=standby.node_state.view._replace(in_sync=False, cursor=seen.view.position)
    )
    assert Verdict.RESTORE in standby.read()
    # then none of them can be taken for what follows
    assert rows_of(standby.stored)[0] == 0
    primary.change("after")
    standby.read()
    standby.restart()
    assert standby.state == primary.state


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
