"""What programs do to a database is read as it is, whatever they do, and nobody is in their way for long."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from replicator.errors import StateError
from replicator.format.pages import PageChange, canonical
from replicator.pages.capture import Base
from replicator.pages.capture_process import Reader
from replicator.storage.shadow import Shadow
from tests.support.kv import PATIENCE_S

MODES = ("wal", "delete", "truncate", "persist", "memory")


class Followed:
    """A database, the process that reads it, and a shadow that is kept up with what that says."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "db"
        self.reader = Reader(self.path)
        #: They are never closed: that would cost the connections of this process their locks.
        self._files: list[int] = []
        self._drafts = 0
        self.shadow = self._nothing(directory)

    def _nothing(self, directory: Path) -> Shadow:
        (directory / "shadow").touch()
        shadow = Shadow.found(directory / "shadow")
        assert shadow is not None
        return shadow

    def look(self) -> bytes | str | None:
        shadow = self.shadow
        base = Base(shadow.path, shadow.inode, shadow.page_size, shadow.count, shadow.digest)
        return self.reader.look(shadow.path, base)

    def follow(self) -> str:
        """What it took: nothing, a change, or all of it."""
        found = self.look()
        if isinstance(found, bytes):
            change = PageChange.of(found, id_="test")
            self.shadow.check(change, id_="test")
            self.shadow.make(change)
            return "change"
        return "nothing" if found is None else self._draw()

    def _draw(self) -> str:
        self._drafts += 1
        draft = self.path.with_name(f"draft-{self._drafts}")
        self.reader.draw(draft)
        drawn = Shadow.found(draft)
        assert drawn is not None
        self.shadow = drawn
        return "all"

    def spoil(self, path: Path, number: int) -> None:
        """Change a page of the file, past SQLite and past the node."""
        self._files.append(os.open(path, os.O_RDWR))
        size = self.shadow.page_size
        os.pwrite(self._files[-1], b"!", number * size - 1)

    def check(self) -> None:
        """The shadow is the database, and its digest is right."""
        assert self.shadow.counted() == self.shadow.digest
        with closing(sqlite3.connect(self.path)) as db:
            all_of_it = db.serialize()
        size = self.shadow.page_size
        pages = (all_of_it[at : at + size] for at in range(0, len(all_of_it), size))
        assert b"".join(self.shadow.pieces()) == b"".join(canonical(n, page) for n, page in enumerate(pages, 1))


@pytest.fixture
def followed(tmp_path: Path) -> Iterator[Followed]:
    it = Followed(tmp_path)
    yield it
    it.reader.close()


def opened(path: Path, mode: str = "wal", page_size: int = 4096) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=PATIENCE_S)
    db.execute(f"PRAGMA page_size = {page_size}")
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute(f"PRAGMA journal_mode = {mode}")
    db.execute("PRAGMA synchronous = OFF")
    db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, value BLOB)")
    return db


def something(db: sqlite3.Connection, chance: random.Random) -> None:
    """One thing that a program may do."""
    size = chance.choice((10, 300, 5000, 60_000))
    what = chance.choice(
        (
            f"INSERT INTO t (value) VALUES (randomblob({size}))",
            f"UPDATE t SET value = randomblob({size}) WHERE id % 7 = {chance.randrange(7)}",
            f"DELETE FROM t WHERE id % 5 = {chance.randrange(5)}",
            f"INSERT INTO t (value) SELECT randomblob({size // 10 + 1}) FROM t LIMIT 40",
            f"CREATE TABLE IF NOT EXISTS t{chance.randrange(4)} (x)",
            f"DROP TABLE IF EXISTS t{chance.randrange(4)}",
            "CREATE INDEX IF NOT EXISTS i ON t (value)",
            "DROP INDEX IF EXISTS i",
            "VACUUM",
            "PRAGMA incremental_vacuum(20)",
            f"PRAGMA wal_checkpoint({chance.choice(('PASSIVE', 'FULL', 'RESTART', 'TRUNCATE'))})",
            f"PRAGMA user_version = {chance.randrange(1000)}",
        )
    )
    db.execute(what).fetchall()


@pytest.mark.parametrize("mode", MODES)
def test_whatever_a_program_does_the_shadow_is_its_database(followed: Followed, mode: str) -> None:
    chance = random.Random(mode)
    with closing(opened(followed.path, mode, page_size=chance.choice((512, 1024, 4096)))) as db:
        followed.follow()
        for turn in range(60):
            for _ in range(chance.randrange(4)):
                something(db, chance)
            followed.follow()
            assert followed.follow() == "nothing"
            if turn % 4 == 0:
                followed.check()
        followed.check()


def test_an_audit_finds_what_the_log_does_not_tell_and_a_shadow_that_was_changed(
    followed: Followed, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(opened(followed.path)) as db:
        for _ in range(40):
            db.execute("INSERT INTO t (value) VALUES (zeroblob(3000))")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("UPDATE t SET value = zeroblob(2999) WHERE id = 1")
        followed.follow()
        followed.follow()
        followed.spoil(followed.path, 30)
        db.execute("UPDATE t SET value = zeroblob(2998) WHERE id = 1")
        assert followed.follow() == "change"
        assert followed.shadow.page(30)[-1:] != b"!"  # the log did not tell
        followed.reader.close()
        followed.reader = Reader(followed.path, audit_every_s=0)
        followed.follow()  # all of it, in any case: this one knows of no log yet
        followed.follow()
        assert "pages that its log did not tell" not in caplog.text
        followed.spoil(followed.path, 31)
        db.execute("UPDATE t SET value = zeroblob(2997) WHERE id = 1")
        followed.follow()
        assert "had 1 changed pages that its log did not tell" in caplog.text
        followed.check()
        followed.spoil(followed.shadow.path, 20)
        assert followed.follow() == "all"
        followed.check()


def test_a_database_that_a_program_has_for_itself_is_refused_and_read_once_it_has_not(followed: Followed) -> None:
    for mode in ("wal", "delete"):
        with closing(opened(followed.path, mode)) as db:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")
            db.execute("INSERT INTO t (value) VALUES (1)")
            with pytest.raises(StateError):
                followed.follow()
        assert followed.follow() in ("change", "all")
        followed.check()


def test_what_is_no_database_is_refused_and_one_of_another_page_size_is_sent_as_a_whole(followed: Followed) -> None:
    with pytest.raises(StateError):
        followed.follow()
    followed.path.write_bytes(b"no database" * 100)
    with pytest.raises(StateError):
        followed.follow()
    followed.path.unlink()
    with closing(opened(followed.path, "delete", page_size=1024)) as db:
        followed.follow()
        db.execute("INSERT INTO t (value) VALUES (zeroblob(9000))")
        assert followed.follow() == "change"
        db.execute("PRAGMA page_size = 8192")
        db.execute("VACUUM")
        assert followed.follow() == "all"
        db.execute("INSERT INTO t (value) VALUES (zeroblob(40000000))")
        assert followed.follow() == "all"
        followed.check()
    # another file in its place
    with closing(opened(followed.path.with_name("other"), "delete", page_size=8192)) as other:
        other.execute("INSERT INTO t (value) VALUES (2)")
    followed.path.with_name("other").rename(followed.path)
    followed.follow()
    followed.check()


def test_a_reader_that_was_killed_is_followed_by_another_one(followed: Followed) -> None:
    with closing(opened(followed.path)) as db:
        followed.follow()
        assert followed.reader._child is not None
        followed.reader._child.kill()
        followed.reader._child.wait()
        db.execute("INSERT INTO t (value) VALUES (1)")
        with pytest.raises(StateError, match="another one is started"):
            followed.follow()
        assert followed.follow() == "change"
        followed.check()


def test_two_that_ask_at_the_same_time_get_an_answer_each(followed: Followed) -> None:
    with closing(opened(followed.path)) as db, ThreadPoolExecutor() as threads:
        followed.follow()
        db.execute("INSERT INTO t (value) VALUES (randomblob(200000))")
        one = followed.look()
        assert isinstance(one, bytes)
        assert set(threads.map(lambda _: followed.look(), range(40))) == {one}
