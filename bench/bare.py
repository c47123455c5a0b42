"""`XADD` without redis-py: over a bare socket, and by the benchmark that comes with the server.

The one is the floor of what a Python client costs, the other one is what the server and the machine can do at most.
"""

from __future__ import annotations

import csv
import io
import os
import socket
import subprocess
from typing import Any

import hiredis

from bench.binaries import Program, find_program
from bench.harness import plain_client
from bench.loads import Pace

__all__ = ["BareSocket", "ServerBenchmark"]


class BareSocket:
    """A connection that hiredis packs for and reads from, and nothing else."""

    def __init__(self, url: str) -> None:
        options = _options_of(url)
        place = _place_of(options)
        if isinstance(place, str):
            self._socket = socket.socket(socket.AF_UNIX)
        else:
            self._socket = socket.socket()
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect(place)
        self._reader = hiredis.Reader()
        if options.get("password"):
            self.command("AUTH", options.get("username") or "default", options["password"])
        if options.get("db"):
            self.command("SELECT", str(options["db"]))

    def command(self, *parts: bytes | str) -> object:
        self._socket.sendall(hiredis.pack_command(parts))  # type: ignore[arg-type]  # its stub has a tuple of one part
        while (answer := self._reader.gets()) is False:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise RuntimeError("the server closed the connection")
            self._reader.feed(chunk)
        if isinstance(answer, hiredis.ReplyError):
            raise answer
        return answer

    def close(self) -> None:
        self._socket.close()


def _options_of(url: str) -> dict[str, Any]:
    with plain_client(url) as client:
        return dict(client.get_connection_kwargs())


def _place_of(options: dict[str, Any]) -> str | tuple[str, int]:
    if "path" in options:
        return str(options["path"])
    return str(options.get("host", "localhost")), int(options.get("port", 6379))


class ServerBenchmark:
    """`redis-benchmark` with one client, or `valkey-benchmark`."""

    #: It is told how many to send, not how long: so many for each second that it is to take, or a little less.
    A_SECOND = 20_000

    def __init__(self, program: Program, url: str) -> None:
        self._program = program
        options = _options_of(url)
        place = _place_of(options)
        where = ["-s", place] if isinstance(place, str) else ["-h", place[0], "-p", str(place[1])]
        if options.get("password"):
            where += ["--user", options.get("username") or "default", "-a", options["password"]]
        if options.get("db"):
            where += ["--dbnum", str(options["db"])]
        self._argv = [str(program.path), *where, "-c", "1", "--csv"]

    @classmethod
    def found(cls, url: str) -> ServerBenchmark | None:
        program = find_program("valkey-benchmark", "redis-benchmark")
        return None if program is None else cls(program, url)

    @property
    def version(self) -> str:
        return self._program.version

    def xadd(self, stream: str, body: bytes, seconds: float) -> Pace:
        changes = max(100, int(self.A_SECOND * seconds))
        argv = [*self._argv, "-n", str(changes), "XADD", stream, "*", "b", body.decode()]
        before = _cpu_of_children_s()
        done = subprocess.run(argv, env=self._program.environment, capture_output=True, text=True, check=True)
        cpu_us = (_cpu_of_children_s() - before) * 1e6
        found = next(csv.DictReader(io.StringIO(done.stdout)))
        p50_us, p99_us = (float(found[f"p{percent}_latency_ms"]) * 1e3 for percent in (50, 99))
        return Pace(float(found["rps"]), p50_us, p99_us, cpu_us / changes, changes)


def _cpu_of_children_s() -> float:
    times = os.times()
    return times.children_user + times.children_system
