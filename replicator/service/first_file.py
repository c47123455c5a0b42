"""The file of a program that starts for the first time: the program makes it, and until then that is no trouble."""

from __future__ import annotations

import time
from collections.abc import Callable

from ..runtime.event_log import EventLogger
from .beside import StateBeside

__all__ = ["MADE_WITHIN_S", "FirstFile"]

logger = EventLogger(__name__)

#: Programs start within a second or two, on a busy machine within many. Then the path is wrong, or the program is.
MADE_WITHIN_S = 30.0


class FirstFile:
    """Whether what is replicated is still to be made, where nothing was published or restored yet."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def is_awaited(self, state: StateBeside) -> bool:
        """Whether that it is not there is to be expected. Told the first time."""
        if not state.kept.is_new or state.survived():
            return False
        if self._since is None:
            self._since = self._clock()
            text = "%s is not there yet: it is published once the program has made it"
            logger.info("publish.awaited", text, state.path)
        return self._clock() - self._since < MADE_WITHIN_S
