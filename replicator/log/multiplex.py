"""Reading the logs of many groups at once, with one request that blocks and an alarm that ends it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import redis

from replicator.errors import LogUnavailable, OutcomeUnknown
from replicator.log.interface import Batch, ReadRequest
from replicator.log.wire import Limit

from .redis_log import Connections, RedisLog, xread

__all__ = [
    "ALARM_KEPT_S",
    "Alarm",
    "read_together",
]

#: An alarm whose process was killed is gone so much later.
ALARM_KEPT_S = 24 * 3600


class Alarm:
    """Ends a read that waits (`read_together`): a stream of its own, which that read waits for as well."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._key = f"replicator:{{host-{secrets.token_hex(8)}}}:alarm".encode()
        self._after = ""
        self._may = True

    def ring(self) -> None:
        """Without Redis, or the right to that key, it is of no use: a read that waits then ends by itself."""
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
        """The key, and behind which id."""
        if not self._after:
            self.ring()
        return [(self._key, self._after)] if self._after else []

    def heard_in(self, found: Mapping[bytes, list[Any]]) -> None:
        """What a read found."""
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
    """What each of these groups wants, in one read that waits so long (0: not) for the first of anything, or the alarm.

    The groups share `connections`. What Redis refuses because of one of them does not keep the others from reading.
    """
    block_ms = max(1, int(block_s * 1000)) if block_s > 0 else None
    command = xread(reads, block_ms, alarm.place() if block_ms else [])
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
    return [log.found(wants, found) for log, wants in reads]


def _read_alone(log: RedisLog, wants: ReadRequest) -> Batch | LogUnavailable:
    try:
        return log.read(wants.after, asks_after=wants.asks_after, acks_after=wants.acks_after, count=wants.most)
    except LogUnavailable as error:
        return error
