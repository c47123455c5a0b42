"""What may go, and that whatever is kept can still be had."""

from __future__ import annotations

import pytest

from replicator.archive.checking import check
from replicator.archive.errors import NotInArchive
from replicator.archive.retention import removable
from replicator.format.ids import RecordId
from tests.support.logs import Pen
from tests.unit.archive.conftest import Scene

#: The stamp of all that a `Pen` writes.
AT = 1_767_225_600_000
DAY_MS = 86_400_000


def grown(scene: Scene, snapshots: int) -> list[RecordId]:
    """An archive of so many snapshots, two changes after each; the ids of the changes."""
    scene.restart()
    ids = []
    for number in range(snapshots):
        for value in (2 * number, 2 * number + 1):
            ids.append(scene.pen.change(value).id)
            scene.turns(2)
        scene.pen.snapshot()
        scene.turns(2)
    return ids


def removed(scene: Scene, **bounds: object) -> list[str]:
    catalog = scene.catalog
    found = removable(catalog, **({"now_ms": AT, "keep_s": None, "keep_snapshots": None} | bounds))  # type: ignore[arg-type]
    for footer in found:
        scene.place.remove(footer.name)
    return [footer.name for footer in found]


def test_everything_is_kept_unless_somebody_says_so(scene: Scene) -> None:
    grown(scene, 3)
    assert removed(scene) == []


def test_every_state_since_the_newest_snapshots_is_kept(scene: Scene) -> None:
    ids = grown(scene, 4)
    assert removed(scene, keep_snapshots=2)
    check(scene.catalog, rules=True)
    for count, id_ in enumerate(ids, 1):
        if count >= 6:  # of the third snapshot, and later
            assert scene.pushed(id_) == list(range(count))
    with pytest.raises(NotInArchive):
        scene.pushed(ids[0])
    scene.restart()  # and an archiver goes on there
    new = scene.pen.change("new").id
    scene.turns()
    assert scene.pushed(new) == [*range(8), "new"]


def test_more_snapshots_than_there_are_keep_everything(scene: Scene) -> None:
    grown(scene, 2)
    assert removed(scene, keep_snapshots=3) == []


def test_by_age_a_snapshot_that_is_old_enough_is_needed(scene: Scene) -> None:
    ids = grown(scene, 3)
    assert removed(scene, now_ms=AT + DAY_MS, keep_s=2 * 86_400.0) == [], "all of it is younger"
    assert removed(scene, now_ms=AT + 2 * DAY_MS, keep_s=86_400.0)
    assert scene.pushed(ids[-1]) == list(range(6)), "the newest state is kept, however old it is"
    check(scene.catalog, rules=True)


def test_of_both_bounds_the_one_counts_that_keeps_more(scene: Scene) -> None:
    ids = grown(scene, 4)
    removed(scene, now_ms=AT + 2 * DAY_MS, keep_s=86_400.0, keep_snapshots=3)
    assert scene.pushed(ids[4]) == list(range(5))


def test_a_timeline_that_a_later_one_continues_is_kept_as_far_as_it_needs_it(scene: Scene) -> None:
    ids = grown(scene, 2)
    older = scene.server.state
    other = Pen(scene.server, "b")
    other.pushed = list(range(4))
    lost = scene.pen.change("lost").id
    scene.turns()
    scene.server.fail_over(older, run="run-2")
    other.promote()
    new = other.change(4).id
    scene.turns()
    assert removed(scene, keep_snapshots=1)
    assert scene.pushed(new) == list(range(5))
    assert scene.pushed(lost) == [*range(4), "lost"]
    with pytest.raises(NotInArchive):
        scene.pushed(ids[0])
    check(scene.catalog, rules=True)


def test_the_archiver_removes_what_may_go(scene: Scene) -> None:
    grown(scene, 4)
    before = len(scene.catalog.timelines[1])
    scene.restart(keep_snapshots=1)
    scene.turns(2, seconds=100.0)
    assert len(scene.catalog.timelines[1]) < before
    check(scene.catalog, rules=True)


@pytest.mark.parametrize("replaces", [False, True], ids=["a snapshot", "a state that was loaded"])
@pytest.mark.parametrize("bound", [{"keep_snapshots": 1}, {"keep_s": 86_400.0, "now_ms": AT + 2 * DAY_MS}], ids=str)
def test_all_parts_of_the_snapshot_that_is_needed_are_kept(
    scene: Scene, replaces: bool, bound: dict[str, object]
) -> None:
    grown(scene, 1)
    for _ in scene.pen.parts(10, replaces=replaces):
        scene.turns(2)
    id_ = scene.pen.change("new").id
    scene.turns(2)
    assert removed(scene, **bound)
    assert scene.pushed(id_) == [0, 1, "new"]
    check(scene.catalog, rules=True)
