"""What is in a node's way at the moment, by who found it: told once, and forgotten when it is over."""

from __future__ import annotations

import logging

from .errors import CorruptRecord, LogLost, LogUnavailable, OutcomeUnknown, ProgramError, ReplicatorError, StateInUse

__all__ = ["CannotLead", "Problems"]

logger = logging.getLogger(__name__)


class CannotLead(ReplicatorError):
    """it holds term {term} and can write nothing, so it lets others take over: {problem}"""


class Problems:
    """Thread-safe: each method reads or writes one entry."""

    def __init__(self) -> None:
        self._known: dict[str, ReplicatorError] = {}
        #: Nobody is told any more: the node stops.
        self.quiet = False

    def report(self, name: str, problem: ReplicatorError) -> None:
        if isinstance(problem, OutcomeUnknown):
            problem = LogUnavailable(**problem.fields)  # of its own asking, and it asks again: nobody waits for it
        known = self._known.get(name)
        # That Redis is away is told in many ways, and is news only once.
        told = str(known) == str(problem) or (known is not None and _is_over(known) and _is_over(problem))
        if not told and not self.quiet:
            logger.error("%s", problem)
        self._known[name] = problem

    def solved(self, name: str) -> None:
        self._known.pop(name, None)

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
_GOES_ON = (CannotLead, LogLost, LogUnavailable, CorruptRecord, StateInUse, ProgramError)
