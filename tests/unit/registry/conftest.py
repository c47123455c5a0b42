from __future__ import annotations

import pytest

from replicator.registry.state import Registry
from tests.support.registry import NOON, key
from tests.support.registry_api import NodeInMemory, TestClient, client_of


@pytest.fixture
def registry() -> Registry:
    """Nodes 1 (web1), 2 (db1) and 3; networks 0 (open), 1 (token s3cret) and 2 (invite, of node 1)."""
    registry = Registry()
    registry.apply({"op": "register", "public_key": key(1), "hostname": "web1", "last_seen": NOON, "key_created": NOON})
    registry.apply({"op": "register", "public_key": key(2), "hostname": "db1"})
    registry.apply({"op": "register", "public_key": key(3)})
    registry.apply({"op": "create_network", "name": "backbone", "created": NOON})
    registry.apply({"op": "create_network", "name": "vault", "join_rule": "token", "token": "s3cret"})
    registry.apply({"op": "create_network", "name": "club", "join_rule": "invite", "creator": 1})
    return registry


@pytest.fixture
def node() -> NodeInMemory:
    return NodeInMemory()


@pytest.fixture
def client(node: NodeInMemory) -> TestClient:
    return client_of(node)
