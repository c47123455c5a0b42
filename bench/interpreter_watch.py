"""How long a thread of this process waits for the interpreter while other threads of it work.

A request gives the interpreter away about five times (it waits, receives and sends), and has to get it back each time.
The thread here does the same again and again, and notes how long that took. What it spent waiting for a core is taken
off where the system says it (Linux), and more than the process has worked meanwhile is not counted: both are for other
processes to answer for. So the figure means the same on a machine that is busy.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

__all__ = ["InterpreterWatch"]

#: For how long a read gives the interpreter away, one time after the other: while it waits for its turn, and as long as
#: it takes others to wake up.
AWAY_S = (0.001, 0.00005, 0.00005, 0.00005, 0.00005)


class InterpreterWatch:
    """Watches from now on, until `end`."""

    def __init__(self) -> None:
        self._over = threading.Event()
        #: The longest that it had to wait so far.
        self.worst_ms = 0.0
        self._thread = threading.Thread(target=self._watch, name="interpreter-watch", daemon=True)
        self._thread.start()

    def end(self) -> float:
        """The longest that it had to wait, in ms."""
        self._over.set()
        self._thread.join()
        return self.worst_ms

    def _watch(self) -> None:
        delays = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        while not self._over.is_set():
            began, worked_s, without_core_s = time.monotonic(), time.process_time(), _without_core_s(delays)
            for away_s in AWAY_S:
                time.sleep(away_s)
            waited_s = time.monotonic() - began - sum(AWAY_S) - (_without_core_s(delays) - without_core_s)
            self.worst_ms = max(self.worst_ms, min(waited_s, time.process_time() - worked_s) * 1e3)


def _without_core_s(delays: Path) -> float:
    """How long this thread was ready to run and had no core."""
    try:
        return int(delays.read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0
