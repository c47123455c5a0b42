"""What programs do to a database, action by action: the standby's is equal after each of them, its readers see one
moment of it, and SQLite's locks are what they were.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from replicator.errors import StateInUse
from replicator.state.sqlite import SQLiteState
from tests.support.bank import MODES, Bank, Broken, audit, audited, content
from tests.support.bank_actions import ACTIONS, ALONE, OF_WAL, Action
from tests.support.file_locks import Onlooker, looked_at

#: Sizes of pages, each with a kind of auto_vacuum: none, full, incremental.
SIZES = {512: 2, 4096: 0, 65536: 1}


@pytest.fixture(scope="module")
def onlooker() -> Iterator[Onlooker]:
    with looked_at() as onlooker:
        yield onlooker


def actions_in(mode: str, page_size: int) -> dict[str, Action]:
    """All that can be done. More frames than one index has are cheap with small pages alone."""
    actions = ACTIONS | (OF_WAL if mode == "wal" else {}) | ALONE
    return {name: action for name, action in actions.items() if page_size == 512 or "frames" not in name}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("page_size", SIZES)
def test_after_each_action_of_a_program_the_standby_has_what_the_primary_has(
    tmp_path: Path, mode: str, page_size: int
) -> None:
    ours, theirs = SQLiteState(tmp_path / "ours"), SQLiteState(tmp_path / "theirs")
    with Bank(ours.path, mode=mode, page_size=page_size, auto_vacuum=SIZES[page_size]) as bank:
        for name, action in actions_in(mode, page_size).items():
            seen = ours.seen()
            action(bank)
            assert ours.seen() != seen, name
            theirs.restore(ours.snapshot())
            assert audited(theirs.path) == bank.transfers, name
            assert content(theirs.path) == content(ours.path), name


@pytest.mark.parametrize("mode", MODES)
def test_whatever_is_done_to_a_database_the_locks_of_this_process_stay(
    tmp_path: Path, mode: str, onlooker: Onlooker
) -> None:
    ours, theirs = SQLiteState(tmp_path / "ours"), SQLiteState(tmp_path / "theirs", busy_s=0.0)
    bank, other = (Bank(state.path, mode=mode) for state in (ours, theirs))
    bank.transfer()
    with bank, other:
        for db in (bank.db, other.db):
            db.execute("BEGIN")
            assert audit_within(db) >= 0
        reader = bank.db

        def seen() -> list[bool]:
            suffixes = ("", "-shm") if mode == "wal" else ("",)
            return [bool(onlooker.sees(state.path, suffix)) for state in (ours, theirs) for suffix in suffixes]

        assert all(seen())
        for _ in range(2):
            ours.seen(), theirs.seen()
            assert all(seen()), "to look at it"
            pieces = list(ours.snapshot())
            ours.published()
            assert all(seen()), "a snapshot"
            try:
                theirs.restore(pieces)
            except StateInUse:
                assert mode != "wal"
            assert all(seen()), "a restore"
        assert audit_within(reader) == 1


def audit_within(db: sqlite3.Connection) -> int:
    ((transfers,),) = db.execute("SELECT transfers FROM counter").fetchall()
    return int(transfers)


@pytest.mark.parametrize("mode", MODES)
def test_a_reader_of_a_standby_sees_one_moment_for_as_long_as_it_reads(tmp_path: Path, mode: str) -> None:
    ours, theirs = SQLiteState(tmp_path / "ours"), SQLiteState(tmp_path / "theirs", busy_s=0.0)
    with Bank(ours.path) as bank, Bank(theirs.path, mode=mode) as there:
        bank.transfer(10)
        theirs.restore(ours.snapshot())
        with closing(sqlite3.connect(theirs.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert audit_within(reader) == 10
            for name, action in (ACTIONS | OF_WAL).items():
                if "frames" in name:
                    continue
                action(bank)
                try:
                    theirs.restore(ours.snapshot())
                except StateInUse:
                    assert mode != "wal", name
                assert audit_within(reader) == 10, name
                assert reader.execute("SELECT count(*), max(number) FROM entry").fetchall() == [(10, 10)], name
            reader.execute("ROLLBACK")
            theirs.restore(ours.snapshot())
            assert audit(reader) == bank.transfers == audit(there.db)


@pytest.mark.parametrize("mode", MODES)
def test_a_program_that_waits_for_no_lock_loses_nothing(tmp_path: Path, mode: str) -> None:
    ours, theirs = SQLiteState(tmp_path / "ours"), SQLiteState(tmp_path / "theirs")
    with Bank(ours.path, mode=mode, busy_s=0.0) as bank:
        done = 0
        pieces = ours.snapshot()
        first = next(pieces)
        for _ in range(20):
            bank.transfer()
            done += 1
            assert audited(ours.path) == done
        assert done == 20
        theirs.restore([first, *pieces])
        assert audited(theirs.path) == 0
        theirs.restore(ours.snapshot())
        assert audited(theirs.path) == 20


@pytest.mark.parametrize("mode", MODES)
def test_what_a_killed_program_left_beside_the_path_is_no_part_of_what_was_published(tmp_path: Path, mode: str) -> None:
    # given a database that was killed in the middle of its work: its WAL, or its journal, has what is newer, or undone
    ours, theirs = SQLiteState(tmp_path / "ours"), SQLiteState(tmp_path / "theirs")
    left_behind(tmp_path / "theirs", mode)
    assert (tmp_path / f"theirs{'-wal' if mode == 'wal' else '-journal'}").stat().st_size > 0
    with Bank(ours.path) as bank:
        bank.transfer(7)
        # when what was published is put there
        theirs.restore_in_use(ours.snapshot())
        # then it is that, and what was there is kept
        assert audited(theirs.path) == 7
        assert content(theirs.path) == content(ours.path)
    assert len([path for path in tmp_path.glob("theirs.replaced-*") if path.stat().st_size]) == 1


def left_behind(path: Path, mode: str) -> None:
    """The files of a program that was killed in the middle of a transaction, some of which is in the database."""
    with Bank(path.with_name("killed"), mode=mode) as bank:
        bank.transfer(20)
        bank.db.execute("PRAGMA cache_size = 5")
        bank.db.execute("BEGIN IMMEDIATE")
        for _ in range(30):
            bank.move(note_bytes=2000)
        for suffix in ("", "-wal", "-journal"):
            there = Path(f"{bank.path}{suffix}")
            if there.exists():
                Path(f"{path}{suffix}").write_bytes(there.read_bytes())
        bank.db.execute("ROLLBACK")


def test_pages_of_two_moments_are_found_where_sqlite_sees_nothing_wrong(tmp_path: Path) -> None:
    with Bank(tmp_path / "bank", mode="delete", page_size=512) as bank:
        bank.transfer(5)
        before = bank.path.read_bytes()
        bank.transfer(5)
        after = bank.path.read_bytes()
    changed = [at for at in range(0, len(after), 512) if before[at : at + 512] != after[at : at + 512]]
    broken = []
    for at in changed[1:]:  # the first one has the counter of changes
        bank.path.write_bytes(after[:at] + before[at : at + 512] + after[at + 512 :])
        with pytest.raises(Broken) as error:
            audited(bank.path)
        broken.append("integrity_check" in str(error.value))
    assert not all(broken)


def test_an_onlooker_sees_that_a_lock_was_given_away(tmp_path: Path, onlooker: Onlooker) -> None:
    with Bank(tmp_path / "bank", mode="delete") as bank:
        bank.db.execute("BEGIN IMMEDIATE")
        assert onlooker.sees(bank.path) == os.getpid()
        bank.path.read_bytes()
        assert onlooker.sees(bank.path) == 0
        bank.db.execute("ROLLBACK")
