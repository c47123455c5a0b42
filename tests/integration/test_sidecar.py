"""`replicator node --file` and `--sqlite`, as processes beside a program, on a real server."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from replicator import ops
from replicator.cli import cli
from replicator.log.redis_log import RedisLog
from replicator.sandbox.redis_server import RedisServer
from replicator.storage.program_lock import program_is_over, take_program_lock
from tests.support.beacon import beacon, signs
from tests.support.kv import LEASE_S, PATIENCE_S, eventually
from tests.support.role_commands import lines, telling

MIB = 1024 * 1024


class Processes:
    """Nodes as processes; all of them are ended."""

    def __init__(self, url: str, directory: Path) -> None:
        self._url = url
        self._directory = directory
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *options: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable, "-m", "replicator.workers.node", "--name", name, "--data-dir", str(self._directory / name),
            "--lease-s", str(LEASE_S), "--publish-every-s", "0.05", *options,
        ]  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REPLICATOR_")}
        environment |= {"REPLICATOR_REDIS": self._url, "REPLICATOR_GROUP": "g"}
        with (self._directory / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, process_group=0)
        self._running.append(process)
        return process

    def said(self, name: str) -> str:
        return (self._directory / f"{name}.log").read_text()

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def processes(any_redis: RedisServer, tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(any_redis.url, tmp_path)
    yield processes
    processes.end()


@pytest.fixture
def log(any_redis: RedisServer) -> Iterator[RedisLog]:
    log = RedisLog(any_redis.url, "g")
    yield log
    log.close()


def alive(log: RedisLog, *names: str) -> None:
    eventually(lambda: {node.node for node in ops.status(log).nodes if node.alive and node.http} >= set(names))


def promote(log: RedisLog, name: str) -> None:
    ops.promote(log, name, by="test", timeout_s=PATIENCE_S)


def ask(url: str | urllib.request.Request) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def replaced(path: Path) -> list[bytes]:
    return [found.read_bytes() for found in path.parent.glob(f"{path.name}.replaced-*")]


def is_now(path: Path, content: bytes) -> None:
    eventually(lambda: path.exists() and path.read_bytes() == content, f"{path.name} being it")


def rewritten(path: Path, content: bytes) -> bytes:
    """As a careful program does."""
    draft = path.with_name("draft")
    draft.write_bytes(content)
    draft.replace(path)
    return content


def test_a_file_follows_its_primary_through_a_failover(processes: Processes, log: RedisLog, tmp_path: Path) -> None:
    ours, theirs, told = tmp_path / "ours", tmp_path / "theirs", tmp_path / "told"
    # given two nodes beside a program each, and one that leads
    hooks = ["--on-primary", telling(told), "--on-standby", "false"]
    a = processes.start("a", "--file", str(ours), "--lease-s", "3")  # when a is killed, the command waits for its end
    processes.start("b", "--file", str(theirs), *hooks)
    alive(log, "a", "b")
    promote(log, "a")
    # when the program of the primary writes its file, and changes some of it
    content = rewritten(ours, random.Random(1).randbytes(2 * MIB))
    is_now(theirs, content)
    before = log.look().last_id
    content = rewritten(ours, content[:1000] + b"inserted" + content[1000:])
    is_now(theirs, content)
    # then what changed went out as a patch
    batch = log.read(before, count=10)
    assert [(record.kind, record.codec) for record in batch.records] == [("change", "patch")]  # type: ignore[union-attr]
    assert len(batch.records[0].body) < 1000
    # and health is served, and nothing of a registry
    http = next(node.http for node in ops.status(log).nodes if node.node == "a")
    assert ask(f"{http}/health")[1]["role"] == "primary"
    eventually(lambda: ask(f"{http}/ready") == (200, {"ready": True, "role": "primary"}))
    assert ask(f"{http}/v1/nodes")[0] == 404
    # who takes it for the program is told where that is
    status, refused = ask(urllib.request.Request(f"{http}/posts", data=b"title=hello"))
    assert (status, refused["error"]) == (404, "no_writes_here")
    assert refused["detail"].endswith("send writes to the program on this machine")

    # when it is killed, and its program writes on
    a.send_signal(signal.SIGKILL)
    a.wait()
    unpublished = rewritten(ours, content + b" and more that nobody else has")
    promote(log, "b")
    # then the command of the other one was run, and that a command failed ended nothing
    eventually(lambda: lines(told) == ["primary 2 b g"] if told.exists() else False)
    assert "failed with exit code 1" in processes.said("b")
    newer = rewritten(theirs, b"newer " + content)
    published = log.look().last_id
    eventually(lambda: log.look().last_id > published or log.look().last_id.n > batch.records[0].id.n + 1)

    # when it comes back
    processes.start("a", "--file", str(ours))
    # then its file is what the group has, and what only it had is kept
    is_now(ours, newer)
    assert replaced(ours) == [unpublished]
    assert replaced(theirs) == []
    newest = rewritten(theirs, newer[:-100])
    is_now(ours, newest)
    assert replaced(ours) == [unpublished]

    # and all of it is certified: the log, what is on the disks, and that the live files are equal
    data_dirs = [word for name in "ab" for word in ("--data-dir", str(tmp_path / name))]
    command = ["--redis", log.url, "--group", "g", "certify", "--state", "whole", *data_dirs]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "live     a, b have equal states" in done.output
    # A primary saves a little later.
    eventually(lambda: "a, b have equal states, at equal positions" in CliRunner().invoke(cli, command).output)
    ours.write_bytes(b"by mistake")
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 1
    assert "states" in done.output


def test_nothing_is_started_or_given_back_while_the_program_of_a_node_that_was_killed_lives(
    processes: Processes, log: RedisLog, tmp_path: Path
) -> None:
    path, data_dir = tmp_path / "signs", tmp_path / "a"
    give_back = ["--redis", log.url, "--group", "g", "release", "--data-dir", str(data_dir)]
    # given what keeps the program of a node that ran here, and has not ended it
    data_dir.mkdir()
    lock = take_program_lock(data_dir)
    assert lock is not None
    a = processes.start("a", "--run", beacon(path, "rude", "child"))
    alive(log, "a")
    promote(log, "a")
    eventually(lambda: "the one that a node before this one ran here has not ended" in problems(log), patience_s=60)
    assert signs(path) == []
    # when that has ended, the program runs, and its own keeper has the lock
    os.close(lock)
    eventually(lambda: len({sign.pid for sign in signs(path)}) == 2, patience_s=60)
    assert not program_is_over(data_dir, within_s=0)
    # when the node is killed, its lease is given back once the program has ended
    a.kill()
    a.wait()
    done = CliRunner().invoke(cli, give_back)
    assert (done.exit_code, "is given back (term 1)" in done.output) == (0, True), done.output
    assert not any(lives(sign.pid) for sign in signs(path))
    # and not before
    lock = take_program_lock(data_dir)
    done = CliRunner().invoke(cli, give_back)
    assert (done.exit_code, "not yet the program that it ran" in done.output) == (3, True), done.output


def lives(pid: int) -> bool:
    """One that has ended, and that nobody has waited for yet, does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def problems(log: RedisLog) -> str:
    return "".join(str(node) for node in ops.status(log).nodes)


def test_a_primary_that_comes_back_before_anybody_else_leads_publishes_what_it_has(
    processes: Processes, log: RedisLog, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    a = processes.start("a", "--file", str(ours))
    processes.start("b", "--file", str(theirs))
    alive(log, "a", "b")
    promote(log, "a")
    is_now(theirs, rewritten(ours, b"published"))
    a.send_signal(signal.SIGKILL)
    a.wait()
    content = rewritten(ours, b"written while the node was away")
    processes.start("a", "--file", str(ours))
    is_now(theirs, content)
    assert ours.read_bytes() == content
    assert replaced(ours) == []


def test_a_database_in_use_follows_its_primary(processes: Processes, log: RedisLog, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    processes.start("a", "--sqlite", str(ours))
    processes.start("b", "--sqlite", str(theirs))
    alive(log, "a", "b")
    promote(log, "a")
    with closing(sqlite3.connect(ours, isolation_level=None, timeout=PATIENCE_S)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, value TEXT)")
        db.execute("INSERT INTO t (value) VALUES ('one')")
        eventually(theirs.exists)
        with closing(sqlite3.connect(theirs, timeout=PATIENCE_S)) as reader:

            def values() -> list[str]:
                try:
                    return [value for (value,) in reader.execute("SELECT value FROM t ORDER BY id")]
                except sqlite3.OperationalError:  # the first publication may have been of less
                    return []

            eventually(lambda: values() == ["one"])
            db.execute("INSERT INTO t (value) VALUES ('two')")
            eventually(lambda: values() == ["one", "two"])


def test_a_new_file_has_the_mode_that_was_asked_for(processes: Processes, log: RedisLog, tmp_path: Path) -> None:
    ours, theirs, private = tmp_path / "ours", tmp_path / "theirs", tmp_path / "private"
    ours.write_bytes(b"one")
    ours.chmod(0o644)
    processes.start("a", "--file", str(ours))
    processes.start("b", "--file", str(theirs), "--file-mode", "640")
    processes.start("c", "--file", str(private))
    alive(log, "a", "b", "c")
    promote(log, "a")
    is_now(theirs, b"one")
    is_now(private, b"one")
    assert [path.stat().st_mode & 0o777 for path in (ours, theirs, private)] == [0o644, 0o640, 0o600]
    done = CliRunner().invoke(cli, ["--group", "g", "node", "--name", "d", "--file-mode", "rw"])
    assert done.exit_code == 2
    assert "'rw' is not a mode like 600" in done.output


def test_a_program_runs_beside_the_primary_alone_whatever_becomes_of_that(
    processes: Processes, log: RedisLog, tmp_path: Path
) -> None:
    path = tmp_path / "signs"
    options = ("--run", beacon(path, "rude", "child"), "--auto-promote", "--lease-s", "3", "--run-stop-s", "1")
    options += ("--on-restart", "standby")
    nodes = {"a": processes.start("a", *options)}
    eventually(
        lambda: len(of_node(path, "a")) == 2, "a's program, and what that has started", patience_s=2 * PATIENCE_S
    )
    nodes["b"] = processes.start("b", *options)
    alive(log, "a", "b")
    # when the node is stopped, with all of its process group, and another one is promoted at once
    os.killpg(nodes["a"].pid, signal.SIGSTOP)
    ops.promote(log, "b", by="test", force=True, timeout_s=PATIENCE_S)
    eventually(lambda: len(of_node(path, "b")) == 2, "b's program", patience_s=3 * PATIENCE_S)
    # then its program has ended before, without it
    assert max(sign.at for sign in signs(path) if sign.node == "a") < first_of(path, "b")
    os.killpg(nodes["a"].pid, signal.SIGCONT)
    eventually(lambda: {node.node for node in ops.status(log).nodes if node.alive and node.ready} == {"a", "b"})
    # and when the node is killed, again with all of its group (supervisord's killasgroup), its program is
    os.killpg(nodes["b"].pid, signal.SIGKILL)
    nodes["b"].wait()
    before = len(signs(path))
    eventually(lambda: any(sign.what == "start" and sign.node == "a" for sign in signs(path)[before:]))
    again = min(sign.at for sign in signs(path)[before:] if sign.what == "start")
    assert max(sign.at for sign in signs(path) if sign.node == "b") < again
    # and when the node is told to end, it ends with the program
    nodes["a"].terminate()
    assert nodes["a"].wait(PATIENCE_S) == 0
    assert "program.ended" in processes.said("a")
    seen = len(signs(path))
    time.sleep(0.2)
    assert len(signs(path)) == seen


def of_node(path: Path, name: str) -> set[int]:
    return {sign.pid for sign in signs(path) if sign.node == name}


def first_of(path: Path, name: str) -> float:
    return min(sign.at for sign in signs(path) if sign.node == name)


#: Writes a file anew all the time, and once more when it is told to end.
WRITER = """
import os, signal, sys, time
path, count, over = sys.argv[1], 0, []
signal.signal(signal.SIGTERM, lambda *_: over.append(1))
while True:
    ends = bool(over)
    with open(path + ".new", "w") as file:
        file.write(f"{'last of' if ends else 'some'} {os.environ['REPLICATOR_NODE']}, {count}")
    os.replace(path + ".new", path)
    if ends:
        break
    count += 1
    time.sleep(0.01)
"""


def test_a_switchover_leaves_nothing_of_what_the_program_wrote_behind(
    processes: Processes, log: RedisLog, tmp_path: Path, any_redis: RedisServer
) -> None:
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    paths = {name: tmp_path / f"of-{name}" for name in "ab"}
    for name, path in paths.items():
        program = f"'{sys.executable}' '{script}' '{path}'"
        processes.start(name, "--file", str(path), "--run", program, "--publish-every-s", "30")
    alive(log, "a", "b")
    promote(log, "a")
    eventually(lambda: paths["a"].exists() and paths["a"].read_text().startswith("some a"))
    args = ["--redis", any_redis.url, "--group", "g", "switchover", "--to", "b", "--json"]
    result = CliRunner().invoke(cli, args)
    assert result.exit_code == 0, result.output
    # what it wrote last was published before b led, and that is what b's program began with
    assert paths["a"].read_text().startswith("last of a")
    assert paths["b"].read_text() == paths["a"].read_text()
    assert not list(tmp_path.glob("*.replaced-*"))
    eventually(lambda: paths["b"].read_text().startswith("some b"), patience_s=3 * PATIENCE_S)


def test_a_file_and_a_database_are_refused_together(any_redis: RedisServer, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "replicator.workers.node", "--name", "a", "--data-dir", str(tmp_path / "a")]
    command += ["--file", str(tmp_path / "f"), "--sqlite", str(tmp_path / "s")]
    environment = os.environ | {"REPLICATOR_REDIS": any_redis.url, "REPLICATOR_GROUP": "g"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert "one of them alone" in done.stderr
