"""The decisions that the log alone cannot settle."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.core import life
from replicator.core.fold import Holder, View
from replicator.core.ids import ZERO_ID, Position, RecordId, Writer
from replicator.core.life import Fate, fate_of_write
from replicator.core.replies import Code, Head, Look, Peer, Reply
from tests.unit.history import RUN, A, view_at

HERE = Position(RecordId(3, 10), "a" * 32)
A2 = Writer("a", "a2")
VIEW = view_at(HERE, changed=HERE.id)


def peer(node: str, **fields: object) -> Peer:
    known = {"run": RUN, "term": 3, "position": HERE, "changed": HERE.id, "cursor": HERE.id}
    return Peer(node, f"{node}1", **known | fields)  # type: ignore[arg-type]


def look(*peers: Peer, run: str = RUN, holder: Writer = A, head_run: str = RUN, last_id: RecordId = HERE.id) -> Look:
    head = Head("log-1", head_run, 3, *holder, Position(last_id, "a" * 32))
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


def test_whoever_is_out_of_sync_takes_no_term() -> None:
    assert not takes(replace(VIEW, in_sync=False), A2, look(), previous="a1")


def test_without_a_log_nobody_takes_a_term() -> None:
    assert not takes(VIEW, A2, look()._replace(head=None), previous="a1")


NEW_RUN = look(peer("a"), peer("b"), run="run-2")


def test_in_a_new_run_the_former_holder_takes_a_term_when_all_had_time_to_report() -> None:
    assert takes(VIEW, A, NEW_RUN, beats=life.BEATS_BEFORE_CLAIM)
    assert not takes(VIEW, A, NEW_RUN, beats=life.BEATS_BEFORE_CLAIM - 1)
    assert takes(VIEW, A2, NEW_RUN, previous="a1")
    assert not takes(VIEW, A2, NEW_RUN, previous="a1", primary=False)


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
        (peer("b", changed=RecordId(3, 11), in_sync=False), False),
        (peer("b", changed=RecordId(3, 11), age_ms=60_000), False),
        (peer("a", changed=RecordId(3, 11)), False),
    ],
    ids=["ahead", "ahead in term", "level", "out of sync", "dead", "itself"],
)
def test_in_a_new_run_the_former_holder_yields_to_a_live_one_that_is_ahead(other: Peer, yields: bool) -> None:
    assert takes(VIEW, A, look(other, run="run-2")) == (not yields)


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
    assert fate_of_write(reply, uncertain=True, found=True) is found
    assert fate_of_write(reply, uncertain=True, found=False) is not_found


# --- whom to promote -------------------------------------------------------------------------------------------------


def refusal(target: str, seen: Look) -> tuple[str, str | None] | None:
    return life.refusal(target, seen)


def test_lag_is_no_reason_while_the_log_is_whole() -> None:
    assert refusal("b", look(peer("a"), peer("b", changed=RecordId(1, 2)))) is None


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (peer("b", age_ms=4000), "it has not reported for 4.0 s"),
        (peer("b", in_sync=False), "it is out of sync"),
        (peer("b", stalled="apply failed"), "it stalled: apply failed"),
    ],
)
def test_a_node_that_cannot_lead_is_refused_and_the_better_one_named(candidate: Peer, reason: str) -> None:
    refused = refusal("b", look(peer("a"), candidate))
    assert refused is not None
    assert reason in refused[0]
    assert refused[1] == "a"


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
