"""What a job has told so far, as whoever follows it sees it: each line once, and how far it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .. import ops
from .in_worker import LINE_COUNT, LINES, STEP

__all__ = ["Told"]


class Told:
    """What was told already. What a job says is data: what is not as it should be is not told."""

    def __init__(self) -> None:
        self._count = 0
        self._step: Any = None

    def new(self, meta: Mapping[str, Any]) -> Iterator[str]:
        """What is new in the job's meta data: lines, and a `Step` if that moved."""
        lines, count = meta.get(LINES), meta.get(LINE_COUNT)
        if isinstance(lines, list) and isinstance(count, int):
            if count < self._count:
                self._count = 0  # it runs anew
            if count > self._count:
                yield from (str(line) for line in lines[-(count - self._count) :])
            self._count = count
        if meta.get(STEP) != self._step and (step := _step_of(meta.get(STEP))) is not None:
            self._step = meta[STEP]
            yield step


def _step_of(told: Any) -> ops.Step | None:
    if not isinstance(told, list) or len(told) != 3:
        return None
    text, done, total = told
    fits = isinstance(text, str) and isinstance(done, int) and isinstance(total, int) and 0 <= done <= total
    return ops.Step(text, done, total) if fits else None
