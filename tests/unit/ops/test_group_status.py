"""What is said of a group and its nodes, and of what is wrong with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replicator import DictState, RecordId, ops, put
from replicator.log.interface import LogSize
from replicator.ops import diagnosis
from replicator.testing import Cluster, MemoryLog
from tests.support.kv import LEASE_S, PATIENCE_S, Group, eventually, in_step, push
from tests.support.paper import Paper, at


class TestStatus:
    def test_it_has_the_fields_that_programs_rely_on(self, group: Group) -> None:
        a, b = group.primary("a", http="http://a"), group.node("b")
        a.submit(push("x"))
        in_step(a, b)

        def all_reported() -> dict[str, Any] | None:
            group.wake()
            now = ops.status(group.log()).to_dict()
            told = [(node["position"], node["lag_records"], node["ready"]) for node in now["nodes"]]
            return now if told == [("1-2", 0, True)] * 2 else None

        told = eventually(all_reported)
        assert list(told) == [
            "group", "log_id", "run", "term", "holder", "last_id", "lease_ms", "record_count", "log_bytes",
            "snapshot_bytes", "changes_bytes", "kept_bytes", "nodes", "problem", "warnings", "app", "version",
            "since_at", "codes", "problems", "era",
        ]  # fmt: skip
        assert told["since_at"] == ops.history(group.log()).entries[0].at
        sizes = {"log_bytes": 1, "changes_bytes": 1, "kept_bytes": 1, "since_at": 1}
        assert told | {"nodes": [], "log_id": "", "lease_ms": 1} | sizes == {
            "group": "memory",
            "log_id": "",
            "run": "run-1",
            "term": 1,
            "holder": "a",
            "last_id": "1-2",
            "lease_ms": 1,
            "record_count": 2,
            **sizes,
            "snapshot_bytes": 0,
            "nodes": [],
            "problem": None,
            "warnings": [],
            "app": "kv",
            "version": 1,
            "since_at": 1,
            "codes": [],
            "problems": [],
            "era": 1,
        }
        (change,) = (entry for entry in group.server.state.entries if str(entry.id) == "1-2")
        weight = len(change.header or b"") + len(change.body or b"")
        assert (told["changes_bytes"], told["kept_bytes"]) == (weight, weight)
        assert told["log_bytes"] > weight  # fmt: skip
        assert len(told["log_id"]) == 32
        assert 0 < told["lease_ms"] <= 1000 * LEASE_S
        ages = [node.pop("age_ms") for node in told["nodes"]]
        assert all(0 <= age < 1000 * PATIENCE_S for age in ages)
        assert told["nodes"][0] == {
            "node": "a", "boot": a.boot, "role": "primary", "term": 1, "position": "1-2", "lag_records": 0,
            "lag_ms": 0, "in_sync": True, "alive": True, "http": "http://a", "problem": None,
            "version": 1, "reads_min": 1, "reads_max": 1,
            "behind_ms": 0,
            "diverged_id": None, "leads": True, "ready": True, "codes": [], "candidate": False, "last_error": None,
            "last_error_at": None, "fork_count": 0, "fork_id": None, "stale_count": 0, "kept_count": 0,
            "has_program": False,
        }  # fmt: skip
        assert told["nodes"][1] | {"boot": ""} == {
            "node": "b", "boot": "", "role": "standby", "term": 1, "position": "1-2", "lag_records": 0,
            "lag_ms": 0, "in_sync": True, "alive": True, "http": None, "problem": None,
            "version": 1, "reads_min": 1, "reads_max": 1,
            "behind_ms": 0,
            "diverged_id": None, "leads": False, "ready": True, "codes": [], "candidate": False, "last_error": None,
            "last_error_at": None, "fork_count": 0, "fork_id": None, "stale_count": 0, "kept_count": 0,
            "has_program": False,
        }  # fmt: skip

    def test_of_a_group_that_is_not_there_yet(self, paper: Paper) -> None:
        told = ops.status(paper.log).to_dict()
        assert told == {
            "group": "g", "log_id": None, "run": "run-1", "term": 0, "holder": None, "last_id": None, "lease_ms": None,
            "record_count": None, "log_bytes": None, "snapshot_bytes": None, "changes_bytes": None, "kept_bytes": None,
            "nodes": [], "problem": None, "warnings": [], "app": None, "version": None, "since_at": None, "codes": [],
            "problems": [], "era": 1,
        }  # fmt: skip

    def test_what_snapshots_and_changes_weigh_is_what_a_live_primary_says(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", role="primary", snapshot_bytes=900, changes_bytes=20, kept_bytes=70)
        paper.beat("b", snapshot_bytes=1, changes_bytes=2, kept_bytes=3)
        now = ops.status(paper.log)
        assert (now.snapshot_bytes, now.changes_bytes, now.kept_bytes) == (900, 20, 70)
        paper.now_ms += 3001
        paper.beat("b", snapshot_bytes=1, changes_bytes=2, kept_bytes=3)
        now = ops.status(paper.log)
        assert (now.snapshot_bytes, now.changes_bytes, now.kept_bytes) == (None, None, None)
        assert now.record_count == 1

    def test_the_changes_in_the_log_are_no_more_than_the_log(self, paper: Paper) -> None:
        # given a primary that was restarted: it says what there may be
        paper.take_term("a")
        paper.beat("a", role="primary", snapshot_bytes=900, changes_bytes=200, kept_bytes=8_000_000)
        look = paper.log.look()
        assert ops.status_of("g", look, LogSize(10, 5000)).kept_bytes == 5000
        assert ops.status_of("g", look, LogSize(10, 9_000_000)).kept_bytes == 8_000_000
        assert ops.status_of("g", look, LogSize(None, None)).kept_bytes == 8_000_000

    def test_a_node_behind_shows_by_how_much_and_since_when(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b", position=at(0, 0), applied_at=int(paper.now_ms) - 2500)
        (node,) = ops.status(paper.log).nodes
        assert (node.lag_records, node.lag_ms) == (1, 2500)

    def test_the_lag_of_a_dead_node_is_not_known(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b", position=at(0, 0))
        paper.now_ms += 3001
        (node,) = ops.status(paper.log).nodes
        assert (node.alive, node.lag_records, node.lag_ms) == (False, None, None)

    def test_a_node_ahead_of_the_log_says_so_and_its_lag_is_not_known(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("b", position=at(1, 9))
        (node,) = ops.status(paper.log).nodes
        assert (node.lag_records, node.problem) == (None, "ahead of the log")

    def test_whoever_says_it_leads_and_does_not_hold_the_term_is_a_standby(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.beat("a", role="primary", boot="a-0")
        paper.beat("b", role="primary")
        assert [node.role for node in ops.status(paper.log).nodes] == ["standby", "standby"]
        paper.beat("a", role="primary")
        assert [node.role for node in ops.status(paper.log).nodes] == ["primary", "standby"]

    def test_in_another_run_nobody_holds_the_term(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.server.fail_over(paper.server.state, run="run-2")
        now = ops.status(paper.log)
        assert now.holder is None
        assert "another run" in str(now.problem)

    def test_a_term_key_without_a_log_is_a_problem(self, paper: Paper) -> None:
        paper.server.state = replace(paper.server.state, term=5)
        assert "Redis lost the log" in str(ops.status(paper.log).problem)

    def test_a_stray_record_is_a_problem_with_its_id(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.server.stray(RecordId(1_700_000_000_000, 0))
        assert "1700000000000-0" in str(ops.status(paper.log).problem)

    def test_an_entry_that_is_no_heartbeat_hides_nobody(self, paper: Paper) -> None:
        paper.beat("a")
        state = paper.server.state
        paper.server.state = replace(state, beats=(*state.beats, ("z", paper.now_ms, b"not json")))
        assert [node.node for node in ops.status(paper.log).nodes] == ["a"]


def test_nothing_is_said_of_a_group_that_was_idle_and_writes_again_or_was_restarted() -> None:
    """The first write after a while, and the first look after it: the standbys have not reported since."""
    with Cluster(3, DictState) as cluster:
        log = MemoryLog(cluster.redis, cluster.primary.group)
        cluster.advance(600)
        cluster.submit(put("x", 1))
        assert ops.status(log).warnings == []
        # when the primary is restarted, and writes at once
        cluster.advance(600)
        cluster.kill("a")
        cluster.restart("a")
        cluster.settle().submit(put("x", 2))
        assert ops.status(log).warnings == []


def test_a_standby_that_reads_nothing_any_more_is_told_by_itself(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "BEHIND_MS_MAX", 200)
    log = group.faulty_log()
    a, b = group.primary("a"), group.node("b", log=log)
    in_step(a, b)

    def warned() -> list[str]:
        group.wake()
        return [line for line in ops.status(group.log()).warnings if "behind, and has been" in line]

    log.deaf = True
    a.submit(push("x"))
    assert eventually(warned)[0].startswith("node b: it is 1 record behind, and has been for")
    log.deaf = False
    eventually(lambda: not warned())
