"""Heartbeats, as they are read back: by the types of their fields, and nothing that is no heartbeat."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from replicator.format.ids import TERM_MAX, Position, RecordId
from replicator.protocol.group import Head, LeaseText, lease_left_ms
from replicator.protocol.heartbeat import EVERY_MS_MAX, MISSED_BEATS_MAX, NONCES_MAX, Heartbeat

PEER = Heartbeat(
    "a", "a1", run="r", term=5, role="primary", position=Position(RecordId(5, 1042), "0123456789abcdef" * 2),
    changed=RecordId(5, 1040), cursor=RecordId(5, 1042), every_ms=200, http="http://a", applied_at=1_700_000_000_000,
    candidate=True, log_id="log-1", age_ms=17,
)  # fmt: skip


def read(**fields: Any) -> Heartbeat | None:
    """The heartbeat of `PEER`, with some fields changed by somebody else; None: a field is gone."""
    written = orjson.loads(PEER.to_json()) | fields
    return Heartbeat.from_json(
        orjson.dumps({name: value for name, value in written.items() if value != "gone"}), age_ms=17
    )


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
@pytest.mark.parametrize("name", [name for name in Heartbeat._fields if name not in ("age_ms", "beaten_at")])
def test_a_field_of_another_type_makes_it_none(name: str, value: Any) -> None:
    right = list if name in ("knew", "heard") else type(getattr(PEER, name))  # JSON has no tuples
    if right is type(value) and value not in (-1, 2**53):
        assert read(**{name: value}) is not None
    else:
        assert read(**{name: value}) is None


@pytest.mark.parametrize("data", [b"", b"null", b"7", b'"text"', b"[]", b"{}", b"\xff", b"{" * 9999])
def test_what_is_no_heartbeat_is_none(data: bytes) -> None:
    assert Heartbeat.from_json(data, age_ms=0) is None


@pytest.mark.parametrize("url", ["http://u:p@a:1", "http://a/?x", "http://a\x1b[2J", "javascript:x", "http://a@evil/"])
def test_a_node_with_a_url_that_is_none_is_there_and_serves_no_http(url: str) -> None:
    assert read(http=url) == PEER._replace(http="")


def test_it_has_the_nonces_that_it_heard_and_nothing_else_for_one() -> None:
    nonces = [f"{i:032x}" for i in range(NONCES_MAX)]
    heard = read(heard=nonces)
    assert heard is not None
    assert heard.heard == tuple(nonces)
    odd = read(heard=["", "\x1b", "F" * 32, nonces[0]])
    assert odd is not None
    assert odd.heard == (nonces[0],)


def test_nobody_reports_so_rarely_that_he_would_count_as_alive_for_years() -> None:
    assert read(every_ms=EVERY_MS_MAX) is not None
    assert read(every_ms=EVERY_MS_MAX + 1) is None


# --- how old a heartbeat is ------------------------------------------------------------------------------------------


def seen(ago_ms: int) -> Heartbeat:
    """`PEER`, stamped so long before it is seen."""
    found = Heartbeat.seen(PEER.to_json(), beaten_at=1_000_000 - ago_ms, now_ms=1_000_000)
    assert found is not None
    return found


@pytest.mark.parametrize(("ago_ms", "age_ms"), [(0, 0), (150, 150), (3_600_000, 3_600_000), (-1, 0), (-200, 0)])
def test_a_heartbeat_is_as_old_as_its_stamp(ago_ms: int, age_ms: int) -> None:
    assert seen(ago_ms) == PEER._replace(age_ms=age_ms, beaten_at=1_000_000 - ago_ms)


@pytest.mark.parametrize("ahead_ms", [201, 3_600_000])
def test_a_heartbeat_from_the_future_is_that_of_a_node_that_has_just_died(ahead_ms: int) -> None:
    """It is not "just now" for as long as the clock of Redis was set back, and not long ago either."""
    heartbeat = seen(-ahead_ms)
    assert not heartbeat.alive
    assert heartbeat.age_ms == MISSED_BEATS_MAX * PEER.every_ms + 1


def test_what_is_no_heartbeat_is_not_seen() -> None:
    assert Heartbeat.seen(b"{}", beaten_at=1, now_ms=2) is None


# --- the lease -------------------------------------------------------------------------------------------------------

LEASE = LeaseText("3 a a1", 5000, 1_700_000_000_000)


def test_a_lease_is_read_as_it_was_written() -> None:
    assert LeaseText.parse(str(LEASE)) == LEASE
    assert LeaseText.parse("3 a b a1 5000 17") == ("3 a b a1", 5000, 17), "whatever the name of the node"


@pytest.mark.parametrize("text", ["", "x", "3 a a1", "17", "3 a a1 -5 17", "3 a a1 5000 x", "3 a a1 5 " + "9" * 99])
def test_what_no_script_wrote_is_no_lease(text: str) -> None:
    assert LeaseText.parse(text) is None


@pytest.mark.parametrize(
    ("expires_in_ms", "left_ms"), [(4000, 4000), (0, 0), (5001, 5000), (3_585_000, 5000), (-1, None), (-2, None)]
)
def test_a_lease_has_never_more_left_than_was_asked_for(expires_in_ms: int, left_ms: int | None) -> None:
    assert lease_left_ms(str(LEASE), expires_in_ms) == left_ms


HEAD = Head("log-1", "run-1", 3, "a", "a1", Position(RecordId(3, 1), "0" * 32))


@pytest.mark.parametrize(
    "text",
    [
        "somebody's",
        "2 a a1 5000 17",
        "3 b b1 5000 17",
        "3 a a2 5000 17",
        "3 a a1 86400001 17",
        "3 a a1 9999999999999 1",
    ],
)
def test_what_the_holder_of_the_term_cannot_have_written_is_no_lease(text: str) -> None:
    assert lease_left_ms(text, 3_585_000, HEAD) is None
    assert lease_left_ms(str(LEASE), 4000, HEAD) == 4000
