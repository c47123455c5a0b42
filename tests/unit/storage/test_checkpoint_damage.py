"""A checkpoint file that is damaged: it is set aside, and never gives another state."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import orjson
import pytest

from replicator.errors import CheckpointError
from replicator.format import codec
from replicator.format.ids import Position
from replicator.protocol.fold import View
from replicator.storage.checkpoint import Checkpoint
from replicator.storage.checkpoint_file import Saved
from tests.support.checkpoint_child import state_of
from tests.support.checkpoints import Primary, Standby, contents, noise, rows_of, tidied

# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def written(primary: Primary, tmp_path: Path) -> Path:
    """A directory as a kill leaves it: a payload, changes, staged parts; some in the file, some in the WAL."""
    standby = Standby(primary.server, tmp_path / "running")
    for number in range(40):
        primary.change(noise(number))
    list(primary.snapshot(size=300))
    primary.change("in the file")
    standby.read()
    tidied(standby.stored)
    standby.restart()
    primary.change("in the WAL")
    primary.promote()
    parts = primary.snapshot(size=300)
    next(parts)
    next(parts)
    standby.read()
    shutil.copytree(standby.data_dir, tmp_path / "left")
    standby.stored.close()
    return tmp_path / "left"


@pytest.fixture
def untidy(primary: Primary, tmp_path: Path, small_slices: None) -> Path:
    """The same in the middle of deleting what was given up."""
    standby = Standby(primary.server, tmp_path / "running")
    for number in range(40):
        primary.change(noise(number))
    list(primary.snapshot(size=300))
    standby.read()
    for number in range(40):
        primary.change(noise(number))
    list(primary.snapshot(size=1_000_000))
    primary.change("in the file")
    standby.read()
    standby.stored.tidy()
    assert rows_of(standby.stored)[0] > 20
    standby.stored.close()
    shutil.copytree(standby.data_dir, tmp_path / "left")
    return tmp_path / "left"


def _try(written: Path, name: str, damage: Callable[[bytearray], None]) -> tuple[str, object]:
    """Damage one of the files of a copy, and start on it: what came of it."""
    copy = written.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(written, copy)
    data = bytearray((copy / name).read_bytes())
    damage(data)
    (copy / name).write_bytes(data)
    try:
        with Checkpoint(copy, "g", node="s") as stored:
            if stored.set_aside is not None:
                assert stored.load() is None
                assert any(path.name.startswith(stored.set_aside.name) for path in copy.iterdir())
                return "set aside", None
            return "loaded", (stored.load(), state_of(stored), list(stored.staged()))
    except CheckpointError as problem:
        return "refused", str(problem)


def _untouched(data: bytearray) -> None:
    pass


def test_a_truncated_file_is_set_aside_at_every_length(written: Path) -> None:
    # given a checkpoint as a kill leaves it, and what it holds
    right = _try(written, "checkpoint.sqlite", _untouched)
    assert right[0] == "loaded"
    for name in ("checkpoint.sqlite", "checkpoint.sqlite-wal"):
        size = (written / name).stat().st_size
        # when the file or its WAL is cut at any of many lengths
        for length in [0, 1, 24, 32, 99, 100, 511, 512, 4095, 4096, *range(0, size, size // 40), size - 1]:
            got = _try(written, name, lambda data, length=length: data.__delitem__(slice(length, None)))  # type: ignore[misc]
            # then it is set aside; what the WAL has anew of a page does not need the file's
            assert got[0] == "set aside" or got == right, (name, length, got)


@pytest.mark.parametrize("name", ["checkpoint.sqlite", "checkpoint.sqlite-wal"])
def test_flipped_bits_never_give_another_state(written: Path, name: str) -> None:
    # given a checkpoint as a kill leaves it, and what it holds
    right = _try(written, name, _untouched)
    size = (written / name).stat().st_size
    outcomes = []
    # when one byte is another one, in any of many places
    for place in [*range(100), *range(100, size, size // 300)]:

        def flip(data: bytearray, place: int = place) -> None:
            data[place] ^= 0x55

        outcome, got = _try(written, name, flip)
        outcomes.append(outcome)
        # then it loads as it was, or is set aside; two numbers in the header make it another program's or a newer one
        assert outcome != "loaded" or got == right[1], place
        assert outcome != "refused" or (name == "checkpoint.sqlite" and 60 <= place < 72), (place, got)
    assert outcomes.count("set aside") > 50


def test_flipped_bits_in_what_was_given_up_never_give_another_state(untidy: Path) -> None:
    name = "checkpoint.sqlite"
    right = _try(untidy, name, _untouched)
    assert right[0] == "loaded"
    size = (untidy / name).stat().st_size
    for place in range(100, size, size // 200):

        def flip(data: bytearray, place: int = place) -> None:
            data[place] ^= 0x55

        outcome, got = _try(untidy, name, flip)
        assert outcome == "set aside" or (outcome, got) == right, place


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE meta SET value = '1-x' WHERE key = 'given_up'",
        "UPDATE meta SET value = 7 WHERE key = 'given_up'",
        "UPDATE meta SET value = '9-9' WHERE key = 'given_up'",
        "DELETE FROM meta WHERE key = 'given_up'",
        "INSERT INTO part VALUES (99, 0, x'00')",
        "UPDATE part SET snapshot = 'x' WHERE snapshot = (SELECT min(snapshot) FROM part)",
    ],
)
def test_what_is_given_up_is_known_for_certain(untidy: Path, statement: str) -> None:
    with closing(sqlite3.connect(untidy / "checkpoint.sqlite", isolation_level=None)) as db:
        db.execute(statement)
    with Checkpoint(untidy, "g", node="s") as stored:
        assert stored.set_aside is not None


def test_a_lost_row_or_a_changed_id_is_found(written: Path) -> None:
    # given statements that leave a sound SQLite file
    for statement in (
        "DELETE FROM change WHERE n = (SELECT max(n) FROM change)",
        "DELETE FROM change WHERE n = (SELECT min(n) FROM change)",
        "UPDATE change SET n = n + 1000",
        "UPDATE change SET link = 'another' WHERE n = (SELECT min(n) FROM change)",
        "UPDATE change SET body = x'5b5d' WHERE n = (SELECT min(n) FROM change)",
        "DELETE FROM part WHERE part = 1",
        "UPDATE part SET part = part + 1000",
        "INSERT INTO part VALUES (99, 0, x'00')",
        "DELETE FROM part WHERE snapshot = (SELECT max(snapshot) FROM part)",
        "DELETE FROM meta",
        "DROP TABLE part",
        "UPDATE meta SET value = 'text'",
    ):
        copy = written.parent / "sound"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(written, copy)
        with closing(sqlite3.connect(copy / "checkpoint.sqlite", isolation_level=None)) as db:
            db.execute(statement)
        # when a node starts on it, then it is set aside
        with Checkpoint(copy, "g", node="s") as stored:
            assert stored.set_aside is not None, statement


def test_a_damaged_file_is_kept_under_another_name_and_named_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # given a checkpoint that is damaged twice within a second
    names = set()
    for term in (1, 2):
        with Checkpoint(tmp_path, "g", node="a") as stored:
            stored.save(View(term=term), boot="b")
        (tmp_path / "checkpoint.sqlite").write_bytes(b"damaged %d" % term)
        # when a node starts on it
        with Checkpoint(tmp_path, "g", node="a") as stored:
            # then the file is there under the name that is logged at ERROR, and the node begins anew
            assert stored.set_aside is not None
            assert stored.set_aside.read_bytes() == b"damaged %d" % term
            assert stored.set_aside.name.startswith("checkpoint.sqlite.damaged-")
            assert caplog.records[-1].levelname == "ERROR"
            assert str(stored.path) in caplog.text
            assert str(stored.set_aside) in caplog.text
            assert stored.load() is None
            names.add(stored.set_aside)
    assert len(names) == 2
    # when it starts the next time, then nothing is wrong
    with Checkpoint(tmp_path, "g", node="a") as stored:
        assert stored.set_aside is None


def test_an_older_copy_put_back_in_place_of_the_file_is_set_aside(tmp_path: Path) -> None:
    # given a copy of the file from before the last save
    with Checkpoint(tmp_path, "g", node="a") as stored:
        stored.save(View(term=5), boot="b")
    old = contents(tmp_path)
    with Checkpoint(tmp_path, "g", node="a") as stored:
        stored.save(View(term=6), boot="b")
    # when it takes the file's place, then the term that it lost does not go unnoticed
    (tmp_path / "checkpoint.sqlite").write_bytes(old)
    with Checkpoint(tmp_path, "g", node="a") as stored:
        assert stored.set_aside is not None


# --- found by tests.fuzz ----------------------------------------------------------------------------------------------


def test_damage_that_sqlite_tells_in_no_utf8_is_damage_too(written: Path) -> None:
    # given a name in the schema that is no UTF-8, so that not even SQLite's message about it can be read
    def damage(data: bytearray) -> None:
        assert data.count(b"tablepart") == 1
        data[:] = data.replace(b"tablepart", b"tablep\xffrt")

    # then the file is set aside like any other
    assert _try(written, "checkpoint.sqlite", damage)[0] == "set aside"


@pytest.mark.parametrize(
    "table", [b"TABLE part (snapshot INTEGER, part INTEGER, ", b"link TEXT NOT NULL, header BLOB NOT NULL, "]
)
def test_a_column_of_another_name_is_damage(written: Path, table: bytes) -> None:
    # given a letter of the schema that was changed: SQLite itself finds nothing wrong with that
    def damage(data: bytearray) -> None:
        assert data.count(table + b"body") == 1
        data[:] = data.replace(table + b"body", table + b"bodx")

    # then the file is set aside at once, and does not fail when it is read
    assert _try(written, "checkpoint.sqlite", damage)[0] == "set aside"


@pytest.mark.parametrize(
    "change",
    [
        {"base": "é" * 32},
        {"save": 2**64 - 1},
        {"save": -1},
        {"staged": [2**63, [0, 0, "0" * 32]]},
        {"changes": [-1, 0, "0" * 32]},
    ],
    ids=["chain", "save", "negative", "snapshot", "rows"],
)
def test_what_it_says_of_itself_is_in_range_although_its_digest_fits(tmp_path: Path, change: dict[str, object]) -> None:
    # given a file whose own account was written by a program that was wrong
    with Checkpoint(tmp_path / "s", "g", node="s") as stored:
        path = stored.path
    with closing(sqlite3.connect(path)) as db, db:
        value = db.execute("SELECT value FROM meta WHERE key = 'saved'").fetchone()[0]
        data = orjson.dumps(orjson.loads(value[32:]) | change)
        db.execute("UPDATE meta SET value = ?", (codec.digest_of(data).encode() + data,))
        if "base" in change:  # it is looked at with the first row
            db.execute("INSERT INTO change VALUES (1, 1, '', x'', x'')")
    # then it is set aside, and no number of it gets anywhere
    with Checkpoint(tmp_path / "s", "g", node="s") as stored:
        assert stored.set_aside is not None


def test_parts_of_a_snapshot_that_its_own_changes_ended_are_found(primary: Primary, tmp_path: Path) -> None:
    # given parts that passed by, and a change behind them that is a row alone
    standby = Standby(primary.server, tmp_path / "s")
    for number in range(10):
        primary.change(noise(number))
    parts = primary.snapshot(size=300)
    next(parts)
    standby.read()
    standby.synced = False
    primary.change("two")
    standby.read()
    standby.stored.close()
    # when it says of itself that it read something else, so that the change ends the snapshot
    with closing(sqlite3.connect(tmp_path / "s" / "checkpoint.sqlite", isolation_level=None)) as db:
        ((found,),) = db.execute("SELECT value FROM meta WHERE key = 'saved'").fetchall()
        saved = Saved.from_bytes(found)
        assert saved.view is not None
        assert saved.staged.run.rows == 1
        view = saved.view._replace(cursor=Position(saved.view.cursor.id, "0" * 32))
        db.execute("UPDATE meta SET value = ? WHERE key = 'saved'", (saved._replace(view=view).to_bytes(),))
    # then it is set aside, and not found out by the first save
    with Checkpoint(tmp_path / "s", "g", node="s") as stored:
        assert stored.set_aside is not None
