"""Inputs near valid ones: what a decoder meets is a good encoding in which something is wrong.

Random bytes end at the first check. So a valid encoding is taken, and a few things are done to its bytes (`bytes_near`)
or to the values in its JSON (`json_near`).

An input is built from `Choices`, which Hypothesis gives as one string of bytes: one draw and not thirty, so that there
can be ten times as many inputs. The first choice is always the plainest, and a string that has ended gives no other, so
what Hypothesis makes small is small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson

__all__ = [
    "NASTY_JSON",
    "NASTY_TEXTS",
    "Choices",
    "bytes_near",
    "edit_bytes",
    "edits",
    "json_near",
    "raw_json",
]

T = TypeVar("T")


class Choices:
    """What an input is made of, one choice after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def below(self, count: int) -> int:
        """A number below `count`, of at most 2^24."""
        size = 1 if count <= 64 else 2 if count <= 2**14 else 3
        taken = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(taken, "big") % count

    def pick(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def once_in(self, count: int) -> bool:
        return self.below(count) == count - 1

    def few(self, most: int) -> range:
        """Up to `most` times; few are more frequent than many."""
        return range(min(self.below(most + 1), self.below(most + 1)))

    def bytes(self, most: int) -> bytes:
        """Any bytes at all."""
        return bytes(self.below(256) for _ in range(self.below(most + 1)))


CHAIN = b"0123456789abcdef0123456789abcdef"

#: Texts that are almost ids, positions, numbers or names.
NASTY_TEXTS = (
    "", " ", "x", "0", "-1", "00", "007", "+1", "1_000", "1.5", "1e9", "NaN", "null", "true", "é", "٣", "\x00",
    "a\x00b", "\x7f", "\u202e", "\U0001f600", "\ufffd", "{0}", "{id}", "%s", "../..", "a" * 300, "a" * 5000,
    "9" * 5000, str(2**53 - 1), str(2**53), str(2**63), str(2**64), "0-0", "1-1", "1-0", "0-1", "1-*", "1-1-1", "-1-1",
    "1-1\n", " 1-1", f"{2**53}-1", f"{2**63}-{2**63}", f"{'9' * 20}-{'9' * 20}", f"{'9' * 21}-1",
    f"1-1@{CHAIN.decode()}", f"1-1@{CHAIN.decode().upper()}", "1-1@", f"{'9' * 20}-1@{CHAIN.decode()}",
    f"1-1@{'é' * 32}", "json", "json+zstd", "raw+zstd", "raw", "change", "part", "term", "primary", "1:2", "2:1", "1:1",
)  # fmt: skip

#: JSON of every type, at and beyond the bounds of types, and some that is none.
NASTY_JSON = (
    b"null", b"true", b"false", b"0", b"-0", b"-1", b"1", b"2", b"1.0", b"1.5", b"-0.0", b"1e308", b"1e999", b"-1e999",
    b"5e-324", b"NaN", b"Infinity", b"-Infinity", b"nan",
    *(str(sign * 2**bits + one).encode() for bits in (31, 32, 53, 63, 64) for one in (-1, 0, 1) for sign in (1, -1)),
    b"9" * 400, b"9" * 5000, b"0." + b"1" * 5000, b"01", b"+1", b"0x10",
    b'"\\ud800"', b'"\\udc00x"', b'"\\ud83d\\ude00"', b'"\xed\xa0\x80"', b'"\xff"', b'"\xc0\x80"', b'"\n"', b"'x'",
    b'"', b"[]", b"{}", b"[[]]", b"[0]", b"[0,0]", b"[0,1]", b"[1,2,3]", b"[null]", b'[""]', b'{"":0}',
    b'{"a":{"a":1}}',
    b"[", b"{",
    b"[" * 120 + b"]" * 120, b"[" * 250 + b"]" * 250, b"[" * 1000 + b"]" * 1000, b"[" * 1100 + b"]" * 1100,
    b'{"a":' * 250 + b"0" + b"}" * 250, b'{"a":' * 900 + b"0" + b"}" * 900,
    b"[" + b"[]," * 500 + b"[]]", b"", b"/**/1", b"\xef\xbb\xbf1",
    *map(orjson.dumps, NASTY_TEXTS),
)  # fmt: skip

# --- bytes -----------------------------------------------------------------------------------------------------------

#: What is done, where (modulo what is there), and with what.
Edit = tuple[str, int, int]

_NASTY_BYTES = (
    b"\x00",
    b"\xff",
    b"\x80",
    b"\n",
    b"{",
    b"]",
    b'"',
    b"\xff" * 4,
    b"\x00" * 8,
    b"\xed\xa0\x80",
    b"9" * 30,
)


def _flipped(data: bytearray, at: int, with_: int) -> None:
    data[at] ^= 1 << with_ % 8


def _set(data: bytearray, at: int, with_: int) -> None:
    data[at] = with_ % 256


def _cut(data: bytearray, at: int, with_: int) -> None:
    del data[at:]


def _removed(data: bytearray, at: int, with_: int) -> None:
    del data[at : at + 1 + with_ % 16]


def _inserted(data: bytearray, at: int, with_: int) -> None:
    data[at:at] = _NASTY_BYTES[with_ % len(_NASTY_BYTES)]


def _doubled(data: bytearray, at: int, with_: int) -> None:
    data[at:at] = data[at : at + 1 + with_]


def _swapped(data: bytearray, at: int, with_: int) -> None:
    other = with_ * 251 % len(data)
    data[at], data[other] = data[other], data[at]


_BYTE_EDITS: dict[str, Callable[[bytearray, int, int], None]] = {
    "flip": _flipped,
    "set": _set,
    "cut": _cut,
    "remove": _removed,
    "insert": _inserted,
    "double": _doubled,
    "swap": _swapped,
}


def edits(choices: Choices, kinds: Sequence[str] = tuple(_BYTE_EDITS), *, most: int = 3) -> list[Edit]:
    """Up to `most` edits, and at least one."""
    return [(choices.pick(kinds), choices.below(2**20), choices.below(256)) for _ in range(1 + choices.below(most))]


def edit_bytes(data: bytes, todo: Sequence[Edit]) -> bytes:
    """`data` after the edits."""
    edited = bytearray(data)
    for kind, at, with_ in todo:
        if edited:
            _BYTE_EDITS[kind](edited, at % len(edited), with_)
    return bytes(edited)


def bytes_near(choices: Choices, valid: bytes) -> bytes:
    """Mutated bytes, the valid ones, or now and then any bytes at all."""
    if choices.once_in(16):
        return choices.bytes(40)
    return edit_bytes(valid, edits(choices)) if choices.below(8) else valid


# --- JSON ------------------------------------------------------------------------------------------------------------


class _Raw(bytes):
    """JSON text that stands for a value, well formed or not."""


class _Pairs(list[list[Any]]):
    """An object, as pairs: a name may be there twice."""


_JSON_EDITS = ("replace", "replace", "replace", "drop", "rename", "double", "add")


def json_near(choices: Choices, valid: Any) -> bytes:
    """JSON text of a valid value, in which up to three values or names were changed, and sometimes bytes."""
    todo = [(choices.pick(_JSON_EDITS), choices.below(2**14), choices.below(2**14)) for _ in range(choices.below(4))]
    edited = _edited_json(valid, todo)
    return edit_bytes(edited, edits(choices, most=2)) if choices.once_in(8) else edited


def _edited_json(value: Any, todo: Sequence[Edit]) -> bytes:
    root = [_unpacked(value)]
    for kind, at, with_ in todo:
        _edit_json(root, kind, at, with_)
    return raw_json(root[0])


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        return _Pairs([name, _unpacked(one)] for name, one in value.items())
    if isinstance(value, list | tuple):
        return [_unpacked(one) for one in value]
    return value


def _edit_json(root: list[Any], kind: str, at: int, with_: int) -> None:
    slots = list(_slots(root))
    if not slots:
        return
    where, key = slots[at % len(slots)]
    nasty = _Raw(NASTY_JSON[with_ % len(NASTY_JSON)])
    if kind == "replace":
        _put(where, key, nasty)
    elif kind == "drop" and where is not root:
        del where[key]
    elif kind == "double" and where is not root:
        where.insert(key, list(where[key]) if isinstance(where, _Pairs) else where[key])
    elif isinstance(where, _Pairs):
        name = NASTY_TEXTS[with_ % len(NASTY_TEXTS)]
        if kind == "rename":
            where[key][0] = name
        elif kind == "add":
            where.append([name, nasty])


def _put(where: list[Any], key: int, value: Any) -> None:
    if isinstance(where, _Pairs):
        where[key] = [where[key][0], value]
    else:
        where[key] = value


def _slots(value: Any) -> Any:
    """Every place of a value: its container, and where in it."""
    for key, inner in enumerate(value):
        yield value, key
        held = inner[1] if isinstance(value, _Pairs) else inner
        if isinstance(held, list):
            yield from _slots(held)


def raw_json(value: Any) -> bytes:
    """JSON text; raw parts as they are."""
    if isinstance(value, _Raw):
        return bytes(value)
    if isinstance(value, _Pairs):
        return b"{" + b",".join(orjson.dumps(name) + b":" + raw_json(one) for name, one in value) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(raw_json, value)) + b"]"
    return orjson.dumps(value)
