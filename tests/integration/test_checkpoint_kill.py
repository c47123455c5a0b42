"""G7: a node killed at any instant restarts at a record boundary and neither misses nor repeats a record.

A child feeds a history into a checkpoint and is killed, by this process at a random instant or by itself at a chosen
event; the next child goes on in the same directory, as the kill left it. After each kill a copy of the directory is
opened here: what it holds must be one of two saves, the last that the child says it did or the one it was about to do,
with exactly the state that the history has at that position.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from replicator.protocol.fold import View
from replicator.storage.checkpoint import Checkpoint
from tests.support.checkpoint_child import Plan, follow, history, state_of
from tests.support.killer import Killer


def child(plan: Plan, pipe: Connection) -> None:
    follow(plan, pipe.send)


class CheckpointKiller(Killer):
    def __init__(self, root: Path, seed: int) -> None:
        self.restores = 0
        super().__init__(root, seed, child)

    def begin(self) -> None:
        self.saved: View | None = None
        self.tried: View | None = None

    def note(self, kind: str, value: Any) -> None:
        match kind:
            case "try":
                self.tried = value
            case "did":
                self.saved = value

    def check(self, stored: Checkpoint) -> None:
        loaded = stored.load()
        view = loaded.view if loaded else None
        assert view in (self.saved, self.tried)
        assert (view.term if view else 0) >= (self.saved.term if self.saved else 0)
        position = (view or View()).position
        assert state_of(stored) == history(self.seed).states[position.chain]
        under_way = view.snapshot if view and view.snapshot and not view.snapshot.complete else None
        assert len(list(stored.staged())) == (under_way.next_part if under_way else 0)
        assert all(change.id <= position.id for change in stored.changes())
        self.saved = self.tried = view

    def check_fork(self, fork: Path) -> None:
        with closing(sqlite3.connect(fork)) as db:
            assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            assert db.execute("SELECT value FROM meta WHERE key = 'reason'").fetchone()
        self.restores += 1


@pytest.fixture
def killer(tmp_path: Path) -> CheckpointKiller:
    return CheckpointKiller(tmp_path, seed=1)


def _rounds(killer: CheckpointKiller, least: int, one: Callable[[], None], *, restores: int = 0) -> None:
    while killer.kills < least or killer.restores < restores:
        one()


def test_g7_a_node_killed_at_random_instants_restarts_at_a_save_with_exactly_its_state(
    killer: CheckpointKiller,
) -> None:
    # given a child that saves as fast as it can
    # when it is killed within 30 ms of its start, 80 times, and until a snapshot had replaced the state in between
    _rounds(killer, 80, lambda: killer.run("", 0, delay_s=killer.random.uniform(0, 0.03)), restores=1)
    # then each check of what it left has passed
    assert killer.kills >= 80


@pytest.mark.parametrize(
    ("event", "most"), [("before commit", 4), ("after commit", 8), ("statement", 60), ("file", 24)]
)
def test_g7_a_node_killed_around_a_commit_or_a_file_operation_restarts_at_a_save(
    killer: CheckpointKiller, event: str, most: int
) -> None:
    # given a child that kills itself at an event of one kind
    # when that is done 35 times, at one of the first events after its start each time
    _rounds(killer, 35, lambda: killer.run(event, killer.random.randrange(most)))
    # then each check has passed
    assert killer.kills == 35


@pytest.mark.parametrize("event", ["before commit", "after commit", "statement", "file"])
def test_g7_a_node_killed_at_every_event_of_its_first_start_can_start_again(tmp_path: Path, event: str) -> None:
    # given an empty directory each time
    for after in range(12):
        killer = CheckpointKiller(tmp_path / str(after), seed=7)
        # when the first child is killed at its event number `after`
        killer.run(event, after)
        # then what it left passes the check, and a second child goes on from it
        killer.run(event, 10)
        assert killer.kills == 2
