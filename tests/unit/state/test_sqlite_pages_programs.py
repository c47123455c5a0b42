"""What programs do to a database that is replicated by pages: whatever it is, standbys have what was committed."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from replicator.errors import StateError
from replicator.format.pages import NO_PAGES, PageChange
from replicator.pages import capture as module
from replicator.pages import files
from replicator.pages.capture import Base, Capture
from replicator.state import sqlite_pages
from replicator.state.sqlite_pages import SQLitePages
from tests.support.bank import MODES, Bank, audit, audited, content
from tests.support.bank_actions import ACTIONS, ALONE, OF_WAL
from tests.support.bank_program import BankProgram
from tests.support.file_locks import looked_at
from tests.support.kv import PATIENCE_S
from tests.support.page_group import PageGroup

#: Sizes of pages, each with a kind of auto_vacuum: none, full, incremental.
SIZES = {512: 2, 4096: 0, 65536: 1}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("page_size", SIZES)
def test_after_each_action_of_a_program_the_standby_has_what_the_primary_has(
    tmp_path: Path, mode: str, page_size: int
) -> None:
    actions = ACTIONS | (OF_WAL if mode == "wal" else {}) | ALONE
    if page_size != 512:
        del actions["another page size"]  # from each size to another is the same
        actions.pop("more frames than one index has", None)
    with (
        PageGroup(tmp_path) as pair,
        Bank(pair.ours, mode=mode, page_size=page_size, auto_vacuum=SIZES[page_size]) as bank,
    ):
        for name, action in actions.items():
            action(bank)
            published = pair.carry()
            assert published.what != "nothing", name
            assert pair.are_equal(), name
            assert pair.publish().what == "nothing", name
        pair.group.end_lease()
        pair.b.promote(timeout_s=PATIENCE_S)
        assert content(pair.theirs) == content(pair.ours)
        assert audited(pair.theirs) == bank.transfers


@pytest.mark.parametrize("mode", MODES)
def test_what_is_published_while_a_program_works_is_one_moment_of_its_database(tmp_path: Path, mode: str) -> None:
    with PageGroup(tmp_path) as pair:
        Bank(pair.ours, mode=mode).close()
        with BankProgram(pair.ours, tmp_path / "said", mode=mode, every_s=0.0, acts=True) as program:
            seen = {0}
            while len(seen) < 25:
                pair.carry()
                newest = audited(pair.shadow())
                assert newest >= max(seen)
                seen.add(newest)
                assert program.said is None or program.said.refusals == 0
            program.end()
        pair.carry()
        assert pair.are_equal()


def test_programs_that_wait_for_no_lock_are_not_refused_in_wal_mode_and_lose_nothing_otherwise(tmp_path: Path) -> None:
    for mode in ("wal", "delete"):
        (tmp_path / mode).mkdir()
        with PageGroup(tmp_path / mode) as pair:
            Bank(pair.ours, mode=mode).close()
            said = tmp_path / mode / "said"
            with BankProgram(pair.ours, said, mode=mode, every_s=0.001, busy_s=0.0) as program:
                program.has_begun()
                for _ in range(50):
                    pair.publish()
                program.end()
                assert program.said is not None
                assert mode != "wal" or program.said.refusals == 0
            pair.carry()
            assert audited(pair.shadow()) == audited(pair.ours) >= program.said.transfers


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_readers_without_end_are_in_nobodys_way(tmp_path: Path, mode: str) -> None:
    """Of the primary, and of what a standby has at its path."""
    with PageGroup(tmp_path) as pair, Bank(pair.ours, mode=mode) as bank:
        bank.transfer(5)
        pair.carry()
        with closing(sqlite3.connect(pair.ours, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            assert audit_within(reader) == 5
            if mode == "wal":  # in the others nobody can write beside a reader
                for action in (*ACTIONS.values(), OF_WAL["wal_checkpoint(PASSIVE)"]):
                    if action not in (ACTIONS["VACUUM"], ACTIONS["closing and opening"]):
                        action(bank)
                    pair.carry()
                    assert pair.are_equal()
            assert audit_within(reader) == 5
            reader.execute("ROLLBACK")
        bank.transfer()
        pair.carry()
        assert audited(pair.shadow()) == bank.transfers


def audit_within(db: sqlite3.Connection) -> int:
    ((transfers,),) = db.execute("SELECT transfers FROM counter").fetchall()
    return int(transfers)


@pytest.mark.parametrize("mode", MODES)
def test_a_look_has_its_locks_until_it_has_read_the_last_byte(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closes a descriptor too early lets programs write what is being read."""
    path, empty = tmp_path / "bank", tmp_path / "empty"
    empty.touch()
    base = Base(empty, empty.stat().st_ino, 4096, 0, NO_PAGES)
    seen: list[int] = []
    closed: list[int] = []
    with Bank(path, mode=mode) as bank, looked_at() as onlooker:
        bank.transfer(3)
        bank.close()  # in this process there is no lock but that of the look

        def at_the_end(files: Any) -> None:
            still(files)
            seen.append(onlooker.sees(path))
            if mode == "wal":
                seen.append(onlooker.sees(path, "-shm"))

        def at_the_close(files: Any) -> None:
            closed.append(onlooker.sees(path))  # SQLite has closed its own before
            close(files)

        still, close = module.Files.check_still, module.Files.close
        monkeypatch.setattr(module.Files, "close", at_the_close)
        monkeypatch.setattr(module.Files, "check_still", at_the_end)
        capture = Capture(path)
        assert capture.look(base).change is not None
        capture.draw(tmp_path / "drawn")
        assert seen == [os.getpid()] * (4 if mode == "wal" else 2)
        assert closed == [0, 0]


def test_the_locks_of_programs_stay_whatever_a_node_does_beside_them(tmp_path: Path) -> None:
    """Of this process, in which the nodes are, too: the worst place for them."""
    for mode in ("wal", "delete"):
        (tmp_path / mode).mkdir()
        with PageGroup(tmp_path / mode) as pair, Bank(pair.ours, mode=mode) as bank, looked_at() as onlooker:
            for number in range(5):
                bank.transfer()
                bank.db.execute("BEGIN")
                assert audit_within(bank.db) == number + 1
                pair.carry()
                assert onlooker.sees(pair.ours) != 0
                assert mode != "wal" or onlooker.sees(pair.ours, "-shm") != 0
                bank.db.execute("ROLLBACK")


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_another_database_in_its_place_is_published_as_it_is(tmp_path: Path, mode: str) -> None:
    with PageGroup(tmp_path) as pair:
        with Bank(pair.ours, mode=mode) as bank:
            bank.transfer(4)
        pair.carry()
        # as a program does that restores a backup
        with Bank(tmp_path / "backup", mode=mode) as bank:
            bank.transfer(9)
        (tmp_path / "backup").replace(pair.ours)
        pair.carry()
        assert audited(pair.shadow()) == 9
        assert pair.are_equal()
        # one that has the same inode, and other content of the same length
        with Bank(tmp_path / "backup", mode=mode) as bank:
            bank.transfer(7)
        pair.ours.write_bytes((tmp_path / "backup").read_bytes())
        pair.carry()
        assert audited(pair.shadow()) == 7
        assert pair.are_equal()


def test_what_cannot_be_read_is_said_and_what_was_published_stays(tmp_path: Path) -> None:
    with PageGroup(tmp_path) as pair:
        with Bank(pair.ours, mode="wal") as bank:
            bank.transfer(4)
            pair.carry()
        with closing(sqlite3.connect(pair.ours, isolation_level=None)) as db:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("UPDATE counter SET transfers = transfers")
            with pytest.raises(StateError):
                pair.a.publish()
        pair.ours.rename(tmp_path / "away")
        with pytest.raises(StateError):
            pair.a.publish()
        pair.ours.write_bytes(b"no database" * 1000)
        with pytest.raises(StateError):
            pair.a.publish()
        assert audited(pair.shadow()) == 4
        (tmp_path / "away").rename(pair.ours)
        with Bank(pair.ours) as bank:
            bank.transfer()
            pair.carry()
            assert audited(pair.shadow()) == 5
            assert audit(bank.db) == 5


def test_a_log_that_is_begun_anew_under_a_look_is_read_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it was in the database: the look has no lock that keeps a writer from the beginning of the log."""
    path, empty, made = tmp_path / "bank", tmp_path / "empty", tmp_path / "made"
    empty.touch()
    base = Base(empty, empty.stat().st_ino, 512, 0, NO_PAGES)
    looks = 0
    with Bank(path, mode="wal", page_size=512) as bank:
        bank.transfer(30)
        bank.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

        def pieces(files: Any, *arguments: Any) -> Any:
            nonlocal looks
            looks += 1
            if looks == 1:
                bank.transfer(40)
            return really(files, *arguments)

        really = module.Files.pieces
        monkeypatch.setattr(module.Files, "pieces", pieces)
        change = Capture(path).look(base).change
        assert change is not None
        assert looks == 2
        made.write_bytes(b"".join(change.pages.values()))
        assert audited(made) == 70


class Published:
    """A shadow of pages of 512 bytes that becomes what a look says."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.base = Base(path, path.stat().st_ino, 512, 0, NO_PAGES)

    def becomes(self, change: PageChange | None) -> None:
        assert change is not None
        with self.path.open("r+b") as file:
            for number, page in change.pages.items():
                file.seek((number - 1) * 512)
                file.write(page)
            file.truncate(change.page_count * 512)
        self.base = self.base._replace(page_count=change.page_count, digest=change.digest)


def test_a_log_that_is_begun_anew_under_a_glance_gives_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the salts of the log, after it was read, says that frames were overwritten meanwhile."""
    published, frames = Published(tmp_path / "shadow"), 0
    with Bank(tmp_path / "bank", mode="wal", page_size=512) as bank:

        def in_frame(files: Any, frame: int) -> bytes:
            nonlocal frames
            frames += 1
            if frames == 1:
                bank.db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                bank.transfer(40)
            return really(files, frame)

        bank.transfer(30)
        capture = Capture(bank.path)
        published.becomes(capture.look(published.base).change)
        bank.transfer()
        really = module.Files.in_frame
        monkeypatch.setattr(module.Files, "in_frame", in_frame)
        published.becomes(capture.look(published.base).change)
        assert frames > 1
        assert audited(published.path) == 71


@pytest.mark.parametrize("glances", [True, False])
def test_a_log_that_is_cut_off_while_it_is_read_is_read_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, glances: bool
) -> None:
    """Neither a glance nor a look at a log that is all in the database keeps a program from that."""
    published, cuts = Published(tmp_path / "shadow"), 0
    with Bank(tmp_path / "bank", mode="wal", page_size=512) as bank:

        def frames_since(files: Any, before: Any) -> Any:
            nonlocal cuts
            cuts += 1
            if cuts == 1:
                bank.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return really(files, before)

        really = module.Files.frames_since
        capture = Capture(bank.path)
        if glances:
            published.becomes(capture.look(published.base).change)
        bank.transfer(30)
        bank.db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        monkeypatch.setattr(module.Files, "frames_since", frames_since)
        published.becomes(capture.look(published.base).change)
        assert cuts > 1
        assert audited(published.path) == 30


@pytest.mark.parametrize("mode", MODES)
def test_what_is_read_only_to_compare_it_holds_up_nothing_where_a_log_tells_what_changed(
    tmp_path: Path, mode: str
) -> None:
    published = Published(tmp_path / "shadow")
    with Bank(tmp_path / "bank", mode=mode, page_size=512) as bank:
        bank.transfer()
        capture = Capture(bank.path, audit_every_s=0)
        first = capture.look(published.base)
        published.becomes(first.change)
        bank.transfer()
        audited_too = capture.look(published.base)
        published.becomes(audited_too.change)
        assert audited(published.path) == 2
        assert first.held_s > 0
        assert (capture.draw(tmp_path / "drawn") > 0) is (mode != "wal")
        assert (audited_too.held_s > 0) is (mode != "wal"), "nobody can commit meanwhile"


def test_a_database_rests_for_its_programs_and_never_for_longer_than_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a busy machine takes to read it."""
    with Bank(tmp_path / "bank", mode="delete"):
        pass
    state, shadow, now = SQLitePages(tmp_path / "bank"), Mock(), 0.0
    monkeypatch.setattr(sqlite_pages, "time", SimpleNamespace(monotonic=lambda: now))
    for held_s, rest_s in ((0.01, 0.5), (1.0, 50.0), (100.0, 60.0)):
        monkeypatch.setattr(state, "_reader", Mock(held_s=held_s, was_wal=False))
        for reads in (lambda: state.look(shadow), lambda: state.draw(tmp_path / "drawn")):
            reads()
            now += rest_s - 0.01
            assert state.rests
            now += 0.02
            assert not state.rests


#: Commits once for each line that it reads, and has the database for itself if it is told so.
COMMITS = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA locking_mode = " + sys.argv[2])
db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall() if sys.argv[3] else None
for line in sys.stdin:
    db.execute("UPDATE counter SET forgotten = forgotten + 1")
    print("done", flush=True)
"""


@pytest.mark.parametrize("checkpoints", ["", "first"])
def test_an_index_that_a_killed_program_left_is_not_believed_once_the_next_has_one_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: str
) -> None:
    """What the next one commits is in the log, and not in that index."""
    published = Published(tmp_path / "shadow")
    with Bank(tmp_path / "bank", mode="wal", page_size=512) as bank:
        pass

    @contextmanager
    def program(mode: str, checkpoints: str) -> Iterator[None]:
        words = [sys.executable, "-c", COMMITS, str(bank.path), mode, checkpoints]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            process.stdin.write(b"once\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            assert process.stdout.readline() == b"done\n"  # type: ignore[union-attr]
            yield
            process.kill()

    capture = Capture(bank.path)
    with program("NORMAL", ""):
        published.becomes(capture.look(published.base).change)
    monkeypatch.setattr(files, "BUSY_S", 0.0)
    with program("EXCLUSIVE", checkpoints), pytest.raises(sqlite3.OperationalError, match="locked"):
        capture.look(published.base)


def test_a_log_that_only_grew_is_read_without_a_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To open a database with SQLite takes longer than all else of a look."""
    published = Published(tmp_path / "shadow")
    with Bank(tmp_path / "bank", mode="wal", page_size=512) as bank:
        bank.transfer()
        capture = Capture(bank.path)
        published.becomes(capture.look(published.base).change)
        monkeypatch.setattr(module, "held", Mock(side_effect=AssertionError("a transaction")))
        assert capture.look(published.base).change is None
        bank.transfer()
        published.becomes(capture.look(published.base).change)
        assert audited(published.path) == 2
