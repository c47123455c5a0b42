"""What tests see of a registry: its pieces, its document, what it refuses; and a document of another program."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from replicator.errors import ChangeRejected
from replicator.registry.loading import pieces_of
from replicator.registry.state import Registry

NOON = "2026-01-31T12:00:00Z"
LATER = "2026-01-31T12:00:01.5+01:00"


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


def encoded(registry: Registry) -> list[bytes]:
    return [orjson.dumps(piece) for piece in registry.snapshot()]


def document(registry: Registry, term: int = 0) -> Any:
    return orjson.loads(b"".join(registry.document(term)))


def loaded(source: dict[str, Any]) -> Registry:
    registry = Registry()
    registry.restore(pieces_of(source))
    return registry


def refused(registry: Registry, change: Any) -> ChangeRejected:
    """Apply a change that must be refused, and must leave everything as it was."""
    before = encoded(registry)
    with pytest.raises(ChangeRejected) as caught:
        registry.apply(change)
    assert encoded(registry) == before
    return caught.value


STORE_FILE = (
    b'{"version":1,"term":7,"next_node":12,"next_net":4,'
    b'"nodes":{"10":{"id":10,"owner":"","public_key":"","networks":null,"score":1.5,"hostname":"ten"},'
    b'"2":{"zeta":{"b":[1,null,{}],"a":"\xc3\xa9"},"id":2,"tags":[],"networks":[3,0]}},'
    b'"networks":{"3":{"id":3,"name":"three","colour":"red","members":[2,10,11],"member_roles":{"2":"owner"},"mtu":1400},'
    b'"0":{"id":0,"members":null,"created":"long ago"}},'
    b'"trust_pairs":["2:10","2:11"],"handshakes":{"9":[]},"audit":null}'
)
