"""A change that no node can apply is left out, and the group goes on without it; over live nodes."""

from __future__ import annotations

from typing import Any

import pytest

from replicator import Node, NotAcknowledged, PositionLost, RecordId, SkipRefused, Stalled, ops
from replicator.ops.certify import certify
from replicator.protocol.group import Skip
from replicator.testing import MemoryLog
from tests.support.kv import KV, PATIENCE_S, SHORT_LEASE_S, Group, eventually, forks, in_step, push, pushed

OPTIONS = {"lease_s": SHORT_LEASE_S}


class Failing(KV):
    """It fails at `{"fail": x}`, in the middle of what it does."""

    def apply(self, change: Any) -> Any:
        if "fail" in change:
            self.pushed.append("half of it")
            raise ZeroDivisionError
        return super().apply(change)


class Mended(KV):
    def apply(self, change: Any) -> Any:
        return super().apply(push(change["fail"]) if "fail" in change else change)


def stalled(group: Group, *names: str, saved_first: bool = False) -> list[Node]:
    """Nodes that all stalled at 1-3, after a push of x; the first of them holds the term."""
    first = group.primary(names[0], state=Failing(), **OPTIONS)
    nodes = [first, *(group.node(name, state=Failing(), **OPTIONS) for name in names[1:])]
    in_step(*nodes)
    first.submit(push("x"))
    ack = {"ack": "applied:1"} if saved_first else {}
    with pytest.raises(Stalled):
        first.submit({"fail": 1}, **ack)
    eventually(lambda: all(node.stalled for node in nodes), "all stall")
    eventually(lambda: all(beat.stalled for beat in group.server.look().heartbeats.values()), "and say so")
    eventually(lambda: group.server.look().lease_ms is None, "nobody leads")
    return nodes


def skip(group: Group, id_: str = "1-3") -> Skip:
    return ops.skip(group.log(), RecordId.parse(id_), by="ann", reason="division by zero")


def restarted(group: Group, *nodes: Node, state: type[KV] = Failing, **options: Any) -> list[Node]:
    for node in nodes:
        node.stop()
    return [group.node(node.name, state=state(), **OPTIONS | options) for node in nodes]


def go_on(*nodes: Node, has: list[Any]) -> None:
    """One leads and takes writes, the others follow, and all have the same."""
    leader = eventually(lambda: [node for node in nodes if node.leads], "one leads")[0]
    leader.submit(push("after"), timeout_s=PATIENCE_S)
    in_step(*nodes)
    assert [pushed(node) for node in nodes] == [[*has, "after"]] * len(nodes)


@pytest.mark.parametrize("saved_first", [False, True])
def test_a_group_that_stalled_goes_on_without_the_change(group: Group, saved_first: bool) -> None:
    nodes = stalled(group, "a", "b", saved_first=saved_first)
    skipped = skip(group)
    assert skipped[:3] == (RecordId(1, 3), "ann", "division by zero")
    nodes = restarted(group, *nodes)
    go_on(*nodes, has=["x"])
    assert [node.stalled for node in nodes] == [None, None]
    assert ops.verify(group.log(), by="test", timeout_s=PATIENCE_S).equal
    for node in nodes:
        node._running.replica.flush()
    found = certify(MemoryLog(group.server, "g"), [node.data_dir for node in nodes], make_state=Failing)
    assert found.equal_nodes == [["a", "b"]]
    # and neither a restart nor another leader brings it back
    nodes = restarted(group, *nodes)
    eventually(lambda: any(node.leads for node in nodes), "one leads")
    in_step(*nodes)
    assert [pushed(node) for node in nodes] == [["x", "after"]] * 2
    other = next(node for node in nodes if not node.leads)
    other.promote(timeout_s=PATIENCE_S)
    go_on(*nodes, has=["x", "after"])


def test_candidates_go_on_by_themselves_though_the_one_that_led_does_not_come_back(group: Group) -> None:
    a, b, c = stalled(group, "a", "b", "c")
    skip(group)
    a.stop()
    go_on(*restarted(group, b, c, auto_promote=True), has=["x"])


def test_a_new_node_and_one_that_was_away_have_what_the_others_have(group: Group) -> None:
    a, b, c = stalled(group, "a", "b", "c")
    skip(group)
    c.stop()
    a, b = restarted(group, a, b)
    go_on(a, b, has=["x"])
    d, c = group.node("d", state=Failing(), **OPTIONS), group.node("c", state=Failing(), **OPTIONS)
    go_on(a, b, c, d, has=["x", "after"])


def test_a_node_that_starts_while_redis_is_away_leaves_it_out_as_well(group: Group) -> None:
    nodes = stalled(group, "a", "b", saved_first=True)
    skip(group)
    nodes = restarted(group, *nodes)
    go_on(*nodes, has=["x"])
    nodes[1].stop()
    log = group.log()
    log.down = "cut off"
    b = group.node("b", state=Failing(), log=log, **OPTIONS)
    assert b.stalled is None
    assert pushed(b) == ["x", "after"]


def test_who_had_applied_it_and_comes_back_keeps_that_as_a_fork_and_is_rebuilt(group: Group) -> None:
    a, b, c = stalled(group, "a", "b", "c")
    c.stop()
    cut_off = group.log()
    c = group.node("c", state=Mended(), log=cut_off, **OPTIONS)
    eventually(lambda: pushed(c) == ["x", 1], "c applies it")
    c.stop()
    eventually(lambda: not group.server.look().heartbeats["c"].alive, "c is gone")
    skip(group)
    a, b = restarted(group, a, b)
    go_on(a, b, has=["x"])
    c = group.node("c", state=Mended(), **OPTIONS)
    go_on(a, b, c, has=["x", "after"])
    assert len(forks(c)) == 1
    with pytest.raises(PositionLost):
        c.wait(position="1-3", timeout_s=PATIENCE_S)


def test_who_has_applied_it_may_still_lead_and_then_it_stays(group: Group) -> None:
    """Nobody has led without it yet: no two nodes have different states at one position, whoever is first."""
    a, b, c = stalled(group, "a", "b", "c")
    skip(group)
    for node in (a, b, c):
        node.stop()
    log = group.log()
    c = group.new_node("c", state=Mended(), log=log, auto_promote=True, **OPTIONS)
    learn = log.look
    hidden = [True]

    def look() -> Any:
        seen = learn()
        return seen._replace(head=seen.head._replace(skipped=())) if hidden[0] and seen.head else seen

    log.look = look  # type: ignore[method-assign]
    c.start()
    eventually(lambda: c.leads, "c leads")
    hidden[0] = False
    assert pushed(c) == ["x", 1]
    a, b = (group.node(name, state=Failing(), **OPTIONS) for name in "ab")
    go_on(a, b, c, has=["x", 1])


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(group: Group, id_: str = "1-3") -> str:
    with pytest.raises(SkipRefused) as raised:
        skip(group, id_)
    return str(raised.value)


def test_while_a_node_leads_nothing_is_left_out(group: Group) -> None:
    a = group.primary("a", **OPTIONS)
    a.submit(push("x"))
    text = refused(group, "1-2")
    assert "a leads" in text or "a has applied it" in text, "whatever its heartbeat says by now"
    assert group.server.look().head.skipped == ()  # type: ignore[union-attr]


def test_only_the_last_change_is(group: Group) -> None:
    stalled(group, "a")
    for id_ in ("1-2", "1-1", "1-4"):
        assert "the last change of the log is 1-3" in refused(group, id_)


def test_a_live_node_that_has_applied_it_is_named(group: Group) -> None:
    _, b = stalled(group, "a", "b")
    b.stop()
    b = group.node("b", state=Mended(), **OPTIONS)
    eventually(lambda: group.server.look().heartbeats["b"].changed == RecordId(1, 3), "b says so")
    assert "b has applied it" in refused(group)


def test_what_moved_meanwhile_is_not_written_over(group: Group) -> None:
    stalled(group, "a")
    head = group.server.look().head
    assert head is not None
    log = group.log()
    assert log.skip((), newest=RecordId(1, 2), changed=RecordId(1, 2)).code.value == "conflict"
    assert group.server.look().head == head


def test_status_says_what_was_left_out_and_who_is_to_be_started_again(group: Group) -> None:
    nodes = stalled(group, "a", "b")
    skip(group)
    (text,) = (each for each in ops.status(group.log()).warnings if "left out" in each)
    assert "1-3 was left out by ann on" in text
    assert "division by zero; start a, b again" in text
    go_on(*restarted(group, *nodes), has=["x"])
    assert not [each for each in ops.status(group.log()).warnings if "left out" in each]


def test_a_write_that_waits_for_a_disk_is_told_as_before(group: Group) -> None:
    """A node that passed the record by does not acknowledge it."""
    nodes = stalled(group, "a", "b")
    skip(group)
    a, b = restarted(group, *nodes)
    go_on(a, b, has=["x"])
    b.stop()
    leader = eventually(lambda: [node for node in (a,) if node.leads], "a leads")[0]
    with pytest.raises(NotAcknowledged):
        leader.submit(push("y"), ack="applied:1", timeout_s=0.3)
