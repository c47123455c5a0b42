"""What is in a node's way at the moment, by who found it: told when it begins and when it is over."""

from __future__ import annotations

import logging

from ..errors import CorruptRecord, LogLost, LogUnavailable, OutcomeUnknown, ProgramError, ReplicatorError, StateInUse
from ..runtime.telling import Telling

__all__ = ["SNAPSHOT", "THREADS", "CannotLead", "Problems"]

logger = logging.getLogger(__name__)

#: That Redis is away, whoever found it.
REDIS = "redis"


#: Found by these, it keeps a node from nothing: it does without a snapshot, or a thread, and tries again.
SNAPSHOT, THREADS = "snapshot", "threads"
_DOES_WITHOUT = (SNAPSHOT, THREADS)


class CannotLead(ReplicatorError):
    """it holds term {term} and can write nothing, so it lets others take over: {problem}"""


class Problems:
    """Thread-safe: each method reads or writes one entry."""

    def __init__(self) -> None:
        self._known: dict[str, ReplicatorError] = {}
        self._telling = Telling(logger)
        #: Nobody is told any more: the node stops.
        self.quiet = False

    def report(self, name: str, problem: ReplicatorError) -> None:
        if isinstance(problem, OutcomeUnknown):
            problem = LogUnavailable(**problem.fields)  # of its own asking, and it asks again: nobody waits for it
        self._known[name] = problem
        if self.quiet:
            return
        if isinstance(problem, LogUnavailable):
            # Several threads meet it. That Redis is away is told in many ways, too, and is news only once.
            self._telling.tell(REDIS, logging.ERROR, str(problem), kind=REDIS if _is_over(problem) else "")
        else:
            self._telling.tell(name, logging.ERROR, str(problem))

    def solved(self, name: str) -> None:
        self._known.pop(name, None)
        if self.quiet:
            return
        self._telling.over(name)
        if not any(isinstance(problem, LogUnavailable) for problem in list(self._known.values())):
            self._telling.over(REDIS)

    def get(self, name: str) -> ReplicatorError | None:
        return self._known.get(name)

    def __str__(self) -> str:
        return "; ".join(dict.fromkeys(map(str, self._known.copy().values())))

    @property
    def in_the_way(self) -> list[ReplicatorError]:
        """Those that keep the node from its work, or may."""
        return [problem for name, problem in self._known.copy().items() if not _is_beside(name, problem)]

    @property
    def of_the_node(self) -> list[str]:
        """What keeps the node from taking anything in, or from leading."""
        # Several of the node's threads meet one full disk.
        return list(dict.fromkeys(str(problem) for name, problem in self._lasting if not _goes_on(name, problem)))

    @property
    def others(self) -> list[str]:
        """What else is wrong, with which the node would lead all the same: with the log, or what it does without."""
        found = [str(problem).partition(". ")[0] for name, problem in self._lasting if _goes_on(name, problem)]
        return list(dict.fromkeys(found))

    @property
    def _lasting(self) -> list[tuple[str, ReplicatorError]]:
        return [(name, problem) for name, problem in self._known.copy().items() if not _is_over(problem)]


def _is_over(problem: ReplicatorError) -> bool:
    """Whoever can report has Redis: that it had none a moment ago is nobody's concern. What it refuses is not over."""
    return isinstance(problem, LogUnavailable) and not problem.refused


#: A state that is in use is replaced when its node is to lead.
_GOES_ON = (CannotLead, LogLost, LogUnavailable, CorruptRecord, StateInUse, ProgramError)


def _is_beside(name: str, problem: ReplicatorError) -> bool:
    return name in _DOES_WITHOUT or isinstance(problem, ProgramError)


def _goes_on(name: str, problem: ReplicatorError) -> bool:
    return name in _DOES_WITHOUT or isinstance(problem, _GOES_ON)
