"""Log lines that are events: each has a name that stays the same, fields for programs, and a sentence for people.

    logger = EventLogger(__name__)
    logger.info("node.stopped", "stopped at %s", position)

What is logged is an ordinary record of `logging`, under the logger `replicator`. The name of the event and the fields
are attributes of the record (`record.event`, `record.group`, ...), as with `extra=`, so any formatter can show them. No
handler, level or format is set here: that is for the process (`log_output.py`, or the application's own).

Who says it is known to the context: whoever works for a node does so within `speaking`, and every line then has the
node's group, name, boot, term and position. Nothing is worked out for a line that nobody wants.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

__all__ = ["SPEAKER", "EventLogger", "Speaker", "in_this_context", "speaking"]

#: From `EventLogger.log` to whoever called a method of it.
_FRAMES = 3


class Speaker(Protocol):
    """Whoever a line is of."""

    def fields(self) -> dict[str, Any]:
        """Who that is, and where it is now."""
        ...

    def admits(self, level: int, event: str, text: str) -> bool:
        """Whether the line is told at its own level. If not it is at DEBUG: others have just said the same."""
        ...


SPEAKER: contextvars.ContextVar[Speaker | None] = contextvars.ContextVar("replicator_speaker", default=None)


@contextmanager
def speaking(speaker: Speaker | None) -> Iterator[None]:
    """What is logged within is of this one."""
    token = SPEAKER.set(speaker)
    try:
        yield
    finally:
        SPEAKER.reset(token)


def in_this_context(work: Callable[..., Any], *, speaker: Speaker | None = None) -> Callable[..., Any]:
    """`work`, for another thread, which speaks for `speaker`, or else for whom this one does."""
    context = contextvars.copy_context()
    if speaker is not None:
        context.run(SPEAKER.set, speaker)

    def carried(*arguments: Any) -> Any:
        return context.run(work, *arguments)

    return carried


class EventLogger:
    """Logs events. `event`: a name that docs/logs.md lists. `fields`: names that are none of a `LogRecord`'s own.

    `text % arguments` is the sentence; it is put together by the handlers, if there are any.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def debug(self, event: str, text: str, *arguments: Any, **fields: Any) -> None:
        self._log(logging.DEBUG, event, text, arguments, fields)

    def info(self, event: str, text: str, *arguments: Any, **fields: Any) -> None:
        self._log(logging.INFO, event, text, arguments, fields)

    def warning(self, event: str, text: str, *arguments: Any, **fields: Any) -> None:
        self._log(logging.WARNING, event, text, arguments, fields)

    def error(self, event: str, text: str, *arguments: Any, **fields: Any) -> None:
        self._log(logging.ERROR, event, text, arguments, fields)

    def critical(self, event: str, text: str, *arguments: Any, **fields: Any) -> None:
        self._log(logging.CRITICAL, event, text, arguments, fields)

    def exception(self, event: str, text: str, *arguments: Any, **fields: Any) -> None:
        """An error, with the exception that is being handled."""
        self._log(logging.ERROR, event, text, arguments, {"exc_info": True, **fields})

    def at(self, level: int, event: str, text: str, *arguments: Any, **fields: Any) -> None:
        """At a level that is a number of `logging`."""
        self._log(level, event, text, arguments, fields)

    def _log(self, level: int, event: str, text: str, arguments: tuple[Any, ...], fields: dict[str, Any]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        speaker = SPEAKER.get()
        exc_info = fields.pop("exc_info", None)
        extra = {"event": event, **(speaker.fields() if speaker is not None else {}), **fields}
        if speaker is not None and not speaker.admits(level, event, text % arguments if arguments else text):
            level = logging.DEBUG
        self._logger.log(level, text, *arguments, exc_info=exc_info, extra=extra, stacklevel=_FRAMES)
