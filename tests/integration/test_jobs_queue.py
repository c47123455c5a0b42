"""What anybody may write into the queue of a group: nothing but the package's own jobs is run, with their arguments."""

from __future__ import annotations

import base64
import json
import pickle
import socket
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rq
from rq.job import JobStatus
from rq.serializers import JSONSerializer

from replicator.cli.job_results import show_result
from replicator.jobs import plain_pickle
from replicator.jobs.errors import JobFailed, JobRefused
from tests.support.jobs import JobsWorld, ended


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsWorld]:
    with JobsWorld(tmp_path_factory.mktemp("jobs")).running() as world:
        Trap(world.directory)
        world.work()
        yield world


@pytest.fixture
def trap(world: JobsWorld) -> Trap:
    return Trap(world.directory)


@pytest.fixture
def queue(world: JobsWorld) -> Iterator[rq.Queue]:
    with world.plain_queue() as queue:
        yield queue


def goes_on(world: JobsWorld) -> bool:
    """Whether the worker does another job. (Whatever comes after a job is over before the next one begins.)"""
    return bool(world.run("verify")[0]["equal"]) and world.work().poll() is None


class Trap:
    """A module that leaves a file behind when it is imported, and another one when something of it is called."""

    def __init__(self, directory: Path) -> None:
        self.traces = [directory / "imported", directory / "called"]
        lines = [
            f"open({str(self.traces[0])!r}, 'w').close()",
            "def spring(*args, **kwargs):",
            f"    open({str(self.traces[1])!r}, 'w').close()",
        ]
        (directory / "trap.py").write_text("\n".join(lines))

    @property
    def sprung(self) -> list[str]:
        return [trace.name for trace in self.traces if trace.exists()]


class _Unpickled:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


JOB = "replicator.workers.jobs."

#: As an earlier version asked for it.
SNAPSHOT = b'["replicator.workers.jobs.snapshot", null, [], {}]'


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"f": "trap.spring"}, "there is no job 'trap.spring'"),
        ({"f": "os.system", "args": ["touch {dir}/called"]}, "there is no job 'os.system'"),
        ({"f": JOB + "main"}, "there is no job 'replicator.workers.jobs.main'"),
        ({"f": JOB + "perform"}, "there is no job"),
        ({"args": ["x"]}, "takes arguments by their names alone"),
        ({"kwargs": {"x": 1}}, "snapshot: it has no argument 'x'"),
        ({"kwargs": {"settings": {}}}, "it has no argument 'settings'"),
        # What is a setting of the worker cannot be asked for.
        ({"f": JOB + "backup", "kwargs": {"backups": "/tmp"}}, "it has no argument 'backups'"),
        ({"f": JOB + "backup", "kwargs": {"keep": 1}}, "it has no argument 'keep'"),
        ({"f": JOB + "certify", "kwargs": {"state": "trap:spring"}}, "it has no argument 'state'"),
        ({"f": JOB + "drill", "kwargs": {"directory": "/tmp"}}, "it has no argument 'directory'"),
        # Arguments are of their types, and within their bounds.
        ({"f": JOB + "switchover"}, "switchover: it needs term, to"),
        ({"f": JOB + "switchover", "kwargs": {"to": "b"}}, "switchover: it needs term"),
        ({"f": JOB + "switchover", "kwargs": {"to": "../b", "term": 1}}, "to: '../b' is not a name"),
        ({"f": JOB + "switchover", "kwargs": {"to": ["b"], "term": 1}}, "to: ['b'] is not a name"),
        ({"f": JOB + "switchover", "kwargs": {"to": "b", "term": "1"}}, "term: '1' is not a whole number"),
        ({"f": JOB + "switchover", "kwargs": {"to": "b", "term": True}}, "term: True is not a whole number"),
        ({"f": JOB + "switchover", "kwargs": {"to": "b", "term": 1, "at": float("nan")}}, "at: nan is not a whole"),
        ({"f": JOB + "switchover", "kwargs": {"to": "b", "term": 1, "at": 10**30}}, "at: 1"),
        (
            {"f": JOB + "switchover", "kwargs": {"to": "b", "term": 1, "reason": "x\n"}},
            "which does not belong into a line",
        ),
        ({"f": JOB + "switchover", "kwargs": {"to": "b", "term": 1, "reason": "x" * 201}}, "more than 200"),
        ({"f": JOB + "drill", "kwargs": {"faults": ["rm"]}}, "faults: 'rm' is none of"),
        ({"f": JOB + "drill", "kwargs": {"faults": []}}, "is not a list of 1 to"),
        ({"f": JOB + "drill", "kwargs": {"lease_s": "1"}}, "lease_s: '1' is not a number of seconds"),
        ({"f": JOB + "drill", "kwargs": {"seconds_per_fault": float("inf")}}, "is not a number of seconds"),
        ({"on_failure": "trap.spring"}, "it has failure_callback_name"),
        ({"on_success": "trap.spring"}, "it has success_callback_name"),
        ({"on_stopped": "trap.spring"}, "it has stopped_callback_name"),
        ({"f": "trap.spring", "on_failure": "trap.spring", "retry": rq.Retry(max=3)}, "there is no job"),
    ],
)
def test_what_is_no_job_of_the_package_fails_and_nothing_of_it_is_run(
    queue: rq.Queue, world: JobsWorld, trap: Trap, options: dict[str, Any], problem: str
) -> None:
    options = {"f": JOB + "snapshot"} | options
    args = [each.format(dir=world.directory) for each in options.pop("args", [])]
    callbacks = {
        name: rq.Callback(value) if name.startswith("on_") else value
        for name, value in options.items()
        if name not in ("f", "kwargs")
    }
    job = queue.enqueue_call(options["f"], args=args, kwargs=options.get("kwargs"), **callbacks)
    status, told = ended(job)
    assert status is JobStatus.FAILED
    assert problem in told
    assert "nothing of it was run" in told
    assert f"This worker runs {JOB}verify, {JOB}certify" in told
    with world.queue() as own:
        assert problem in (own.job(job.id).problem or ""), "and so it is listed"
    assert goes_on(world)
    assert trap.sprung == []


def test_what_is_scheduled_is_refused_as_well_and_ends_no_worker(queue: rq.Queue, world: JobsWorld, trap: Trap) -> None:
    from datetime import timedelta

    at_once = timedelta(seconds=0)
    bad = queue.enqueue_in(at_once, "trap.spring")
    queue.connection.hset(bad.key, mapping={"created_at": b"yesterday", "retries_left": b"many", "meta": b"\xff"})
    queue.connection.zadd(queue.scheduled_job_registry.key, {"no id: at all": 0, b"\xff": 0, "nobody": 0})
    good = queue.enqueue_in(at_once, JOB + "verify")
    assert ended(good)[0] is JobStatus.FINISHED
    left = queue.connection.zrange(queue.scheduled_job_registry.key, 0, -1)
    assert not {bad.id.encode(), good.id.encode(), b"no id: at all", b"\xff", b"nobody"} & set(left)
    assert goes_on(world)
    assert trap.sprung == []


def test_a_webhook_is_not_called(queue: rq.Queue, world: JobsWorld) -> None:
    from rq.webhook import Webhook

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        hooks = [Webhook(url, "failed", timeout=5), Webhook(url, "finished", timeout=5)]
        status, told = ended(queue.enqueue(JOB + "snapshot", webhooks=hooks))
        assert (status, "it has webhooks" in told) == (JobStatus.FAILED, True)
        assert goes_on(world)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("field", ["data", "meta", "result"])
@pytest.mark.parametrize("where", ["alone", "in a call"])
def test_nothing_is_unpickled(queue: rq.Queue, world: JobsWorld, trap: Trap, field: str, where: str) -> None:
    spring = _Unpickled(trap.traces[1])
    call = (JOB + "drill", None, (), {"faults": [spring]})
    push(queue, {"data": SNAPSHOT, field: pickle.dumps(spring if where == "alone" else call)})
    assert goes_on(world)
    assert world.command("jobs", "list", "--all").exit_code == 0
    assert trap.sprung == []


def test_what_an_earlier_version_asks_for_in_json_is_done_and_answered_in_json(world: JobsWorld) -> None:
    with world.plain_queue(JSONSerializer) as queue:
        good, bad = queue.enqueue(JOB + "verify"), queue.enqueue(JOB + "snapshot", kwargs={"x": 1})
        assert ended(good)[0] is JobStatus.FINISHED
        assert good.return_value(refresh=True)["equal"]
        assert good.get_meta()["progress"]
        assert "it has no argument 'x'" in ended(bad)[1]
        with world.queue() as own:
            assert own.follow(good.id, "verify", wait_s=1.0, progress=print)["equal"]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"data": b"\xff"},
        {"data": b"[]"},
        {"data": b"7"},
        {"data": b'[["replicator.workers.jobs.snapshot"], null, [], {}]'},
        {"data": b'["replicator.workers.jobs.snapshot", null, [], [["to", "b"]]]'},
        {"data": b'["replicator.workers.jobs.snapshot", null, [], ' + b"[" * 3000 + b"]" * 900 + b"]"},
        {"data": zlib.compress(b" " * 50_000_000)},
        {"data": b"\x80\x04" + b")" + b"\x85" * 3000 + b"."},
        {"data": b"\x80\x04]\x94h\x00a."},
        {"data": SNAPSHOT, "created_at": b"yesterday"},
        {"data": SNAPSHOT, "timeout": b"soon", "origin": b"\xff"},
    ],
)
def test_what_cannot_be_read_ends_no_worker(queue: rq.Queue, world: JobsWorld, fields: dict[str, Any]) -> None:
    push(queue, fields)
    # whoever lists the jobs meets it as well
    assert world.command("jobs", "list", "--all", "--json").exit_code == 0
    assert goes_on(world)


def test_an_id_that_is_none_ends_no_worker(queue: rq.Queue, world: JobsWorld) -> None:
    queue.connection.rpush(queue.key, "no id: at all")
    assert goes_on(world)


def test_a_list_of_jobs_has_nothing_in_it_that_a_terminal_obeys(queue: rq.Queue, world: JobsWorld) -> None:
    told = b'{"progress": "\\u001b[2J", "lines": 7, "line_count": "x", "step": [1, 2]}'
    push(queue, {"data": b'["\\u001b[2J", null, [], {}]', "meta": told, "status": b"no status", "origin": b"\x1b"})
    listed = world.command("jobs", "list", "--all")
    assert (listed.exit_code, "\x1b" in listed.output) == (0, False)
    assert goes_on(world)


@pytest.mark.parametrize("score", ["inf", "-inf", "1e300", "-1e18", "1e13"])
def test_a_time_that_is_none_ends_no_list(queue: rq.Queue, world: JobsWorld, score: str) -> None:
    fields = {"origin": queue.name, "status": "scheduled", "data": SNAPSHOT, "created_at": "9999-12-31T23:59:59.9Z"}
    queue.connection.hset("rq:job:some-day", mapping=fields)
    key = f"rq:scheduled:{queue.name}"
    queue.connection.zadd(key, {"some-day": score})
    try:
        for options in ((), ("--json",)):
            listed = world.command("jobs", "list", "--all", *options)
            assert (listed.exit_code, "some-day" in listed.stdout) == (0, True), listed.exception
    finally:
        queue.connection.zrem(key, "some-day")
        queue.connection.delete("rq:job:some-day")


def test_a_job_that_is_another_type_of_key_ends_no_list_and_no_worker(queue: rq.Queue, world: JobsWorld) -> None:
    queue.connection.rpush("rq:job:a-list", "x")
    queue.connection.zadd(f"rq:failed:{queue.name}", {"a-list": 1e10})
    try:
        assert world.command("jobs", "list", "--all").exit_code == 0
        assert world.command("jobs", "cancel", "a-list").exit_code == 3
        queue.connection.rpush(queue.key, "a-list")
        assert goes_on(world)
    finally:
        queue.connection.delete("rq:job:a-list")
        queue.connection.zrem(f"rq:failed:{queue.name}", "a-list")


def test_what_a_job_raised_and_told_is_listed_if_it_is_small(queue: rq.Queue, world: JobsWorld) -> None:
    unpacked = base64.b64encode(zlib.compress(b"A" * 50_000_000))
    fields = {"origin": queue.name, "status": "failed", "data": SNAPSHOT}
    queue.connection.hset("rq:job:bomb", mapping={**fields, "meta": b'{"progress": "\\ud800"}'})
    queue.connection.xadd("rq:results:bomb", {"type": "2", "exc_string": unpacked})
    queue.connection.hset("rq:job:long", mapping={**fields, "meta": b'{"progress": "%s"}' % (b"A" * 5000)})
    queue.connection.zadd(f"rq:failed:{queue.name}", {"bomb": 1e10, "long": 1e10})
    try:
        listed = {option: world.command("jobs", "list", "--all", *option) for option in ((), ("--json",))}
        assert {each.exit_code for each in listed.values()} == {0}
        assert max(map(len, listed[()].stdout.splitlines())) < 1000
        told = {job["job"]: (job["progress"], job["problem"]) for job in json.loads(listed[("--json",)].stdout)}
        assert (told["bomb"], told["long"]) == ((None, None), ("A" * 5000, None))
    finally:
        queue.connection.delete("rq:job:bomb", "rq:results:bomb", "rq:job:long")
        queue.connection.zrem(f"rq:failed:{queue.name}", "bomb", "long")


RESULTS = [b"7", b"no base64!", base64.b64encode(b"\xff"), base64.b64encode(b"7"), base64.b64encode(b'{"equal": 1}')]


@pytest.mark.parametrize("given", RESULTS)
def test_a_result_that_is_none_fails_in_words(queue: rq.Queue, world: JobsWorld, given: bytes) -> None:
    with world.queue() as own:
        id = own.ask("certify", {}, due_ms=int(time.time() * 1000) + 3_600_000).id
        queue.connection.hset(f"rq:job:{id}", "status", "finished")
        queue.connection.xadd(f"rq:results:{id}", {"type": "1", "return_value": given})
        with pytest.raises(JobFailed, match="what it gave"):
            show_result("certify", own.follow(id, "certify", wait_s=5.0, progress=print), "text")


def test_a_worker_of_an_earlier_version_that_cannot_read_the_job_is_to_be_updated(
    queue: rq.Queue, world: JobsWorld
) -> None:
    with pytest.raises(UnicodeDecodeError) as unread:
        JSONSerializer.loads(plain_pickle.written([f"{JOB}certify", None, [], {}]))
    said = f"replicator.jobs.errors.JobRefused: {JobRefused(problem=f'it cannot be read ({unread.value!r})', jobs='')}"
    with world.queue() as own:
        id = own.ask("certify", {}, due_ms=int(time.time() * 1000) + 3_600_000).id
        queue.connection.hset(f"rq:job:{id}", "status", "failed")
        told = base64.b64encode(zlib.compress(said.encode()))
        queue.connection.xadd(f"rq:results:{id}", {"type": "2", "exc_string": told})
        with pytest.raises(JobFailed, match="earlier version, which cannot read it: update the worker"):
            own.follow(id, "certify", wait_s=5.0, progress=print)


def test_a_number_that_no_json_of_ours_has_is_no_result() -> None:
    with pytest.raises(JobFailed, match="what it gave"):
        show_result("snapshot", {"as_of": "1-1", "more": 2**70}, "json")


def test_a_result_has_nothing_in_it_that_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    show_result("snapshot", {"as_of": "1-1\x1b[2J"}, "text")
    assert capsys.readouterr().out == "the log has a snapshot of the state as of 1-1\\x1b[2J\n"


def push(queue: rq.Queue, fields: dict[str, Any]) -> None:
    """Put a job into the queue by hand."""
    if fields:
        queue.connection.delete("rq:job:by-hand")
        queue.connection.hset("rq:job:by-hand", mapping={"origin": queue.name, "status": "queued", **fields})
    queue.connection.rpush(queue.key, "by-hand")
