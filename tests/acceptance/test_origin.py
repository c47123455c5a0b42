"""What the service that this project grew out of did right, kept; and each of its holes, closed. One named test each.

It was a registry with a term in its snapshot: a standby compared the term of a snapshot that it was sent with its own,
and a promotion added one to it. The tests run the registry with its HTTP API over a log in memory.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator import CheckpointError, Fenced, Node, NotPrimary, RecordId, ops
from replicator.format.records import ChangeRecord, PartRecord, TermRecord, parse
from replicator.protocol.group import Code
from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.testing import MemoryLog
from tests.support.kv import PATIENCE_S, SHORT_LEASE_S, Group, eventually, in_step, in_thread

with warnings.catch_warnings():
    # Newer versions of Starlette would rather have httpx2.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.close()


def start(group: Group, name: str, **options: Any) -> Node:
    return group.node(name, state=Registry(), **options)


def lead(group: Group, name: str, **options: Any) -> Node:
    node = start(group, name, **options)
    node.promote(timeout_s=PATIENCE_S)
    return node


def client(node: Node) -> TestClient:
    return TestClient(registry_app(node), raise_server_exceptions=False, follow_redirects=False)


def register(node: Node, hostname: str) -> Any:
    return node.submit({"op": "register", "hostname": hostname, "public_key": hostname.encode().hex().ljust(8, "A")})


def hostnames(node: Node) -> list[str]:
    return [entry["hostname"] for entry in document(node)["nodes"].values()]


def document(node: Node) -> dict[str, Any]:
    value: dict[str, Any] = client(node).get("/v1/state").json()
    return value


class TestKept:
    def test_a_snapshot_carries_its_term_and_none_means_0(self, group: Group) -> None:
        a = start(group, "a")
        assert "term" not in document(a)
        a.promote()
        assert document(a)["term"] == 1
        before_terms = document(a)
        del before_terms["term"]
        answer = client(a).put("/v1/state", json=before_terms)
        assert answer.json()["applied"] is True
        assert document(a)["term"] == 1

    def test_a_promotion_raises_the_term_persists_it_at_once_and_logs_at_warning(
        self, group: Group, caplog: pytest.LogCaptureFixture
    ) -> None:
        a = lead(group, "a", lease_s=60.0)
        with caplog.at_level(logging.WARNING):
            assert a.promote() == 2
        assert [r.levelname for r in caplog.records if "term 2: a leads" in r.getMessage()] == ["WARNING"]
        log = MemoryLog(group.server)
        log.down = "off"
        again = start(group, "a", data_dir=group.crash(a), log=log)
        assert again.term == 2

    def test_a_stale_snapshot_is_a_logged_no_op_and_not_an_error(
        self, group: Group, caplog: pytest.LogCaptureFixture
    ) -> None:
        a = lead(group, "a")
        old = document(a)
        a.promote()
        register(a, "kept")
        before = a.position
        with caplog.at_level(logging.WARNING):
            answer = client(a).put("/v1/state", json=old)
        told = answer.json()
        assert "term 1 is over" in told.pop("message")
        assert (answer.status_code, told) == (200, {"applied": False, "term": 2})
        assert any(r.levelname == "WARNING" and "term 1 was not loaded" in r.getMessage() for r in caplog.records)
        assert (a.position, hostnames(a)) == (before, ["kept"])

    def test_an_applied_snapshot_moves_the_term(self, group: Group) -> None:
        a = lead(group, "a")
        for _ in range(4):
            a.promote()
        a.publish()
        a.publish()
        # Its term records are trimmed away: what it learns the term from is the snapshot itself.
        entries = group.server.state.entries
        assert all(isinstance(parse(str(e.id), e.header, e.body), PartRecord) for e in entries)
        b = start(group, "b")
        in_step(a, b)
        assert (b.term, document(b)["term"]) == (5, 5)

    def test_the_term_survives_a_cold_restart(self, group: Group) -> None:
        a, b = lead(group, "a"), start(group, "b")
        register(a, "x")
        b.promote()
        in_step(a, b)
        for node in (a, b):
            node.stop()
        log = MemoryLog(group.server)
        log.down = "off"
        again = [start(group, name, log=log) for name in "ab"]
        assert [node.term for node in again] == [2, 2]
        assert [hostnames(node) for node in again] == [["x"], ["x"]]

    def test_a_revived_old_primary_stays_up_and_serves_reads(self, group: Group) -> None:
        a, b = lead(group, "a"), start(group, "b", http="http://b")
        register(a, "x")
        as_left = group.crash(a)
        b.promote()
        register(b, "y")
        a = start(group, "a", data_dir=as_left, lease_s=SHORT_LEASE_S)
        in_step(a, b)
        assert (a.role, a.failed) == ("standby", None)
        assert document(a) == document(b)
        eventually(lambda: a.primary_http)
        answer = client(a).post("/v1/nodes", json={"hostname": "z", "public_key": "AAAA"})
        assert (answer.status_code, answer.headers["location"]) == (307, "http://b/v1/nodes")


class TestClosed:
    def test_a_term_is_no_local_counter_and_two_promotions_at_once_give_two_terms(self, group: Group) -> None:
        a, b = start(group, "a"), start(group, "b")
        terms = [
            in_thread(
                lambda node=node: (
                    node._running.ha_loop.candidate.take_term("at once", node._setup.log.look(), until=math.inf).term
                )
            )
            for node in (a, b) * 8
        ]
        assert sorted(term() for term in terms) == list(range(1, 17))
        eventually(lambda: (a.term, b.term) == (16, 16))
        assert {a.role, b.role} == {"primary", "standby"}

    def test_the_term_is_checked_and_the_record_added_in_one_step(self, group: Group) -> None:
        log = group.faulty_log()
        a = lead(group, "a", log=log)
        b = start(group, "b")

        def at_the_worst_moment(record: Any) -> Any:
            # After a checked that it leads, and before its record is in the log.
            b.promote()
            return log.execute(record)

        log.faults.append(at_the_worst_moment)
        with pytest.raises(Fenced):
            register(a, "x")
        in_step(a, b)
        assert hostnames(a) == hostnames(b) == []

    def test_an_equal_term_of_another_writer_is_not_accepted(self, group: Group) -> None:
        a, b = lead(group, "a"), start(group, "b")
        register(a, "x")
        in_step(a, b)
        record = group.log().find(a.position.id)
        assert isinstance(record, ChangeRecord)
        # By Redis: the term belongs to one boot of one node.
        twin = replace(record, id=RecordId(1, 3), prev=record.chain, node="z", boot="z", chain="f" * 32)
        assert group.log().append(twin).code is Code.FENCED
        # And by every reader, had it slipped through.
        with b._running.replica.write_lock:
            b._running.replica.take([twin])
        assert not b.in_sync
        assert hostnames(b) == ["x"]

    def test_a_reject_is_not_reported_as_applied(self, group: Group) -> None:
        a, b = lead(group, "a"), start(group, "b")
        old = document(a)
        b.promote()
        b.promote()
        assert client(b).put("/v1/state", json=old).json()["applied"] is False
        answer = client(b).post("/v1/nodes", json={"hostname": "x", "public_key": "not base64!"})
        assert answer.status_code == 422
        a.wait(role="standby", timeout_s=PATIENCE_S)
        with pytest.raises(NotPrimary):
            register(a, "x")
        assert hostnames(b) == []

    def test_a_promoted_node_does_not_stay_in_standby_mode(self, group: Group) -> None:
        lead(group, "a")
        b = start(group, "b")
        ops.promote(group.log(), "b", by="ops")
        assert b.role == "primary"
        assert client(b).post("/v1/nodes", json={"hostname": "x", "public_key": "AAAA"}).status_code == 201

    def test_an_old_primary_is_told(self, group: Group) -> None:
        a, b = lead(group, "a", lease_s=60.0), start(group, "b")
        b.promote()
        # Long before its lease would have to be renewed.
        a.wait(role="standby", position=str(b.position.id), timeout_s=PATIENCE_S)
        assert (a.term, a.lease_ms) == (2, None)
        with pytest.raises(NotPrimary, match="send them to b"):
            register(a, "x")

    def test_every_change_carries_its_term(self, group: Group) -> None:
        a, b = lead(group, "a"), start(group, "b")
        register(a, "x")
        b.promote()
        register(b, "y")
        records = list(ops.records(group.log()))
        assert [(type(r), r.id.term) for r in records] == [
            (TermRecord, 1), (ChangeRecord, 1), (TermRecord, 2), (ChangeRecord, 2),
        ]  # fmt: skip
        answer = client(b).post(
            "/v1/nodes", json={"hostname": "z", "public_key": "AAAA"}, headers={"Replicator-Term": "1"}
        )
        assert (answer.status_code, answer.json()["error"]) == (409, "stale_term")

    @pytest.mark.parametrize("fault", ["a directory in its place", "no right to read it"])
    def test_an_unreadable_disk_is_an_error_and_not_term_0(self, group: Group, fault: str) -> None:
        a = lead(group, "a")
        a.stop()
        path = a.data_dir / "checkpoint.sqlite"
        if fault == "a directory in its place":
            path.rename(path.with_suffix(".away"))
            path.mkdir()
        else:
            path.chmod(0)
            if _reads_anything(path):
                pytest.skip("this user may read everything")
        with pytest.raises(CheckpointError):
            start(group, "a")

    def test_a_damaged_checkpoint_is_set_aside_and_the_node_takes_no_term_before_it_read_the_log(
        self, group: Group
    ) -> None:
        a, b = lead(group, "a"), start(group, "b")
        register(a, "x")
        b.promote()
        a.stop()
        (a.data_dir / "checkpoint.sqlite").write_bytes(b"")
        a = start(group, "a", lease_s=SHORT_LEASE_S)
        in_step(a, b)
        assert (a.term, a.role, hostnames(a)) == (2, "standby", ["x"])

    def test_an_error_of_the_disk_is_not_swallowed(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        a, b = lead(group, "a"), start(group, "b", lease_s=SHORT_LEASE_S)

        def full(*args: Any, **options: Any) -> None:
            raise CheckpointError(path=b.data_dir, problem="database or disk is full")

        save = b._running.checkpoint.save
        monkeypatch.setattr(b._running.checkpoint, "save", full)
        register(a, "x")
        eventually(lambda: "disk is full" in b.problem)
        assert not b._running.replica.saved.is_flushed
        eventually(lambda: "disk is full" in str(ops.status(group.log()).nodes[-1].problem))
        monkeypatch.setattr(b._running.checkpoint, "save", save)
        in_step(a, b)
        assert hostnames(b) == ["x"]
        eventually(lambda: b._running.replica.saved.is_flushed and not b.problem)

    def test_a_huge_term_is_not_taken_over_from_anybody(self, group: Group) -> None:
        a, b = lead(group, "a"), start(group, "b")
        register(a, "x")
        answer = client(a).put("/v1/state", json=document(a) | {"term": 2**53 - 1})
        assert (answer.status_code, answer.json()["error"]) == (409, "unknown_term")
        answer = client(a).post("/v1/nodes", json={}, headers={"Replicator-Term": str(2**52)})
        assert (answer.status_code, answer.json()["error"]) == (409, "unknown_term")
        in_step(a, b)
        assert (a.term, b.term, document(b)["term"]) == (1, 1, 1)


def _reads_anything(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True
