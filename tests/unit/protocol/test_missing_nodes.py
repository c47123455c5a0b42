"""Who may have what Redis lost, and is not here to say so."""

from __future__ import annotations

import pytest

from replicator.format.ids import Position, RecordId, Writer
from replicator.protocol import election, missing_nodes
from replicator.protocol.fold import Holder, View
from replicator.protocol.group import GroupView, Head
from replicator.protocol.heartbeat import Heartbeat

OLD, NEW = "run-1", "run-2"
NOW_MS = 10_000_000
#: The log as Redis has it still, and what a node may have besides.
KEPT, LOST = RecordId(1, 10), RecordId(1, 12)


def heartbeat(node: str, run: str = NEW, **facts: object) -> Heartbeat:
    known = {"term": 1, "changed": KEPT, "position": Position(KEPT, "a" * 32), "cursor": KEPT, "log_id": "ours"}
    return Heartbeat(node, f"{node}1", run=run, candidate=True, **known | facts)  # type: ignore[arg-type]


def silent(node: str, **facts: object) -> Heartbeat:
    """It has not reported in the new run."""
    return heartbeat(node, OLD, **{"age_ms": 60_000} | facts)


def look(
    *heartbeats: Heartbeat, applied_min: int = 1, head_run: str = OLD, whole: str = OLD, whole_ago_ms: int = 60_000
) -> GroupView:
    head = Head("ours", head_run, 1, "a", "a1", Position(KEPT, "a" * 32), KEPT)
    head = head._replace(applied_min=applied_min, whole=whole, whole_at=NOW_MS - whole_ago_ms)
    stamped = {each.node: each._replace(beaten_at=NOW_MS - each.age_ms) for each in heartbeats}
    return GroupView(NEW, 1, head, KEPT, None, stamped, NOW_MS)


def leads_by_itself(node: str, seen: GroupView, *, beats: int = 1000) -> bool:
    return election.election_rank(seen.heartbeats[node], seen, beats_in_run=beats) is not None


# --- how many may be missing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "applied", "missing", "may"),
    [
        (2, 1, 1, True),
        (3, 1, 1, True),
        (3, 1, 2, False),
        (3, 2, 2, True),
        (5, 1, 1, True),
        (5, 1, 2, False),
        (5, 2, 2, True),
        (5, 2, 3, False),
    ],
)
def test_as_many_may_be_missing_as_standbys_have_what_was_acknowledged(
    nodes: int, applied: int, missing: int, may: bool
) -> None:
    names = "abcde"[:nodes]
    seen = look(*(silent(name) for name in names[:missing]), *map(heartbeat, names[missing:]), applied_min=applied)
    last = names[-1]
    assert leads_by_itself(last, seen) == may
    assert (election.refusal(last, seen) is None) == may


def test_if_nobody_asked_for_standbys_the_others_are_waited_for_and_not_for_ever() -> None:
    seen = look(silent("a"), silent("b"), heartbeat("c"), applied_min=0)
    assert not leads_by_itself("c", seen, beats=election.BEATS_WITHOUT_MAJORITY - 1)
    assert leads_by_itself("c", seen, beats=election.BEATS_WITHOUT_MAJORITY)
    assert election.refusal("c", seen) is None


def test_the_least_counts_that_anybody_knows_of() -> None:
    """A copy of the log may be older than the first change that waited for standbys."""
    seen = look(silent("a", applied_min=2), silent("b"), heartbeat("c", applied_min=3), applied_min=0)
    assert missing_nodes.applied_min(seen) == 2
    assert missing_nodes.applied_min(seen, 0, 1) == 1
    assert leads_by_itself("c", seen)
    assert not leads_by_itself("c", look(silent("a", applied_min=1), silent("b"), heartbeat("c"), applied_min=2))


def test_the_former_holder_waits_as_the_others_do() -> None:
    """Another may have led after it, in a part of the run that Redis lost."""
    here = Position(KEPT, "a" * 32)
    view = View("ours", 1, Holder("a", "a1", OLD), position=here, changed=KEPT, cursor=here)

    def takes(seen: GroupView, *, goes_on: bool = False) -> bool:
        me = Writer("a", "a1")
        return election.takes_term(view, me, seen, previous_boot="", beats_in_run=9, goes_on=goes_on)

    alone = look(heartbeat("a"), silent("b"), silent("c"))
    assert not takes(alone)
    assert takes(alone, goes_on=True)
    assert takes(look(heartbeat("a"), heartbeat("b"), silent("c")))


def test_who_would_rather_go_on_does() -> None:
    seen = look(silent("a"), silent("b"), heartbeat("c", goes_on=True))
    assert not leads_by_itself("c", seen, beats=election.BEATS_WITHOUT_MAJORITY - 1)
    assert leads_by_itself("c", seen)
    assert election.refusal("c", seen) is not None, "by hand it is asked all the same"


def test_one_that_waits_is_not_in_the_way_of_one_that_goes_on() -> None:
    seen = look(silent("a"), silent("b"), heartbeat("c", changed=LOST), heartbeat("d"), heartbeat("e"), applied_min=1)
    waits, goes = seen.heartbeats["c"], heartbeat("d", goes_on=True, changed=LOST)
    seen = seen._replace(heartbeats={**seen.heartbeats, "d": goes})
    assert election.election_rank(waits, seen, beats_in_run=99) is None
    assert election.election_rank(goes, seen, beats_in_run=99) == 0


# --- who counts ------------------------------------------------------------------------------------------------------


def test_however_long_they_are_silent_they_stay_on_the_list() -> None:
    """What counts is how old a heartbeat is beside the last one of a primary, and not beside the clock."""
    for hours in (1, 24, 24 * 365):
        ago = hours * 3_600_000
        seen = look(silent("a", age_ms=ago), silent("b", age_ms=ago), heartbeat("c"), whole_ago_ms=ago)
        assert missing_nodes.missing(KEPT, seen) == ["a", "b"]
        assert not leads_by_itself("c", seen)


def test_who_was_gone_long_before_is_not_waited_for() -> None:
    gone = [silent(name, age_ms=60_000 + missing_nodes.RECENT_MS + 1) for name in "de"]
    there = silent("b", age_ms=60_000 + missing_nodes.RECENT_MS)
    assert missing_nodes.missing(KEPT, look(*gone, there, heartbeat("a"), heartbeat("c"))) == ["b"]


def test_who_left_has_nothing_that_this_copy_lacks() -> None:
    seen = look(silent("a"), silent("b", left=True), heartbeat("c"))
    assert missing_nodes.missing(KEPT, seen) == ["a"]
    assert leads_by_itself("c", seen)


def test_whom_the_others_knew_counts_though_the_copy_has_no_heartbeat_of_it() -> None:
    seen = look(silent("a"), heartbeat("c", knew=("a/a1", "b/b1", "c/c1")))
    assert missing_nodes.missing(KEPT, seen) == ["a", "b"]
    assert not leads_by_itself("c", seen)


def test_who_said_goodbye_after_others_saw_it_is_not_missed_and_its_next_boot_is() -> None:
    left = silent("b", left=True)
    assert missing_nodes.missing(KEPT, look(silent("a"), left, heartbeat("c", knew=("a/a1", "b/b1")))) == ["a"]
    assert missing_nodes.missing(KEPT, look(silent("a"), left, heartbeat("c", knew=("a/a1", "b/b2")))) == ["a", "b"]


def test_what_somebody_knew_before_it_reported_does_not_count() -> None:
    assert missing_nodes.missing(KEPT, look(silent("a", knew=("x/x1",)), heartbeat("c"))) == ["a"]


UNSOUND: dict[str, dict[str, object]] = {
    "stalled": {"stalled": "apply failed"},
    "diverged": {"diverged": "1-4"},
    "given up": {"given_up": "asked by ann"},
}


@pytest.mark.parametrize("facts", [{"age_ms": 60_000}, *UNSOUND.values()], ids=["dead", *UNSOUND])
def test_one_that_reported_more_and_cannot_lead_is_missing_as_well(facts: dict[str, object]) -> None:
    seen = look(heartbeat("a", changed=LOST, **facts), silent("b"), heartbeat("c"))
    assert missing_nodes.missing(KEPT, seen) == ["a", "b"]
    assert missing_nodes.missing(LOST, seen) == ["b"], "one that has as much does not need it"
    assert not leads_by_itself("c", seen)


def test_where_the_log_is_lost_what_the_dead_said_last_is_from_before() -> None:
    seen = look(heartbeat("a", age_ms=60_000), heartbeat("b", age_ms=60_000), heartbeat("c"))._replace(
        head=None, term=0
    )
    assert missing_nodes.missing(KEPT, seen) == ["a", "b"]


# --- in the same run -------------------------------------------------------------------------------------------------


def test_once_somebody_leads_in_the_run_the_log_is_whole_and_nobody_is_missed() -> None:
    seen = look(silent("a"), silent("b"), heartbeat("c"), head_run=NEW, whole=NEW)
    assert leads_by_itself("c", seen)
    assert election.refusal("c", seen) is None


def test_a_holder_that_died_before_it_led_has_not_made_it_whole() -> None:
    """It took the term of the new run, was to bring back what Redis lost, and died."""
    seen = look(heartbeat("a", changed=LOST, age_ms=60_000), silent("b"), heartbeat("c"), head_run=NEW)
    assert not leads_by_itself("c", seen)
    assert leads_by_itself(
        "c", look(heartbeat("a", changed=LOST, age_ms=60_000), heartbeat("b"), heartbeat("c"), head_run=NEW)
    )


# --- a log that is lost ----------------------------------------------------------------------------------------------


def refounds(node: str, *heartbeats: Heartbeat) -> bool:
    seen = look(*heartbeats)._replace(head=None, term=0)
    return election.refounds(seen.heartbeats[node], seen, beats_without_log=9)


def test_a_lost_log_is_founded_anew_only_with_enough_of_those_who_took_part() -> None:
    everybody = ("a/a1", "b/b1", "c/c1")
    assert not refounds("c", heartbeat("c", knew=everybody, applied_min=1))
    assert refounds("b", heartbeat("c", knew=everybody, applied_min=1), heartbeat("b"))
    assert refounds("c", heartbeat("c", knew=everybody, applied_min=1, goes_on=True))
    assert refounds("c", heartbeat("c", knew=everybody)), "nobody asked for standbys"


@pytest.mark.parametrize("facts", UNSOUND.values(), ids=list(UNSOUND))
def test_a_lost_log_is_not_founded_past_one_that_has_more_and_cannot_lead(facts: dict[str, object]) -> None:
    everybody = ("a/a1", "b/b1", "c/c1")
    rest = heartbeat("c", knew=everybody, applied_min=1), heartbeat("a", changed=LOST, age_ms=60_000)
    assert not refounds("c", heartbeat("b", changed=LOST), *rest), "b is the one"
    assert not refounds("c", heartbeat("b", changed=LOST, **facts), *rest)
    assert refounds("b", heartbeat("b", changed=LOST), *rest)


def test_a_lost_log_is_founded_by_nobody_if_nobody_knows_who_took_part() -> None:
    assert not refounds("c", heartbeat("c", applied_min=1))


def test_a_log_that_cannot_be_read_is_founded_by_nobody_unasked() -> None:
    seen = look(heartbeat("c", knew=("c/c1",)))._replace(head=None, marred="something else wrote there")
    assert not election.refounds(seen.heartbeats["c"], seen, beats_without_log=9)
    assert not election.may_found(GroupView(NEW, 0, None, KEPT, None, {}, marred="something else wrote there"))


# --- in words --------------------------------------------------------------------------------------------------------


def test_a_refusal_says_who_is_missing_and_what_to_do() -> None:
    refused = election.refusal("c", look(silent("a"), silent("b"), heartbeat("c")))
    assert refused is not None
    assert refused.reason.startswith("a and b are missing since Redis came back, and may have changes that were ")
    assert "(applied:1)" in refused.reason
    assert "`replicator forget`" in refused.reason


def test_who_takes_part_is_remembered_while_they_are_there() -> None:
    seen = look(heartbeat("a"), silent("b"), silent("c", age_ms=missing_nodes.RECENT_MS + 1), silent("d", left=True))
    assert missing_nodes.took_part(seen) == ("a/a1", "b/b1")


@pytest.mark.parametrize(("names", "text"), [("a", "a"), ("ab", "a and b"), ("abc", "a, b and c")])
def test_names_are_told_as_people_do(names: str, text: str) -> None:
    assert missing_nodes.named(names) == text


def test_who_was_there_is_told_by_stamps_of_one_clock_whatever_the_clock_is_now() -> None:
    """Redis came back on a machine whose clock is an hour behind: what was stamped before is in its future."""
    silent_b = silent("b")._replace(age_ms=3001)
    seen = look(heartbeat("a"), silent_b, heartbeat("c"))
    assert seen.head is not None
    whole_at = seen.now_ms + 3_600_000
    seen = seen._replace(head=seen.head._replace(whole_at=whole_at))
    stamped = {**seen.heartbeats, "b": silent_b._replace(beaten_at=whole_at - 1000)}
    assert "b" in missing_nodes.heard_of(seen._replace(heartbeats=stamped))
    stamped["b"] = silent_b._replace(beaten_at=whole_at - missing_nodes.RECENT_MS - 1)
    assert "b" not in missing_nodes.heard_of(seen._replace(heartbeats=stamped))
