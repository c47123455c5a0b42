"""Where a coroutine stands that gave control back to its event loop: the file and line of its `await`.

A coroutine that enters a block remembers the frames that it runs in (`Block`). While it is suspended, these frames
stand at the lines at which they wait. The innermost of them that the task is really suspended in is the one with the
`await`: a generator of a context manager, for example, is not among those, it stands at its `yield`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from types import FrameType
from typing import Any

__all__ = ["Block"]

#: Frames that are remembered. The block is in one of the innermost; the rest are its callers.
FRAMES_MAX = 32

#: What a coroutine may wait for that does not say what it waits for itself.
_SILENT = ("async_generator_asend", "async_generator_athrow", "anext_awaitable")

#: Nobody's `await` is meant to be found in here.
_LIBRARY = (contextlib.__file__,)


class Block:
    """A block that is entered now, in `frame` (of the coroutine that enters it), by the running task."""

    def __init__(self, frame: FrameType | None) -> None:
        self._frames: list[FrameType] = []
        while frame is not None and len(self._frames) < FRAMES_MAX:
            self._frames.append(frame)
            frame = frame.f_back
        self._task = asyncio.current_task()

    def suspended_at(self) -> str:
        """`FILE:LINE, in FUNCTION`, while it is suspended."""
        frame = self._frame()
        if frame is None:
            return "an unknown place"
        return f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"

    def _frame(self) -> FrameType | None:
        waiting, is_whole = _waiting_frames(self._task)
        if is_whole:
            for frame in reversed(waiting):
                if frame in self._frames and not _is_library(frame):
                    return frame
        mine = [frame for frame in self._frames if not _is_library(frame)]
        return mine[0] if mine else None


def _is_library(frame: FrameType) -> bool:
    return frame.f_code.co_filename in _LIBRARY


def _waiting_frames(task: asyncio.Task[Any] | None) -> tuple[list[FrameType], bool]:
    """The frames that a suspended task waits in, the outermost first, and whether these are all."""
    frames: list[FrameType] = []
    for waiting in _waiting_for(task.get_coro() if task is not None else None):
        if type(waiting).__name__ in _SILENT:
            return frames, False
        frame = _attribute(waiting, "frame")
        if frame is not None:
            frames.append(frame)
    return frames, True


def _waiting_for(waiting: Any) -> Iterator[Any]:
    """What it waits for, what that waits for, and so on, with itself."""
    while waiting is not None:
        yield waiting
        waiting = _attribute(waiting, "await") or _attribute(waiting, "yieldfrom")


def _attribute(waiting: Any, what: str) -> Any:
    """Of a coroutine, a generator or an asynchronous generator."""
    return next((found for kind in ("cr", "gi", "ag") if (found := getattr(waiting, f"{kind}_{what}", None))), None)
