"""The members of a group as one node knows them: itself as it is, the others as it last heard of them."""

from __future__ import annotations

from replicator.format.ids import Position, RecordId
from replicator.node.members import Member, members_of
from replicator.protocol.group import GroupView, Head
from replicator.protocol.heartbeat import Heartbeat


def at(n: int) -> Position:
    return Position(RecordId(1, n), "0" * 32)


ME = Member(
    node="b", role="standby", alive=True, term=1, position="1-9", in_sync=True, lag_records=1, lag_ms=5,
    http="http://b", problem=None, version=1, age_ms=12,
)  # fmt: skip


def beat(node: str, *, role: str = "standby", n: int = 9, age_ms: int = 100, boot: str = "1") -> Heartbeat:
    return Heartbeat(node, boot, run="run-1", term=1, role=role, position=at(n), http=f"http://{node}", age_ms=age_ms)


def look(*beats: Heartbeat, run: str = "run-1", paused: str = "") -> GroupView:
    head = Head("log", "run-1", 1, "a", "1", at(10), paused=paused)
    return GroupView(run, 1, head, at(10).id, 4000, {each.node: each for each in beats}, 20_000)


def test_before_the_first_look_a_node_knows_itself() -> None:
    seen = members_of(ME, None, term=1, seen_ms=None)
    assert (seen.nodes, seen.holder, seen.seen_ms) == ([ME], None, None)


def test_it_tells_of_itself_what_it_is_now_and_not_what_it_reported() -> None:
    seen = members_of(ME, look(beat("a", role="primary", n=10), beat("b", n=2)), term=1, seen_ms=50)
    assert [(each.node, each.role, each.position) for each in seen.nodes] == [
        ("a", "primary", "1-10"), ("b", "standby", "1-9"),
    ]  # fmt: skip
    assert seen.holder == "a"


def test_while_it_cannot_look_the_others_fall_silent() -> None:
    beats = look(beat("a", role="primary", age_ms=100))
    fresh, old = (members_of(ME, beats, term=1, seen_ms=seen_ms).nodes[0] for seen_ms in (50, 60_000))
    assert (fresh.alive, fresh.role, fresh.age_ms) == (True, "primary", 150)
    assert (old.alive, old.role, old.age_ms) == (False, "standby", 60_100)


def test_a_heartbeat_of_a_primary_that_was_replaced_claims_too_much() -> None:
    seen = members_of(ME, look(beat("a", role="primary", boot="0"), beat("c", role="primary")), term=1, seen_ms=0)
    assert [each.role for each in seen.nodes] == ["standby"] * 3


def test_in_another_run_of_redis_nobody_holds_the_term() -> None:
    seen = members_of(ME, look(beat("a", role="primary"), run="run-2"), term=1, seen_ms=0)
    assert (seen.holder, seen.nodes[0].role) == (None, "standby")


def test_a_pause_is_told_with_its_reason() -> None:
    assert members_of(ME, look(paused="maintenance"), term=1, seen_ms=0).pause_reason == "maintenance"


def test_its_json_form_has_plain_values_alone() -> None:
    told = members_of(ME, look(beat("a")), term=1, seen_ms=7).to_dict()
    assert told["seen_by"] == "b"
    assert told["nodes"][1] == {
        "node": "b", "role": "standby", "alive": True, "term": 1, "position": "1-9", "in_sync": True,
        "lag_records": 1, "lag_ms": 5, "http": "http://b", "problem": None, "version": 1, "age_ms": 12,
    }  # fmt: skip
