"""What the operations in this package share: looking at a group, checking their arguments, and waiting.

- Arguments are checked before anything is asked of Redis, so a slip changes nothing (`check_call`).
- They look at a group even if one of its keys is damaged (`looked`): most of all then an operator needs to see it, and
  `recover` to mend it. Only operations that need a primary insist on one (`led_head`).
- An unknown group is most likely a misspelt name or the wrong Redis, so the error lists the groups that there are.
- An operation that waits polls (`looks`) until its timeout, and then says what it waited for. It gives Redis a little
  longer than that (`GRACE_S`), or a Redis that hangs would hide that message. So would a process that was not run for a
  moment, and comes too late for its last look: that is no answer either, and none that is missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import cast

from ..errors import (
    LogLost,
    LogUnavailable,
    NotPrimary,
    UnknownGroup,
)
from ..log.interface import Log
from ..protocol.group import Code, GroupView, Head, Reply
from ..runtime import checks
from .diagnosis import is_known, term_holder

__all__ = [
    "GRACE_S",
    "LEASE_MS",
    "POLL_EVERY_S",
    "Progress",
    "Step",
    "check_is_known",
    "looked",
    "looks",
]

POLL_EVERY_S = 0.02


#: The first lease of who is promoted, which is that node's own from its next beat on.
LEASE_MS = 5000


#: Who waits for something says what it waits for when its time is over; Redis may hang so much longer.
GRACE_S = 0.05


Progress = Callable[[str], None]


class Step(str):
    """What is told of a work of which one knows how much there is: `done` of `total`."""

    done: int
    total: int

    def __new__(cls, text: str, done: int, total: int) -> Step:
        step = super().__new__(cls, text)
        step.done, step.total = done, total
        return step


def silent(_: str) -> None:
    pass


def check_call(
    *, by: str, reason: str = "", node: str | None = None, lease_ms: int = LEASE_MS, timeout_s: float = 0.0
) -> None:
    checks.line("by", by)
    checks.line("reason", reason)
    checks.seconds("timeout_s", timeout_s)
    checks.whole("lease_ms", lease_ms, least=1, most=int(checks.SECONDS_MAX * 1000))
    if node is not None:
        checks.name("node", node)


def looked(log: Log) -> GroupView:
    """The group as Redis shows it, also where a key of it holds what cannot be. Raises `LogUnavailable`."""
    try:
        return log.look()
    except LogUnavailable as unavailable:
        if unavailable.look is None:
            raise
        return cast(GroupView, unavailable.look)


def looks(
    log: Log, deadline: float, *, every_s: float = POLL_EVERY_S, ask: Callable[[], object] = lambda: None
) -> Iterator[GroupView]:
    """Look at the group again and again, until the deadline (`time.monotonic`) is over; `ask` comes before each look.

    After it, whoever waits says what for: also where the deadline, which `log` may have as well, cut a look off.
    Raises what `log` raises before that, and what Redis answers.
    """
    while True:
        try:
            ask()
            look = log.look()
        except LogUnavailable as unavailable:
            if time.monotonic() <= deadline or unavailable.refused or unavailable.look is not None:
                raise
            return
        yield look
        if time.monotonic() > deadline:
            return
        time.sleep(every_s)


def check_is_known(log: Log, look: GroupView) -> None:
    """Raises `UnknownGroup` with the groups that there are: most likely the name is misspelt, or the Redis another."""
    if not is_known(look):
        raise _unknown(log)


def _unknown(log: Log) -> UnknownGroup:
    return UnknownGroup(log.group, log.url, log.groups())


def switched(log: Log, reply: Reply) -> None:
    if reply.code is Code.LOST:
        raise LogLost(what=f"there is no log of group {log.group} at {log.url}")


def led_head(log: Log, look: GroupView | None = None) -> Head:
    """The head, as `look` or a look now has it. Raises `NotPrimary` if nobody leads."""
    look = log.look() if look is None else look
    if look.head is None or term_holder(look) is None:
        why = "`replicator status` says what to do" if is_known(look) else str(_unknown(log))
        raise NotPrimary(f"nobody leads the group, so nobody can do it: {why}")
    return look.head
