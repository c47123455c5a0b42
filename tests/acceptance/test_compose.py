"""docker/compose.yaml with all of its profiles, run without an engine (tests/support/containers.py): each container
with its own command, environment, files and volumes, on a read-only root, and without capabilities.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from replicator.metrics import files
from tests.support import plain_http
from tests.support.compose import COMPOSE, containers_of, health_check, read_compose, read_env_file
from tests.support.containers import Machine, Mount, Running, can_contain
from tests.support.kv import eventually
from tests.support.needs import needs
from tests.support.prometheus import Prometheus
from tests.support.servers import redis_of_the_image

#: A failover of Redis takes 5 s until it is noticed, on an idle machine; one of the nodes, a lease of 5 s.
PATIENCE_S = 300.0

PASSWORD = "0123456789abcdef"

#: There is no Grafana here; its files are looked at in tests/integration/test_docker_files.py.
NOT_RUN = {"grafana"}

pytestmark = pytest.mark.slow


class Stack:
    """What `docker compose --env-file docker/ha.env --profile ha --profile archive --profile monitoring up` starts."""

    def __init__(self, directory: Path) -> None:
        self.document = read_compose(environment=read_env_file(COMPOSE.parent / "ha.env"))
        password = directory / "redis-password"
        password.write_text(f"{PASSWORD}\n")
        self.volumes = directory / "volumes"
        found = containers_of(
            self.document,
            profiles=["ha", "archive", "monitoring"],
            volumes=self.volumes,
            password=password,
            more=[Mount(source=redis_of_the_image(), target="/usr/local/bin/redis-server", read_only=True)],
        )
        self.containers = {name: each for name, each in found.items() if name not in NOT_RUN}
        self.machine = Machine(directory, {each.host: () for each in self.containers.values()})

    def up(self) -> None:
        for container in self.containers.values():
            self.machine.start(container)

    def running(self, service: str) -> Running:
        return self.machine.running[self.containers[service].host]

    def wait_until_healthy(self, *services: str) -> None:
        """By the health checks of the file."""
        for service in services or self.containers:
            checked = self.document["services"][service]
            if "test" in checked.get("healthcheck", {}):
                running, command = self.running(service), health_check(checked)
                eventually(lambda r=running, c=command: _is_healthy(r, c), service, patience_s=PATIENCE_S)  # type: ignore[misc]

    def status(self) -> dict[str, Any]:
        done = next(each for each in map(self.running, NODES) if each.is_up).exec(["replicator", "status", "--json"])
        told: dict[str, Any] = json.loads(done.stdout or "{}")
        return told

    def archived(self) -> str:
        """The document of the registry as the archive has it."""
        time.sleep(0.5)  # a process each time
        shown = ["replicator", "show", "--archive", "/data/archive", "--at", "latest", "--document"]
        done = self.running("archive").exec(shown)
        print(done.stderr)
        return done.stdout

    def redis_role(self, service: str) -> str:
        """`master` or `slave`; empty: it does not answer yet."""
        said = self.running(service).exec(
            ["sh", "-c", "REDISCLI_AUTH=$(cat /run/secrets/redis-password) redis-cli role"]
        )
        return said.stdout.split("\n")[0] if said.stdout.startswith(("master", "slave")) else ""

    def replica_that_leads(self) -> str | None:
        replicas = ("redis-replica-1", "redis-replica-2")
        return next((name for name in replicas if self.redis_role(name) == "master"), None)

    @contextmanager
    def without_sentinels(self) -> Iterator[None]:
        """They stand still meanwhile: on a busy machine a restart takes longer than they wait for a server."""
        self._signal_sentinels("STOP")
        yield
        self._signal_sentinels("CONT")

    def _signal_sentinels(self, signal: str) -> None:
        for service in SENTINELS:
            self.running(service).exec(["sh", "-c", f"kill -{signal} -1"]).check_returncode()

    def ask(self, service: str, method: str, path: str, **more: Any) -> httpx.Response | None:
        """None: no answer."""
        url = f"http://{self.machine.address(self.containers[service].host)}:8000{path}"
        try:
            return plain_http.request(method, url, timeout=10.0, **more)
        except httpx.TransportError:
            return None

    def leads(self) -> str | None:
        """The node that answers `/primary`, as a load balancer sees it."""
        for service in NODES:
            answer = self.ask(service, "GET", "/primary")
            if answer is not None and answer.status_code == 200:
                return service
        return None

    def write(self, name: str) -> str | None:
        """Register a node of this name at whoever leads, again and again; the service that took it."""
        leads = self.leads()
        headers = {"Idempotency-Key": f'"{name}"'}
        answer = self.ask(leads, "POST", "/v1/nodes", json={"hostname": name}, headers=headers) if leads else None
        return leads if answer is not None and answer.is_success else None

    def names(self, service: str) -> set[str]:
        answer = self.ask(service, "GET", "/v1/nodes")
        if answer is None or not answer.is_success:
            return set()
        return {each["hostname"] for each in answer.json()["nodes"]}


NODES = ("node-a", "node-b", "node-c")

SENTINELS = ("sentinel-1", "sentinel-2", "sentinel-3")


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    needs(can_contain(), "root, iproute2 and an overlay that can be mounted")
    stack = Stack(tmp_path)
    try:
        stack.machine.open()
        stack.up()
        yield stack
    finally:
        stack.machine.close()


def test_all_profiles_come_up_and_survive_a_primary_and_a_redis(stack: Stack) -> None:
    # given
    stack.wait_until_healthy()
    first = eventually(lambda: stack.write("first"), patience_s=PATIENCE_S)
    _is_locked_up(stack.running(first))
    # when the primary's container is killed as a whole
    stack.running(first).kill()
    # then another one leads by itself, and has everything; it comes back as a standby
    second = eventually(lambda: stack.write("second"), patience_s=PATIENCE_S)
    assert second != first
    stack.machine.start(stack.containers[first])
    stack.wait_until_healthy(first)
    # when the Redis that all started with is killed
    assert stack.redis_role("redis") == "master"
    stack.running("redis").kill()
    # then the Sentinels make another one the master, and the nodes find it
    eventually(lambda: stack.write("third"), patience_s=PATIENCE_S)
    master = eventually(stack.replica_that_leads, patience_s=PATIENCE_S)
    # and each server is what it was last when it is started again, whatever the file says of its first start
    stack.machine.start(stack.containers["redis"])
    eventually(lambda: stack.redis_role("redis") == "slave", patience_s=PATIENCE_S)
    with stack.without_sentinels():
        stack.running(master).stop()
        stack.machine.start(stack.containers[master])
        assert eventually(lambda: stack.redis_role(master), patience_s=PATIENCE_S) == "master"
    stack.wait_until_healthy()
    eventually(lambda: stack.write("fourth"), patience_s=PATIENCE_S)
    # and nothing that was acknowledged is gone, on any node, and in the archive
    for service in NODES:
        eventually(lambda each=service: stack.names(each) == {"first", "second", "third", "fourth"})  # type: ignore[misc]
    queued = stack.running("node-a").exec(["replicator", "snapshot", "--queue"])
    assert queued.returncode == 0, queued.stderr
    eventually(lambda: "fourth" in stack.archived(), "an archive that has it", patience_s=PATIENCE_S)
    # and Prometheus has the nodes and the rules
    _prometheus_has_found(Prometheus(f"http://{stack.machine.address('prometheus')}:9090"))
    # and it ends in order: SIGTERM, which the init passes on
    assert [stack.running(service).stop() for service in (*NODES, "archive", "worker")] == [0] * 5


def _is_healthy(running: Running, command: list[str]) -> bool:
    assert running.is_up, running.said
    if running.exec(command).returncode == 0:
        return True
    time.sleep(0.5)  # a process each time
    return False


def _is_locked_up(node: Running) -> None:
    status = node.exec(["cat", "/proc/self/status"]).stdout
    assert node.exec(["touch", "/tmp/here", "/data/here"]).returncode == 0
    refused = node.exec(["touch", "/etc/here"])
    assert "Read-only file system" in refused.stderr, status
    processes = node.exec(["sh", "-c", "cat /proc/[0-9]*/status"]).stdout
    assert "CapEff:\t0000000000000000" in processes
    assert "NoNewPrivs:\t1" in processes


def _prometheus_has_found(prometheus: Prometheus) -> None:
    targets = {f"{service}:8000": "up" for service in NODES} | {"archive:9108": "up"}

    def found() -> dict[str, str]:
        return {each["labels"]["instance"]: each["health"] for each in prometheus.ask("targets")["activeTargets"]}

    eventually(lambda: found() == targets, "targets that are up", patience_s=PATIENCE_S)
    rules = {rule["alert"] for group in yaml.safe_load(files.rules())["groups"] for rule in group["rules"]}
    loaded = {rule["name"] for group in prometheus.ask("rules")["groups"] for rule in group["rules"]}
    assert loaded == rules
    scraped = "replicator_may_write"
    eventually(lambda: sorted(prometheus.value(scraped).values()) == [0, 0, 1], scraped, patience_s=PATIENCE_S)
