"""Reading the logs of many groups in one process: one blocking request for all of them, and an alarm that ends it.

A host with many groups would need a thread and a blocking connection for each of them. Instead one XREAD waits for the
first entry in any of their streams (`read_together`), so all groups share the connections of one host.

A request that blocks cannot be changed: when a group is added, or wants to read something else, the read has to end
first. The `Alarm` ends it. It is a stream of its own, which the read waits for as well, and to which `ring` appends an
entry on another connection. Without it (Redis does not answer, or the user has no right to that key) nothing is lost:
the read ends when its time is over.

Groups must not disturb each other: if Redis refuses the common read because of one of them, each reads on its own.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import redis

from replicator.errors import LogUnavailable, OutcomeUnknown
from replicator.log.interface import Batch, ReadRequest
from replicator.log.wire import Limit

from .group_streams import xread
from .redis_log import Connections, RedisLog

__all__ = [
    "ALARM_KEPT_S",
    "Alarm",
    "read_together",
]

#: How long the key of an alarm outlives a process that was killed.
ALARM_KEPT_S = 24 * 3600


class Alarm:
    """Ends a blocking read (`read_together`): a stream of its own, which the read waits for as well."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._key = f"replicator:{{host-{secrets.token_hex(8)}}}:alarm".encode()
        self._after = ""
        self._may = True

    def ring(self) -> None:
        """End the read. Without Redis, or a right to the key, nothing happens: the read ends when its time is over."""
        if not self._may:
            return
        try:
            self._call(b"XADD", self._key, "MAXLEN", 1, "*", "ring", "")
            self._call(b"EXPIRE", self._key, ALARM_KEPT_S)
        except redis.exceptions.ResponseError:
            self._may, self._after = False, ""
        except LogUnavailable:
            return
        else:
            self._after = self._after or "0-0"

    def place(self) -> list[tuple[bytes, str]]:
        """The key for the read to wait for, and the id after which; empty if the alarm cannot be used."""
        if not self._after:
            self.ring()
        return [(self._key, self._after)] if self._after else []

    def heard_in(self, found: Mapping[bytes, list[Any]]) -> None:
        """Take note of what a read found, so that the next one does not end at the same ring."""
        if self._key in found:
            self._after = str(found[self._key][-1][0], "ascii")

    def end(self) -> None:
        if self._after:
            with suppress(LogUnavailable, redis.exceptions.ResponseError):
                self._call(b"DEL", self._key)

    def _call(self, *command: Any) -> Any:
        return self._connections.other.call(*command, limit=Limit(self._connections.timeout_s))


def read_together(
    connections: Connections, reads: Sequence[tuple[RedisLog, ReadRequest]], *, block_s: float, alarm: Alarm
) -> list[Batch | LogUnavailable]:
    """Read what each of these groups wants, in one request.

    It waits up to `block_s` (0: not at all) for the first entry in any stream, or for the alarm. The groups share
    `connections`. If Redis refuses the request, because of one of them, each group reads on its own. The answers are in
    the order of `reads`; a group whose read failed has the error.
    """
    block_ms = max(1, int(block_s * 1000)) if block_s > 0 else None
    places = alarm.place() if block_ms else []
    for log, wants in reads:
        places += log.streams.places(wants)
    command = xread(places, most=min((wants.most for _, wants in reads), default=1), block_ms=block_ms)
    if not command:
        return []
    limit = Limit(connections.timeout_s, blocks_s=max(0.0, block_s))
    try:
        found = dict(connections.read.call(*command, limit=limit) or [])
    except redis.exceptions.ResponseError:
        return [_read_alone(log, wants) for log, wants in reads]
    except OutcomeUnknown as error:
        return [LogUnavailable(**error.fields)] * len(reads)
    except LogUnavailable as error:
        return [error] * len(reads)
    alarm.heard_in(found)
    return [log.streams.found(wants, found, log.sealing) for log, wants in reads]


def _read_alone(log: RedisLog, wants: ReadRequest) -> Batch | LogUnavailable:
    try:
        return log.read(wants.after, requests_after=wants.requests_after, acks_after=wants.acks_after, count=wants.most)
    except LogUnavailable as error:
        return error
