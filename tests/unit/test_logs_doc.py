"""docs/logs.md lists every event that the code can log, with its levels and its fields, and no other."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from tests.support.log_events import DOCUMENT as DOCUMENT_PATH
from tests.support.log_events import ROOT, Event, events_of, in_the_code, in_the_document

#: The code is read by the tests alone: it takes seconds, and every process that collects tests would do it.
DOCUMENT = in_the_document()

#: Attributes that a `LogRecord` has already: `logging` refuses them, or they would be another thing.
TAKEN = {*vars(logging.makeLogRecord({})), "message", "asctime"}

#: Those of whoever speaks; an event may tell a newer term.
OF_THE_SPEAKER = {"group", "node", "boot", "position"}


def test_the_document_lists_all_events_and_no_others() -> None:
    assert sorted(DOCUMENT) == sorted(in_the_code())


@pytest.mark.parametrize("name", sorted(DOCUMENT))
def test_the_document_has_its_levels_and_fields(name: str) -> None:
    assert DOCUMENT[name] == in_the_code()[name]


def test_no_field_has_a_name_that_means_something_else() -> None:
    fields = frozenset().union(*(event.fields for event in in_the_code().values()))
    assert not fields & (TAKEN | OF_THE_SPEAKER | {"event", "level", "time", "logger", "exception"})


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", DOCUMENT_PATH.read_text(), re.DOTALL))
def test_its_formatters_show_the_sentence_and_the_fields(block: str) -> None:
    names: dict[str, logging.Formatter] = {}
    exec(block, names)
    record = logging.makeLogRecord({"msg": "leads in term %d", "args": (6,), "name": "replicator", "levelname": "INFO"})
    record.__dict__ |= {"event": "node.leads", "group": "g", "node": "a"}
    line = names["formatter"].format(record)
    assert "leads in term 6" in line
    assert '"event": "node.leads"' in line or "g/a" in line


def loggers_besides() -> list[Path]:
    """Modules that log past the events."""
    found = []
    for package in ("replicator", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            if "logging.getLogger(" in path.read_text() and path.name != "event_log.py":
                found.append(path)
    return found


def test_nothing_is_logged_that_is_no_event() -> None:
    assert loggers_besides() == []


def test_the_collector_sees_every_kind_of_place() -> None:
    source = """
X = Lasting("a.begins", "a.ends", "it is over", logging.ERROR)
Y = Lasting("b.begins", "b.ends", "it is over")
logger.info("c", "text %s", 1, size=2)
log.exception("c", "text", exc_info=True, path="")
level = logging.INFO if x else logging.WARNING
_logger.at(level, "d", "text")
"""
    found: dict[str, Event] = {}
    for name, levels, fields in events_of(source):
        known = found.get(name, Event(frozenset(), frozenset()))
        found[name] = Event(known.levels | levels, known.fields | fields)
    assert found == {
        "a.begins": Event(frozenset({"ERROR"}), frozenset()),
        "a.ends": Event(frozenset({"INFO"}), frozenset({"lasted_s"})),
        "b.begins": Event(frozenset({"WARNING"}), frozenset()),
        "b.ends": Event(frozenset({"INFO"}), frozenset({"lasted_s"})),
        "c": Event(frozenset({"INFO", "ERROR"}), frozenset({"size", "path"})),
        "d": Event(frozenset({"INFO", "WARNING"}), frozenset()),
    }
    with pytest.raises(AssertionError, match="is a literal"):
        list(events_of('logger.info(name, "text")'))
