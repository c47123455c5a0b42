"""The servers of a run: what is done for them when they cannot help themselves, and what is seen of them."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replicator.sandbox.redis_server import find_server
from tests.support.topology import ask

from . import redises
from .redises import ReplicatedRedis, SentinelRedis


def test_when_every_server_follows_another_one_the_master_is_told_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redises, "SENTINEL_STUCK_S", 2.0)
    servers = SentinelRedis(tmp_path, find_server())
    try:
        servers.start(["a"])
        master, *others = servers.topology.servers
        # given that no server is a master, and sentinels that have not noticed
        ask(master, "REPLICAOF", "127.0.0.1", str(others[0].port))
        # when all faults are over
        servers.heal()
        # then it is done by hand
        assert b"role:master" in ask(master, "INFO", "replication")
    finally:
        servers.close()


def test_a_failover_lasts_from_when_all_servers_agreed_last(monkeypatch: pytest.MonkeyPatch) -> None:
    # given servers that agree
    roles: dict[str, str | None] = {"one": "master", "two": "slave"}
    monkeypatch.setattr(redises, "_role_of", lambda server: roles[server.url])
    data_servers: list[Any] = [SimpleNamespace(url=url) for url in roles]
    servers = ReplicatedRedis("servers", SimpleNamespace(servers=data_servers), data_servers)  # type: ignore[arg-type]
    servers.watch()
    # when a failover begins, and is seen later only
    began = time.monotonic_ns()
    roles["one"] = None
    servers.watch()
    roles |= {"one": "slave", "two": "master"}
    servers.watch()
    # then it counts from before it began
    (event,) = servers.events
    assert event.kind == "failover"
    assert 0 < event.began <= began
