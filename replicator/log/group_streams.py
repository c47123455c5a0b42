"""The streams of a group that its nodes read: the log, requests to the group, and acks. One XREAD asks for all of them.

It is sent again for every change that comes alone, so what nearly every read is has a short way: it asks for one group,
and finds records and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from replicator.format.ids import new_tuple
from replicator.format.records import Closed, Opens
from replicator.log.interface import Batch, ReadRequest

from .replies import ack_of, parse_entries, request_of, vouched_acks

__all__ = ["GroupStreams", "xread"]


class GroupStreams:
    """Those of one group: their keys."""

    def __init__(self, log: bytes, requests: bytes, acks: bytes) -> None:
        self._log = log
        self._requests = requests
        self._acks = acks

    def places(self, wants: ReadRequest) -> list[tuple[bytes, str]]:
        """The keys to read, each with the id after which."""
        places: list[tuple[bytes, str]] = []
        if wants.after is not None:
            places.append((self._log, str(wants.after)))
        if wants.requests_after:
            places.append((self._requests, wants.requests_after))
        if wants.acks_after:
            places.append((self._acks, wants.acks_after))
        return places

    def found(self, wants: ReadRequest, entries: Mapping[bytes, list[Any]], opens: Opens) -> Batch:
        """What an XREAD found for this group; `entries` by key.

        `opens`: what opens its records, and vouches for all that is no record.
        """
        records, corrupt = parse_entries(entries.get(self._log, ()), opens)
        if len(entries) == 1 and records:
            return new_tuple(Batch, (records, [], corrupt, (), wants.acks_after, ()))
        acks = entries.get(self._acks, [])
        told = (ack for ack in map(ack_of, acks) if ack is not None)
        vouched, forged = vouched_acks(told, None if isinstance(opens, Closed) else opens)
        return Batch(
            records,
            [request_of(entry) for entry in entries.get(self._requests, ())],
            corrupt,
            vouched,
            str(acks[-1][0], "ascii") if acks else wants.acks_after,
            forged,
        )


def xread(places: Sequence[tuple[bytes, str]], *, most: int, block_ms: int | None) -> Sequence[Any]:
    """The XREAD of at most `most` entries of each of these streams, after these ids; empty if there is none to read.

    It waits for the first entry; `block_ms` None: it does not.
    """
    if not places:
        return ()
    command: list[Any] = [b"XREAD", b"COUNT", most]
    if block_ms is not None:
        command += b"BLOCK", max(1, block_ms)  # 0 would wait for ever
    command.append(b"STREAMS")
    keys, after = zip(*places, strict=True)
    command += keys
    command += after
    return command
