"""Has a job done: by a worker of the group, or, where none takes it, here. Both ways run the same code."""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from replicator.jobs.errors import NotPassed, NotTaken
from replicator.jobs.kinds import KINDS
from replicator.jobs.queue import JobFacts, JobQueue
from replicator.jobs.work import JobSettings, run
from replicator.log.finders import is_cluster
from replicator.ops import Progress, Step
from replicator.runtime.log_once import duration

from .context import operator, when
from .progress import progress_of, say_line

__all__ = ["Wanted", "have_done"]

#: The exit code of whoever did not wait: the job may be done, or not.
LEFT = 4

POLL_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A job, and how it is to be done.

    `own`: the settings of this process, for when it is done here. `here`: even if there is a worker. `due_ms`: not
    before that time (unix ms). `wait`: for its end, `wait_s` at the most; None: as long as a job of this kind may take.
    """

    name: str
    own: JobSettings
    arguments: Mapping[str, Any] = field(default_factory=dict)
    here: bool = False
    due_ms: int | None = None
    wait: bool = True
    wait_s: float | None = None


def have_done(wanted: Wanted) -> dict[str, Any] | JobFacts:
    """Its result, also of one that found something wrong; or the job, if nobody waits for it.

    Ctrl-C leaves a job to its worker, and ends this process.
    """
    with progress_of(wanted.name) as say:
        if wanted.here:
            return _here(wanted, say)
        if is_cluster(wanted.own.redis):
            say("RQ does not run on a cluster: it is done here")
            return _here(wanted, say)
        with JobQueue(wanted.own.redis, wanted.own.group) as queue:
            if queue.has_worker():
                try:
                    return _queued(wanted, queue, say)
                except NotTaken:
                    say("the worker is gone, and did not take it")
        say(f"no worker of group {wanted.own.group} reports: it is done here")
        return _here(wanted, say)


def _queued(wanted: Wanted, queue: JobQueue, say: Progress) -> dict[str, Any] | JobFacts:
    asked = queue.ask(wanted.name, wanted.arguments, due_ms=wanted.due_ms)
    try:
        is_there = f"is in queue {queue.name}" if asked.is_new else "was asked for before, and is not over"
        say(f"job {asked.id} {is_there}")
        if not wanted.wait:
            return queue.job(asked.id)
        wait_s = KINDS[wanted.name].timeout_s if wanted.wait_s is None else wanted.wait_s
        result: dict[str, Any] = queue.follow(asked.id, wanted.name, wait_s=wait_s, progress=say)
        return result
    except KeyboardInterrupt:
        hint = f"`replicator jobs list` shows it, `replicator jobs cancel {asked.id}` ends it"
        say_line(f"job {asked.id} goes on; {hint}")
        sys.exit(LEFT)


def _here(wanted: Wanted, say: Progress) -> dict[str, Any]:
    if wanted.due_ms is not None:
        _wait_until(wanted.due_ms, say)
    try:
        return run(wanted.name, wanted.arguments, wanted.own, by=operator(), key=secrets.token_hex(8), progress=say)
    except NotPassed as found:
        return found.result


def _wait_until(due_ms: int, say: Progress) -> None:
    say(f"waiting here until {when(due_ms)} UTC; Ctrl-C gives it up")
    began_ms = time.time() * 1000
    whole = max(1, int(due_ms - began_ms))
    while (left_ms := due_ms - time.time() * 1000) > 0:
        say(Step(f"in {duration(left_ms / 1000)}", min(whole, int(whole - left_ms)), whole))
        time.sleep(min(POLL_S, left_ms / 1000))
