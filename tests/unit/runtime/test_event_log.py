"""An event is an ordinary record with a name, fields and whoever it is of; and costs nothing if nobody wants it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from replicator.runtime.event_log import EventLogger, in_this_context, speaking

logger = EventLogger("replicator.test")


class Voice:
    """A speaker. `lets`: whether its lines are told."""

    def __init__(self, name: str, *, lets: bool = True) -> None:
        self.name = name
        self.lets = lets
        self.asked = 0

    def fields(self) -> dict[str, Any]:
        self.asked += 1
        return {"node": self.name, "term": 5}

    def admits(self, level: int, event: str, text: str) -> bool:
        return self.lets


class Costly:
    """An argument that is not to be formatted."""

    def __str__(self) -> str:
        raise AssertionError("it was formatted")


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    logging.getLogger("replicator.test").setLevel(logging.INFO)
    yield
    logging.getLogger("replicator.test").setLevel(logging.NOTSET)


def told(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(record) for record in caplog.records]


def test_name_fields_and_speaker_are_attributes_of_the_record(caplog: pytest.LogCaptureFixture) -> None:
    with speaking(Voice("a")):
        logger.warning("disk.failed", "%s is full", "/data", path="/data")
    [record] = told(caplog)
    assert caplog.messages == ["/data is full"]
    assert {name: record[name] for name in ("event", "path", "node", "term", "levelname", "name")} == {
        "event": "disk.failed",
        "path": "/data",
        "node": "a",
        "term": 5,
        "levelname": "WARNING",
        "name": "replicator.test",
    }


def test_a_record_says_where_it_was_logged(caplog: pytest.LogCaptureFixture) -> None:
    logger.info("one", "x")
    logger.at(logging.INFO, "two", "x")
    assert {record["funcName"] for record in told(caplog)} == {test_a_record_says_where_it_was_logged.__name__}


def test_what_the_event_says_itself_counts_more_than_what_the_speaker_says(caplog: pytest.LogCaptureFixture) -> None:
    with speaking(Voice("a")):
        logger.info("term.began", "x", term=6)
    assert told(caplog)[0]["term"] == 6


def test_a_line_that_nobody_wants_asks_nobody_and_formats_nothing(caplog: pytest.LogCaptureFixture) -> None:
    voice = Voice("a")
    with speaking(voice):
        logger.debug("x", "%s", Costly())
    assert (caplog.records, voice.asked) == ([], 0)


def test_a_line_that_others_have_just_told_is_there_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    with speaking(Voice("a", lets=False)):
        logger.info("x", "not told")
        logging.getLogger("replicator.test").setLevel(logging.DEBUG)
        logger.info("x", "told to those who want all")
    assert [record["levelname"] for record in told(caplog)] == ["DEBUG"]


def test_an_exception_comes_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("seven")
    except ValueError as error:
        logger.exception("bug", "a bug")
        logger.error("bug", "a bug", exc_info=error)
    assert [record["exc_info"][0] for record in told(caplog)] == [ValueError, ValueError]


def test_who_speaks_is_known_within_alone_and_on_the_threads_that_are_begun_for_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def say() -> None:
        logger.info("x", "x")

    with speaking(Voice("a")):
        with speaking(Voice("b")):
            carried = in_this_context(say)
        say()
    say()
    thread = threading.Thread(target=carried)
    thread.start()
    thread.join()
    assert [record.get("node") for record in told(caplog)] == ["a", None, "b"]
