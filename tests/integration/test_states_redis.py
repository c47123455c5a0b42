"""The states that are ready, on two nodes over a real Redis: writes, a failover, a standby that comes late, forks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from replicator import ChangeRejected, DictState, InvalidChange, Node, delete, put_many
from replicator.cli import cli
from replicator.ops.verification import verify
from replicator.sandbox.redis_server import RedisServer
from tests.support.flags import Flag, FlagState
from tests.support.kv import LEASE_S, PATIENCE_S, eventually, in_step

NewNode = Callable[..., Node[Any]]


@pytest.fixture
def new_node(any_redis: RedisServer, tmp_path: Path) -> Iterator[NewNode]:
    nodes: list[Node[Any]] = []

    def start(name: str, state: Any) -> Node[Any]:
        data_dir = tmp_path / name
        nodes.append(Node(state, group="g", name=name, redis=any_redis.url, data_dir=data_dir, lease_s=LEASE_S))
        nodes[-1].start()
        return nodes[-1]

    yield start
    for node in nodes:
        node.stop()


def test_commands_on_two_nodes_through_a_failover(new_node: NewNode, any_redis: RedisServer, tmp_path: Path) -> None:
    # given
    a, b = new_node("a", FlagState()), new_node("b", FlagState())
    a.promote(timeout_s=PATIENCE_S)
    # when the one writes, and then the other
    assert a.submit(FlagState.set_flag("dark-mode", on=True)) == Flag(on=True, percent=100)
    with pytest.raises(ChangeRejected, match="there is no flag beta"):
        a.submit(FlagState.drop_flag("beta"))
    in_step(a, b)
    b.promote(timeout_s=PATIENCE_S)
    assert b.submit(FlagState.own(7, ["dark-mode"])) == 1
    with pytest.raises(InvalidChange):
        b.submit({"set_flag": {"name": "x", "on": True, "colour": "red"}})
    # then both have all of it, and a third one that comes after a snapshot
    b.publish()
    c = new_node("c", FlagState())
    eventually(lambda: c.in_sync, "the third")
    in_step(a, b, c)
    for node in (a, b, c):
        with node.reading() as state:
            assert state == FlagState({"dark-mode": Flag(on=True)}, {7: ("dark-mode",)})
    assert verify(a._setup.log, by="test", timeout_s=PATIENCE_S).equal
    # and so say the tools, which make the class anew
    of = ["--redis", any_redis.url, "--group", "g"]
    dirs = [option for name in "abc" for option in ("--data-dir", str(tmp_path / name))]
    certified = CliRunner().invoke(cli, [*of, "certify", "--state", "tests.support.flags:FlagState", *dirs])
    assert certified.exit_code == 0, certified.output


def test_a_mapping_of_many_keys_is_the_same_on_a_standby_that_comes_late(new_node: NewNode) -> None:
    # given
    a = new_node("a", DictState())
    a.promote(timeout_s=PATIENCE_S)
    for begin in range(0, 20_000, 1000):
        a.submit(put_many({f"flag-{n}": {"on": n % 2 == 0, "percent": n % 100} for n in range(begin, begin + 1000)}))
    a.publish()
    assert a.submit(delete("flag-0", "flag-1", "none")) == 2
    # when
    b = new_node("b", DictState())
    eventually(lambda: b.in_sync, "the standby")
    in_step(a, b)
    # then
    with a.reading() as ours, b.reading() as theirs:
        assert len(theirs) == 19_998
        assert list(theirs.items()) == list(ours.items())
    assert verify(a._setup.log, by="test", timeout_s=PATIENCE_S).equal
