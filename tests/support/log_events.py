"""All events that the code can log, collected from its source; and those that docs/logs.md lists."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

DOCUMENT = ROOT / "docs" / "logs.md"

#: Name, levels, fields, meaning, what to do.
COLUMNS = 5

METHODS = ("debug", "info", "warning", "error", "critical", "exception", "at")

#: They hand on events that others named.
PASSES_ON = ("replicator/runtime/log_once.py", "replicator/node/speaker.py", "replicator/runtime/event_log.py")

#: Those of `LogOnce` itself, which come with every end.
OF_AN_END = frozenset({"lasted_s"})


class Event(NamedTuple):
    """`levels`, `fields`: in the code, of all the places where it is logged."""

    levels: frozenset[str]
    fields: frozenset[str]


class Found(NamedTuple):
    name: str
    levels: frozenset[str]
    fields: frozenset[str]


def events_of(source: str, path: str = "") -> Iterator[Found]:
    """What one module logs, place by place. Raises `AssertionError` for an event whose name is no literal."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    lasting: dict[str, tuple[str, str]] = {}
    for node in calls:
        if isinstance(node.func, ast.Name) and node.func.id == "Lasting":
            begins, ends = _text(node.args[0]), _text(node.args[1])
            level = _level(node.args[3]) if len(node.args) > 3 else "WARNING"
            lasting[ast.unparse(node)] = begins, ends
            yield Found(begins, frozenset({level}), frozenset())
            yield Found(ends, frozenset({"INFO"}), OF_AN_END)
    for node in calls:
        if not isinstance(node.func, ast.Attribute):
            continue
        who, method = ast.unparse(node.func.value), node.func.attr
        if who not in ("logger", "_logger", "log") or method not in METHODS or path in PASSES_ON:
            continue
        name = node.args[1 if method == "at" else 0]
        levels = _levels_at(tree, node.args[0]) if method == "at" else {_LEVELS.get(method, method.upper())}
        fields = {keyword.arg for keyword in node.keywords if keyword.arg not in (None, "exc_info")}
        yield Found(_text(name), frozenset(levels), frozenset(field for field in fields if field is not None))


_LEVELS = {"exception": "ERROR"}


def _text(node: ast.expr) -> str:
    assert isinstance(node, ast.Constant), f"{ast.unparse(node)}: the name of an event is a literal"
    assert isinstance(node.value, str)
    return node.value


def _level(node: ast.expr) -> str:
    return ast.unparse(node).rpartition(".")[2].lstrip("_")


def _levels_at(tree: ast.Module, level: ast.expr) -> set[str]:
    """Of a variable: all that it is given in the module."""
    given = [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and _is(node.targets[0], level)]
    return {name for value in given for name in re.findall(r"logging\.([A-Z]+)", ast.unparse(value))}


def _is(target: ast.expr, name: ast.expr) -> bool:
    return ast.unparse(target) == ast.unparse(name)


@functools.cache
def in_the_code() -> dict[str, Event]:
    events: dict[str, Event] = {}
    for package in ("replicator", "workers"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for found in events_of(path.read_text(), str(path.relative_to(ROOT))):
                known = events.get(found.name, Event(frozenset(), frozenset()))
                events[found.name] = Event(known.levels | found.levels, known.fields | found.fields)
    return events


def in_the_document() -> dict[str, Event]:
    """The rows of its table: name, level, fields, meaning, what to do."""
    events: dict[str, Event] = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == COLUMNS + 2 and cells[1].startswith("`"):
            name, levels, fields, means, to_do = cells[1].strip("`"), *cells[2:-1]
            assert name not in events, f"{name} has two rows"
            assert means, name
            assert to_do, name
            events[name] = Event(frozenset(re.findall("[A-Z]+", levels)), frozenset(re.findall(r"`(\w+)`", fields)))
    return events
