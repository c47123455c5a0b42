"""A directory of backups of a group, one file each, and which of them may go.

    GROUP.20261130T030000Z.KEY.backup

The time (UTC) is for people; the KEY is that of the request which the file is for, so that a request which is carried
out twice makes one file. A file is removed only if it has such a name *and* says of itself that it is a backup of this
group, and only after a newer one was written and read back. What counts as kept is whole: a damaged file is left where
it is, told, and another one is kept in its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..archive.backup import Facts, described, from_log, opened
from ..archive.errors import ArchiveUnavailable, BackupDamaged
from ..errors import ConfigError, ReplicatorError
from ..format.ids import RecordId
from ..log.interface import Log
from ..storage import disk
from ..storage.database_files import utc_now
from ..storage.keyring import Keys
from .errors import BackupsInUse

__all__ = ["BackupFile", "Backups", "outdated"]

_KEY = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BackupFile:
    """A file, and what it says of itself."""

    path: Path
    facts: Facts


class Backups:
    """The backups of `group` in the directory `path`, which is made if it is missing. Raises `ArchiveUnavailable`.

    `keys`: those of the group, if it has some.
    """

    def __init__(self, path: Path, group: str, *, snapshot_bytes_max: int, keys: Keys | None = None) -> None:
        self._keys = keys
        self.path, self._group, self._bytes_max = path, group, snapshot_bytes_max
        self._name = re.compile(rf"{re.escape(group)}\.[0-9]{{8}}T[0-9]{{6}}Z\.({_KEY.pattern})\.backup")
        with self._translated():
            disk.make_directory(path)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While nobody else writes or removes backups of the group here. Raises `BackupsInUse`."""
        with self._translated():
            lock = disk.open_lock(self.path / f".{self._group}.lock")
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupsInUse(path=self.path, group=self._group) from None
            self._remove_drafts()
            yield
        finally:
            os.close(lock)

    def of_request(self, key: str) -> BackupFile | None:
        """The file that was written for this request before, if it is whole."""
        for path in self._paths():
            match = self._name.fullmatch(path.name)
            if match is not None and match[1] == key and (found := self._read(path)) and self.is_whole(found):
                return found
        return None

    def write(self, log: Log, *, as_of: RecordId, state: str, key: str) -> BackupFile:
        """Write the snapshot of `as_of`, and read it back. `key`: 16 hex digits. Raises what `from_log` does."""
        if not _KEY.fullmatch(key):
            raise ConfigError(setting="key", problem=f"{key!r} is not 16 hex digits")
        path = self.path / f"{self._group}.{utc_now()}.{key}.backup"
        facts = from_log(path, log, as_of=as_of, state=state)
        with opened(path, snapshot_bytes_max=self._bytes_max, keys=self._keys):
            pass
        return BackupFile(path=path, facts=facts)

    def retain(self, written: BackupFile, *, keep: int | None, keep_s: float | None) -> tuple[list[str], list[str]]:
        """Remove what need not be kept beside the one that was just written; the names of those that are gone, and of
        those that are damaged.
        """
        if keep is None and keep_s is None:
            return [], []
        read = [(path, self._read(path)) for path in self._paths() if path != written.path]
        damaged = [path.name for path, found in read if found is None]

        def is_whole(backup: BackupFile) -> bool:
            whole = backup is written or self.is_whole(backup)
            if not whole:
                damaged.append(backup.path.name)
            return whole

        rest = sorted((found for _, found in read if found), key=lambda each: each.facts.made_at, reverse=True)
        now_ms = int(time.time() * 1000)
        gone = outdated([written, *rest], now_ms=now_ms, keep=keep, keep_s=keep_s, is_whole=is_whole)
        with self._translated():
            for backup in gone:
                backup.path.unlink(missing_ok=True)
            disk.sync(self.path)
        return [backup.path.name for backup in gone], sorted(damaged)

    def is_whole(self, backup: BackupFile) -> bool:
        """Whether all of it can be read, and has its hash."""
        try:
            with opened(backup.path, snapshot_bytes_max=self._bytes_max, keys=self._keys):
                return True
        except ReplicatorError:
            return False

    def _read(self, path: Path) -> BackupFile | None:
        try:
            facts = described(path)
        except (BackupDamaged, OSError):
            return None
        return BackupFile(path=path, facts=facts) if facts.group == self._group else None

    def _paths(self) -> list[Path]:
        with self._translated():
            return sorted(
                path
                for path in self.path.iterdir()
                if self._name.fullmatch(path.name) and path.is_file() and not path.is_symlink()
            )

    def _remove_drafts(self) -> None:
        """Those of processes that were killed: nobody writes here now."""
        with self._translated():
            for path in self.path.iterdir():
                name = path.name
                if name.startswith(".") and name.endswith(".new") and self._name.fullmatch(name[1:-4]):
                    path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArchiveUnavailable(place=self.path, problem=error.strerror or str(error)) from error


def outdated(
    backups: Sequence[BackupFile],
    *,
    now_ms: int,
    keep: int | None,
    keep_s: float | None,
    is_whole: Callable[[BackupFile], bool],
) -> list[BackupFile]:
    """Those that may go: neither among the newest `keep`, nor younger than `keep_s`. Without a bound none may.

    `backups`: the newest first. One that is not whole does not count, and does not go.
    """
    since_ms = now_ms if keep_s is None else now_ms - int(keep_s * 1000)
    kept, gone = 0, list[BackupFile]()
    for backup in backups:
        young = keep_s is not None and backup.facts.made_at >= since_ms
        wanted = young or (keep is not None and kept < keep)
        if wanted and is_whole(backup):
            kept += 1
        elif not wanted and (keep is not None or keep_s is not None):
            gone.append(backup)
    return gone
