"""Which record an id or a time means; and what is refused."""

from __future__ import annotations

import pytest

from replicator.archive.errors import NotInArchive
from replicator.archive.status import Status
from replicator.archive.target import Wanted, resolve
from replicator.errors import ConfigError
from replicator.format.ids import RecordId
from tests.unit.archive.conftest import Scene

NOW = 4_000_000_000_000


def written(scene: Scene, at: int) -> RecordId:
    """A change that is stamped so."""
    scene.pen.at = at
    return scene.pen.change(at).id


def id_at(scene: Scene, at: int, **how: object) -> RecordId:
    return resolve(scene.catalog, Wanted("then", at=at), **how).id  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("latest", (None, None)),
        ("5-1042", (RecordId(5, 1042), None)),
        ("10s", (None, NOW - 10_000)),
        ("1.5m", (None, NOW - 90_000)),
        ("2d", (None, NOW - 172_800_000)),
        ("2026-01-31T12:00:00Z", (None, 1_769_860_800_000)),
        ("2026-01-31 12:00:00.250", (None, 1_769_860_800_250)),
        ("2026-01-31T13:00:00+01:00", (None, 1_769_860_800_000)),
    ],
)
def test_an_id_an_age_or_a_time(text: str, wanted: object) -> None:
    assert Wanted.parse(text, now_ms=NOW)[1:] == wanted


@pytest.mark.parametrize("text", ["yesterday", "10", "5-", "10 s", ""])
def test_what_is_none_of_them_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no id"):
        Wanted.parse(text)


def test_a_time_is_the_last_record_before_the_first_later_one(scene: Scene) -> None:
    scene.restart()
    ids = []
    for at in (NOW, NOW + 100, NOW + 200, NOW + 300):
        ids.append(written(scene, at))
        scene.turns(2)
    assert id_at(scene, NOW + 100) == ids[1]
    assert id_at(scene, NOW + 199) == ids[1]
    assert id_at(scene, NOW + 200) == ids[2]


def test_a_clock_that_was_set_back_does_not_bring_back_what_came_before(scene: Scene) -> None:
    scene.restart()
    ids = []
    for at in (NOW, NOW + 500, NOW + 100, NOW + 900):
        ids.append(written(scene, at))
        scene.turns(2)
    assert id_at(scene, NOW + 200) == ids[0]
    assert id_at(scene, NOW + 600) == ids[2]


def test_a_time_after_what_is_known_to_be_complete_is_refused(scene: Scene) -> None:
    scene.restart()
    newest = written(scene, NOW)
    scene.turns()
    complete = Status(group="g", complete_at=NOW + 5000)
    assert id_at(scene, NOW + 4000, status=complete) == newest
    with pytest.raises(NotInArchive, match=f"wait for the archiver, or give --at {newest}"):
        id_at(scene, NOW + 6000, status=complete)
    with pytest.raises(NotInArchive, match="nobody says up to when it is complete"):
        id_at(scene, NOW + 1)


def test_a_time_within_a_gap_is_refused_with_what_is_on_either_side(scene: Scene) -> None:
    scene.restart()
    before = written(scene, NOW)
    scene.turns()
    for at in (NOW + 100, NOW + 200):
        written(scene, at)
        scene.pen.snapshot()
    written(scene, NOW + 300)
    scene.pen.snapshot()
    while scene.pen.log.sweep():
        pass
    after = written(scene, NOW + 10**12)
    scene.turns(5)
    status = Status(group="g", complete_at=NOW + 10**13)
    with pytest.raises(
        NotInArchive, match=f"there is a gap between {before}.*--at {before} is the last state before it"
    ):
        id_at(scene, NOW + 150, status=status)
    assert id_at(scene, NOW + 10**12, status=status) == after
    with pytest.raises(NotInArchive, match="it begins with 1-1"):
        id_at(scene, 1)


def test_an_empty_archive_and_a_timeline_that_is_not_there_are_said(scene: Scene) -> None:
    scene.restart()
    with pytest.raises(NotInArchive, match="it is empty"):
        id_at(scene, NOW)
    written(scene, NOW)
    scene.turns()
    with pytest.raises(ConfigError, match="there is no timeline 7; there are 1"):
        id_at(scene, NOW, timeline=7)
