"""The units in docker/systemd/ on the bare machine: their very commands, with their environment, read-only root and
directories, and what systemd does when a node dies (ExecStopPost=). There is no systemd here that would do it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.containers import Container, Machine, Mount, Running, can_contain
from tests.support.kv import eventually
from tests.support.needs import needs
from tests.support.servers import redis_of_the_image
from tests.support.units import container_of

PATIENCE_S = 300.0

#: Nobody waits for that: whoever leads after a node died was given the lease.
LEASE_S = 3600

PASSWORD = "p%40ss w#rd"

pytestmark = pytest.mark.slow


#: By the host on which each runs here: its root directory is its own.
UNITS = {
    "a": "replicator-node@a.service",
    "b": "replicator-node@b.service",
    "c": "replicator-node.service",
    "jobs": "replicator-jobs.service",
    "archive": "replicator-archive.service",
}


class Hosts:
    """A Redis with a password, and the units, with their files in /etc/replicator."""

    def __init__(self, directory: Path) -> None:
        self.etc, self.state = directory / "etc", directory / "state"
        self.machine = Machine(directory, dict.fromkeys(["redis", *UNITS], ()))
        self.etc.mkdir()
        (directory / "redis").mkdir()
        url = "redis://redis:6379/0?password_file=/etc/replicator/redis-password"
        shared = f"REPLICATOR_GROUP=units\nREPLICATOR_REDIS={url}\n"
        (self.etc / "replicator.env").write_text(
            f"{shared}REPLICATOR_AUTO_PROMOTE=true\nREPLICATOR_LEASE_S={LEASE_S}\nREPLICATOR_ON_RESTART=standby\n"
        )
        (self.etc / "redis-password").write_text(f"{PASSWORD}\n")
        for name in "ab":
            (self.etc / f"node-{name}.env").write_text(f"REPLICATOR_HTTP={name}:8001\nREPLICATOR_INSECURE=true\n")
        (self.etc / "node.env").write_text("REPLICATOR_NAME=c\nREPLICATOR_HTTP=c:8001\nREPLICATOR_INSECURE=true\n")
        self.redis = Container(
            host="redis",
            command=["redis-server", "--requirepass", PASSWORD, "--save", "", "--dir", "/data"],
            mounts=[
                Mount(source=redis_of_the_image(), target="/usr/local/bin/redis-server"),
                Mount(source=directory / "redis", target="/data"),
            ],
        )

    def start(self, host: str, line: str = "ExecStart") -> Running:
        return self.machine.start(container_of(UNITS[host], host=host, etc=self.etc, state=self.state, start=line))

    def status(self) -> dict[str, Any]:
        done = self.machine.running["jobs"].exec(["/srv/replicator/venv/bin/replicator", "status", "--json"])
        told: dict[str, Any] = json.loads(done.stdout or "{}")
        return told

    def holder(self) -> str | None:
        """Once all nodes are alive and follow."""
        told = self.status()
        well = [node for node in told.get("nodes", ()) if node["alive"] and node["lag_records"] == 0]
        return told["holder"] if len(well) == 3 else None


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    needs(can_contain(), "root, iproute2 and an overlay that can be mounted")
    hosts = Hosts(tmp_path)
    try:
        hosts.machine.open()
        hosts.machine.start(hosts.redis)
        for host in UNITS:
            hosts.start(host)
        yield hosts
    finally:
        hosts.machine.close()


def test_the_units_run_and_a_node_that_dies_is_replaced_at_once(hosts: Hosts) -> None:
    # given
    leads = eventually(hosts.holder, "a leader, and two that follow", patience_s=PATIENCE_S)
    running = hosts.machine.running[leads]
    # when its process dies, systemd runs ExecStopPost, which gives its lease back
    node = int(Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()[0])
    os.kill(node, signal.SIGKILL)
    assert running.process.wait(PATIENCE_S) == 128 + signal.SIGKILL
    after = hosts.start(leads, "ExecStopPost")
    assert after.process.wait(PATIENCE_S) == 0, after.said
    # then another one leads, and the next start (Restart=always) makes it a standby
    hosts.start(leads)
    assert eventually(lambda: (now := hosts.holder()) != leads and now, patience_s=PATIENCE_S) in {"a", "b", "c"}
    # and the job worker and the archiver do their work
    queued = hosts.machine.running["jobs"].exec(["/srv/replicator/venv/bin/replicator", "verify", "--queue"])
    assert queued.returncode == 0, queued.stderr
    eventually((hosts.state / "replicator/archive/archiver.json").exists, "an archive", patience_s=PATIENCE_S)
    # and all stop in order at SIGTERM
    assert {name: hosts.machine.running[name].stop() for name in UNITS} == dict.fromkeys(UNITS, 0)
    assert sorted(path.name for path in (hosts.state / "replicator/nodes").iterdir()) == ["a", "b"]
