"""An archive with real processes: a mistake that is undone on all nodes, an archiver that is killed, a second one.

Redis, three nodes of the registry with their HTTP, and `replicator archive`, each a process; and the command line as an
operator types it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from replicator.archive.catalog import Catalog
from replicator.archive.checking import check
from replicator.archive.places import Directory
from replicator.archive.status import read_status
from replicator.log.redis_log import RedisLog
from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.redis_server import RedisServer
from tests.support import plain_http
from tests.support.kv import PATIENCE_S, eventually

NAMES = ("a", "b", "c")

#: Nothing here waits for its end, and no busy machine loses it.
LEASE_S = 15.0


class Group:
    """The processes, and the directory that they are in."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.place = Directory(directory / "archive")
        self._stack = ExitStack()
        (directory / "redis").mkdir()
        self.redis = RedisServer(directory / "redis").start()
        self._stack.callback(self.redis.stop)
        self.ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        for name, port in self.ports.items():
            options = ["--data-dir", directory / name, "--http", f"127.0.0.1:{port}", "--lease-s", LEASE_S]
            self._start("node", "--name", name, *options)
        log = RedisLog(self.redis.url, "g")
        self._stack.callback(log.close)
        eventually(lambda: set(log.look().heartbeats) == set(NAMES), patience_s=3 * PATIENCE_S)
        self.run("promote", "a", "--timeout", 3 * PATIENCE_S)

    def _words(self, *args: object) -> list[str]:
        options = ["--redis", self.redis.url, "--group", "g"]
        return [sys.executable, "-c", "from replicator.cli import main; main()", *options, *map(str, args)]

    def _start(self, *args: object) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self.directory / f"{args[0]}.log").open("ab"))
        process = subprocess.Popen(self._words(*args), stdout=log, stderr=log, cwd=self.directory)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def archive(self, *args: object) -> subprocess.Popen[bytes]:
        return self._start("archive", "--to", self.place.path, "--segment-every-s", 0.2, *args)

    def run(self, *args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(self._words(*args), capture_output=True, text=True, cwd=self.directory, check=False)
        assert done.returncode == code, done.stderr
        return done

    def register(self, hostname: str) -> None:
        body = {"hostname": hostname, "owner": "o"}
        answer = plain_http.post(f"http://127.0.0.1:{self.ports['a']}/v1/nodes", json=body, timeout=PATIENCE_S)
        assert answer.status_code < 300, answer.text

    def hostnames(self, name: str) -> list[str]:
        answer = plain_http.get(f"http://127.0.0.1:{self.ports[name]}/v1/state", timeout=PATIENCE_S).json()
        return [node["hostname"] for node in answer["nodes"].values()]

    def segments(self) -> int:
        return len(self.place.names()) if self.place.path.is_dir() else 0

    def has_archived(self, after_ms: float) -> bool:
        status = read_status(self.place)
        return status is not None and status.complete_at > after_ms

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.close()


def now_ms() -> float:
    return time.time() * 1000


def test_the_state_of_before_a_mistake_is_back_on_all_nodes_with_two_commands(group: Group) -> None:
    group.archive()
    for number in range(20):
        group.register(f"db{number}")
    before = now_ms()
    eventually(lambda: group.has_archived(before))
    # The mistake has a second of its own.
    right = int(before / 1000) + 1
    eventually(lambda: time.time() >= right + 1)
    # An operator empties the registry by mistake.
    empty = group.directory / "empty.json"
    empty.write_text(json.dumps({"version": 1, "nodes": {}, "networks": {}, "trust_pairs": []}))
    group.run("load", empty, "--force", "--any-term", "--yes")
    assert group.hostnames("a") == []
    mistake = now_ms()
    eventually(lambda: group.has_archived(mistake))
    # What happened, and when.
    told = group.run("show", "--archive", group.place.path, "--since", "1-1", "--output", "json").stdout
    changes = [json.loads(line) for line in told.splitlines()]
    assert len(changes) == 21
    assert "replaces" in changes[-1]["change"]
    # And back, by a time: a moment before.
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(right))
    group.run("restore", "--archive", group.place.path, "--at", at, "--load", "--force", "--yes")
    wanted = [f"db{number}" for number in range(20)]
    for name in NAMES:
        eventually(lambda name=name: group.hostnames(name) == wanted, f"the state of {name}")
    group.run("verify", "--timeout", PATIENCE_S)
    # The mistake is still in the archive, and can be looked at.
    shown = group.run("show", "--archive", group.place.path, "--at", changes[-1]["id"], "--document").stdout
    assert json.loads(shown)["nodes"] == {}


def test_an_archiver_that_is_killed_leaves_an_archive_that_is_whole(group: Group) -> None:
    written = 0
    for attempt in range(6):
        process = group.archive("--segment-bytes", 2000)
        before, deadline = group.segments(), time.monotonic() + 3 * PATIENCE_S
        until = deadline
        while time.monotonic() < until:
            group.register(f"db{written}")
            written += 1
            if until == deadline and group.segments() > before + 2:
                until = time.monotonic() + 0.07 * attempt  # at any moment of its turns
        assert group.segments() > before
        process.send_signal(signal.SIGKILL)
        process.wait()
        check(Catalog(group.place), rules=True)
    process = group.archive()
    last = now_ms()
    eventually(lambda: group.has_archived(last), patience_s=3 * PATIENCE_S)
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == 0
    catalog = Catalog(group.place)
    assert list(catalog.timelines) == [1], "nothing was missed"
    shown = json.loads(group.run("show", "--archive", group.place.path, "--document").stdout)
    assert [node["hostname"] for node in shown["nodes"].values()] == [f"db{number}" for number in range(written)]
    assert "certified" in group.run("certify", "--archive", group.place.path).stdout


def test_a_second_archiver_is_refused(group: Group) -> None:
    first = group.archive()
    eventually(lambda: read_status(group.place), patience_s=3 * PATIENCE_S)
    said = group.run("archive", "--to", group.place.path, code=3).stderr
    assert f"process {first.pid} is archiving there" in said
