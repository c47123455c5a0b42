"""A log that was lost, another one in its place, records of strangers, and the forks that nodes keep of what lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replicator import CorruptRecord, LogLost, Node, OutcomeUnknown, PositionLost, RecordId, ops
from replicator.format.ids import ERA
from replicator.ops.diagnosis import checks_of_group
from replicator.protocol import election
from replicator.protocol.group import Reply
from replicator.storage.checkpoint import Checkpoint
from tests.support.kv import (
    BEAT_S,
    PATIENCE_S,
    Group,
    after_beats,
    eventually,
    fork_of,
    forks,
    in_step,
    push,
    pushed,
)
from tests.support.nodes import sleeps
from tests.support.worlds import Author, lead


class TestForks:
    """G9: exactly the changes that the group's history has not are kept."""

    def test_a_node_whose_changes_are_left_behind_keeps_them_and_says_from_where_on(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        a.submit(push("both"))
        in_step(a, b)
        b.stop()
        before = group.server.state
        a.submit(push("one"))
        a.submit(push("two"))
        log.down = "cut off"
        group.fail_over(before)
        b = group.node("b", beat_every_s=BEAT_S)
        b.wait(position="1-2", timeout_s=PATIENCE_S)
        eventually(
            lambda: (
                b._running.ha_loop.observer.look is not None
                and not b._running.ha_loop.observer.look.heartbeats["a"].alive
            )
        )
        b.promote(timeout_s=PATIENCE_S)
        log.down = ""
        in_step(a, b)
        assert fork_of(a) == ("1-2", [push("both"), push("one"), push("two")])
        assert forks(b) == []
        for _ in range(2):
            b.publish()
        in_step(a, b)
        assert len(forks(a)) == 1, "and once"

    def test_who_lost_nothing_in_a_rebase_keeps_no_fork(self, group: Group) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        c = group.node("c", beat_every_s=BEAT_S)
        a.submit(push("x"))
        in_step(a, b, c)
        before = group.server.state
        c.stop()
        a.submit(push("y"))
        in_step(a, b)
        group.fail_over(before)
        a.wait(role="primary", position=f"{ERA + 1}-1", timeout_s=PATIENCE_S)
        c = group.node("c", beat_every_s=BEAT_S)
        d = group.node("d", beat_every_s=BEAT_S)
        in_step(a, b, c, d)
        assert pushed(a) == pushed(b) == pushed(c) == pushed(d) == ["x", "y"]
        assert [forks(node) for node in (a, b, c, d)] == [[], [], [], []]

    def test_who_comes_back_after_a_long_time_keeps_no_fork(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        in_step(a, b)
        b.stop()
        for i in range(3):
            a.promote(force=True, timeout_s=PATIENCE_S)
            a.submit(push(i))
            a.publish()
        b = group.node("b")
        in_step(a, b)
        assert pushed(b) == ["x", 0, 1, 2]
        assert forks(b) == []

    def test_a_node_whose_only_divergent_tail_is_the_record_of_a_term_keeps_no_fork(self, group: Group) -> None:
        """The record of a term is above everything, and holds nothing."""
        log = group.faulty_log()
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        a.submit(push("x"))
        in_step(a, b)
        b.stop()
        before = group.server.state
        a.promote(timeout_s=PATIENCE_S)
        log.down = "cut off"
        group.fail_over(before)
        b = group.node("b", beat_every_s=BEAT_S)
        b.wait(position="1-2", timeout_s=PATIENCE_S)
        eventually(
            lambda: (
                b._running.ha_loop.observer.look is not None
                and not b._running.ha_loop.observer.look.heartbeats["a"].alive
            )
        )
        b.promote(timeout_s=PATIENCE_S)
        b.submit(push("y"))
        log.down = ""
        in_step(a, b)
        assert pushed(a) == ["x", "y"]
        assert forks(a) == []

    def test_a_node_that_has_no_change_keeps_no_fork(self, group: Group) -> None:
        a, log = group.primary("a"), group.log()
        b = group.node("b", log=log)
        in_step(a, b)
        log.down = "cut off"
        for i in range(3):
            a.submit(push(i))
            a.publish()
        a.promote(timeout_s=PATIENCE_S)
        log.down = ""
        in_step(a, b)
        assert pushed(b) == [0, 1, 2]
        assert forks(b) == []

    def test_a_state_that_was_replaced_on_purpose_is_no_fork(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("old"))
        in_step(a, b)
        a.replace([["pushed", ["new"]]])
        in_step(a, b)
        assert forks(a) == forks(b) == []


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """`recover` waits for heartbeats that come ten times a second."""
    monkeypatch.setattr(election, "BEAT_EVERY_MS_MAX", 100)


def broken_by(how: str, group: Group) -> None:
    if how == "stray":
        group.server.stray(RecordId(1_700_000_000_000, 0))
    elif how == "gone":
        group.server.flush()
    else:
        group.server._write(entries=(), exists=False, last_id=RecordId(0, 0))


BROKEN = ["gone", "half", "stray"]


def _live_problems(group: Group) -> dict[str, str | None]:
    """What each node reports, of those that are alive."""
    return {node.node: node.problem for node in ops.status(group.log()).nodes if node.alive}


@pytest.mark.usefixtures("quickly")
class TestLogLost:
    def test_a_log_that_is_gone_leaves_the_node_reading_and_it_says_so(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        a.submit(push("x"))
        group.server.flush()
        assert "there is none" in eventually(lambda: a.problem)
        with pytest.raises(LogLost, match="replicator recover"):
            a.submit(push("y"))
        after_beats(3, a)
        (told,) = ops.status(group.log()).nodes
        assert "there is none" in str(told.problem)
        assert told.alive
        assert "replicator recover" in str(ops.status(group.log()).problem)
        assert (a.failed, a.role, pushed(a)) == (None, "standby", ["x"])

    def test_nothing_but_a_heartbeat_is_written_where_the_log_was(self, group: Group) -> None:
        nodes = [group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S, auto_promote=True)]
        group.server.flush()
        empty = replace(group.server.state, beats=())
        after_beats(5, *nodes)
        assert replace(group.server.state, beats=()) == empty

    def test_a_write_to_a_log_that_is_gone_writes_nothing(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=60.0)

        def flushed(record: Any) -> Reply:
            group.server.flush()
            return log.execute(record)

        log.faults.append(flushed)
        with pytest.raises(LogLost):
            a.submit(push("y"))
        assert pushed(a) == []

    def test_a_marker_that_is_asked_for_when_the_log_is_gone_does_not_end_the_primary(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        broken_by("half", group)
        group.log().request("digest", by="test")
        assert "there is none" in eventually(lambda: a.problem)
        eventually(lambda: a.role == "standby")
        assert a.failed is None

    def test_an_answer_that_was_lost_with_the_log_stays_unknown(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, beat_every_s=BEAT_S)

        def lost(record: Any) -> Reply:
            log.execute(record)
            group.server.flush()
            raise OutcomeUnknown(url=log.url, problem="the answer was lost")

        log.faults.append(lost)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"))
        after_beats(3, a)
        assert (a.failed, pushed(a)) == (None, [])

    @pytest.mark.parametrize("how", BROKEN)
    def test_recovered_from_the_most_advanced_node_the_group_goes_on(self, group: Group, how: str) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        c = group.node("c", log=log, beat_every_s=BEAT_S)
        a.submit(push("all have it"))
        in_step(a, b, c)
        log.deaf = True
        a.submit(push("a and b have it"))
        in_step(a, b)
        log.down = "cut off"
        a._running.replica.flush()
        a_as_left = group.crash(a)
        broken_by(how, group)
        log.down, log.deaf = "", False
        eventually(lambda: b.problem and c.problem)
        group.wake()
        eventually(lambda: _live_problems(group).keys() == {"b", "c"} and all(_live_problems(group).values()))
        done = ops.recover(group.log(), by="ann", timeout_s=PATIENCE_S)
        assert (done.primary, done.term, done.first_id) == ("b", ERA + 1, f"{ERA + 1}-1")
        b.wait(role="primary", timeout_s=PATIENCE_S)
        b.submit(push("next"))
        in_step(b, c)
        assert (b.failed, c.failed) == (None, None)
        eventually(lambda: b.problem == c.problem == "")
        a = group.node("a", data_dir=a_as_left, beat_every_s=BEAT_S)
        in_step(a, b, c)
        assert pushed(a) == pushed(b) == pushed(c) == ["all have it", "a and b have it", "next"]
        assert forks(a) == forks(b) == forks(c) == []
        eventually(lambda: ops.status(group.log()).problem is None)
        assert ops.verify(group.log(), by="test").equal

    def test_what_only_others_had_becomes_a_fork(self, group: Group) -> None:
        log = group.faulty_log()
        a, b = group.primary("a", log=log, beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        a.submit(push("both"))
        in_step(a, b)
        b.stop()
        a.submit(push("a has it"))
        group.server.flush()
        log.down = "cut off"
        b = group.node("b", beat_every_s=BEAT_S)
        eventually(lambda: _live_problems(group).keys() == {"b"}, "it reports")
        ops.recover(group.log(), by="ann", timeout_s=PATIENCE_S)
        b.wait(role="primary", timeout_s=PATIENCE_S)
        log.down = ""
        in_step(a, b)
        assert pushed(a) == pushed(b) == ["both"]
        assert fork_of(a) == ("1-2", [push("both"), push("a has it")])

    def test_the_tokens_of_before_are_still_good_after_a_recovery(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        a.submit(push("x"))
        group.server.flush()
        eventually(lambda: _live_problems(group).get("a"), "it reports that the log is gone")
        ops.recover(group.log(), by="ann", timeout_s=PATIENCE_S)
        a.wait(role="primary", position="1-2", timeout_s=PATIENCE_S)
        with pytest.raises(PositionLost, match="term 1 ended at 1-2"):
            a.wait(position="1-3", timeout_s=PATIENCE_S)

    def test_where_nodes_may_the_most_advanced_founds_it_by_itself(self, group: Group) -> None:
        logs = {name: group.faulty_log() for name in "bcd"}
        options = {"beat_every_s": BEAT_S, "on_log_lost": "recover"}
        a = group.primary("a", **options)
        b, c, d = (group.node(name, log=logs[name], **options) for name in "bcd")
        a.submit(push("all"))
        in_step(a, b, c, d)
        logs["d"].deaf = True
        a.submit(push("b and c"))
        in_step(a, b, c)
        logs["b"].deaf = True
        a.submit(push("c"))
        in_step(a, c)
        a._running.replica.flush()
        a_as_left = group.crash(a)
        group.server.flush()
        logs["b"].deaf = logs["d"].deaf = False
        c.wait(role="primary", timeout_s=PATIENCE_S)
        c.submit(push("next"))
        in_step(b, c, d)
        a = group.node("a", data_dir=a_as_left, **options)
        in_step(a, b, c, d)
        assert all(pushed(node) == ["all", "b and c", "c", "next"] for node in (a, b, c, d))
        assert [forks(node) for node in (a, b, c, d)] == [[], [], [], []]
        assert c.term > ERA
        assert len({node._running.replica.node_state.view.log_id for node in (a, b, c, d)}) == 1

    def test_a_node_that_leads_again_writes_though_its_next_beat_is_to_come(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        a._setup.problems.report("log", LogLost(what="the log was gone at the last beat"))
        assert a.submit(push("x")) == 1

    def test_a_stray_record_is_recovered_by_nobody_unasked(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S, on_log_lost="recover")
        broken_by("stray", group)
        eventually(lambda: a.lease_ms is None)
        group.end_lease()
        after_beats(5, a)
        assert group.server.state.term == 1


class TestAMisnamedLog:
    """Somebody changed the `log_id` in the head by hand. The log is what it was: nothing is lost, and no node ends."""

    def _misname(self, group: Group) -> None:
        head = group.server.state.head
        assert head is not None
        group.server._write(head=head._replace(log_id="f" * 32))
        group.wake()

    def test_nobody_writes_and_nobody_ends_until_it_is_set_right(self, group: Group) -> None:
        a = group.primary("a", beat_every_s=BEAT_S)
        b = group.node("b", beat_every_s=BEAT_S, auto_promote=True, on_log_lost="recover")
        a.submit(push("before"))
        in_step(a, b)
        self._misname(group)
        eventually(lambda: "changed by hand" in a.problem and "changed by hand" in b.problem)
        eventually(lambda: not a.leads)
        group.end_lease()  # what is left of it keeps nobody from taking over
        with pytest.raises(LogLost, match="`replicator recover` sets it right"):
            a.submit(push("refused"))
        written = group.server.state.entries
        after_beats(5, a, b)
        assert (a.failed, b.failed) == (None, None)
        assert group.server.state.entries == written, "nobody took over, nobody founded it anew"
        (check,) = [check for check in checks_of_group(group.server.look()) if check.check == "log"]
        assert "by its records it is log" in check.message
        # when it is set right
        ops.recover(group.log(), by="ann", timeout_s=PATIENCE_S)
        # then
        a.wait(role="primary", timeout_s=PATIENCE_S)
        a.submit(push("after"))
        in_step(a, b)
        assert pushed(b) == ["before", "after"]
        head = group.server.state.head
        assert head is not None
        assert head.log_id == a._running.replica.node_state.view.log_id != "f" * 32
        eventually(lambda: not a.problem and not b.problem)
        assert [*forks(a), *forks(b)] == [], "the log went on"

    def test_a_node_starts_there_as_a_standby_and_says_so(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("before"))
        a.stop()
        self._misname(group)
        a = group.node("a")
        eventually(lambda: "changed by hand" in a.problem)
        assert (a.failed, pushed(a), a.leads) == (None, ["before"], False)


class TestAnotherLog:
    """Somebody else's Redis, or database: nothing is written there, and nothing taken from there."""

    def _of_others(self, group: Group, *, term: int = 1) -> Author:
        """Somebody else's log takes the place of the group's."""
        group.server.flush()
        author = lead(group.log(), "z", new_log_id="another", floor=term - 1)
        author.append(push("theirs"))
        return author

    @pytest.mark.parametrize("term", [1, 7])
    def test_it_ends_a_node_at_once(self, group: Group, term: int) -> None:
        nodes = [group.primary("a"), group.node("b", auto_promote=True)]
        nodes[0].submit(push("ours"))
        in_step(*nodes)
        log_id = nodes[0]._running.replica.node_state.view.log_id
        for node in nodes:
            node._setup.log.down = "cut off"
        self._of_others(group, term=term)
        for node in nodes:
            node._setup.log.disconnect()
            node._setup.log.down = ""
        theirs = group.server.state
        for node in nodes:
            assert isinstance(eventually(lambda node=node: node.failed), LogLost)
            assert "there is log another: the URL leads to another Redis" in str(node.failed)
            with pytest.raises(LogLost):
                node.submit(push("x"))
            assert (pushed(node), node.role) == (["ours"], "standby")
        assert group.server.state == theirs, "not even a heartbeat"
        for node in nodes:
            node.stop()
            saved = _loaded(node)
            assert (saved.log_id, saved.in_sync, str(saved.position.id)) == (log_id, True, "1-2")
        assert group.server.state == theirs

    def test_one_that_replaces_the_log_under_a_node_that_reads_is_not_taken_in(self, group: Group) -> None:
        """The reader learns of it before the keeper looks."""
        a = group.primary("a", lease_s=60.0)
        a.submit(push("ours"))
        b = group.node("b", lease_s=60.0)
        in_step(a, b)
        sleeps(group, b)
        self._of_others(group, term=7).snapshot()
        assert isinstance(eventually(lambda: b.failed), LogLost)
        assert (pushed(b), b.term, b.in_sync) == (["ours"], 1, True)

    def test_a_node_does_not_start_there(self, group: Group) -> None:
        group.primary("a").stop()
        self._of_others(group)
        theirs = group.server.state
        with pytest.raises(LogLost, match="there is log another"):
            group.node("a")
        assert group.server.state == theirs

    def test_a_node_that_was_started_without_redis_finds_out_when_it_comes(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("ours"))
        a.stop()
        author = self._of_others(group, term=7)
        author.snapshot()
        author.snapshot()  # so that the log begins with something that does not say whose it is
        log = group.log()
        log.down = "not yet"
        a = group.node("a", log=log)
        log.down = ""
        assert isinstance(eventually(lambda: a.failed), LogLost)
        assert (pushed(a), a.term, a.in_sync) == (["ours"], 1, True)

    def test_a_new_node_joins_whatever_is_there(self, group: Group) -> None:
        group.server.flush()
        lead(group.log(), "z", new_log_id="another").append(push("theirs"))
        a = group.node("a")
        a.wait(n=2, timeout_s=PATIENCE_S)
        assert pushed(a) == ["theirs"]


def _loaded(node: Node) -> Any:
    with Checkpoint(node.data_dir, node.group, node=node.name) as checkpoint:
        loaded = checkpoint.load()
        assert loaded is not None
        return loaded.view


class TestStrays:
    def test_a_stray_record_is_reported_and_nothing_is_skipped(self, group: Group) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        a.submit(push("x"))
        group.server.stray(RecordId(1_700_000_000_000, 0))
        with pytest.raises(CorruptRecord, match="1700000000000-0"):
            a.submit(push("y"))
        eventually(lambda: "1700000000000-0" in b.problem)
        assert pushed(a) == pushed(b) == ["x"]
        assert "1700000000000-0" in (ops.status(group.log()).problem or "")

    def test_what_came_before_the_stray_is_applied(self, group: Group) -> None:
        a, log = group.primary("a"), group.log()
        log.down = "not yet"
        b = group.node("b", log=log)
        a.submit(push("x"))
        group.server.stray(RecordId(1_700_000_000_000, 0))
        log.down = ""
        eventually(lambda: "1700000000000-0" in b.problem)
        assert pushed(b) == ["x"]
