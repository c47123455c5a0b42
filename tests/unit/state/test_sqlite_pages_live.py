"""A standby's database that follows what is published by pages, while programs read it."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from replicator.pages import live as module
from replicator.replica.pages_updater import PagesUpdater
from tests.support.bank import Bank, Broken, audit, audited, content
from tests.support.bank_actions import ACTIONS, ALONE, OF_WAL
from tests.support.file_locks import looked_at
from tests.support.kv import PATIENCE_S, eventually
from tests.support.page_group import PageGroup

PAGE_BYTES = 512

#: The machine may be busy.
FOLLOW_S = 90.0

#: The modes in which the database of a standby can be read while it follows.
READ_MODES = ("delete", "truncate", "persist")


@contextmanager
def read_all_the_time(path: Path) -> Iterator[list[int]]:
    """A reader with one connection, and one that opens it anew each time. What they see may not go back."""
    over, seen, wrong = Event(), [0], list[BaseException]()

    def read() -> None:
        with closing(sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)) as db:
            while not over.wait(0.001):
                for found in (audit(db, thorough=False), audited(path)):
                    if found < seen[-1]:
                        raise Broken(f"a reader saw {found} after {seen[-1]}")
                    seen.append(found)

    def run() -> None:
        try:
            read()
        except BaseException as error:
            wrong.append(error)

    thread = Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
    assert wrong == []


def follows(pair: PageGroup) -> None:
    def follow() -> bool:
        with suppress(OSError, sqlite3.DatabaseError):
            return content(pair.theirs) == content(pair.ours)
        return False

    eventually(follow, "the path follows", patience_s=FOLLOW_S)


@pytest.mark.parametrize(("ours", "theirs"), [("wal", "delete"), ("delete", "persist"), ("wal", "truncate")])
def test_readers_of_a_standby_see_one_moment_after_the_other(tmp_path: Path, ours: str, theirs: str) -> None:
    actions = ACTIONS | (OF_WAL if ours == "wal" else {}) | ALONE
    with (
        PageGroup(tmp_path, live=True) as pair,
        Bank(pair.ours, mode=ours, page_size=PAGE_BYTES, auto_vacuum=2) as bank,
    ):
        pair.carry()
        follows(pair)
        with closing(sqlite3.connect(pair.theirs)) as reader, read_all_the_time(pair.theirs) as seen:
            reader.execute(f"PRAGMA journal_mode = {theirs}")
            for name, action in actions.items():
                action(bank)
                pair.carry()
                try:
                    follows(pair)
                except AssertionError as error:
                    raise AssertionError(f"after {name}") from error
            eventually(lambda: seen[-1] == bank.transfers, patience_s=3 * PATIENCE_S)
        assert len(set(seen)) > 5
        assert not list(tmp_path.glob("theirs.db.replaced-*"))


def test_a_reader_without_end_goes_on_reading_and_the_path_follows_after_it(tmp_path: Path) -> None:
    with PageGroup(tmp_path, live=True) as pair, Bank(pair.ours) as bank:
        bank.transfer()
        pair.carry()
        follows(pair)
        with closing(sqlite3.connect(pair.theirs, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM entry").fetchall()
            for _ in range(3):
                bank.transfer(3)
                pair.carry()
                assert reader.execute("SELECT transfers FROM counter").fetchall() == [(1,)]
                assert pair.are_equal()
            reader.execute("ROLLBACK")
            follows(pair)
            assert audit(reader) == 10


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_what_a_program_writes_on_a_standby_is_said_and_kept_and_is_no_part_of_what_it_leads_with(
    tmp_path: Path, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    with PageGroup(tmp_path, live=True) as pair, Bank(pair.ours) as bank:
        bank.transfer()
        pair.carry()
        follows(pair)
        with Bank(pair.theirs, mode=mode) as strange:
            strange.transfer(50)
        bank.transfer()
        pair.carry()
        eventually(lambda: "was written by something else" in caplog.text, patience_s=3 * PATIENCE_S)
        assert pair.are_equal()
        pair.group.end_lease()
        pair.b.promote(timeout_s=PATIENCE_S)
        assert content(pair.theirs) == content(pair.ours)
        kept = [path for path in tmp_path.glob("theirs.db.replaced-*") if not path.name.endswith(("-wal", "-shm"))]
        assert [audited(path) for path in kept] == [51]


def test_whenever_it_is_killed_what_was_there_or_what_is_to_be_there_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []

    def write(path: Path, pages: Any, count: int) -> None:
        really(path, pages, count)
        written.append(path.with_name(f"{path.name}-journal").read_bytes())

    with PageGroup(tmp_path, live=True) as pair, Bank(pair.ours, page_size=PAGE_BYTES, mode="delete") as bank:
        bank.transfer(3)
        pair.carry()
        follows(pair)
        before, old = pair.theirs.read_bytes(), audited(pair.theirs)
        really = module._write_journal
        monkeypatch.setattr(module, "_write_journal", write)
        bank.transfer(3, note_bytes=500)
        pair.carry()
        follows(pair)
        new, after = bank.transfers, pair.theirs.read_bytes()
    journal = written[0]
    left = tmp_path / "left"
    # killed before the header of the journal was written: however much of the rest was
    for size in range(0, len(journal), 97):
        leave(left, before, bytes(512) + journal[512:size])
        assert audited(left) == old
    # afterwards: whatever SQLite had put back of it, and how often it began
    chance = random.Random(3)
    for _ in range(20):
        torn = bytearray(before.ljust(chance.choice((len(before), len(after))), b"\0"))
        for at in range(0, min(len(torn), len(after)), PAGE_BYTES):
            if chance.random() < 0.5:
                torn[at : at + PAGE_BYTES] = after[at : at + PAGE_BYTES]
        leave(left, bytes(torn), journal)
        assert audited(left) == new
        assert left.read_bytes()[200:] == after[200:]


def leave(path: Path, data: bytes, journal: bytes) -> None:
    path.write_bytes(data)
    path.with_name(f"{path.name}-journal").write_bytes(journal)


def test_nobody_reads_while_the_journal_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is there before, and after: no descriptor of the database is closed meanwhile."""
    seen: list[bool] = []
    synced: list[bytes] = []
    with PageGroup(tmp_path, live=True) as pair, Bank(pair.ours) as bank, looked_at() as onlooker:
        bank.transfer(3)
        pair.carry()
        follows(pair)

        def write(path: Path, pages: Any, count: int) -> None:
            seen.append(bool(onlooker.sees(path)))
            really(path, pages, count)
            seen.append(bool(onlooker.sees(path)))
            shutil.copyfile(path, tmp_path / "untouched")

        def sync(descriptor: int) -> None:
            journal = pair.theirs.with_name(f"{pair.theirs.name}-journal")
            if journal.exists() and os.path.samestat(journal.stat(), os.fstat(descriptor)):
                synced.append(journal.read_bytes())

        really = module._write_journal
        monkeypatch.setattr(module, "_write_journal", write)
        monkeypatch.setattr(module.disk, "sync_descriptor", sync)
        bank.transfer()
        pair.carry()
        follows(pair)
    assert seen == [True, True]
    # and what makes it count comes when the rest is on the disk
    before, after = synced[:2]
    assert before[:512] == bytes(512) != after[:512]
    assert before[512:] == after[512:]
    assert audited(tmp_path / "untouched") == 3


def test_a_step_that_comes_too_late_leaves_alone_what_the_program_of_a_new_primary_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A live write looks whether it is still to be done once it has the state for itself, and not before."""
    began, may_go_on, over = Event(), Event(), Event()

    def tried(updater: PagesUpdater) -> bool:
        began.set()
        may_go_on.wait(PATIENCE_S)
        try:
            return really(updater)
        finally:
            over.set()

    really = PagesUpdater._tried
    monkeypatch.setattr(PagesUpdater, "_tried", tried)
    with PageGroup(tmp_path, live=True) as pair, Bank(pair.ours, mode="delete", page_size=PAGE_BYTES) as bank:
        # given a standby that is about to bring its database up to date
        for _ in range(2):
            bank.transfer()
            pair.carry()
        eventually(began.is_set)
        # when it comes to lead, and its program writes, before that is done
        pair.b.promote(timeout_s=PATIENCE_S)
        with Bank(pair.theirs) as theirs:
            theirs.transfer()
            may_go_on.set()
            eventually(over.is_set)
            # then what the program wrote is there
            assert audit(theirs.db) == 3
        assert audited(pair.theirs) == 3
        assert list(tmp_path.glob("theirs.db.replaced-*")) == []
