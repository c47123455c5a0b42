"""Jobs of your own RQ queues that belong to a term of a group, or write to one.

    @in_term
    def bill(term: Term, order: int) -> None:
        ...
        term.check()        # raises TermOver, once another node leads
        charge(order, fencing_token=term.number)

    enqueue_in_term(queue, node, bill, 4711)    # on the primary: its group and its term go with the job

`in_term` looks at the group's term before the job begins, and at each `check`. That is a look, not a lock: the term may
end a moment later. What has to be safe all the same takes `term.number` as a fencing token, or goes through
`submit(change, term=term.number)`.

    def import_file(path: str) -> None:
        submit_from_job(client, {"op": "import", "path": path})

RQ runs a job again if it failed and has retries left, if its work horse was killed, if its worker was, or if somebody
requeues it, and each of these may come after the job has written. It is the same job each time, with the same id. So
its id is the key of what it writes, which lands once (docs/client.md).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload, runtime_checkable

import rq
from rq.job import Job

from .errors import ConfigError, Fenced, LogLost, NotPrimary
from .log.redis_log import RedisLog
from .log.urls import url_in
from .protocol.group import GroupView
from .runtime import checks

__all__ = ["Term", "TermOver", "enqueue_in_term", "in_term", "job_key", "submit_from_job", "term_meta"]

P = ParamSpec("P")
T = TypeVar("T")

#: Where a job's `meta` has its term.
META = "replicator"

#: The URL of the group's Redis, for a worker. It does not go through the queue: it may have a password.
REDIS_VARIABLE = "REPLICATOR_REDIS"


class TermOver(Fenced):
    """term {term} is over, {primary} holds term {current_term}: what was begun in it ends here"""


class Leading(Protocol):
    """A `Node`, as far as it is needed here."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def term(self) -> int: ...
    @property
    def leads(self) -> bool: ...


@runtime_checkable
class Looking(Protocol):
    """A `RedisLog`, as far as it is needed here."""

    @property
    def group(self) -> str: ...

    def look(self) -> GroupView: ...


class Submitting(Protocol):
    """A `Node`, a `Client` or an `AsyncClient`."""

    @property
    def submit(self) -> Callable[..., Any]: ...


class Term:
    """The term of a group in which a job was enqueued. `number`: for fencing."""

    def __init__(self, log: Looking, number: int) -> None:
        self._log = log
        self.number = number

    @property
    def group(self) -> str:
        return self._log.group

    def check(self) -> None:
        """Ask Redis whether the term is still the newest.

        Raises `TermOver`, `LogUnavailable` (nobody can say), `LogLost` (the group has no such term any more).
        """
        look = self._log.look()
        if look.term > self.number:
            raise TermOver(self.number, look.term, look.head.node if look.head else None)
        if look.term < self.number:
            what = f"the job is of term {self.number}, and group {self.group} has come to {look.term} only"
            raise LogLost(what=what)


# --- Jobs in a term -------------------------------------------------------------------------------------------------


def enqueue_in_term(queue: rq.Queue, source: Leading | Looking, func: Callable[..., Any], *args: Any, **kw: Any) -> Job:
    """`queue.enqueue(func, *args, **kw)`, with the present term of `source`. `func` is marked `@in_term`.

    `source`: a node that leads, or a `RedisLog`. Raises `NotPrimary`, `LeaseLost`, `LogUnavailable`.
    """
    meta = {**(kw.pop("meta", None) or {}), **term_meta(source)}
    return queue.enqueue(func, *args, meta=meta, **kw)


def term_meta(source: Leading | Looking) -> dict[str, Any]:
    """The present term, as the `meta` of a job: `queue.enqueue(bill, 4711, meta=term_meta(node))`."""
    term = _term_in_log(source) if isinstance(source, Looking) else _term_of_node(source)
    return {META: {"group": source.group, "term": term}}


def _term_of_node(node: Leading) -> int:
    term = node.term
    if not node.leads or node.term != term:
        raise NotPrimary(node=node.name, hint="a job belongs to the term of the node that leads: enqueue it there")
    return term


def _term_in_log(log: Looking) -> int:
    look = log.look()
    if look.head is None or not look.same_run:
        raise NotPrimary(node=f"group {log.group}", hint="nobody leads it: enqueue the job once somebody does")
    return look.term


@overload
def in_term(func: Callable[Concatenate[Term, P], T], /) -> Callable[P, T]: ...
@overload
def in_term(*, redis: str) -> Callable[[Callable[Concatenate[Term, P], T]], Callable[P, T]]: ...
def in_term(func: Any = None, /, *, redis: str = "") -> Any:
    """A job that runs in the term in which it was enqueued, or not at all. It gets its `Term` as the first argument.

    `redis`: the URL of the group's Redis; without, REPLICATOR_REDIS in the environment of the worker.

    Once the term is over, the job fails with `TermOver`, before its first line or at a `check`, and RQ does not retry
    it: there is no way back to a term. While Redis does not answer it fails with `LogUnavailable`, and is retried if it
    has retries left. In a test, `bill.__wrapped__(term, 4711)` calls the function itself.
    """
    if func is None:
        return functools.partial(_in_term, redis=redis)
    return _in_term(func, redis=redis)


def _in_term(func: Callable[Concatenate[Term, P], T], *, redis: str) -> Callable[P, T]:
    if not callable(func):
        raise ConfigError(setting="in_term", problem=f"{func!r} is not a function: write @in_term or @in_term(redis=…)")

    @functools.wraps(func)
    def job_in_term(*args: P.args, **kwargs: P.kwargs) -> T:
        job = _current_job("@in_term")
        with _term_of(job, redis or url_in(os.environ)) as term, _no_retry_once_over(job):
            term.check()
            return func(term, *args, **kwargs)

    return job_in_term


@contextmanager
def _term_of(job: Job, url: str) -> Iterator[Term]:
    group, number = _carried(job)
    if not url:
        problem = f"is not set, and the job {job.id} is of group {group}: set it for the worker, or @in_term(redis=…)"
        raise ConfigError(setting=REDIS_VARIABLE, problem=problem)
    log = RedisLog(url, group)
    try:
        yield Term(log, number)
    finally:
        log.close()


def _carried(job: Job) -> tuple[str, int]:
    """The group and the term in a job's `meta`, which anybody may have written who can write to the queue."""
    carried = job.meta.get(META)
    group, term = (carried.get("group"), carried.get("term")) if isinstance(carried, dict) else (None, None)
    if not checks.is_name(group) or type(term) is not int or term < 1:
        problem = "carries no term: use enqueue_in_term(queue, node, func, …), or meta=term_meta(node)"
        raise ConfigError(setting=f"the job {job.id}", problem=problem)
    return str(group), term


@contextmanager
def _no_retry_once_over(job: Job) -> Iterator[None]:
    try:
        yield
    except TermOver:
        job.retries_left = 0
        raise


# --- Writes of jobs -------------------------------------------------------------------------------------------------


def submit_from_job(target: Submitting, change: Any, *, part: str = "", **options: Any) -> Any:
    """`target.submit(change, key=job_key(part), **options)`: however often RQ runs the job, the change lands once.

    `target`: a `replicator.client.Client`, or a node of this process; with an `AsyncClient` it is to be awaited. A job
    that submits several changes gives each a `part` of its own. Raises what `submit` raises: let the job fail with it,
    and a retry gets the first result, if there is one.
    """
    key = job_key(part)
    return target.submit(change, key=key, **options)


def job_key(part: str = "") -> str:
    """The key of what the current job writes: its id, with the run in a series (`rq.Repeat`) and `part`, if any."""
    job = _current_job("submit_from_job")
    # A series runs one job many times, and each is meant. It counts down when a run has succeeded, and not before.
    run = [] if job.repeats_left is None else [f"{job.repeats_left} to come"]
    return "/".join([job.id, *run, *([checks.line("part", part)] if part else [])])


def _current_job(what: str) -> Job:
    job = rq.get_current_job()
    if job is None:
        raise ConfigError(setting=what, problem="is for a job that an RQ worker runs, and there is none here")
    return job
