"""Holders of the term that can write nothing, and numbers that somebody else wrote: nobody waits, one command mends it.

Over live nodes, and a Redis in memory.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest

from replicator import Node, NotPrimary, PromotionRefused, ReplicatorError, ops
from replicator.errors import CorruptRecord
from replicator.format.codec import encode_changes
from replicator.format.ids import N_LEAP, TERM_LEAP, Position, RecordId, Writer
from replicator.format.records import ChangeRecord, Record, seal_change
from replicator.log.memory_redis import Entry
from replicator.node.lease_keeper import STUCK_S
from replicator.protocol.group import Code, Reply
from tests.support.kv import (
    BEAT_S,
    PATIENCE_S,
    SHORT_LEASE_S,
    Group,
    after_beats,
    eventually,
    forks,
    in_step,
    push,
    pushed,
    submitted,
)

OPTIONS = {"beat_every_s": BEAT_S, "auto_promote": True}


def has_lease(group: Group) -> bool:
    return group.server.state.lease_ms(group.server.clock_ms()) >= 0


def gives_up(group: Group, holder: Node) -> None:
    """It gives its lease up, and does not renew what Redis has left of it."""
    eventually(lambda: holder.lease_ms is None, f"{holder.name} has no lease")
    group.end_lease()
    after_beats(2, holder)
    assert not has_lease(group)


def forged(group: Group, term: int, n: int, *, node: str = "a", boot: str = "", prev: str = "") -> ChangeRecord:
    """A change that somebody else wrote in the name of a node."""
    head = group.server.look().head
    assert head is not None
    before = Position(RecordId(term, n - 1), prev or head.position.chain)
    codec, body, digest = encode_changes([])
    writer = Writer(node, boot or head.boot)
    return seal_change(writer=writer, term=term, after=before, at=0, codec=codec, digest=digest, count=0, body=body)


def write(group: Group, record: Record, *, with_head: bool = False) -> None:
    """Somebody's own XADD, and an HSET of the head to fit."""
    state = group.server.state
    entry = Entry(record.id, record.header, record.body)
    head = state.head
    if with_head and head is not None:
        head = head._replace(term=record.id.term, position=record.position)
    group.server._write(entries=(*state.entries, entry), last_id=record.id, head=head)


def recovered(group: Group) -> ops.Promotion:
    return ops.recover(group.log(), by="ann", timeout_s=PATIENCE_S)


def is_recovered(group: Group) -> None:
    """By whoever: on a busy machine another node may take over before the one that was chosen leads."""
    with contextlib.suppress(PromotionRefused):
        recovered(group)


def writes_again(group: Group, *nodes: Any) -> None:
    """Whoever leads takes writes, the others follow, and it can be replaced."""
    leader = eventually(lambda: [node for node in nodes if node.role == "primary" and node.lease_ms], "one leads")[0]
    leader.submit(push("after"), timeout_s=PATIENCE_S)
    in_step(*nodes)
    assert pushed(leader)[-1] == "after"
    eventually(lambda: _promoted(group, *(node for node in nodes if node is not leader)), "another one takes over")


# --- a holder that cannot write --------------------------------------------------------------------------------------


def test_a_holder_in_whose_name_somebody_else_wrote_gives_the_term_up(group: Group) -> None:
    """A copy of its process, or of its memory: what is in the log stays there."""
    a = group.primary("a", **OPTIONS)
    b = group.node("b", **OPTIONS)
    a.submit(push("x"))
    in_step(a, b)
    write(group, forged(group, 1, 3), with_head=True)
    with pytest.raises(NotPrimary):
        a.submit(push("refused"))
    assert not a._running.replica.node_state.holds_term, (
        "at once: it must not put its own state over what it does not know"
    )
    group.end_lease()
    b.wait(role="primary", timeout_s=PATIENCE_S)
    b.submit(push("y"), timeout_s=PATIENCE_S)
    in_step(a, b)
    assert (pushed(a), pushed(b)) == (["x", "y"], ["x", "y"])


def test_a_holder_whose_rebase_is_refused_lets_others_take_over_and_says_why(group: Group) -> None:
    log = group.faulty_log()
    a = group.primary("a", log=log, **OPTIONS)
    b = group.node("b", **OPTIONS)
    a.submit(push("x"))
    in_step(a, b)
    # when it is told that the log lost something, and no part of its snapshot is taken
    log.faults.append(lambda record: Reply(Code.BEHIND, id=RecordId(1, 1)))
    log.faults.extend([lambda record: Reply(Code.STRAY, id=RecordId(1, 9))] * 10_000)
    with pytest.raises(NotPrimary):
        a.submit(push("y"))
    a._setup.lease.length_s = SHORT_LEASE_S
    # then it stops renewing its lease, and the other one leads
    b.wait(role="primary", timeout_s=PATIENCE_S)
    log.faults.clear()
    b.submit(push("z"), timeout_s=PATIENCE_S)
    in_step(a, b)


def test_a_holder_that_gets_nowhere_says_so_in_its_heartbeat(group: Group) -> None:
    log = group.faulty_log()
    a = group.primary("a", log=log, beat_every_s=BEAT_S)
    log.faults.append(lambda record: Reply(Code.BEHIND, id=RecordId(1, 1)))
    log.faults.extend([lambda record: Reply(Code.STRAY, id=RecordId(1, 9))] * 100_000)
    with pytest.raises(NotPrimary):
        a.submit(push("y"))
    a._setup.lease.length_s = SHORT_LEASE_S
    eventually(lambda: "can write nothing" in group.server.look().heartbeats["a"].problem, "it says so")
    eventually(lambda: group.server.look().lease_ms is None, "its lease is gone")
    with pytest.raises(
        PromotionRefused, match=r"nobody leads \(a: it holds term 1 and can write nothing.*promote NODE"
    ):
        recovered(group)
    # and if it comes back to it, it leads
    log.faults.clear()
    a.wait(role="primary", timeout_s=PATIENCE_S)
    submitted(a, push("after"))
    eventually(lambda: not group.server.look().heartbeats["a"].problem, "nothing is wrong any more")


def test_a_holder_whose_log_has_something_else_in_it_does_not_renew(group: Group) -> None:
    a = group.primary("a", **OPTIONS)
    group.server.stray(RecordId(1, 100))
    gives_up(group, a)
    assert "not a record" in group.server.look().heartbeats["a"].problem
    assert recovered(group).primary == "a"
    a.submit(push("x"), timeout_s=PATIENCE_S)


def test_a_holder_that_sends_a_large_state_keeps_its_lease_meanwhile(group: Group) -> None:
    """What counts is that it gets on, not how long it takes."""
    log = group.faulty_log()
    a = group.primary("a", log=log, beat_every_s=BEAT_S)
    for i in range(3):
        a.submit(push(i))
    keeper, limit_s = a._running.ha_loop.lease_keeper, max(a._setup.lease.length_s, STUCK_S)

    def goes_by(seconds: float) -> None:
        assert keeper._got_on is not None
        keeper._got_on = keeper._got_on[0], keeper._got_on[1] - seconds

    with keeper._leasing:  # it does not look itself meanwhile
        assert not keeper._is_stuck(a._running.replica.node_state)
        behind = a._running.replica.node_state.refused(Reply(Code.BEHIND, id=RecordId(1, 1)))
        for n in range(5, 12):
            moved = behind._replace(view=behind.view._replace(position=Position(RecordId(1, n), "a" * 32)))
            goes_by(0.5 * limit_s)
            assert not keeper._is_stuck(moved)
        goes_by(limit_s)
        assert keeper._is_stuck(moved)


# --- numbers that somebody else wrote --------------------------------------------------------------------------------


@pytest.mark.parametrize("term", [2**53 - 2, 2**53 + 1, 5 + TERM_LEAP, "abc"])
def test_a_term_key_that_cannot_be_is_told_and_mended_by_one_command(group: Group, term: int | str) -> None:
    a, b = group.primary("a", **OPTIONS), group.node("b", **OPTIONS)
    a.submit(push("x"))
    in_step(a, b)
    group.server.set_term(term)
    gives_up(group, a)
    problem = str(ops.status(group.log()).problem)
    assert "the term key holds" in problem
    assert "`replicator recover`" in problem
    with pytest.raises(ReplicatorError, match="`replicator recover`"):
        a.submit(push("refused"))
    assert recovered(group).term == 2
    eventually(lambda: ops.status(group.log()).problem is None)
    writes_again(group, a, b)
    assert [forks(node) for node in (a, b)] == [[], []]
    assert a.term < 10


@pytest.mark.parametrize("fields", [{"term": 2**53 - 2}, {"position": Position(RecordId(2**53 - 2, 7), "a" * 32)}])
def test_a_head_that_was_edited_by_hand_is_told_and_mended_by_one_command(group: Group, fields: dict[str, Any]) -> None:
    a, b = group.primary("a", **OPTIONS), group.node("b", **OPTIONS)
    a.submit(push("x"))
    in_step(a, b)
    group.server.set_head(**fields)
    gives_up(group, a)
    assert "something else than replicator wrote to the head" in str(ops.status(group.log()).problem)
    after_beats(3, a, b)  # also the one that held the term reports on
    is_recovered(group)
    writes_again(group, a, b)
    assert pushed(a) == ["x", "after"]


@pytest.mark.parametrize("with_head", [False, True], ids=["raw", "with a head to fit"])
@pytest.mark.parametrize(
    ("term", "n"),
    [(2**53 - 2, 3), (1, 2**53 - 2), (2 + TERM_LEAP, 3), (1, 4 + N_LEAP), (5, 3), (1, 1000)],
)
def test_a_record_of_somebody_else_moves_nobody_far_and_is_mended_by_one_command(
    group: Group, term: int, n: int, with_head: bool
) -> None:
    a, b = group.primary("a", **OPTIONS), group.node("b", **OPTIONS)
    a.submit(push("x"))
    in_step(a, b)
    write(group, forged(group, term, n, prev="0" * 32), with_head=with_head)
    after_beats(4, a, b)
    for node in (a, b):
        assert node.term <= 1 + TERM_LEAP
        assert node._running.replica.node_state.view.cursor.id.n <= 2 + N_LEAP
    if not with_head or term > 5 or n > 1000:
        eventually(lambda: ops.status(group.log()).problem, "it is told")
        is_recovered(group)
    else:
        eventually(lambda: any(node.role == "primary" for node in (a, b)) or _promoted(group, a, b), "one leads")
    writes_again(group, a, b)
    assert a.term < 100 + TERM_LEAP


def _promoted(group: Group, *nodes: Any) -> bool:
    for node in nodes:
        try:
            ops.promote(group.log(), node.name, by="ann", timeout_s=5.0)
        except (ReplicatorError, TimeoutError):
            continue
        return True
    return False


def test_a_record_that_leaves_a_gap_is_not_taken(group: Group) -> None:
    """Its chain follows, and its number does not: no script writes that."""
    a, b = group.primary("a"), group.node("b")
    in_step(a, b)
    record = forged(group, 1, 5)
    with b._running.replica.write_lock, pytest.raises(CorruptRecord, match="its number cannot follow 1-1"):
        b._running.replica.take([replace(record)])
    assert str(b.position.id) == "1-1"


def test_a_holder_that_got_nowhere_and_was_replaced_follows_and_has_no_problem_left(group: Group) -> None:
    # given a holder whose log does not take what it has, and whose application cannot be drawn
    log = group.faulty_log()
    a = group.primary("a", log=log, beat_every_s=BEAT_S)
    b = group.node("b", beat_every_s=BEAT_S)
    a.submit(push("x"))
    in_step(a, b)
    draw = a._setup.state.snapshot

    def fails() -> Any:
        raise ValueError("a bug of the application")

    a._setup.state.snapshot = fails
    log.faults.append(lambda record: Reply(Code.BEHIND, id=RecordId(1, 1)))
    with pytest.raises(ReplicatorError):
        a.submit(push("y"))
    a._setup.lease.length_s = SHORT_LEASE_S
    eventually(lambda: "lets others take over" in a.problem)
    # when another one is promoted
    ops.promote(group.log(), "b", by="ann", force=True, timeout_s=PATIENCE_S)
    # then it learns of that although it renews nothing, and follows
    eventually(lambda: not a._running.replica.node_state.holds_term)
    a._setup.state.snapshot = draw
    eventually(lambda: a.term == b.term and "lets others take over" not in a.problem)
