"""A client of three real nodes that are killed, paused and started again while it writes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from replicator import UnknownGroup, ops
from replicator.client import AsyncClient, Client
from replicator.format.ids import RecordId
from replicator.log.redis_log import RedisLog
from replicator.protocol.heartbeat import Heartbeat
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import PATIENCE_S, eventually, in_thread

#: A busy machine needs some failovers more than one, and each of them takes its time there.
DEADLINE_S = 5 * PATIENCE_S

WRITERS = 4


class Group:
    """Nodes of the registry, as processes."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.log = RedisLog(url, "g")
        self._directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        env = {
            **os.environ, "REPLICATOR_REDIS": self.url, "REPLICATOR_GROUP": "g", "REPLICATOR_LEASE_S": "3",
            "REPLICATOR_AUTO_PROMOTE": "1", "REPLICATOR_HTTP": "127.0.0.1:0",
            "REPLICATOR_DATA_DIR": str(self._directory / name),
        }  # fmt: skip
        with (self._directory / f"{name}.log").open("a") as log:
            command = [sys.executable, "-m", "replicator.workers.node", "--name", name]
            self._processes[name] = subprocess.Popen(command, env=env, stdout=log, stderr=log)

    @property
    def leader(self) -> str:
        """Who leads, and is in order."""

        def leads() -> str:
            look = self.log.look()
            held = look.head is not None and look.lease_ms and look.heartbeats.get(look.head.node)
            return look.head.node if held and look.head else ""

        return str(eventually(leads, "a leader"))

    def kill(self, name: str) -> None:
        self._processes[name].kill()
        self._processes[name].wait()

    def signal(self, name: str, number: int) -> None:
        self._processes[name].send_signal(number)

    def is_all_there(self) -> bool:
        heartbeats = self.log.look().heartbeats.values()
        return sum(each.alive and bool(each.http) and each.in_sync for each in heartbeats) == 3

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self.log.close()


@pytest.fixture
def group(any_redis: RedisServer, tmp_path: Path) -> Iterator[Group]:
    group = Group(any_redis.url, tmp_path)
    try:
        for name in "abc":
            group.start(name)
        eventually(lambda: "a" in group.log.look().heartbeats, patience_s=3 * PATIENCE_S)
        ops.promote(group.log, "a", by="test", timeout_s=PATIENCE_S)
        eventually(group.is_all_there, "three nodes", patience_s=3 * PATIENCE_S)
        yield group
    finally:
        group.close()


class Faults:
    """What befalls the primary until the writers are done: it is killed, and it is paused longer than its lease."""

    def __init__(self, group: Group) -> None:
        self.group = group
        self.done = threading.Event()
        self.result = patient(self._befall)

    def _befall(self) -> int:
        for count in range(4):
            (self._kill if count % 2 else self._pause)(self.group.leader)
            self.done.wait(0.5)
        self.done.set()
        return 4

    def _kill(self, name: str) -> None:
        self.group.kill(name)
        eventually(lambda: self.group.leader != name, "another leader")
        self.group.start(name)

    def _pause(self, name: str) -> None:
        self.group.signal(name, signal.SIGSTOP)
        try:
            eventually(lambda: self.group.leader != name, "another leader")
        finally:
            self.group.signal(name, signal.SIGCONT)


OPTIONS: dict[str, Any] = {"timeout_s": DEADLINE_S, "attempt_timeout_s": 1.0}


def check(group: Group, written: list[tuple[str, int]], attempts: list[str]) -> None:
    """Each write landed once, with the answer that its writer got; and some had to be sent again."""
    with Client(group.url, "g", **OPTIONS) as client:
        nodes = client.get("/v1/state", fresh=True).json()["nodes"]
    owners = sorted(record["owner"] for record in nodes.values())
    assert owners == sorted(owner for owner, _ in written), "each once"
    assert {int(number): record["owner"] for number, record in nodes.items()} == {id_: owner for owner, id_ in written}
    assert len(attempts) > len(written)
    assert len(set(attempts)) == len(written), "a key each, whatever it took"


def test_keyed_writes_of_threads_land_once_and_are_read_at_once(group: Group) -> None:
    attempts: list[str] = []

    def note(request: Any) -> None:
        if request.method == "POST":
            attempts.append(request.headers["idempotency-key"])

    faults = Faults(group)
    with Client(group.url, "g", **OPTIONS, http={"event_hooks": {"request": [note]}}) as client:

        def writing(writer: int) -> Callable[[], list[tuple[str, int]]]:
            def write() -> list[tuple[str, int]]:
                written: list[tuple[str, int]] = []
                while not faults.done.is_set() or len(written) < 5:
                    owner = f"{writer}-{len(written)}"
                    id_ = client.post("/v1/nodes", json={"owner": owner}).json()["id"]
                    assert client.get(f"/v1/nodes/{id_}").json()["owner"] == owner, "its own write"
                    written.append((owner, id_))
                return written

            return patient(write)

        def reading() -> int:
            before, count = RecordId(0, 0), 0
            with Client(group.url, "g", **OPTIONS) as reader:
                while not faults.done.is_set():
                    position = RecordId.parse(reader.get("/v1/nodes").headers["replicator-position"])
                    assert position >= before, "a read went back"
                    before, count = position, count + 1
            return count

        writers, reader = [writing(number) for number in range(WRITERS)], patient(reading)
        written = [each for writer in writers for each in writer()]
        assert reader() > 0
    faults.result()
    check(group, written, attempts)


def test_keyed_writes_of_tasks_land_once(group: Group) -> None:
    attempts: list[str] = []

    async def note(request: Any) -> None:
        if request.method == "POST":
            attempts.append(request.headers["idempotency-key"])

    faults = Faults(group)

    async def work() -> list[tuple[str, int]]:
        hooks = {"event_hooks": {"request": [note]}}
        async with AsyncClient(group.url, "g", **OPTIONS, http=hooks) as client:

            async def write(writer: int) -> list[tuple[str, int]]:
                written: list[tuple[str, int]] = []
                while not faults.done.is_set() or len(written) < 5:
                    owner = f"{writer}-{len(written)}"
                    result = await client.submit({"op": "register", "owner": owner})
                    answer = await client.get(f"/v1/nodes/{result['id']}")
                    assert answer.json()["owner"] == owner, "its own write"
                    written.append((owner, result["id"]))
                return written

            return [each for its in await asyncio.gather(*map(write, range(WRITERS))) for each in its]

    written = asyncio.run(work())
    faults.result()
    check(group, written, attempts)


def patient(work: Callable[[], Any]) -> Callable[[], Any]:
    """On a thread that may take as long as all the faults together."""
    return in_thread(work, patience_s=DEADLINE_S)


def test_reads_are_from_standbys_and_writes_go_to_the_primary(group: Group) -> None:
    with Client(group.url, "g", **OPTIONS) as client:
        assert client.post("/v1/nodes", json={"owner": "x"}).headers["replicator-role"] == "primary"

        def reads(**options: Any) -> Any:
            # Now and then a standby is not in time on a busy machine, and the primary is read.
            return client.get("/v1/nodes/1", **options).headers["replicator-role"] == "standby"

        eventually(reads, "a read from a standby")
        eventually(lambda: reads(fresh=True), "a fresh one")


def test_a_group_that_nobody_knows_is_told_with_those_that_there_are(any_redis: RedisServer) -> None:
    with closing(RedisLog(any_redis.url, "g")) as log:
        log.beat(Heartbeat("a", "1"))
    with Client(any_redis.url, "h") as client, pytest.raises(UnknownGroup, match="the groups there are: g"):
        client.get("/v1/nodes", timeout_s=2.0)
