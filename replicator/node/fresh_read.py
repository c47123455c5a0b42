"""A read that has everything that was committed when it began: the node looks how far the log is, and waits for that.

While nobody leads with a lease that runs, nobody knows what is committed, and the node looks again.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Protocol

from ..errors import LogUnavailable, PositionLost
from ..protocol import election
from ..runtime.backoff import Backoff
from .observer import LOOK_AGAIN_S, Observer

__all__ = ["catch_up"]

#: The group is looked at again after so long, at the most.
LOOK_AGAIN_S_MAX = 0.2


class Wait(Protocol):
    """Waits until the node has applied that position; raises `PositionLost`, `TimeoutError`."""

    def __call__(self, *, position: str, timeout_s: float) -> None: ...


def catch_up(observer: Observer, wait: Wait, *, until: float) -> None:
    """Return once the node has all that is committed now. Raises `LogUnavailable`, `TimeoutError`."""
    backoff = Backoff(LOOK_AGAIN_S, LOOK_AGAIN_S_MAX)
    looked = False
    while True:
        try:
            look, _, lease_until_ms = observer.sight_by(until)
        except LogUnavailable:
            if looked and time.monotonic() >= until:
                raise _nobody_leads() from None
            raise
        looked = True
        leads = lease_until_ms is not None and observer.now() * 1000 < lease_until_ms
        if look.head is not None and leads and election.is_settled(look):
            with suppress(PositionLost):  # Redis lost it again meanwhile: there is another head
                left = max(0.0, until - time.monotonic())
                return wait(position=str(look.head.position.id), timeout_s=left)
        time.sleep(max(0.0, min(backoff.failed(), until - time.monotonic())))
        if time.monotonic() > until - LOOK_AGAIN_S:
            raise _nobody_leads()


def _nobody_leads() -> TimeoutError:
    problem = "nobody leads the group with a lease that runs, so nobody knows what is committed"
    return TimeoutError(f"{problem}; read without `fresh`")
