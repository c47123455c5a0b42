"""Why a node does not lead, does not follow, would not be promoted, or is not ready; as codes, with their facts."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.errors import PromotionRefused, UnknownGroup
from replicator.format.ids import ZERO_CHAIN, ZERO_ID, Position, RecordId
from replicator.log.interface import LogSize
from replicator.node.health import BEHIND_RECORDS_MAX
from replicator.ops.diagnosis import checks_of_group, checks_of_nodes
from replicator.ops.group_status import status_of
from replicator.ops.promotion import preview, promote
from replicator.ops.why import QUESTIONS, UnknownNode, why, why_of
from replicator.protocol.election import NOBODY
from replicator.protocol.group import GroupView, Head
from replicator.protocol.heartbeat import Heartbeat
from tests.support.kv import Group
from tests.support.nodes import reported
from tests.support.paper import Paper, at

NOW_MS = 1_700_000_000_000
HERE = Position(RecordId(3, 100), ZERO_CHAIN)
HEAD = Head("log-1", "run-1", 3, "a", "a-1", HERE, changed=HERE.id)
AHEAD = RecordId(3, 200)


def heartbeat(name: str, **more: Any) -> Heartbeat:
    facts: dict[str, Any] = {"run": "run-1", "term": 3, "position": HERE, "cursor": HERE.id, "changed": HERE.id}
    return Heartbeat(name, f"{name}-1", **facts | {"log_id": "log-1", "applied_at": NOW_MS - 50} | more)


def look(*heartbeats: Heartbeat, **more: Any) -> GroupView:
    facts: dict[str, Any] = {"run": "run-1", "term": 3, "head": HEAD, "last_id": HERE.id, "lease_ms": 3000}
    return GroupView(**facts | {"heartbeats": {each.node: each for each in heartbeats}, "now_ms": NOW_MS} | more)


LEADS = heartbeat("a", role="primary")
DEAD = heartbeat("a", role="primary", age_ms=12_300)
B = heartbeat("b", candidate=True)


def codes(node: str, seen: GroupView, question: str) -> list[str]:
    return [each.code.value for each in why_of("g", node, seen).reasons if each.question == question]


def test_a_group_that_is_well() -> None:
    seen = look(LEADS, B)
    a, b = why_of("g", "a", seen), why_of("g", "b", seen)
    assert (a.leads, a.follows, a.promotable, a.ready, a.role) == (True, False, False, True, "primary")
    assert (b.leads, b.follows, b.promotable, b.ready, b.role) == (False, True, True, True, "standby")
    (reason,) = b.reasons
    assert (reason.question, reason.code, dict(reason.facts)) == (
        "leads", "other_leads", {"primary": "a", "term": 3, "lease_ms": 3000},
    )  # fmt: skip


BEFORE = Position(RecordId(3, 99), ZERO_CHAIN)
POISONED = {"stalled": "oops", "stalled_at": HERE.id, "changed": BEFORE.id, "position": BEFORE, "cursor": BEFORE.id}


def test_its_role_is_the_one_that_status_shows() -> None:
    seen = look(LEADS, B, lease_ms=None)
    shown = status_of("g", seen, LogSize(None, None)).nodes
    assert [why_of("g", each.node, seen).role for each in shown] == [each.role for each in shown]
    assert shown[0].role == "primary"


def test_a_node_that_is_far_behind_is_not_ready_and_status_says_so() -> None:
    far = Position(RecordId(3, 100 + BEHIND_RECORDS_MAX + 1), ZERO_CHAIN)
    seen = look(LEADS._replace(position=far), B, head=HEAD._replace(position=far), last_id=far.id)
    (told,) = [each for each in why_of("g", "b", seen).reasons if each.question == "ready"]
    assert (told.code, dict(told.facts)) == ("behind", {"lag_records": BEHIND_RECORDS_MAX + 1, "behind_ms": 0})
    assert status_of("g", seen, LogSize(None, None)).nodes[1].codes == ["behind"]


NOT_LEADING: list[tuple[str, GroupView, list[str]]] = [
    ("it is not there", look(LEADS, B._replace(age_ms=9000)), ["not_reporting", "other_leads"]),
    ("it stopped", look(LEADS, B._replace(left=True)), ["stopped", "other_leads"]),
    ("the lease of the dead one runs", look(DEAD, B), ["not_reporting", "lease_runs"]),
    ("it does not take over by itself", look(DEAD, heartbeat("b"), lease_ms=None), ["not_reporting", "not_candidate"]),
    ("the primary was demoted", look(LEADS, B, head=HEAD._replace(node=NOBODY.node, boot=NOBODY.boot)), ["demoted"]),
    (
        "failover is paused",
        look(DEAD, B, head=HEAD._replace(paused="by x"), lease_ms=None),
        ["not_reporting", "paused"],
    ),
    ("it stalled", look(DEAD, B._replace(stalled="oops"), lease_ms=None), ["not_reporting", "stalled"]),
    (
        "its Redis user may not write the log",
        look(DEAD, B._replace(follows_only="no right", candidate=False), lease_ms=None),
        ["not_reporting", "may_not_lead"],
    ),
    (
        "all stalled at the last change",
        look(DEAD._replace(**POISONED), heartbeat("b", **POISONED), lease_ms=None),
        ["all_stalled", "not_candidate", "stalled"],
    ),
    ("there is no log", look(B, head=None, term=0, last_id=RecordId(0, 0), lease_ms=None), ["log_lost"]),
    ("Redis came back", look(LEADS, B, run="run-2", lease_ms=None), ["new_run", "not_all_reported"]),
    ("its term key was moved", look(LEADS, B, term=9, lease_ms=None), ["unheld"]),
    (
        "another one goes first",
        look(DEAD, B, heartbeat("c", candidate=True, changed=AHEAD), head=HEAD._replace(changed=AHEAD), lease_ms=None),
        ["not_reporting", "other_first"],
    ),
    (
        "it lacks what the log lost",
        look(DEAD, B, heartbeat("c", changed=AHEAD), lease_ms=None),
        ["not_reporting", "lacks_changes"],
    ),
]


@pytest.mark.parametrize(("story", "seen", "wanted"), NOT_LEADING, ids=[story for story, *_ in NOT_LEADING])
def test_why_a_standby_does_not_lead(story: str, seen: GroupView, wanted: list[str]) -> None:
    assert codes("b", seen, "leads") == wanted


HOLDER: list[tuple[str, GroupView, list[str]]] = [
    ("its lease is over", look(LEADS, B, lease_ms=None), ["lease_expired"]),
    ("it reads the log first", look(heartbeat("a", term=2), B), ["reads_first"]),
    ("it was restarted", look(LEADS._replace(boot="a-2"), B), ["restarted"]),
    ("it stalled", look(heartbeat("a", stalled="oops"), B), ["does_not_lead", "stalled"]),
]


@pytest.mark.parametrize(("story", "seen", "wanted"), HOLDER, ids=[story for story, *_ in HOLDER])
def test_why_the_holder_of_the_term_does_not_lead(story: str, seen: GroupView, wanted: list[str]) -> None:
    assert codes("a", seen, "leads") == wanted
    assert not why_of("g", "a", seen).leads


FOLLOWING: list[tuple[str, GroupView, list[str]]] = [
    ("nobody leads", look(DEAD, B, lease_ms=None), ["nobody_leads"]),
    ("its state differs", look(LEADS, B._replace(diverged="3-90")), ["diverged"]),
    ("its state is given up", look(LEADS, B._replace(given_up="asked", in_sync=False)), ["given_up", "out_of_sync"]),
    ("it is out of sync", look(LEADS, B._replace(in_sync=False)), ["out_of_sync"]),
    (
        "it is slow",
        look(LEADS, B._replace(position=Position(RecordId(3, 1), ZERO_CHAIN), behind_ms=9000)),
        ["behind"],
    ),
]


@pytest.mark.parametrize(("story", "seen", "wanted"), FOLLOWING, ids=[story for story, *_ in FOLLOWING])
def test_why_a_standby_does_not_follow(story: str, seen: GroupView, wanted: list[str]) -> None:
    assert codes("b", seen, "follows") == wanted


def test_a_primary_with_a_disk_that_is_full_is_ready_and_a_standby_is_not() -> None:
    seen = look(LEADS._replace(problem="the disk is full"), B._replace(problem="the disk is full"))
    assert codes("a", seen, "ready") == []
    assert codes("b", seen, "ready") == ["problem"]


def test_a_standby_is_ready_while_nobody_leads_as_its_own_probe_says() -> None:
    assert codes("b", look(DEAD, B, lease_ms=None), "ready") == []
    assert codes("b", look(DEAD, B, lease_ms=None, run="run-2"), "ready") == ["other_run"]


def test_nobody_knows_the_lag_of_a_standby_without_a_log() -> None:
    assert codes("b", look(B, head=None, term=0, last_id=ZERO_ID), "ready") == ["lag_unknown"]


def test_nobody_leads_while_something_keeps_redis_from_taking_a_record() -> None:
    stray = look(LEADS, B, last_id=RecordId(1_796_062_688_895, 0))
    assert codes("a", stray, "leads") == ["log_broken"]
    assert not why_of("g", "a", stray).leads


def test_a_node_that_took_the_term_by_itself_does_not_lead_before_it_says_so() -> None:
    taken = HEAD._replace(taken=((NOW_MS - 300, "a"),))
    seen = look(heartbeat("a", term=2, beaten_at=NOW_MS - 400), B, head=taken)
    assert codes("a", seen, "leads") == ["reads_first"]
    assert codes("b", seen, "leads") == ["reads_first", "lease_runs"]
    assert not why_of("g", "a", seen).leads


ALL = [*NOT_LEADING, *HOLDER, *FOLLOWING]


@pytest.mark.parametrize(("story", "seen", "wanted"), ALL, ids=[story for story, *_ in ALL])
def test_status_and_doctor_tell_the_same_of_every_node(story: str, seen: GroupView, wanted: list[str]) -> None:
    told = status_of("g", seen, LogSize(None, None))
    for node in told.nodes:
        answer = why_of("g", node.node, seen)
        assert (node.leads, node.ready) == (answer.leads, answer.ready)
        assert node.codes == codes(node.node, seen, "ready")
    of_doctor = {check.code for check in (*checks_of_group(seen), *checks_of_nodes(seen))}
    own = {"other_leads", "lease_runs", "not_candidate", "other_first", "nobody_leads", "lag_unknown", "leads"}
    of_promotions = {"may_not_lead", "not_all_reported", "lacks_changes", "not_yet", "missing_nodes"}
    for node in told.nodes:
        for each in why_of("g", node.node, seen).reasons:
            assert each.code in of_doctor | own | of_promotions, each
            assert each.question in QUESTIONS


class TestOfAGroup:
    def test_a_promotion_is_refused_for_the_reason_that_why_gives(self) -> None:
        paper = Paper()
        paper.beat("a", term=1, position=at(1, 1), changed=RecordId(1, 1), cursor=RecordId(1, 1))
        paper.beat("b", term=1, position=at(1, 1), changed=RecordId(1, 1), cursor=RecordId(1, 1), diverged="1-1")
        paper.take_term()
        with pytest.raises(PromotionRefused) as refused:
            paper.promote("b")
        told = [each for each in why(paper.log, "b").reasons if each.question == "promotable"]
        assert [(refused.value.code, refused.value.facts)] == [(each.code.value, dict(each.facts)) for each in told]
        assert refused.value.facts == {"diverged_id": "1-1"}

    def test_a_node_that_nobody_knows_is_told_from_a_group_that_nobody_knows(self, group: Group) -> None:
        with pytest.raises(UnknownGroup):
            why(group.log(), "a")
        reported(group, group.primary("a"))
        with pytest.raises(UnknownNode, match="no node zz has ever reported to group memory; the nodes there are: a"):
            why(group.log(), "zz")
        with pytest.raises(PromotionRefused) as refused:
            promote(group.log(), "zz", by="x")
        assert (refused.value.code, refused.value.facts) == ("never_reported", {})
        told = preview(group.log(), "zz")
        assert (told.code, told.facts) == ("never_reported", {})
