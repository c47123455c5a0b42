"""The decisions that the log alone cannot settle."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.errors import PromotionRefused
from replicator.format.ids import ERA, TERM_MAX, ZERO_ID, Position, RecordId, Writer
from replicator.protocol import election, promotion
from replicator.protocol.fold import Holder, View
from replicator.protocol.group import Claim, Code, GroupView, Head, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.write_outcome import Lookup, Next, PendingWrite, WriteOutcome, find_out
from replicator.testing import MemoryRedis
from tests.support.history import RUN, A, B, change, view_at

HERE = Position(RecordId(3, 10), "a" * 32)
A2 = Writer("a", "a2")
VIEW = view_at(HERE, changed=HERE.id)


def heartbeat(node: str, **fields: object) -> Heartbeat:
    known = {"run": RUN, "term": 3, "position": HERE, "changed": HERE.id, "cursor": HERE.id}
    return Heartbeat(node, f"{node}1", **known | fields)  # type: ignore[arg-type]


def look(
    *heartbeats: Heartbeat,
    run: str = RUN,
    holder: Writer = A,
    head_run: str = RUN,
    last_id: RecordId = HERE.id,
    changed: RecordId | None = None,
) -> GroupView:
    """`changed`: the last change that the log still has; the newest record, if nothing else is said."""
    head = Head("log-1", head_run, 3, *holder, Position(last_id, "a" * 32), changed or last_id)
    return GroupView(run, 3, head, last_id, None, {each.node: each for each in heartbeats})


# --- who is the most advanced ----------------------------------------------------------------------------------------


def test_the_most_advanced_has_the_newest_change_and_not_the_highest_position() -> None:
    follower = heartbeat("b", position=Position(RecordId(9, 99), "b" * 32), changed=RecordId(3, 4))
    assert election.most_advanced([follower, heartbeat("a", changed=RecordId(3, 5))]) == heartbeat(
        "a", changed=RecordId(3, 5)
    )


def test_a_higher_term_of_the_last_change_counts_before_its_number() -> None:
    newer = heartbeat("b", changed=RecordId(4, 2))
    assert election.most_advanced([heartbeat("a", changed=RecordId(3, 99)), newer]) == newer
    assert election.most_advanced([]) is None


# --- taking a term ---------------------------------------------------------------------------------------------------


def takes(view: View, me: Writer, seen: GroupView, *, previous: str = "", beats: int = 9, primary: bool = True) -> bool:
    return election.takes_term(view, me, seen, previous_boot=previous, beats_in_run=beats, restart_as_primary=primary)


def test_a_new_boot_takes_a_term_if_the_boot_before_held_the_present_one() -> None:
    assert takes(VIEW, A2, look(), previous="a1")
    assert not takes(VIEW, A2, look(), previous="a1", primary=False)
    assert not takes(VIEW, A2, look(), previous="a0")
    assert not takes(VIEW, A2, look(), previous="")
    assert not takes(VIEW, A2, look(holder=Writer("b", "a1")), previous="a1")


def test_whoever_holds_the_term_takes_no_other() -> None:
    assert not takes(VIEW, A, look(), previous="a1")


def test_whoever_is_out_of_sync_takes_no_term_unless_it_lacks_nothing() -> None:
    aside = VIEW._replace(in_sync=False)
    assert not takes(aside._replace(changed=RecordId(3, 9)), A2, look(), previous="a1")
    assert takes(aside, A2, look(), previous="a1")
    assert not takes(View(term=3, in_sync=False), A2, look(changed=ZERO_ID), previous="a1"), "it has nothing at all"


def test_a_new_boot_takes_no_term_over_changes_that_the_log_lost_and_another_has() -> None:
    other = heartbeat("b", changed=RecordId(3, 12), in_sync=False)
    assert not takes(VIEW, A2, look(other), previous="a1")
    assert takes(VIEW, A2, look(other, changed=RecordId(3, 12)), previous="a1"), "the log has them: it reads them first"


def test_whoever_has_not_read_into_the_era_of_the_log_takes_no_term() -> None:
    new_era = look(last_id=RecordId(ERA + 1, 11))
    seen = new_era._replace(term=ERA + 1, head=new_era.head and new_era.head._replace(term=ERA + 1))
    assert not takes(VIEW, A2, seen, previous="a1")
    assert takes(VIEW._replace(term=ERA + 1, changed=RecordId(ERA + 1, 11)), A2, seen, previous="a1")


def test_without_a_log_nobody_takes_a_term() -> None:
    assert not takes(VIEW, A2, look()._replace(head=None), previous="a1")


NEW_RUN = look(heartbeat("a", run="run-2"), heartbeat("b", run="run-2"), run="run-2")


def test_in_a_new_run_the_former_holder_takes_a_term_when_all_had_time_to_report() -> None:
    assert takes(VIEW, A, NEW_RUN, beats=election.BEATS_BEFORE_CLAIM)
    assert not takes(VIEW, A, NEW_RUN, beats=election.BEATS_BEFORE_CLAIM - 1)
    assert takes(VIEW, A2, NEW_RUN, previous="a1")
    assert not takes(VIEW, A2, NEW_RUN, previous="a1", primary=False)


def test_in_a_new_run_the_former_holder_waits_for_whoever_may_still_report() -> None:
    assert not takes(VIEW, A, look(heartbeat("b"), run="run-2"))
    assert takes(VIEW, A, look(heartbeat("b", age_ms=60_000), run="run-2")), "it is dead"


def test_in_a_new_run_nobody_else_takes_a_term_by_itself() -> None:
    assert not takes(VIEW, Writer("b", "b1"), NEW_RUN)


def test_in_a_new_run_the_former_holder_reads_all_there_is_first() -> None:
    ahead = look(run="run-2", last_id=RecordId(3, 11))
    assert not takes(VIEW, A, ahead)
    assert takes(VIEW, A, look(run="run-2", last_id=RecordId(3, 9)))


@pytest.mark.parametrize(
    ("other", "yields"),
    [
        (heartbeat("b", changed=RecordId(3, 11)), True),
        (heartbeat("b", changed=RecordId(4, 1)), True),
        (heartbeat("b", changed=HERE.id), False),
        (heartbeat("b", changed=RecordId(3, 11), in_sync=False), True),
        (heartbeat("b", changed=RecordId(3, 11), age_ms=60_000), False),
        (heartbeat("a", changed=RecordId(3, 11)), False),
    ],
    ids=["ahead", "ahead in term", "level", "out of sync", "dead", "itself"],
)
def test_in_a_new_run_the_former_holder_yields_to_a_live_one_that_is_ahead(other: Heartbeat, yields: bool) -> None:
    assert takes(VIEW, A, look(other._replace(run="run-2"), run="run-2")) == (not yields)


def test_a_log_is_founded_only_where_nobody_ever_had_one() -> None:
    nothing = GroupView(RUN, 0, None, ZERO_ID, None, {})
    assert election.may_found(nothing)
    assert election.may_found(nothing._replace(heartbeats={"b": heartbeat("b", term=0)}))
    assert not election.may_found(nothing._replace(term=1))
    assert not election.may_found(nothing._replace(heartbeats={"b": heartbeat("b")}))
    assert not election.may_found(look())


# --- standing for election -------------------------------------------------------------------------------------------


def able(node: str, **fields: object) -> Heartbeat:
    """One that would take over by itself."""
    return heartbeat(node, candidate=True, **fields)


def with_head(seen: GroupView, **fields: object) -> GroupView:
    assert seen.head is not None
    return seen._replace(head=seen.head._replace(**fields))  # type: ignore[arg-type]


def rank(me: Heartbeat, *others: Heartbeat, seen: GroupView | None = None, beats: int = 9) -> int | None:
    """Among these, in a group whose holder a1 has no lease any more, or in the group that `seen` is of."""
    known = seen or look()
    heartbeats = {each.node: each for each in (me, *others)}
    return election.election_rank(me, known._replace(heartbeats=heartbeats), beats_in_run=beats)


def test_while_the_holders_lease_runs_nobody_stands_for_election() -> None:
    assert rank(able("b"), seen=look()._replace(lease_ms=1)) is None
    assert rank(able("b")) == 0


def test_the_more_advanced_goes_first_then_the_one_who_read_further_then_the_name() -> None:
    further, whole = Position(RecordId(3, 11), "b" * 32), look(changed=RecordId(4, 1))
    for better, worse in (
        (able("b", changed=RecordId(3, 10)), able("c", changed=RecordId(3, 9), position=further)),
        (able("b", changed=RecordId(4, 1)), able("c", changed=RecordId(3, 99))),
        (able("b", position=further), able("c")),
        (able("b"), able("c")),
    ):
        assert (rank(better, worse, seen=whole), rank(worse, better, seen=whole)) == (0, 1)


def test_whoever_does_not_take_over_by_itself_is_no_candidate() -> None:
    ahead = heartbeat("c", changed=RecordId(3, 10))
    assert rank(ahead, able("b", changed=RecordId(3, 9))) is None
    assert rank(able("b", changed=RecordId(3, 9)), ahead) == 0, "and stands in nobody's way"


@pytest.mark.parametrize(
    "other",
    [
        able("c", stalled="apply failed"),
        able("c", age_ms=60_000),
        able("c", in_sync=False, changed=RecordId(3, 9)),
    ],
    ids=["stalled", "dead", "out of sync"],
)
def test_whom_the_tools_would_refuse_is_no_candidate(other: Heartbeat) -> None:
    assert refusal("c", look(able("b"), other)) is not None
    assert rank(other, able("b")) is None
    assert rank(able("d"), other) == 0, "it stands in nobody's way"


def test_one_that_is_out_of_sync_and_lacks_nothing_is_a_candidate() -> None:
    assert rank(able("c", in_sync=False), able("d")) == 0


def test_nobody_takes_over_who_lacks_changes_that_the_log_lost() -> None:
    seen = look(last_id=RecordId(3, 5))
    lacks, has = able("b", changed=RecordId(3, 4)), able("c", changed=RecordId(3, 9))
    assert rank(lacks, has, seen=seen) is None
    assert rank(has, lacks, seen=seen) == 0
    assert rank(lacks, has._replace(candidate=False), seen=seen) is None, "only an operator may decide that"


def test_what_a_node_knows_of_itself_counts_and_not_its_last_heartbeat() -> None:
    before = able("b", changed=RecordId(3, 1))
    seen = look(before, able("c", changed=RecordId(3, 5)))
    assert election.election_rank(before._replace(changed=RecordId(3, 9)), seen, beats_in_run=9) == 0


def test_the_boot_that_holds_the_term_does_not_take_it_again_and_its_next_boot_may() -> None:
    assert rank(able("a"), able("b")) is None
    assert rank(able("a")._replace(boot="a2", changed=RecordId(3, 99)), able("b")) == 0


def test_while_the_run_goes_on_the_former_holder_does_not_go_first() -> None:
    former, other = able("a", changed=RecordId(3, 9))._replace(boot="a2"), able("b")
    assert (rank(former, other), rank(other, former)) == (1, 0)


def test_in_a_whole_log_lag_is_no_reason_to_wait() -> None:
    assert rank(able("b", cursor=RecordId(3, 2)), beats=0) == 0


def test_while_automatic_failover_is_paused_nobody_takes_over() -> None:
    assert rank(able("b"), seen=with_head(look(), paused="by ann: upgrade")) is None
    assert rank(able("b"), seen=with_head(look(run="run-2"), paused="by ann: upgrade")) is None


def test_after_a_demotion_nobody_takes_over() -> None:
    assert rank(able("b"), seen=look(holder=election.NOBODY)) is None
    assert rank(able("b", run="run-2"), seen=look(holder=election.NOBODY, run="run-2")) is None


def in_run_2(node: str, **fields: object) -> Heartbeat:
    return able(node, run="run-2", **fields)


LATER = look(run="run-2")


def test_in_a_new_run_the_former_holder_goes_first() -> None:
    former, other = in_run_2("a", changed=RecordId(3, 9)), in_run_2("b")
    seen = with_head(LATER, changed=HERE.id)
    assert (rank(former, other, seen=seen), rank(other, former, seen=seen)) == (0, 1)


def test_in_a_new_run_the_former_holder_is_no_candidate_if_it_lacks_what_another_has() -> None:
    former, other = in_run_2("a"), in_run_2("b", changed=RecordId(3, 11))
    assert (rank(former, other, seen=LATER), rank(other, former, seen=LATER)) == (None, 0)


def test_in_a_new_run_nobody_stands_for_election_before_all_had_time_to_report() -> None:
    me = in_run_2("b")
    assert rank(me, seen=LATER, beats=election.BEATS_BEFORE_CLAIM - 1) is None
    assert rank(me, seen=LATER, beats=election.BEATS_BEFORE_CLAIM) == 0
    assert rank(me, able("c"), seen=LATER) is None, "c has not reported"
    assert rank(me, able("c", age_ms=election.RECENT_MS + 1), seen=LATER) == 0, "it is dead"


def test_in_a_new_run_candidates_wait_for_more_than_half_of_those_who_were_there_or_for_long() -> None:
    me, gone = in_run_2("b"), able("a", age_ms=60_000)
    few, many = election.BEATS_WITHOUT_MAJORITY - 1, election.BEATS_WITHOUT_MAJORITY
    assert (rank(me, gone, seen=LATER, beats=few), rank(me, gone, seen=LATER, beats=many)) == (None, 0)
    assert rank(me, gone, in_run_2("c"), seen=LATER, beats=election.BEATS_BEFORE_CLAIM) == 0, "two of three"
    two_gone = (gone, able("d", age_ms=60_000))
    assert rank(me, *two_gone, in_run_2("c"), seen=LATER, beats=few) is None, "two of four"


def test_in_a_new_run_the_lease_of_the_one_before_is_nobodys() -> None:
    assert rank(in_run_2("b"), seen=LATER._replace(lease_ms=4000)) == 0


def test_in_a_new_run_whoever_has_not_read_to_the_end_does_not_stand_for_election() -> None:
    assert rank(in_run_2("b", cursor=RecordId(3, 9)), seen=LATER) is None


FIRST_LOG = GroupView(RUN, 0, None, ZERO_ID, None, {})


def test_in_a_group_that_never_had_a_log_one_of_the_candidates_founds_it() -> None:
    new = {"term": 0, "position": Position(ZERO_ID, "0" * 32), "changed": ZERO_ID, "cursor": ZERO_ID}
    b, c = able("b", **new), able("c", **new)
    assert (rank(b, c, seen=FIRST_LOG), rank(c, b, seen=FIRST_LOG)) == (0, 1)
    assert rank(b, c, seen=FIRST_LOG, beats=election.BEATS_BEFORE_CLAIM - 1) is None


def test_where_there_was_a_log_no_candidate_founds_another() -> None:
    new = {"position": Position(ZERO_ID, "0" * 32), "changed": ZERO_ID, "cursor": ZERO_ID}
    assert rank(able("b", **new), seen=FIRST_LOG) is None, "it has seen term 3"
    assert rank(able("b", **new | {"term": 0}), able("c"), seen=FIRST_LOG) is None, "another one has"
    assert rank(able("b", **new | {"term": 0}), seen=FIRST_LOG._replace(term=1)) is None


# --- a node that flaps -----------------------------------------------------------------------------------------------

NOW_MS = 1_000_000


def flapping(
    *heartbeats: Heartbeat, ago_ms: tuple[int, ...] = (50_000, 30_000, 10_000), node: str = "a", **more: object
) -> GroupView:
    """`node` took the term by itself, so long ago."""
    taken = tuple((NOW_MS - ago, node) for ago in ago_ms)
    return with_head(look(*heartbeats, **more), taken=taken)._replace(now_ms=NOW_MS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ago_ms", "left_ms"),
    [
        ((), 0),
        ((20_000, 10_000), 0),
        ((50_000, 30_000, 10_000), 10_000),
        ((10_000, 50_000, 30_000), 10_000),
        ((60_001, 30_000, 10_000), 0),
        ((59_999, 30_000, 10_000), 1),
        ((90_000, 80_000, 50_000, 30_000, 10_000), 10_000),
        ((5_000, 4_000, 3_000, 2_000, 0), 57_000),
    ],
)
def test_a_node_flaps_that_took_the_term_three_times_in_a_minute(ago_ms: tuple[int, ...], left_ms: int) -> None:
    assert election.cool_down_ms("a", flapping(ago_ms=ago_ms)) == left_ms
    assert election.cool_down_ms("b", flapping(ago_ms=ago_ms)) == 0, "another one did"


def test_what_is_stamped_ahead_of_the_clock_of_redis_does_not_make_a_node_flap() -> None:
    """The clock was set back by an hour: a cool-down would last for that."""
    assert election.cool_down_ms("a", flapping(ago_ms=(-3_600_000, -3_595_000, -3_590_000))) == 0
    assert election.cool_down_ms("a", flapping(ago_ms=(-3_600_000, 20_000, 10_000))) == 0
    assert election.cool_down_ms("a", flapping(ago_ms=(-3_600_000, 30_000, 20_000, 10_000))) == 30_000


def test_without_a_log_nobody_flaps() -> None:
    assert election.cool_down_ms("a", look()._replace(head=None)) == 0


def test_a_node_that_flaps_is_held_back_for_one_that_does_not() -> None:
    held = election.held_back("a", flapping(able("a"), able("b")))
    assert held is not None
    assert held[:2] == ("it took the term 3 times in 60 s and lost it again; it may in 10 s", "b")
    assert election.held_back("b", flapping(able("a"), able("b"))) is None
    assert election.held_back("a", flapping(able("a"), able("b"), ago_ms=(30_000, 10_000))) is None


@pytest.mark.parametrize(
    "other",
    [
        None,
        heartbeat("b"),
        able("b", age_ms=60_000),
        able("b", stalled="apply failed"),
        able("b", run="run-0"),
        able("b", in_sync=False, changed=RecordId(3, 8)),
    ],
    ids=["alone", "no candidate", "dead", "stalled", "has not reported in this run", "out of sync"],
)
def test_a_node_that_flaps_is_not_held_back_for_one_that_would_not_take_over(other: Heartbeat | None) -> None:
    seen = flapping(able("a"), *([other] if other else []))
    assert election.held_back("a", seen) is None


def test_of_two_that_flap_neither_is_held_back_for_the_other() -> None:
    seen = flapping(able("a"), able("b"))
    assert seen.head is not None
    seen = with_head(seen, taken=(*seen.head.taken, *((at + 1, "b") for at, _ in seen.head.taken)))
    assert election.held_back("a", seen) is None
    assert election.held_back("b", seen) is None


def test_a_node_that_flaps_is_not_held_back_for_the_present_holder() -> None:
    """Whoever asks wants to replace that one; a holder of another run holds nothing any more."""
    assert election.held_back("a", flapping(able("a"), able("b"), holder=B)) is None
    assert election.held_back("a", flapping(able("a"), able("b"), able("c"), holder=B)) is not None
    assert election.held_back("a", flapping(in_run_2("a"), in_run_2("b"), holder=B, run="run-2")) is not None


def test_a_node_that_flaps_is_not_held_back_for_one_that_lacks_what_the_log_lost() -> None:
    """G5: it would lead without changes that this one has."""
    ahead = able("a", changed=RecordId(3, 9))
    seen = flapping(ahead, able("b", changed=RecordId(3, 4)), last_id=RecordId(3, 5))
    assert election.held_back("a", seen) is None
    assert (
        election.held_back("a", flapping(ahead, able("b", changed=RecordId(3, 9)), last_id=RecordId(3, 5))) is not None
    )


def paused(seen: GroupView) -> GroupView:
    return with_head(seen, paused="by ann: upgrade")


def test_while_automatic_failover_is_paused_a_node_that_flaps_waits_for_nobody() -> None:
    """Those whom it would wait for do not stand, and nobody would lead until its cool-down ends."""
    seen = flapping(able("a"), able("b"))
    assert rank(able("b"), able("a"), seen=paused(seen)) is None
    assert election.held_back("a", seen) is not None
    assert election.held_back("a", paused(seen)) is None
    assert takes(VIEW, A2, paused(seen), previous="a1")
    assert takes(VIEW, A, paused(flapping(in_run_2("a"), in_run_2("b"), run="run-2")))


def test_while_automatic_failover_is_paused_a_node_that_flaps_still_takes_no_term_that_would_lose_something() -> None:
    """G5."""
    seen = paused(flapping(able("a"), able("b", changed=RecordId(3, 12))))
    assert not takes(VIEW, A2, seen, previous="a1")
    assert refusal("a", seen) is not None


def test_while_automatic_failover_is_paused_an_operator_may_name_a_node_that_flaps() -> None:
    seen = flapping(able("a"), able("b"))
    assert refusal("a", seen) is not None
    assert refusal("a", paused(seen)) is None
    assert refusal("b", paused(seen)) is None


def test_a_node_that_flaps_is_refused_and_the_other_named() -> None:
    seen = flapping(able("a"), able("b"), able("c", changed=RecordId(3, 9)))
    refused = refusal("a", seen)
    assert refused is not None
    assert "it took the term 3 times in 60 s" in refused[0]
    assert refused[1] == "b", "the more advanced of those that may"


def test_a_node_that_flaps_takes_no_term_by_itself() -> None:
    seen = flapping(able("a"), able("b"))
    assert not takes(VIEW, A2, seen, previous="a1")
    assert takes(VIEW, A2, flapping(able("a"), heartbeat("b")), previous="a1"), "nobody else would"
    assert takes(VIEW, A2, flapping(able("a"), able("b"), node="b"), previous="a1")
    later = flapping(in_run_2("a"), in_run_2("b"), run="run-2")
    assert not takes(VIEW, A, later)


def test_a_node_that_flaps_does_not_stand_for_election() -> None:
    seen = flapping(node="b")
    assert rank(able("b"), able("c"), seen=seen) is None
    assert rank(able("c"), able("b"), seen=seen) == 0
    assert rank(able("b"), seen=seen) == 0, "it is the only one"


def test_only_terms_that_a_node_took_itself_count() -> None:
    """An operator who moves the primary to and fro makes nobody flap."""
    server = MemoryRedis(clock_ms=lambda: NOW_MS)
    for by in ("a", "ann", "a", "b", "ann", "ann"):
        server.promote(Claim(writer=A, floor=0, lease_ms=1, by=by, reason="", new_log_id="log-1"))
    assert election.cool_down_ms("a", server.look()) == 0
    server.promote(Claim(writer=A, floor=0, lease_ms=1, by="a", reason=""))
    assert server.state.head is not None
    assert server.state.head.taken == ((NOW_MS, "a"),) * 3, "the others are not written down"
    assert election.cool_down_ms("a", server.look()) == election.FLAP_WINDOW_MS
    assert election.cool_down_ms("b", server.look()) == 0


# --- a log that is gone ----------------------------------------------------------------------------------------------

GONE = GroupView(RUN, 3, None, ZERO_ID, None, {})


def had(node: str, **fields: object) -> Heartbeat:
    return heartbeat(node, log_id="log-1", **fields)


def refounds(me: Heartbeat, *others: Heartbeat, seen: GroupView = GONE, beats: int = 9) -> bool:
    return election.refounds(
        me, seen._replace(heartbeats={each.node: each for each in others}), beats_without_log=beats
    )


def test_the_most_advanced_founds_a_lost_log_anew_once_all_had_time_to_report() -> None:
    ahead, behind = had("a", changed=RecordId(3, 10)), had("b", changed=RecordId(3, 9))
    assert refounds(ahead, behind)
    assert not refounds(behind, ahead)
    assert refounds(ahead, behind, beats=election.BEATS_BEFORE_CLAIM)
    assert not refounds(ahead, behind, beats=election.BEATS_BEFORE_CLAIM - 1)


def test_a_log_that_is_there_is_not_founded_anew() -> None:
    assert not refounds(had("a"), seen=look())


def test_of_the_equally_advanced_one_founds_the_log() -> None:
    assert [refounds(had("a"), had("b")), refounds(had("b"), had("a"))] == [True, False]


@pytest.mark.parametrize(
    "other",
    [
        had("b", changed=RecordId(3, 99), age_ms=60_000),
        had("b", changed=RecordId(3, 99), stalled="apply failed"),
        heartbeat("b", changed=RecordId(3, 99), log_id="log-2"),
        heartbeat("b", changed=RecordId(3, 99)),
    ],
    ids=["dead", "stalled", "of another log", "of no log"],
)
def test_the_log_is_founded_from_a_live_node_that_followed_it(other: Heartbeat) -> None:
    assert refounds(had("a"), other)
    assert election.most_advanced_holder([had("a"), other], "log-1") == "a"


def test_most_of_a_log_has_the_one_with_the_newest_change_and_not_the_highest_position() -> None:
    follower = had("b", position=Position(RecordId(9, 99), "b" * 32), changed=RecordId(3, 4))
    assert election.most_advanced_holder([follower, had("a", changed=RecordId(3, 5))], "log-1") == "a"
    assert election.most_advanced_holder([had("a", changed=RecordId(3, 4)), follower], "log-1") == "b"
    assert election.most_advanced_holder([heartbeat("a")], "log-1") is None
    assert election.most_advanced_holder([], "log-1") is None


# --- a node whose Redis user may not write the log -------------------------------------------------------------------

MAY_NOT = "the Redis user may not use set"


def test_who_may_not_write_the_log_is_not_promoted_and_nobody_goes_past_that() -> None:
    seen = look(heartbeat("b", follows_only=MAY_NOT), heartbeat("c"))
    refused = election.refusal("b", seen)
    assert refused is not None
    assert (refused.code, refused.better) == ("may_not_lead", "c")
    assert MAY_NOT in refused.reason
    for force in (False, True):
        with pytest.raises(PromotionRefused, match="may not lead"):
            promotion.check("b", seen, force=force)


def test_who_may_not_write_the_log_is_not_waited_for_in_an_election() -> None:
    me = heartbeat("c", candidate=True)
    seen = look(me, heartbeat("b", candidate=True, follows_only=MAY_NOT))
    assert election.election_rank(me, seen, beats_in_run=9) == 0


def test_of_the_equally_advanced_one_that_may_write_founds_the_log() -> None:
    further = Position(RecordId(9, 99), "b" * 32)
    assert refounds(had("b"), had("a", follows_only=MAY_NOT, position=further))
    ahead = had("a", follows_only=MAY_NOT, changed=RecordId(3, 99))
    assert not refounds(had("b", changed=RecordId(3, 10)), ahead), "what only it has is not given up by that"


# --- whether the head says what is committed -------------------------------------------------------------------------

LEADING = heartbeat("a", role="primary")


def leased(*heartbeats: Heartbeat, **more: Any) -> GroupView:
    """The holder's lease runs."""
    return look(*heartbeats, **more)._replace(lease_ms=4000)


def test_the_head_says_what_is_committed_while_its_holder_leads() -> None:
    assert election.is_settled(leased(LEADING))


def test_the_head_of_a_holder_whose_lease_ran_out_says_nothing() -> None:
    """On a master that was cut off, and takes no writes any more, the heartbeats stand as they were."""
    assert not election.is_settled(leased(LEADING)._replace(lease_ms=None))


def test_a_head_behind_an_entry_that_readers_apply_does_not_say_what_is_committed() -> None:
    # given a script that was stopped between its record and the head: some read and show the record, some do not
    seen = leased(LEADING)
    assert seen.head is not None
    newest = seen.head.position.id
    assert not election.is_settled(seen._replace(last_id=newest._replace(n=newest.n + 1)))


@pytest.mark.parametrize(
    "seen",
    [
        leased(LEADING)._replace(head=None),
        leased(),
        leased(heartbeat("a")),
        leased(LEADING._replace(boot="a0")),
        leased(LEADING._replace(term=2)),
        leased(LEADING, run="run-2"),
        leased(LEADING)._replace(term=4),
        leased(LEADING, holder=B),
    ],
    ids=[
        "no log",
        "the holder has not reported",
        "it has not led yet, or rebases",
        "another boot led",
        "it led in an earlier term",
        "no term was taken in this run",
        "somebody took a term that is not in the log",
        "another one holds the term",
    ],
)
def test_the_head_does_not_say_what_is_committed_unless_its_holder_leads(seen: GroupView) -> None:
    """What is committed may be missing from the log: the holder may still have to rebase."""
    assert not election.is_settled(seen)


# --- rebasing and snapshots ------------------------------------------------------------------------------------------


def test_a_node_that_has_nothing_does_not_replace_a_history() -> None:
    assert not election.may_rebase(View(term=5, in_sync=False))
    assert election.may_rebase(VIEW)


def test_a_rebase_goes_on_above_the_records_of_the_node_and_of_the_log() -> None:
    ahead, behind = VIEW, view_at(HERE, cursor=Position(RecordId(9, 20), "c" * 32))
    assert (election.rebase_n(ahead), election.rebase_n(behind)) == (11, 21)


@pytest.mark.parametrize(
    ("needs", "fields"),
    [
        (True, {}),
        (True, {"cursor": RecordId(3, 8)}),
        (False, {"in_sync": True}),
        (False, {"age_ms": 60_000}),
        (False, {"cursor": RecordId(2, 99)}),
        (False, {"cursor": RecordId(3, 7)}),
    ],
    ids=["waits", "right behind it", "in sync", "dead", "not in this term yet", "before the newest snapshot"],
)
def test_a_snapshot_is_owed_to_whom_nothing_in_the_log_helps(needs: bool, fields: dict[str, object]) -> None:
    other = heartbeat("b", **{"in_sync": False} | fields)
    assert election.owes_snapshot(VIEW, [heartbeat("c"), other], RecordId(3, 8)) == needs


# --- what became of a write ------------------------------------------------------------------------------------------

OURS, OTHER = change(A, 3, HERE), change(A, 3, HERE, "other")
PENDING = PendingWrite(OURS, RUN)


@pytest.mark.parametrize(
    ("code", "certain", "repeated", "found", "not_found"),
    [
        (Code.OK, WriteOutcome.COMMITTED, WriteOutcome.COMMITTED, None, None),
        (Code.DUPLICATE, WriteOutcome.COMMITTED, WriteOutcome.COMMITTED, None, None),
        (Code.RESTART, WriteOutcome.AGAIN, WriteOutcome.AGAIN, None, None),
        (Code.BEHIND, WriteOutcome.REBASE, None, WriteOutcome.COMMITTED, WriteOutcome.UNKNOWN),
        (Code.LOST, WriteOutcome.LOST, None, WriteOutcome.COMMITTED, WriteOutcome.UNKNOWN),
        (Code.STRAY, WriteOutcome.STRAY, None, WriteOutcome.COMMITTED, WriteOutcome.UNKNOWN),
        (Code.FENCED, WriteOutcome.REFUSED, None, WriteOutcome.COMMITTED, WriteOutcome.REFUSED),
        (Code.NEW_RUN, WriteOutcome.REFUSED, None, WriteOutcome.COMMITTED, WriteOutcome.UNKNOWN),
    ],
)
def test_the_fate_of_a_write(
    code: Code,
    certain: WriteOutcome,
    repeated: WriteOutcome | None,
    found: WriteOutcome | None,
    not_found: WriteOutcome | None,
) -> None:
    reply = Reply(code)
    assert PENDING.answered(reply).outcome is certain
    again = PENDING.unanswered().answered(reply)
    assert again.outcome is repeated
    if repeated is None:
        assert again.next is Next.LOOK
        assert again.looked(OURS, look()).outcome is found
        assert again.looked(OTHER, look()).outcome is not_found
        assert again.looked(None, look(run="run-2")).outcome is WriteOutcome.UNKNOWN


def test_what_is_in_the_log_is_folded_and_what_is_not_or_may_be_is_told() -> None:
    assert PENDING.next is Next.SEND
    assert PENDING.answered(Reply(Code.OK)).next is Next.FOLD
    assert PENDING.answered(Reply(Code.FENCED)).next is Next.RAISE
    repeated = PENDING.unanswered().answered(Reply(Code.FENCED))
    assert repeated.looked(OURS, look()).next is Next.FOLD
    assert repeated.looked(None, look()).next is Next.RAISE
    assert repeated.looked(None, look(run="run-2")).next is Next.RAISE


def test_what_was_never_sent_is_told_at_once_and_what_may_have_been_is_sent_again() -> None:
    unsent = PENDING.unsent()
    assert (unsent.outcome, unsent.next) == (WriteOutcome.NOT_SENT, Next.RAISE)
    lost = PENDING.unanswered()
    assert lost.next is Next.SEND
    assert lost.unsent() == lost


def test_a_look_that_fails_leaves_a_write_that_is_sent_again() -> None:
    lost = PENDING.unanswered()
    looking = lost.answered(Reply(Code.FENCED))
    assert looking.next is Next.LOOK
    assert looking.unsent() == looking.unanswered() == lost


# --- whom to promote -------------------------------------------------------------------------------------------------


def refusal(target: str, seen: GroupView) -> tuple[str, str | None] | None:
    told = election.refusal(target, seen)
    return told[:2] if told is not None else None


def test_lag_is_no_reason_while_the_log_is_whole() -> None:
    assert refusal("b", look(heartbeat("a"), heartbeat("b", changed=RecordId(1, 2)))) is None


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (heartbeat("b", age_ms=4000), "it has not reported for 4.0 s"),
        (heartbeat("b", in_sync=False, changed=RecordId(3, 9)), "it is out of sync"),
        (heartbeat("b", stalled="apply failed"), "it stalled: apply failed"),
    ],
)
def test_a_node_that_cannot_lead_is_refused_and_the_better_one_named(candidate: Heartbeat, reason: str) -> None:
    refused = refusal("b", look(heartbeat("a"), candidate))
    assert refused is not None
    assert reason in refused[0]
    assert refused[1] == "a"


def test_a_node_out_of_sync_that_lacks_nothing_may_be_promoted_over_the_log_as_it_is_now() -> None:
    candidate = heartbeat("b", in_sync=False)
    seen = look(heartbeat("a", changed=RecordId(3, 9)), candidate)
    assert refusal("b", seen) is None
    assert election.expected_head(candidate, seen) == HERE.id
    assert election.expected_head(heartbeat("b"), seen) is None, "one in sync reads whatever comes before its own term"


def test_a_node_that_has_not_read_into_the_era_of_the_log_is_refused() -> None:
    seen = look(heartbeat("a", term=ERA + 1), heartbeat("b"))
    seen = seen._replace(head=seen.head and seen.head._replace(term=ERA + 1))
    refused = refusal("b", seen)
    assert refused is not None
    assert "has not read into the present era" in refused[0]
    assert refused[1] == "a"
    assert refusal("a", seen) is None


def test_in_a_new_run_the_next_term_is_above_all_that_anybody_has_seen() -> None:
    assert election.newest_term(look()) == 3
    assert election.newest_term(look(heartbeat("b", term=ERA + 9), heartbeat("c", term=7), run="run-2")) == ERA + 9
    assert election.newest_term(look(heartbeat("b", term=9))) == 3, (
        "in this run a term was taken: there is none above it"
    )


def test_a_heartbeat_cannot_use_up_the_terms() -> None:
    assert election.newest_term(look(heartbeat("b", term=TERM_MAX - 1), run="run-2")) == 3


def test_the_log_denies_a_record_only_in_the_run_of_its_term_and_only_where_it_still_reaches() -> None:
    record = OURS
    assert find_out(record, record, look(), RUN) is Lookup.THERE
    assert find_out(record, OTHER, look(), RUN) is Lookup.NOT_THERE
    assert find_out(record, None, look(), RUN) is Lookup.NOT_THERE
    assert find_out(record, None, look(run="run-2"), RUN) is Lookup.CANNOT_TELL
    trimmed = look()
    trimmed = trimmed._replace(head=trimmed.head and trimmed.head._replace(previous_snapshot_at=record.id))
    assert find_out(record, None, trimmed, RUN) is Lookup.CANNOT_TELL


def test_a_node_that_nobody_knows_is_refused() -> None:
    refused = refusal("z", look(heartbeat("a")))
    assert refused is not None
    assert "no node of that name" in refused[0]


def test_after_redis_lost_changes_one_that_lacks_them_is_refused() -> None:
    seen = look(heartbeat("a", changed=RecordId(3, 9)), heartbeat("b", changed=RecordId(3, 4)), last_id=RecordId(3, 5))
    assert refusal("b", seen) == ("it lacks changes up to 3-9, which the log lost and a has", "a")
    assert refusal("a", seen) is None


def test_until_every_live_node_has_reported_in_the_new_run_nobody_is_promoted() -> None:
    seen = look(heartbeat("a", run="run-2"), heartbeat("b"), heartbeat("c", age_ms=60_000), run="run-2")
    refused = refusal("a", seen)
    assert refused is not None
    assert "b has not reported" in refused[0]
    assert refusal("a", look(heartbeat("a", run="run-2"), heartbeat("c", age_ms=60_000), run="run-2")) is None


def test_a_holder_in_another_run_is_not_named_by_a_view() -> None:
    assert VIEW.holder == Holder("a", "a1", RUN)
