"""docs/deploy.md and docs/supervisord.md under a real supervisord: the service of the one, the files of the other, a
Redis with a password, a primary that is killed.
"""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from replicator import ops
from replicator.jobs.queue import JobQueue
from replicator.log.redis_log import RedisLog
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.redis_server import RedisServer
from replicator.sandbox.supervisord import Control
from tests.conftest import RedisFactory
from tests.support import plain_http
from tests.support.kv import eventually

ROOT = Path(__file__).parents[2]

PAGE = "".join((ROOT / "docs" / name).read_text() for name in ("deploy.md", "supervisord.md"))

#: A failover takes a lease of 5 s, on an idle machine.
PATIENCE_S = 300.0

#: With all that a URL, and a file of supervisord, would make something else of.
PASSWORD = "p%40ss /;w#rd"

BIN = Path(sys.executable).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def command_of_the_page(start: str) -> str:
    lines = "".join(blocks("console")).splitlines()
    return next(line[2:] for line in lines if line.startswith(f"$ {start}"))


def ports_in_a_row(count: int) -> list[int]:
    """Loopback ports that are free now."""
    while True:
        first = free_port()
        row = range(first, first + count)
        with contextlib.suppress(OSError), contextlib.ExitStack() as opened:
            for port in row:
                opened.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return list(row)


class Deployed:
    """The service of the page, under supervisord, in a directory of which the path of a socket can be made."""

    def __init__(self, directory: Path, redis: RedisServer) -> None:
        self.directory = directory
        (directory / "password").write_text(f"{PASSWORD}\n")
        (directory / "service.py").write_text(blocks("python")[0])
        self.url = f"{redis.url.partition('?')[0]}?password_file={directory}/password"
        self.ports = ports_in_a_row(3)
        self.control = Control(directory / "supervisor.sock")
        self._supervisord: subprocess.Popen[bytes] | None = None

    @property
    def environ(self) -> dict[str, str]:
        # no PATH of the environment in which this runs: supervisord has another one
        bare = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
        return {**bare, "REPLICATOR_GROUP": "votes", "REPLICATOR_REDIS": self.url}

    def write_file(self) -> None:
        line = command_of_the_page("replicator supervisord").replace("--", f"--http 127.0.0.1:{self.ports[0]} --", 1)
        environ = {**self.environ, "PATH": f"{BIN}:/usr/bin:/bin"}
        subprocess.run(["bash", "-c", line], cwd=self.directory, env=environ, check=True)

    def start(self) -> None:
        command = [str(BIN / "supervisord"), "-n", "-c", "supervisord.conf"]
        with (self.directory / "supervisord.out").open("wb") as out:
            self._supervisord = subprocess.Popen(
                command, cwd=self.directory, env={"PATH": "/usr/bin:/bin"}, stdout=out, stderr=out
            )
        eventually(self.control.answers, "supervisord", patience_s=PATIENCE_S)

    def end(self) -> int:
        assert self._supervisord is not None
        self._supervisord.terminate()
        return self._supervisord.wait(PATIENCE_S)

    def close(self) -> None:
        if self._supervisord is not None and self._supervisord.poll() is None:
            self.end()

    def status(self) -> ops.Status:
        log = RedisLog(self.url, "votes")
        try:
            return ops.status(log)
        finally:
            log.close()

    def serves(self) -> ops.Status | None:
        """The status, once all is as it should be."""
        now = self.status()
        is_there = len(now.nodes) == 3 and all(node.alive and node.lag_records == 0 for node in now.nodes)
        return now if is_there and now.well and now.holder else None

    def of(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports['abc'.index(name)]}"

    @property
    def said(self) -> str:
        return "".join(path.read_text() for path in sorted(self.directory.glob("*.log")))


@pytest.fixture
def deployed(redis_factory: RedisFactory) -> Iterator[Deployed]:
    redis = redis_factory(config={"requirepass": PASSWORD}, start=False)
    with tempfile.TemporaryDirectory(prefix="replicator-") as directory:
        redis.start()
        deployed = Deployed(Path(directory).resolve(), redis)
        try:
            yield deployed
        finally:
            deployed.close()


def test_the_service_runs_under_supervisord_and_survives_its_primary(deployed: Deployed) -> None:
    # given
    deployed.write_file()
    deployed.start()
    before: Any = eventually(deployed.serves, patience_s=PATIENCE_S)
    with plain_http.Client(follow_redirects=True, timeout=PATIENCE_S) as client:
        standby = next(name for name in "abc" if name != before.holder)

        def write(votes: int, key: str) -> httpx.Response | None:
            headers = {"Idempotency-Key": key}
            try:
                answer = client.put(f"{deployed.of(standby)}/votes/cats", params={"votes": votes}, headers=headers)
            except httpx.TransportError:
                return None
            return answer if answer.is_success or answer.status_code == 400 else None

        assert eventually(lambda: write(1, '"first"'), patience_s=PATIENCE_S).status_code == 200
        assert eventually(lambda: write(1, "no quotes"), patience_s=PATIENCE_S).json()["error"] == "invalid_header"
        # when
        pid = deployed.control.programs()[f"votes-{before.holder}"]["pid"]
        os.kill(pid, signal.SIGKILL)
        # then
        assert eventually(lambda: write(2, '"second"'), patience_s=PATIENCE_S).status_code == 200
        after: Any = eventually(deployed.serves, patience_s=PATIENCE_S)
        assert after.term > before.term
        assert deployed.control.programs()[f"votes-{before.holder}"]["pid"] not in (0, pid)
        for name in "abc":
            assert client.get(f"{deployed.of(name)}/votes/cats").json() == {"votes": 2}
    # and all of it ends in order: each node says goodbye, and the lease is given back
    assert deployed.end() == 0
    log = RedisLog(deployed.url, "votes")
    look = log.look()
    log.close()
    assert {name for name, heartbeat in look.heartbeats.items() if heartbeat.left} == {"a", "b", "c"}
    assert look.lease_ms is None
    assert sorted(path.name for path in (deployed.directory / "data").iterdir()) == ["a", "b", "c"]


def test_the_page_shows_what_the_command_writes(deployed: Deployed) -> None:
    deployed.write_file()
    told, shown = configparser.RawConfigParser(), configparser.RawConfigParser()
    told.read(deployed.directory / "supervisord.conf")
    shown.read_string(blocks("ini")[0])
    (program,) = shown.sections()
    written = dict(told[program])
    here, port = str(deployed.directory), str(deployed.ports[0])
    written = {
        name: value.replace(f"{BIN}/", "/srv/votes/venv/bin/").replace(here, "/srv/votes").replace(port, "8001")
        for name, value in written.items()
    }
    url, of_the_page = (
        deployed.url.replace(here, "/srv/votes").replace("%", "%%"),
        "redis://127.0.0.1:6390/0?password_file=/srv/votes/password",
    )
    written["environment"] = written["environment"].replace(url, of_the_page)
    assert written == dict(shown[program])


def test_a_host_has_a_node_its_listener_and_on_demand_jobs_and_the_archive(redis_factory: RedisFactory) -> None:
    redis = redis_factory()
    with tempfile.TemporaryDirectory(prefix="replicator-") as home:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")} | {
            "NODE_HOME": home, "NODE_PYTHON": sys.executable, "REPLICATOR_NAME": "a", "REPLICATOR_GROUP": "registry",
            "REPLICATOR_REDIS": redis.url, "REPLICATOR_HTTP": "127.0.0.1:0", "REPLICATOR_AUTO_PROMOTE": "true",
        }  # fmt: skip
        conf = str(ROOT / "docker/supervisord-node.conf")

        def control(*words: str) -> str:
            command = [str(BIN / "supervisorctl"), "-c", conf, *words]
            return subprocess.run(command, env=environ, capture_output=True, text=True, check=False).stdout

        with (Path(home) / "out").open("wb") as out:
            supervisord = subprocess.Popen([str(BIN / "supervisord"), "-c", conf], env=environ, stdout=out, stderr=out)
        try:
            eventually(Control(Path(home) / "supervisord.sock").answers, "supervisord", patience_s=PATIENCE_S)
            # the commands of the page
            started = control(*command_of_the_page("supervisorctl -c docker/supervisord-node.conf start").split()[3:])
            assert started == "jobs: started\narchive: started\n"
            said = eventually(lambda: (now := control("status")).count("RUNNING") == 4 and now, patience_s=PATIENCE_S)
            assert {line.split()[0] for line in said.splitlines()} == {"archive", "jobs", "leases", "node"}
            with contextlib.closing(RedisLog(redis.url, "registry")) as log:
                eventually(lambda: log.look().lease, "a leader", patience_s=PATIENCE_S)
            with JobQueue(redis.url, "registry") as queue:
                asked = queue.ask("backup", {})
                done = queue.follow(asked.id, "backup", wait_s=PATIENCE_S, progress=lambda _: None)
            assert Path(done["file"]).parent == Path(home) / "backups"
            eventually((Path(home) / "archive/archiver.json").exists, "an archive", patience_s=PATIENCE_S)
        finally:
            supervisord.terminate()
            assert supervisord.wait(PATIENCE_S) == 0
