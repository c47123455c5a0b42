"""The Redis users that `replicator acl` prints: what each of them can do, and what it cannot, on every server."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from rq.command import send_command
from rq.utils import now

from replicator import Node, ops
from replicator.cli import cli
from replicator.errors import LogUnavailable, PromotionRefused
from replicator.format.ids import RecordId, Writer
from replicator.jobs.queue import JobQueue
from replicator.jobs.schedule import Schedule
from replicator.log import rights
from replicator.log.acl import ROLES
from replicator.log.interface import Ack
from replicator.log.redis_log import RedisLog, client_for
from replicator.protocol.heartbeat import Heartbeat
from replicator.sandbox.redis_server import RedisServer
from tests.support.acl import Users
from tests.support.jobs import start_worker
from tests.support.kv import KV, PATIENCE_S, eventually, in_step, pushed, submitted
from tests.support.kv import push as change
from tests.support.worlds import LEASE_MS, lead, promote

P = "replicator:{g}:"

#: What nobody of ours may do to a Redis that others use as well.
OF_THE_SERVER: tuple[tuple[str, ...], ...] = (
    ("FLUSHALL",),
    ("KEYS", "*"),
    ("SCAN", "0"),
    ("CONFIG", "GET", "*"),
    ("CONFIG", "SET", "maxmemory", "1"),
    ("ACL", "LIST"),
    ("SHUTDOWN",),
    ("REPLICAOF", "NO", "ONE"),
    ("CLIENT", "KILL", "ID", "1"),
    ("SCRIPT", "FLUSH"),
    ("PUBLISH", "of somebody else", ""),
    ("GET", "replicator:{other}:term"),
    ("GET", "of somebody else"),
)

#: What changes a log, or who may write it.
OF_THE_LOG: tuple[tuple[str, ...], ...] = (
    ("XADD", f"{P}log", "9999-1", "h", "", "b", ""),
    ("SET", f"{P}term", "9999"),
    ("INCR", f"{P}term"),
    ("SET", f"{P}lease", "9999 c c1 60000 0", "PX", "60000"),
    ("DEL", f"{P}lease"),
    ("HSET", f"{P}head", "run", ""),
    ("XADD", f"{P}history", "*", "what", "forged"),
    ("XTRIM", f"{P}log", "MAXLEN", "0"),
    ("DEL", f"{P}log"),
    ("EVAL", "return redis.call('SET', KEYS[1], 1)", "1", f"{P}term"),
)

#: What a node says of itself.
REPORTS: tuple[tuple[str, ...], ...] = (
    ("HSET", f"{P}nodes", "x", "0 {}"),
    ("XADD", f"{P}acks", "*", "node", "x", "at", "1-1"),
    ("XADD", f"{P}requests", "*", "request", "shutdown", "node", "a"),
)

#: Where 6.2 cannot tell keys that may be read from keys that may be written, these are not refused.
NOT_SEPARABLE = ("XADD", "HSET")


@pytest.fixture
def users(redis_server: RedisServer, tmp_path: Path) -> Iterator[Users]:
    users = Users(redis_server, tmp_path)
    yield users
    users.close()


def refused(users: Users, role: str, *commands: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Those of these commands that Redis refuses this user."""
    found = []
    with users.client(role) as client:
        for command in commands:
            try:
                client.execute_command(*command)
            except redis.exceptions.NoPermissionError:
                found.append(command)
            except redis.exceptions.ResponseError as error:
                if not re.search("ACL|permission|can't run this command", str(error)):  # within a script
                    raise
                found.append(command)
    return found


# --- a failover ------------------------------------------------------------------------------------------------------


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_failover_of_users_that_can_do_no_more_than_their_roles(
    users: Users, tmp_path: Path, stack: ExitStack
) -> None:
    users.add("node", "standby", "operator", "monitor")

    def start(name: str, role: str, **options: Any) -> Node:
        node: Node = Node(
            KV(), group="g", name=name, redis=users.url(role), data_dir=tmp_path / name, lease_s=4.0, **options
        )
        return stack.enter_context(node)

    a = start("a", "node", auto_promote=True)
    b = start("b", "node", auto_promote=True)
    c = start("c", "standby", auto_promote=True)
    eventually(lambda: a.role == "primary" or b.role == "primary")
    first, other = (a, b) if a.role == "primary" else (b, a)
    submitted(first, change("x"))
    in_step(a, b, c)
    with closing(RedisLog(users.url("monitor"), "g")) as log:
        may_lead = eventually(lambda: log.look() if len(log.look().heartbeats) == 3 else None).heartbeats
    assert "may not" in may_lead["c"].follows_only
    assert not may_lead["c"].candidate
    assert may_lead["a"].follows_only == may_lead["b"].follows_only == ""

    first.stop()
    eventually(lambda: other.role == "primary")
    submitted(other, change("y"))
    in_step(other, c)
    assert pushed(c) == ["x", "y"]

    # What a monitor sees, and an operator does.
    assert users.run("monitor", "status", "--json").exit_code in (0, 1)
    assert "could take over" in users.run("monitor", "doctor").output
    assert "takeover" in users.run("monitor", "history").output
    assert "may_not_lead" in users.run("monitor", "why", "c").output
    assert users.run("monitor", "log").exit_code == 0
    for command in (("promote", "c", "--force", "--yes"), ("pause",), ("demote",), ("snapshot",)):
        result = users.run("monitor", *command)
        assert result.exit_code in (3, 6), result.output
        if result.exit_code == 6:
            assert "The Redis user g-monitor needs rights" in result.output
            assert "`replicator --group g acl ROLE` prints all that it takes" in result.output
    for force in ((), ("--force", "--yes")):
        result = users.run("operator", "promote", "c", *force)
        assert result.exit_code == 3, result.output
        assert "it may not lead: the Redis user g-standby may not" in result.output
        assert "`replicator --group g acl node` prints" in result.output
    assert users.run("operator", "pause").exit_code == 0
    assert users.run("operator", "resume").exit_code == 0
    assert users.run("operator", "snapshot").exit_code == 0
    assert users.run("operator", "demote").exit_code == 0
    assert users.run("operator", "promote", other.name).exit_code == 0
    in_step(other, c)


# --- what each cannot do ---------------------------------------------------------------------------------------------


def separable(users: Users, commands: tuple[tuple[str, ...], ...]) -> list[tuple[str, ...]]:
    is_old = users.server.binary.version < (7, 0, 0)
    return [command for command in commands if not (is_old and command[0] in NOT_SEPARABLE)]


def test_a_standby_reports_and_cannot_write_the_log(users: Users) -> None:
    users.add("node", "standby")
    with closing(RedisLog(users.url("node"), "g")) as log:
        lead(log).append()
    assert refused(users, "standby", *OF_THE_SERVER) == list(OF_THE_SERVER)
    assert refused(users, "standby", *OF_THE_LOG) == separable(users, OF_THE_LOG)
    assert refused(users, "standby", *REPORTS) == []


def test_a_monitor_can_only_read(users: Users) -> None:
    users.add("node", "monitor")
    with closing(RedisLog(users.url("node"), "g")) as log:
        lead(log).append()
    for commands in (OF_THE_SERVER, OF_THE_LOG, REPORTS):
        assert refused(users, "monitor", *commands) == list(commands)
    with closing(RedisLog(users.url("monitor"), "g")) as log:
        assert log.look().term == 1
        with pytest.raises(LogUnavailable, match=r"The Redis user g-monitor needs rights.*replicator --group g acl"):
            promote(log, "b")


@pytest.mark.parametrize("role", ["node", "operator", "jobs", "jobs-operator"])
def test_none_of_them_has_anything_of_the_server_or_of_another_group(role: str, users: Users) -> None:
    users.add(role)
    assert refused(users, role, *OF_THE_SERVER) == list(OF_THE_SERVER)


def test_jobs_cannot_write_the_log(users: Users) -> None:
    users.add("jobs")
    if users.server.binary.version >= (7, 0, 0):
        asks_or_scripts = [each for each in OF_THE_LOG if each[0] != "XTRIM"]
        assert refused(users, "jobs", *asks_or_scripts) == asks_or_scripts


def test_a_user_without_a_password_of_his_own_cannot_log_in(redis_server: RedisServer) -> None:
    result = CliRunner().invoke(cli, ["--group", "g", "acl", "monitor", "--server", "6.2", "--user", "watcher"])
    assert "watcher has no password, and cannot log in" in result.stderr
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command(*result.stdout.split())
        try:
            with (
                redis.Redis.from_url(redis_server.url, username="watcher", password="") as client,
                pytest.raises(redis.exceptions.AuthenticationError),
            ):
                client.execute_command("AUTH", "watcher", "")
        finally:
            admin.acl_deluser("watcher")


# --- no more than that -----------------------------------------------------------------------------------------------


def as_node(log: RedisLog, *, fsynced: bool) -> None:
    log.check_rights()
    author = lead(log)
    author.append()
    author.snapshot()
    author.snapshot()
    author.snapshot()
    while log.sweep():
        pass
    log.confirm(author.writer, 1, LEASE_MS, replicas=0, fsynced=False, timeout_ms=10)
    if fsynced:
        log.confirm(author.writer, 1, LEASE_MS, replicas=0, fsynced=True, timeout_ms=10)
    promote(log, "b")
    log.give_back(Writer("b", "1"), 2)
    as_standby(log)


def as_standby(log: RedisLog) -> None:
    log.check_rights()
    log.look()
    log.read(RecordId(0, 0), requests_after="0-0")
    log.find(RecordId(1, 1))
    log.newest_request()
    log.history()
    log.memory()
    log.beat(Heartbeat("c", "c1"))
    log.ack(Ack("c", RecordId(1, 1)))
    log.request("snapshot", by="c")


def as_operator(log: RedisLog) -> None:
    promote(log, "b")
    log.pause("why")
    log.reinit("b", by="ann")
    log.forget("c", by="ann")
    log.request("digest", by="ann")
    log.give_back(Writer("b", "1"), log.look().term, by="ann")
    as_monitor(log)


def as_monitor(log: RedisLog) -> None:
    log.look()
    log.read(RecordId(0, 0))
    log.find(RecordId(1, 1))
    log.history()
    log.memory()
    assert log.size().bytes is not None


PLAYED: dict[str, Callable[[RedisLog], None]] = {
    "standby": as_standby, "operator": as_operator, "monitor": as_monitor,
}  # fmt: skip


@pytest.mark.parametrize("role", ["node", *PLAYED])
def test_a_role_has_all_commands_that_it_uses_and_no_other(role: str, users: Users) -> None:
    users.add("node", role)
    with closing(RedisLog(users.url("node"), "g")) as log:
        if role != "node":
            lead(log).append()
    users.admin.script_flush()
    users.admin.config_resetstat()
    users.refusals()
    with closing(RedisLog(users.url(role), "g")) as log:
        if role == "node":
            as_node(log, fsynced="waitaof" in users.granted("node"))
        else:
            PLAYED[role](log)
    called = used(users)
    is_old = users.server.binary.version < (7, 0, 0)
    granted = {name.partition("|")[0] if is_old else name for name in users.granted(role)}
    assert granted - called == set()
    refusals = {what for user, what in users.refusals() if user == f"g-{role}"}
    assert refusals <= UNNAMED | (TRIED_TO_LEAD if role == "standby" else set())


#: Before 7.2 there is no rule for what redis-py says of itself.
UNNAMED = {"client|setinfo", "client"}

#: It asks whether it may lead.
TRIED_TO_LEAD = {"set", "del", "incr", "xtrim", "type", f"{P}term"}


def used(users: Users) -> set[str]:
    stats = users.admin.info("commandstats")
    return {name.removeprefix("cmdstat_") for name, each in stats.items() if each["calls"] > 0}


# --- nodes without a right -------------------------------------------------------------------------------------------


def test_a_node_leads_once_it_is_given_the_right(
    users: Users, tmp_path: Path, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "AGAIN_S_MAX", 0.1)
    users.add("standby", "operator")
    a: Node = stack.enter_context(
        Node(KV(), group="g", name="a", redis=users.url("standby"), data_dir=tmp_path / "a", lease_s=4.0)
    )
    with closing(RedisLog(users.url("operator"), "g")) as log:
        eventually(lambda: "a" in log.look().heartbeats)
        with pytest.raises(PromotionRefused, match="may not"):
            ops.promote(log, "a", by="ann")
        (line,) = users.printed("node", user="g-standby")
        users.admin.execute_command(*line.split())
        eventually(lambda: log.look().heartbeats["a"].follows_only == "")
        ops.promote(log, "a", by="ann", timeout_s=PATIENCE_S)
    submitted(a, change("x"))


# --- jobs ------------------------------------------------------------------------------------------------------------


@contextmanager
def worker_of(url: str, directory: Path) -> Iterator[Path]:
    """The job worker as a process, and the directory of its backups."""
    backups, log = directory / "backups", directory / "worker.log"
    worker = start_worker(url, log, REPLICATOR_BACKUPS=str(backups), REPLICATOR_CERTIFY_STATE="tests.support.kv:KV")
    try:
        with JobQueue(url, "g") as queue:
            eventually(queue.has_worker)
        yield backups
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0, log.read_text()


def test_jobs_are_asked_for_and_done_by_their_own_user(users: Users, tmp_path: Path, stack: ExitStack) -> None:
    """All that the command does with a queue, the schedule, and the worker with its scheduler."""
    users.add("node", "jobs")
    a, b = (
        stack.enter_context(
            Node(KV(), group="g", name=name, redis=users.url("node"), data_dir=tmp_path / name, lease_s=4.0)
        )
        for name in "ab"
    )
    a.promote(timeout_s=PATIENCE_S)
    submitted(a, change("x"))
    in_step(a, b)
    queue = stack.enter_context(JobQueue(users.url("jobs"), "g"))
    assert users.run("jobs", "jobs", "list").exit_code == 0, "also where there was never a worker"
    with worker_of(users.url("jobs"), tmp_path) as backups:
        # At a time, which the worker's scheduler looks after.
        due = queue.ask("verify", {}, due_ms=int(time.time() * 1000) + 1000)
        for name in ("snapshot", "certify", "backup"):
            result = users.run("jobs", "jobs", "run", name)
            assert result.exit_code == 0, result.output
            assert "is in queue" in result.stderr
        assert len(list(backups.glob("*.backup"))) == 1

        # To come, and cancelled.
        result = users.run("jobs", "jobs", "run", "switchover", "--to", "b", "--at", "+1h")
        assert result.exit_code == 0, result.output
        (id,) = re.findall(r"^job (\S+)", result.stderr, re.M)
        assert f"{id}  scheduled" in users.run("jobs", "jobs", "list").stdout
        assert users.run("jobs", "jobs", "cancel", id).exit_code == 0
        assert f"{id}  canceled" in users.run("jobs", "jobs", "list", "--all").stdout

        # The schedule, as RQ's cron turns it.
        with client_for(users.url("jobs")) as connection:
            schedule = Schedule(queue, connection, {"verify": "* * * * *"})
            schedule.register_birth()
            schedule._cron_jobs[0].next_enqueue_time = now()
            (asked,) = schedule.enqueue_jobs()
            schedule.heartbeat()
            schedule.register_death()
            send_command(connection, "nobody", "stop-job", job_id=id)  # as `cancel` does with a job that runs
        assert asked.name == "verify"
        assert queue.follow(due.id, "verify", wait_s=60.0, progress=print)["equal"]
        assert {what for user, what in users.refusals() if user == "g-jobs"} <= UNNAMED

        # It may not take a term.
        result = users.run("jobs", "jobs", "run", "switchover", "--to", "b")
        assert result.exit_code == 3, result.output
        assert "the Redis user g-jobs may not take a term" in result.output
        assert "`replicator --group g acl jobs-operator` prints one who may" in result.output
        assert a.leads

        # Once it is given that, it does.
        (line,) = users.printed("jobs-operator", user="g-jobs")
        users.admin.execute_command(*line.split())
        users.refusals()
        result = users.run("jobs", "jobs", "run", "switchover", "--to", "b")
        assert result.exit_code == 0, result.output
        eventually(lambda: b.leads)
    # It is asked whether he may do all that a node does.
    assert {what for user, what in users.refusals() if user == "g-jobs"} <= UNNAMED | {"xtrim"}


# --- what is printed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
def test_every_server_takes_the_rules_of_an_older_one(role: str, users: Users) -> None:
    for server in ("6.2", "7") if users.server.binary.version >= (7, 0, 0) else ("6.2",):
        result = CliRunner().invoke(cli, ["--group", "g", "acl", role, "--server", server])
        if role != "sentinel":  # of a server that is a sentinel
            users.admin.execute_command(*result.stdout.split())


def test_a_monitor_with_the_rules_of_an_old_server_looks_as_it_did_there(users: Users) -> None:
    """It has no right to the scripts that only read, but to those that may write, of which none that it has does."""
    users.admin.config_resetstat()  # of other tests with this server
    (line,) = users.printed("monitor", server="6.2")
    users.admin.execute_command(*line.split())
    with closing(RedisLog(users.url("monitor"), "g")) as log:
        assert log.look().head is None
        assert log.look().head is None
    if users.server.binary.version >= (7, 0, 0):
        asked = users.admin.info("commandstats")["cmdstat_evalsha_ro"]
        assert asked["rejected_calls"] == 1, "it is not tried for each look"
