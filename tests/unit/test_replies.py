"""Heartbeats, as they are read back: by the types of their fields, and nothing that is no heartbeat."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from replicator.core.ids import TERM_MAX, Position, RecordId
from replicator.core.replies import Peer

PEER = Peer(
    "a", "a1", run="r", term=5, role="primary", position=Position(RecordId(5, 1042), "0123456789abcdef" * 2),
    changed=RecordId(5, 1040), cursor=RecordId(5, 1042), every_ms=200, http="http://a", applied_at=1_700_000_000_000,
    candidate=True, log_id="log-1", age_ms=17,
)  # fmt: skip


def read(**fields: Any) -> Peer | None:
    """The heartbeat of `PEER`, with some fields changed by somebody else; None: a field is gone."""
    written = orjson.loads(PEER.to_json()) | fields
    return Peer.from_json(orjson.dumps({name: value for name, value in written.items() if value != "gone"}), age_ms=17)


def test_a_heartbeat_is_read_as_it_was_written() -> None:
    assert read() == PEER
    assert read(term=TERM_MAX) == PEER._replace(term=TERM_MAX)


def test_a_field_that_another_version_does_not_write_has_its_default() -> None:
    assert read(candidate="gone", problem="gone") == PEER._replace(candidate=False)
    assert read(colour="red") == PEER, "one that it writes besides is nobody's concern"


@pytest.mark.parametrize("name", ["node", "boot", "position", "changed", "cursor", "digest_at"])
def test_without_what_says_who_and_where_it_is_no_heartbeat(name: str) -> None:
    assert read(**{name: "gone"}) is None


@pytest.mark.parametrize("value", [None, 1.0, [], {}, "5-1042x", -1, 2**53, True, ""])
@pytest.mark.parametrize("name", [name for name in Peer._fields if name != "age_ms"])
def test_a_field_of_another_type_makes_it_none(name: str, value: Any) -> None:
    right = list if name == "knew" else type(getattr(PEER, name))  # JSON has no tuples
    if right is type(value) and value not in (-1, 2**53):
        assert read(**{name: value}) is not None
    else:
        assert read(**{name: value}) is None


@pytest.mark.parametrize("data", [b"", b"null", b"7", b'"text"', b"[]", b"{}", b"\xff", b"{" * 9999])
def test_what_is_no_heartbeat_is_none(data: bytes) -> None:
    assert Peer.from_json(data, age_ms=0) is None
