"""The jobs of a group from an operator's hands, done by a worker as it runs under supervisord, or here."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from rq.job import Job, JobStatus

from replicator.archive.backup import opened
from replicator.jobs.errors import JobFailed
from replicator.jobs.in_worker import LINES
from replicator.jobs.queue import JobQueue
from replicator.jobs.schedule import Schedule
from replicator.log.redis_log import client_for
from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.redis_server import RedisServer
from tests.support import plain_http
from tests.support.jobs import WAIT_S, JobsWorld, start_worker
from tests.support.kv import PATIENCE_S, eventually, in_step, push

#: As a drill tells it.
DIRECTORY = re.compile("in (/.*/replicator-drill-[^;]*);")


@pytest.fixture(scope="module")
def module_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobsWorld]:
    with JobsWorld(tmp_path_factory.mktemp("jobs")).running() as world:
        yield world


@pytest.fixture
def world(module_world: JobsWorld) -> JobsWorld:
    """With a worker."""
    module_world.work()
    return module_world


@pytest.fixture
def alone(module_world: JobsWorld) -> JobsWorld:
    """Without a worker: of one that took its leave nothing is left."""
    module_world.end_worker()
    return module_world


def other(world: JobsWorld) -> str:
    return "b" if world.leader()[0] == "a" else "a"


@contextlib.contextmanager
def stopped(world: JobsWorld) -> Iterator[None]:
    """Nobody begins a job."""
    worker = world.work()
    os.kill(worker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker.pid, signal.SIGCONT)


#: A drill that ends when it is told to, and not before.
LONG_DRILL = {"faults": ["kill"], "seconds_per_fault": 600.0}


def directory_of_drill(queue: JobQueue, id: str) -> str | None:
    """Where it is, once it has told that. (It may have told more since.)"""
    lines = queue._look(id, "drill")[1].get(LINES, [])
    return next((found[1] for line in lines if (found := DIRECTORY.search(line))), None)


class TestWithoutAWorker:
    """These come first, so that the worker is started once."""

    def test_the_command_says_so_and_does_it_here(self, alone: JobsWorld) -> None:
        done = alone.command("jobs", "run", "verify")
        assert done.exit_code == 0
        assert done.stdout.endswith("all equal\n")
        assert "no worker of group g reports: it is done here" in done.stderr

    @pytest.mark.parametrize("command", ["verify", "snapshot"])
    def test_so_do_the_commands_with_queue(self, alone: JobsWorld, command: str) -> None:
        done = alone.command(command, "--queue", "--json")
        assert done.exit_code == 0
        assert set(json.loads(done.stdout)) <= {"as_of", "position", "digests", "late_nodes", "silent_nodes", "equal"}
        assert "it is done here" in done.stderr

    def test_certify_has_the_result_of_certify(self, alone: JobsWorld) -> None:
        done = alone.command("jobs", "run", "certify", "--here", "--state", "tests.support.kv:KV", "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["certified"] is True

    def test_a_backup_goes_where_this_process_is_told(self, alone: JobsWorld, tmp_path: Path) -> None:
        done = alone.command("jobs", "run", "backup", "--json", env={"REPLICATOR_BACKUPS": str(tmp_path / "here")})
        assert done.exit_code == 0, done.output
        file = Path(json.loads(done.stdout)["file"])
        assert file.parent == tmp_path / "here"
        with opened(file) as backup:
            assert backup.facts.group == "g"

    def test_without_a_directory_none_is_made(self, alone: JobsWorld) -> None:
        done = alone.command("jobs", "run", "backup")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "REPLICATOR_BACKUPS: is not set where the job runs" in done.stderr

    def test_a_refusal_has_its_exit_code(self, alone: JobsWorld) -> None:
        done = alone.command("jobs", "run", "switchover", "--to", "c")
        assert (done.exit_code, done.stdout) == (3, "")
        assert "c does not report; nothing was done" in done.stderr

    def test_a_switchover_at_a_time_is_waited_for_here(self, alone: JobsWorld) -> None:
        to, (_, term) = other(alone), alone.leader()
        done = alone.command("jobs", "run", "switchover", "--to", to, "--at", "+1s")
        assert done.exit_code == 0, done.output
        assert f"{to} leads in term {term + 1}" in done.stdout
        assert "waiting here until" in done.stderr

    def test_the_list_says_that_nobody_works(self, alone: JobsWorld) -> None:
        listed = alone.command("jobs", "list", "--json")
        assert (listed.exit_code, json.loads(listed.stdout)) == (0, [])
        assert "no worker of group g reports" in listed.stderr


class TestByAWorker:
    def test_verify_compares_all_live_nodes_and_tells_its_progress(self, world: JobsWorld) -> None:
        result, told = world.run("verify")
        assert result["equal"] is True
        assert set(result["digests"]) == {"a", "b"}
        assert told[-1].startswith("2 of 2 nodes reported at ")
        assert (told[-1].done, told[-1].total) == (2, 2)  # type: ignore[attr-defined]

    def test_snapshot_gives_its_place(self, world: JobsWorld) -> None:
        result, told = world.run("snapshot")
        assert re.fullmatch("[0-9]+-[0-9]+", result["as_of"])
        assert told[-1] == f"the snapshot of {result['as_of']} is complete"

    def test_the_command_shows_what_the_command_of_that_name_shows(self, world: JobsWorld) -> None:
        done = world.command("verify", "--queue")
        assert (done.exit_code, done.stdout.endswith("all equal\n")) == (0, True)
        assert "is in queue replicator-g" in done.stderr
        certified = world.command("jobs", "run", "certify")
        assert (certified.exit_code, certified.stdout.endswith("certified\n")) == (0, True)

    def test_a_job_that_fails_says_why_and_has_the_exit_code_of_the_reason(self, world: JobsWorld) -> None:
        with pytest.raises(JobFailed, match="the job switchover failed: c does not report; nothing was done") as raised:
            world.run("switchover", to="c", term=world.leader()[1])
        assert raised.value.exit_code == 3

    def test_what_is_found_to_be_wrong_fails_the_job_and_is_shown(self, world: JobsWorld) -> None:
        leader = eventually(lambda: next((node for node in world.nodes if node.leads), None))
        leader.submit(push("y"))
        in_step(*world.nodes)
        with world.plain_queue() as queue:
            queue.connection.xdel("replicator:{g}:log", str(leader.position.id))
        leader.submit(push("z"))
        try:
            done = world.command("jobs", "run", "certify", "--json")
        finally:
            world.run("snapshot")  # the log begins with it
            world.run("snapshot")
        assert done.exit_code == 1, done.output
        assert json.loads(done.stdout)["violation"]["rule"] == "ids"
        with world.queue() as queue:
            problems = {job.kind: job.problem for job in queue.jobs() if job.job_status == "failed"}
        assert (problems["certify"] or "").startswith("ids:")
        assert world.run("certify")[0]["certified"] is True

    def test_settings_of_the_worker_are_no_part_of_what_it_is_asked_for(self, world: JobsWorld, tmp_path: Path) -> None:
        asked = world.command("jobs", "run", "backup", "--backups", tmp_path)
        assert (asked.exit_code, asked.stdout) == (2, "")
        assert "--backups: is a setting of the worker" in asked.stderr

    def test_backups_go_where_the_worker_says_and_the_newest_two_stay(self, world: JobsWorld) -> None:
        files = [Path(world.run("backup")[0]["file"]) for _ in range(3)]
        assert {file.parent for file in files} == {world.backups}
        assert [file.exists() for file in files] == [False, True, True]
        with opened(files[-1]) as backup:
            assert backup.facts.group == "g"


class TestAskedTwice:
    def test_while_it_is_not_over_it_is_the_same_job(self, world: JobsWorld) -> None:
        with stopped(world), world.queue() as queue:
            first, second = queue.ask("verify", {}), queue.ask("verify", {})
            assert (first.id, first.is_new, second.is_new) == (second.id, True, False)
            assert [job.job for job in queue.jobs() if job.job_status == "queued"] == [first.id]
            assert queue.ask("snapshot", {}).id != first.id
        assert world.run("verify")[0]["equal"]

    def test_afterwards_it_is_done_anew(self, world: JobsWorld) -> None:
        before, after = world.run("snapshot")[0], world.run("snapshot")[0]
        assert before["as_of"] <= after["as_of"]
        with world.queue() as queue:
            assert queue.ask("snapshot", {}).is_new

    def test_a_backup_that_rq_runs_twice_is_one_file(self, world: JobsWorld) -> None:
        with world.queue() as queue:
            id = queue.ask("backup", {}).id
            first = queue.follow(id, "backup", wait_s=WAIT_S, progress=print)
        self._run_again(world, id)
        with world.queue() as queue:
            second = queue.follow(id, "backup", wait_s=WAIT_S, progress=(told := []).append)
        assert second["file"] == first["file"]
        assert any("was written for this request before" in text for text in told)

    def test_a_switchover_that_rq_runs_twice_is_done_once(self, world: JobsWorld) -> None:
        to, (_, term) = other(world), world.leader()
        with world.queue() as queue:
            id = queue.ask("switchover", {"to": to, "term": term}).id
            assert queue.follow(id, "switchover", wait_s=WAIT_S, progress=print)["term"] == term + 1
            self._run_again(world, id)
            with pytest.raises(JobFailed, match=f"asked for in term {term}, and {to} leads now, in term {term + 1}"):
                queue.follow(id, "switchover", wait_s=WAIT_S, progress=print)
        assert world.leader() == (to, term + 1)

    def _run_again(self, world: JobsWorld, id: str) -> None:
        """As when its worker was killed before it said that it was done, and somebody has it run again."""
        with world.plain_queue() as queue:
            job = Job.fetch(id, connection=queue.connection, serializer=queue.serializer)
            queue.enqueue_job(job)


class TestAtATime:
    def test_it_is_done_when_its_time_comes(self, world: JobsWorld) -> None:
        to, (_, term) = other(world), world.leader()
        with stopped(world):  # its time may come before the command has shown it
            asked = world.command("jobs", "run", "switchover", "--to", to, "--at", "+1s", "--json")
        assert asked.exit_code == 0, asked.output
        job = json.loads(asked.stdout)
        assert (job["job_status"], job["arguments"]["to"], job["arguments"]["term"]) == ("scheduled", to, term)
        eventually(lambda: world.leader() == (to, term + 1), "the switchover")

    def test_it_is_not_done_if_the_term_moved(self, world: JobsWorld) -> None:
        to, (leads, term) = other(world), world.leader()
        for node in (to, leads):
            assert world.command("promote", node).exit_code == 0
        with pytest.raises(JobFailed) as raised:
            world.run("switchover", to=to, term=term, at=int(time.time()) * 1000)
        assert raised.value.exit_code == 3
        assert str(raised.value).endswith(
            f"it was asked for in term {term}, and {leads} leads now, in term {term + 2}; nothing was done"
        )
        assert world.leader() == (leads, term + 2)

    def test_it_is_not_done_while_the_group_is_paused(self, world: JobsWorld) -> None:
        before = world.leader()
        world.command("pause", "--reason", "work on the disks")
        try:
            with pytest.raises(JobFailed, match=r"the group is paused \(by .*work on the disks\); nothing was done"):
                world.run("switchover", to=other(world), term=before[1])
        finally:
            world.command("resume")
        assert world.leader() == before

    def test_it_is_not_done_late(self, world: JobsWorld) -> None:
        before = world.leader()
        long_ago = int(time.time() - 3600) * 1000
        with world.queue() as queue:
            arguments = {"to": other(world), "term": before[1], "at": long_ago}
            id = queue.ask("switchover", arguments, due_ms=long_ago).id
        assert re.match("it is 3[6-9][0-9][0-9] s late, as when no worker ran", self._problem(world, id))
        assert world.leader() == before

    def test_it_can_be_cancelled_and_that_once_more_is_harmless(self, world: JobsWorld) -> None:
        id = self._asked(world, other(world), "+2h")
        assert id in world.command("jobs", "list").stdout
        for _ in range(2):
            cancelled = world.command("jobs", "cancel", id)
            assert (cancelled.exit_code, cancelled.stdout) == (0, f"{id} is canceled\n")
        assert id not in world.command("jobs", "list").stdout

    @pytest.mark.parametrize("at", ["soon", "2020-01-01", "25:00", "+1y"])
    def test_what_is_no_time_to_come_is_refused(self, world: JobsWorld, at: str) -> None:
        asked = world.command("jobs", "run", "switchover", "--to", other(world), "--at", at)
        assert (asked.exit_code, asked.stdout) == (2, "")

    def _asked(self, world: JobsWorld, to: str, at: str) -> str:
        asked = world.command("jobs", "run", "switchover", "--to", to, "--at", at, "--json")
        assert asked.exit_code == 0, asked.output
        return str(json.loads(asked.stdout)["job"])

    def _problem(self, world: JobsWorld, id: str) -> str:
        with world.queue() as queue:
            return eventually(lambda: queue.job(id).problem, "the end of the job") or ""


class TestListAndCancel:
    def test_what_is_over_is_not_cancelled(self, world: JobsWorld) -> None:
        with world.queue() as queue:
            id = queue.ask("verify", {}).id
            queue.follow(id, "verify", wait_s=WAIT_S, progress=print)
        refused = world.command("jobs", "cancel", id)
        assert (refused.exit_code, refused.stdout) == (3, "")
        assert f"job {id} is over: it is finished" in refused.stderr

    @pytest.mark.parametrize("id", ["nobody", "no id: at all", ""])
    def test_a_job_that_is_not_there_is_named(self, world: JobsWorld, id: str) -> None:
        refused = world.command("jobs", "cancel", "--", id)
        assert (refused.exit_code, refused.stdout) == (3, "")
        assert "there is no job" in refused.stderr

    def test_a_job_of_another_queue_is_none_of_this_group(self, world: JobsWorld) -> None:
        import rq

        with world.plain_queue() as queue:
            theirs = rq.Queue("theirs", connection=queue.connection).enqueue("os.system")
            assert world.command("jobs", "cancel", theirs.id).exit_code == 3
            assert theirs.get_status() is JobStatus.QUEUED

    def test_ctrl_c_leaves_the_job_and_says_how_to_end_it(self, world: JobsWorld) -> None:
        code = "import sys; from replicator.cli import main; main(sys.argv[1:])"
        command = [sys.executable, "-c", code, "--redis", world.url, "--group", "g", "jobs", "run", "verify"]
        with stopped(world):
            process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert process.stderr is not None
            line = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=WAIT_S)
            assert process.returncode == 4
            id = line.split()[1]
            assert f"job {id} goes on" in said
            assert world.command("jobs", "cancel", id).exit_code == 0


class TestSchedule:
    """What RQ's cron asks for."""

    @contextlib.contextmanager
    def schedule(self, url: str, **times: str) -> Iterator[Schedule]:
        with JobQueue(url, "g") as queue, client_for(url) as client:
            yield Schedule(queue, client, times)

    def test_two_of_them_ask_once_for_each_time_and_the_worker_does_it(self, world: JobsWorld) -> None:
        with self.schedule(world.url, verify="* * * * *") as one, self.schedule(world.url, verify="* * * * *") as two:
            due = datetime.now(tz=UTC).replace(second=0, microsecond=0)
            for each in (one, two):
                each._cron_jobs[0].next_enqueue_time = due
                assert [job.name for job in each.enqueue_jobs()] == ["verify"]
            assert one.next_times["verify"] > due
        slot = f"g-verify-{due:%Y%m%dT%H%M}Z"
        with world.queue() as queue:
            (job,) = [job for job in queue.jobs() if job.job.startswith(slot)]
            assert queue.follow(job.job, "verify", wait_s=WAIT_S, progress=print)["equal"]
            # nor is it asked for again once it is over
            assert not queue.ask("verify", {}, slot=f"{due:%Y%m%dT%H%M}Z").is_new

    def test_what_is_off_is_not_asked_for(self, module_world: JobsWorld) -> None:
        with self.schedule(module_world.url, verify="0 0 1 1 *", drill="off") as schedule:
            assert set(schedule.next_times) == {"verify"}

    def test_what_is_due_while_redis_is_away_is_asked_for_when_it_is_back(self, tmp_path: Path) -> None:
        server = RedisServer(tmp_path / "redis").start()
        try:
            with self.schedule(server.url, verify="* * * * *") as schedule:
                schedule._cron_jobs[0].next_enqueue_time = datetime.now(tz=UTC)
                server.kill()
                assert schedule.enqueue_jobs() == []
                schedule.heartbeat()
                server.start()
                assert [job.name for job in eventually(schedule.enqueue_jobs)] == ["verify"]
        finally:
            server.kill()

    def test_as_a_process_it_ends_in_order(self, module_world: JobsWorld, tmp_path: Path) -> None:
        log = tmp_path / "cron.log"
        times = {"REPLICATOR_JOBS_CRON_VERIFY": "0 0 1 1 *", "REPLICATOR_JOBS_CRON_DRILL": "off"}
        process = start_worker(module_world.url, log, "-m", "replicator.workers.cron", **times)
        eventually(lambda: "registering birth" in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0, log.read_text()
        assert "verify: 0 0 1 1 *, next at" in log.read_text()
        assert "drill" not in log.read_text()

    def test_a_time_that_is_none_ends_it(self, module_world: JobsWorld) -> None:
        done = module_world.command("jobs", "cron", "--verify", "at night")
        assert (done.exit_code, done.stdout) == (2, "")
        assert "--verify: 'at night' is neither five fields of cron" in done.stderr


@contextlib.contextmanager
def dashboard(world: JobsWorld, *options: str, **environment: str) -> Iterator[httpx.Client]:
    (port,) = free_ports(1)
    command = [str(Path(sys.executable).with_name("rq-dashboard")), "-b", "127.0.0.1", "-p", str(port), *options]
    with (world.directory / "dashboard.log").open("w") as log:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)
    try:
        with plain_http.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT_S) as client:
            eventually(lambda: _answers(client))
            yield client
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def page(module_world: JobsWorld) -> Iterator[httpx.Client]:
    with dashboard(module_world, "--redis-url", module_world.url) as client:
        yield client


class TestDashboard:
    """rq-dashboard, as it comes."""

    def test_it_lists_the_queue_and_shows_a_job_with_its_result(self, world: JobsWorld, page: httpx.Client) -> None:
        with world.queue() as queue:
            id = queue.ask("verify", {}).id
            queue.follow(id, "verify", wait_s=WAIT_S, progress=print)
        queues = page.get("/0/data/queues.json").json()["queues"]
        assert "replicator-g" in [each["name"] for each in queues]
        jobs = page.get("/0/data/jobs/replicator-g/finished/100/asc/1.json").json()["jobs"]
        assert "verify" in [job["description"] for job in jobs if job["id"] == id]
        job = page.get(f"/0/data/job/{id}.json").json()
        assert (job["status"], job["result"]["equal"]) == ("finished", True)
        assert "2 of 2 nodes reported" in job["metadata"]
        for path in ("/", "/0/view/jobs", "/0/view/workers", f"/0/view/job/{id}"):
            assert page.get(path).status_code == 200

    def test_it_has_a_failed_job_run_again(self, world: JobsWorld, page: httpx.Client) -> None:
        with world.queue() as queue:
            id = queue.ask("switchover", {"to": "c", "term": 1}).id
            eventually(lambda: queue.job(id).job_status == "failed")
            assert "Traceback" in page.get(f"/0/data/job/{id}.json").json()["exc_info"]
            before = queue.job(id)
            assert page.post(f"/job/{id}/requeue").json() == {"status": "OK"}
            again = eventually(lambda: [job for job in [queue.job(id)] if job.ended_at not in (None, before.ended_at)])
            assert (again[0].job_status, again[0].problem) == ("failed", before.problem)
            # what RQ wrote of it anew is read as before
            assert rq_command(world, "requeue", "--queue", "replicator-g", id)
            last = eventually(lambda: [job for job in [queue.job(id)] if job.ended_at not in (None, again[0].ended_at)])
            assert (last[0].job_status, last[0].problem) == ("failed", before.problem)

    def test_it_removes_a_job_that_is_to_come(self, world: JobsWorld, page: httpx.Client) -> None:
        with world.queue() as queue:
            arguments = {"to": other(world), "term": world.leader()[1]}
            id = queue.ask("switchover", arguments, due_ms=int(time.time() + 7200) * 1000).id
            shown = page.get("/0/data/jobs/replicator-g/scheduled/8/asc/1.json").json()["jobs"]
            assert [job["description"] for job in shown if job["id"] == id]
            assert page.post(f"/job/{id}/delete").json() == {"status": "OK"}
            assert id not in [job.job for job in queue.jobs()]

    def test_it_shows_the_workers_also_while_one_has_a_job(self, world: JobsWorld, page: httpx.Client) -> None:
        with world.queue() as queue:
            id = queue.ask("drill", LONG_DRILL).id
            eventually(lambda: queue.job(id).progress)
            workers = page.get("/0/data/workers.json").json()["workers"]
            assert [each["current_job"]["description"] for each in workers if each["state"] == "busy"] == [
                "drill faults=['kill'] seconds_per_fault=600.0"
            ]
            told = rq_command(world, "info", "--raw")
            assert "queue replicator-g" in told
            assert " busy replicator-g" in told
            queue.cancel(id)

    def test_with_the_settings_it_shows_the_same_and_unpickles_nothing(self, world: JobsWorld) -> None:
        password, trace = world.directory / "password", world.directory / "unpickled"
        password.write_text("any, for a user without one")
        password.chmod(0o600)
        where = {"REPLICATOR_REDIS": f"{world.url}?username=default", "REPLICATOR_REDIS_PASSWORD_FILE": str(password)}
        with dashboard(world, "-c", "replicator.workers.dashboard", **where) as page, world.queue() as queue:
            id = queue.ask("verify", {}).id
            queue.follow(id, "verify", wait_s=WAIT_S, progress=print)
            assert page.get(f"/0/data/job/{id}.json").json()["result"]["equal"]
            assert page.get("/0/data/workers.json").json()["workers"]
            with world.plain_queue() as plain:
                plain.connection.hset(f"rq:job:{id}", "meta", pickle.dumps(Spring(trace)))
            assert page.get(f"/0/data/job/{id}.json").status_code == 500
            assert not trace.exists()


class Spring:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def rq_command(world: JobsWorld, command: str, *options: str) -> str:
    """What RQ's own tool says, which is told of no serializer."""
    program = str(Path(sys.executable).with_name("rq"))
    return subprocess.check_output([program, command, "--url", world.url, *options], text=True)


def _answers(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/").status_code == 200
    return False


class TestDrill:
    """As a job it starts processes, which end with it."""

    def test_the_end_of_the_worker_ends_it_in_order(self, world: JobsWorld) -> None:
        with world.queue() as queue:
            id = queue.ask("drill", LONG_DRILL).id
            directory = eventually(lambda: directory_of_drill(queue, id))
            world.end_worker()
            job = queue.job(id)
        assert (job.job_status, job.problem) == (
            "failed",
            "it was asked to end before it was done; nothing of it runs any more",
        )
        assert not Path(directory).exists()
        eventually(lambda: not _processes_of(directory))

    def test_one_that_is_cancelled_ends_in_order(self, world: JobsWorld) -> None:
        with world.queue() as queue:
            id = queue.ask("drill", LONG_DRILL).id
            directory = eventually(lambda: directory_of_drill(queue, id))
        cancelled = world.command("jobs", "cancel", id)
        assert cancelled.exit_code == 0, cancelled.output
        assert "it was asked to end before it was done" in cancelled.stdout
        assert not Path(directory).exists()
        eventually(lambda: not _processes_of(directory))
        assert world.run("verify")[0]["equal"]


def _processes_of(directory: str) -> list[str]:
    listed = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if directory in line]
