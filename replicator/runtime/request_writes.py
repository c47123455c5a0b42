"""How often a request has written: one that has cannot be made again elsewhere as if nothing had been done.

Whoever serves a request sets `CURRENT` meanwhile; the calls that write are made `with NOTED`. A thread or a task that
the request starts in its context writes for it, too.
"""

from __future__ import annotations

from contextvars import ContextVar
from types import TracebackType

from ..errors import CorruptRecord, Fenced, LogLost, LogUnavailable, NotPrimary, OutcomeUnknown

__all__ = ["CURRENT", "NOTED", "Writes"]

#: A call that ends with one of these wrote nothing, except that `OutcomeUnknown` is a `LogUnavailable`.
WROTE_NOTHING = (NotPrimary, Fenced, LogUnavailable, LogLost, CorruptRecord)


class Writes:
    """Those of one request: how many calls have written, or may have, or are about to."""

    __slots__ = ("writes",)

    def __init__(self) -> None:
        self.writes = 0


#: The request that this thread or task is about.
CURRENT: ContextVar[Writes | None] = ContextVar("replicator_request", default=None)


class _Noted:
    """A call that writes. It has no state of its own, so one is enough, and a call costs next to nothing."""

    __slots__ = ()

    def __enter__(self) -> None:
        request = CURRENT.get()
        if request is not None:
            request.writes += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, WROTE_NOTHING) and not isinstance(error, OutcomeUnknown):
            request = CURRENT.get()
            if request is not None:
                request.writes -= 1


NOTED = _Noted()
