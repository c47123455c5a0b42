"""What is different between two states: entry by entry, as far as their pieces show what an entry is.

A piece that is an object has entries: `nodes.3` for {"nodes": {"3": ...}}, `next_node` for {"next_node": 4}, and of a
list each item. Where states are divided into pieces does not matter. A directory has its paths, each with its mode,
size and digest, or where a link leads. Of other bytes only the size and the digest are told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, NamedTuple

import orjson
import xxhash

from ..format.manifest import LINK, BadManifest, Entry, is_directory, read_manifest
from .errors import ArchiveDamaged

__all__ = ["Difference", "differences"]


class Difference(NamedTuple):
    """An entry. `before`, `after`: its value as JSON; None: it is not there."""

    entry: str
    before: bytes | None
    after: bytes | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        before, after = (orjson.loads(value) if value is not None else None for value in (self.before, self.after))
        what = "added" if self.before is None else "removed" if self.after is None else "changed"
        return {"entry": self.entry, "kind": what, "before": before, "after": after}


def differences(before: Iterable[Any], after: Iterable[Any]) -> Iterator[Difference]:
    """By entry, in the order of the older state, what is new last."""
    old, new = _entries(before), _entries(after)
    for entry, value in old.items():
        other = new.pop(entry, None)
        if other != value:
            yield Difference(entry, value, other)
    for entry, value in new.items():
        yield Difference(entry, None, value)


def _entries(pieces: Iterable[Any]) -> dict[str, bytes]:
    drawn = iter(pieces)
    first = next(drawn, None)
    if is_directory(first):
        return _paths(chain([first], drawn))
    return _told(chain([first], drawn) if first is not None else drawn)


def _paths(pieces: Iterator[Any]) -> dict[str, bytes]:
    """Of a directory. The contents are not drawn: the manifest has their digests."""
    try:
        return {_text(entry.path): orjson.dumps(_value(entry)) for entry in read_manifest(pieces)}
    except BadManifest as bad:
        raise ArchiveDamaged(name="the state", problem=str(bad)) from None


def _text(name: str) -> str:
    """A name may be no UTF-8, and is shown all the same."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _value(entry: Entry) -> dict[str, Any]:
    if entry.kind == LINK:
        return {"link": _text(entry.target)}
    mode = {"mode": f"{entry.mode:o}"}
    return mode | ({"bytes": entry.size, "digest": entry.digest} if entry.has_content else {})


def _told(pieces: Iterable[Any]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    seen: Counter[str] = Counter()
    raw, size = xxhash.xxh3_128(), 0
    for piece in pieces:
        if isinstance(piece, bytes):
            raw.update(piece)
            size += len(piece)
        elif isinstance(piece, dict):
            for name, value in piece.items():
                found |= _below(name, value, seen)
        else:
            found |= _item("", piece, seen)
    if size:
        found["bytes"] = orjson.dumps({"bytes": size, "digest": raw.hexdigest()})
    return found


def _below(name: str, value: Any, seen: Counter[str]) -> dict[str, bytes]:
    if isinstance(value, dict):
        return {f"{name}.{key}": orjson.dumps(each) for key, each in value.items()}
    if isinstance(value, list):
        return {entry: json for each in value for entry, json in _item(name, each, seen).items()}
    return {name: orjson.dumps(value)}


def _item(name: str, value: Any, seen: Counter[str]) -> dict[str, bytes]:
    """An item of a list is told by its value, and by how often that was there."""
    json = orjson.dumps(value)
    entry = f"{name}[{json.decode()}]"
    seen[entry] += 1
    return {entry if seen[entry] == 1 else f"{entry}#{seen[entry]}": json}
