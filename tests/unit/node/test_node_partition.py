"""A Redis that was replaced while it goes on, and nodes on both sides. The two Redis are twins of one another."""

from __future__ import annotations

import pytest

from replicator import Node, NotAcknowledged, PromotionRefused, ops
from replicator.errors import ConfigError
from replicator.protocol import election
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.kv import (
    BEAT_S,
    PATIENCE_S,
    Group,
    after_beats,
    beats,
    eventually,
    forks,
    in_step,
    push,
    pushed,
)

OPTIONS = {"beat_every_s": BEAT_S, "auto_promote": True, "ack": "applied:1"}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many heartbeats candidates wait for others is asked in tests of the election."""
    monkeypatch.setattr(election, "BEATS_WITHOUT_MAJORITY", 8)


class Split:
    """a leads, b and c follow. Then a and b are cut off with the old server, and c has the new one."""

    def __init__(self, group: Group, **options_of_c: object) -> None:
        self.group = group
        self.a = group.primary("a", **OPTIONS)
        self.b = group.node("b", **OPTIONS)
        self.c = group.node("c", **OPTIONS | options_of_c)
        self.a.submit(push("before"), timeout_s=PATIENCE_S)
        in_step(self.a, self.b, self.c)
        eventually(lambda: group.server.look().is_whole and len(group.server.look().heartbeats) == 3, "all reported")
        after_beats(2, self.a, self.b, self.c)
        self.new = MemoryRedis()
        self.new.fail_over(group.server.state, run="run-2")
        self.over(self.c)
        eventually(lambda: beats(self.c) > 0 and self.new.look().heartbeats["c"].run == "run-2", "c reported")

    def over(self, *nodes: Node) -> None:
        """These nodes find the new server from now on."""
        for node in nodes:
            log = node._setup.log
            assert isinstance(log, MemoryLog)
            log.server = self.new
            log.disconnect()

    @property
    def log(self) -> MemoryLog:
        return MemoryLog(self.new)


def test_nobody_takes_over_alone_while_others_may_have_what_was_acknowledged(group: Group) -> None:
    """G5."""
    # given a primary and a standby that go on behind a partition
    split = Split(group)
    a, b, c = split.a, split.b, split.c
    for i in range(3):
        a.submit(push(i), timeout_s=PATIENCE_S)
    # when the third one is alone for longer than candidates wait for anybody
    eventually(lambda: beats(c) > election.BEATS_WITHOUT_MAJORITY + 3, "many beats")
    # then it waits, says for whom, and wants to be forced
    assert c.role == "standby"
    assert split.new.look().term == 1
    assert "a and b are missing since Redis came back" in str(ops.status(split.log).problem)
    with pytest.raises(PromotionRefused, match=r"a and b are missing .*applied:1"):
        ops.promote(split.log, "c", by="ann", timeout_s=0.5)
    with pytest.raises(PromotionRefused, match="a and b are missing"):
        c.promote(timeout_s=0.5)
    preview = ops.preview(split.log, "c")
    assert "a and b are missing" in str(preview.refusal)
    assert [text.partition(" ")[0] for text in preview.unknowns] == ["a", "b"]
    # and when the partition ends, nothing is lost
    split.over(a, b)
    eventually(lambda: split.new.look().is_whole, "somebody leads")
    in_step(a, b, c)
    assert pushed(c) == ["before", 0, 1, 2]
    assert [forks(node) for node in (a, b, c)] == [[], [], []]


def test_one_that_may_be_missing_is_not_waited_for(group: Group) -> None:
    split = Split(group)
    split.over(split.b)
    eventually(lambda: "primary" in (split.b.role, split.c.role), "one of two leads")
    eventually(lambda: split.new.look().is_whole, "it says so")


def test_whoever_would_rather_go_on_goes_on(group: Group) -> None:
    split = Split(group, failover_without="always")
    split.c.wait(role="primary", timeout_s=PATIENCE_S)


def test_an_operator_may_force_it(group: Group) -> None:
    split = Split(group)
    done = ops.promote(split.log, "c", by="ann", force=True, timeout_s=PATIENCE_S)
    assert done.primary == "c"


def test_nodes_that_are_forgotten_are_waited_for_no_more(group: Group) -> None:
    split = Split(group)
    with pytest.raises(ConfigError, match="c reports"):
        ops.forget(split.log, "c", by="ann")
    with pytest.raises(ConfigError, match="no node z"):
        ops.forget(split.log, "z", by="ann")
    eventually(lambda: not split.new.look().heartbeats["a"].alive, "a is silent")
    eventually(lambda: beats(split.c) > election.BEATS_WITHOUT_MAJORITY + 3, "many beats")
    assert split.c.role == "standby", "it waits for two"
    ops.forget(split.log, "a", by="ann")
    split.c.wait(role="primary", timeout_s=PATIENCE_S)
    assert list(split.new.look().heartbeats) == ["b", "c"]


def test_who_has_reported_to_another_redis_acknowledges_nothing_more_of_the_one_before(group: Group) -> None:
    split = Split(group)
    a = split.a
    id_, _ = a._running.primary.commits.submit(_encoded("late"), timeout_s=PATIENCE_S, term=None, wants_acks=1)
    in_step(a, split.b)
    split.over(a)
    eventually(lambda: a._running.replica.node_state.run == "run-2", "it has noticed")
    with pytest.raises(NotAcknowledged, match="ended meanwhile"):
        a._running.acks.wait(a._ack, id_, PATIENCE_S)


def test_a_change_is_acknowledged_only_when_it_is_on_the_primarys_own_disk_too(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So N + 1 disks have it, and N nodes may be missing."""
    a, b = group.primary("a", ack="applied:1"), group.node("b")
    in_step(a, b)
    a.submit(push("x"), timeout_s=PATIENCE_S)
    assert a._running.replica.synced_upto == a.position.id
    # given a disk that has nothing of the next one, which the standby has
    with monkeypatch.context() as full:
        full.setattr(a._running.replica, "flush", lambda: None)
        id_, _ = a._running.primary.commits.submit(_encoded("y"), timeout_s=PATIENCE_S, term=None, wants_acks=1)
        acks = a._running.acks
        eventually(lambda: acks._nodes_with(id_) == 1, "b has said so")
        with pytest.raises(NotAcknowledged, match=r"1 of 1 standby .* own disk does not have it yet"):
            acks.wait(a._ack, id_, 0.0)
    acks.wait(a._ack, id_, PATIENCE_S)


def test_a_node_that_stops_in_order_is_not_waited_for(group: Group) -> None:
    a, b = group.primary("a", **OPTIONS), group.node("b", **OPTIONS)
    c = group.node("c", **OPTIONS)
    in_step(a, b, c)
    eventually(lambda: group.server.look().is_whole, "a says that it leads")
    after_beats(2, a, b, c)
    # when b leaves, and then a is gone with the run
    b.stop()
    assert group.server.look().heartbeats["b"].left
    assert not group.server.look().heartbeats["b"].alive
    group.crash(a)
    group.fail_over()
    # then c needs neither of them
    c.wait(role="primary", timeout_s=PATIENCE_S)


def test_a_node_that_stops_while_redis_may_lack_what_it_has_stays_on_the_list(group: Group) -> None:
    split = Split(group)
    split.new.pause("so that nobody leads")
    split.c.stop()
    assert not split.new.look().heartbeats["c"].left


def _encoded(value: object):  # type: ignore[no-untyped-def]
    from replicator.format.codec import encoded

    return encoded([push(value)])
