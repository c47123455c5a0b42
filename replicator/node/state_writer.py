"""Writes a published state to its file later, if that was not possible at once: the disk was full, or a program held
it.

With each heartbeat the node checks whether there is something to do (`keep`). It is done in a thread of its own,
because writing a large state takes time and the lease does not wait. Failed attempts are repeated with a back-off.
"""

from __future__ import annotations

import time

from ..errors import Stalled, StateError
from ..replica.replica import Replica
from ..runtime.backoff import Backoff
from .background_task import Aside
from .problems import Problems

__all__ = ["StateWriter"]

#: The back-off: from the first failure to the next attempt, then twice as long each time, up to the longest pause. So
#: it takes no longer than that to notice that the obstacle is gone.
FIRST_PAUSE_S = 0.5
PAUSE_S_MAX = 5.0


class StateWriter:
    """Writes the state of one node. Only its HA loop calls `keep`."""

    def __init__(self, replica: Replica, problems: Problems, *, name: str) -> None:
        self._replica = replica
        self._problems = problems
        self._aside = Aside(problems, name=f"{name}-state")
        self._backoff = Backoff(FIRST_PAUSE_S, PAUSE_S_MAX, chance=lambda: 0.0)  # no jitter: no other node writes there
        self._next_at = 0.0

    @property
    def runs(self) -> bool:
        """Whether it is at work aside."""
        return self._aside.runs

    def keep(self) -> None:
        """Report what is in the way, and try again if it is time."""
        unwritten = self._replica.unwritten
        if unwritten is None:
            self._backoff.succeeded()
            if isinstance(self._problems.get("state"), StateError):
                self._problems.solved("state")
            return
        self._problems.report("state", unwritten)
        if not self._aside.runs and time.monotonic() >= self._next_at:
            self._aside.begin(self._write)

    def _write(self) -> None:
        try:
            self._replica.write_state()
        except (StateError, Stalled) as error:
            self._problems.report("state", error)
            self._next_at = time.monotonic() + self._backoff.failed()
