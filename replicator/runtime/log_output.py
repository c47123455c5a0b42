"""What a process of ours writes to stderr: one line an event, for people or for programs.

    configure("INFO", "json")

`console` is a sentence, then key=value, in colour on a terminal. `json` is an object a line. `auto` is `console` on a
terminal, and otherwise what the caller says: a process that runs for long under a supervisor writes JSON. What other
libraries log in the process (uvicorn, gunicorn, RQ) comes out in the same form, with the node that it was logged for.

An application that has a node in it needs none of this: its own handlers get our records. One that has none may have
it by its environment (`Node.from_env`).
"""

from __future__ import annotations

import importlib.util
import logging
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO

import orjson

from ..errors import ConfigError
from .checks import plain
from .event_log import SPEAKER

__all__ = ["FORMATS", "LEVELS", "GroupSpeaker", "configure", "configure_unless_done", "formatter_for"]

FORMATS = ("auto", "console", "json")
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

#: Without structlog, for a command that somebody types.
PLAIN_FORMAT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"

#: A boot is a random id: so much of it tells two of a node apart, where people read.
BOOT_SHOWN = 8

#: First in every line, in this order; then what an event has besides.
_FIRST = ("group", "node", "boot", "term", "position")

#: How wide a sentence is made, so that what follows it stands in a column.
_WIDTH = 64

#: Servers that have set up handlers of their own before they load an application.
_SERVERS = ("uvicorn", "uvicorn.access", "gunicorn.error", "gunicorn.access")


class GroupSpeaker:
    """A process that works for a group and is no node of it."""

    def __init__(self, group: str) -> None:
        self._group = group

    def fields(self) -> dict[str, Any]:
        return {"group": self._group}

    def admits(self, level: int, event: str, text: str) -> bool:
        return True


def configure(level: str, wanted: str = "auto", *, otherwise: str = "console", stream: TextIO | None = None) -> None:
    """Have all that is logged in this process written to stderr. `otherwise`: what `auto` is where no terminal is.

    Raises `ConfigError` if a format is wanted by its name and structlog is missing.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    chosen = _chosen(wanted, stream, otherwise)
    handler.setFormatter(_WhenUsed(lambda: _formatter(chosen, stream)) if chosen else _OneLine(PLAIN_FORMAT))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def configure_unless_done(level: str, wanted: str) -> None:
    """The same for a process that somebody else's program runs in: not if it has set up handlers itself. What uvicorn
    and gunicorn log comes out in this form, too. Raises `ConfigError`, as `configure`.
    """
    if logging.root.handlers:
        return
    configure(level, wanted, otherwise="json")
    for name in _SERVERS:
        logger = logging.root.getChild(name)
        if logger.handlers:
            logger.handlers.clear()
            logger.propagate = True


def formatter_for(
    wanted: str = "auto", stream: TextIO | None = None, *, otherwise: str = "console"
) -> logging.Formatter:
    """For a handler that writes to `stream`, or to stderr. Raises `ConfigError`, as `configure`."""
    stream = stream or sys.stderr
    chosen = _chosen(wanted, stream, otherwise)
    return _formatter(chosen, stream) if chosen else _OneLine(PLAIN_FORMAT)


def _chosen(wanted: str, stream: TextIO, otherwise: str) -> str:
    """`console` or `json`; empty: plain lines, because structlog is missing, and nobody asked for one of them."""
    chosen = ("console" if stream.isatty() else otherwise) if wanted == "auto" else wanted
    if chosen not in FORMATS:
        raise ConfigError(setting="log_format", problem=f"{chosen!r} is none of {', '.join(FORMATS)}")
    if importlib.util.find_spec("structlog") is not None:
        return chosen
    if wanted == "auto":
        return ""
    raise ConfigError(setting="log_format", problem='structlog is not installed: pip install "replicator[logs]"')


def _formatter(chosen: str, stream: TextIO) -> logging.Formatter:
    import structlog

    before: list[Any] = [
        _sentence_apart,
        structlog.stdlib.ExtraAdder(),
        _say_who,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    after: list[Any]
    if chosen == "json":
        after = [structlog.processors.format_exc_info, _as_object, structlog.processors.JSONRenderer(serializer=_json)]
    else:
        render = structlog.dev.ConsoleRenderer(  # the name of the first one changed between its versions
            _WIDTH,
            colors=stream.isatty(),
            timestamp_key="time",
            event_key="message",
            sort_keys=False,
            exception_formatter=_traceback,
        )
        after = [_for_people, render]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=before,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *after],
    )


class _WhenUsed(logging.Formatter):
    """Made at the first line: to import structlog is a quarter of a command's start, and most commands log nothing."""

    def __init__(self, make: Callable[[], logging.Formatter]) -> None:
        super().__init__()
        self._make = make
        self._made: logging.Formatter | None = None

    def format(self, record: logging.LogRecord) -> str:
        if self._made is None:
            self._made = self._make()
        return self._made.format(record)


class _OneLine(logging.Formatter):
    """Escapes control characters in log lines: they may quote what others wrote."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return plain(super().formatMessage(record))


def _sentence_apart(_: Any, __: str, told: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog calls the sentence `event`; ours is the name of one."""
    told["message"] = told.pop("event")
    told["_record"].__dict__.pop("color_message", None)  # uvicorn's, of the same sentence
    told["logger"] = told["_record"].name
    return told


def _say_who(_: Any, __: str, told: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What another library logs is of whoever it was called for."""
    speaker = SPEAKER.get()
    for name, value in (speaker.fields() if speaker is not None else {}).items():
        told.setdefault(name, value)
    return told


def _as_object(_: Any, __: str, told: MutableMapping[str, Any]) -> Mapping[str, Any]:
    first = ("time", "level", "event", "message", *_FIRST)
    ordered = {name: told[name] for name in first if told.get(name, "") != ""}
    return {**ordered, **{name: told[name] for name in told if name not in first}}


def _json(told: MutableMapping[str, Any], **_: Any) -> str:
    try:
        return orjson.dumps(told, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a path that is not UTF-8, or an integer of more than 64 bits: the line is told all the same
        return orjson.dumps({plain(str(name)): plain(str(value)) for name, value in told.items()}).decode()


def _traceback(stream: TextIO, exc_info: Any) -> None:
    """As Python prints it. (structlog's own has the values of variables in it, and so secrets.)"""
    for line in "".join(traceback.format_exception(*exc_info)).rstrip("\n").split("\n"):
        stream.write(f"\n{plain(line)}")


def _for_people(_: Any, __: str, told: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """Time of day, level, sentence, then the fields; what others wrote must not control the terminal."""
    shown: dict[str, Any] = {"time": told["time"][11:23], "level": told["level"], "message": plain(told["message"])}
    for name in ("event", *_FIRST, *told):
        value = told.get(name, "")
        if name != "logger" and value != "":
            shown.setdefault(name, plain(value) if isinstance(value, str) and name != "exc_info" else value)
    if "boot" in shown:
        shown["boot"] = str(shown["boot"])[:BOOT_SHOWN]
    if "event" not in shown:  # of another library
        shown["logger"] = told["logger"]
    return shown
