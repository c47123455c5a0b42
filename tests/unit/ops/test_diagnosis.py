"""What is said of a group that is not well, and that what one is told to do can be done."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.format.ids import ORIGIN, ZERO_CHAIN, Position, RecordId
from replicator.ops.diagnosis import (
    OK,
    PROBLEM,
    WARNING,
    checks_of_group,
    checks_of_nodes,
    is_known,
    next_step,
    pause_of,
    term_holder,
)
from replicator.protocol.election import NOBODY
from replicator.protocol.group import GroupView, Head
from replicator.protocol.heartbeat import Heartbeat

NOW_MS = 1_700_000_000_000
HERE = Position(RecordId(3, 100), ZERO_CHAIN)
HEAD = Head("log-1", "run-1", 3, "a", "a-1", HERE, changed=HERE.id)


def heartbeat(name: str, **more: Any) -> Heartbeat:
    facts: dict[str, Any] = {"run": "run-1", "term": 3, "position": HERE, "cursor": HERE.id, "changed": HERE.id}
    return Heartbeat(name, f"{name}-1", **facts | {"log_id": "log-1", "applied_at": NOW_MS - 50} | more)


def look(*heartbeats: Heartbeat, **more: Any) -> GroupView:
    facts: dict[str, Any] = {"run": "run-1", "term": 3, "head": HEAD, "last_id": HERE.id, "lease_ms": 3000}
    return GroupView(**facts | {"heartbeats": {each.node: each for each in heartbeats}, "now_ms": NOW_MS} | more)


LEADS = heartbeat("a", role="primary")
DEAD = heartbeat("a", role="primary", age_ms=12_300)


def told(name: str, seen: GroupView) -> tuple[str, str]:
    (check,) = (check for check in checks_of_group(seen) if check.check == name)
    return check.level, check.message


PRIMARY: list[tuple[str, GroupView, str, str]] = [
    (
        "dead, and nobody takes over by itself",
        look(DEAD, heartbeat("b"), lease_ms=None),
        PROBLEM,
        "not reported for 12 s: no live node takes over by itself (--auto-promote), so `replicator promote b`",
    ),
    (
        "dead, with a candidate",
        look(DEAD, heartbeat("b", candidate=True), lease_ms=None),
        PROBLEM,
        "b takes over by itself in a moment; if that lasts, `replicator promote b`",
    ),
    (
        "dead, with a candidate that may not",
        look(DEAD, heartbeat("b", candidate=True, stalled="apply failed"), lease_ms=None),
        PROBLEM,
        "b would take over by itself, but it stalled: apply failed",
    ),
    (
        "dead, while failover is paused",
        look(DEAD, heartbeat("b", candidate=True), lease_ms=None, head=HEAD._replace(paused="by ann")),
        PROBLEM,
        "automatic failover is paused, so `replicator promote b`",
    ),
    (
        "all dead",
        look(DEAD, heartbeat("b", age_ms=9000), lease_ms=None),
        PROBLEM,
        "not reported for 12 s: no node reports, so none takes over",
    ),
    (
        "in another run, and those that live have not reported",
        look(heartbeat("a", role="primary"), heartbeat("b"), run="run-2"),
        PROBLEM,
        "a, which led, goes on by itself once a and b have reported",
    ),
    (
        "in another run, which was seen by all",
        look(heartbeat("a", run="run-2"), heartbeat("b", run="run-2"), run="run-2"),
        PROBLEM,
        "a, which led, goes on by itself in a moment; if that lasts, `replicator promote a`",
    ),
    (
        "in another run, and restarted",
        look(heartbeat("a", run="run-2")._replace(boot="a-2"), run="run-2"),
        PROBLEM,
        "a, which led and was restarted, goes on by itself (not with --on-restart standby) in a moment",
    ),
    (
        "in another run, and dead",
        look(DEAD, heartbeat("b", run="run-2"), run="run-2"),
        PROBLEM,
        "no live node takes over by itself (--auto-promote), so `replicator promote b`",
    ),
    (
        "in another run, and dead, with a candidate that waits for the others",
        look(DEAD, heartbeat("b", run="run-2", candidate=True), heartbeat("c"), run="run-2"),
        PROBLEM,
        "b takes over by itself once the others have reported, or are taken for dead",
    ),
    (
        "demoted",
        look(heartbeat("a"), heartbeat("b", candidate=True), head=HEAD._replace(node=NOBODY.node, boot=NOBODY.boot)),
        PROBLEM,
        "the primary was demoted, and no node takes over by itself until one is promoted; `replicator promote a`",
    ),
    (
        "restarted",
        look(heartbeat("a")._replace(boot="a-2")),
        PROBLEM,
        "a holds term 3, and does not lead: it was restarted",
    ),
    (
        "stalled",
        look(heartbeat("a", stalled="apply failed")),
        PROBLEM,
        "a holds term 3, and does not lead: apply failed",
    ),
    ("forgotten", look(heartbeat("b")), PROBLEM, "a holds term 3, and has no heartbeat"),
    ("on its way", look(heartbeat("a", term=2)), WARNING, "a was given term 3 a moment ago"),
    (
        "on its way, and had no time to say so",
        look(heartbeat("a", term=2, beaten_at=NOW_MS - 400), head=HEAD._replace(taken=((NOW_MS - 300, "a"),))),
        OK,
        "a was given term 3 a moment ago, and leads once it has read the log",
    ),
    (
        "on its way for longer than a beat",
        look(heartbeat("a", term=2, beaten_at=NOW_MS - 200), head=HEAD._replace(taken=((NOW_MS - 300, "a"),))),
        WARNING,
        "a was given term 3 a moment ago: it leads once it has read the log",
    ),
    ("never on its way", look(heartbeat("a", term=2), lease_ms=None), PROBLEM, "a holds term 3, and does not lead"),
    ("without a lease", look(LEADS, lease_ms=None), WARNING, "its lease has run out"),
    ("leading", look(LEADS), "ok", "a leads in term 3"),
]


@pytest.mark.parametrize(("seen", "level", "text"), [case[1:] for case in PRIMARY], ids=[case[0] for case in PRIMARY])
def test_who_leads_and_what_helps(seen: GroupView, level: str, text: str) -> None:
    found = told("primary", seen)
    assert found[0] == level
    assert text in found[1]


@pytest.mark.parametrize("seen", [case[1] for case in PRIMARY], ids=[case[0] for case in PRIMARY])
def test_each_sentence_is_one_line_and_a_command_names_a_node_that_there_is(seen: GroupView) -> None:
    for check in (*checks_of_group(seen), *checks_of_nodes(seen)):
        assert "\n" not in check.message
        for command in check.message.split("`replicator promote ")[1:]:
            assert command.partition("`")[0] in (*seen.heartbeats, "NODE --dry-run")


@pytest.mark.parametrize(
    ("seen", "level", "text"),
    [
        (look(LEADS, heartbeat("b", age_ms=9000)), PROBLEM, "no standby is left that could take over"),
        (look(LEADS, heartbeat("b", in_sync=False)), PROBLEM, "no standby is left that could take over"),
        (look(LEADS), WARNING, "a is the only node"),
        (look(LEADS, heartbeat("b"), heartbeat("c", age_ms=9000)), "ok", "b could take over"),
        (look(head=None, term=0), WARNING, "no node has reported yet"),
    ],
)
def test_whether_a_standby_is_left(seen: GroupView, level: str, text: str) -> None:
    found = told("standbys", seen)
    assert found[0] == level
    assert text in found[1]


def test_a_pause_says_since_when_by_the_clock_of_redis() -> None:
    paused = pause_of(look(LEADS, head=HEAD._replace(paused="by ann: moving", paused_at=NOW_MS)))
    assert paused is not None
    assert "paused (by ann: moving) since 2023-11-14 22:13:20 UTC" in paused.message
    assert pause_of(look(LEADS)) is None


def test_a_pause_at_no_time_at_all_hides_nothing_else() -> None:
    paused = pause_of(look(LEADS, head=HEAD._replace(paused="by ann", paused_at=2**53)))
    assert paused is not None
    assert "which is no time" in paused.message


def test_a_node_that_is_silent_may_be_up_and_unable_to_write() -> None:
    (of_b,) = (
        check for check in checks_of_nodes(look(LEADS, heartbeat("b", age_ms=60_000))) if check.check == "node b"
    )
    assert of_b.level == WARNING
    assert "it is down, or cannot reach this Redis or write to it" in of_b.message


def test_nobody_holds_a_term_of_another_run_or_one_that_the_log_does_not_have() -> None:
    assert term_holder(look(LEADS)) == "a"
    assert term_holder(look(LEADS, run="run-2")) is None
    assert term_holder(look(LEADS, term=4)) is None
    assert term_holder(look(LEADS, head=None)) is None


def test_a_group_is_known_by_its_log_its_term_or_a_heartbeat() -> None:
    assert not is_known(look(head=None, term=0))
    assert all(map(is_known, (look(head=None), look(), look(LEADS, head=None, term=0))))


def test_a_candidate_that_goes_on_whoever_is_missing_takes_over_by_itself() -> None:
    # given a new run, in which c alone has reported of three, and a change that was acknowledged as applied:1
    head = HEAD._replace(applied_min=1, whole="run-1", whole_at=NOW_MS - 20_000)
    silent = [heartbeat(name, age_ms=20_000, beaten_at=NOW_MS - 20_000) for name in "ab"]
    beats: dict[str, Any] = {"run": "run-2", "candidate": True, "beaten_at": NOW_MS}

    def says(**more: Any) -> str:
        seen = look(*silent, heartbeat("c", **beats | more), run="run-2", head=head, lease_ms=None)
        return told("primary", seen)[1]

    assert "c would take over by itself, but" in says()
    assert "c takes over by itself" in says(goes_on=True)


# --- states that differ ----------------------------------------------------------------------------------------------

AT = RecordId(3, 90)


def digested(name: str, digest: str, **more: Any) -> Heartbeat:
    role = "primary" if name == "a" else "standby"
    return heartbeat(name, role=role, digest=digest, digest_at=AT, **more)


def test_states_that_are_equal_are_said_to_be_and_nothing_is_said_where_nobody_knows() -> None:
    assert told("states", look(digested("a", "1"), digested("b", "1"))) == (OK, "a, b had equal states at 3-90")
    for seen in (look(LEADS, digested("b", "1")), look(digested("a", "1"), heartbeat("b"))):
        assert not [check for check in checks_of_group(seen) if check.check == "states"]


def test_a_primary_that_is_the_odd_one_is_a_problem_with_what_to_do() -> None:
    level, message = told("states", look(digested("a", "1"), digested("b", "2"), digested("c", "2")))
    assert level == PROBLEM
    assert message.startswith("the state of the primary, a, differs at 3-90 from that of b, c: they agree")
    assert "`replicator switchover` to one of them has a rebuilt" in message


def test_a_standby_that_differs_is_a_warning_until_it_takes_itself_for_the_odd_one() -> None:
    seen = look(digested("a", "1"), digested("b", "2"), heartbeat("c"))
    assert told("states", seen) == (
        WARNING,
        "the state of b differs at 3-90 from that of the primary, a: more is known once all nodes have reported there",
    )
    seen = look(digested("a", "1"), digested("b", "2", diverged="3-90"))
    assert not [check for check in checks_of_group(seen) if check.check == "states"]
    (of_b,) = (check for check in checks_of_nodes(seen) if check.check == "node b")
    assert of_b.level == PROBLEM
    assert of_b.message.startswith("its state differs from the primary's at 3-90: it keeps that as a fork")
    assert "`replicator reinit b`" in of_b.message
    assert told("standbys", seen)[0] == PROBLEM


def test_a_state_that_is_given_up_is_told_with_its_reason() -> None:
    seen = look(LEADS, heartbeat("b", given_up="asked by ann", in_sync=False))
    of_b = [check for check in checks_of_nodes(seen) if check.check == "node b"]
    assert (of_b[0].level, of_b[0].message) == (
        WARNING,
        "the next snapshot takes the place of its state: asked by ann",
    )


# --- versions ---------------------------------------------------------------------------------------------------------

OLD: dict[str, Any] = {"version": 1, "reads_min": 1, "reads_max": 1}
NEW: dict[str, Any] = {"version": 2, "reads_min": 1, "reads_max": 2}

STEPS: list[tuple[str, GroupView, str, str]] = [
    ("old code", look(LEADS, heartbeat("b")), OK, "the group is at version 1; next: nothing: all nodes read version 1"),
    ("the new code on one", look(LEADS, heartbeat("b", **NEW)), OK, "version 2 is not read by all: a reads 1: upgrade"),
    (
        "the new code on one of three",
        look(LEADS, heartbeat("b", **NEW), heartbeat("c")),
        OK,
        "a reads 1, c reads 1: upgrade them",
    ),
    (
        "the new code on all",
        look(LEADS._replace(**NEW), heartbeat("b", **NEW)),
        OK,
        "all nodes read 2: `replicator finalize 2`, and there is no way back",
    ),
    (
        "one that was away within the hour",
        look(LEADS._replace(**NEW), heartbeat("b", age_ms=3_599_000)),
        OK,
        "b reads 1: upgrade it",
    ),
    ("one that is gone", look(LEADS._replace(**NEW), heartbeat("b", age_ms=3_601_000)), OK, "`replicator finalize 2`"),
    (
        "old code after that",
        look(LEADS._replace(**NEW, group_version=2), heartbeat("b")),
        PROBLEM,
        "the group is at version 2, which b cannot read: version 2 is not read by all: b reads 1: upgrade it",
    ),
]


@pytest.mark.parametrize(("seen", "level", "text"), [step[1:] for step in STEPS], ids=[step[0] for step in STEPS])
def test_where_an_upgrade_is_and_what_comes_next(seen: GroupView, level: str, text: str) -> None:
    found, message = told("versions", seen)
    assert (found, text in message) == (level, True), message


def test_where_nobody_has_anything_nothing_is_said_of_versions() -> None:
    new = heartbeat("a", position=ORIGIN)
    assert [check for check in checks_of_group(look(new)) if check.check == "versions"] == []
    assert "no node has anything" in next_step(look(new))


def test_the_version_is_that_of_whoever_leads() -> None:
    ahead = heartbeat("b", position=Position(RecordId(3, 101), ZERO_CHAIN), **NEW, group_version=2)
    assert "the group is at version 1" in told("versions", look(LEADS, ahead))[1]
    assert "the group is at version 2" in told("versions", look(ahead))[1], "or else the most advanced node's"


def test_a_silent_node_of_another_application_was_refused() -> None:
    seen = look(LEADS, heartbeat("b", app="Flags", age_ms=60_000), head=HEAD._replace(app="Registry"))
    (check,) = [check for check in checks_of_nodes(seen) if check.check == "node b"]
    assert check.level == WARNING
    assert "of another application (`Flags`) than the log (`Registry`)" in check.message


# --- how far behind a node is -----------------------------------------------------------------------------------------

JUST_BEFORE = Position(RecordId(3, 99), ZERO_CHAIN)


def of_b(**more: Any) -> tuple[str, str]:
    (check,) = checks_of_nodes(look(heartbeat("b", **{"position": JUST_BEFORE} | more)))
    return check.level, check.message


def test_the_first_write_after_an_hour_leaves_no_standby_behind() -> None:
    """It reports once a second, and its newest record is an hour old until then."""
    assert of_b(applied_at=NOW_MS - 3_600_000)[0] == OK


def test_one_that_lacks_for_long_what_the_log_has_is_behind() -> None:
    assert of_b(behind_ms=5000)[0] == OK
    assert of_b(behind_ms=7000) == (
        WARNING,
        "it is 1 record behind, and has been for 7 s: see to its machine, its disk and its network",
    )
    assert of_b(behind_ms=7000, position=HERE)[0] == OK, "it has reported that, and caught up since"


def test_one_that_stopped_in_order_is_to_be_started_again_and_one_that_is_silent_may_be_cut_off() -> None:
    assert "stopped in order, and has not reported for 0.4 s: start it again;" in of_b(left=True, age_ms=400)[1]
    assert "it is down, or cannot reach this Redis" in of_b(age_ms=9000)[1]
