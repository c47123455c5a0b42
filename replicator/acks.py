"""How far a change has to have come before its submitter is told that it is committed, and waiting until it has.

    appended       in the memory of Redis; nothing to wait for
    fsynced        on the disk of Redis (WAITAOF)
    replicated:N   in the memory of N replicas of Redis (WAIT)
    applied:N      on the disks of N standbys

The first three are what Redis says, the last is what the standbys say: a change that is on their disks outlives
anything that happens to Redis. The change is in the log before anybody waits here, so who waits in vain gets
`NotAcknowledged`: it may still come to all of them.

One confirmation vouches for everything that was written before it was asked for, so those who wait share it.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from .backoff import Backoff
from .core.ids import RecordId
from .core.replies import Ack, Code, Log
from .errors import ConfigError, LogUnavailable, NotAcknowledged
from .lease import Lease
from .replica import Replica

__all__ = ["Acks", "Level"]

#: How soon Redis is asked again after it did not answer (at first), and how soon a lost term is noticed.
RETRY_EVERY_S = 0.05

#: How soon Redis is asked again at the most.
RETRY_S_MAX = 1.0

#: Redis waits so much less than who asked it, and its answer may come so much later.
GRACE_S = 0.05


_LEVEL = re.compile("(appended|fsynced)|(replicated|applied):([1-9][0-9]{0,2})")


class Level(NamedTuple):
    """`appended`, `fsynced`, `replicated` or `applied`, and of how many others."""

    kind: str
    others: int = 0

    @classmethod
    def parse(cls, text: str) -> Level:
        """Raises `ConfigError`."""
        match = _LEVEL.fullmatch(text) if isinstance(text, str) else None
        if match is not None:
            return cls(match[1] or match[2], int(match[3] or 0))
        problem = f"{ascii(text)[:80]} is none of appended, fsynced, replicated:N, applied:N"
        raise ConfigError(setting="ack", problem=problem)

    def __str__(self) -> str:
        return f"{self.kind}:{self.others}" if self.others else self.kind


class Acks:
    """What Redis and the others have of what this node wrote."""

    def __init__(self, log: Log, replica: Replica, lease: Lease) -> None:
        self._log = log
        self._replica = replica
        self._lease = lease
        self._heard = threading.Condition()
        self._places: dict[str, RecordId] = {}
        self._confirmed: dict[Level, RecordId] = {}
        self._asking: dict[Level, threading.Lock] = {}

    def hear(self, acks: Iterable[Ack]) -> None:
        """Others say what they have on their disks."""
        with self._heard:
            for ack in acks:
                self._places[ack.node] = max(ack.at, self._places.get(ack.node, ack.at))
            self._heard.notify_all()

    def wait(self, level: Level, id: RecordId, timeout_s: float) -> None:
        """Return once the record `id`, which this node wrote in its present term, has come that far.

        Raises `NotAcknowledged`.
        """
        deadline = time.monotonic() + timeout_s
        if level.kind == "applied":
            self._wait_for_standbys(level, id, deadline)
        elif level.kind != "appended":
            self._wait_for_redis(level, id, deadline)

    def _wait_for_standbys(self, level: Level, id: RecordId, deadline: float) -> None:
        with self._heard:
            while (have := self._nodes_with(id)) < level.others:
                left = deadline - time.monotonic()
                if left <= 0 or self._replica.member.view.term != id.term:
                    problem = f"{have} of {level.others} standbys say that they have it on their disks"
                    raise NotAcknowledged(id=id, problem=problem)
                self._heard.wait(min(left, RETRY_EVERY_S))

    def _nodes_with(self, id: RecordId) -> int:
        # Of the same term only: the history of a later one may have gone on without it.
        me = self._replica.member.me.node
        return sum(node != me and at.term == id.term and at.n >= id.n for node, at in self._places.items())

    def _wait_for_redis(self, level: Level, id: RecordId, deadline: float) -> None:
        with self._heard:
            asking = self._asking.setdefault(level, threading.Lock())
        if not asking.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise NotAcknowledged(id=id, problem=f"Redis is still asked about earlier changes ({level})")
        try:
            backoff = Backoff(RETRY_EVERY_S, RETRY_S_MAX)
            while self._confirmed.get(level, id._replace(n=0)) < id:
                self._ask_redis(level, id, deadline, backoff)
        finally:
            asking.release()

    def _ask_redis(self, level: Level, id: RecordId, deadline: float, backoff: Backoff) -> None:
        member = self._replica.member
        if not member.holds_term:  # a confirmation renews the lease, which this node may have given back
            raise NotAcknowledged(id=id, problem="the term ended meanwhile")
        problem = ""
        try:
            confirmation = self._log.within(deadline + GRACE_S).confirm(
                member.me,
                id.term,
                self._lease.length_ms,
                replicas=level.others,
                fsynced=level.kind == "fsynced",
                timeout_ms=int(max(0.0, deadline - GRACE_S - time.monotonic()) * 1000),
            )
        except ConfigError as error:
            raise NotAcknowledged(id=id, problem=str(error)) from None
        except LogUnavailable as unavailable:
            problem = str(unavailable)
            time.sleep(min(backoff.failed(), max(0.0, deadline - time.monotonic())))
        else:
            if confirmation.reply.code is not Code.OK:
                raise NotAcknowledged(id=id, problem=f"the term ended meanwhile ({confirmation.reply.code.value})")
            if confirmation.have >= max(1, level.others):
                # Everything that this node knew to be in the log before it asked.
                self._confirmed[level] = max(id, member.view.position.id)
                return
            what = f"{confirmation.have} of {level.others} replicas have it"
            problem = "it is not on the disk of Redis yet" if level.kind == "fsynced" else what
        if time.monotonic() >= deadline - GRACE_S:
            raise NotAcknowledged(id=id, problem=problem)
