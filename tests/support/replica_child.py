"""The child of tests/integration/test_replica_kill.py: feeds a seeded history through a `Replica`, which applies first
and is flushed by a thread beside that, until it is killed. It says on a pipe what its readers could have seen, and what
was saved.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from replicator.format.ids import RecordId, Writer
from replicator.protocol.fold import View
from replicator.replica.replica import Replica
from replicator.storage.checkpoint import Checkpoint
from replicator.storage.opening import mark_of

from .checkpoint_child import GROUP, NODE, Plan, State, apply, history, kill_self_at

#: How long the saver waits between two flushes, at the most: as long as some takes take.
_SAVE_EVERY_S_MAX = 0.004


class Texts:
    """What was applied, newest last."""

    def __init__(self) -> None:
        self.texts: State = ()

    def apply(self, change: str) -> None:
        self.texts = apply(self.texts, change)

    def snapshot(self) -> Iterator[Any]:
        return iter(self.texts)

    def restore(self, pieces: Iterable[Any]) -> None:
        self.texts = tuple(pieces)


class LogOnce(Checkpoint):
    """Says what its node had applied when it kept a fork."""

    applied: Callable[[], View]
    tell: Callable[[tuple[str, Any]], None]

    def write_fork(self, reason: str, parted_at: RecordId) -> Path:
        self.tell(("fork", self.applied().position))
        return super().write_fork(reason, parted_at)


def follow(plan: Plan, tell: Callable[[tuple[str, Any]], None]) -> None:
    """Read the history from where the checkpoint left off, to its end, and tell: `shown` is a view and a state that
    readers may have seen since, `saved` the number of a save that has returned.
    """
    if plan.kill_at:
        kill_self_at(plan.kill_at, plan.kill_after)
    batches = random.Random(plan.batches)
    done = threading.Event()
    with LogOnce(plan.data_dir, GROUP, node=NODE) as stored:
        replica = Replica(Texts(), stored, Writer(NODE, f"boot-{plan.batches}"))
        one_at_a_time = threading.Lock()

        def told(*what: Any) -> None:
            with one_at_a_time:
                tell((what[0], what[1]))

        stored.applied, stored.tell = lambda: replica.node_state.view, lambda what: told(*what)
        saver = threading.Thread(target=_save, args=(replica, stored, told, done), daemon=True)
        saver.start()
        for epoch in range(plan.epoch, len(history(plan.seed).epochs)):
            told("epoch", epoch)
            log = history(plan.seed).epochs[epoch]
            while ahead := [record for record in log if record.id > replica.node_state.view.cursor.id]:
                with replica.write_lock:
                    replica.take(ahead[: batches.randint(1, 6)])
                told("shown", (replica.node_state.view, replica.applied.state.texts))
                if batches.random() < 0.2:
                    time.sleep(batches.uniform(0, _SAVE_EVERY_S_MAX))
        done.set()
        saver.join()
    tell(("end", None))


def _save(replica: Replica, stored: Checkpoint, told: Callable[[str, Any], None], done: threading.Event) -> None:
    pauses = random.Random(0)
    while not done.wait(pauses.uniform(0, _SAVE_EVERY_S_MAX)):
        replica.flush()
        told("saved", mark_of(stored._synced))
        replica.saved.tidy()
