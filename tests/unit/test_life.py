"""The decisions that the log alone cannot settle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.core import life
from replicator.core.fold import Holder, View
from replicator.core.ids import ERA, TERM_MAX, ZERO_ID, Position, RecordId, Writer
from replicator.core.life import Fate, Found, fate_of_write, find_out
from replicator.core.replies import Code, Head, Look, Peer, Reply
from tests.unit.history import RUN, A, change, view_at

HERE = Position(RecordId(3, 10), "a" * 32)
A2 = Writer("a", "a2")
VIEW = view_at(HERE, changed=HERE.id)


def peer(node: str, **fields: object) -> Peer:
    known = {"run": RUN, "term": 3, "position": HERE, "changed": HERE.id, "cursor": HERE.id}
    return Peer(node, f"{node}1", **known | fields)  # type: ignore[arg-type]


def look(
    *peers: Peer,
    run: str = RUN,
    holder: Writer = A,
    head_run: str = RUN,
    last_id: RecordId = HERE.id,
    changed: RecordId | None = None,
) -> Look:
    """`changed`: the last change that the log still has; the newest record, if nothing else is said."""
    head = Head("log-1", head_run, 3, *holder, Position(last_id, "a" * 32), changed or last_id)
    return Look(run, 3, head, last_id, None, {each.node: each for each in peers})


# --- who is the most advanced ----------------------------------------------------------------------------------------


def test_the_most_advanced_has_the_newest_change_and_not_the_highest_position() -> None:
    follower = peer("b", position=Position(RecordId(9, 99), "b" * 32), changed=RecordId(3, 4))
    assert life.most_advanced([follower, peer("a", changed=RecordId(3, 5))]) == peer("a", changed=RecordId(3, 5))


def test_a_higher_term_of_the_last_change_counts_before_its_number() -> None:
    newer = peer("b", changed=RecordId(4, 2))
    assert life.most_advanced([peer("a", changed=RecordId(3, 99)), newer]) == newer
    assert life.most_advanced([]) is None


# --- taking a term ---------------------------------------------------------------------------------------------------


def takes(view: View, me: Writer, seen: Look, *, previous: str = "", beats: int = 9, primary: bool = True) -> bool:
    return life.takes_term(view, me, seen, previous_boot=previous, beats_in_run=beats, restart_as_primary=primary)


def test_a_new_boot_takes_a_term_if_the_boot_before_held_the_present_one() -> None:
    assert takes(VIEW, A2, look(), previous="a1")
    assert not takes(VIEW, A2, look(), previous="a1", primary=False)
    assert not takes(VIEW, A2, look(), previous="a0")
    assert not takes(VIEW, A2, look(), previous="")
    assert not takes(VIEW, A2, look(holder=Writer("b", "a1")), previous="a1")


def test_whoever_holds_the_term_takes_no_other() -> None:
    assert not takes(VIEW, A, look(), previous="a1")


def test_whoever_is_out_of_sync_takes_no_term_unless_it_lacks_nothing() -> None:
    aside = replace(VIEW, in_sync=False)
    assert not takes(replace(aside, changed=RecordId(3, 9)), A2, look(), previous="a1")
    assert takes(aside, A2, look(), previous="a1")
    assert not takes(View(term=3, in_sync=False), A2, look(changed=ZERO_ID), previous="a1"), "it has nothing at all"


def test_a_new_boot_takes_no_term_over_changes_that_the_log_lost_and_another_has() -> None:
    other = peer("b", changed=RecordId(3, 12), in_sync=False)
    assert not takes(VIEW, A2, look(other), previous="a1")
    assert takes(VIEW, A2, look(other, changed=RecordId(3, 12)), previous="a1"), "the log has them: it reads them first"


def test_whoever_has_not_read_into_the_era_of_the_log_takes_no_term() -> None:
    new_era = look(last_id=RecordId(ERA + 1, 11))
    seen = new_era._replace(term=ERA + 1, head=new_era.head and new_era.head._replace(term=ERA + 1))
    assert not takes(VIEW, A2, seen, previous="a1")
    assert takes(replace(VIEW, term=ERA + 1, changed=RecordId(ERA + 1, 11)), A2, seen, previous="a1")


def test_without_a_log_nobody_takes_a_term() -> None:
    assert not takes(VIEW, A2, look()._replace(head=None), previous="a1")


NEW_RUN = look(peer("a", run="run-2"), peer("b", run="run-2"), run="run-2")


def test_in_a_new_run_the_former_holder_takes_a_term_when_all_had_time_to_report() -> None:
    assert takes(VIEW, A, NEW_RUN, beats=life.BEATS_BEFORE_CLAIM)
    assert not takes(VIEW, A, NEW_RUN, beats=life.BEATS_BEFORE_CLAIM - 1)
    assert takes(VIEW, A2, NEW_RUN, previous="a1")
    assert not takes(VIEW, A2, NEW_RUN, previous="a1", primary=False)


def test_in_a_new_run_the_former_holder_waits_for_whoever_may_still_report() -> None:
    assert not takes(VIEW, A, look(peer("b"), run="run-2"))
    assert takes(VIEW, A, look(peer("b", age_ms=60_000), run="run-2")), "it is dead"


def test_in_a_new_run_nobody_else_takes_a_term_by_itself() -> None:
    assert not takes(VIEW, Writer("b", "b1"), NEW_RUN)


def test_in_a_new_run_the_former_holder_reads_all_there_is_first() -> None:
    ahead = look(run="run-2", last_id=RecordId(3, 11))
    assert not takes(VIEW, A, ahead)
    assert takes(VIEW, A, look(run="run-2", last_id=RecordId(3, 9)))


@pytest.mark.parametrize(
    ("other", "yields"),
    [
        (peer("b", changed=RecordId(3, 11)), True),
        (peer("b", changed=RecordId(4, 1)), True),
        (peer("b", changed=HERE.id), False),
        (peer("b", changed=RecordId(3, 11), in_sync=False), True),
        (peer("b", changed=RecordId(3, 11), age_ms=60_000), False),
        (peer("a", changed=RecordId(3, 11)), False),
    ],
    ids=["ahead", "ahead in term", "level", "out of sync", "dead", "itself"],
)
def test_in_a_new_run_the_former_holder_yields_to_a_live_one_that_is_ahead(other: Peer, yields: bool) -> None:
    assert takes(VIEW, A, look(other._replace(run="run-2"), run="run-2")) == (not yields)


def test_a_log_is_founded_only_where_nobody_ever_had_one() -> None:
    nothing = Look(RUN, 0, None, ZERO_ID, None, {})
    assert life.may_found(nothing)
    assert life.may_found(nothing._replace(peers={"b": peer("b", term=0)}))
    assert not life.may_found(nothing._replace(term=1))
    assert not life.may_found(nothing._replace(peers={"b": peer("b")}))
    assert not life.may_found(look())


# --- rebasing and snapshots ------------------------------------------------------------------------------------------


def test_a_node_that_has_nothing_does_not_replace_a_history() -> None:
    assert not life.may_rebase(View(term=5, in_sync=False))
    assert life.may_rebase(VIEW)


def test_a_rebase_goes_on_above_the_records_of_the_node_and_of_the_log() -> None:
    ahead, behind = VIEW, view_at(HERE, cursor=Position(RecordId(9, 20), "c" * 32))
    assert (life.rebase_n(ahead), life.rebase_n(behind)) == (11, 21)


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
    other = peer("b", **{"in_sync": False} | fields)
    assert life.owes_snapshot(VIEW, [peer("c"), other], RecordId(3, 8)) == needs


# --- what became of a write ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "certain", "looked_for", "found", "not_found"),
    [
        (Code.OK, Fate.COMMITTED, Fate.COMMITTED, Fate.COMMITTED, Fate.COMMITTED),
        (Code.DUPLICATE, Fate.COMMITTED, Fate.COMMITTED, Fate.COMMITTED, Fate.COMMITTED),
        (Code.RESTART, Fate.AGAIN, Fate.AGAIN, Fate.AGAIN, Fate.AGAIN),
        (Code.BEHIND, Fate.REBASE, Fate.LOOK, Fate.COMMITTED, Fate.UNKNOWN),
        (Code.LOST, Fate.LOST, Fate.LOOK, Fate.COMMITTED, Fate.UNKNOWN),
        (Code.STRAY, Fate.STRAY, Fate.LOOK, Fate.COMMITTED, Fate.UNKNOWN),
        (Code.FENCED, Fate.REFUSED, Fate.LOOK, Fate.COMMITTED, Fate.REFUSED),
        (Code.NEW_RUN, Fate.REFUSED, Fate.LOOK, Fate.COMMITTED, Fate.UNKNOWN),
    ],
)
def test_the_fate_of_a_write(code: Code, certain: Fate, looked_for: Fate, found: Fate, not_found: Fate) -> None:
    reply = Reply(code)
    assert fate_of_write(reply, uncertain=False) is certain
    assert fate_of_write(reply, uncertain=True) is looked_for
    assert fate_of_write(reply, uncertain=True, found=Found.THERE) is found
    assert fate_of_write(reply, uncertain=True, found=Found.NOT_THERE) is not_found
    unknowable = Fate.UNKNOWN if looked_for is Fate.LOOK else looked_for
    assert fate_of_write(reply, uncertain=True, found=Found.CANNOT_TELL) is unknowable


# --- whom to promote -------------------------------------------------------------------------------------------------


def refusal(target: str, seen: Look) -> tuple[str, str | None] | None:
    return life.refusal(target, seen)


def test_lag_is_no_reason_while_the_log_is_whole() -> None:
    assert refusal("b", look(peer("a"), peer("b", changed=RecordId(1, 2)))) is None


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (peer("b", age_ms=4000), "it has not reported for 4.0 s"),
        (peer("b", in_sync=False, changed=RecordId(3, 9)), "it is out of sync"),
        (peer("b", stalled="apply failed"), "it stalled: apply failed"),
    ],
)
def test_a_node_that_cannot_lead_is_refused_and_the_better_one_named(candidate: Peer, reason: str) -> None:
    refused = refusal("b", look(peer("a"), candidate))
    assert refused is not None
    assert reason in refused[0]
    assert refused[1] == "a"


def test_a_node_out_of_sync_that_lacks_nothing_may_be_promoted_over_the_log_as_it_is_now() -> None:
    candidate = peer("b", in_sync=False)
    seen = look(peer("a", changed=RecordId(3, 9)), candidate)
    assert refusal("b", seen) is None
    assert life.expected_head(candidate, seen) == HERE.id
    assert life.expected_head(peer("b"), seen) is None, "one in sync reads whatever comes before its own term"


def test_a_node_that_has_not_read_into_the_era_of_the_log_is_refused() -> None:
    seen = look(peer("a", term=ERA + 1), peer("b"))
    seen = seen._replace(head=seen.head and seen.head._replace(term=ERA + 1))
    refused = refusal("b", seen)
    assert refused is not None
    assert "has not read into the present era" in refused[0]
    assert refused[1] == "a"
    assert refusal("a", seen) is None


def test_in_a_new_run_the_next_term_is_above_all_that_anybody_has_seen() -> None:
    assert life.newest_term(look()) == 3
    assert life.newest_term(look(peer("b", term=ERA + 9), peer("c", term=7), run="run-2")) == ERA + 9
    assert life.newest_term(look(peer("b", term=9))) == 3, "in this run a term was taken: there is none above it"


def test_a_heartbeat_cannot_use_up_the_terms() -> None:
    assert life.newest_term(look(peer("b", term=TERM_MAX - 1), run="run-2")) == 3


def test_the_log_denies_a_record_only_in_the_run_of_its_term_and_only_where_it_still_reaches() -> None:
    record, other = change(A, 3, HERE), change(A, 3, HERE, "other")
    assert find_out(record, record, look(), RUN) is Found.THERE
    assert find_out(record, other, look(), RUN) is Found.NOT_THERE
    assert find_out(record, None, look(), RUN) is Found.NOT_THERE
    assert find_out(record, None, look(run="run-2"), RUN) is Found.CANNOT_TELL
    trimmed = look()
    trimmed = trimmed._replace(head=trimmed.head and trimmed.head._replace(previous_snapshot_at=record.id))
    assert find_out(record, None, trimmed, RUN) is Found.CANNOT_TELL


def test_a_node_that_nobody_knows_is_refused() -> None:
    refused = refusal("z", look(peer("a")))
    assert refused is not None
    assert "no node of that name" in refused[0]


def test_after_redis_lost_changes_one_that_lacks_them_is_refused() -> None:
    seen = look(peer("a", changed=RecordId(3, 9)), peer("b", changed=RecordId(3, 4)), last_id=RecordId(3, 5))
    assert refusal("b", seen) == ("it lacks changes up to 3-9, which the log lost and a has", "a")
    assert refusal("a", seen) is None


def test_until_every_live_node_has_reported_in_the_new_run_nobody_is_promoted() -> None:
    seen = look(peer("a", run="run-2"), peer("b"), peer("c", age_ms=60_000), run="run-2")
    refused = refusal("a", seen)
    assert refused is not None
    assert "b has not reported" in refused[0]
    assert refusal("a", look(peer("a", run="run-2"), peer("c", age_ms=60_000), run="run-2")) is None


def test_a_holder_in_another_run_is_not_named_by_a_view() -> None:
    assert VIEW.holder == Holder("a", "a1", RUN)
