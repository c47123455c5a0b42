"""A database of SQLite that shows by itself whether it is one moment of itself: money moves between accounts in it.

Pages that were put together of two moments may well pass `integrity_check`. So each transfer touches four trees, and
`audit` holds them against one another: the balances have a constant sum, each of them is what its entries say, the
entries are as many as the counter says, and the index of them has as many as the table.

`Bank` is a program's connection; several of them, in several processes, may have one database.
"""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType

from .kv import PATIENCE_S

__all__ = ["MODES", "Bank", "Broken", "audit", "audited", "content"]

#: The journal modes in which a program may write what others are to read.
MODES = ("wal", "delete", "truncate", "persist")

#: So that the accounts have several pages, of any size.
ACCOUNTS = 48
FILLER_BYTES = 150

OPENING = 1000

_SCHEMA = f"""
CREATE TABLE account (id INTEGER PRIMARY KEY, opening INTEGER, balance INTEGER, filler BLOB);
CREATE TABLE entry (number INTEGER PRIMARY KEY, source INTEGER, target INTEGER, amount INTEGER, note BLOB);
CREATE INDEX entry_by_source ON entry (source);
CREATE TABLE counter (transfers INTEGER, forgotten INTEGER);
INSERT INTO counter VALUES (0, 0);
WITH RECURSIVE n (id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM n WHERE id + 1 < {ACCOUNTS})
INSERT INTO account SELECT id, {OPENING}, {OPENING}, randomblob({FILLER_BYTES}) FROM n;
"""

#: What an account has by its entries.
_MOVED = """
SELECT account.id, account.balance, account.opening
    + coalesce((SELECT sum(amount) FROM entry WHERE target = account.id), 0)
    - coalesce((SELECT sum(amount) FROM entry WHERE source = account.id), 0) AS owed
FROM account GROUP BY account.id HAVING account.balance IS NOT owed
"""


class Broken(AssertionError):
    """What a reader saw was never the content of the database."""


class Bank:
    """One connection to the database at `path`, which is made if it has no accounts yet.

    `mode`: its journal mode; empty: as it is. `page_size`, `auto_vacuum`: of one that is made. `busy_s`: how long it
    waits for a lock.
    """

    def __init__(
        self, path: Path, *, mode: str = "", page_size: int = 4096, auto_vacuum: int = 0, busy_s: float = PATIENCE_S
    ) -> None:
        self.path = path
        self.random = random.Random(str(path))
        self.db = sqlite3.connect(path, isolation_level=None, timeout=busy_s)
        # Power loss is not what is tried here, and syncs are what takes the time.
        self.db.execute("PRAGMA synchronous = OFF")
        if not has_accounts(self.db):
            self._found(page_size, auto_vacuum)
        if mode:
            self.switch(mode)

    def _found(self, page_size: int, auto_vacuum: int) -> None:
        self.db.execute(f"PRAGMA page_size = {page_size}")
        self.db.execute(f"PRAGMA auto_vacuum = {auto_vacuum}")
        self.db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")

    def switch(self, mode: str) -> None:
        """To another journal mode. Raises `sqlite3.OperationalError` where another connection is in the way."""
        ((now,),) = self.db.execute(f"PRAGMA journal_mode = {mode}").fetchall()
        if now != mode:
            raise sqlite3.OperationalError(f"the journal mode stays {now}")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        self.db.execute("BEGIN IMMEDIATE")
        try:
            yield self.db
            self.db.execute("COMMIT")
        except BaseException:
            # A commit that was refused may be tried again. Here nothing of it is kept.
            self.db.execute("ROLLBACK")
            raise

    def transfer(self, times: int = 1, *, note_bytes: int = 40) -> None:
        """So many transactions, each of which moves some money."""
        for _ in range(times):
            with self.transaction():
                self.move(note_bytes)

    def move(self, note_bytes: int = 40) -> None:
        """Within a transaction."""
        source, target = self.random.sample(range(ACCOUNTS), 2)
        amount, db = self.random.randint(1, 50), self.db
        db.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, source))
        db.execute("UPDATE counter SET transfers = transfers + 1")
        db.execute(
            "INSERT INTO entry SELECT transfers, ?, ?, ?, randomblob(?) FROM counter",
            (source, target, amount, note_bytes),
        )
        db.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, target))

    def forget(self, keep: int = 5) -> None:
        """All entries but the newest leave the database, whose file may become smaller by it."""
        with self.transaction() as db:
            ((number,),) = db.execute("SELECT transfers - ? FROM counter", (keep,)).fetchall()
            for column, sign in (("target", "+"), ("source", "-")):
                db.execute(
                    f"UPDATE account SET opening = opening {sign} coalesce("
                    f"(SELECT sum(amount) FROM entry WHERE {column} = account.id AND number <= ?), 0)",
                    (number,),
                )
            gone = db.execute("DELETE FROM entry WHERE number <= ?", (number,)).rowcount
            db.execute("UPDATE counter SET forgotten = forgotten + ?", (gone,))

    @property
    def transfers(self) -> int:
        """How many there were."""
        ((transfers,),) = self.db.execute("SELECT transfers FROM counter").fetchall()
        return int(transfers)

    def close(self) -> None:
        self.db.close()

    def __enter__(self) -> Bank:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def has_accounts(db: sqlite3.Connection) -> bool:
    return bool(db.execute("SELECT 1 FROM sqlite_master WHERE name = 'account'").fetchone())


def audit(db: sqlite3.Connection, *, thorough: bool = True) -> int:
    """How many transfers a reader sees. Raises `Broken` if it is not one moment of the database.

    `thorough`: with `integrity_check`. -1: there is no account yet.
    """
    db.execute("BEGIN")
    try:
        if not has_accounts(db):
            return -1
        return _audited(db, thorough)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            raise
        raise Broken(f"{type(error).__name__}: {error}") from error
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def _audited(db: sqlite3.Connection, thorough: bool) -> int:
    ((balances,),) = db.execute("SELECT sum(balance) FROM account").fetchall()
    ((transfers, forgotten),) = db.execute("SELECT transfers, forgotten FROM counter").fetchall()
    ((entries, newest),) = db.execute("SELECT count(*), max(number) FROM entry NOT INDEXED").fetchall()
    ((indexed,),) = db.execute("SELECT count(source) FROM entry INDEXED BY entry_by_source").fetchall()
    seen = {"sum of balances": balances, "entries": entries, "in the index": indexed, "newest entry": newest or 0}
    due = {"sum of balances": ACCOUNTS * OPENING, "entries": transfers - forgotten, "in the index": entries}
    due["newest entry"] = transfers if entries else newest or 0
    if seen != due:
        raise Broken(f"a reader sees {seen}, where it has to be {due}")
    if wrong := db.execute(_MOVED).fetchall():
        raise Broken(f"accounts are not what their entries say: (id, balance, by its entries) {wrong[:5]}")
    if thorough and (found := db.execute("PRAGMA integrity_check").fetchall()) != [("ok",)]:
        raise Broken(f"integrity_check: {found[:5]}")
    return int(transfers)


def audited(path: Path, *, busy_s: float = PATIENCE_S) -> int:
    """The same, of a database that may not be there yet (-1), by a reader of its own."""
    if not path.exists():
        return -1
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=busy_s)) as db:
        db.isolation_level = None
        return audit(db)


def content(path: Path) -> str:
    """A digest of all that programs can read in a database: what the shell's `.dump` gives, and what is in its header
    for them.
    """
    digest = hashlib.sha256()
    with closing(sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)) as db:
        db.execute("BEGIN")
        for pragma in ("user_version", "application_id", "page_size", "auto_vacuum", "encoding"):
            digest.update(repr(db.execute(f"PRAGMA {pragma}").fetchall()).encode())
        for line in db.iterdump():
            digest.update(line.encode())
    return digest.hexdigest()
