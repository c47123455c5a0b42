"""A dict as a state: read like a mapping, changed by `put` and `delete`.

    node = Node(DictState(), group="flags", ...)
    node.submit(put("dark-mode", {"on": True}))
    with node.reading() as flags:
        flags["dark-mode"]["on"]

- **Keys are text, values are JSON.** What else somebody hands to `put` is refused before anything is written.
- **A reader gets copies.** A value that is a list or an object is held as its JSON, and decoded for each read: whoever
  changes what was read changes nothing but that. It also takes less memory, and the cyclic collector sees none of it.
- **A change costs what it weighs**, and all of it is done, or nothing.
- **A snapshot shares what is there**, and decodes and cuts it later (`segments.py`; 64 KiB a piece). What changes
  meanwhile is changed in copies of 512 keys.
- **What is over goes** by a change of the primary's, `expire` (`expiry.py`).
- **Order is part of the state**: keys stand in the order in which they first came, on every node.

In the log: `changes.py` has the form. A piece of a snapshot is an object of keys and values, so
`node.replace([{"dark-mode": True}])` makes that the whole state, on all nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from ..errors import InvalidChange, NotJSON
from ..runtime.counted import counted
from .changes import Change, checked_change, named
from .segments import Segments
from .slices import slices
from .until import is_surely_over

__all__ = ["DictState", "delete", "expire", "put", "put_many"]

#: JSON values that nobody can change in place. They are held as they are; others as `bytes`, their JSON.
_ATOMS = frozenset({str, int, float, bool, type(None)})

#: About how many bytes a number, a true or a null has in a piece, with the quotes, colon and comma around it.
_ATOM_BYTES = 16


def put(key: str, value: Any) -> Change[None]:
    """The change that sets one key. Raises `NotJSON` (the value is none, or the key no text) and `ChangeTooLarge`."""
    return put_many({key: value})


def put_many(entries: Mapping[str, Any]) -> Change[None]:
    """The change that sets many keys at once. Raises what `put` raises."""
    return checked_change("put", {_checked_key(key): value for key, value in entries.items()})


def delete(*keys: str) -> Change[int]:
    """The change that takes keys away; submitting it gives how many of them were there."""
    return checked_change("delete", [_checked_key(key) for key in keys])


def expire(keys: Sequence[str], until: str | None, now: float) -> Change[int]:
    """The change that takes away those of the keys that are over at `now`; submitting it gives how many. `until`: the
    member of an entry that says until when it is good (`until.py`). Raises what `put` raises.
    """
    return checked_change("expire", {"keys": [_checked_key(key) for key in keys], "until": until, "now": now})


def _checked_key(key: Any) -> str:
    if not isinstance(key, str):
        raise NotJSON(what=f"the key {key!r:.100}", problem="a key is text")
    return key


class DictState(Mapping[str, Any]):
    """A mapping of text to JSON values as a `State`. An instance is used under its node's lock: `node.reading()`.

    `entries`: what it begins with, the same on every node.
    """

    def __init__(self, entries: Mapping[str, Any] | None = None) -> None:
        self._held = Segments()
        if entries:
            self.apply(put_many(entries))

    # --- as a mapping ---

    def __getitem__(self, key: str) -> Any:
        return _drawn(self._held[key])

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {counted(len(self), 'key')}>"

    # --- as a state ---

    def apply(self, change: Any) -> Any:
        """Carry out `put` (gives None), `delete` or `expire` (how many keys went). Raises `InvalidChange`."""
        name, arguments = named(change)
        if name == "put":
            return self._put(arguments)
        if name == "delete":
            return self._delete(arguments)
        if name == "expire":
            return self._expire(arguments)
        raise InvalidChange("there is no change {name!r}, only put, delete and expire", name=name)

    def _put(self, entries: Any) -> None:
        if not isinstance(entries, dict):
            raise InvalidChange("put must have an object of keys and values", field="put")
        self._held.update(_held_of(entries))

    def _delete(self, keys: Any) -> int:
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise InvalidChange("delete must have a list of keys", field="delete")
        return sum(map(self._held.discard, keys))

    def _expire(self, arguments: Any) -> int:
        match arguments:
            case {"keys": list(keys), "until": str() | None as until, "now": int() | float() as now}:
                entries = (key for key in keys if isinstance(key, str) and key in self._held)
                return sum(self._held.discard(key) for key in entries if is_surely_over(self[key], until, now))
        raise InvalidChange("expire must have keys, the member until, and a time now", field="expire")

    def snapshot(self) -> Iterator[dict[str, Any]]:
        """See `State`: keys and their values, some at a time. An empty state is one empty piece."""
        return _pieces(self._held.shared())

    def restore(self, pieces: Iterable[Any]) -> None:
        """See `State`. Raises `InvalidChange` at a piece that is no object."""
        held = Segments()
        try:
            for piece in pieces:
                held.update(_held_of(_checked_piece(piece)))
        except BaseException:
            held.give_up()
            raise
        self._held, old = held, self._held
        old.give_up()

    def check_pieces(self, pieces: Iterable[Any]) -> None:
        """See `CheckedState`. What a `restore` of a subclass takes is not known here, and passes."""
        if type(self).restore is DictState.restore:
            for piece in pieces:
                _checked_piece(piece)


def _checked_piece(piece: Any) -> dict[str, Any]:
    if not isinstance(piece, dict):
        raise InvalidChange("a piece of the snapshot of a mapping must be an object of keys and values")
    return piece


def _held_of(entries: dict[str, Any]) -> dict[str, Any]:
    return {key: value if type(value) in _ATOMS else _packed(key, value) for key, value in entries.items()}


def _packed(key: str, value: Any) -> bytes:
    try:
        # What orjson gives stays in the large block in which it was made: 4 KiB for a short text. A sum is another one.
        return orjson.dumps(value) + b" "
    except (TypeError, ValueError, RecursionError) as error:  # not out of a log, where everything is JSON
        raise InvalidChange("the value is not JSON: {error}", field=key, error=error) from None


def _drawn(held: Any) -> Any:
    return orjson.loads(held) if type(held) is bytes else held


def _pieces(entries: Iterator[tuple[str, Any]]) -> Iterator[dict[str, Any]]:
    is_empty = True
    for some in slices((entry, _bytes_of(*entry)) for entry in entries):
        yield {key: _drawn(held) for key, held in some}
        is_empty = False
    if is_empty:
        yield {}


def _bytes_of(key: str, held: Any) -> int:
    return len(key) + (len(held) if type(held) in (bytes, str) else 0) + _ATOM_BYTES
