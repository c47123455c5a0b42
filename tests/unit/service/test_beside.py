"""Which state is kept beside a program, and what cannot be asked for together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from replicator import ConfigError
from replicator.service.beside import state_beside, where_writes_go
from replicator.service.serve import Program
from replicator.state.directory import DirectoryState
from replicator.state.file import FileState
from replicator.state.sqlite import SQLiteState


def test_each_kind_has_its_state_and_a_registry_has_none(tmp_path: Path) -> None:
    for name, kind in (("file", FileState), ("sqlite", SQLiteState), ("dir", DirectoryState)):
        program = Program(**{name: tmp_path / name})  # type: ignore[arg-type]
        assert isinstance(state_beside(program, tmp_path / "data", "a"), kind)
    assert state_beside(Program(), tmp_path / "data", "a") is None


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"file": "f", "sqlite": "f"}, "give a file, an SQLite database or a directory"),
        ({"dir": "f", "sqlite": "f"}, "give a file, an SQLite database or a directory"),
        ({"file": "f", "exclude": ("x",)}, "are for a directory"),
        ({"with_sqlite": ("x",)}, "are for a directory"),
        ({"on_quiesce": "true"}, "are for a directory"),
        ({"dir": "f", "exclude": ("",)}, "is no pattern of a path"),
        ({"dir": "f", "with_sqlite": ("/",)}, "is no pattern of a path"),
        ({"dir": "."}, "has the node's own"),
        ({"dir": "data"}, "has the node's own"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_begins(asked: dict[str, Any], said: str, tmp_path: Path) -> None:
    paths = {name: tmp_path / asked[name] for name in ("file", "sqlite", "dir") if name in asked}
    with pytest.raises(ConfigError, match=said):
        state_beside(Program(**{**asked, **paths}), tmp_path / "data", "a")


@dataclass
class Beside:
    name: str = "a"
    proxy: str = ""
    leads: bool = False
    primary_proxy: str | None = None


@pytest.mark.parametrize(
    ("node", "to"),
    [
        (Beside(), "the program of the node that leads"),
        (Beside(leads=True), "the program on this machine"),
        (Beside(primary_proxy="http://b:1"), "the proxy at http://b:1"),
        (Beside(proxy="http://a:1", primary_proxy="http://b:1"), "the proxy at http://a:1"),
    ],
)
def test_who_writes_to_a_node_beside_a_program_is_told_where_that_goes(node: Beside, to: str) -> None:
    what = "node a is beside a program, and serves its health and no state: send writes to"
    assert where_writes_go(node) == f"{what} {to}"
