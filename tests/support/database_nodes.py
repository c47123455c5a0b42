"""Nodes as processes beside a database of SQLite: `replicator node --sqlite`."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import suppress
from pathlib import Path

from .bank import Broken, audited, content
from .nodes_beside import NodeBeside

__all__ = ["WAYS", "DatabaseNode", "database_nodes"]

#: How a database is replicated: as copies of it, or by the pages that changed; with `live`, to where programs read it.
WAYS: dict[str, tuple[str, ...]] = {
    "copy": (),
    "pages": ("--sqlite-by", "pages"),
    "live": ("--sqlite-by", "pages", "--sqlite-live"),
}


class DatabaseNode(NodeBeside):
    """Beside the database `path`."""

    def __init__(self, url: str, directory: Path, name: str, *, way: str = "copy", every_s: float = 0.05) -> None:
        self.way = way
        self.path = directory / f"{name}.db"
        super().__init__(url, directory, name, "--sqlite", str(self.path), *WAYS[way], every_s=every_s)

    def content(self) -> str:
        """What it has of the group's database, as a digest of what programs would read in it. Empty: not to be said
        now, because it is being written.
        """
        with suppress(OSError, sqlite3.Error, Broken):
            return content(self._copy_of(self._published))
        return ""

    def audited(self) -> int:
        """How many transfers are in it. Raises `Broken`."""
        return audited(self._copy_of(self._published)) if self._published.exists() else -1

    @property
    def _published(self) -> Path:
        """By pages it is in the data directory, until the node is to lead."""
        return self.data_dir / "shadow" if self.way == "pages" else self.path

    def _copy_of(self, path: Path) -> Path:
        copy = self.data_dir.with_name(f"{self.name}-looked-at")
        for suffix in ("", "-wal", "-journal", "-shm"):
            Path(f"{copy}{suffix}").unlink(missing_ok=True)
        if path == self.path:
            return path
        return Path(shutil.copyfile(path, copy))

    @property
    def replaced(self) -> list[Path]:
        """What it put aside."""
        found = self.path.parent.glob(f"{self.path.name}.replaced-*")
        return [path for path in found if not path.name.endswith(("-wal", "-shm", "-journal"))]


def database_nodes(url: str, directory: Path, *names: str, way: str) -> dict[str, DatabaseNode]:
    """They are started."""
    nodes = {name: DatabaseNode(url, directory, name, way=way) for name in names}
    for node in nodes.values():
        node.start()
    return nodes
