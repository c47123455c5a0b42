"""Work that only the leader does, over a real Redis: the examples in docs/roles.md, and the nodes of a host."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replicator import DictState, Host, Leadership, LeadershipLost, Node, delete, put
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import KV, LEASE_S, PATIENCE_S, eventually

DOCS = Path(__file__).parents[2] / "docs" / "roles.md"


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", DOCS.read_text(), flags=re.MULTILINE | re.DOTALL)


def execute(program: str, names: dict[str, Any]) -> None:
    exec(compile(program, "an example", "exec", dont_inherit=True), names)


def test_the_first_example_expires_performs_and_shows(any_redis: RedisServer, tmp_path: Path) -> None:
    shown: list[bool] = []
    performed: list[str] = []
    node = Node(DictState(), group="g", name="a", redis=any_redis.url, data_dir=tmp_path, lease_s=LEASE_S)

    def outdated(node: Node[DictState]) -> list[str]:
        with node.reading() as flags:
            return [name for name in flags if name.startswith("old")]

    with node:
        node.promote(timeout_s=PATIENCE_S)
        node.submit(put("old", 1))
        node.submit(put("new", 1))
        names: dict[str, Any] = {
            "node": node, "delete": delete, "unused": outdated, "fetch": lambda: ["job"],
            "perform": performed.append, "gauge": SimpleNamespace(set=shown.append),
        }  # fmt: skip
        assert examples()[0].count("lost.wait(1.0)") == 1
        execute(examples()[0].replace("lost.wait(1.0)", "lost.wait(0.01)"), names)
        eventually(lambda: performed and shown)
        eventually(lambda: outdated(node) == [])
        with node.reading() as flags:
            assert dict(flags) == {"new": 1}
    assert shown[0] is True
    assert shown[-1] is False


def test_the_report_of_the_second_example_is_never_overwritten_by_an_older_leader() -> None:
    names: dict[str, Any] = {"sqlite3": sqlite3, "Leadership": Leadership}
    (example,) = (each for each in examples() if "def write_report" in each)
    execute(example, names)
    write_report = names["write_report"]
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE report (id INTEGER PRIMARY KEY, term INTEGER, text TEXT)")

    def leader(term: int, check: Any = lambda: None) -> Any:
        return SimpleNamespace(term=term, check=check)

    assert write_report(db, leader(5), "five")
    assert write_report(db, leader(5), "five again")
    assert write_report(db, leader(6), "six")
    assert not write_report(db, leader(5), "a process that was stopped in the middle")
    assert db.execute("SELECT term, text FROM report").fetchall() == [(6, "six")]

    def over() -> None:
        raise LeadershipLost(node="a", term=7)

    with pytest.raises(LeadershipLost):
        write_report(db, leader(7, over), "too late")


def test_the_nodes_of_a_host_have_their_work_done(any_redis: RedisServer, tmp_path: Path) -> None:
    lost: list[str] = []

    def work(leadership: Leadership) -> None:
        leadership.submit({"push": leadership.term})
        leadership.lost.wait(3 * PATIENCE_S)
        lost.append("lost")

    with Host(any_redis.url) as host:
        nodes = [
            host.node(KV(), group=group, name="a", data_dir=tmp_path / group, lease_s=LEASE_S) for group in ("g", "h")
        ]
        for node in nodes:
            node.while_leading(work)
            node.promote(timeout_s=PATIENCE_S)
        for node in nodes:
            eventually(lambda node=node: node.position.id.n >= 2)
        nodes[0].stop()
        assert lost == ["lost"], "and nobody else's"
    assert lost == ["lost", "lost"]
