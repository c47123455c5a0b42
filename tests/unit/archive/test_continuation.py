"""An archive of a group that went on without a change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import ops
from replicator.archive.checking import check
from replicator.ops.certify import CannotRebuild
from tests.support.kv import PATIENCE_S, Group, push
from tests.support.stalled_group import Failing, skip, stalled_group
from tests.unit.archive.conftest import Scene


@pytest.fixture
def unwritten(tmp_path: Path) -> Iterator[Scene]:
    """Nobody has written anything."""
    scene = Scene(tmp_path)
    yield scene
    scene.held.close()


@pytest.fixture
def group(unwritten: Scene, tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path / "nodes", unwritten.server)
    yield group
    group.close()


@pytest.mark.parametrize("late", [False, True])
def test_what_was_skipped_stays_in_a_timeline_that_another_one_leaves_before_it(
    unwritten: Scene, group: Group, late: bool
) -> None:
    """Whether the archiver reads the change before it is skipped or after."""
    scene = unwritten
    scene.restart()
    nodes, change = stalled_group(group, key="k")
    if not late:
        scene.turns()
    skip(group, change, "b")
    nodes[1].submit(push("y"))
    scene.turns(5)

    footer = scene.catalog.footer(2, 1)
    assert footer.reason == "b went on from 1-2, and not from where the log was (a rebase)", "Redis has lost nothing"
    assert footer.parent is not None
    assert (footer.parent.timeline, footer.parent.position.partition("@")[0]) == (1, "1-2")
    check(scene.catalog, rules=True)
    assert scene.pushed("latest", state=Failing) == ["x", "y"]
    assert b'["k",' in scene.folded("latest", state=Failing).ledger, "a repeat is rejected by whoever is restored, too"
    assert scene.pushed("1-2", state=Failing) == ["x"]
    with pytest.raises(CannotRebuild, match="at 1-3"):
        scene.folded(change, state=Failing)

    ops.snapshot(group.log(), by="test", timeout_s=PATIENCE_S)
    nodes[1].submit(push("z"))
    scene.turns(5)
    scene.restart()
    assert max(scene.catalog.timelines) == 2
    assert scene.pushed("latest", state=Failing) == ["x", "y", "z"]
