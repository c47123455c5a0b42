"""A rolling upgrade with real processes: the new code on one node of three, writes of both, a switchover there and
back, the way back, then all of them and `finalize`. Nothing is lost, nothing differs, and the tools say where one is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from replicator.cli import cli
from replicator.sandbox.redis_server import RedisServer
from tests.acceptance.numbers import GROUP
from tests.support.kv import PATIENCE_S, eventually
from tests.support.orders import TakesOrders

ROOT = Path(__file__).parents[2]

NODES = ("a", "b", "c")


class Process(TakesOrders):
    """One node."""

    def __init__(self, version: int, name: str, redis: str, data_dir: Path, *app: str) -> None:
        command = [sys.executable, "-m", "tests.acceptance.numbers", str(version), name, redis, str(data_dir), *app]
        super().__init__(command, cwd=ROOT)

    def started(self) -> Process:
        assert self.answer() == "started"
        return self

    def tell(self, **order: Any) -> dict[str, Any]:
        told: dict[str, Any] = self.order(order)
        return told

    def read(self) -> dict[str, Any]:
        read: dict[str, Any] = self.tell(read=None)["answer"]
        return read


class Site:
    """The three nodes, what was acknowledged, and the tools."""

    def __init__(self, redis: str, directory: Path) -> None:
        self.redis = redis
        self.directory = directory
        self.nodes: dict[str, Process] = {}
        self.added = 0
        self.notes: dict[str, str] = {}

    def start(self, version: int, name: str, *app: str) -> Process:
        self.nodes[name] = Process(version, name, self.redis, self.directory / name, *app)
        return self.nodes[name].started()

    def again(self, version: int, name: str) -> Process:
        """The node with this version of the code, on the same data."""
        self.nodes.pop(name).stop()
        return self.start(version, name)

    def add(self, name: str, n: int) -> None:
        """Write to the node that leads."""
        self.added += n
        assert self.nodes[name].tell(add=["sum", n]) == {"answer": self.added}

    def note(self, name: str, key: str, text: str) -> None:
        assert self.nodes[name].tell(note=[key, text]) == {"answer": "noted"}
        self.notes[key] = text

    def command(self, *args: str, exit_code: int = 0) -> Any:
        """What the command gave as JSON; what it said, if it failed without that."""
        head = ["--redis", self.redis, "--group", GROUP, *args]
        result = CliRunner().invoke(cli, [*head, "--output", "json"])
        assert result.exit_code == exit_code, result.output
        return json.loads(result.stdout) if result.stdout.strip() else result.stderr

    def forget(self, name: str) -> None:
        command = ["--redis", self.redis, "--group", GROUP, "forget", name]
        eventually(lambda: CliRunner().invoke(cli, command).exit_code == 0, f"that {name} counts as gone")

    def leads(self, name: str) -> None:
        self.command("switchover", "--to", name, "--timeout", str(PATIENCE_S))

    def versions(self) -> dict[str, Any]:
        return dict(self.command("versions"))

    def runs(self, **versions: int) -> None:
        """Wait until the nodes have reported by these versions of their code."""
        eventually(lambda: versions.items() <= {n["node"]: n["version"] for n in self.versions()["nodes"]}.items())

    def equal(self) -> None:
        """All nodes have the same state, which is what was acknowledged."""
        report = self.command("verify", "--timeout", str(2 * PATIENCE_S))
        assert report["equal"]
        assert len(report["digests"]) == len(NODES)
        for process in self.nodes.values():
            told = process.read()
            assert (told["numbers"], told["notes"]) == ({"sum": self.added}, self.notes)

    def check(self, name: str) -> dict[str, Any]:
        """One of the checks of `doctor`."""
        head = ["--redis", self.redis, "--group", GROUP, "doctor", "--output", "json"]
        checks = json.loads(CliRunner().invoke(cli, head).stdout)["checks"]
        (found,) = [check for check in checks if check["check"] == name]
        return dict(found)

    def problems(self) -> list[str]:
        """What the nodes have reported; as soon as there is any, `status` fails."""
        result = CliRunner().invoke(cli, ["--redis", self.redis, "--group", GROUP, "status", "--output", "json"])
        found = [node["problem"] for node in json.loads(result.stdout)["nodes"] if node["problem"]]
        assert result.exit_code == 1 or not found
        return found

    def close(self) -> None:
        for process in self.nodes.values():
            process.kill()


@pytest.fixture
def site(tmp_path: Path, any_redis: RedisServer) -> Iterator[Site]:
    site = Site(any_redis.url, tmp_path)
    yield site
    site.close()


def test_a_group_is_upgraded_node_by_node_and_loses_nothing(site: Site) -> None:
    for name in NODES:
        site.start(1, name)
    site.command("promote", "a", "--timeout", str(PATIENCE_S))
    site.add("a", 1)
    site.runs(a=1, b=1, c=1)
    now = site.versions()
    assert (now["app"], now["version"], now["next_version"], now["ready"]) == ("numbers", 1, 1, True)
    assert now["step"].startswith("nothing")

    # The new code on one node of three: the group is where it was, and everybody says so.
    site.again(2, "c")
    site.runs(c=2)
    now = site.versions()
    assert (now["version"], now["next_version"], now["ready"]) == (1, 2, False)
    assert "a reads 1, b reads 1" in now["step"]
    status = site.command("status")
    assert (status["app"], status["version"], status["problem"]) == ("numbers", 1, None)
    assert {node["node"]: node["reads_max"] for node in status["nodes"]} == {"a": 1, "b": 1, "c": 2}
    assert site.check("versions")["level"] == "ok"
    assert "a reads 1, b reads 1" in site.check("versions")["message"]
    refused = site.command("finalize", "2", exit_code=3)
    assert "the group stays at version 1: a (1), b (1) do not read version 2" in refused

    # Writes of both, there and back. The new code writes what the old one reads.
    site.add("a", 2)
    site.leads("c")
    site.add("c", 4)
    assert site.nodes["c"].tell(note=["sum", "too early"]) == {"answer": "not at version 1"}
    site.command("snapshot")
    site.add("c", 8)
    site.equal()
    site.leads("a")
    site.add("a", 16)
    site.equal()

    # The way back is open.
    site.again(1, "c")
    site.add("a", 32)
    site.runs(c=1)
    site.equal()
    assert site.versions()["step"].startswith("nothing")

    # Another application has no place in the group.
    code, said = Process(2, "d", site.redis, site.directory / "d", "Flags").refused()
    assert code == 2
    assert "is of `numbers`, and this node is of `Flags`" in said
    assert {node["node"] for node in site.command("status")["nodes"]} == set(NODES)

    # All of them, the primary last; and only then the new version, from the same record on for everybody.
    site.again(2, "c")
    site.again(2, "b")
    site.runs(b=2, c=2)
    site.leads("b")
    site.add("b", 64)
    site.again(2, "a")
    site.runs(a=2)
    now = site.versions()
    assert (now["version"], now["next_version"], now["ready"]) == (1, 2, True)
    assert "all nodes read 2: `replicator finalize 2`" in now["step"]
    table = CliRunner().invoke(cli, ["--redis", site.redis, "--group", GROUP, "versions"]).stdout
    assert table.startswith("app numbers   version 1\nnext: all nodes read 2: `replicator finalize 2`")
    assert len([line for line in table.splitlines() if "  2     1-2    yes" in line]) == len(NODES), table
    assert "`replicator finalize 2`" in site.check("versions")["message"]
    done = site.command("finalize", "2", "--timeout", str(PATIENCE_S))
    assert (done["version"], done["previous_version"]) == (2, 1)
    assert site.command("finalize", "2")["previous_version"] == 2, "twice does no harm"
    assert "it cannot go back to 1" in site.command("finalize", "1", exit_code=3)
    site.note("b", "sum", "of all that was added")
    site.add("b", 128)
    site.equal()
    assert {process.read()["version"] for process in site.nodes.values()} == {2}

    # A crash right after it, and a snapshot of the new version.
    site.nodes.pop("b").kill()
    site.command("promote", "c", "--force", "--yes", "--timeout", str(PATIENCE_S))
    site.note("c", "more", "after a crash")
    site.command("snapshot")
    site.start(2, "b")
    site.equal()

    # Old code by mistake: it takes no harm, does none, and says what to do.
    site.nodes.pop("a").stop()
    site.add("c", 256)
    code, said = Process(1, "a", site.redis, site.directory / "a").refused()
    assert code == 1
    assert "upgrade this node" in said
    site.start(2, "a")
    site.equal()
    dirs = [arg for name in NODES for arg in ("--data-dir", str(site.directory / name))]
    certificate = site.command("certify", *dirs, "--state", "tests.support.versions:Two")
    assert [node["node"] for node in certificate["nodes"]] == list(NODES)


def test_old_code_stops_before_the_new_version_and_goes_on_when_it_is_upgraded(site: Site) -> None:
    for name in NODES:
        site.start(1, name)
    site.command("promote", "a", "--timeout", str(PATIENCE_S))
    site.add("a", 1)
    eventually(lambda: all(process.read()["numbers"] == {"sum": 1} for process in site.nodes.values()))
    site.nodes.pop("c").stop()
    site.forget("c")
    for name in ("b", "a"):
        site.again(2, name)
        site.runs(**{name: 2})
    eventually(lambda: site.nodes["a"].read()["role"] == "primary", "that a leads again")
    site.command("finalize", "2", "--timeout", str(PATIENCE_S))
    site.note("a", "sum", "new")

    stopped = site.start(1, "c")
    eventually(lambda: stopped.read()["stalled"], "that it stops")
    told = stopped.read()
    assert (told["numbers"], told["version"]) == ({"sum": 1}, 1), "it serves what it has"
    assert "upgrade this node" in told["stalled"]
    (problem,) = eventually(site.problems, "its report")
    assert "upgrade this node" in problem
    assert site.check("versions")["level"] == "problem"
    assert "which c cannot read" in site.check("versions")["message"]
    assert "upgrade this node" in site.command("promote", "c", exit_code=3)
    assert "c reads 1: upgrade it" in site.versions()["step"]

    site.again(2, "c")
    site.add("a", 2)
    site.equal()
    assert site.command("status")["problem"] is None
