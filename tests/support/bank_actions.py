"""What programs do to a database of SQLite, beside transfers: everything that moves its pages, or where they are.

`ACTIONS` are in an order in which they can follow one another; each leaves a bank in the journal mode in which it
found it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from .bank import Bank

__all__ = ["ACTIONS", "ALONE", "OF_WAL", "Action"]

Action = Callable[[Bank], None]

#: The first part of the WAL index has room for so many frames (sqlite.org/walformat.html, 2.2).
FRAMES_OF_FIRST_INDEX = 4062
FRAME_HEADER_BYTES = 24


def transfers(bank: Bank) -> None:
    bank.transfer(10)


def one_large_transaction(bank: Bank) -> None:
    """More pages than the cache may have: some are written before the commit."""
    bank.db.execute("PRAGMA cache_size = 10")
    with bank.transaction():
        for _ in range(40):
            bank.move(note_bytes=1000)
    bank.db.execute("PRAGMA cache_size = -2000")


def one_that_is_rolled_back(bank: Bank) -> None:
    """What it wrote to the WAL, or over the database, is not to be read."""
    bank.db.execute("PRAGMA cache_size = 10")
    bank.db.execute("BEGIN IMMEDIATE")
    for _ in range(40):
        bank.move(note_bytes=1000)
    bank.db.execute("ROLLBACK")
    bank.db.execute("PRAGMA cache_size = -2000")
    bank.transfer()


def create_an_index(bank: Bank) -> None:
    bank.db.execute("CREATE INDEX IF NOT EXISTS entry_by_amount ON entry (amount, number)")
    bank.transfer(3)


def drop_the_index(bank: Bank) -> None:
    bank.db.execute("DROP INDEX IF EXISTS entry_by_amount")
    bank.transfer(3)


def create_a_table(bank: Bank) -> None:
    with bank.transaction() as db:
        db.execute("CREATE TABLE IF NOT EXISTS other (id INTEGER PRIMARY KEY, value BLOB)")
        for _ in range(60):
            db.execute("INSERT INTO other (value) VALUES (randomblob(300))")
        bank.move()


def alter_a_table(bank: Bank) -> None:
    columns = len(bank.db.execute("PRAGMA table_info (counter)").fetchall())
    bank.db.execute(f"ALTER TABLE counter ADD COLUMN more_{columns} TEXT DEFAULT 'none'")
    bank.transfer()


def drop_the_table(bank: Bank) -> None:
    with bank.transaction() as db:
        db.execute("DROP TABLE IF EXISTS other")
        bank.move()


def vacuum(bank: Bank) -> None:
    bank.transfer()
    bank.db.execute("VACUUM")


def shrink(bank: Bank) -> None:
    """By what `auto_vacuum` says: at the commit, when it is asked for, or not."""
    bank.transfer(20, note_bytes=600)
    bank.forget()
    bank.db.execute("PRAGMA incremental_vacuum").fetchall()


def shrink_with_vacuum(bank: Bank) -> None:
    bank.transfer(20, note_bytes=600)
    bank.forget()
    bank.db.execute("VACUUM")


def stamp(bank: Bank) -> None:
    """What stands in the header for programs."""
    with bank.transaction() as db:
        ((version,),) = db.execute("PRAGMA user_version").fetchall()
        db.execute(f"PRAGMA user_version = {version + 1}")
        db.execute("PRAGMA application_id = 4711")


def another_page_size(bank: Bank) -> None:
    """In WAL mode it stays what it is, so the mode is another one meanwhile."""
    ((mode,),) = bank.db.execute("PRAGMA journal_mode").fetchall()
    if mode == "wal":
        bank.switch("delete")
    ((size,),) = bank.db.execute("PRAGMA page_size").fetchall()
    bank.db.execute(f"PRAGMA page_size = {1024 if size != 1024 else 4096}")
    bank.db.execute("VACUUM")
    bank.switch(mode)
    bank.transfer()


def by_way_of_another_mode(bank: Bank) -> None:
    """From WAL to rollback and back, or the other way round, with a transfer in each."""
    ((mode,),) = bank.db.execute("PRAGMA journal_mode").fetchall()
    bank.switch("delete" if mode == "wal" else "wal")
    bank.transfer()
    bank.switch(mode)
    bank.transfer()


def close_and_open(bank: Bank) -> None:
    """The last one that closes a database in WAL mode checkpoints it, and removes the WAL."""
    bank.close()
    bank.db = sqlite3.connect(bank.path, isolation_level=None, timeout=20.0)
    bank.db.execute("PRAGMA synchronous = OFF")
    bank.transfer()


def checkpoint(kind: str) -> Action:
    def action(bank: Bank) -> None:
        bank.transfer()
        bank.db.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()
        bank.transfer()

    return action


def checkpoint_at_the_end(bank: Bank) -> None:
    """The WAL is empty, and what is new is in the database alone."""
    bank.transfer()
    bank.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def more_frames_than_one_index_has(bank: Bank) -> None:
    """The index goes on in a second part. Nothing is copied into the database meanwhile."""
    ((before,),) = bank.db.execute("PRAGMA wal_autocheckpoint").fetchall()
    ((page_bytes,),) = bank.db.execute("PRAGMA page_size").fetchall()
    bank.db.execute("PRAGMA wal_autocheckpoint = 0")
    bank.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    wal = bank.path.with_name(f"{bank.path.name}-wal")
    while wal.stat().st_size < (FRAMES_OF_FIRST_INDEX + 100) * (page_bytes + FRAME_HEADER_BYTES):
        with bank.transaction():
            for _ in range(40):
                bank.move(note_bytes=page_bytes)
    bank.db.execute(f"PRAGMA wal_autocheckpoint = {before}")


#: By name, as a sentence goes on after "after".
ACTIONS: dict[str, Action] = {
    "transfers": transfers,
    "one large transaction": one_large_transaction,
    "one that is rolled back": one_that_is_rolled_back,
    "CREATE INDEX": create_an_index,
    "CREATE TABLE": create_a_table,
    "ALTER TABLE": alter_a_table,
    "VACUUM": vacuum,
    "DROP INDEX": drop_the_index,
    "DROP TABLE": drop_the_table,
    "forgetting": shrink,
    "forgetting, and VACUUM": shrink_with_vacuum,
    "PRAGMA user_version": stamp,
    "closing and opening": close_and_open,
}

#: For WAL mode alone.
OF_WAL: dict[str, Action] = {
    **{f"wal_checkpoint({kind})": checkpoint(kind) for kind in ("PASSIVE", "FULL", "RESTART", "TRUNCATE")},
    "a checkpoint at the end": checkpoint_at_the_end,
    "more frames than one index has": more_frames_than_one_index_has,
}

#: What a connection of anybody else may be in the way of.
ALONE: dict[str, Action] = {
    "another page size": another_page_size,
    "another journal mode": by_way_of_another_mode,
}
