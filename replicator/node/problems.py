"""The present problems of a node, by the part of it that found them. Each is logged when it begins and when it ends.

Most problems keep the node from its work. With some it goes on: it does without a snapshot or a thread, or what is
wrong is the log or the program beside it. `of_the_node` and `others` tell them apart, because a node that only meets a
problem of the log can still lead.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ..errors import CorruptRecord, LogLost, LogUnavailable, OutcomeUnknown, ProgramError, ReplicatorError, StateInUse
from ..runtime.event_log import EventLogger
from ..runtime.log_once import Lasting, LogOnce
from .problem_events import event_of
from .speaker import Outage

__all__ = ["SNAPSHOT", "THREADS", "UNHEALTHY", "CannotLead", "Problems", "Unanswered", "Unhealthy"]

logger = EventLogger(__name__)

#: The name under which it is logged that Redis is away, whichever part found it.
REDIS = "redis"


#: Problems under these names do not stop a node: it does without the snapshot, or the thread, and tries again.
SNAPSHOT, THREADS = "snapshot", "threads"
_DOES_WITHOUT = (SNAPSHOT, THREADS)

#: The name of the problem that the application is not alive (`vitals.py`).
UNHEALTHY = "vitals"

_CANNOT_LEAD = Lasting("lead.blocked", "lead.free", "nothing is in the way of leading any more", logging.ERROR)
_UNHEALTHY = Lasting("app.unhealthy", "app.healthy", "the application is well again", logging.ERROR)
_UNANSWERED = Lasting("app.unanswered", "app.answered", "the watchdog has answered", logging.INFO)


class CannotLead(ReplicatorError):
    """it holds term {term} and can write nothing, so it lets others take over: {problem}"""


class Unhealthy(ReplicatorError):
    """it does not lead, and lets others take over: {problem}"""


class Unanswered(Unhealthy):
    """it does not lead so far: its watchdog has not answered yet"""


class Problems:
    """Thread-safe: each method reads or writes one entry. `outage`: of the Redis, if others share it."""

    def __init__(self, outage: Outage | None = None) -> None:
        self._outage = outage or Outage()
        self._known: dict[str, ReplicatorError] = {}
        #: The newest one, and since when (unix ms), whether it is over or not.
        self.last: tuple[str, int] = ("", 0)
        self._log_once = LogOnce(logger)
        #: Whether nothing is logged any more, because the node stops.
        self.quiet = False
        #: Called when there may be others.
        self.stir: Callable[[], None] = _nothing

    def report(self, name: str, problem: ReplicatorError) -> None:
        """The part `name` has this problem. It is logged if it is new."""
        if isinstance(problem, OutcomeUnknown):
            problem = LogUnavailable(**problem.fields)  # the node's own request: it repeats it, and no caller waits
        if str(problem) != self.last[0]:
            self.last = str(problem), int(time.time() * 1000)
        self._known[name] = problem
        self.stir()
        if self.quiet:
            return
        if isinstance(problem, LogUnavailable):
            # Several threads find that Redis is away, in many words; it is news only once.
            if not self._outage.missed(self, problem):
                self._log_once.tell(REDIS, _event_of(problem), str(problem))
        else:
            self._log_once.tell(name, _event_of(problem), str(problem))

    def solved(self, name: str) -> None:
        """The part `name` has no problem any more. Redis is back once no part misses it."""
        known = self._known.pop(name, None)
        if known is not None:
            self.stir()
        if self.quiet or (self._log_once.is_silent and self._outage.is_over):  # as nearly always
            return
        self._log_once.over(name)
        if not any(isinstance(problem, LogUnavailable) for problem in list(self._known.values())):
            self._log_once.over(REDIS)
            self._outage.found(self)

    def be_quiet(self) -> None:
        """The node stops: nothing is logged any more."""
        self.quiet = True
        self._outage.forget(self)

    @property
    def by_part(self) -> dict[str, str]:
        """Each in words, by the part that found it. That Redis is away is one of them, whoever found it."""
        known = self._known.copy().items()
        return {REDIS if isinstance(problem, LogUnavailable) else name: str(problem) for name, problem in known}

    @property
    def known(self) -> dict[str, ReplicatorError]:
        """All of them, by the part that found each."""
        return self._known.copy()

    def get(self, name: str) -> ReplicatorError | None:
        return self._known.get(name)

    def __str__(self) -> str:
        return "; ".join(dict.fromkeys(map(str, self._known.copy().values())))

    @property
    def in_the_way(self) -> list[ReplicatorError]:
        """The problems that keep the node from its work, or may."""
        return [problem for name, problem in self._known.copy().items() if not _is_beside(name, problem)]

    @property
    def of_the_node(self) -> list[str]:
        """The problems that keep the node from applying anything, or from leading."""
        # Several of the node's threads may find the same full disk.
        return list(dict.fromkeys(str(problem) for name, problem in self._lasting if not _goes_on(name, problem)))

    @property
    def others(self) -> list[str]:
        """The problems with which the node could still lead: with the log, or with what it does without."""
        found = [str(problem).partition(". ")[0] for name, problem in self._lasting if _goes_on(name, problem)]
        return list(dict.fromkeys(found))

    @property
    def _lasting(self) -> list[tuple[str, ReplicatorError]]:
        return [(name, problem) for name, problem in self._known.copy().items() if not _is_over(problem)]


def _nothing() -> None:
    pass


def _event_of(problem: ReplicatorError) -> Lasting:
    if isinstance(problem, CannotLead):
        return _CANNOT_LEAD
    if isinstance(problem, Unanswered):
        return _UNANSWERED
    return _UNHEALTHY if isinstance(problem, Unhealthy) else event_of(problem)


def _is_over(problem: ReplicatorError) -> bool:
    """Whether the problem is over once it can be reported: that Redis was away. What Redis refuses is not over."""
    return isinstance(problem, LogUnavailable) and not problem.refused


#: Problems with which a node can lead. A state that is in use is replaced when its node is about to lead.
_GOES_ON = (CannotLead, LogLost, LogUnavailable, CorruptRecord, StateInUse, ProgramError)


def _is_beside(name: str, problem: ReplicatorError) -> bool:
    return name in _DOES_WITHOUT or isinstance(problem, ProgramError)


def _goes_on(name: str, problem: ReplicatorError) -> bool:
    return name in _DOES_WITHOUT or isinstance(problem, _GOES_ON)
