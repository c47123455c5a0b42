"""Runs an example on this machine: a Redis, and three processes of its service, until Ctrl-C.

    python -m examples.flags

Each process is told by its environment who it is, as `Node.from_env` reads it (docs/deploy.md). In production something
else does what this does: supervisord, systemd, Kubernetes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template

from replicator.runtime.signals import on_end
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.redis_server import RedisServer

#: What starts one process: from its port to the arguments of `python -m`.
Command = Callable[[int], Sequence[str]]

NAMES = ("a", "b", "c")

#: A process gives its lease back before it ends.
END_S = 30.0

#: Whatever proxy the environment names, it is not for this machine.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Place:
    """Where one process of the service is. It leads a process group, which has all that it starts."""

    name: str
    url: str
    process: subprocess.Popen[bytes]

    def knows_a_primary(self) -> bool:
        if self.process.poll() is not None:
            raise SystemExit(f"{self.name} ended with exit code {self.process.returncode}")
        with contextlib.suppress(OSError), DIRECT.open(f"{self.url}/health") as answer:
            health = json.load(answer)
            return bool(health["leads"] or health["primary_http"])
        return False

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self) -> None:
        self.process.terminate()
        self.send(signal.SIGCONT)  # it may be stopped
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.process.wait()


@contextmanager
def running(command: Command, directory: Path) -> Iterator[tuple[str, list[Place]]]:
    """The service, as long as the block lasts: the URL of its Redis, and its processes. Its data is in `directory`."""
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer(directory / "redis")).url
        places = []
        for name in NAMES:
            places.append(_start(command, name, directory / name, redis))
            stack.callback(places[-1].end)
        yield redis, places


def _start(command: Command, name: str, data_dir: Path, redis: str) -> Place:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"NAME": name, "ADVERTISE": url, "DATA_DIR": str(data_dir), "REDIS": redis}
    env = {**os.environ, **{f"REPLICATOR_{setting}": value for setting, value in settings.items()}}
    # A session of its own: a Ctrl-C at the terminal is for us, and we end the processes in our own order.
    process = subprocess.Popen([sys.executable, "-m", *command(port)], env=env, start_new_session=True)
    return Place(name, url, process)


def main(command: Command, group: str, *tries: str) -> None:
    """Run it until Ctrl-C. `tries`: commands to try, with the URLs of the processes for `$a`, `$b` and `$c`."""
    ended: list[int] = []
    on_end(lambda number, _: ended.append(number))
    with tempfile.TemporaryDirectory(prefix="replicator-") as directory, running(command, Path(directory)) as service:
        redis, places = service
        while not ended and not all(place.knows_a_primary() for place in places):
            time.sleep(0.1)
        urls = {place.name: place.url for place in places}
        for place in places:
            print(f"{place.name}  {place.url}  ends by: kill -9 -- -{place.process.pid}")
        print(f"\ntry: replicator --redis {redis} --group {group} status")
        for line in tries:
            print(f"     {Template(line).substitute(urls)}")
        print("Ctrl-C ends all of it\n", flush=True)
        while not ended:
            time.sleep(0.1)
