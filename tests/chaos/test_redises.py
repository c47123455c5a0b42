"""The servers of a run: what is done for them when they cannot help themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.sandbox.redis_server import find_server
from tests.topology import ask

from . import redises
from .redises import SentinelRedis


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
