"""The queue of a group's jobs: asks for them, follows them to their end, lists and cancels them.

Arguments and results are plain values (`plain_pickle.py`). A worker takes the group's Redis from its own environment,
so no URL with a password goes through the queue. What is read from it is untrusted (`own_job.py`), also here: it is
only shown.

A job has an id from what is asked for: who asks for the same again while that is not over gets the same job, and what
is asked for by a schedule has its time in the id.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple

import orjson
import rq
import rq.registry
import xxhash
from rq.command import send_command
from rq.exceptions import DuplicateJobError, InvalidJobOperation, NoSuchJobError
from rq.job import JobStatus

from ..errors import LogUnavailable, ReplicatorError
from ..log.redis_errors import advice
from ..log.redis_log import client_for, shown
from ..runtime import checks
from .errors import JobFailed, JobLost, NoSuchJob, NotTaken
from .in_worker import EXIT_CODE, PROGRESS, RESULT
from .kinds import KINDS, UNIX_MS_MAX, checked, function_of
from .own_job import OwnJob
from .plain_pickle import NotPlain, PlainPickle, read
from .told import Told

__all__ = ["WORKER_TTL_S", "Asked", "JobFacts", "JobQueue", "queue_name"]

POLL_EVERY_S = 0.1

#: How long Redis may be away while a job is waited for. One that fails over is back within seconds.
AWAY_S_MAX = 15.0

#: A week: whoever looks on Monday sees what was done on Saturday.
RESULT_TTL_S = 7 * 86_400

#: RQ forgets a worker that did not report for this long, and 60 s.
WORKER_TTL_S = 15
_FORGOTTEN_AFTER_S = WORKER_TTL_S + 60

#: A worker reports every five seconds, ten while it has a job: one that was silent for so long takes no job.
SILENT_S_MAX = 30

#: How often whoever waits for a job looks whether there is a worker to take it, or whether that was killed.
LOOK_AFTER_WORKER_EVERY_S = 1.0

#: A drill ends its processes in order.
STOPS_WITHIN_S = 40.0

#: What a worker says that takes jobs in JSON alone.
NOT_READ_BY_AN_EARLIER_ONE = "it cannot be read (UnicodeDecodeError('utf-8', b'\\x80"

#: The statuses that are final.
ENDED = frozenset(each.value for each in (JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED))


def queue_name(group: str) -> str:
    """The queue of a group's jobs. A worker serves one group."""
    return f"replicator-{checks.name('group', group)}"


class Asked(NamedTuple):
    """A job that was asked for. `is_new`: it was not there, or was over."""

    id: str
    is_new: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFacts:
    """A job as the queue has it. `kind`: empty if it is none of ours, and is not run. Moments are unix ms."""

    job: str
    kind: str
    job_status: str
    arguments: dict[str, Any]
    asked_at: int | None = None
    due_at: int | None = None
    started_at: int | None = None
    ended_at: int | None = None
    progress: str | None = None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        return asdict(self)


class JobQueue:
    """The queue of a group in the Redis at `url`: a context. Raises `ConfigError` for a cluster, where RQ does not run.

    All of its methods raise `LogUnavailable` if Redis is away.
    """

    def __init__(self, url: str, group: str) -> None:
        self._url, self._group = url, group
        self._client: Any = client_for(url)  # what it gives is bytes, which its types do not know
        self._queue = rq.Queue(queue_name(group), connection=self._client, serializer=PlainPickle, job_class=OwnJob)

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.close()

    @property
    def name(self) -> str:
        return str(self._queue.name)

    def has_worker(self) -> bool:
        """Whether a worker reported lately. By what Redis has left of its key: no clock but that of Redis counts."""
        with self.translated("workers"):
            keys = rq.Worker.all_keys(queue=self._queue)
            left_s = [int(self._client.ttl(key)) for key in keys]
        return any(left > _FORGOTTEN_AFTER_S - SILENT_S_MAX for left in left_s)

    # --- asking ---

    def ask(self, name: str, arguments: Mapping[str, Any], *, due_ms: int | None = None, slot: str = "") -> Asked:
        """Have the job done: at once, or when the time has come (`due_ms`, unix ms).

        `slot`: of a schedule, so that each of its times has a job of its own. Raises `ConfigError` for arguments that
        this kind of job does not take.
        """
        kind = KINDS[name]
        arguments = checked(kind, dict(arguments))
        id = self._id(name, arguments, slot)
        options: dict[str, Any] = {
            "kwargs": arguments,
            "job_id": id,
            "description": _described(name, arguments),
            "result_ttl": RESULT_TTL_S,
            "failure_ttl": RESULT_TTL_S,
            "unique": True,
        }
        self._give_up_abandoned()
        while True:
            with self.translated(name):
                try:
                    if due_ms is None:
                        self._queue.enqueue_call(function_of(name), timeout=kind.timeout_s, **options)
                    else:
                        due = datetime.fromtimestamp(due_ms / 1000, tz=UTC)
                        self._queue.enqueue_at(due, function_of(name), job_timeout=kind.timeout_s, **options)
                    return Asked(id, True)
                except DuplicateJobError:
                    # A schedule is not asked twice for one time; what else is over may be asked for anew.
                    if slot or not self._forgotten(id):
                        return Asked(id, False)

    def _id(self, name: str, arguments: Mapping[str, Any], slot: str) -> str:
        """Readable, and different for all that is different. RQ takes letters, digits, `_` and `-`."""
        told = [str(arguments[each]) for each in ("to", "term") if each in arguments]
        asked = orjson.dumps([self._group, name, arguments, slot], option=orjson.OPT_SORT_KEYS)
        text = "-".join([self._group, name, *told, *([slot] if slot else []), xxhash.xxh3_64_hexdigest(asked)[:8]])
        return re.sub("[^A-Za-z0-9_-]", "_", text)

    def _forgotten(self, id: str) -> bool:
        """Forget the job if it is over; whether it is gone. Not one that somebody asks for anew at this moment."""
        key, over = OwnJob.key_for(id), True

        def forget(pipe: Any) -> None:
            nonlocal over
            status = pipe.hget(key, "status")
            over = status is None or status.decode("ascii", "replace") in ENDED
            pipe.multi()
            if over:
                job = OwnJob(id, connection=self._client, serializer=PlainPickle)
                job.origin = self.name
                for registry in self._registries().values():
                    pipe.zrem(registry.key, id)
                job.delete(pipeline=pipe)

        self._client.transaction(forget, key)
        return over

    # --- following ---

    def follow(self, id: str, name: str, *, wait_s: float, progress: Callable[[str], None]) -> Any:
        """Show the job's progress until it ends, and return its result.

        Raises `NotTaken` if no worker is there that would take it (then it is cancelled), `JobFailed`, and
        `TimeoutError` after `wait_s`; then the job goes on.
        """
        told, away = Told(), False
        answered_at = looked_at = time.monotonic()
        until = answered_at + wait_s
        while time.monotonic() < until:
            try:
                status, meta = self._look(id, name)
                if time.monotonic() > looked_at + LOOK_AFTER_WORKER_EVERY_S:
                    looked_at = time.monotonic()
                    self._look_after_worker(id, status)
            except LogUnavailable as unavailable:
                # Redis may be failing over, and the job goes on meanwhile.
                if time.monotonic() > answered_at + AWAY_S_MAX:
                    raise
                if not away:
                    progress(f"{unavailable}; waiting for it to come back")
                away = True
            else:
                answered_at, away = time.monotonic(), False
                for text in told.new(meta):
                    progress(text)
                if status.value in ENDED:
                    return self._result(id, name, status)
            time.sleep(POLL_EVERY_S)
        status, _ = self._look(id, name)
        if status.value in ENDED:  # since the last look
            return self._result(id, name, status)
        self._look_after_worker(id, status)
        hint = f"`replicator jobs list` shows it, `replicator jobs cancel {id}` ends it"
        raise TimeoutError(f"job {id} is still {status.value}; {hint}")

    def _look_after_worker(self, id: str, status: JobStatus) -> None:
        if status == JobStatus.STARTED:
            self._give_up_abandoned()
        elif status == JobStatus.QUEUED and not self.has_worker():
            self.cancel(id)
            raise NotTaken(id=id)

    def _look(self, id: str, name: str) -> tuple[JobStatus, dict[str, Any]]:
        with self.translated(name):
            status, meta = self._client.hmget(OwnJob.key_for(id), "status", "meta")
        try:
            return JobStatus((status or b"").decode("ascii", "replace")), _meta_of(meta)
        except ValueError:
            raise JobLost(name=name, problem="") from None

    def _result(self, id: str, name: str, status: JobStatus) -> Any:
        with self.translated(name):
            return self._kept_result(id, name, status)

    def _kept_result(self, id: str, name: str, status: JobStatus) -> Any:
        job = OwnJob.fetch(id, connection=self._client, serializer=PlainPickle)
        if status == JobStatus.FINISHED:
            try:
                return job.return_value()
            except Exception as error:  # of any kind: it is data
                if _is_of_redis(error):
                    raise
                raise JobFailed(name=name, problem="what it gave cannot be read") from None
        meta = _meta_of(self._client.hget(job.key, "meta"))
        if isinstance(found := meta.get(RESULT), dict):
            return found
        code = meta.get(EXIT_CODE)
        exit_code = code if isinstance(code, int) and 1 <= code <= 6 else 1
        raise JobFailed(
            name=name, problem=_problem_of(_result_of(job)) or f"it was {status.value}", exit_code=exit_code
        )

    # --- looking ---

    def jobs(self) -> list[JobFacts]:
        """All jobs that Redis has of this queue: those to come, then those that run, then those that are over."""
        self._give_up_abandoned()
        with self.translated("list"):
            found = [facts for id in self._ids() if (facts := self._facts(id)) is not None]
        return sorted(found, key=lambda job: (job.job_status in ENDED, job.due_at or job.asked_at or 0))

    def _ids(self) -> dict[str, None]:
        """Of all jobs, looked for in one step: one that moves from one list to another is in one of them."""
        with self._client.pipeline(transaction=True) as pipe:
            # A job is in the second of these lists while a worker takes it, or if that is killed in this moment.
            for key in (self._queue.key, self._queue.intermediate_queue_key):
                pipe.lrange(key, 0, -1)
            for registry in self._registries().values():
                pipe.zrange(registry.key, 0, -1)
            queued, taken, *registered = pipe.execute()
        ids = [_text(each) for each in (*queued, *taken)]
        return dict.fromkeys(ids + [_text(each).partition(":")[0] for found in registered for each in found])

    def job(self, id: str) -> JobFacts:
        """Raises `NoSuchJob` if this group has none of that id."""
        with self.translated(id):
            facts = self._facts(id)
        if facts is None:
            raise NoSuchJob(id=repr(id), group=self._group)
        return facts

    def _facts(self, id: str) -> JobFacts | None:
        try:
            job = OwnJob.fetch(id, connection=self._client, serializer=PlainPickle)
        except NoSuchJobError:
            return None
        if job.origin != self.name:
            return None
        status = job._status if isinstance(job._status, JobStatus) else JobStatus.CREATED
        due = self._client.zscore(self._registries()["scheduled"].key, id) if status == JobStatus.SCHEDULED else None
        said = _meta_of(self._client.hget(job.key, "meta")).get(PROGRESS)
        result = _result_of(job) if status.value in ENDED else None
        return JobFacts(
            job=id,
            kind=job.asked,
            job_status=status.value,
            arguments=dict(job.asked_arguments),
            asked_at=_unix_ms(job.created_at),
            due_at=_possible(due),
            started_at=_unix_ms(job.started_at),
            # RQ does not keep the end of a job that failed.
            ended_at=_unix_ms(result.created_at if result is not None else job.ended_at),
            progress=said if isinstance(said, str) else None,
            problem=_problem_of(result) or job.problem or None,  # a worker that refuses one leaves nothing of its call
        )

    def _registries(self) -> dict[str, Any]:
        queue = self._queue
        return {
            "scheduled": queue.scheduled_job_registry,
            "deferred": queue.deferred_job_registry,
            "started": queue.started_job_registry,
            "finished": queue.finished_job_registry,
            "failed": queue.failed_job_registry,
            "canceled": queue.canceled_job_registry,
        }

    def cancel(self, id: str) -> JobFacts:
        """Have the job not done, or, if it runs, end it. Once more is harmless.

        Raises `NoSuchJob`, `TimeoutError` (the worker did not end it in time).
        """
        facts = self.job(id)
        if facts.job_status in ENDED:
            return facts
        with self.translated(id):
            job = OwnJob.fetch(id, connection=self._client, serializer=PlainPickle)
            if not self._called_off(job):
                send_command(self._client, str(job.worker_name), "stop-job", job_id=id)
        deadline = time.monotonic() + STOPS_WITHIN_S
        self._give_up_abandoned()
        while (facts := self.job(id)).job_status not in ENDED:
            if time.monotonic() > deadline:
                hint = "if that was killed, RQ calls the job failed after a minute"
                raise TimeoutError(f"job {id} is still {facts.job_status}: its worker does not end it; {hint}")
            time.sleep(POLL_EVERY_S)
        return facts

    def _called_off(self, job: OwnJob) -> bool:
        """Cancel the job, unless a worker has begun it at this moment; whether it did not."""
        begun = False

        def cancel(pipe: Any) -> None:
            nonlocal begun
            status, worker = pipe.hmget(job.key, "status", "worker_name")
            begun = status == JobStatus.STARTED.value.encode()
            job.worker_name = _text(worker or b"")
            pipe.multi()
            if not begun and status != JobStatus.CANCELED.value.encode():
                job.cancel(pipeline=pipe)

        self._client.transaction(cancel, job.key)
        return not begun

    def _give_up_abandoned(self) -> None:
        """Have RQ call those failed whose worker was killed. (Workers do that, but not if there is none.)"""
        rq.registry.logger.setLevel("ERROR")  # whoever looks is shown what became of them
        with self.translated("list"), suppress(ValueError, TypeError, KeyError, NoSuchJobError):
            self._queue.started_job_registry.cleanup()

    @contextmanager
    def translated(self, name: str) -> Iterator[None]:
        """Turn the errors of Redis and RQ into ours."""
        try:
            yield
        except (ReplicatorError, DuplicateJobError):
            raise
        except (NoSuchJobError, InvalidJobOperation):
            raise JobLost(name=name, problem="") from None
        except Exception as error:
            if _is_of_redis(error):
                raise LogUnavailable(url=shown(self._url), problem=advice(error)) from None
            raise


def _is_of_redis(error: Exception) -> bool:
    return isinstance(error, OSError) or type(error).__module__.startswith("redis.")


def _described(name: str, arguments: Mapping[str, Any]) -> str:
    """For people, in pages that others make of the queue."""
    return " ".join([name, *(f"{key}={value}" for key, value in arguments.items())])


def _meta_of(raw: bytes | None) -> dict[str, Any]:
    try:
        meta = read(raw) if raw else {}
    except NotPlain:
        meta = {}
    return meta if isinstance(meta, dict) else {}


def _result_of(job: OwnJob) -> Any:
    """What it came to last, as RQ keeps it; None: nothing that can be read."""
    try:
        return job.latest_result()
    except Exception:  # of any kind: it is data
        return None


def _problem_of(result: Any) -> str:
    """The last line of what the job raised, without the name of the class if that is one of ours."""
    text = ((result.exc_string if result is not None else "") or "").strip()
    if NOT_READ_BY_AN_EARLIER_ONE in text:
        return "its worker is of an earlier version, which cannot read it: update the worker, and ask again"
    return re.sub(r"^replicator(\.\w+)+: ", "", text.splitlines()[-1]) if text else ""


def _text(id: bytes | str) -> str:
    return id if isinstance(id, str) else id.decode("utf-8", "replace")


def _unix_ms(moment: datetime | None) -> int | None:
    return None if moment is None else _possible(moment.timestamp())


def _possible(unix_s: float | None) -> int | None:
    """In ms; None for what is no moment that can be shown."""
    return int(unix_s * 1000) if unix_s is not None and 0 <= unix_s * 1000 <= UNIX_MS_MAX else None
