"""G2, G7, G9: a node applies first and saves a moment later; killed at any instant, it comes back at a place of its
history, with exactly the state there, in no older term than it had shown, and its forks have what it had applied.

A child feeds a history into a `Replica`, beside a thread that flushes it, and is killed, by this process at a random
instant or by itself at a chosen event; the next child goes on in the same directory, as the kill left it.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from replicator.format.ids import Position
from replicator.protocol.fold import View
from replicator.storage.checkpoint import Checkpoint
from replicator.storage.checkpoint_reader import CheckpointReader
from replicator.storage.directory_lock import Mark
from replicator.storage.opening import mark_of
from tests.support.checkpoint_child import Plan, history, state_of
from tests.support.killer import Killer
from tests.support.replica_child import follow


def child(plan: Plan, pipe: Connection) -> None:
    follow(plan, pipe.send)


class ReplicaKiller(Killer):
    """Counts those kills, too, that took something that had been shown, and forks."""

    def __init__(self, root: Path, seed: int) -> None:
        self.forgotten = self.forks = 0
        super().__init__(root, seed, child)

    def begin(self) -> None:
        self.saved, self.term = Mark(), 0
        self.shown: View | None = None
        self.forked: list[Position] = []

    def note(self, kind: str, value: Any) -> None:
        match kind:
            case "shown":
                self.shown, state = value
                self.term = max(self.term, self.shown.term)
                # What its readers saw is right, whatever becomes of it.
                assert state == history(self.seed).states[self.shown.position.chain]
            case "saved":
                self.saved = value
            case "fork":
                self.forked.append(value)

    def check(self, stored: Checkpoint) -> None:
        loaded = stored.load()
        view = loaded.view if loaded else View()
        assert mark_of(stored._saved) >= self.saved
        self.saved = mark_of(stored._saved)
        assert view.term >= self.term
        assert state_of(stored) == history(self.seed).states[view.position.chain]
        assert all(change.id <= view.position.id for change in stored.changes())
        self.forgotten += self.shown is not None and self.shown.position != view.position
        self.shown = None

    def check_fork(self, fork: Path) -> None:
        with CheckpointReader(fork) as kept:
            assert kept.view.position in self.forked, "it has all that its node had applied"
        self.forks += 1


@pytest.fixture
def killer(tmp_path: Path) -> ReplicaKiller:
    return ReplicaKiller(tmp_path, seed=1)


def test_a_node_killed_at_random_instants_forgets_no_term_and_comes_back_at_a_place_of_its_history(
    killer: ReplicaKiller,
) -> None:
    # given a child that applies as fast as it can, and saves beside that
    # when it is killed within 30 ms of its start, 60 times, and until it had forgotten something and kept forks
    while killer.kills < 60 or not killer.forgotten or not killer.forks:
        killer.run("", 0, delay_s=killer.random.uniform(0, 0.03))
    # then each check of what it left has passed
    assert killer.kills >= 60


@pytest.mark.parametrize(
    ("event", "most"), [("before commit", 8), ("after commit", 8), ("statement", 60), ("file", 24)]
)
def test_a_node_killed_around_a_save_does_so_too(killer: ReplicaKiller, event: str, most: int) -> None:
    # given a child that kills itself at an event of one kind
    # when that is done 25 times, at one of the first events after its start each time
    while killer.kills < 25:
        killer.run(event, killer.random.randrange(most))
    # then each check has passed
    assert killer.kills == 25
