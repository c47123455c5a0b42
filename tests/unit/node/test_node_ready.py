"""Whether a node leads, and whether it can do its work: what applications, load balancers and our own parts ask."""

from __future__ import annotations

from typing import Any

import pytest

import replicator.node.health
from replicator import CheckpointError, Node, ops
from replicator.format.ids import RecordId
from tests.support.kv import BEAT_S, KV, PATIENCE_S, Group, eventually, in_step, in_thread, push
from tests.support.nodes import lease_runs_out
from tests.support.worlds import lead, promote


def code(node: Node) -> str:
    """Why it is not ready; empty: it is."""
    unready = node.unready
    return unready.code if unready is not None else ""


class TestLeads:
    def test_who_leads_can_take_writes_and_who_follows_cannot(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)
        assert (a.leads, b.leads) == (True, False)

    def test_a_primary_that_is_cut_off_leads_until_its_lease_ends_and_calls_itself_primary_for_longer(
        self, group: Group
    ) -> None:
        log = group.log()
        a = group.primary("a", log=log, beat_every_s=BEAT_S, http="http://a")
        assert a.primary_http == "http://a"
        log.down = "cut off"
        promote(group.log(), "z")
        assert a.leads
        lease_runs_out(a)
        eventually(lambda: not a.leads)
        assert a.role == "primary", "nobody told it"
        assert a.primary_http is None, "it may be another one"
        log.down = ""
        eventually(lambda: a.role == "standby")

    def test_it_leads_again_once_it_has_its_lease_again(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, beat_every_s=BEAT_S)
        log.renewals_fail = True
        lease_runs_out(a)
        eventually(lambda: not a.leads)
        log.renewals_fail = False
        eventually(lambda: a.leads)
        a.submit(push("x"))

    def test_one_that_stalled_does_not_lead(self, group: Group) -> None:
        state = KV()
        a = group.primary("a", state=state, lease_s=60.0)

        def bug(change: Any) -> None:
            raise KeyError("a bug")

        state.in_apply = bug
        with pytest.raises(Exception, match="a bug"):
            a.submit(push("x"))
        assert (a.leads, code(a)) == (False, "stalled")

    def test_one_that_stopped_does_not_lead_and_is_not_ready(self, group: Group) -> None:
        a = group.primary("a")
        a.stop()
        assert (a.leads, code(a)) == (False, "stopping")


class TestPrimary:
    def test_it_is_ready_with_a_lease_and_redis(self, group: Group) -> None:
        a = group.primary("a")
        assert code(a) == ""

    def test_it_is_not_without_a_lease(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, beat_every_s=BEAT_S)
        log.renewals_fail = True
        lease_runs_out(a)
        eventually(lambda: not a.leads)
        assert code(a) in ("lease_lost", "log_unavailable")
        log.renewals_fail = False
        eventually(lambda: code(a) == "")

    def test_it_is_not_without_redis_although_its_lease_runs(self, group: Group) -> None:
        log = group.log()
        a = group.primary("a", log=log, lease_s=60.0)
        log.down = "cut off"
        eventually(lambda: code(a) == "log_unavailable")
        assert a.leads
        log.down = ""
        eventually(lambda: code(a) == "")

    def test_a_full_disk_of_its_own_keeps_it_from_no_write(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a = group.primary("a")
        _fill_the_disk(a, monkeypatch)
        a.submit(push("x"))
        eventually(lambda: "disk is full" in a.problem)
        assert code(a) == ""


class TestStandby:
    def test_it_is_ready_in_sync_and_close_behind(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)
        eventually(lambda: code(b) == "")

    def test_a_new_node_is_not_in_sync_before_it_has_read_the_log(self, group: Group) -> None:
        group.primary("a")
        log = group.faulty_log()
        log.deaf = True
        b = group.node("b", log=log)
        assert (b.in_sync, code(b)) == (False, "out_of_sync")
        assert "has read nothing of the log" in str(b.unready)
        eventually(lambda: ops.status(group.log()).nodes[1:])
        assert not ops.status(group.log()).nodes[1].in_sync
        log.deaf = False
        eventually(lambda: b.in_sync and code(b) == "")

    def test_one_that_never_reached_the_log_is_not_ready(self, group: Group) -> None:
        log = group.log()
        log.down = "cut off"
        b = group.node("b", log=log)
        assert (b.in_sync, b.role) == (False, "standby")
        assert code(b) in ("out_of_sync", "log_unavailable")
        eventually(lambda: code(b) == "log_unavailable")

    def test_a_node_of_a_group_that_never_had_a_log_is_not_ready(self, group: Group) -> None:
        a = group.node("a")
        assert (a.in_sync, code(a)) == (True, "lag_unknown"), "there is nothing that it could lack, or follow"
        a.promote(timeout_s=PATIENCE_S)
        assert (a.in_sync, code(a)) == (True, "")

    def test_a_newcomer_at_the_beginning_of_a_log_that_was_trimmed_by_hand_is_not_in_sync(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        group.server._trim(a.position.id)  # XTRIM log MAXLEN 0
        log = group.faulty_log()
        log.deaf = True  # to what the primary sends it then
        b = group.node("b", log=log)
        assert (b.in_sync, str(b.position.id), code(b)) == (False, "0-0", "out_of_sync")
        # It asks for a snapshot: nothing is written that would show that it lacks something.
        eventually(lambda: group.server.state.entries)
        assert (b.in_sync, str(b.position.id), code(b)) == (False, "0-0", "out_of_sync")
        log.deaf = False
        in_step(a, b)
        eventually(lambda: code(b) == "")

    def test_it_is_not_ready_without_redis(self, group: Group) -> None:
        log = group.log()
        a, b = group.primary("a"), group.node("b", log=log)
        in_step(a, b)
        log.down = "cut off"
        eventually(lambda: code(b) == "log_unavailable")
        log.down = ""
        eventually(lambda: code(b) == "")

    def test_it_is_not_ready_when_its_disk_is_full(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)
        _fill_the_disk(b, monkeypatch)
        a.submit(push("x"))
        eventually(lambda: code(b) == "problem")
        assert "disk is full" in str(b.unready)
        monkeypatch.undo()
        in_step(a, b)
        eventually(lambda: code(b) == "")

    def test_one_that_reads_nothing_any_more_is_behind(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicator.node.health, "BEHIND_S_MAX", 0.2)
        log = group.faulty_log()
        a, b = group.primary("a"), group.node("b", log=log, beat_every_s=BEAT_S)
        in_step(a, b)
        eventually(lambda: code(b) == "")
        log.deaf = True
        a.submit(push("x"))
        eventually(lambda: code(b) == "behind")
        assert "1 record behind" in str(b.unready)
        log.deaf = False
        eventually(lambda: code(b) == "")

    def test_one_that_stalled_is_not_ready(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        in_step(a, b)

        def bug(change: Any) -> None:
            raise KeyError("a bug")

        b._setup.state.in_apply = bug
        a.submit(push("x"))
        eventually(lambda: code(b) == "stalled")

    def test_one_that_took_its_leave_for_good_is_not_ready(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b", beat_every_s=BEAT_S)
        in_step(a, b)
        a.stop()
        group.server.flush()
        lead(group.log(), "z", new_log_id="another")
        group.wake()
        eventually(lambda: b.failed is not None)
        assert code(b) == "failed"

    def test_a_new_node_may_be_promoted_before_it_has_read_a_log_that_is_whole(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        log = group.faulty_log()
        log.deaf = True
        b = group.node("b", log=log)
        eventually(lambda: {"a", "b"} <= {name for name, beat in group.server.look().heartbeats.items() if beat.alive})
        promoting = in_thread(lambda: ops.promote(group.log(), "b", by="ops", timeout_s=PATIENCE_S))
        try:
            eventually(lambda: group.server.state.term == 2)
        finally:
            log.deaf = False
            promoting()  # if it was refused, this says why
        b.wait(role="primary", timeout_s=PATIENCE_S)
        assert b.position.id > RecordId(1, 2)


def _fill_the_disk(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise CheckpointError(path=node.data_dir, problem="the disk is full")

    monkeypatch.setattr(node._running.checkpoint, "save", full)
