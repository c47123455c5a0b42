"""What is in a node's way at the moment, by who found it: told when it begins and when it is over."""

from __future__ import annotations

import logging

from .errors import CorruptRecord, LogLost, LogUnavailable, OutcomeUnknown, ProgramError, ReplicatorError, StateInUse
from .telling import Telling

__all__ = ["Problems"]

logger = logging.getLogger(__name__)

#: That Redis is away, whoever found it.
REDIS = "redis"


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
    def of_the_node(self) -> list[str]:
        """What keeps the node from taking anything in, or from leading."""
        # Several of the node's threads meet one full disk.
        return list(dict.fromkeys(str(problem) for problem in self._lasting if not isinstance(problem, _GOES_ON)))

    @property
    def others(self) -> list[str]:
        """What else is wrong: with the log, or with what belongs to the node. It would lead all the same."""
        found = [str(problem).partition(". ")[0] for problem in self._lasting if isinstance(problem, _GOES_ON)]
        return list(dict.fromkeys(found))

    @property
    def _lasting(self) -> list[ReplicatorError]:
        return [problem for problem in self._known.copy().values() if not _is_over(problem)]


def _is_over(problem: ReplicatorError) -> bool:
    """Whoever can report has Redis: that it had none a moment ago is nobody's concern. What it refuses is not over."""
    return isinstance(problem, LogUnavailable) and not problem.refused


#: A state that is in use is replaced when its node is to lead.
_GOES_ON = (LogLost, LogUnavailable, CorruptRecord, StateInUse, ProgramError)
