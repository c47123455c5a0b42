"""A read that has everything that was committed when it began: the node looks how far the log is, and waits for that.

While nobody leads with a lease that runs, nobody knows what is committed, and the node looks again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from ..errors import LogUnavailable, PositionLost
from ..format.ids import RecordId
from ..protocol import election
from ..protocol.liveness import Sight
from ..runtime.backoff import Backoff
from .observer import LOOK_AGAIN_S, Observer

__all__ = ["catch_up", "caught_up"]

#: The group is looked at again after so long, at the most.
LOOK_AGAIN_S_MAX = 0.2


class Wait(Protocol):
    """Waits until the node has applied that position; raises `PositionLost`, `TimeoutError`."""

    def __call__(self, *, position: str, timeout_s: float) -> None: ...


def catch_up(observer: Observer, wait: Wait, *, until: float) -> None:
    """Return once the node has all that is committed now. Raises `LogUnavailable`, `TimeoutError`."""
    looks = _Looks(until, observer.now)
    while True:
        try:
            sight = observer.sight_by(until)
        except LogUnavailable as unavailable:
            raise looks.error_of(unavailable) from None
        committed = looks.committed_by(sight)
        if committed is not None:
            with suppress(PositionLost):  # Redis lost it again meanwhile: there is another head
                return wait(position=str(committed), timeout_s=looks.left_s)
        time.sleep(looks.pause_s())
        looks.check_time()


async def caught_up(
    look: Callable[[], Awaitable[Sight]],
    wait: Callable[[RecordId], Awaitable[None]],
    *,
    until: float,
    clock: Callable[[], float],
) -> None:
    """`catch_up`, for a task: `look` and `wait` are awaited, and end by then. `clock`: that of the observer."""
    looks = _Looks(until, clock)
    while True:
        try:
            sight = await look()
        except LogUnavailable as unavailable:
            raise looks.error_of(unavailable) from None
        committed = looks.committed_by(sight)
        if committed is not None:
            with suppress(PositionLost):
                return await wait(committed)
        await asyncio.sleep(looks.pause_s())
        looks.check_time()


class _Looks:
    """Looks at the group, one after the other, until one tells what is committed. `clock`: that of leases."""

    def __init__(self, until: float, clock: Callable[[], float]) -> None:
        self._until = until
        self._clock = clock
        self._backoff = Backoff(LOOK_AGAIN_S, LOOK_AGAIN_S_MAX)
        self._has_looked = False

    @property
    def left_s(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def error_of(self, unavailable: LogUnavailable) -> Exception:
        """What to raise if Redis does not answer."""
        return _nobody_leads() if self._has_looked and not self.left_s else unavailable

    def committed_by(self, sight: Sight) -> RecordId | None:
        """The newest record that is committed, by this answer of Redis; None: nobody knows."""
        look, lease_until_ms = sight.look, sight.lease_until_ms
        self._has_looked = True
        leads = lease_until_ms is not None and self._clock() * 1000 < lease_until_ms
        return look.head.position.id if look.head is not None and leads and election.is_settled(look) else None

    def pause_s(self) -> float:
        """Before the next one."""
        return min(self._backoff.failed(), self.left_s)

    def check_time(self) -> None:
        """Raises `TimeoutError`."""
        if self.left_s < LOOK_AGAIN_S:
            raise _nobody_leads()


def _nobody_leads() -> TimeoutError:
    problem = "nobody leads the group with a lease that runs, so nobody knows what is committed"
    return TimeoutError(f"{problem}; read without `fresh`")
