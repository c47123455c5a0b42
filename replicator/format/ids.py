"""Names of places in a log: record ids, chains, positions, writers. Pure values with `parse` and `str`.

A record id is the stream id that we choose: `<term>-<n>`. Redis refuses an id that is not above the last one, so the
order of ids is the order of the log, and the order of terms comes first in it. `n` counts records since the beginning.
A chain is the running hash of a history; a position, both together, says "this history, up to here".
"""

from __future__ import annotations

import re
from hashlib import sha1
from typing import NamedTuple

from replicator.errors import ConfigError

__all__ = [
    "ERA",
    "N_LEAP",
    "ORIGIN",
    "TERM_LEAP",
    "TERM_MAX",
    "ZERO_CHAIN",
    "ZERO_ID",
    "Position",
    "RecordId",
    "Writer",
    "era_of",
    "extend_chain",
    "is_beyond",
    "new_tuple",
    "next_term",
]

#: `new_tuple(RecordId, (5, 1042))` is `RecordId(5, 1042)`, without the function that every named tuple has for that: it
#: takes longer than the tuple. For the few that are made for each change while a caller waits.
new_tuple = tuple.__new__

#: The terms of an era. The first term taken in a new run of Redis starts a new era: its era begins at a multiple of it.
ERA = 2**20

#: Lua's numbers are doubles: from 2^53 on they skip integers.
TERM_MAX = 2**53 - 1

#: The most that a term may move at a time, 1024 eras: no node missed more runs of Redis (the scripts have the same).
TERM_LEAP = 1024 * ERA

#: The largest gap in n. It grows by one per record; only a rebase leaves a gap, over the history that it abandons.
N_LEAP = 2**40

_SHA1 = sha1(usedforsecurity=False)

_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")


class RecordId(NamedTuple):
    """`<term>-<n>`. Ordered as Redis orders stream ids."""

    term: int
    n: int

    @classmethod
    def parse(cls, text: str) -> RecordId:
        """`"5-1042"` -> `RecordId(5, 1042)`. Raises `ConfigError` for anything else."""
        match = _ID.fullmatch(text)
        if match is None:
            raise ConfigError(setting="position", problem=f"{text!r} is not of the form TERM-N, for example 5-1042")
        return new_tuple(cls, (int(match[1]), int(match[2])))

    def __str__(self) -> str:
        return f"{self.term}-{self.n}"


ZERO_ID = RecordId(0, 0)

#: The chain of the empty history.
ZERO_CHAIN = "0" * 32


class Position(NamedTuple):
    """A record, and the history that ends with it. Nodes at equal positions hold equal states (G6)."""

    id: RecordId
    chain: str

    @classmethod
    def parse(cls, text: str) -> Position:
        """The inverse of `str`: `"5-1042@<32 hex digits>"`. Raises `ConfigError` for anything else."""
        id_, at, chain = text.partition("@")
        if not at or re.fullmatch("[0-9a-f]{32}", chain) is None:
            raise ConfigError(setting="position", problem=f"{text!r} is not of the form TERM-N@CHAIN")
        return cls(RecordId.parse(id_), chain)

    def __str__(self) -> str:
        return f"{self.id}@{self.chain}"


#: The place before the first record.
ORIGIN = Position(ZERO_ID, ZERO_CHAIN)


class Writer(NamedTuple):
    """One boot of one node: its name, and the boot id that it drew at its start."""

    node: str
    boot: str

    def __str__(self) -> str:
        return f"{self.node}/{self.boot}"


def extend_chain(prev: str, header: bytes, body: bytes) -> str:
    """The chain after a record: the first 128 bits of SHA-1 over prev, header and body, as 32 hex digits.

    SHA-1 because it is the only hash that a Redis script has: a promotion extends the chain inside Redis, in the same
    step in which it takes the term. The chain guards against mix-ups and damage, not against a forger who can write to
    Redis.
    """
    # In one piece: what a small record costs here is the calls, not the bytes. A copy: to make a new one, OpenSSL looks
    # for its SHA-1 each time.
    digest = _SHA1.copy()
    digest.update(prev.encode("ascii") + header + body)
    return digest.hexdigest()[:32]


def era_of(term: int) -> int:
    """The era of a term. A node that has read a record of an era has met the history that the log had in it."""
    return term // ERA


def is_beyond(id: RecordId, term: int, n: int) -> bool:
    """Whether `id` is too far ahead to be in the log, as seen by a node that knows `term` and `n`; 0: it knows none."""
    return (term > 0 and id.term > term + TERM_LEAP) or (n > 0 and id.n > n + N_LEAP)


def next_term(effective: int, *, new_run: bool) -> int:
    """The term that a promotion takes: the next one, or in a new run one above every term of earlier runs (G3)."""
    base = (era_of(effective) + 1) * ERA if new_run else effective
    return base + 1
