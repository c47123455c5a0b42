"""What goes on by itself in a node that was started: its duties, and what becomes of one in whose way something is.

A duty is done again and again, by whoever works for the node (`scheduler.py`). What is in its way is known to the
node's problems, and it is tried again, later and later. What cannot pass ends the node's part in the group.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from ..errors import ConfigError, LogLost, ReplicatorError
from ..format.ids import RecordId
from ..log.interface import Batch, ReadRequest
from ..protocol.node_state import NodeState
from ..runtime.backoff import Backoff
from ..runtime.event_log import SPEAKER, EventLogger, Speaker
from .components import Components
from .consumer import Reader
from .ha_loop import HaLoop
from .scheduler import NodeWork

__all__ = ["SAVE_EVERY_S", "Duties"]

logger = EventLogger(__name__)

#: What a node applied is on its own disk after so long.
SAVE_EVERY_S = 0.1

#: How long the disk is tidied up then, and how long others may have it between two slices.
TIDY_FOR_S = 0.05
TIDY_PAUSE_S = 0.002

#: How soon a duty in whose way something is (Redis is away, the disk is full) is done again: at first, and at the most.
RETRY_S, RETRY_S_MAX = 0.1, 1.0


class Duties:
    """Of one node. `stopping`: the node ends."""

    def __init__(
        self,
        parts: Components,
        ha_loop: HaLoop,
        reader: Reader,
        *,
        beat_every_s: float,
        stopping: threading.Event,
        speaker: Speaker,
    ) -> None:
        #: What ended this node's part in the group, if something did.
        self.failed: ReplicatorError | None = None
        self._log = parts.log
        self._replica = parts.replica
        self._primary = parts.primary
        self._lease = parts.lease
        self._problems = parts.problems
        self._ha_loop = ha_loop
        self._reader = reader
        self._stopping = stopping
        self._speaker = speaker
        # A lease is renewed, and a heartbeat sent, after a beat at the latest.
        beat_s = min(RETRY_S_MAX, beat_every_s)
        most_s = {"holder": beat_s, "ha-loop": beat_s, "saver": RETRY_S_MAX, "reader": RETRY_S_MAX}
        self._backoffs = {duty: Backoff(RETRY_S, s) for duty, s in most_s.items()}
        #: The end of the snapshot after which the HA loop was last woken for the next one.
        self._woken_after: RecordId | None = None

    def work(self, name: str) -> NodeWork:
        """All of them, of the node of that name."""
        return NodeWork(
            name=name,
            log=self._log,
            hold=lambda: min(self._done("holder", self._ha_loop.hold), self._lease.renew_every_s),
            keep=lambda: self._done("ha-loop", self._ha_loop.keep),
            save=lambda: self._done("saver", self._save),
            is_saved=lambda: self._replica.saved.is_flushed and self._replica.saved.is_tidy,
            works_aside=lambda: self._ha_loop.works_aside,
            read=partial(self._done, "reader", self._read),
            wants=self._wants,
            received=lambda batch: self._done("reader", lambda: self._received(batch)),
            ended=lambda: self._stopping.is_set() or self.failed is not None,
        )

    def _done(self, name: str, work: Callable[[], float | None]) -> float:
        """Do one of them; the seconds until it is to be done again. What is in its way is a problem of the node."""
        token = SPEAKER.set(self._speaker)
        try:
            pause_s = work()
            self._problems.solved(name)
            self._backoffs[name].succeeded()
            return pause_s or 0.0
        except (LogLost, ConfigError) as error:
            self._fail(error)
        except ReplicatorError as error:
            self._problems.report(name, error)
        except BaseException as error:  # no less than all: the thread is needed, and the lease would go on without it
            self._fail_by(error)
        finally:
            SPEAKER.reset(token)
        return self._backoffs[name].failed()

    def _fail_by(self, bug: BaseException) -> None:
        logger.error("bug", "a bug in replicator", exc_info=bug)
        self._fail(ReplicatorError(f"a bug in replicator: {bug!r}"))

    def _fail(self, error: ReplicatorError) -> None:
        logger.critical("node.failed", "this node takes no part any more: %s", error)
        self._lease.lost()
        self.failed = error
        with self._replica.known.moved:
            self._replica.known.moved.notify_all()

    def _save(self) -> float:
        """What this node applied is on its disk a moment later, whether Redis answers or not."""
        # Before: what weighs the changes is what is on disk, and a snapshot that ends meanwhile is not there yet.
        node_state = self._replica.node_state
        self._replica.flush()
        self._tell_if_a_snapshot_is_due(node_state)
        self._tidy()
        return SAVE_EVERY_S

    def _tidy(self) -> None:
        """Delete what a newer snapshot made needless, a slice at a time, out of the way of those who save."""
        until = time.monotonic() + TIDY_FOR_S
        while self._replica.saved.tidy() and time.monotonic() < until and not self._stopping.wait(TIDY_PAUSE_S):
            pass

    def _tell_if_a_snapshot_is_due(self, node_state: NodeState) -> None:
        """A beat is long for a log that grows fast. Told once: a snapshot that fails is tried again by the beat."""
        is_new = node_state.is_primary and node_state.snapshot_end != self._woken_after
        if is_new and self._primary.publisher.snapshot_is_due:
            self._woken_after = node_state.snapshot_end
            self._ha_loop.wake()

    def _read(self) -> float:
        for news in self._reader.read():
            self._ha_loop.hear(news)
        return self._reader.pause_s

    def _wants(self) -> ReadRequest | None:
        token = SPEAKER.set(self._speaker)
        try:
            return self._reader.wants()
        except ReplicatorError as error:
            self._problems.report("reader", error)
        except Exception as error:  # whoever asks reads for others as well
            self._fail_by(error)
        finally:
            SPEAKER.reset(token)
        return None

    def _received(self, batch: Batch | ReplicatorError) -> None:
        if isinstance(batch, ReplicatorError):
            raise batch
        for news in self._reader.received(batch):
            self._ha_loop.hear(news)
