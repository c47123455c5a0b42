"""Brings a database up to date in place, page by page, while programs read it: SQLite itself does it.

A rollback journal has pages as they were, and the size that the database had. Whoever opens a database beside which one
lies puts these back, before anything else, under an exclusive lock, and begins again if he is killed in the middle. So
a journal with pages *as they are to be* makes the database that, whole or not at all, whatever is killed when: here, or
in the first program that comes along (sqlite.org/fileformat.html, 3, *The Rollback Journal*).

It is written while this process holds the exclusive lock, so nobody reads and nobody has another journal. Its header
comes last, and makes it count. Programs that have the database open see by the counter of changes in its header that
their pages are old, and by the counter of the schema that their statements are.

Only outside of WAL mode: programs in WAL mode look for no journal. And only where nobody else wrote: the header of the
database has to be the one that was left (`Left`).
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import struct
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

from ..format.pages import lock_page
from ..storage import disk

__all__ = ["BUSY_S", "HEADER_BYTES", "MODE", "NOT_WAL", "SCHEMA", "Left", "NotAsLeft", "catch_up", "journal_of"]

#: How long programs that read are waited for. Longer, and all that come after them would wait for the slowest.
BUSY_S = 0.2

_MAGIC = bytes.fromhex("d9d505f920a163d7")
_SECTOR_BYTES = 512

#: The header of a database.
HEADER_BYTES = 100
_HEADER = struct.Struct(">8sIIIII")

#: In the header of a database: the mode (outside of WAL), the counters of changes and of the schema, and the counter of
#: changes as of which the number of pages is right.
MODE, _COUNTER, SCHEMA, _VALID_FOR, _LIBRARY = (
    slice(18, 20),
    slice(24, 28),
    slice(40, 44),
    slice(92, 96),
    slice(96, 100),
)
NOT_WAL = b"\x01\x01"


class NotAsLeft(Exception):
    """Somebody else wrote it, or it is in WAL mode: it cannot be brought up to date in place."""


class Left(NamedTuple):
    """A database as it was left: its header, and the counter of the schema of what was published then."""

    header: bytes
    schema: bytes


def journal_of(pages: Mapping[int, bytes], page_count: int, page_size: int) -> tuple[bytes, bytes]:
    """The header, padded, and the records. Without the page that SQLite leaves alone: a journal would end there."""
    nonce = secrets.randbits(32)
    records = bytearray()
    carried = 0
    for number, page in pages.items():
        if number != lock_page(page_size):
            checksum = (nonce + sum(page[page_size - 200 : 0 : -200])) & 0xFFFFFFFF
            records += number.to_bytes(4, "big") + page + checksum.to_bytes(4, "big")
            carried += 1
    header = _HEADER.pack(_MAGIC, carried, nonce, page_count, _SECTOR_BYTES, page_size)
    return header.ljust(_SECTOR_BYTES, b"\0"), bytes(records)


def _nobody(*headers: bytes) -> None:
    """Where nobody is to know."""


def catch_up(
    path: Path,
    left: Left,
    pages: Mapping[int, bytes],
    page_count: int,
    *,
    header_of: Callable[[], bytes | None],
    noting: Callable[..., None] = _nobody,
) -> Left:
    """Put these pages, page 1 among them, into a database that is as it was left; how it is left now.

    `header_of` reads its first 100 bytes, and closes nothing. `noting` is given both headers before it is moved.

    Raises `NotAsLeft`; `sqlite3.OperationalError` if
    programs do not let go of it; `OSError`. It is what it was then, or it is as it is to be.
    """
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=BUSY_S)) as db:
        db.isolation_level = None
        db.execute("PRAGMA fullfsync = ON")
        db.execute("BEGIN EXCLUSIVE")
        if header_of() != left.header or left.header[MODE] != NOT_WAL:
            raise NotAsLeft
        first = _first_page(left, pages[1])
        noting(left.header, first[:HEADER_BYTES])
        _write_journal(path, {**pages, 1: first}, page_count)
        db.execute("COMMIT")
        with suppress(sqlite3.OperationalError):  # another one is at it: whoever reads next finds it done
            db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    return Left(first[:HEADER_BYTES], pages[1][SCHEMA])


def _first_page(left: Left, page: bytes) -> bytes:
    """Page 1 as it is to be in this file, which has counters of its own."""
    first = bytearray(page)
    counter = _after(left.header[_COUNTER])
    first[MODE], first[_COUNTER], first[_VALID_FOR] = NOT_WAL, counter, counter
    first[_LIBRARY] = left.header[_LIBRARY]
    schema = left.header[SCHEMA]
    first[SCHEMA] = schema if page[SCHEMA] == left.schema else _after(schema)
    return bytes(first)


def _after(counter: bytes) -> bytes:
    return ((int.from_bytes(counter, "big") + 1) & 0xFFFFFFFF).to_bytes(4, "big")


def _write_journal(path: Path, pages: Mapping[int, bytes], page_count: int) -> None:
    """The caller has the exclusive lock, so a journal that is there is one that counts for nobody."""
    real = Path(os.path.realpath(path))
    journal = real.with_name(f"{real.name}-journal")
    header, records = journal_of(pages, page_count, len(pages[1]))
    with suppress(FileNotFoundError):
        journal.unlink()
    descriptor = disk.create(journal)
    try:
        disk.write(descriptor, bytes(len(header)) + records)
        disk.take_after(descriptor, real.stat())
        disk.sync_descriptor(descriptor)
        os.pwrite(descriptor, header, 0)
        disk.sync_descriptor(descriptor)
    except BaseException:
        journal.unlink()
        raise
    finally:
        os.close(descriptor)
    disk.sync(real.parent)
