"""Kills children that feed a history into a data directory, and has what each kill left looked at.

A child is killed by this process at a random instant, or kills itself at a chosen event; the next child goes on in the
same directory, as the kill left it.
"""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from replicator.storage.checkpoint import Checkpoint

from .checkpoint_child import GROUP, NODE, Plan

__all__ = ["Killer"]

#: Children come from a server that has everything imported: a start costs milliseconds.
_CHILDREN = multiprocessing.get_context("forkserver")


class Killer(ABC):
    """One directory and one history after the other; counts the kills. `child`: what a child does, and says."""

    def __init__(self, root: Path, seed: int, child: Callable[[Plan, Connection], None]) -> None:
        _CHILDREN.set_forkserver_preload([child.__module__])
        self.random = random.Random(seed)
        self.kills = 0
        self._child = child
        self._root = root
        self._seeds = count(seed)
        self._begin()

    def _begin(self) -> None:
        self.seed = next(self._seeds)
        self.data_dir = self._root / f"history-{self.seed}"
        self.epoch = 0
        self.begin()

    def run(self, kill_at: str, kill_after: int, *, delay_s: float = 0.0) -> None:
        """Start a child, let it be killed, check what it left. A child that reached the end makes way for the next."""
        plan = Plan(self.data_dir, self.seed, self.epoch, self.random.getrandbits(32), kill_at, kill_after)
        mine, its = _CHILDREN.Pipe(duplex=False)
        process = _CHILDREN.Process(target=self._child, args=(plan, its))
        process.start()
        its.close()
        if not kill_at:
            mine.poll(5)
            time.sleep(delay_s)
            process.kill()
        ended = self._hear(mine)
        process.join()
        assert process.exitcode == -9 or ended
        self.kills += process.exitcode == -9
        with self._left() as stored:
            self.check(stored)
        for fork in (self.data_dir / "forks").glob("[0-9]*.sqlite"):
            self.check_fork(fork)
            fork.unlink()
        if ended:
            self._begin()

    def _hear(self, pipe: Connection) -> bool:
        """Take in all that the child says; whether it came to the end."""
        ended = False
        while True:
            try:
                kind, value = pipe.recv()
            except EOFError:
                return ended
            match kind:
                case "epoch":
                    self.epoch = value
                case "end":
                    ended = True
                case _:
                    self.note(kind, value)

    @contextmanager
    def _left(self) -> Iterator[Checkpoint]:
        """The checkpoint that the kill left, in a copy of its directory."""
        copy = self._root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if self.data_dir.exists():
            shutil.copytree(self.data_dir, copy)
        with Checkpoint(copy, GROUP, node=NODE) as stored:
            assert stored.set_aside is None
            yield stored

    @abstractmethod
    def begin(self) -> None:
        """Another history begins: what was noted of the one before is over."""

    @abstractmethod
    def note(self, kind: str, value: Any) -> None:
        """The child said that."""

    @abstractmethod
    def check(self, stored: Checkpoint) -> None:
        """Hold what the kill left against what was noted."""

    @abstractmethod
    def check_fork(self, fork: Path) -> None:
        """Look at a fork that a child kept."""
