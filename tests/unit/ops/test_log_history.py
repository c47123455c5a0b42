"""What the log tells of its terms and of its records."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from replicator import RecordId, ReplicatorError, ops
from replicator.format.ids import Writer
from replicator.format.records import ChangeRecord, PartRecord, TermRecord
from replicator.log.memory_history import MemoryHistory
from replicator.protocol.group import Claim
from replicator.protocol.history import History
from tests.support.kv import PATIENCE_S, Group, in_thread, push
from tests.support.nodes import reported
from tests.support.paper import Paper


def as_if_old(group: Group) -> None:
    """The group was there before there was a history."""
    with group.server.changed:
        group.server.state = replace(group.server.state, history=MemoryHistory())


class TestHistory:
    def test_it_tells_of_each_term_who_took_it_why_and_how_the_one_before_ended(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        reported(group, b)
        ops.promote(group.log(), "b", by="ops", reason="maintenance", timeout_s=PATIENCE_S)
        found = ops.history(group.log())
        first, second = (entry.to_dict() for entry in found.entries)
        of_both = {
            "forced": False,
            "version": None,
            "restored_by": None,
            "from_log": False,
            "run": "run-1",
            "skipped_id": None,
        }
        of_none = dict.fromkeys(("ended", "ended_term", "ended_node", "ended_at", "lasted_ms"))
        assert first == of_both | of_none | {
            "what": "found", "term": 1, "number": 1, "at": first["at"], "node": "a", "boot": a.boot,
            "by": "a's application", "reason": "asked by the application", "id": "1-1",
        }  # fmt: skip
        assert second == of_both | {
            "what": "promote", "term": 2, "number": 2, "at": second["at"], "node": "b", "boot": b.boot, "by": "ops",
            "reason": "maintenance", "id": "2-2", "ended": "fenced", "ended_term": 1, "ended_node": "a",
            "ended_at": second["ended_at"], "lasted_ms": second["ended_at"] - first["at"],
        }  # fmt: skip
        assert second["at"] >= first["at"] > 1_600_000_000_000
        assert (found.complete, found.complete_since_at) == (True, first["at"])

    def test_after_a_trim_since_when_who_and_why_are_what_they_were(self, group: Group) -> None:
        a = group.primary("a")
        before = ops.history(group.log())
        since_at = ops.status(group.log()).since_at
        a.submit(push("x"))
        a.publish()
        a.publish()
        assert group.log().find(RecordId(1, 1)) is None
        assert ops.history(group.log()) == before
        assert ops.status(group.log()).since_at == since_at == before.entries[0].at

    def test_acts_of_an_operator_are_told(self, group: Group) -> None:
        group.primary("a")
        ops.pause(group.log(), by="ann", reason="moving")
        ops.resume(group.log(), by="bob")
        ops.demote(group.log(), by="ann", reason="enough")
        entries = ops.history(group.log()).entries[1:]
        assert [(each.what, each.by, each.reason) for each in entries] == [
            ("pause", "ann", "moving"), ("resume", "bob", None), ("demote", "ann", "enough"),
        ]  # fmt: skip
        assert ops.status(group.log()).holder is None

    def test_of_a_group_without_a_log_it_is_empty(self, paper: Paper) -> None:
        assert ops.history(paper.log) == History(complete=False, complete_since_at=None, entries=[])


class TestAGroupThatWasThereBefore:
    def test_the_log_tells_of_a_change_that_it_went_on_without(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        claim = Claim(writer=Writer("b", "1"), floor=0, lease_ms=1, by="ann", reason="poison", skip=a.position.id)
        group.log().promote(claim)
        as_if_old(group)
        entry = ops.history(group.log()).entries[-1]
        assert (entry.what, entry.skipped_id, entry.from_log) == ("skip", str(claim.skip), True)

    def test_the_log_tells_of_its_terms(self, group: Group) -> None:
        group.primary("a")
        as_if_old(group)
        (entry,) = ops.history(group.log()).entries
        assert (entry.what, entry.term, entry.node, entry.by, entry.from_log) == (
            "promote",
            1,
            "a",
            "a's application",
            True,
        )
        assert entry.reason == "asked by the application"
        assert ops.status(group.log()).since_at is None, "not known, and no guess"

    def test_of_a_term_whose_own_record_is_trimmed_nobody_knows_when_and_why_it_was_taken(self, group: Group) -> None:
        a = group.primary("a")
        as_if_old(group)
        a.submit(push("x"))
        a.publish()
        a.publish()
        found = ops.history(group.log())
        (entry,) = found.entries
        assert (entry.node, entry.at, entry.by, entry.reason) == ("a", None, None, None)
        assert (found.complete, found.complete_since_at) == (False, None)

    def test_it_is_complete_since_the_first_act_that_was_told(self, group: Group) -> None:
        group.primary("a")
        as_if_old(group)
        reported(group, group.node("b"))
        ops.promote(group.log(), "b", by="ops", timeout_s=PATIENCE_S)
        found = ops.history(group.log())
        assert [(entry.term, entry.from_log) for entry in found.entries] == [(1, True), (2, False)]
        assert (found.complete, found.complete_since_at) == (False, found.entries[1].at)
        assert (found.entries[1].ended_term, found.entries[1].lasted_ms) == (1, None)

    def test_a_term_that_an_older_program_took_is_filled_in_from_the_log(self, group: Group) -> None:
        group.primary("a")
        reported(group, group.node("b"))
        state = group.server.state
        ops.promote(group.log(), "b", by="ops", timeout_s=PATIENCE_S)
        with group.server.changed:
            group.server.state = replace(group.server.state, history=state.history)
        assert [(entry.term, entry.from_log) for entry in ops.history(group.log()).entries] == [(1, False), (2, True)]
        assert ops.status(group.log()).since_at is None
        ops.demote(group.log(), by="ops")
        found = ops.history(group.log())
        assert [(entry.term, entry.from_log) for entry in found.entries] == [(1, False), (2, True), (3, False)]
        assert (found.complete, found.complete_since_at) == (False, found.entries[2].at)


class TestRecords:
    def test_they_come_in_order_and_from_where_one_likes(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        a.publish()
        records = list(ops.records(group.log()))
        assert [type(record) for record in records] == [TermRecord, ChangeRecord, PartRecord]
        assert [str(record.id) for record in ops.records(group.log(), after=RecordId(1, 1))] == ["1-2", "1-3"]

    def test_more_than_one_batch_is_read(self, group: Group) -> None:
        a = group.primary("a")
        for i in range(80):
            a.submit(push(i))
        assert [record.id.n for record in ops.records(group.log())] == list(range(1, 82))

    def test_those_to_come_are_followed(self, group: Group) -> None:
        a = group.primary("a")
        follow = ops.records(group.log(), follow=True)
        followed = in_thread(lambda: [str(record.id) for record in islice(follow, 3)])
        a.submit(push("x"))
        a.submit(push("y"))
        assert followed() == ["1-1", "1-2", "1-3"]

    def test_at_something_else_they_end_with_an_error(self, paper: Paper) -> None:
        paper.take_term("a")
        paper.server.stray(RecordId(1_700_000_000_000, 0))
        records = ops.records(paper.log)
        assert str(next(records).id) == "1-1"
        with pytest.raises(ReplicatorError, match="1700000000000-0"):
            next(records)
