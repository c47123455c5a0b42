"""The goals of a database that is replicated by pages (`goals.py` holds them against what was measured)."""

from __future__ import annotations

__all__ = ["SQLITE_GOALS"]

#: What is held to it, and what a user gets; its figure, and another one; the bound.
SQLITE_GOALS = (
    (
        "WAL, 304 MB: what the primary writes",
        "The program has its disk for itself.",
        *("wal, 304 MB: primary written MB/s", "", 0.0, "MB/s"),
    ),
    (
        "WAL, 304 MB: what the standby writes",
        "A standby writes what changed, and not the database: any disk will do, and a small one lasts.",
        *("wal, 304 MB: standby written MB/s", "", 0.3, "MB/s"),
    ),
    (
        "WAL, 304 MB: processor that it adds to an idle primary",
        "The program has its processor for itself.",
        *("wal, 304 MB: primary added cpu share", "", 0.01, "%"),
    ),
    (
        "WAL, 304 MB: processor that it adds to an idle standby",
        "One machine can be the standby of dozens of programs.",
        *("wal, 304 MB: standby added cpu share", "", 0.01, "%"),
    ),
    (
        "rollback, 54 MB: processor that it adds to an idle primary",
        "A small database need not be put into WAL mode to be replicated.",
        *("delete, 54 MB: primary added cpu share", "", 0.01, "%"),
    ),
    (
        "rollback, 304 MB: processor that it adds to an idle primary",
        "Nor need a large one: all of it is read, but not all the time.",
        *("delete, 304 MB: primary added cpu share", "", 0.04, "%"),
    ),
    (
        "WAL: processor of the primary, 304 MB against 54",
        "A database may grow: what it costs goes by what changes.",
        *("wal, 304 MB: primary cpu share", "wal, 54 MB: primary cpu share", 1.2, "x"),
    ),
    (
        "WAL, 54 MB: committed to readable, p50",
        "Whoever reads on a standby sees what was written a moment ago.",
        *("wal, 54 MB: readable p50 s", "", 0.15, "s"),
    ),
    (
        "WAL, 54 MB: p99 of a commit",
        "A program whose database is replicated commits as fast as one alone.",
        *("wal, 54 MB: commit p99 ms", "wal, 54 MB: commit alone p99 ms", 1.1, "x"),
    ),
    (
        "WAL, 304 MB: p99 of a commit",
        "And so it does however large its database is.",
        *("wal, 304 MB: commit p99 ms", "wal, 304 MB: commit alone p99 ms", 1.1, "x"),
    ),
)
