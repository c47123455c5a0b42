"""A log in memory, a member that writes to it, and an archiver whose clock the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from replicator.archive.archiver import Archiver, Settings
from replicator.archive.catalog import Catalog
from replicator.archive.folding import Folded, fold
from replicator.archive.places import Directory
from replicator.archive.target import Wanted, resolve
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.kv import KV
from tests.support.logs import Pen


class Scene:
    """`pen` writes; `archiver` is started anew by `restart`."""

    def __init__(self, directory: Path) -> None:
        self.server = MemoryRedis()
        self.pen = Pen(self.server)
        self.place = Directory(directory / "archive")
        self.now = 0.0
        self.settings: dict[str, Any] = {"snapshot_every_s": 0.0}
        self.held = ExitStack()
        self.archiver: Archiver

    def restart(self, **settings: Any) -> None:
        """As after a kill: nothing that it had in memory is left."""
        self.held.close()
        self.held.enter_context(self.place.held())
        self.settings |= settings
        log = MemoryLog(self.server, "g")
        self.archiver = Archiver(log, self.place, Settings(**self.settings), clock=lambda: self.now)
        self.archiver.begin()

    def turns(self, count: int = 3, *, seconds: float = 10.0) -> None:
        """Let it work; so much time passes before each turn that all that can be due is."""
        for _ in range(count):
            self.now += seconds
            self.archiver.turn()

    @property
    def catalog(self) -> Catalog:
        return Catalog(self.place)

    def folded(self, at: object, *, timeline: int | None = None, state: Any = KV) -> Folded:
        target = resolve(self.catalog, Wanted.parse(str(at)), timeline=timeline)
        return fold(target, self.held, make_state=state)

    def pushed(self, at: object, **how: Any) -> list[Any]:
        """What the state had there."""
        return next(iter(self.folded(at, **how).pieces()))[1]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    scene.pen.promote()
    yield scene
    scene.held.close()
