"""Digests of the state at markers of the log, by which nodes find out whether they have the same."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ReplicatorError, StateError
from ..format.codec import digest_of_pieces
from ..format.ids import RecordId
from ..format.records import Closed, Opens
from ..format.seals import Refused
from ..protocol.group import NO_DIGEST
from ..replica.replica import Replica
from ..runtime.event_log import EventLogger
from ..runtime.gc_pause import HeldCollector
from ..runtime.gil import Turns
from ..runtime.log_once import Lasting, LogOnce
from .background_task import Aside
from .problems import SNAPSHOT, Problems

__all__ = ["Digester"]

logger = EventLogger(__name__)

_UNREADABLE = Lasting("state.not_compared", "state.compared", "the state can be compared again")


class Digester:
    """Of one node. `done` is given each digest, of what, and how often the state had been replaced by then.

    `opens`: of its log. In a group that has a key, what others are told of a digest is blinded.
    """

    def __init__(
        self,
        replica: Replica,
        problems: Problems,
        *,
        done: Callable[[RecordId, str, int], None],
        opens: Opens = None,
    ) -> None:
        self._opens = opens
        self._replica = replica
        self._problems = problems
        self._done = done
        self._log_once = LogOnce(logger)
        self._aside = Aside(problems, name=f"{replica.node_state.me.node}-digester")

    @property
    def runs(self) -> bool:
        """Whether it is at work aside."""
        return self._aside.runs

    def keep(self) -> None:
        """Digest the state at the newest marker, aside: the lease does not wait for a large state."""
        if self._replica.applied.markers and not self._aside.runs:
            self._aside.begin(self._digest)

    def _digest(self) -> None:
        applied = self._replica.applied
        with applied.lock:
            if not applied.markers:  # a snapshot took the place of the state meanwhile
                return
            (at, pieces, ledger, body), replaced = applied.markers.pop(), applied.replaced
        digest = NO_DIGEST
        try:
            with HeldCollector(freezes=False) as collector:
                digest = digest_of_pieces(Turns().over(collector.drawing(pieces)), ledger=ledger.compared())
            digest = self._told(digest, body)
            self._problems.solved(SNAPSHOT)
            self._log_once.over("digest")
        except StateError as error:
            # A file that is gone, or that somebody writes to: it is not what the others have.
            self._log_once.tell("digest", _UNREADABLE, str(error))
        except ReplicatorError as error:
            self._problems.report(SNAPSHOT, error)
        self._done(at, digest, replaced)

    def _told(self, digest: str, marker: bytes) -> str:
        """What others are told of a digest at a marker, by the body of that."""
        if self._opens is None or isinstance(self._opens, Closed):
            return digest
        try:
            return self._opens.blinded(digest, marker)
        except Refused:  # its key was dropped meanwhile: nobody compares what was found there
            return NO_DIGEST
