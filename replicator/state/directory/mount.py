"""Whether the file system of a directory is still there.

A directory that was the top of a mounted file system, and is none any more, has lost it: at a reboot it did not come
back, or somebody took it away. What is there then is not the state. A program that finds it empty may begin anew in it,
and all nodes would become that. So it is remembered, beside the node's own files, and neither read nor written.

A directory that is mounted from the same file system (`mount --bind`) cannot be told from one that is not.
"""

from __future__ import annotations

import os
from pathlib import Path

from replicator.errors import StateError
from replicator.storage import disk

from ..replaced_files import explained

__all__ = ["NAME", "MountPoint"]

#: The note in the directory for copies: the path of a directory that was mounted.
NAME = "directory.mounted"


class MountPoint:
    """Of the directory at `path`. `kept`: where it is remembered; None: only as long as this process lives."""

    def __init__(self, path: Path, kept: Path | None) -> None:
        self._path = path
        self._note = None if kept is None else kept / NAME
        self._was_mounted = self._is_noted()

    @property
    def is_lost(self) -> bool:
        """Whether it was mounted once, and is not."""
        return self._was_mounted and not os.path.ismount(self._path)

    def check(self) -> None:
        """Raises `StateError` if it is lost. Remembers that it is there."""
        if os.path.ismount(self._path):
            self._remember()
        elif self._was_mounted:
            meant = f"remove {self._note}, and start the node again" if self._note else "start the node again"
            problem = f"its file system was mounted there, and is not any more: mount it; if that is meant, {meant}"
            raise StateError(path=self._path, problem=problem)

    def _is_noted(self) -> bool:
        if self._note is None:
            return False
        try:
            return self._note.read_bytes() == os.fsencode(self._path)
        except OSError:
            return False

    def _remember(self) -> None:
        if self._was_mounted:
            return
        if self._note is not None:
            with explained(self._note):
                disk.make_directory(self._note.parent)
                disk.write_private(self._note, os.fsencode(self._path))
        self._was_mounted = True
