"""Runs an example on this machine: a Redis, and three processes of its service, until Ctrl-C.

    python -m examples.flags

Each process is told by its environment who it is: NAME, REPLICATOR_REDIS, DATA_DIR and URL. In production something
else does what this does: supervisord, systemd, Kubernetes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from replicator.runtime.signals import on_end
from replicator.sandbox.redis_server import RedisServer, free_port

__all__ = ["Place", "main", "running"]

#: What starts one process: from its port to its command line.
Command = Callable[[int], Sequence[str]]

NAMES = ("a", "b", "c")

#: A process gives its lease back before it ends.
END_S = 30.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where one process of the service is."""

    name: str
    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def running(command: Command, directory: Path, names: Sequence[str] = NAMES) -> Iterator[tuple[str, list[Place]]]:
    """The service, as long as the block lasts: the URL of its Redis, and its processes. Their data is in `directory`."""
    with ExitStack() as stack:
        server = stack.enter_context(RedisServer(directory / "redis"))
        places = [_start(command, name, directory / name, server.url) for name in names]
        stack.callback(_end, places)
        yield server.url, places


def _start(command: Command, name: str, data_dir: Path, redis: str) -> Place:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {**os.environ, "NAME": name, "DATA_DIR": str(data_dir), "URL": url, "REPLICATOR_REDIS": redis}
    return Place(name, url, subprocess.Popen([sys.executable, "-m", *command(port)], env=env))


def _end(places: Sequence[Place]) -> None:
    for place in places:
        place.process.send_signal(signal.SIGTERM)
    for place in places:
        place.process.wait(END_S)


def main(command: Command, group: str, say: str) -> None:
    """Run it until Ctrl-C. `say`: what to try, with the URL of the first process for `{url}`."""
    ended: list[int] = []
    on_end(lambda number, _: ended.append(number))
    with tempfile.TemporaryDirectory(prefix="replicator-") as directory:
        with running(command, Path(directory)) as (redis, places):
            for place in places:
                print(f"{place.name}: {place.url}")
            print(f"replicator --redis {redis} --group {group} status")
            print(say.format(url=places[0].url), flush=True)
            while not ended:
                signal.pause()
