"""What the log tells of its terms and of its records."""

from __future__ import annotations

from itertools import islice

import pytest

from replicator import RecordId, ReplicatorError, ops
from replicator.format.records import ChangeRecord, PartRecord, TermRecord
from tests.support.kv import Group, in_thread, push
from tests.support.paper import Paper


class TestHistory:
    def test_it_tells_of_each_term_who_why_and_how_much(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"))
        a.submit(push("y"))
        a.publish()
        ops.promote(group.log(), "b", by="ops", reason="maintenance")
        b.submit(push("z"))
        first, second = (term.to_dict() for term in ops.history(group.log()))
        assert first | {"first_written_at": 0} == {
            "term": 1, "holder": "a", "boot": a.boot, "run": "run-1", "by": "a's application",
            "reason": "asked by the application",
            "first_written_at": 0, "first_id": "1-1", "last_id": "1-4", "change_count": 2, "snapshot_count": 1,
            "skipped_id": None,
        }  # fmt: skip
        assert second["first_written_at"] >= first["first_written_at"] > 1_600_000_000_000
        assert second | {"first_written_at": 0} == {
            "term": 2, "holder": "b", "boot": b.boot, "run": "run-1", "by": "ops", "reason": "maintenance",
            "first_written_at": 0, "first_id": "2-5", "last_id": "2-6", "change_count": 1, "snapshot_count": 0,
            "skipped_id": None,
        }  # fmt: skip

    def test_of_a_term_whose_own_record_is_trimmed_nobody_knows_why_it_was_taken(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        a.publish()
        a.publish()
        (term,) = ops.history(group.log())
        assert (term.holder, term.run, term.by, term.reason) == ("a", None, None, None)
        assert term.first_id != "1-1"

    def test_of_a_group_without_a_log_it_is_empty(self, paper: Paper) -> None:
        assert ops.history(paper.log) == []


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
