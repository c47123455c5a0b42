"""A log in memory, its author, and copies that read it, without threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.format.ids import Writer
from replicator.replica.replica import Replica
from replicator.storage.checkpoint import Checkpoint
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.kv import KV
from tests.support.replicas import ME
from tests.support.worlds import Author, lead


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(MemoryRedis())


@pytest.fixture
def author(log: MemoryLog) -> Author:
    return lead(log, "a", boot="boot-a")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    checkpoints: list[Checkpoint] = []

    def make(name: str = "b", *, state: Any = None, me: Writer = ME) -> Replica:
        for checkpoint in checkpoints:
            checkpoint.close()
        checkpoints.append(Checkpoint(tmp_path / name, "g", node=name))
        replica = Replica(KV() if state is None else state, checkpoints[-1], me)
        replica.known.talks_to("run-1")
        return replica

    yield make
    for checkpoint in checkpoints:
        checkpoint.close()
