"""G7: a node killed at any instant restarts at a record boundary and neither misses nor repeats a record.

A child feeds a history into a checkpoint and is killed, by this process at a random instant or by itself at a chosen
event; the next child goes on in the same directory, as the kill left it. After each kill a copy of the directory is
opened here: what it holds must be one of two saves, the last that the child says it did or the one it was about to do,
with exactly the state that the history has at that position.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from replicator.protocol.fold import View
from replicator.storage.checkpoint import Checkpoint
from tests.support.checkpoint_child import GROUP, NODE, Plan, follow, history, state_of

#: Children come from a server that has everything imported: a start costs milliseconds.
_CHILDREN = multiprocessing.get_context("forkserver")
_CHILDREN.set_forkserver_preload([__name__])


def child(plan: Plan, pipe: Connection) -> None:
    follow(plan, pipe.send)


class Killer:
    """One directory and one history after the other; counts the kills."""

    def __init__(self, root: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.kills = 0
        self.histories = 0
        self.restores = 0
        self._root = root
        self._seeds = count(seed)
        self._begin()

    def _begin(self) -> None:
        self.seed = next(self._seeds)
        self.data_dir = self._root / f"history-{self.seed}"
        self.epoch = 0
        self.saved: View | None = None
        self.histories += 1

    def run(self, kill_at: str, kill_after: int, *, delay_s: float = 0.0) -> None:
        """Start a child, let it be killed, check what it left. A child that reached the end makes way for the next."""
        plan = Plan(self.data_dir, self.seed, self.epoch, self.random.getrandbits(32), kill_at, kill_after)
        mine, its = _CHILDREN.Pipe(duplex=False)
        process = _CHILDREN.Process(target=child, args=(plan, its))
        process.start()
        its.close()
        if not kill_at:
            mine.poll(5)
            time.sleep(delay_s)
            process.kill()
        ended, tried = self._hear(mine)
        process.join()
        assert process.exitcode == -9 or ended
        self.kills += process.exitcode == -9
        self._check(tried)
        if ended:
            self._begin()

    def _hear(self, pipe: Connection) -> tuple[bool, View | None]:
        tried = self.saved
        ended = False
        while True:
            try:
                kind, value = pipe.recv()
            except EOFError:
                return ended, tried
            match kind:
                case "epoch":
                    self.epoch = value
                case "try":
                    tried = value
                case "did":
                    self.saved = value
                case "end":
                    ended = True

    def _check(self, tried: View | None) -> None:
        copy = self._root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if self.data_dir.exists():
            shutil.copytree(self.data_dir, copy)
        with Checkpoint(copy, GROUP, node=NODE) as stored:
            assert stored.set_aside is None
            loaded = stored.load()
            view = loaded.view if loaded else None
            assert view in (self.saved, tried)
            assert (view.term if view else 0) >= (self.saved.term if self.saved else 0)
            position = (view or View()).position
            assert state_of(stored) == history(self.seed).states[position.chain]
            under_way = view.snapshot if view and view.snapshot and not view.snapshot.complete else None
            assert len(list(stored.staged())) == (under_way.next_part if under_way else 0)
            assert all(change.id <= position.id for change in stored.changes())
            self.saved = view
        for fork in (self.data_dir / "forks").glob("[0-9]*.sqlite"):
            with closing(sqlite3.connect(fork)) as db:
                assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)]
                assert db.execute("SELECT value FROM meta WHERE key = 'reason'").fetchone()
            fork.unlink()
            self.restores += 1


@pytest.fixture
def killer(tmp_path: Path) -> Killer:
    return Killer(tmp_path, seed=1)


def _rounds(killer: Killer, least: int, one: Callable[[], None], *, restores: int = 0) -> None:
    while killer.kills < least or killer.restores < restores:
        one()


def test_g7_a_node_killed_at_random_instants_restarts_at_a_save_with_exactly_its_state(killer: Killer) -> None:
    # given a child that saves as fast as it can
    # when it is killed within 30 ms of its start, 80 times, and until a snapshot had replaced the state in between
    _rounds(killer, 80, lambda: killer.run("", 0, delay_s=killer.random.uniform(0, 0.03)), restores=1)
    # then each check of what it left has passed
    assert killer.kills >= 80


@pytest.mark.parametrize(
    ("event", "most"), [("before commit", 4), ("after commit", 8), ("statement", 60), ("file", 24)]
)
def test_g7_a_node_killed_around_a_commit_or_a_file_operation_restarts_at_a_save(
    killer: Killer, event: str, most: int
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
        killer = Killer(tmp_path / str(after), seed=7)
        # when the first child is killed at its event number `after`
        killer.run(event, after)
        # then what it left passes the check, and a second child goes on from it
        killer.run(event, 10)
        assert killer.kills == 2
