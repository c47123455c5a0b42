"""What a Redis user may do, and in which words that is told."""

from __future__ import annotations

import pytest

from replicator.log import rights
from replicator.log.rights import Rights, missing_to_follow


def test_without_what_only_a_primary_needs_a_node_may_follow() -> None:
    assert missing_to_follow(["set", "xtrim"]) == []
    assert missing_to_follow(["set", "hset"]) == ["set", "hset"], "all are named together"
    assert missing_to_follow([]) == []


def test_it_says_who_lacks_what_and_what_prints_it() -> None:
    mine = Rights("ann", "g")
    assert mine.found([]) == mine.follows_only == ""
    assert mine.found(["xtrim"]) == (
        "the Redis user ann may not use xtrim, which a primary has to: `ACL SETUSER ann +xtrim`; "
        "`replicator --group g acl node` prints all that it takes"
    )
    assert "may not write to the log, the term and the lease" in mine.found(None)


def test_what_was_found_holds_until_redis_is_another_one_or_refuses_something(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Rights("ann", "g")
    mine.in_run(b"1")
    assert not mine.are_known
    mine.found([])
    mine.in_run(b"1")
    assert mine.are_known
    mine.in_run(b"2")
    assert not mine.are_known
    mine.found([])
    assert "`ACL SETUSER ann +get`" in mine.refused("+get")
    assert not mine.are_known
    monkeypatch.setattr(rights, "AGAIN_S_MAX", 0.0)
    other = Rights("ann", "g")
    other.found(["set"])
    assert not other.are_known, "he may have been given the right"
