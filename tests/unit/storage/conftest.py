from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.storage import save_transaction
from replicator.testing import MemoryRedis
from tests.support.checkpoints import Primary, Standby


@pytest.fixture
def server() -> MemoryRedis:
    return MemoryRedis(clock_ms=lambda: 1.0)


@pytest.fixture
def primary(server: MemoryRedis) -> Primary:
    return Primary(server)


@pytest.fixture(params=[True, False], ids=["synced", "not synced"])
def standby(server: MemoryRedis, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Standby]:
    standby = Standby(server, tmp_path / "s", synced=request.param)
    yield standby
    standby.stored.close()


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(save_transaction, "_SLICE_CHANGES", 10)
    monkeypatch.setattr(save_transaction, "_SLICE_PARTS", 2)
