"""Which state a node has beside a program: what the command line says is replicated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ..errors import ConfigError
from ..state.directory import DirectoryState
from ..state.file import FileState
from ..state.sqlite import SQLiteState
from ..state.sqlite_pages import SQLitePages
from .kept_files import KeptFiles
from .quiesce import Quiesce

__all__ = ["Asked", "StateBeside", "attach", "state_beside", "where_writes_go"]

#: Or one by pages, which is an `SQLiteState`, too.
StateBeside = FileState | SQLiteState | DirectoryState


class Asked(Protocol):
    """What was asked for (`serve.Program`)."""

    @property
    def file(self) -> Path | None: ...
    @property
    def sqlite(self) -> Path | None: ...
    @property
    def sqlite_by(self) -> str: ...
    @property
    def sqlite_live(self) -> bool: ...
    @property
    def dir(self) -> Path | None: ...
    @property
    def exclude(self) -> tuple[str, ...]: ...
    @property
    def with_sqlite(self) -> tuple[str, ...]: ...
    @property
    def on_quiesce(self) -> str: ...
    @property
    def file_mode(self) -> int: ...


def state_beside(asked: Asked, data_dir: Path, name: str) -> StateBeside | None:
    """The state; None: a registry. What it puts aside is listed in the data directory. Raises `ConfigError`."""
    state = _state(asked, data_dir)
    if state is not None:
        kept = KeptFiles(data_dir, state.path, name)
        kept.begin()
        state.kept.told = kept.note
    return state


def _state(asked: Asked, data_dir: Path) -> StateBeside | None:
    if sum(each is not None for each in (asked.file, asked.sqlite, asked.dir)) > 1:
        raise ConfigError(setting="file", problem="give a file, an SQLite database or a directory, one of them alone")
    if asked.dir is not None:
        return _directory(asked, asked.dir, data_dir)
    if asked.exclude or asked.with_sqlite or asked.on_quiesce:
        problem = "--exclude, --with-sqlite and --on-quiesce are for a directory: --dir says which"
        raise ConfigError(setting="dir", problem=problem)
    _check_sqlite(asked)
    if asked.file is not None:
        return FileState(asked.file, mode=asked.file_mode)
    if asked.sqlite is None:
        return None
    if asked.sqlite_by == "pages":
        return SQLitePages(asked.sqlite, mode=asked.file_mode, live=asked.sqlite_live)
    return SQLiteState(asked.sqlite, mode=asked.file_mode)


def _check_sqlite(asked: Asked) -> None:
    if asked.sqlite_live and asked.sqlite_by != "pages":
        raise ConfigError(setting="sqlite-live", problem="goes with --sqlite-by pages")
    if asked.sqlite_by == "pages" and asked.sqlite is None:
        raise ConfigError(setting="sqlite-by", problem="says how --sqlite replicates a database, and none was given")


def _directory(asked: Asked, path: Path, data_dir: Path) -> DirectoryState:
    if data_dir.resolve().is_relative_to(path.resolve()):
        problem = f"has the node's own {data_dir} in it, which is not to be replicated: --data-dir elsewhere"
        raise ConfigError(setting="dir", problem=problem)
    return DirectoryState(path, exclude=asked.exclude, with_sqlite=asked.with_sqlite, stage=data_dir)


def attach(state: StateBeside | None, asked: Asked, runs: Callable[[], bool]) -> None:
    """Have the program wait while its directory is read. `runs`: whether it does, and may write."""
    if isinstance(state, DirectoryState):
        state.quiesced = Quiesce(asked.on_quiesce, asked.dir or Path(), runs=runs)


class Told(Protocol):
    """As far as a `Node` says where writes go."""

    name: str
    proxy: str

    @property
    def leads(self) -> bool: ...
    @property
    def primary_proxy(self) -> str | None: ...


def where_writes_go(node: Told) -> str:
    """For whoever sends one to the node itself, which has a port of its own beside that of the program."""
    proxy = node.proxy or node.primary_proxy
    program = "the program on this machine" if node.leads else "the program of the node that leads"
    to = f"the proxy at {proxy}" if proxy else program
    return f"node {node.name} is beside a program, and serves its health and no state: send writes to {to}"
