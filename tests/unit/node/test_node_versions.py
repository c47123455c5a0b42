"""A group has a version, which a record raises; a node that meets one that it does not read stops before it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from replicator import Node, ops
from replicator.errors import PromotionRefused, UpgradeNeeded, VersionRefused
from replicator.format.ids import ZERO_ID, RecordId
from replicator.format.records import ChangeRecord, TermRecord
from tests.support.kv import PATIENCE_S, Group, eventually, in_step
from tests.support.versions import ONE, TWO, One, Two


def noise(number: int) -> str:
    """Text of 200 kB that does not compress much."""
    return random.Random(number).randbytes(100_000).hex()


def one(group: Group, name: str, **options: Any) -> Node[One]:
    return group.node(name, state=One(), **ONE | options)


def two(group: Group, name: str, **options: Any) -> Node[Two]:
    return group.node(name, state=Two(), **TWO | options)


def again(node: Node[Any], start: Callable[..., Node[Any]], group: Group) -> Node[Any]:
    """The node with other code, on the same data."""
    node.stop()
    return start(group, node.name)


def leads(node: Node[Any]) -> Node[Any]:
    node.promote(timeout_s=PATIENCE_S)
    return node


def notes(node: Node[Any]) -> dict[str, str]:
    with node.reading() as state:
        return dict(state.notes)


def numbers(node: Node[Any]) -> dict[str, int]:
    with node.reading() as state:
        return dict(state.numbers)


def finalize(group: Group, version: int = 2) -> ops.Finalized:
    group.wake()
    return ops.finalize(group.log(), version, by="ann", timeout_s=PATIENCE_S)


# --- raising it -------------------------------------------------------------------------------------------------------


def test_a_log_begins_at_the_version_of_the_code_that_founds_it(group: Group) -> None:
    a, b = leads(two(group, "a")), two(group, "b")
    eventually(lambda: b.version == 2, "the version")
    assert a.version == 2
    record = group.log().find(RecordId(1, 1))
    assert isinstance(record, TermRecord)
    assert record.version == 2


def test_every_node_is_at_the_new_version_from_the_same_record_on(group: Group) -> None:
    a = leads(one(group, "a"))
    a.submit(["add", "k", 1])
    b = leads(two(group, "b"))
    a = again(a, two, group)
    b.submit(["add", "k", 2])
    assert b.version == 1
    done = finalize(group)
    assert (done.version, done.previous_version, b.version) == (2, 1, 2)
    b.submit(["note", "k", "seven"])
    eventually(lambda: notes(a) == {"k": "seven"}, "the note")
    assert a.version == 2
    with a.reading() as of_a, b.reading() as of_b:
        assert of_a.applied == of_b.applied == [1, 1, 2]
    (act,) = [r for r in group.log().read(ZERO_ID, count=99).records if isinstance(r, ChangeRecord) and r.version]
    assert (act.codec, act.version, act.count) == ("act", 2, 1)
    assert b'"by":"ann"' in act.body


def test_it_is_not_raised_while_a_node_does_not_read_it(group: Group) -> None:
    a, _ = leads(two(group, "a", version=1)), one(group, "b")
    eventually(lambda: "b" in group.server.look().heartbeats)
    with pytest.raises(VersionRefused, match=r"b \(1\) does not read version 2: upgrade it"):
        finalize(group)
    assert a.version == 1


def test_a_node_that_is_away_counts_for_an_hour(group: Group) -> None:
    a, b = leads(two(group, "a", version=1)), one(group, "b")
    eventually(lambda: "b" in group.server.look().heartbeats)
    b.stop()
    with pytest.raises(VersionRefused, match="forget"):
        finalize(group)
    eventually(lambda: not group.server.look().heartbeats["b"].alive)
    ops.forget(group.log(), "b", by="ann")
    assert finalize(group).version == 2
    assert a.version == 2


def test_the_primary_itself_refuses_what_a_node_does_not_read(group: Group) -> None:
    a, _ = leads(two(group, "a", version=1)), one(group, "b")
    eventually(lambda: "b" in a._running.ha_loop.observer.look.heartbeats)
    for what in ("finalize 2", "finalize 0", "finalize", "finalize x", "finalize " + "9" * 99):
        group.log().request(what, by="somebody")
    a.submit(["add", "k", 1])
    in_step(*group.nodes)
    assert a.version == 1


def test_it_never_goes_back_and_raising_it_twice_does_nothing(group: Group) -> None:
    a = leads(two(group, "a"))
    n = a.position.id.n
    assert finalize(group, 2).previous_version == 2
    with pytest.raises(VersionRefused, match="it cannot go back to 1"):
        finalize(group, 1)
    assert a.position.id.n == n


# --- a node that does not read it -------------------------------------------------------------------------------------


def stopped_before(group: Group) -> tuple[Node[Two], Node[One]]:
    """A group at version 2, of which one node was given the old code once more."""
    a, b = leads(two(group, "a", version=1)), two(group, "b", version=1)
    a.submit(["add", "k", 1])
    in_step(a, b)
    b.stop()
    eventually(lambda: not group.server.look().heartbeats["b"].alive)
    finalize(group)
    a.submit(["note", "k", "seven"])
    return a, one(group, "b")


def test_it_stops_before_that_record_says_what_to_do_and_serves_reads(group: Group) -> None:
    a, b = stopped_before(group)
    eventually(lambda: b.stalled is not None, "that it stops")
    assert "upgrade this node: from 1-3 on the group is at version 2, and its code reads 1" in str(b.stalled)
    assert numbers(b) == {"k": 1}
    assert (b.version, str(b.position.id)) == (1, "1-2")
    assert b.unready is not None
    assert "upgrade this node" in b.unready.message
    eventually(lambda: "upgrade this node" in group.server.look().heartbeats["b"].stalled)
    told = ops.status(group.log())
    assert "upgrade this node" in str({node.node: node.problem for node in told.nodes}["b"])
    assert not told.well
    assert a.leads


def test_it_is_not_promoted(group: Group) -> None:
    _, b = stopped_before(group)
    eventually(lambda: b.stalled is not None, "that it stops")
    with pytest.raises(PromotionRefused, match="upgrade this node"):
        b.promote(timeout_s=PATIENCE_S)


def test_with_new_code_it_goes_on_from_there(group: Group) -> None:
    a, b = stopped_before(group)
    eventually(lambda: b.stalled is not None, "that it stops")
    b = again(b, two, group)
    a.submit(["add", "k", 1])
    eventually(lambda: (numbers(b), notes(b), b.version) == ({"k": 2}, {"k": "seven"}, 2), "the rest")
    with b.reading() as state:
        assert state.applied == [1, 2, 2], "none twice, each in its version"


def test_old_code_on_a_checkpoint_that_is_past_that_record_stops_before_it(group: Group) -> None:
    a, b = stopped_before(group)
    b = again(b, two, group)
    in_step(a, b)
    b = again(b, one, group)
    assert "upgrade this node: from 1-3 on" in str(b.stalled)
    assert (numbers(b), b.version, str(b.position.id)) == ({"k": 1}, 1, "1-2")
    b = again(b, two, group)
    in_step(a, b)
    assert (notes(b), b.version) == ({"k": "seven"}, 2)


def test_old_code_does_not_start_on_a_checkpoint_that_begins_past_it(group: Group) -> None:
    a, b = stopped_before(group)
    b = again(b, two, group)
    a.publish()
    in_step(a, b)
    # Not `base_version`: without a snapshot that reads the changes, and one that is saved meanwhile ends that.
    eventually(lambda: (snapshot := b._running.checkpoint.snapshot) and snapshot.version == 2, "the snapshot")
    b.stop()
    with pytest.raises(UpgradeNeeded, match="upgrade this node"):
        one(group, "b")
    assert notes(two(group, "b")) == {"k": "seven"}


def test_a_new_node_with_old_code_takes_no_snapshot_of_the_new_version(group: Group) -> None:
    a, b = stopped_before(group)
    b.stop()
    large = {f"k{n}": noise(n) for n in range(8)}  # a snapshot of several parts, which is decoded as they arrive
    for key, text in large.items():
        a.submit(["note", key, text])
    a.publish()
    a.submit(["note", "k", "eight"])
    a.publish()  # it cuts what was before the first one
    assert sum(entry.body != b"" for entry in group.server.state.entries) > 4
    c = one(group, "c")
    eventually(lambda: c.stalled is not None, "that it stops")
    assert "the group is at version 2, and its code reads 1" in str(c.stalled)
    assert (numbers(c), c.in_sync) == ({}, False)
    with c.reading() as old:
        assert old.restored == [], "its restore() never sees what it cannot read"
    c = again(c, two, group)
    in_step(a, c)
    with c.reading() as state:
        assert (state.notes, state.restored) == (large | {"k": "eight"}, [2])


def test_a_node_that_reads_no_old_version_waits_for_a_new_snapshot(group: Group) -> None:
    a = leads(two(group, "a", version=1))
    for n in range(8):
        a.submit(["add", noise(n), 1])
    a.publish()
    a.submit(["add", "k", 1])
    a.publish()  # of version 1, and all that is before the one before it is cut
    finalize(group)
    a.submit(["note", "k", "seven"])
    c = group.node("c", state=Two(), app=TWO["app"], version=2)
    eventually(lambda: c.in_sync and notes(c) == {"k": "seven"}, "another snapshot")
    assert c.stalled is None
    with c.reading() as state:
        assert set(state.restored) == {2}, "no restore of the old version has begun"


def test_a_node_that_reads_no_old_version_does_not_lead_a_group_at_it(group: Group) -> None:
    a = leads(two(group, "a", version=1))
    a.submit(["add", "k", 1])
    b = group.node("b", state=Two(), app=TWO["app"], version=2)
    eventually(lambda: "b" in group.server.look().heartbeats)
    eventually(lambda: not b.in_sync, "that it waits")
    a.stop()
    for force in (False, True):
        with pytest.raises(PromotionRefused, match="at version 1, and its code reads 2: start it with code"):
            b.promote(timeout_s=PATIENCE_S, force=force)
        with pytest.raises(PromotionRefused, match="at version 1, and its code reads 2: start it with code"):
            ops.promote(group.log(), "b", by="ann", force=force)
    assert not b.leads
    with b.reading() as state:
        assert (state.applied, state.restored) == ([], [])


# --- what is lost with Redis ------------------------------------------------------------------------------------------


def test_a_version_that_redis_lost_is_lost_with_the_history_that_had_it(group: Group) -> None:
    a, b = leads(two(group, "a", version=1)), two(group, "b", version=1)
    a.submit(["add", "k", 1])
    in_step(a, b)
    copy = group.server.state
    finalize(group)
    a.submit(["note", "k", "seven"])
    in_step(a, b)
    assert (a.version, b.version) == (2, 2)
    group.fail_over(copy)
    eventually(lambda: a.leads, "that a goes on")
    eventually(lambda: b.in_sync and b.position.id >= a.position.id, "that b follows")
    assert (a.version, b.version) == (2, 2), "a had it, and the group has what a had"
    assert notes(b) == {"k": "seven"}


def test_the_way_back_is_open_until_then(group: Group) -> None:
    a, b = leads(one(group, "a")), one(group, "b")
    a.submit(["add", "k", 1])
    b = again(b, two, group)
    leads(b).submit(["add", "k", 2])
    b.publish()
    b.submit(["add", "k", 4])
    in_step(a, b)
    leads(a).submit(["add", "k", 8])
    b = again(b, one, group)
    in_step(a, b)
    assert numbers(a) == numbers(b) == {"k": 15}
    assert ops.verify(group.log(), by="test", timeout_s=PATIENCE_S).equal
