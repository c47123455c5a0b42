"""A job in the process that RQ's worker forked for it: its settings, its progress, and what it leaves besides.

RQ keeps the result of a job that succeeds. One that finds something wrong has failed, so that RQ and whoever watches it
see that; what it found is put beside its progress, in the job's meta data (`RESULT`), with the exit code that the
command has (`EXIT_CODE`).

RQ keeps in Redis what a job raises, with what that came from. Of a group with a key, what the state's own code raises
is kept from there: it may say a part of the state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import xxhash

from .. import ops
from ..errors import ReplicatorError
from ..runtime.event_log import EventLogger
from .errors import BrokeDown, NotPassed
from .work import JobSettings, run

__all__ = ["EXIT_CODE", "LINES", "LINE_COUNT", "PROGRESS", "RESULT", "STEP", "perform"]

logger = EventLogger(__name__)

#: In the meta data: what was told last; the last step, with how much of how much is done; the last lines, and how many
#: there were.
PROGRESS, STEP, LINES, LINE_COUNT = "progress", "step", "lines", "line_count"
RESULT, EXIT_CODE = "result", "exit_code"

#: Whoever follows a job looks ten times a second.
LINES_KEPT = 20

#: Steps may follow each other fast; nobody looks more often.
TELL_EVERY_S = 0.2


class RunningJob(Protocol):
    """What is needed of a job of RQ's. `asked`, `asked_arguments`: the kind and the arguments that were checked."""

    id: str
    created_at: datetime
    meta: dict[str, Any]
    asked: str
    asked_arguments: Mapping[str, Any]

    def save_meta(self) -> None: ...


def perform(job: RunningJob, **_: object) -> dict[str, Any]:
    """Do what the job asks for, with the arguments that were checked when it was read."""
    progress = _Progress(job)
    settings = JobSettings.of(os.environ)
    try:
        return run(job.asked, job.asked_arguments, settings, by="job", key=_key(job), progress=progress.say)
    except ReplicatorError as error:
        job.meta[EXIT_CODE] = error.exit_code
        if isinstance(error, NotPassed):
            job.meta[RESULT] = error.result
        if settings.key_file is not None:
            raise error from None
        raise
    except Exception as error:
        if settings.key_file is None:
            raise
        logger.exception("job.failed", "%s failed", job.asked)
        raise BrokeDown(kind=type(error).__name__) from None
    finally:
        progress.save()


def _key(job: RunningJob) -> str:
    """The same whenever RQ runs this job, and another one when it is asked for anew under the same id."""
    return xxhash.xxh3_64_hexdigest(f"{job.id} {job.created_at}".encode())


class _Progress:
    def __init__(self, job: RunningJob) -> None:
        self._job, self._told_at = job, 0.0
        self._lines: list[str] = []

    def say(self, text: str) -> None:
        meta = self._job.meta
        meta[PROGRESS] = str(text)
        if isinstance(text, ops.Step):
            meta[STEP] = [str(text), text.done, text.total]
            if time.monotonic() < self._told_at + TELL_EVERY_S:
                return
        else:
            self._lines = [*self._lines, str(text)][-LINES_KEPT:]
            meta[LINES], meta[LINE_COUNT] = self._lines, meta.get(LINE_COUNT, 0) + 1
        self.save()

    def save(self) -> None:
        self._told_at = time.monotonic()
        self._job.save_meta()
