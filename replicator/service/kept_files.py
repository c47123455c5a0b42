"""The files that were put aside for the one beside a node, `PATH.replaced-<UTC time>`: a list of them, with the reason.
Of a directory, they are in a directory of that name, and it is what is listed.

The list is `replaced.jsonl` in the node's data directory, a line for each file, so that `replicator forks files` finds
them without knowing which file the node replicates. It only adds what a name does not say: a file that is not in it is
listed as well, and one that somebody removed is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from ..errors import ConfigError
from ..runtime.event_log import EventLogger
from ..state.replaced_files import asides
from ..storage import disk
from ..storage.database_files import moment_of
from .kept_directories import size_of

__all__ = ["KeptFile", "KeptFiles", "find", "kept_in"]

logger = EventLogger(__name__)

LIST = "replaced.jsonl"

_NOT_KNOWN = "not known: it was put aside before there was a list"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptFile:
    """`path`: the file that was put aside; `of`: the one in whose place another content came; `node`: beside which that
    is. `kept_at`: unix ms, of its name. `reason`: how it came to differ from what was published.
    """

    path: Path
    of: Path
    node: str
    kept_at: int | None
    bytes: int
    reason: str

    @property
    def name(self) -> str:
        return self.path.name

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. The names are a contract."""
        return {
            "file": self.name,
            "path": str(self.path),
            "replaced": str(self.of),
            "node": self.node,
            "kept_at": self.kept_at,
            "size_bytes": self.bytes,
            "reason": self.reason,
        }


class KeptFiles:
    """Of the node `node`, whose state is kept in the file `of`."""

    def __init__(self, data_dir: Path, of: Path, node: str) -> None:
        self._list = data_dir / LIST
        self._of = of.absolute()
        self._node = node

    def note(self, path: Path, reason: str) -> None:
        """`path` was put aside: say so, and list it. What fails here is logged, and keeps nobody from going on."""
        logger.warning("state.kept_aside", "%s was put aside as %s: %s", self._of, path.name, reason, path=str(path))
        line = {"path": str(path.absolute()), "of": str(self._of), "node": self._node, "reason": reason}
        try:
            disk.make_directory(self._list.parent)
            with self._list.open("ab") as file:
                file.write(orjson.dumps(line) + b"\n")
        except OSError as error:
            logger.warning("state.not_listed", "%s cannot be written: %s", self._list, error.strerror or error)

    def begin(self) -> None:
        """List the file itself, so that what was put aside for it is found."""
        if any(line.get("of") == str(self._of) for line in _lines(self._list)):
            return
        with suppress(OSError):  # a directory that cannot be read is said where the file is
            for path in asides(self._of):
                self.note(path, _NOT_KNOWN)


def kept_in(data_dirs: Sequence[Path]) -> list[KeptFile]:
    """The files that were put aside for the nodes of these directories, and are still there, oldest first."""
    found = {file.path: file for data_dir in data_dirs for file in _kept_in(data_dir)}
    return sorted(found.values(), key=lambda file: (file.kept_at or 0, file.name))


def _kept_in(data_dir: Path) -> Iterator[KeptFile]:
    reasons: dict[Path, str] = {}
    files: dict[Path, str] = {}
    for line in _lines(data_dir / LIST):
        reasons[Path(str(line.get("path", "")))] = str(line.get("reason", ""))
        if line.get("of"):
            files[Path(str(line["of"]))] = str(line.get("node", ""))
    for of, node in files.items():
        try:
            paths = asides(of)
        except OSError:
            continue
        for path in paths:
            if path.is_file() or path.is_dir():
                reason = reasons.get(path, _NOT_KNOWN)
                size = size_of(path) if path.is_dir() else path.stat().st_size
                yield KeptFile(path=path, of=of, node=node, kept_at=_kept_at(path, of), bytes=size, reason=reason)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        text = path.read_bytes()
    except OSError:
        return
    for line in text.splitlines():
        try:
            told = orjson.loads(line)
        except ValueError:  # the last line, of a node that was killed
            continue
        if isinstance(told, dict):
            yield told


def _kept_at(path: Path, of: Path) -> int | None:
    return moment_of(path.name.removeprefix(f"{of.name}.replaced-"))


def find(name: str, data_dirs: Sequence[Path]) -> KeptFile:
    """That of this name. Raises `ConfigError` if there is none, or more than one."""
    found = [file for file in kept_in(data_dirs) if name in (file.name, str(file.path))]
    where = ", ".join(map(str, data_dirs))
    if not found:
        problem = f"no file {name!r} was put aside by the nodes of {where}; `replicator forks files`"
        raise ConfigError(setting="NAME", problem=problem)
    if len(found) > 1:
        problem = f"{len(found)} files are named {name!r}: give the path of one"
        raise ConfigError(setting="NAME", problem=problem)
    return found[0]
