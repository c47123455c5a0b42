"""A node is one of its state, and a change knows what submitting it gives."""

from __future__ import annotations

from typing import Any, assert_type

from replicator import Change, DictState, Host, Node, NodeEvent, State, delete, put, put_many
from replicator.registry.state import Registry
from replicator.state.file import FileState
from replicator.testing import Cluster
from replicator.testing.pytest_plugin import ClusterFactory
from replicator.web.served_node import ServedNode
from tests.support.flags import Flag, FlagState


def a_node_of_commands(node: Node[FlagState]) -> None:
    with node.reading() as state:
        assert_type(state, FlagState)
        assert_type(state.flags["x"], Flag)
    with node as same:
        assert_type(same, Node[FlagState])
    assert_type(node.submit(FlagState.set_flag("x", on=True)), Flag)
    assert_type(node.submit(FlagState.own(7, ["x"]), term=1, ack="applied:1"), int)
    assert_type(node.submit({"set_flag": {"name": "x", "on": True}}), Any)
    assert_type(node.submit_many([FlagState.note("x"), {"note": {"text": "y"}}]), list[Any])


async def from_tasks(node: Node[FlagState]) -> None:
    assert_type(await node.asubmit(FlagState.set_flag("x", on=True)), Flag)
    assert_type(await node.asubmit(["any", "JSON"]), Any)


def a_change_takes_what_its_method_takes(state: FlagState) -> None:
    assert_type(FlagState.set_flag("x", True, percent=5), Change[Flag])
    FlagState.set_flag("x")  # type: ignore[call-arg]
    FlagState.set_flag("x", on="yes")  # type: ignore[arg-type]
    FlagState.set_flag("x", on=True, colour="red")  # type: ignore[call-arg]
    assert_type(state.set_flag("x", on=True), Flag)
    state.set_flag(7, on=True)  # type: ignore[arg-type]


def a_mapping(node: Node[DictState]) -> None:
    with node.reading(fresh=True) as flags:
        assert_type(flags, DictState)
        assert_type(flags.get("x"), Any | None)
    assert_type(put("x", 1), Change[None])
    assert_type(put_many({"x": 1}), Change[None])
    assert_type(node.submit(delete("x", "y")), int)
    put(1, 1)  # type: ignore[arg-type]


def what_a_node_is_made_of(host: Host) -> None:
    assert_type(Node(FlagState(), group="g", name="a", redis="redis://r", data_dir="a"), Node[FlagState])
    assert_type(Node(FileState("f"), group="g", name="a", redis="redis://r", data_dir="a"), Node[FileState])
    assert_type(Node.from_env(FlagState()), Node[FlagState])
    assert_type(Node.from_env(DictState(), lease_s=1.0, data_dir="a"), Node[DictState])
    Node.from_env(FlagState(), lease="1")  # type: ignore[call-arg]
    Node.from_env({})  # type: ignore[type-var]
    assert_type(host.node(DictState(), group="g", name="a", data_dir="a"), Node[DictState])
    Node({}, group="g", name="a", redis="redis://r", data_dir="a")  # type: ignore[type-var]


def they_are_states(flags: FlagState, mapping: DictState) -> list[State]:
    return [flags, mapping]


def a_node_of_which_nobody_says_more(node: Node) -> None:
    with node.reading() as state:
        assert_type(state, Any)


def what_the_web_serves(node: Node[Registry]) -> ServedNode[Registry]:
    return node


async def reads_of_tasks(node: Node[FlagState]) -> None:
    async with node as same:
        assert_type(same, Node[FlagState])
    async with node.areading(fresh=True) as state:
        assert_type(state, FlagState)
    assert_type(await node.view(lambda state: len(state.flags)), int)
    assert_type(await node.view(flag_of, position="5-1042"), Flag)
    await node.view(len)  # type: ignore[arg-type]
    async for event in node.events():
        assert_type(event, NodeEvent)
        assert_type(event.primary, str | None)


def flag_of(state: FlagState) -> Flag:
    return state.flags["x"]


def what_tests_are_made_of(factory: ClusterFactory) -> None:
    with Cluster(3, FlagState, lease_s=1.0) as cluster:
        assert_type(cluster, Cluster[FlagState])
        assert_type(cluster["a"], Node[FlagState])
        assert_type(cluster.settle(), Node[FlagState])
        assert_type(cluster.submit(FlagState.set_flag("x", on=True)), Flag)
        assert_type(cluster.submit({"any": "JSON"}), Any)
    assert_type(factory(3, FlagState), Cluster[FlagState])
    Cluster(3, FlagState, lease="1")  # type: ignore[call-arg]
    Cluster(3, dict)  # type: ignore[type-var]
