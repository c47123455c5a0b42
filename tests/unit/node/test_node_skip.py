"""A group that stalled at one change goes on without it: `replicator skip`."""

from __future__ import annotations

from typing import Any

import pytest

from replicator import ChangeRejected, LogUnavailable, SkipRefused, Stalled, ops
from replicator.format.ids import RecordId, Writer
from replicator.protocol.group import Claim
from tests.support.kv import KV, PATIENCE_S, Group, eventually, fork_of, in_step, push, pushed, put
from tests.support.stalled_group import POISON, Failing, at_one_change, skip, stalled_group


@pytest.mark.parametrize("on", ["a", "b"])
@pytest.mark.parametrize("ack", [{}, {"ack": "applied:2", "timeout_s": PATIENCE_S}])
@pytest.mark.parametrize("snapshot", [False, True])
def test_all_go_on_without_it(group: Group, on: str, ack: dict[str, Any], snapshot: bool) -> None:
    """Whoever leads, whether the change was on disks already, whether there was a snapshot to begin from."""
    if snapshot:
        first = group.primary("a", state=Failing())
        first.submit(push("w"))
        ops.snapshot(group.log(), by="test", timeout_s=PATIENCE_S)
        first.stop()
    nodes, change = stalled_group(group, **ack)
    done = skip(group, change, on)
    assert (done.skipped_id, done.primary, done.change_count) == (str(change), on, 1)
    leader = next(node for node in nodes if node.name == on)
    leader.submit(push("y"), ack="applied:2", timeout_s=PATIENCE_S)
    in_step(*nodes)
    expected = (["w"] if snapshot else []) + ["x", "y"]
    assert [pushed(node) for node in nodes] == [expected] * 3, "nothing is left of half a change either"
    assert [node.stalled for node in nodes] == [None] * 3
    assert ops.verify(group.log(), by="test", timeout_s=PATIENCE_S).equal
    term = next(each for each in ops.history(group.log()).entries if each.term == done.term)
    assert (term.reason, term.by, term.skipped_id) == ("it is poison", "test", str(change))


def test_a_repeat_with_its_key_is_rejected_by_whoever_leads(group: Group) -> None:
    nodes, change = stalled_group(group, key="k")
    skip(group, change, "b")
    _, b, c = nodes
    with pytest.raises(ChangeRejected, match=r"an operator had the group go on without it \(it is poison\)"):
        b.submit(POISON, key="k")
    in_step(*nodes)
    ops.switchover(group.log(), "c", by="test", timeout_s=PATIENCE_S)
    with pytest.raises(ChangeRejected, match="it is poison"):
        c.submit(POISON, key="k")
    in_step(*nodes)
    assert ops.verify(group.log(), by="test", timeout_s=PATIENCE_S).equal


def test_a_second_change_is_skipped_by_a_second_promotion(group: Group) -> None:
    nodes, change = stalled_group(group)
    skip(group, change, "b")
    with pytest.raises(Stalled):
        nodes[1].submit(POISON)
    second = eventually(lambda: at_one_change(group))
    assert second > change
    skip(group, second, "c")
    nodes[2].submit(push("y"))
    in_step(*nodes)
    assert [pushed(node) for node in nodes] == [["x", "y"]] * 3


def test_its_holder_that_is_started_again_before_its_state_is_in_the_log_goes_on(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is on its disk, and passed over at every start."""
    (a, b, c), change = stalled_group(group, ack="applied:2", timeout_s=PATIENCE_S)

    def publishes_nothing(**_: Any) -> None:
        raise LogUnavailable(url="memory:", problem="not now")

    monkeypatch.setattr(b._running.primary.publisher, "publish", publishes_nothing)
    with pytest.raises(TimeoutError, match="does not lead yet"):
        ops.skip(group.log(), change, "b", by="test", reason="it is poison", timeout_s=1.0)
    eventually(lambda: b.stalled is None, "it has read its term")
    assert b.role == "standby"
    eventually(lambda: all(node._running.replica.skipping._ahead.term == 2 for node in (a, c)), "they have seen it")
    assert a.stalled, "nobody gives its state up before there is another one"
    b.stop()
    again = group.node("b", state=Failing())
    again.wait(role="primary", timeout_s=PATIENCE_S)
    again.submit(push("y"), ack="applied:2", timeout_s=PATIENCE_S)
    in_step(a, again, c)
    assert [pushed(node) for node in (a, again, c)] == [["x", "y"]] * 3
    again.stop()
    third = group.node("b", state=Failing())
    assert pushed(third) == ["x", "y"], "nothing of it is on the disk any more"


def test_a_node_that_had_applied_it_keeps_that_as_a_fork_and_is_rebuilt(group: Group) -> None:
    a, b = group.primary("a", state=KV()), group.node("b", state=Failing())
    a.submit(push("x"), ack="applied:1", timeout_s=PATIENCE_S)
    a.submit(POISON)
    eventually(lambda: at_one_change(group, "b"))
    change = a.position.id
    eventually(lambda: group.server.look().heartbeats["a"].changed == change)
    a.stop()
    with pytest.raises(SkipRefused, match=f"a has applied {change}, or would lead without it: start or promote it"):
        skip(group, change, "b")
    preview = ops.preview_skip(group.log(), change, "b", force=True)
    assert (preview.refusal, preview.applied_nodes, preview.change_count) == (None, ["a"], 1)
    skip(group, change, "b", force=True)
    b.submit(push("y"))
    again = group.node("a", state=KV())
    in_step(again, b)
    assert (pushed(again), pushed(b)) == (["x", "y"], ["x", "y"])
    (_, changes) = fork_of(again)
    assert changes == [push("x"), POISON]


def test_a_node_that_leads_by_force_is_fenced_and_rebuilt(group: Group) -> None:
    a, b = group.primary("a", state=KV()), group.node("b", state=Failing())
    a.submit(POISON)
    change = a.position.id
    eventually(lambda: at_one_change(group, "b") and group.server.look().heartbeats["a"].changed == change)
    skip(group, change, "b", force=True)
    b.submit(push("y"))
    in_step(a, b)
    assert pushed(a) == ["y"]


def test_what_is_refused(group: Group) -> None:
    nodes, change = stalled_group(group)

    def refusal(of: str, node: str) -> str | None:
        return ops.preview_skip(group.log(), RecordId.parse(of), node).refusal

    assert refusal("1-1", "b") == "1-1 is no change that is in the log"
    assert refusal("7-7", "b") == "7-7 is no change that is in the log"
    assert refusal("1-2", "b") == f"1-2 is not the last change: {change} was written by a node that has applied it"
    assert refusal(str(change), "z") == "no node of that name has reported; `replicator status` lists them"
    nodes[2].stop()
    late = group.node("c", state=KV())
    eventually(lambda: late.position.id >= change)
    eventually(lambda: "c has applied" in (refusal(str(change), "b") or ""))
    with pytest.raises(SkipRefused, match="c has applied"):
        skip(group, change, "b")


def test_status_names_what_helps(group: Group) -> None:
    _, change = stalled_group(group)
    problem = ops.status(group.log()).problem
    assert problem is not None
    assert f"`replicator skip {change} --on a --reason TEXT`" in problem


def test_nodes_that_were_started_again_and_stalled_again_go_on(group: Group) -> None:
    """Their disks have the change, and their states do not: they do not say that they have it."""
    nodes, change = stalled_group(group, ack="applied:2", timeout_s=PATIENCE_S)
    for node in nodes:
        node.stop()
    nodes = [group.node(name, state=Failing()) for name in "abc"]
    assert eventually(lambda: at_one_change(group)) == change
    skip(group, change, "c")
    nodes[2].submit(push("y"))
    in_step(*nodes)
    assert [pushed(node) for node in nodes] == [["x", "y"]] * 3


def test_of_several_changes_in_the_record_none_is_left(group: Group) -> None:
    a, b = group.primary("a", state=Failing()), group.node("b", state=Failing())
    a.submit(put("k", 1))
    with pytest.raises(Stalled):
        a.submit_many([push("before"), POISON, push("after")])
    change = eventually(lambda: at_one_change(group))
    assert skip(group, change, "b").change_count == 3
    b.submit(push("y"))
    in_step(a, b)
    assert (pushed(a), pushed(b)) == (["y"], ["y"])


def test_a_node_that_took_a_term_before_it_came_to_the_change_is_rebuilt_like_the_others(group: Group) -> None:
    """Its own term record comes after the change, and is over by then."""
    a, b = group.primary("a", state=Failing()), group.node("b", state=Failing())
    a.submit(push("x"), ack="applied:1", timeout_s=PATIENCE_S)
    with b._running.replica.write_lock:
        with pytest.raises(Stalled):
            a.submit(POISON)
        look = group.server.look()
        claim = Claim(writer=Writer("b", b.boot), floor=0, lease_ms=60_000, by="test", reason="", expect=look.term)
        assert group.log().promote(claim).term == 2
    change = eventually(lambda: at_one_change(group))
    skip(group, change, "a")
    a.submit(push("y"))
    in_step(a, b)
    assert (pushed(a), pushed(b), b.stalled) == (["x", "y"], ["x", "y"], None)


def test_a_node_whose_first_state_could_not_be_drawn_is_to_be_started_again(group: Group) -> None:
    class Frail(Failing):
        fails = True

        def snapshot(self) -> Any:
            if self.fails:
                raise ZeroDivisionError("division by zero")
            return super().snapshot()

    state = Frail()
    a = group.primary("a", state=state)
    state.fails = False
    a.submit(push("x"))
    with pytest.raises(Stalled):
        a.submit(POISON)
    change = eventually(lambda: at_one_change(group))
    with pytest.raises(TimeoutError, match="does not lead yet"):
        ops.skip(group.log(), change, "a", by="test", reason="it is poison", timeout_s=2.0)
    told = f"could not be drawn; it is to lead without {change}: start it again"
    assert eventually(lambda: told in (a.stalled or ""))
    a.stop()
    again = group.node("a", state=Failing())
    again.wait(role="primary", timeout_s=PATIENCE_S)
    assert pushed(again) == ["x"]
