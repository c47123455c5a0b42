"""A change that a failover left behind, from the fork file back into the group; and a group that is certified.

Real Redis, real nodes with a registry, its HTTP, and the command line.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from replicator import Node, ops
from replicator.cli import cli
from replicator.format.ids import ERA
from replicator.log.redis_log import RedisLog
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.sandbox.redis_server import find_server
from replicator.web.server import WebServer
from tests.support import plain_http
from tests.support.kv import LEASE_S, PATIENCE_S, eventually, in_step
from tests.support.worlds import RedisWorld


@pytest.fixture
def world(tmp_path: Path) -> Iterator[RedisWorld]:
    (tmp_path / "redis").mkdir()
    world = RedisWorld(find_server(), tmp_path / "redis")
    yield world
    world.close()


@pytest.fixture
def run(world: RedisWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)  # whatever ./data holds elsewhere
    for name in ("REPLICATOR_DATA_DIR", "REPLICATOR_NODE_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)

    def run(*args: object) -> Result:
        return CliRunner().invoke(cli, ["--redis", world.server.url, "--group", "g", *map(str, args)])

    return run


@pytest.fixture
def start(world: RedisWorld, tmp_path: Path) -> Iterator[Callable[[str], Node]]:
    started: list[Node] = []

    def start(name: str) -> Node:
        node = Node(
            Registry(), group="g", name=name, redis=world.server.url, data_dir=tmp_path / name, lease_s=LEASE_S,
            on_restart="standby",
        )  # fmt: skip
        started.append(node)
        node.start()
        return node

    yield start
    for node in started:
        node.stop()


def register(hostname: str) -> dict[str, Any]:
    return {
        "op": "register", "hostname": hostname, "public_key": f"{hostname:A<8}", "real_addr": "10.0.0.1:1",
        "last_seen": "2026-01-01T00:00:00Z",
    }  # fmt: skip


def hostnames(node: Node) -> list[str]:
    with node.reading() as registry:
        return [record["hostname"] for record in registry.nodes().values()]


@pytest.fixture
def parted(world: RedisWorld, start: Callable[[str], Node]) -> tuple[Node, Node]:
    """Redis came back without two changes that only a had, and b led on without them: a has a fork, and follows."""
    a, b = start("a"), start("b")
    a.promote(timeout_s=PATIENCE_S)
    a.submit(register("both"))
    in_step(a, b)
    b.stop()
    copy = world.copy()
    a.submit(register("lost1"))
    a.submit(register("lost2"))
    a.stop()
    world.fail_over(copy)
    b = start("b")
    log = RedisLog(world.server.url, "g")
    eventually(lambda: not log.look().heartbeats["a"].alive)
    eventually(lambda: b.position.id.n == 2)
    ops.promote(log, "b", by="test", force=True, timeout_s=PATIENCE_S)
    b.submit(register("after"))
    log.close()
    assert b.term == ERA + 1
    a = start("a")
    in_step(a, b)
    return a, b


def test_what_a_failover_left_behind_comes_back_by_hand(
    parted: tuple[Node, Node], run: Callable[..., Result], tmp_path: Path
) -> None:
    a, b = parted
    assert hostnames(a) == hostnames(b) == ["both", "after"]
    # when whoever is on call looks for forks on all nodes, then there is one
    dirs = ("--data-dir", tmp_path / "a", "--data-dir", tmp_path / "b")
    (fork,) = json.loads(run("forks", "list", *dirs, "--output", "json").stdout)
    assert (fork["node"], fork["parted_id"], fork["divergent_change_count"], fork["has_more_in_snapshot"]) == (
        "a",
        "1-2",
        2,
        False,
    )
    assert fork["position"] == "1-4"
    assert "replaced by the snapshot" in fork["reason"]
    shown = run("forks", "show", fork["fork"], *dirs).stdout
    assert "lost1" in shown
    assert "both" not in shown
    # when its divergent tail is exported, and sent to the primary as the document says
    exported = run("forks", "export", fork["fork"], *dirs)
    assert exported.exit_code == 0
    with WebServer(registry_app(b)) as server:
        if shutil.which("jq") and shutil.which("curl"):
            send = "curl -fsS -X POST -H 'Content-Type: application/json' --data-binary \"$change\""
            script = f"jq -c .change | while IFS= read -r change; do {send} {server.url}/v1/changes || exit 1; done"
            subprocess.run(["/bin/sh", "-c", script], input=exported.stdout, text=True, check=True, timeout=300)
        else:
            for line in exported.stdout.splitlines():
                plain_http.post(f"{server.url}/v1/changes", json=json.loads(line)["change"]).raise_for_status()
    # then all nodes have it
    in_step(a, b)
    assert hostnames(a) == hostnames(b) == ["both", "after", "lost1", "lost2"]


def test_a_group_that_parted_is_certified_with_the_nodes_running(
    parted: tuple[Node, Node], run: Callable[..., Result], tmp_path: Path
) -> None:
    dirs = ("--data-dir", tmp_path / "a", "--data-dir", tmp_path / "b")
    found = run("certify", *dirs, "--output", "json")
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    assert list(told) == ["certified", "violation", "log", "nodes", "equal_nodes", "live"]
    assert (told["certified"], told["violation"]) == (True, None)
    assert list(told["log"]) == [
        "first_id", "last_id", "trimmed", "record_count", "term_count", "change_count", "marker_count",
        "snapshot_count", "broken_snapshot_count", "rebase_count", "records_bytes",
    ]  # fmt: skip
    assert told["log"]["term_count"] == 2
    of_a_node = [
        "node", "path", "position", "place", "common_record_count", "trimmed_record_count", "divergent_record_count",
        "digest",
    ]  # fmt: skip
    assert [list(node) for node in told["nodes"]] == [of_a_node] * 2
    assert [node["place"] for node in told["nodes"]] == ["in the log"] * 2
    assert told["live"]["equal"]
    table = run("certify", *dirs)
    assert table.exit_code == 0
    assert "a, b have equal states" in table.stdout
    assert table.stdout.endswith("certified\n")


def test_a_node_that_still_has_the_other_history_is_certified_and_its_divergent_tail_is_told(
    world: RedisWorld, start: Callable[[str], Node], run: Callable[..., Result], tmp_path: Path
) -> None:
    a = start("a")
    a.promote(timeout_s=PATIENCE_S)
    copy = world.copy()
    a.submit(register("lost"))
    a.stop()
    world.fail_over(copy)
    found = run("certify", "--data-dir", tmp_path / "a", "--output", "json")
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    assert (told["nodes"][0]["place"], told["nodes"][0]["divergent_record_count"], told["live"]) == (
        "ahead of the log",
        1,
        None,
    )
    assert "no node leads" in found.stderr


def test_a_record_that_was_deleted_is_1_and_named(
    world: RedisWorld, start: Callable[[str], Node], run: Callable[..., Result], tmp_path: Path
) -> None:
    a = start("a")
    a.promote(timeout_s=PATIENCE_S)
    for number in range(3):
        a.submit(register(f"h{number}"))
    a.stop()
    assert run("certify", "--no-verify").exit_code == 0
    world.admin.xdel("replicator:{g}:log", "1-3")
    found = run("certify", "--no-verify", "--output", "json")
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert (told["certified"], told["log"], told["live"]) == (False, None, None)
    assert list(told["violation"]) == ["rule", "ids", "node", "message", "meaning"]
    assert (told["violation"]["rule"], told["violation"]["ids"]) == ("ids", ["1-2", "1-4"])
    said = json.loads(found.stderr.splitlines()[-1])
    assert said["message"] == "ids: between 1-2 and 1-4, number 3 is missing (records were deleted, or inserted)"
    table = run("certify", "--no-verify")
    assert (table.exit_code, table.stdout) == (1, "")


def test_live_states_that_differ_are_1(
    start: Callable[[str], Node], run: Callable[..., Result], tmp_path: Path
) -> None:
    a, b = start("a"), start("b")
    a.promote(timeout_s=PATIENCE_S)
    in_step(a, b)
    with b.reading() as registry:
        registry.apply(register("ghost"))
    found = run("certify", "--output", "json")
    assert found.exit_code == 1
    assert json.loads(found.stdout)["violation"]["rule"] == "state"
    assert run("certify", "--no-verify").exit_code == 0


def test_exit_codes(run: Callable[..., Result], start: Callable[[str], Node], tmp_path: Path) -> None:
    assert run("certify").exit_code == 1  # there is no log
    start("a").promote(timeout_s=PATIENCE_S)
    for state in ("nonsense", "nowhere:X", "replicator.registry.state:X", "replicator.registry.document:VERSION"):
        found = run("certify", "--state", state)
        assert (found.exit_code, found.stdout) == (2, "")
        assert "Error: state: " in found.stderr
    (tmp_path / "empty").mkdir()
    found = run("certify", "--data-dir", tmp_path / "empty")
    assert found.exit_code == 1
    assert "No such file" in found.stderr
    assert run("certify", "--data-dir", tmp_path / "nowhere").exit_code == 2
    found = CliRunner().invoke(cli, ["--redis", f"unix://{tmp_path}/nobody", "certify"])
    assert (found.exit_code, found.stdout) == (6, "")
    assert "\n  certify " in CliRunner().invoke(cli, ["-h"]).stdout


def test_a_state_class_of_ones_own_is_found_beside_the_application(tmp_path: Path) -> None:
    (tmp_path / "application.py").write_text("class State:\n    def __init__(self): print('made')\n")
    program = (
        "from replicator.state.named_class import state_class; import sys; before = list(sys.path);"
        "state_class('application:State')(); assert sys.path == before"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "made\n", done.stderr


def test_a_checkpoint_that_does_not_say_of_which_class_it_is_wants_the_class_named(
    start: Callable[[str], Node], run: Callable[..., Result], tmp_path: Path
) -> None:
    a = start("a")
    a.promote(timeout_s=PATIENCE_S)
    a.submit(register("db1"))
    a.stop()
    with closing(sqlite3.connect(a.data_dir / "checkpoint.sqlite")) as db, db:
        db.execute("DELETE FROM meta WHERE key = 'state'")
    told = run("certify", "--no-verify", "--data-dir", a.data_dir)
    assert (told.exit_code, "does not say of which class its state is: name it" in told.stderr) == (2, True)
    named = run("certify", "--no-verify", "--data-dir", a.data_dir, "--state", "replicator.registry.state:Registry")
    assert named.exit_code == 0, named.stderr


def test_a_log_that_is_whole_is_not_recovered(start: Callable[[str], Node], run: Callable[..., Result]) -> None:
    start("a").promote(timeout_s=PATIENCE_S)
    told = run("recover")
    assert (told.exit_code, told.stderr.splitlines()[-1]) == (3, "Error: the log is whole, there is nothing to recover")
