"""A number of things in words."""

from __future__ import annotations

from replicator.runtime.counted import counted


def test_one_is_one_and_all_others_are_many() -> None:
    assert [counted(count, "record") for count in (0, 1, 2)] == ["0 records", "1 record", "2 records"]
    assert [counted(count, "registry", "registries") for count in (1, 2)] == ["1 registry", "2 registries"]
    assert counted(None, "record") == "? records"
