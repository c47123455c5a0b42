"""Where a file is, which its copy is not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from replicator.storage import file_identity
from replicator.storage.file_identity import place_of


def of(path: Path) -> str:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return place_of(descriptor)
    finally:
        os.close(descriptor)


def test_a_file_has_its_place_whatever_its_name_is_and_a_copy_has_another(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    before = of(tmp_path / "a")
    shutil.copy2(tmp_path / "a", tmp_path / "copy")
    (tmp_path / "a").rename(tmp_path / "b")
    assert of(tmp_path / "b") == before
    assert of(tmp_path / "copy") != before


def test_another_start_of_the_machine_is_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "boot_id").write_text("another\n")
    before = of(tmp_path / "a")
    file_identity._machine.cache_clear()
    monkeypatch.setattr(file_identity, "_BOOT_ID", tmp_path / "boot_id")
    try:
        assert of(tmp_path / "a") != before
        assert of(tmp_path / "a").startswith("another/")
    finally:
        file_identity._machine.cache_clear()


def test_where_the_system_does_not_tell_of_its_starts_the_machine_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("x")
    file_identity._machine.cache_clear()
    monkeypatch.setattr(file_identity, "_BOOT_ID", tmp_path / "missing")
    try:
        assert len(of(tmp_path / "a").split()) == 1
        assert of(tmp_path / "a") == of(tmp_path / "a")
    finally:
        file_identity._machine.cache_clear()
