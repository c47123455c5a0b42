"""What a group with a key reads: sealed records, parts of snapshots as a disk keeps them, and the key file itself.

The inputs are of somebody who has Redis and the disks, and not the key: what was sealed, changed, moved to another
place or beside another header. Nothing of that may open but what was sealed, where it was.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from replicator.errors import ConfigError, CorruptRecord
from replicator.format.ids import ZERO_ID, Position, RecordId, Writer
from replicator.format.records import Record, TermRecord, parse, seal_change, seal_part
from replicator.format.sealing import KEY_BYTES, Key, Keyring, Sealing
from replicator.storage.kept_parts import kept, opened_part
from replicator.storage.keyring import Entry, read_entries, write_entries
from tests.fuzz.engine import Target
from tests.fuzz.mutate import Choices, bytes_near, edit_bytes, edits, json_near

__all__ = ["TARGETS"]

_KEY, _OLD, _OTHERS = Key(b"k" * KEY_BYTES), Key(b"o" * KEY_BYTES), Key(b"x" * KEY_BYTES)
_HERE = Position(RecordId(5, 1041), "0123456789abcdef" * 2)
_A = Writer("a", "a1")
_TERM_ID = "6-1042"


def _sealing(key: Key = _KEY) -> Sealing:
    return Sealing(Keyring(key, {each.id: each for each in (key, _OLD)}), "g", random=lambda size: b"\x01" * size)


class _Entry(NamedTuple):
    """A record as it is in the log. `row`: as a disk keeps it, if it is a part."""

    id: str
    header: bytes
    body: bytes
    row: bytes = b""


def _term() -> _Entry:
    claim: dict[str, Any] = {"node": "a", "boot": "a1", "by": "ann", "reason": "because"}
    sealer = _sealing().sealer
    assert sealer is not None
    fields = {"v": 1, "kind": "term", "prev": _HERE.chain, "at": 7, "log_id": "l", "run": "r", "ends": "1-7 4-900"}
    seal = sealer.sign_claim(claim, floor=5, expect=5)
    return _Entry(_TERM_ID, orjson.dumps(claim | fields | {"seal": seal}), b"")


def _change(key: Key = _KEY) -> _Entry:
    record = seal_change(
        writer=_A, term=5, after=_HERE, at=7, codec="json", digest="d" * 32, count=1, body=b"[1]",
        sealer=_sealing(key).sealer,
    )  # fmt: skip
    return _Entry(str(record.id), record.header, record.body)


def _part(part: int, parts: int) -> _Entry:
    record = seal_part(
        writer=_A, term=5, after=_HERE, n=1042 + part, at=7, codec="json", digest="d" * 32 if parts else "", part=part,
        parts=parts, as_of=_HERE, changed=ZERO_ID, replaces=False, body=b"part %d" % part, sealer=_sealing().sealer,
    )  # fmt: skip
    return _Entry(str(record.id), record.header, record.body, kept(record))


#: What the group sealed, and a record of somebody with a key of his own.
_PARTS = (_part(0, 0), _part(1, 2))
_OURS = (_change(), _term(), *_PARTS)
_ALL = (*_OURS, _change(_OTHERS))

# --- records ---------------------------------------------------------------------------------------------------------


def _entry(choices: Choices) -> tuple[str, bytes, bytes]:
    """One of them, with something done to it: its id, its header, its body, or those of another one."""
    made, other = choices.pick(_ALL), choices.pick(_ALL)
    id_, header, body = made[:3]
    for kind in {choices.below(8) for _ in choices.few(2)}:
        if kind == 0:
            id_ = choices.pick((other.id, "5-1043", "6-1042", "1-1", "x"))
        elif kind == 1:
            header = other.header
        elif kind == 2:
            body = other.body
        elif kind == 3:
            body = edit_bytes(body, edits(choices)) if body else b"S1"
        elif kind == 4:
            body = choices.pick((b"", b"S1", b"S1" + _KEY.id, body[:-1], body + b"\0", b"[1]"))
        else:
            header = json_near(choices, orjson.loads(made.header))
    return id_, header, body


def _opens() -> Iterator[Callable[[Any], bool]]:
    sealing = _sealing()

    def read(given: tuple[str, bytes, bytes]) -> bool:
        id_, header, body = given
        try:
            record = parse(id_, header, body, sealing)
        except CorruptRecord as problem:
            return _is_told(problem, id_)
        _check_ours(record, given)
        return True

    yield read


def _is_told(problem: CorruptRecord, id_: str) -> bool:
    """It names what was refused, and was not accepted."""
    assert problem.fields["id"] == id_
    assert str(problem)
    return False


def _check_ours(record: Record, given: tuple[str, bytes, bytes]) -> None:
    if isinstance(record, TermRecord):
        # Its claim is what the key vouches for: for this term, whatever its number in the log.
        told, claimed = orjson.loads(record.header), orjson.loads(_OURS[1].header)
        assert record.id.term == 6
        assert [told.get(name) for name in ("node", "boot", "by", "reason", "seal")] == [
            claimed[name] for name in ("node", "boot", "by", "reason", "seal")
        ]
        assert not record.skip.n
        return
    assert given in [each[:3] for each in _OURS], "what the group did not seal was opened"


# --- parts as a disk keeps them --------------------------------------------------------------------------------------


def _row(choices: Choices) -> tuple[bytes, int]:
    at = choices.below(len(_PARTS))
    row = bytes_near(choices, _PARTS[at].row) if choices.below(4) else _PARTS[at].row
    return row, choices.pick((at, 1 - at, 7)) if choices.once_in(4) else at


def _keeps() -> Iterator[Callable[[Any], bool]]:
    sealing = _sealing()

    def read(given: tuple[bytes, int]) -> bool:
        row, part = given
        try:
            payload, digest = opened_part(row, part, sealing, what="a fork")
        except CorruptRecord as problem:
            return _is_told(problem, problem.fields["id"])
        assert row == _PARTS[part].row, "another part was opened than was kept"
        assert (payload, bool(digest)) == (b"part %d" % part, part == 1)
        return True

    yield read


# --- key files -------------------------------------------------------------------------------------------------------


@functools.cache
def _key_files() -> tuple[bytes, ...]:
    one, two = (f"{each.name} {base64.b64encode(each.secret).decode()}" for each in (_KEY, _OLD))
    texts = (
        f"# keys\nwrite {one}\nopen  {two}\n",
        f"write {one}\nopen unsealed\n",
        "write unsealed\n",
        f"open {one}\nwrite unsealed\n",
    )
    return tuple(text.encode() for text in texts)


def _key_file(choices: Choices) -> bytes:
    text = choices.pick(_key_files())
    if choices.once_in(4):
        lines = text.splitlines(keepends=True)
        text = b"".join(choices.pick(lines) for _ in range(1 + choices.below(4)))
    if choices.once_in(4):
        text = text.replace(b"=", choices.pick((b"", b"==", "é".encode(), b"\x00", b" ", "=".encode("utf-16"))), 1)
    return bytes_near(choices, text) if choices.below(3) else text


def _files() -> Iterator[Callable[[Any], bool]]:
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        path, again = Path(place) / "keys", Path(place) / "again"
        path.touch(mode=0o600)

        def read(text: bytes) -> bool:
            path.write_bytes(text)
            try:
                entries = read_entries(path)
            except ConfigError:
                return False
            assert sum(each.writes for each in entries) == 1
            assert all(each.secret is None or len(each.secret) == KEY_BYTES for each in entries)
            write_entries(again, entries)
            assert read_entries(again) == entries
            assert all(isinstance(each, Entry) for each in entries)
            return True

        yield read


TARGETS = (
    Target(name="sealed", build=_entry, opened=contextlib.contextmanager(_opens)),
    Target(name="kept-parts", build=_row, opened=contextlib.contextmanager(_keeps)),
    # A file is written for each, and synced.
    Target(name="key-file", build=_key_file, opened=contextlib.contextmanager(_files), share=0.2),
)
