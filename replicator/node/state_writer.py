"""Makes a state what was published where that was not possible at once: a disk was full, or a program held the file.

Once a beat the node looks whether there is something to do (`keep`). It is done on a thread of its own, because a large
state takes its time and the lease does not wait; after each failure the next attempt is further away, up to a bound.
"""

from __future__ import annotations

import time

from ..errors import Stalled, StateError
from ..replica.replica import Replica
from ..runtime.backoff import Backoff
from .aside import Aside
from .problems import Problems

__all__ = ["StateWriter"]

#: From the first failure to the next attempt; after each one twice as long, up to the bound. What has passed is
#: noticed within that.
FIRST_PAUSE_S = 0.5
PAUSE_S_MAX = 5.0


class StateWriter:
    """The writer of one node. Only its HA loop calls it."""

    def __init__(self, replica: Replica, problems: Problems, *, name: str) -> None:
        self._replica = replica
        self._problems = problems
        self._aside = Aside(problems, name=f"{name}-state")
        self._backoff = Backoff(FIRST_PAUSE_S, PAUSE_S_MAX, chance=lambda: 0.0)  # nobody else writes there
        self._next_at = 0.0

    def keep(self) -> None:
        """Say what is in the way of the state, and try again if it is time."""
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
