"""Three processes stall at one change, and go on without it: what an operator sees and types."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner, Result

from replicator import Node, RecordId
from replicator.archive.archiver import Archiver, Settings
from replicator.archive.catalog import Catalog
from replicator.archive.checking import check
from replicator.archive.places import Directory
from replicator.archive.status import read_status
from replicator.cli import cli
from replicator.log.redis_log import RedisLog
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import PATIENCE_S, eventually, push
from tests.support.skip_child import Failing

ROOT = Path(__file__).parents[2]


class Process:
    """A node of which the test has the keyboard."""

    def __init__(self, url: str, directory: Path, name: str) -> None:
        program = [sys.executable, "-m", "tests.support.skip_child", url, str(directory), name]
        log = (directory / f"{name}.log").open("w")
        self._process = subprocess.Popen(
            program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        log.close()
        assert self._answer() == "started"

    def submit(self, change: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(change) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def processes(any_redis: RedisServer, tmp_path: Path) -> Iterator[dict[str, Process]]:
    started: dict[str, Process] = {}
    try:
        for name in "abc":
            started[name] = Process(any_redis.url, tmp_path, name)
        yield started
    finally:
        for each in started.values():
            each.end()


@pytest.fixture
def run(any_redis: RedisServer) -> Callable[..., Result]:
    def run(*args: str) -> Result:
        return CliRunner().invoke(cli, ["--redis", any_redis.url, "--group", "g", *args])

    return run


def test_a_group_that_stalled_goes_on_by_the_command_that_status_and_doctor_name(
    processes: dict[str, Process], run: Callable[..., Result], tmp_path: Path
) -> None:
    assert run("promote", "a", "--timeout", str(PATIENCE_S)).exit_code == 0
    assert processes["a"].submit(push("x")) == 1
    assert processes["a"].submit(push("poison")) == "Stalled"

    def named() -> list[str]:
        return re.findall(r"`(replicator skip \S+ --on \S+ --reason) TEXT`", run("status").stdout)

    (command,) = eventually(named, "the command that helps")
    assert command == "replicator skip 1-3 --on a --reason"
    assert command in run("doctor").stdout
    reasons = json.loads(run("why", "b", "--output", "json").stdout)["reasons"]
    told = next(each for each in reasons if each["question"] == "leads")
    assert (told["code"], told["facts"]) == ("all_stalled", {"change_id": "1-3", "node": "a"})

    _, *args = command.split()
    refused = run(*args, "nobody can apply it", "--dry-run")
    assert (refused.exit_code, refused.stdout.splitlines()[0]) == (0, "lost: 1 change"), refused.stderr
    assert run("skip", "1-2", "--on", "a", "--reason", "x").exit_code == 3
    assert run("skip", "one", "--on", "a", "--reason", "x").exit_code == 2
    args[args.index("a")] = "b"
    done = run(*args, "nobody can apply it", "--timeout", str(PATIENCE_S))
    assert (done.exit_code, done.stdout.split("(")[0]) == (0, "b leads in term 2, from 2-4 on, without 1-3 "), (
        done.stderr
    )

    assert processes["b"].submit(push("y")) == 2
    verified = eventually(lambda: [each for each in [run("verify", "--output", "json")] if each.exit_code == 0])[0]
    assert len(json.loads(verified.stdout)["digests"]) == 3
    assert "nobody can apply it; without 1-3" in run("history").stdout
    state = ("--state", "tests.support.skip_child:Failing")
    certified = run("certify", *state, *(f"--data-dir={tmp_path / name}" for name in "abc"))
    assert certified.exit_code == 0, certified.stdout + certified.stderr
    assert processes["b"].submit(push("z")) == 3


def test_a_node_that_is_killed_while_it_goes_on_without_it_does_so_at_its_next_start(
    any_redis: RedisServer, processes: dict[str, Process], run: Callable[..., Result], tmp_path: Path
) -> None:
    """Whatever it has got to: its term may be read or not, its state may be in the log or not."""
    assert run("promote", "a", "--timeout", str(PATIENCE_S)).exit_code == 0
    assert processes["a"].submit(push("x")) == 1
    assert processes["a"].submit(push("poison")) == "Stalled"
    skip = ("skip", "1-3", "--on", "b", "--reason", "poison")
    eventually(lambda: run(*skip, "--dry-run").exit_code == 0, "all have come to it")
    run(*skip, "--timeout", "0.01")
    processes["b"].end()
    processes["b"] = Process(any_redis.url, tmp_path, "b")

    def leads() -> bool:
        if run(*skip, "--dry-run").exit_code == 0:  # it was killed before it had read its term
            run(*skip, "--timeout", str(PATIENCE_S))
        return json.loads(run("status", "--output", "json").stdout)["holder"] == "b" and (
            "b leads" in run("doctor").stdout
        )

    eventually(leads, "b leads")
    assert processes["b"].submit(push("y")) == 2
    assert eventually(lambda: [each for each in [run("verify")] if each.exit_code == 0])


def test_an_archive_has_the_states_of_before_and_after_a_skipped_change(
    processes: dict[str, Process], run: Callable[..., Result], any_redis: RedisServer, tmp_path: Path
) -> None:
    log, place, stopping = RedisLog(any_redis.url, "g"), Directory(tmp_path / "archive"), threading.Event()
    archiver = Archiver(log, place, Settings(segment_every_s=0.1, snapshot_every_s=0.0))
    thread = threading.Thread(target=archiver.run, args=(stopping,))
    thread.start()
    try:
        assert run("promote", "a", "--timeout", str(PATIENCE_S)).exit_code == 0
        assert processes["a"].submit(push("x")) == 1
        assert processes["a"].submit(push("poison")) == "Stalled"
        found = eventually(lambda: re.search(r"`replicator skip (\S+) --on a ", run("status").stdout), "the command")
        skipped = found[1]
        assert run("skip", skipped, "--on", "a", "--reason", "negative price").exit_code == 0
        assert processes["a"].submit(push("y")) == 2
        head = log.look().head
        assert head is not None

        def has_all() -> bool:
            status = read_status(place)
            return status is not None and RecordId.parse(status.position) >= head.position.id

        eventually(has_all)
    finally:
        stopping.set()
        thread.join(PATIENCE_S)
        log.close()
    catalog = Catalog(place)
    check(catalog, rules=True)
    assert "not from where the log was" in catalog.footer(2, 1).reason
    words = ("--archive", str(place.path), "--state", "tests.support.skip_child:Failing")
    before = f"1-{int(skipped.split('-')[1]) - 1}"
    for at, wanted in ((before, ["x"]), ("latest", ["x", "y"])):
        assert json.loads(run("show", *words, "--at", at, "--document").stdout) == ["pushed", wanted]
    assert run("show", *words, "--at", skipped).exit_code == 1, "no node has such a state"
    # And a group is founded anew from there.
    for each in processes.values():
        each.end()
    new = tmp_path / "new"
    assert run("restore", *words, "--to-data-dir", str(new), "--name", "n").exit_code == 0
    with redis.Redis.from_url(any_redis.url) as admin:
        admin.flushall()
    with Node(Failing(), group="g", name="n", redis=any_redis.url, data_dir=new) as node:
        assert run("recover", "--from", "n", "--force", "--yes", "--timeout", str(PATIENCE_S)).exit_code == 0
        assert node.submit(push("z"), timeout_s=PATIENCE_S) == 3
