"""docker/kubernetes/ without a cluster (tests/support/containers.py): the containers of its pods, with their commands,
environment, files and volumes, asked by their probes, and a pod that is deleted: preStop, then SIGTERM. The load
balancer asks a name server for the pods, as in a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import plain_http
from tests.support.containers import Machine, Mount, can_contain
from tests.support.kv import eventually
from tests.support.manifests import Pod, pods_of, read_manifests
from tests.support.name_server import name_server
from tests.support.needs import needs
from tests.support.servers import redis_of_the_image

PATIENCE_S = 300.0

NODES = ("registry-0", "registry-1", "registry-2")

BALANCER = "registry-haproxy-0"

pytestmark = pytest.mark.slow


class Cluster:
    def __init__(self, directory: Path) -> None:
        (directory / "volumes").mkdir()
        secrets = {"redis": {"password": "0123456789abcdef"}}
        self.pods = pods_of(read_manifests(), directory=directory / "volumes", secrets=secrets)
        self.machine = Machine(directory, {name: pod.aliases for name, pod in self.pods.items()})

    def up(self) -> None:
        server = Mount(source=redis_of_the_image(), target="/usr/local/bin/redis-server", read_only=True)
        resolv = self.machine.directory / "resolv.conf"
        resolv.write_text(f"nameserver {self.machine.watcher}\n")
        for pod in self.pods.values():
            brought = [server, Mount(source=resolv, target="/etc/resolv.conf")]
            pod.container.mounts = [*brought, *pod.container.mounts]
            self.machine.start(pod.container)

    def asked(self, name: str, method: str, path: str, port: int, **more: str) -> httpx.Response | None:
        """None: no answer."""
        url = f"http://{self.machine.address(name)}:{port}{path}"
        try:
            return plain_http.request(method, url, timeout=10.0, json=more or None, headers={"Host": "registry"})
        except httpx.TransportError:
            return None

    def hosts_at(self, name: str) -> set[str]:
        """The hosts that this node has in its registry; none if it does not answer."""
        found = self.asked(name, "GET", "/v1/nodes", 8000)
        if found is None or not found.is_success:
            return set()
        return {node["hostname"] for node in found.json()["nodes"]}

    def passes(self, pod: Pod, probe: str) -> bool:
        assert self.machine.running[pod.name].is_up, self.machine.running[pod.name].said
        port, path = pod.probe(probe)
        answer = self.asked(pod.name, "GET", path, port)
        return answer is not None and answer.is_success

    def leads(self) -> str | None:
        answers = {name: self.asked(name, "GET", "/primary", 8000) for name in NODES}
        return next((name for name, answer in answers.items() if answer is not None and answer.is_success), None)

    def write(self, hostname: str, at: str = BALANCER, port: int = 8080) -> httpx.Response | None:
        """None: it was not taken, nor redirected."""
        answer = self.asked(at, "POST", "/v1/nodes", port, hostname=hostname)
        return answer if answer is not None and answer.status_code < 400 else None


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    needs(can_contain(), "root, iproute2 and an overlay that can be mounted")
    cluster = Cluster(tmp_path)
    try:
        cluster.machine.open()
        with name_server(cluster.machine.watcher, cluster.machine.names()):
            cluster.up()
            yield cluster
    finally:
        cluster.machine.close()


def test_the_pods_are_ready_and_one_that_is_deleted_hands_over(cluster: Cluster) -> None:
    # given: ready by the probes of the manifests, and a primary that the load balancer finds by name
    for name in (*NODES, BALANCER):
        eventually(lambda pod=cluster.pods[name]: cluster.passes(pod, "readinessProbe"), name, patience_s=PATIENCE_S)  # type: ignore[misc]
    assert all(cluster.passes(cluster.pods[name], "livenessProbe") for name in NODES)
    eventually(lambda: cluster.write("first"), patience_s=PATIENCE_S)
    leads = eventually(cluster.leads, patience_s=PATIENCE_S)
    # a write to any node is redirected to the primary's own name
    standby = next(name for name in NODES if name != leads)
    redirect = eventually(lambda: cluster.write("redirected", at=standby, port=8000), patience_s=PATIENCE_S)
    assert redirect.status_code == 307
    assert redirect.headers["Location"] == f"http://{leads}.registry.replicator.svc:8000/v1/nodes"
    # when the primary's pod is deleted
    pod, running = cluster.pods[leads], cluster.machine.running[leads]
    before_stop = pod.of_the_container["lifecycle"]["preStop"]["exec"]["command"]
    assert running.exec(before_stop).returncode == 0
    assert cluster.leads() == leads, "it serves on until everybody has heard that it goes"
    asked = time.monotonic()
    assert running.stop() == 0
    # then another one leads
    eventually(lambda: cluster.write("second"), patience_s=PATIENCE_S)
    print(f"a write was taken {time.monotonic() - asked:.2f} s after SIGTERM")
    # and what comes again under that name is a standby, with what it had
    cluster.machine.start(pod.container)
    eventually(lambda: cluster.passes(pod, "readinessProbe"), leads, patience_s=PATIENCE_S)
    eventually(lambda: {"first", "second"} <= cluster.hosts_at(leads), "it follows", patience_s=PATIENCE_S)
    # and jobs and archive do their work
    queued = cluster.machine.running["registry-jobs-0"].exec(["replicator", "verify", "--queue"])
    assert queued.returncode == 0, queued.stderr
    archiver = cluster.machine.running["registry-archive-0"]
    archived = ["test", "-e", "/data/archive/archiver.json"]
    eventually(lambda: archiver.exec(archived).returncode == 0, "an archive", patience_s=PATIENCE_S)
