"""What the application says of changes before they are written (`CheckingState.check`).

It is asked at the last moment: under the write lock, when a record is put together, and under the lock of the state.
So it sees every change that was committed before this record, and none of the record's own. What it refuses is left out
of the record; `apply`, which every node carries out, stays the judge of what is in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ChangeRejected, CheckFailed
from ..format.keyed import change_in
from ..replica.applied_state import AppliedState
from .commit_waiters import Waiting
from .writer import RecordWriter

__all__ = ["ChangeCheck"]


class ChangeCheck:
    """Of one node."""

    def __init__(self, writer: RecordWriter, applied: AppliedState) -> None:
        self._writer = writer
        self._applied = applied
        #: Whether there is anything to ask. If not, none of this costs a write anything.
        self.is_asked = applied.application.checks

    def look_through(self, batch: Sequence[Waiting], until: float) -> None:
        """Note for each of these which of its changes are not to be written. The caller has the write lock.

        Raises `LogUnavailable` if a reader holds the state until then.
        """
        with self._writer.held(self._applied.lock, until):
            for waiting in batch:
                waiting.withheld = {}
                for start, count in waiting.calls:
                    waiting.withheld |= self._withheld(waiting, range(start, start + count))

    def _withheld(self, waiting: Waiting, call: range) -> dict[int, ChangeRejected | CheckFailed]:
        """Of the changes of one call: where `check` fails at one, nothing of that call is written.

        A repeat is not asked about: it changes nothing, and what came of it the first time is its answer.
        """
        found: dict[int, ChangeRejected | CheckFailed] = {}
        application = self._applied.as_now
        for index in call:
            change = waiting.changes[index]
            if self._applied.ledger.knows(change):
                continue
            said = application.check(change_in(change))
            if isinstance(said, CheckFailed):
                return dict.fromkeys(call, said)
            if said is not None:
                found[index] = said
        return found
