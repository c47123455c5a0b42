"""Whose state differs, and whether the primary is the odd one: by the heartbeats of one look."""

from __future__ import annotations

from typing import Any

from replicator.format.ids import ZERO_CHAIN, Position, RecordId
from replicator.protocol import election
from replicator.protocol.divergence import Comparison, compared
from replicator.protocol.group import NO_DIGEST, GroupView, Head
from replicator.protocol.heartbeat import Heartbeat

AT = RecordId(3, 90)
HERE = Position(RecordId(3, 100), ZERO_CHAIN)
HEAD = Head("log-1", "run-1", 3, "a", "a-1", HERE, changed=HERE.id)


def heartbeat(name: str, digest: str = "", **more: Any) -> Heartbeat:
    facts: dict[str, Any] = {"run": "run-1", "term": 3, "position": HERE, "cursor": HERE.id, "changed": HERE.id}
    if name == "a":
        facts["role"] = "primary"
    digest_at = AT if digest else RecordId(0, 0)
    return Heartbeat(name, f"{name}-1", **facts | {"log_id": "log-1", "digest": digest, "digest_at": digest_at} | more)


def look(*heartbeats: Heartbeat, **more: Any) -> GroupView:
    facts: dict[str, Any] = {"run": "run-1", "term": 3, "head": HEAD, "last_id": HERE.id, "lease_ms": 3000}
    return GroupView(**facts | {"heartbeats": {each.node: each for each in heartbeats}} | more)


def comparison(*heartbeats: Heartbeat, **more: Any) -> Comparison:
    found = compared(look(*heartbeats, **more))
    assert found is not None
    return found


def test_who_has_the_primary_s_state_and_who_another_one() -> None:
    found = comparison(heartbeat("a", "1"), heartbeat("b", "1"), heartbeat("c", "2"), heartbeat("d", "3"))
    assert found == Comparison(AT, "a", ("b",), ("c", "d"), agree=False, awaited=())
    assert not found.primary_is_odd


def test_the_primary_is_the_odd_one_if_two_agree_and_all_differ_from_it() -> None:
    one, b, c = heartbeat("a", "1"), heartbeat("b", "2"), heartbeat("c", "2")
    assert comparison(one, b, c).primary_is_odd
    assert not comparison(one, b, heartbeat("c", "3")).primary_is_odd, "nobody knows which of three is right"
    assert not comparison(one, b, c, heartbeat("d", "1")).primary_is_odd, "one has what it has"
    assert not comparison(one, b).primary_is_odd, "of two the primary counts"
    assert not comparison(one, b, heartbeat("c", "2", age_ms=60_000)).primary_is_odd, "c is dead"


def test_nobody_is_judged_before_the_primary_told_its_digest() -> None:
    for primary in (heartbeat("a"), heartbeat("a", NO_DIGEST), heartbeat("a", "1", role="standby")):
        assert compared(look(primary, heartbeat("b", "2"))) is None
    assert compared(look(heartbeat("b", "2"))) is None
    assert compared(look(heartbeat("a", "1", age_ms=60_000), heartbeat("b", "2"))) is None
    assert compared(look(heartbeat("a", "1")._replace(boot="a-0"), heartbeat("b", "2"))) is None
    assert compared(look(heartbeat("a", "1"), run="run-2")) is None
    assert compared(look(heartbeat("a", "1"), term=4)) is None
    assert compared(look(heartbeat("a", "1"), head=None)) is None


def test_only_digests_of_one_marker_are_compared() -> None:
    one = heartbeat("a", "1")
    late = heartbeat("b", "2", digest_at=RecordId(3, 80))
    ahead = heartbeat("c", "3", digest_at=RecordId(3, 95))
    undrawn = heartbeat("d", NO_DIGEST)
    found = comparison(one, late, ahead, undrawn)
    assert found == Comparison(AT, "a", (), (), agree=False, awaited=("b",))


def test_whoever_does_not_follow_the_log_is_not_awaited() -> None:
    late = {"digest_at": RecordId(3, 80)}
    others = [heartbeat("b", in_sync=False, **late), heartbeat("c", stalled="it failed", **late)]
    assert comparison(heartbeat("a", "1"), *others).awaited == ()


class TestWhoMayLead:
    def test_a_node_whose_state_differs_is_promoted_by_force_alone(self) -> None:
        seen = look(heartbeat("a", age_ms=60_000), heartbeat("b", diverged=str(AT)), heartbeat("c"), lease_ms=None)
        refusal = election.refusal("b", seen)
        assert refusal is not None
        assert refusal.reason == "its state differs from the primary's at 3-90"
        assert refusal.better == "c"
        assert election.refusal("c", seen) is None

    def test_neither_is_one_whose_state_is_to_be_replaced_though_it_lacks_no_change(self) -> None:
        """Out of sync with every change, it could lead, and send what it has to all."""
        b = heartbeat("b", given_up="asked by ann", in_sync=False)
        seen = look(heartbeat("a", age_ms=60_000), b, lease_ms=None)
        refusal = election.refusal("b", seen)
        assert refusal is not None
        assert "in the place of its state: asked by ann" in refusal.reason
        assert (
            election.refusal("b", look(heartbeat("a", age_ms=60_000), b._replace(given_up=""), lease_ms=None)) is None
        )

    def test_neither_takes_over_by_itself(self) -> None:
        b, c = heartbeat("b", diverged=str(AT), candidate=True), heartbeat("c", candidate=True)
        seen = look(heartbeat("a", age_ms=60_000), b, c, lease_ms=None)
        assert election.election_rank(b, seen, beats_in_run=9) is None
        assert election.election_rank(c, seen, beats_in_run=9) == 0

    def test_a_log_that_was_lost_is_not_founded_from_it(self) -> None:
        ahead = Position(RecordId(3, 101), ZERO_CHAIN)
        nodes = [heartbeat("b", diverged=str(AT), position=ahead, changed=ahead.id), heartbeat("c")]
        assert election.most_advanced_holder(nodes, "log-1") == "c"
