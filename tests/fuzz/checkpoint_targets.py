"""The checkpoint: its file, its log, the lock beside it, and what it says of itself.

Whatever was done to the files, opening them gives one of three things: what was saved, all of it; nothing, with the
damaged file set aside as it was; or a `CheckpointError`, with the file as it was.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from replicator.errors import CheckpointError
from replicator.format.codec import digest_of
from replicator.format.ids import RecordId
from replicator.format.records import ChangeRecord
from replicator.protocol.fold import View
from replicator.storage import forks
from replicator.storage.checkpoint import Checkpoint, Loaded
from replicator.storage.checkpoint_file import Damaged, Saved
from replicator.testing import MemoryRedis
from tests.fuzz.engine import Target
from tests.fuzz.mutate import Choices, Edit, edit_bytes, edits, json_near
from tests.support.checkpoints import Primary, Standby, noise

__all__ = ["TARGETS"]

_PAGE = 4096
_FILE, _WAL, _LOCK = "checkpoint.sqlite", "checkpoint.sqlite-wal", "lock"

Files = dict[str, bytes]


class _Content(NamedTuple):
    """All that a checkpoint gives back."""

    loaded: Loaded | None
    changes: list[ChangeRecord]
    staged: list[bytes]
    payload: list[Any] | None


class _Base(NamedTuple):
    """Files as a node left them, what is in them, and the file as it was some saves before."""

    files: Files
    content: _Content
    older: bytes
    #: The same as a copy of a history that lost.
    fork: bytes = b""
    #: What was in them before saves that were not synced: damage may take those, as a power cut may.
    earlier: tuple[_Content, ...] = ()


def _content(stored: Checkpoint) -> _Content:
    payload = stored.payload()
    pieces = None if payload is None else list(payload)
    return _Content(stored.load(), list(stored.changes()), list(stored.staged()), pieces)


# --- files that are whole --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    # In memory where that can be: every file is synced several times.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="fuzz-") as name:
        yield Path(name)


@functools.cache
def _bases() -> tuple[_Base, ...]:
    """Closed with a snapshot half passed by; the same while the node runs, with a WAL; one that has just begun; and one
    with changes that are there as rows alone.
    """
    with _directory() as root:
        server = MemoryRedis(clock_ms=lambda: 1.0)
        primary, standby = Primary(server), Standby(server, root / "s")
        for number in range(6):
            primary.change(noise(number))
        list(primary.snapshot(size=400))
        standby.read()
        said = _content(standby.stored)
        primary.change("after", noise(7))
        standby.read()
        standby.restart()
        older = (root / "s" / _FILE).read_bytes()
        primary.change("later")
        parts = primary.snapshot(size=300)
        next(parts)
        next(parts)
        primary.change("between")
        standby.read()
        content = _content(standby.stored)
        fork = standby.stored.write_fork("because", RecordId(1, 9)).read_bytes()
        running = _Base(_files(root / "s"), content, older)
        standby.stored.close()
        closed = _Base(_files(root / "s"), content, older, fork)
        with Checkpoint(root / "n", "g", node="s") as stored:
            fresh_content = _content(stored)
        # Its lock knows of nothing, so the older file may come in its place without the rows after what it says.
        fresh = _Base(_files(root / "n"), fresh_content, older, earlier=(said,))
        standby.start()
        standby.synced = False
        earlier = [content]
        for number in range(3):
            primary.change("rows alone", noise(number))
            standby.read()
            earlier.append(_content(standby.stored))
        standby.stored.close()
        rows_alone = _Base(_files(root / "s"), earlier.pop(), closed.files[_FILE], earlier=tuple(earlier))
        return closed, running, fresh, rows_alone


def _files(directory: Path) -> Files:
    return {name: (directory / name).read_bytes() for name in (_FILE, _WAL, _LOCK) if (directory / name).exists()}


def _laid_out(directory: Path, files: Files) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)


# --- damage ----------------------------------------------------------------------------------------------------------


class _Damage(NamedTuple):
    """`base`, `name`: which file. `pages`: (page, from which, of which file). `again`: saved and opened once more."""

    base: int
    name: str
    todo: list[Edit]
    pages: list[tuple[int, int, str]]
    missing: bool
    again: bool


def _damage(choices: Choices) -> _Damage:
    base = choices.pick((0, 0, 0, 1, 1, 2, 3, 3, 3))
    names = sorted(_bases()[base].files, key=(_FILE, _WAL, _LOCK).index)
    name = choices.pick((_FILE, _FILE, *names))
    length = len(_bases()[base].files[name])
    kind = choices.below(16)
    todo = [_placed(choices, length, edit) for edit in edits(choices)] if kind < 11 else []
    pages = [_moved(choices) for _ in range(1 + choices.below(2))] if 11 <= kind < 15 else []
    return _Damage(base, name, todo, pages, kind == 15, choices.once_in(8))


def _placed(choices: Choices, length: int, edit: Edit) -> Edit:
    """More often where the structure is: the file's header, the heads of pages, the end."""
    kind, at, with_ = edit
    where = choices.below(8)
    if where == 0:
        at %= 100
    elif where in (1, 2):
        at = at // _PAGE * _PAGE + at % 24
    elif where == 3:
        at = length - 1 - at % 64
    if kind == "cut" and choices.below(2):
        at = at // _PAGE * _PAGE
    return kind, at % max(length, 1), with_


def _moved(choices: Choices) -> tuple[int, int, str]:
    return choices.below(32), choices.below(32), choices.pick(("same", "older", "zero", "swap"))


def _damaged_files(damage: _Damage) -> Files:
    base = _bases()[damage.base]
    files = dict(base.files)
    if damage.missing:
        del files[damage.name]
        return files
    data = edit_bytes(files[damage.name], damage.todo)
    for move in damage.pages:
        data = _with_page(data, base.older, *move)
    files[damage.name] = data
    return files


def _with_page(data: bytes, older: bytes, to: int, of: int, source: str) -> bytes:
    count = len(data) // _PAGE
    if not count:
        return data
    to, of = to % count, of % count
    here, there = data[to * _PAGE : (to + 1) * _PAGE], data[of * _PAGE : (of + 1) * _PAGE]
    edited = bytearray(data)
    new = {"same": there, "swap": there, "zero": bytes(_PAGE), "older": older[to * _PAGE : (to + 1) * _PAGE]}[source]
    edited[to * _PAGE : (to + 1) * _PAGE] = new or here
    if source == "swap":
        edited[of * _PAGE : (of + 1) * _PAGE] = here
    return bytes(edited)


# --- what must come of it --------------------------------------------------------------------------------------------


def _open_damaged(directory: Path, damage: _Damage) -> bool:
    files = _damaged_files(damage)
    _laid_out(directory, files)
    base = _bases()[damage.base]
    try:
        stored = Checkpoint(directory, "g", node="s")
    except CheckpointError:
        assert _files(directory).get(_FILE) == files.get(_FILE), "a file that was refused was changed"
        return False
    with stored:
        if stored.set_aside is not None:
            assert stored.load() is None
            assert not stored.set_aside.exists() or stored.set_aside.read_bytes() == files.get(_FILE)
            return False
        if damage.missing and damage.name == _FILE and _WAL not in files:
            return stored.load() is None
        content = _content(stored)
        assert content in (base.content, *base.earlier), "something else came back than was saved"
        if damage.again:
            _save_again(stored, content)
    if damage.again:
        _open_again(directory, content)
    return True


def _save_again(stored: Checkpoint, content: _Content) -> None:
    view = content.loaded.view if content.loaded else View()
    # SQLite finds damage in pages that nothing is in only when it wants to use them.
    with contextlib.suppress(CheckpointError):
        stored.save(view, boot="again")


def _open_again(directory: Path, content: _Content) -> None:
    with contextlib.suppress(CheckpointError), Checkpoint(directory, "g", node="s") as stored:
        if stored.set_aside is None and content.loaded is not None:
            assert _content(stored)[1:] == content[1:]


# --- what it says of itself, signed anew -----------------------------------------------------------------------------


@functools.cache
def _said() -> tuple[dict[str, Any], ...]:
    return tuple(orjson.loads(_value(base.files)[32:]) for base in (_bases()[0], _bases()[2]))


def _value(files: Files) -> bytes:
    with _directory() as directory:
        _laid_out(directory, files)
        with contextlib.closing(sqlite3.connect(directory / _FILE)) as db:
            return bytes(db.execute("SELECT value FROM meta WHERE key = 'saved'").fetchone()[0])


def _signed(choices: Choices) -> bytes:
    """Said by a program that was wrong, or by a later one: the digest fits."""
    text = json_near(choices, choices.pick(_said()))
    return text[: choices.below(40)] if choices.once_in(64) else digest_of(text).encode() + text


def _read_saved(data: bytes) -> bool:
    try:
        saved = Saved.from_bytes(data)
    except Damaged:
        return False
    assert Saved.from_bytes(saved.to_bytes()) == saved
    return True


def _open_signed(directory: Path, data: bytes) -> bool:
    _laid_out(directory, {name: one for name, one in _bases()[0].files.items() if name != _LOCK})
    with contextlib.closing(sqlite3.connect(directory / _FILE)) as db, db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'saved'", (data,))
    try:
        with Checkpoint(directory, "g", node="s") as stored:
            return _use(stored)
    except CheckpointError:
        return False


def _use(stored: Checkpoint) -> bool:
    """Everything that a node does with it: read it all, save it as it is."""
    if stored.set_aside is not None:
        return False
    found = _content(stored)
    if found.loaded is not None:
        stored.save(found.loaded.view, boot="next")
    return True


# --- forks -----------------------------------------------------------------------------------------------------------


def _damaged_fork(choices: Choices) -> tuple[list[Edit], list[tuple[int, int, str]]]:
    length = len(_bases()[0].fork)
    if choices.once_in(4):
        return [], [_moved(choices)]
    return [_placed(choices, length, edit) for edit in edits(choices)], []


def _read_fork(path: Path, given: tuple[list[Edit], list[tuple[int, int, str]]]) -> bool:
    base, (todo, pages) = _bases()[0], given
    data = edit_bytes(base.fork, todo)
    for move in pages:
        data = _with_page(data, base.older, *move)
    path.write_bytes(data)
    try:
        fork = forks.read(path)
        state = list(forks.export_state(fork))
        divergent = list(forks.divergent(fork))
    except CheckpointError:
        assert path.read_bytes() == data
        return False
    # Where it parted is not in the digest. What it holds is.
    assert [one["piece"] for one in state if "piece" in one] == base.content.payload
    assert len(state) - len(base.content.payload or ()) == sum(record.count for record in base.content.changes)
    assert len(divergent) == fork.divergent_change_count
    return True


# --- targets ---------------------------------------------------------------------------------------------------------


def _in_directory(
    use: Callable[[Path, Any], bool],
) -> Callable[[], contextlib.AbstractContextManager[Callable[[Any], bool]]]:
    @contextlib.contextmanager
    def opened() -> Iterator[Callable[[Any], bool]]:
        with _directory() as root:
            yield functools.partial(use, root / "s")

    return opened


TARGETS = (
    Target(name="checkpoint", build=_damage, opened=_in_directory(_open_damaged)),
    Target(name="fork", build=_damaged_fork, opened=_in_directory(_read_fork)),
    Target(name="saved", build=_signed, opened=lambda: contextlib.nullcontext(_read_saved)),
    Target(name="saved file", build=_signed, opened=_in_directory(_open_signed)),
)
