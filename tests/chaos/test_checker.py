"""The checker alone: hand-made histories that keep every promise, and for each rule some that break it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from .checker import _RULES, SECOND, TOLD_MAX, Event, Fork, Run, Setting, Sighting, Term, Verdict, Written, check
from .history import Operation
from .values import digests

VALUES = ("v0", "v1", "v2", "v3")


def at(seconds: float) -> int:
    return int(seconds * SECOND)


def write(value: str, began: float, ended: float | None = None, **what: Any) -> Operation:
    """An acknowledged write, unless `what` says otherwise."""
    fields = {"node": "a", "ack": "appended", "outcome": "ok", "index": None} | what
    last = at(began + 0.1 if ended is None else ended)
    return Operation(id=f"w-{value}", kind="write", value=value, began=at(began), ended=last, **fields)


def written(values: Sequence[str] = VALUES) -> list[Operation]:
    """The values one after the other, one a second, each acknowledged at its place."""
    return [write(value, second, index=second) for second, value in enumerate(values)]


def shown(kind: str, began: float, values: Sequence[str], **what: Any) -> Operation:
    """A read that showed these values."""
    fields: dict[str, Any] = {"node": "b", "outcome": "ok", "count": len(values), "digest": digests(values)[-1]}
    return Operation(id=f"r-{began}", kind=kind, began=at(began), ended=at(began + 0.1), **fields | what)


def happened(kind: str, began: float, ended: float | None = None, node: str = "") -> Event:
    return Event(kind=kind, began=at(began), ended=at(began + 0.1 if ended is None else ended), node=node)


def seen(second: float, term: int, *, node: str = "a", boot: str = "a1", role: str = "standby") -> Sighting:
    return Sighting(at=at(second), node=node, boot=boot, term=term, role=role)


def run(**what: Any) -> Run:
    """A run that keeps every promise, but for what is given."""
    fields: dict[str, Any] = {
        "setting": Setting(aof="always", replicas=0),
        "operations": written(),
        "sightings": [seen(0, 1, role="primary"), seen(1, 1, node="b", boot="b1")],
        "written": [Written(term=1, n=1, node="a", boot="a1")],
        "finals": {"a": VALUES, "b": VALUES},
    }
    return Run(**fields | what)


def ended_with(*values: str, **what: Any) -> Run:
    """The same, with these values at the end on every node."""
    return run(finals={"a": values, "b": values}, **what)


def broken(verdict: Verdict) -> list[str]:
    """The rules that were broken, each once."""
    return sorted({violation.rule for violation in verdict.violations})


#: For each rule, a run that breaks it and nothing else.
BREAKS = {
    "kept": ended_with("v0", "v1", "v2"),
    "forked": ended_with("v0", "v1", "v2", events=[happened("failover", 5)]),
    "once": ended_with(*VALUES, "v3"),
    "sent": ended_with(*VALUES, "stranger"),
    "refused": ended_with(*VALUES, "v4", operations=[*written(), write("v4", 5, outcome="refused")]),
    "place": ended_with(*VALUES, operations=[*written(VALUES[:3]), write("v3", 3, index=7)]),
    "order": ended_with("v1", "v0", operations=[write("v0", 0), write("v1", 1)]),
    "writer": run(written=[Written(term=1, n=1, node="a", boot="a1"), Written(term=1, n=2, node="a", boot="a2")]),
    "term": run(sightings=[seen(0, 2), seen(1, 1, boot="a2")]),
    "answered": run(operations=[*written(), write("x", 4, outcome="unknown", key="x")]),
    "token": run(operations=[*written(), shown("read", 5, VALUES[:2], value="v2", index=2, token="1-4")]),
    "fresh": run(operations=[*written(), shown("fresh", 5, VALUES[:3])]),
    "history": run(operations=[*written(), shown("read", 5, ("v0", "x"), value="v0", index=0, found="v0")]),
    "position": run(operations=[*written(), shown("read", 5, (), outcome="lost", value="v0", index=0)]),
    "equal": run(finals={"a": VALUES, "b": VALUES[:3]}),
    "told": run(told=[]),
    "settled": run(problems=["nobody leads"]),
}


def test_a_run_that_keeps_every_promise_passes() -> None:
    # given reads of all kinds besides the writes, a write without an outcome, and a refused one
    reads = [
        shown("read", 2.5, VALUES[:2], value="v1", index=1, found="v1"),
        shown("fresh", 2.6, VALUES[:3]),
        shown("fresh", 9, VALUES, outcome="failed"),
    ]
    others = [write("x", 4, outcome="unknown"), write("y", 4, outcome="refused")]
    # when it is checked
    verdict = check(run(operations=[*written(), *others, *reads]))
    # then nothing is wrong, and what was checked is counted
    assert verdict.ok
    assert verdict.counts["reads"] == 1
    assert verdict.counts["fresh reads"] == 1
    assert verdict.counts["ok appended"] == 4


def test_every_rule_has_a_run_that_breaks_it() -> None:
    assert BREAKS.keys() == _RULES.keys()


@pytest.mark.parametrize("rule", BREAKS)
def test_a_run_that_breaks_one_rule_is_told_so(rule: str) -> None:
    assert broken(check(BREAKS[rule])) == [rule]


A1 = Term(term=1, node="a", boot="a1")


@pytest.mark.parametrize(
    ("told", "holds"),
    [
        ([A1], True),
        ([], False),
        ([replace(A1, boot="a2")], False),
        ([replace(A1, node="b")], False),
        ([A1, Term(term=2, node="b", boot="b1")], False),
    ],
)
def test_the_history_has_the_terms_that_were_seen_and_no_others(told: list[Term], holds: bool) -> None:
    assert check(run(told=told)).ok is holds


def test_a_redis_that_lost_something_may_have_lost_what_was_told_before() -> None:
    sightings = [seen(0, 1, role="primary")]
    flaws: dict[str, Any] = {"events": [happened("failover", 5)], "written": [], "sightings": sightings}
    assert check(run(told=[], **flaws)).ok
    assert check(run(told=[A1, Term(term=7, node="b", boot="b1")], **flaws)).ok, "nobody saw it before it was lost"
    later = [*sightings, seen(9, 2, node="b", boot="b1", role="primary")]
    assert broken(check(run(told=[A1], **flaws | {"sightings": later}))) == ["told"]


def test_a_term_from_before_a_loss_may_be_seen_after_it() -> None:
    # given a node that calls itself the primary of a term that Redis has lost, and then another one leads
    late = [seen(6, 7, node="b", boot="b1", role="primary")]
    flaws: dict[str, Any] = {"events": [happened("failover", 5)], "written": [], "sightings": late}
    assert check(run(told=[Term(term=2**20 + 1, node="a", boot="a1")], **flaws)).ok
    assert broken(check(run(told=[A1], **flaws))) == ["told"]


def test_a_term_that_was_trimmed_before_anybody_looked_need_not_have_been_seen() -> None:
    told = [A1, Term(term=2, node="b", boot="b1")]
    assert broken(check(run(told=told))) == ["told"]
    assert check(run(told=told, unread=[range(2, 3)])).ok


def test_an_empty_run_passes() -> None:
    assert check(Run()).ok


# --- what may be lost, and how ----------------------------------------------------------------------------------------

REPLICATED = Setting(aof="everysec", replicas=2)
EVERYSEC = Setting(aof="everysec")


def lost(ack: str, event: Event, setting: Setting, **what: Any) -> Run:
    """A run in which v3, acknowledged at that level, is gone, and in a fork."""
    operations = [*written(VALUES[:3]), write("v3", 3, index=3, ack=ack, **what)]
    forks = [Fork(node="a", values=VALUES)]
    return ended_with(*VALUES[:3], operations=operations, events=[event], setting=setting, forks=forks)


@pytest.mark.parametrize(
    ("ack", "kind", "setting", "may"),
    [
        ("appended", "failover", REPLICATED, True),
        ("fsynced", "failover", REPLICATED, True),
        ("replicated:1", "failover", REPLICATED, True),
        ("replicated:2", "failover", REPLICATED, False),
        ("applied:1", "failover", REPLICATED, False),
        ("appended", "kill-redis", EVERYSEC, True),
        ("fsynced", "kill-redis", EVERYSEC, False),
        ("appended", "kill-redis", Setting(aof="always"), False),
        ("appended", "power-cut", Setting(), True),
        ("applied:2", "power-cut", Setting(), False),
        ("applied:2", "force", Setting(), True),
        ("appended", "promote", Setting(), False),
        ("appended", "kill-node", Setting(), False),
    ],
)
def test_what_is_gone_must_have_been_reached_by_a_loss(ack: str, kind: str, setting: Setting, may: bool) -> None:
    assert broken(check(lost(ack, happened(kind, 3.05, 4), setting))) == ([] if may else ["kept"])


def test_what_was_not_acknowledged_at_its_level_is_held_to_the_weakest() -> None:
    # given an `applied:2` of which the client was told that it is in the log only
    run = lost("applied:2", happened("failover", 4), REPLICATED, outcome="unacknowledged")
    # then a failover may take it, which does not take what was acknowledged
    assert check(run).ok


def test_a_change_that_was_acknowledged_late_may_have_been_lost_before() -> None:
    run = lost("appended", happened("failover", 4), REPLICATED)
    late = [*written(VALUES[:3]), write("v3", 3, 6, index=3)]
    assert check(replace(run, operations=late)).ok


def test_nothing_is_lost_to_what_happened_before_it() -> None:
    assert broken(check(lost("appended", happened("failover", 1), REPLICATED))) == ["kept"]


def test_a_power_cut_takes_nothing_from_before_its_span() -> None:
    assert check(lost("appended", happened("power-cut", 3, 6), EVERYSEC)).ok
    assert broken(check(lost("appended", happened("power-cut", 5, 6), EVERYSEC))) == ["kept"]


def test_what_standbys_have_is_not_lost_whoever_was_away() -> None:
    # given a change on two nodes, and a failover while both, or one of them, are away
    run = lost("applied:1", happened("failover", 4), REPLICATED)
    a, b = happened("cut", 3.5, 5, node="a"), happened("kill-node", 4, 6, node="b")
    # then nobody was to go on without them
    for away in ([a], [a, b]):
        assert broken(check(replace(run, events=[*run.events, *away]))) == ["kept"]


def test_with_everysec_a_kill_of_redis_reaches_back_two_seconds() -> None:
    assert check(lost("appended", happened("kill-redis", 4.9), EVERYSEC)).ok
    assert broken(check(lost("appended", happened("kill-redis", 5.5), EVERYSEC))) == ["kept"]


def test_a_value_that_was_lost_with_its_primary_needs_no_fork() -> None:
    # given a failover that lost v3, of which there is no fork
    run = replace(lost("appended", happened("failover", 4), REPLICATED), forks=[])
    assert broken(check(run)) == ["forked"]

    def killed(second: float, node: str = "a", *others: Event) -> Run:
        return replace(run, events=[*run.events, happened("kill-node", second, node=node), *others])

    # when its primary was killed within two seconds, that is no surprise
    assert check(killed(4.5)).ok
    # then later, or another node: it had the time to save
    assert broken(check(killed(6))) == ["forked"]
    assert broken(check(killed(4.5, "b"))) == ["forked"]
    # unless it could not run, or its disk was slow
    assert check(killed(6, "a", happened("pause-node", 3.5, 5, node="a"))).ok
    assert check(killed(6, "a", happened("slow-disk", 3.5, 5, node="a"))).ok


def test_a_change_that_nobody_acknowledged_may_be_gone() -> None:
    operations = [*written(VALUES[:3]), write("v3", 3, outcome="unknown")]
    assert check(ended_with(*VALUES[:3], operations=operations)).ok


# --- reads and losses -------------------------------------------------------------------------------------------------


def test_a_fresh_read_may_miss_what_was_acknowledged_before_a_loss() -> None:
    # given a failover between the write and the read, from which the value came back later
    stale = [*written(), shown("fresh", 5, VALUES[:3])]
    assert check(run(operations=stale, events=[happened("failover", 4)], setting=REPLICATED)).ok
    # when the write was after the failover, it may not
    early = happened("failover", 1.2)
    assert broken(check(run(operations=stale, events=[early], setting=REPLICATED))) == ["fresh"]


def test_fresh_reads_do_not_go_back() -> None:
    # given a value of unknown outcome that one fresh read showed
    operations = [*written(VALUES[:3]), write("v3", 3, 9, outcome="unknown"), shown("fresh", 5, VALUES)]
    # then one after it shows it, too
    assert broken(check(run(operations=[*operations, shown("fresh", 6, VALUES[:3])]))) == ["fresh"]
    # and one at the same time need not
    assert check(run(operations=[*operations, shown("fresh", 5.05, VALUES[:3])])).ok


def test_a_history_that_lost_may_have_been_read_if_it_is_in_a_fork() -> None:
    branch = (*VALUES[:3], "x")
    read = shown("read", 3, branch, value="v0", index=0, found="v0")
    failed_over = run(operations=[*written(), read], events=[happened("failover", 4)], setting=REPLICATED)
    assert broken(check(failed_over)) == ["history"]
    assert check(replace(failed_over, forks=[Fork(node="b", values=(*branch, "y"))])).ok


def test_a_place_may_be_lost_where_something_was() -> None:
    read = shown("read", 5, (), outcome="lost", value="v0", index=0)
    assert check(run(operations=[*written(), read], events=[happened("failover", 4)], setting=REPLICATED)).ok


# --- writers and terms ------------------------------------------------------------------------------------------------


def test_two_who_call_themselves_primary_in_one_term_are_two_writers() -> None:
    both = [seen(0, 1, role="primary"), seen(1, 1, node="b", boot="b1", role="primary")]
    assert broken(check(run(sightings=both))) == ["writer"]


def test_one_after_the_other_in_terms_of_their_own_is_one_writer_each() -> None:
    both = [seen(0, 1, role="primary"), seen(1, 2, node="b", boot="b1", role="primary"), seen(2, 1, role="primary")]
    records = [Written(term=1, n=1, node="a", boot="a1"), Written(term=2, n=2, node="b", boot="b1")]
    assert check(run(sightings=both, written=records)).ok


def test_terms_are_compared_per_node_in_the_order_of_time() -> None:
    sightings = [seen(2, 3), seen(1, 2), seen(0, 5, node="b", boot="b1")]
    assert check(run(sightings=sightings)).ok


def test_of_many_violations_of_a_rule_the_first_are_told() -> None:
    verdict = check(run(finals={"a": (), "b": ()}, operations=written([f"v{number}" for number in range(20)])))
    assert broken(verdict) == ["kept"]
    assert len(verdict.violations) == TOLD_MAX + 1
    assert "15 more" in str(verdict.violations[-1])
