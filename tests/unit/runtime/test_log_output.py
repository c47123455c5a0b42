"""What a process writes to stderr: for people, and for programs."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from replicator.errors import ConfigError
from replicator.runtime.event_log import EventLogger, speaking
from replicator.runtime.log_output import GroupSpeaker, formatter_for


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Voice:
    def fields(self) -> dict[str, Any]:
        return {"group": "g", "node": "a", "boot": "0123456789abcdef", "term": 5, "position": "5-42"}

    def admits(self, level: int, event: str, text: str) -> bool:
        return True


logger = EventLogger("replicator.test")

Lines = Callable[..., list[str]]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Call it with a format and what logs; what comes out."""
    root = logging.getLogger()
    handlers: list[logging.Handler] = []

    def write(wanted: str, log: Callable[[], None], *, stream: io.StringIO | None = None, **more: Any) -> list[str]:
        stream = stream or io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter_for(wanted, stream, **more))
        handlers.append(handler)
        root.addHandler(handler)
        logging.getLogger("replicator.test").setLevel(logging.INFO)
        logging.getLogger("uvicorn.error").setLevel(logging.INFO)
        with speaking(Voice()):
            log()
        root.removeHandler(handler)
        return stream.getvalue().splitlines()

    yield write
    for each in handlers:
        root.removeHandler(each)
    for name in ("replicator.test", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def one() -> None:
    logger.warning("disk.failed", "%s is full", "/data", path="/data")


def test_json_is_one_object_a_line_with_the_event_and_who_it_is_of(lines: Lines) -> None:
    [line] = lines("json", one)
    told = orjson.loads(line)
    assert told.pop("time").endswith("Z")
    assert told == {
        "level": "warning",
        "event": "disk.failed",
        "message": "/data is full",
        "group": "g",
        "node": "a",
        "boot": "0123456789abcdef",
        "term": 5,
        "position": "5-42",
        "path": "/data",
        "logger": "replicator.test",
    }


def test_the_console_has_the_sentence_and_then_the_fields(lines: Lines) -> None:
    [line] = lines("console", one)
    assert "/data is full" in line
    assert line.endswith("event=disk.failed group=g node=a boot=01234567 term=5 position=5-42 path=/data")
    assert "\x1b" not in line, "there is no terminal"


def test_a_terminal_gets_colours(lines: Lines) -> None:
    assert "\x1b[" in lines("auto", one, stream=Terminal(), otherwise="json")[0]


def test_auto_is_what_the_process_says_where_there_is_no_terminal(lines: Lines) -> None:
    assert lines("auto", one, otherwise="json")[0].startswith("{")
    assert lines("auto", one)[0].endswith("path=/data")


@pytest.mark.parametrize("wanted", ["console", "json"])
def test_what_another_library_logs_comes_in_the_same_form_and_says_for_whom(lines: Lines, wanted: str) -> None:
    [line] = lines(
        wanted, lambda: logging.getLogger("uvicorn.error").info("Started %d", 7, extra={"color_message": ""})
    )
    assert "Started 7" in line
    assert "5-42" in line
    assert "uvicorn.error" in line
    assert "color_message" not in line
    assert "event" not in line


@pytest.mark.parametrize("wanted", ["console", "json"])
def test_what_others_wrote_does_not_control_the_terminal(lines: Lines, wanted: str) -> None:
    [line] = lines(wanted, lambda: logger.warning("x", "it says %s", "a\nb\x1b[2J", said="c\nd\x1b[2J"))
    assert "\x1b" not in line


def test_a_traceback_follows(lines: Lines) -> None:
    def fail() -> None:
        try:
            raise ValueError("seven")
        except ValueError:
            logger.exception("bug", "a bug")

    assert orjson.loads(lines("json", fail)[0])["exception"].endswith("ValueError: seven")
    assert lines("console", fail)[-1] == "ValueError: seven"


def test_a_traceback_has_no_values_of_variables_in_it_and_does_not_control_the_terminal(lines: Lines) -> None:
    def fail() -> None:
        secret = "hunter" + str(2)
        try:
            raise ValueError(f"a text of {len(secret)}: \x1b[2J")
        except ValueError:
            logger.exception("bug", "a bug")

    for wanted in ("console", "json"):
        text = "\n".join(lines(wanted, fail))
        assert "ValueError: a text of 7" in text
        assert "hunter2" not in text
        assert "\x1b" not in text


@pytest.mark.parametrize("odd", ["a\udcff", 2**70], ids=["half a character", "a large number"])
def test_what_json_cannot_have_does_not_lose_the_line(
    lines: Lines, odd: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for handler in logging.getLogger().handlers:  # pytest's own keep what is logged, and tests in parallel send it on
        monkeypatch.setattr(handler, "emit", lambda record: None)
    told = orjson.loads(lines("json", lambda: logger.warning("x", "it says %s", odd, odd=odd))[0])
    assert (told["event"], told["node"]) == ("x", "a")
    assert told["odd"] in ("a\\udcff", str(2**70))


def test_what_is_no_json_is_told_in_words(lines: Lines) -> None:
    assert orjson.loads(lines("json", lambda: logger.warning("x", "x", what=ValueError("seven")))[0])["what"] == "seven"


def test_a_process_that_is_no_node_says_its_group(lines: Lines) -> None:
    def of_a_group() -> None:
        with speaking(GroupSpeaker("registry")):
            one()

    told = orjson.loads(lines("json", of_a_group)[0])
    assert (told["group"], "node" in told) == ("registry", False)


def test_without_structlog_there_are_plain_lines_unless_a_format_was_asked_for(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "structlog", None)
    [line] = lines("auto", lambda: logger.warning("x", "full\x1b[2J"), otherwise="json")
    assert line.endswith("WARNING  replicator.test: full\\x1b[2J")
    with pytest.raises(ConfigError, match=r'pip install "replicator\[logs\]"'):
        formatter_for("json", io.StringIO())


def test_who_logs_nothing_does_not_wait_for_structlog() -> None:
    program = "import sys; from replicator.runtime.log_output import configure; configure('INFO', 'json'); "
    assert subprocess.run([sys.executable, "-c", f"{program}sys.exit('structlog' in sys.modules)"], check=True)


def test_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="'yaml' is none of auto, console, json"):
        formatter_for("yaml", io.StringIO())
