"""The names that docs/json.md lists, by section, with their types; and those in what a command gave."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[2] / "docs" / "json.md"

#: A path such as `nodes[].lag_ms` -> its type, as the document has it.
Names = Mapping[str, str]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(isinstance(each, kind) for each in value)


#: How a value of each documented type is told.
TYPES: dict[str, Callable[[Any], bool]] = {
    "any": lambda value: True,
    "boolean": lambda value: isinstance(value, bool),
    "integer": _is_integer,
    "list": lambda value: isinstance(value, list),
    "list of lists": _is_list_of(list),
    "list of objects": _is_list_of(dict),
    "list of texts": _is_list_of(str),
    "null": lambda value: value is None,
    "number": lambda value: _is_integer(value) or isinstance(value, float),
    "object": lambda value: isinstance(value, dict),
    "object of texts": lambda value: isinstance(value, dict) and all(isinstance(each, str) for each in value.values()),
    "object of values": lambda value: isinstance(value, dict) and not any(isinstance(e, dict) for e in value.values()),
    "text": lambda value: isinstance(value, str),
}

#: What is in a value of these types is no name of ours: names of nodes, or the application's.
_CLOSED = ("any", "list of objects", "object of texts", "object of values")


def is_of_type(value: Any, kind: str) -> bool:
    return any(TYPES[each](value) for each in kind.split(" or "))


def documented() -> dict[str, Names]:
    """The names of each section that has a table of names."""
    sections = re.split(r"^### ", DOCUMENT.read_text(), flags=re.MULTILINE)[1:]
    found = {section.partition("\n")[0].replace("`", ""): dict(_names(section)) for section in sections}
    return {title: names for title, names in found.items() if names}


def _names(section: str) -> Iterator[tuple[str, str]]:
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `") or len(cells) < 3:
            continue
        parent = ""
        for name in re.findall(r"`([^`]+)`", cells[0]):
            path = parent + name if name.startswith(".") else name
            parent = path.rpartition(".")[0]
            yield path, cells[1]


def names_in(value: Any, known: Names, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each name in `value`, as a path, with what it had there. Where the document says so, nobody looks inside."""
    if known.get(path) in _CLOSED:
        return
    if isinstance(value, dict):
        for name, each in value.items():
            below = f"{path}.{name}" if path else name
            if not _is_list_of_named(each, below, known):
                yield below, each
            yield from names_in(each, known, below)
    elif isinstance(value, list):
        for each in value:
            yield from names_in(each, known, f"{path}[]" if path else "")


def _is_list_of_named(value: Any, path: str, known: Names) -> bool:
    """Whether it is a list of objects, of which the document names the members, and not the list itself."""
    return isinstance(value, list) and path not in known and any(name.startswith(f"{path}[].") for name in known)


def wrong_types(values: Iterable[Any], known: Names) -> dict[str, Any]:
    """The names whose values are not what the document says, with one such value."""
    found = [(path, value) for each in values for path, value in names_in(each, known)]
    return {path: value for path, value in found if path in known and not is_of_type(value, known[path])}
