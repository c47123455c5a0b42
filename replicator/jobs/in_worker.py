"""A job in the process that RQ's worker forked for it: its settings, its progress, and what it leaves besides.

RQ keeps the result of a job that succeeds. One that finds something wrong has failed, so that RQ and whoever watches it
see that; what it found is put beside its progress, in the job's meta data (`RESULT`), with the exit code that the
command has (`EXIT_CODE`).
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import xxhash

from .. import ops
from ..errors import ReplicatorError
from .errors import NotPassed
from .work import JobSettings, run

if TYPE_CHECKING:
    from .own_job import OwnJob

__all__ = ["DONE", "EXIT_CODE", "PROGRESS", "RESULT", "TOTAL", "perform"]

PROGRESS, DONE, TOTAL, RESULT, EXIT_CODE = "progress", "done", "total", "result", "exit_code"

#: Steps may follow each other fast; nobody looks more often.
TELL_EVERY_S = 0.2


def perform(job: OwnJob, **_: object) -> dict[str, Any]:
    """Do what the job asks for, with the arguments that were checked when it was read."""
    progress = _Progress(job)
    try:
        return run(
            job.asked, job.asked_arguments, JobSettings.of(os.environ), by="job", key=_key(job), progress=progress.say
        )
    except ReplicatorError as error:
        job.meta[EXIT_CODE] = error.exit_code
        if isinstance(error, NotPassed):
            job.meta[RESULT] = error.result
        raise
    finally:
        progress.save()


def _key(job: OwnJob) -> str:
    """The same whenever RQ runs this job, and another one when it is asked for anew under the same id."""
    return xxhash.xxh3_64_hexdigest(f"{job.id} {job.created_at}".encode())


class _Progress:
    def __init__(self, job: OwnJob) -> None:
        self._job, self._told_at = job, 0.0

    def say(self, text: str) -> None:
        meta = self._job.meta
        meta[PROGRESS] = str(text)
        meta[DONE], meta[TOTAL] = (text.done, text.total) if isinstance(text, ops.Step) else (None, None)
        if not isinstance(text, ops.Step) or time.monotonic() >= self._told_at + TELL_EVERY_S:
            self.save()

    def save(self) -> None:
        self._told_at = time.monotonic()
        self._job.save_meta()  # type: ignore[no-untyped-call]
