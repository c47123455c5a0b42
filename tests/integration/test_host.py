"""Many groups in one process: they share connections and threads, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import ConfigError, Node
from replicator.connection import client_for
from replicator.core.ids import ERA
from replicator.host import Host
from replicator.redis_server import RedisServer
from tests.conftest import RedisFactory
from tests.kv import KV, PATIENCE_S, document, eventually, in_step, push, pushed

GROUPS = [f"g{number}" for number in range(25)]


@pytest.fixture
def redis(redis_factory: RedisFactory) -> RedisServer:
    return redis_factory(config={"appendonly": "yes"})


@pytest.fixture
def host(redis: RedisServer) -> Iterator[Host]:
    with Host(redis.url) as host:
        yield host


@pytest.fixture
def other(redis: RedisServer) -> Iterator[Host]:
    with Host(redis.url) as host:
        yield host


def nodes_of(host: Host, name: str, directory: Path, **options: object) -> dict[str, Node]:
    return {
        group: host.node(KV(), group=group, name=name, data_dir=directory / name / group, **options) for group in GROUPS
    }


def led(nodes: dict[str, Node]) -> dict[str, Node]:
    for node in nodes.values():
        node.promote(timeout_s=PATIENCE_S)
    return nodes


def test_each_group_has_its_own_log_and_state(host: Host, other: Host, tmp_path: Path) -> None:
    # given as many groups on two hosts
    primaries = led(nodes_of(host, "a", tmp_path))
    standbys = nodes_of(other, "b", tmp_path)
    # when each is written to
    for group, node in primaries.items():
        for number in range(3):
            node.submit(push(f"{group} {number}"))
    # then each standby has what was written in its group, and nothing else
    for group, node in standbys.items():
        in_step(primaries[group], node)
        assert pushed(node) == [f"{group} {number}" for number in range(3)]


def test_they_share_a_few_connections_and_threads(host: Host, redis: RedisServer, tmp_path: Path) -> None:
    nodes = led(nodes_of(host, "a", tmp_path))
    for node in nodes.values():
        node.submit(push("x"))
    with client_for(redis.url) as client:
        connections = [each for each in client.client_list() if each["name"] == "replicator-host"]
        assert len(connections) == 5  # one reads; with each of two keepers goes one for writes and one for the rest
    of_the_host = [thread for thread in threading.enumerate() if thread.name.startswith("host-")]
    of_nodes = [thread for thread in threading.enumerate() if thread.name.startswith("a-")]
    assert (len(of_the_host), of_nodes) == (5, [])


def test_groups_fail_over_by_themselves_when_a_host_is_gone(host: Host, redis: RedisServer, tmp_path: Path) -> None:
    lease = {"lease_s": 1.0, "auto_promote": True}
    gone = Host(redis.url)
    try:
        primaries = led(nodes_of(gone, "a", tmp_path, **lease))
        standbys = nodes_of(host, "b", tmp_path, **lease)
        for group, node in primaries.items():
            node.submit(push("x"), ack="applied:1", timeout_s=PATIENCE_S)
            in_step(node, standbys[group])
    finally:
        gone.close()
    for node in standbys.values():
        eventually(lambda node=node: node.role == "primary", "a failover")  # type: ignore[misc]
        node.wait(role="primary", timeout_s=PATIENCE_S)
        assert node.submit(push("y")) == 2


def test_a_group_whose_keys_hold_something_else_keeps_no_other_from_reading(
    host: Host, other: Host, redis: RedisServer, tmp_path: Path
) -> None:
    primaries, standbys = led(nodes_of(host, "a", tmp_path)), nodes_of(other, "b", tmp_path)
    with client_for(redis.url) as client:
        client.delete("replicator:{g0}:commands")
        client.set("replicator:{g0}:commands", "something else")
        for group in GROUPS[1:]:
            primaries[group].submit(push("x"))
            in_step(primaries[group], standbys[group])
        eventually(lambda: "WRONGTYPE" in standbys["g0"].problem, "a problem that says so")
        # and once they are mended, it goes on as well
        client.delete("replicator:{g0}:commands")
    primaries["g0"].submit(push("x"))
    in_step(primaries["g0"], standbys["g0"])
    eventually(lambda: standbys["g0"].problem == "", "the end of the problem")


def test_a_node_is_stopped_and_the_others_go_on(host: Host, other: Host, tmp_path: Path) -> None:
    primaries, standbys = led(nodes_of(host, "a", tmp_path)), nodes_of(other, "b", tmp_path)
    standbys["g0"].stop()
    primaries["g1"].submit(push("x"))
    in_step(primaries["g1"], standbys["g1"])
    # and it can be started again on the same directory
    again = other.node(KV(), group="g0", name="b", data_dir=tmp_path / "b" / "g0")
    primaries["g0"].submit(push("y"))
    in_step(primaries["g0"], again)
    assert document(again) == document(primaries["g0"])


def test_redis_goes_and_comes_back_and_every_group_goes_on(host: Host, redis: RedisServer, tmp_path: Path) -> None:
    nodes = led(nodes_of(host, "a", tmp_path, lease_s=1.0))
    for node in nodes.values():
        node.submit(push("x"))
    redis.restart()
    for node in nodes.values():
        eventually(lambda node=node: node.term > ERA, "a term of the new run")  # type: ignore[misc]
        node.wait(role="primary", timeout_s=PATIENCE_S)
        assert node.submit(push("y"), timeout_s=PATIENCE_S) == 2


def test_a_host_that_is_closed_leaves_no_thread(redis: RedisServer, tmp_path: Path) -> None:
    host = Host(redis.url)
    led(nodes_of(host, "a", tmp_path))
    host.close()
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("host-")] == []


def test_a_cluster_is_no_place_for_a_host() -> None:
    with pytest.raises(ConfigError, match="each group may be on another server"):
        Host("redis+cluster://127.0.0.1:7000")
