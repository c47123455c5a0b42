"""A primary and a standby in this process, of a database that is replicated by pages, over a log in memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from replicator import Node
from replicator.errors import StateInUse
from replicator.node.publisher import Published
from replicator.state.sqlite_pages import SQLitePages

from .bank import audited, content
from .kv import PATIENCE_S, Group, eventually

__all__ = ["OPTIONS", "PageGroup"]

#: Of each node. No test is about the end of a lease, and nobody loses one of so many seconds.
OPTIONS: dict[str, Any] = {"app": "pages", "lease_s": 10 * PATIENCE_S}


class PageGroup:
    """`ours` is the path of the database of the primary, node `a`; `theirs` of the standby, node `b`.

    `live`: that of a standby follows what is published.
    """

    def __init__(self, directory: Path, *, live: bool = False) -> None:
        self.directory = directory
        self._live = live
        self.ours, self.theirs = directory / "ours.db", directory / "theirs.db"
        self.group = Group(directory / "nodes")
        self.a = self.group.primary("a", state=self.state_of(self.ours), **OPTIONS)
        self.b = self.standby("b", self.theirs)

    def standby(self, name: str, path: Path) -> Node:
        return self.group.node(name, state=self.state_of(path), **OPTIONS)

    def state_of(self, path: Path) -> SQLitePages:
        return SQLitePages(path, live=self._live)

    def publish(self) -> Published:
        """Also while a program does not let go of its locks for long."""
        published: list[Published] = []

        def done() -> bool:
            try:
                published.append(self.a.publish())
            except StateInUse:
                return False
            return True

        eventually(done, "the database can be read", patience_s=3 * PATIENCE_S)
        return published[0]

    def follow(self, node: Node | None = None) -> None:
        """Wait until the standby has all that was published."""
        node = node or self.b
        eventually(lambda: node.position == self.a.position and node.in_sync, patience_s=3 * PATIENCE_S)

    def carry(self) -> Published:
        published = self.publish()
        self.follow()
        return published

    def shadow(self, node: Node | None = None) -> Path:
        """A copy of what a node has of what was published, which SQLite can open."""
        node = node or self.b
        copy = self.directory / f"shadow-of-{node.name}"
        return Path(shutil.copyfile(node.data_dir / "shadow", copy))

    def are_equal(self, node: Node | None = None) -> bool:
        """Whether the node has what is in the primary's database now, and SQLite finds nothing wrong in it."""
        copy = self.shadow(node)
        audited(copy)
        return content(copy) == content(self.ours)

    def __enter__(self) -> PageGroup:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.group.close()
