"""The jobs of a group, and the RQ worker that runs them: `python -m replicator.workers.jobs`.

REPLICATOR_REDIS and REPLICATOR_GROUP name the group. Both sides of the queue speak JSON. The worker has a client of its
own, because RQ changes the timeouts of the client it is given.

A queue is data, and anybody who can write to Redis can write to it. RQ would run any function, callback or method that
a job names, and call any URL. Here a job may only name one of `JOBS`, which take no arguments. Nothing else in it is
imported, run or sent, and a job that asks for more fails (`OwnJob`).
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import rq
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from replicator import ops
from replicator.cli import LEVELS, cli
from replicator.cli.environment import check_environment
from replicator.errors import ConfigError, ReplicatorError
from replicator.log.redis_log import RedisLog, client_for
from replicator.ops.jobs import queue_name
from replicator.runtime import checks
from replicator.runtime.event_log import SPEAKER
from replicator.runtime.log_output import FORMATS, GroupSpeaker, configure
from replicator.storage.keyring import sealing_of

from .worker import Worker, work


def snapshot() -> dict[str, Any]:
    """Have the primary send a snapshot; return the id of the record whose state it is."""
    log = _log()
    try:
        return {"as_of": ops.snapshot(log, by="job", progress=_progress())}
    finally:
        log.close()


def verify() -> dict[str, Any]:
    """Compare the digests of all live nodes at one position."""
    log = _log()
    try:
        return ops.verify(log, by="job", progress=_progress()).to_dict()
    finally:
        log.close()


#: The jobs, by their names in the queue.
JOBS: Mapping[str, Callable[[], dict[str, Any]]] = {
    f"replicator.workers.jobs.{job.__name__}": job for job in (snapshot, verify)
}

#: The fields of a job that are used: its call, its progress, and how long it may take and its result is kept.
KEPT = frozenset(
    b"data created_at enqueued_at started_at ended_at last_heartbeat status origin worker_name timeout result_ttl "
    b"failure_ttl ttl".split()
)

#: The fields that would have something else run, or sent.
ASKS_FOR_MORE = frozenset(b"success_callback_name failure_callback_name stopped_callback_name webhooks".split())

#: Limit on the call of a job, unpacked: it is a name without arguments.
CALL_BYTES_MAX = 4096

#: Replaces a call that is not run. It names nothing.
NO_CALL = b'["", null, [], {}]'


class JobRefused(ReplicatorError):
    """{problem}: nothing of it was run. This worker runs {jobs}, without arguments, callbacks or webhooks"""


class OwnJob(Job):
    """A job in the queue, restricted to what `JOBS` allows.

    RQ uses this class for every job that the worker touches, also for those that it only cleans up after.
    """

    #: Why the job is not run; empty: it is.
    _problem = ""

    @classmethod
    def fetch(cls, id: str, connection: Any = None, serializer: Any = None) -> Job:
        """As in RQ, except that an impossible id counts as that of a missing job: it must not end the worker."""
        try:
            return super().fetch(id, connection=connection, serializer=serializer)
        except (ValueError, TypeError) as error:
            raise NoSuchJobError(f"{id!r} is no job ({error})") from None

    def restore(self, raw_data: Mapping[bytes, bytes]) -> None:
        """Take over the allowed fields. If there is more, remember why the job is not run."""
        if b"data" not in raw_data:
            raise NoSuchJobError("it has no data")
        try:
            _check_small(raw_data[b"data"])
            super().restore({name: value for name, value in raw_data.items() if name in KEPT})
            self._problem = self._more_than_a_job(raw_data)
        except Exception as error:  # of any kind: RQ reads dates, numbers and texts
            self._problem = f"it cannot be read ({error!r})"
            self.origin = raw_data.get(b"origin", b"").decode("ascii", "replace")
        if self._problem:
            self.data = NO_CALL

    def _more_than_a_job(self, raw_data: Mapping[bytes, bytes]) -> str:
        name, instance, *arguments = self.serializer.loads(self.data)
        if not isinstance(name, str) or name not in JOBS:
            return f"there is no job {name!r:.100}"
        if instance is not None or any(arguments):
            return f"{name} takes no arguments"
        asked = sorted(each.decode() for each in ASKS_FOR_MORE if raw_data.get(each, b"") not in (b"", b"[]"))
        return f"it has {', '.join(asked)}" if asked else ""

    @property
    def func(self) -> Callable[[], dict[str, Any]]:
        """The function to run. Raises `JobRefused`."""
        if self._problem:
            raise JobRefused(problem=self._problem, jobs=" and ".join(JOBS))
        return JOBS[self.func_name or ""]


def _check_small(data: bytes) -> None:
    """Raises `ValueError` for a call that is too large, unpacked: a few bytes may unpack to gigabytes."""
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(data, CALL_BYTES_MAX)
        small = not unpacking.unconsumed_tail
    except zlib.error:  # it is not compressed
        small = len(data) <= CALL_BYTES_MAX
    if not small:
        raise ValueError(f"its call has more than {CALL_BYTES_MAX} bytes")


def main() -> None:
    try:
        configure(_log_level(), _log_format(), otherwise="json")
        SPEAKER.set(GroupSpeaker(os.environ.get("REPLICATOR_GROUP", "")))
        check_environment(cli)
        url, group = _setting("REPLICATOR_REDIS"), _setting("REPLICATOR_GROUP")
        work(lambda: _worker(url, group))
    except ReplicatorError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _worker(url: str, group: str) -> Worker:
    _check_redis()
    # RQ draws a new name for each worker: the name of one that was killed stays taken for a while.
    return Worker(
        [queue_name(group)],
        connection=client_for(url),
        serializer=JSONSerializer,
        job_class=OwnJob,
        log_job_description=False,  # it is untrusted text from the queue
    )


def _log_level() -> str:
    return checks.choice("REPLICATOR_LOG_LEVEL", os.environ.get("REPLICATOR_LOG_LEVEL", "INFO").upper(), LEVELS)


def _log_format() -> str:
    return checks.choice("REPLICATOR_LOG_FORMAT", os.environ.get("REPLICATOR_LOG_FORMAT", "auto").lower(), FORMATS)


def _check_redis() -> None:
    """Raises `LogUnavailable`, which says what to do, if Redis is away: RQ would only show a traceback."""
    log = _log()
    try:
        log.look()
    finally:
        log.close()


def _log() -> RedisLog:
    group = _setting("REPLICATOR_GROUP")
    sealing = sealing_of(os.environ.get("REPLICATOR_KEY_FILE"), group)
    return RedisLog(_setting("REPLICATOR_REDIS"), group, sealing=sealing)


def _progress() -> Callable[[str], None]:
    job = rq.get_current_job()

    def say(text: str) -> None:
        if job is not None:
            job.meta["progress"] = text
            job.save_meta()  # type: ignore[no-untyped-call]

    return say


def _setting(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(setting=name, problem="is not set")
    return value


if __name__ == "__main__":
    main()
