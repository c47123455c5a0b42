"""What a soak runs: the dev stack (a Redis, three nodes of a registry, a job worker), and two hosts of small groups.

All of it is in processes of their own, which one end with this one (`replicator.sandbox.stack`, `bench.harness.Child`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from bench.harness import Child, plain_client
from bench.soak import hosts, samples
from replicator import ops
from replicator.errors import LogUnavailable, ReplicatorError
from replicator.log.redis_log import RedisLog
from replicator.protocol import election
from replicator.sandbox.stack import NODES, DevStack

__all__ = ["HOSTS", "Scene", "series_there_are"]

HOSTS = ("a", "b")

#: Long enough that a busy machine loses none by itself, and short enough that failovers do not take up the time.
LEASE_S = 3.0

#: How long a group may take until all of its nodes are in step. Nodes that took the term often lately wait for a
#: minute before they do it again.
SETTLE_S = 120.0

POLL_S = 0.1

#: By default glibc gives threads heaps of their own, up to 8 a processor, and each keeps what was freed in it: memory
#: rises for many rounds, to a plateau that says nothing of who leaks.
MALLOC = {"MALLOC_ARENA_MAX": "2"}


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """For processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def series_there_are() -> list[str]:
    """The names of series of which a soak that does not look at everything lacks some."""
    programs = [*(f"node {name}" for name in NODES), *(f"host {name}" for name in HOSTS), "redis"]
    found = [f"{whose}: {what}" for whose in programs for what in samples.OF_PROCESS]
    found += [f"{whose}, disk: {what}" for whose in programs for what in samples.OF_DIRECTORY]
    found += [f"log files: {what}" for what in samples.OF_DIRECTORY]
    return found + [f"redis: {what}" for what in samples.OF_REDIS]


class Scene:
    """A context. `directory`: exists. `groups`: how many small ones."""

    def __init__(self, directory: Path, groups: int) -> None:
        self._directory = directory
        self._open = ExitStack()
        self.stack = DevStack(
            directory / "stack",
            port=0,
            group="soak-registry",
            environment={"REPLICATOR_LEASE_S": str(LEASE_S), "REPLICATOR_AUTO_PROMOTE": "1", **MALLOC},
        )
        self.small = [f"soak-{number}" for number in range(groups)]
        self._hosts: dict[str, Child] = {}
        self.hosts_started = 0
        self._logs: dict[str, RedisLog] = {}

    def __enter__(self) -> Scene:
        with self._open as opened:
            opened.enter_context(self.stack)
            self.stack.wait_ready()
            self._logs = {group: RedisLog(self.stack.redis_url, group) for group in (self.stack.group, *self.small)}
            for log in self._logs.values():
                opened.callback(log.close)
            self.client: Any = opened.enter_context(plain_client(self.stack.redis_url))
            self._lead()
            opened.callback(self._end_hosts)
            for name in HOSTS:
                self.start_host(name)
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _lead(self) -> None:
        deadline = time.monotonic() + SETTLE_S
        while True:
            try:
                ops.promote(self.registry, NODES[0], by="soak", reason="the first primary", expect=0)
                return
            except ReplicatorError:  # it has not reported yet, or another one leads by itself meanwhile
                if self.registry.look().term > 0:
                    return
                if time.monotonic() > deadline:
                    raise
                time.sleep(POLL_S)

    # --- what is there -----------------------------------------------------------------------------------------------

    @property
    def registry(self) -> RedisLog:
        return self._logs[self.stack.group]

    def log(self, group: str) -> RedisLog:
        return self._logs[group]

    def data_dirs(self) -> dict[str, Path]:
        return {f"node {name}": self.stack.directory / name for name in NODES} | {
            f"host {name}": self._host_dir(name) for name in HOSTS
        }

    def _host_dir(self, name: str) -> Path:
        return self._directory / f"host-{name}"

    def pids(self) -> dict[str, int]:
        programs = {name.replace("node-", "node "): pid for name, pid in self.stack.pids().items()}
        return programs | {f"host {name}": child.pid for name, child in list(self._hosts.items())}

    def sampled(self) -> dict[str, float]:
        """All that can be seen now: by whose it is, and what."""
        found: dict[str, float] = {}

        def take(whose: str, of_it: Mapping[str, float]) -> None:
            found.update({f"{whose}: {what}": value for what, value in of_it.items()})

        for name, pid in self.pids().items():
            take(name, samples.of_process(pid))
        for name, place in self.data_dirs().items():
            take(f"{name}, disk", samples.of_directory(place))
        take("redis, disk", samples.of_directory(self.stack.directory / "redis"))
        take("log files", samples.of_directory(self.stack.directory / "log"))
        with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):  # it is being restarted
            take("redis", samples.of_redis(self.client))
        return found

    def snapshot_bytes(self) -> list[int]:
        """Of the newest snapshot of each group, as its primary tells."""
        return [ops.status(log).snapshot_bytes or 0 for log in self._logs.values()]

    def forks(self) -> Iterator[Path]:
        for place in self.data_dirs().values():
            yield from place.rglob("forks/*.sqlite")

    # --- what is waited for ------------------------------------------------------------------------------------------

    def settle(self, groups: Iterable[str] | None = None, *, within_s: float = SETTLE_S) -> None:
        """Wait until somebody leads each of these groups (all), and each of its nodes has told since that it follows.

        Raises `ReplicatorError`, with what is missing.
        """
        since, deadline = time.monotonic(), time.monotonic() + within_s
        for group in groups or self._logs:
            while (missing := self._missing(group, time.monotonic() - since)) is not None:
                if time.monotonic() > deadline:
                    raise ReplicatorError(f"group {group} is not in step after {within_s:.0f} s: {missing}")
                time.sleep(POLL_S)

    def _missing(self, group: str, age_s: float) -> str | None:
        try:
            look = self.log(group).look()
        except LogUnavailable as unavailable:
            return str(unavailable)
        if not election.is_settled(look):
            return "nobody leads"
        for name in NODES if group == self.stack.group else HOSTS:
            heartbeat = look.heartbeats.get(name)
            if heartbeat is None or not heartbeat.alive or heartbeat.age_ms / 1000 > age_s:
                return f"{name} does not report"
            if (heartbeat.run, heartbeat.term, heartbeat.in_sync) != (look.run, look.term, True):
                return f"{name} is not in step: {heartbeat.problem or heartbeat.stalled}"
        return None

    # --- what is done ------------------------------------------------------------------------------------------------

    def start_host(self, name: str) -> None:
        place = self._host_dir(name)
        arguments = self.stack.redis_url, self.small, place, name, LEASE_S
        with environment(MALLOC):
            self._hosts[name] = Child(hosts.be_host, *arguments)
        self.hosts_started += 1
        self._hosts[name].hear()

    def end_host(self, name: str, *, kill: bool) -> None:
        child = self._hosts.pop(name)
        if kill:
            child.kill()
        child.close()

    def ask_host(self, name: str, what: str, batches: int = 0) -> tuple[int, int, int]:
        """What it wrote, was refused, and read."""
        told: tuple[int, int, int] = self._hosts[name].ask((what, batches))
        return told

    def _end_hosts(self) -> None:
        for name in list(self._hosts):
            self.end_host(name, kill=False)

    def kill(self, program: str) -> None:
        """It comes back by itself."""
        self.stack.signal(program, signal.SIGKILL)
