"""A data directory of the past is whole, or no node starts from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.archive import data_dir
from replicator.archive.errors import ArchiveDamaged
from replicator.archive.target import Wanted, resolve
from tests.unit.archive.conftest import Scene


def test_no_checkpoint_is_left_of_a_restore_that_failed(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_dir, "_STEPS_AT_ONCE", 2)  # the first ones are saved before it fails
    scene.restart()
    for value in range(4):
        scene.pen.change(value)
        scene.turns(2)
    target = resolve(scene.catalog, Wanted.parse("latest"))
    place = scene.place.path / scene.catalog.footer(1, 3).name
    whole = place.read_bytes()
    place.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    new = tmp_path / "new"
    with pytest.raises(ArchiveDamaged):
        data_dir.write_data_dir(target, new, node="n", state="", rejects_errors=False)
    assert not (new / "checkpoint.sqlite").exists()


def test_it_is_there_once_it_is_whole(scene: Scene, tmp_path: Path) -> None:
    scene.restart()
    last = scene.pen.change(1).id
    scene.turns(2)
    target = resolve(scene.catalog, Wanted.parse("latest"))
    view = data_dir.write_data_dir(target, tmp_path / "new", node="n", state="", rejects_errors=False)
    assert view.position.id == last
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["checkpoint.sqlite", "lock"]
