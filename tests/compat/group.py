"""A group of `program` whose nodes each run a code of their own: today's, or what an earlier commit had."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import redis

from replicator.sandbox.redis_server import RedisServer
from tests.compat.program import GROUP
from tests.support.kv import PATIENCE_S, eventually
from tests.support.orders import TakesOrders

ROOT = Path(__file__).parents[2]

#: The class of the state, for commands that fold changes.
STATE = "tests.compat.program:Counters"


class NoSuchCommit(Exception):
    """There is no git here, or its history does not go so far back."""


def code_of(commit: str, directory: Path) -> Path:
    """What `commit` had, laid into `directory`: the way to its packages. `NoSuchCommit`: it cannot be had here."""
    if not (ROOT / ".git").exists():
        raise NoSuchCommit("this is no checkout of git")
    archive = directory / "code.tar"
    command = ["git", "archive", "--output", str(archive), commit, "replicator", "workers", "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoSuchCommit(f"git does not give {commit}: {done.stderr.strip()[-200:]}")
    with tarfile.open(archive) as packed:
        packed.extractall(directory / "code", filter="data")
    return directory / "code"


def python_with(code: Path | None) -> tuple[list[str], dict[str, str]]:
    """The words and the environment that run Python with this code; without one, with that which runs this."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
    ways = [str(code), str(ROOT)] if code else [str(ROOT)]
    # -P: the directory in which it runs is not looked into first
    return [sys.executable, "-P"], known | {"PYTHONPATH": os.pathsep.join(ways)}


class Process(TakesOrders):
    """One node, with the code that it was given."""

    def __init__(self, code: Path | None, name: str, url: str, data_dir: Path) -> None:
        python, environment = python_with(code)
        super().__init__([*python, "-m", "tests.compat.program", name, url, str(data_dir)], environment=environment)
        assert self.answer() == "started"

    def tell(self, **order: Any) -> Any:
        told = self.order(order)
        assert "answer" in told, told
        return told["answer"]


class Group:
    """The nodes, over one Redis, and what was acknowledged."""

    def __init__(self, server: RedisServer, directory: Path) -> None:
        self.url = server.url
        self.directory = directory
        self.nodes: dict[str, Process] = {}
        self.added: dict[str, int] = {}

    def start(self, name: str, code: Path | None = None) -> Process:
        self.nodes[name] = Process(code, name, self.url, self.directory / name)
        return self.nodes[name]

    def stop(self, *names: str) -> None:
        for name in names or tuple(self.nodes):
            self.nodes.pop(name).stop()

    def add(self, name: str, counter: str, n: int, **more: str) -> None:
        """Write to the node that leads."""
        self.added[counter] = self.added.get(counter, 0) + n
        assert self.nodes[name].tell(add=[counter, n], **more) == self.added[counter]

    def command(self, *args: object, code: Path | None = None) -> str:
        """What a command said on stdout, run by this code."""
        python, environment = python_with(code)
        words = ["-c", "from replicator.cli import main; main()", "--redis", self.url, "--group", GROUP]
        done = subprocess.run(
            [*python, *words, *map(str, args)], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{args}: {done.stdout}{done.stderr}"
        return done.stdout

    def promote(self, name: str, *more: str, code: Path | None = None) -> None:
        self.command("promote", name, "--timeout", PATIENCE_S, *more, code=code)

    def equal(self) -> None:
        """All nodes have what was acknowledged, and nothing else."""
        eventually(
            lambda: all(node.tell(read=None)["numbers"] == self.added for node in self.nodes.values()),
            "that all nodes have it all",
            patience_s=3 * PATIENCE_S,
        )


def dump(url: str) -> list[dict[str, Any]]:
    """The keys of the group, as plain values that any Redis takes. What runs out (a lease) is left out."""
    client = redis.Redis.from_url(url)
    kept = [key for key in sorted(client.scan_iter("replicator:*")) if client.pttl(key) == -1]
    return [{"key": _text(key), **_value(client, key)} for key in kept]


def load(url: str, dumped: list[dict[str, Any]]) -> None:
    """Put back what `dump` gave."""
    client = redis.Redis.from_url(url)
    for each in dumped:
        key = _bytes(each["key"])
        if each["type"] == "string":
            client.set(key, _bytes(each["value"]))
        elif each["type"] == "hash":
            client.hset(key, mapping={_bytes(name): _bytes(value) for name, value in each["value"]})
        else:
            for entry, fields in each["value"]:
                client.xadd(key, {_bytes(name): _bytes(value) for name, value in fields}, id=entry)


def _value(client: redis.Redis, key: bytes) -> dict[str, Any]:
    kind = client.type(key).decode()
    if kind == "string":
        return {"type": kind, "value": _text(client.get(key))}
    if kind == "hash":
        return {"type": kind, "value": _pairs(client.hgetall(key))}
    if kind == "stream":
        entries: Any = client.xrange(key)
        return {"type": kind, "value": [[entry.decode(), _pairs(fields)] for entry, fields in entries]}
    raise ValueError(f"{key!r} is a {kind}: teach this to dump it")


def _pairs(mapping: Any) -> list[list[str]]:
    return [[_text(name), _text(value)] for name, value in mapping.items()]


def _text(value: Any) -> str:
    return base64.b64encode(value).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)
