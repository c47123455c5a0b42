"""The file that a program makes at its first start."""

from __future__ import annotations

from pathlib import Path

from replicator.service.first_file import MADE_WITHIN_S, FirstFile
from replicator.state.file import FileState


def test_it_is_awaited_for_a_while_and_only_where_nothing_was_published_or_restored(tmp_path: Path) -> None:
    now = [5.0]
    state = FileState(tmp_path / "ours")
    first = FirstFile(clock=lambda: now[0])
    assert first.is_awaited(state)
    now[0] += MADE_WITHIN_S - 1
    assert first.is_awaited(state)
    now[0] += 2
    assert not first.is_awaited(state), "the path is wrong, or the program is"
    # what is there and cannot be published for another reason
    state.path.write_bytes(b"made")
    assert not FirstFile().is_awaited(state)
    # what was there, and is gone
    state.path.unlink()
    state.kept.is_new = False
    assert not FirstFile().is_awaited(state)
