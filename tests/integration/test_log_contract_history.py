"""The contract of a log (test_log_contract.py), of the history: every act is told in the step that does it, once."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from replicator.format.acts import encode_version
from replicator.format.ids import RecordId
from replicator.format.records import seal_change
from replicator.log.interface import Log
from replicator.protocol.election import NOBODY
from replicator.protocol.group import Claim, Code
from replicator.protocol.history import HISTORY_KEPT, TEXT_BYTES_MAX, History, HistoryEntry, merged
from tests.support.worlds import Author, World, head_of, lead, promote


def told(log: Log) -> list[HistoryEntry]:
    """All of the history, as it was written."""
    entries: list[HistoryEntry] = []
    page = log.history()
    while page.entries:
        entries += page.entries
        page = log.history(page.end)
    return entries


def last(log: Log) -> HistoryEntry:
    return told(log)[-1]


def ended(log: Log) -> tuple[str | None, int | None, str | None]:
    entry = last(log)
    return entry.ended, entry.ended_term, entry.ended_node


def demote(log: Log) -> None:
    claim = Claim(writer=NOBODY, floor=0, lease_ms=1, by="ann", reason="", what="demote")
    assert log.promote(claim).code is Code.OK


# --- what is told -----------------------------------------------------------------------------------------------------


def test_a_group_without_a_log_has_no_history(log: Log) -> None:
    assert log.history() == ([], "")


def test_the_founding_is_the_first_entry(log: Log) -> None:
    promote(log, "a", boot="a1", by="ann", reason='planned: "move" to /b\n✓')
    look, (entry,) = log.look(), told(log)
    assert entry == HistoryEntry(
        what="found", term=1, number=1, at=entry.at, node="a", boot="a1", by="ann",
        reason='planned: "move" to /b\n✓', run=look.run, id="1-1",
    )  # fmt: skip
    assert entry.at is not None
    assert 0 <= look.now_ms - entry.at < 60_000, "by the clock of Redis"
    assert look.head is not None
    assert (look.head.history_count, look.head.since) == (1, entry.at)


def test_every_act_is_told_with_who_and_why_and_is_counted(log: Log) -> None:
    author = lead(log, "a")
    log.pause("by ann: moving", by="ann", reason="moving")
    log.pause("", by="bob", reason="moved")
    log.forget("z", by="ann", reason="scrapped")
    log.reinit("b", by="ann")
    log.give_back(author.writer, 1)
    entries = told(log)
    assert [(each.what, each.number, each.term) for each in entries] == [
        ("found", 1, 1), ("pause", 2, 1), ("resume", 3, 1), ("forget", 4, 1), ("reinit", 5, 1), ("stop", 6, 1),
    ]  # fmt: skip
    assert [(each.node, each.by, each.reason) for each in entries[1:]] == [
        (None, "ann", "moving"), (None, "bob", "moved"), ("z", "ann", "scrapped"), ("b", "ann", None),
        ("a", "a", "it stopped in order"),
    ]  # fmt: skip
    assert head_of(log).history_count == 6


def test_a_request_to_rebuild_a_node_is_read_like_any_other(log: Log) -> None:
    lead(log, "a")
    since = log.newest_request()
    id_ = log.reinit("b", by="ann")
    (request,) = log.read(None, requests_after=since).requests
    assert (request.id, request.what, request.node, request.by) == (id_, "reinit", "b", "ann")


def act(author: Author, version: int, before: int) -> Code:
    codec, body, digest = encode_version(version, before=before, by="ann")
    record = seal_change(
        writer=author.writer, term=author.term, after=author.position, at=0, codec=codec, digest=digest, count=1,
        body=body, version=version,
    )  # fmt: skip
    return author._sent(record, author.log.append(record)).code


def test_a_version_is_told_once_however_often_its_record_is_sent(log: Log) -> None:
    author = lead(log, "a")
    before = author.position
    assert act(author, 2, 1) is Code.OK
    author.position = before
    assert act(author, 2, 1) is Code.DUPLICATE
    assert [(each.what, each.version, each.by, each.id) for each in told(log)[1:]] == [("finalize", 2, "ann", "1-2")]


def test_records_of_an_application_are_not_told(log: Log) -> None:
    author = lead(log, "a")
    author.append()
    author.snapshot()
    log.renew(author.writer, 1, 1000)
    assert len(told(log)) == 1


def test_a_promotion_is_what_its_claim_or_the_log_says(log: Log) -> None:
    lead(log, "a", by="ann")
    lead(log, "b", by="b")
    lead(log, "a", by="ann", what="switchover")
    lead(log, "b", by="ann", forced=True)
    demote(log)
    assert [(each.what, each.forced) for each in told(log)] == [
        ("found", False), ("takeover", False), ("switchover", False), ("promote", True), ("demote", False),
    ]  # fmt: skip


def test_what_is_refused_is_not_told(world: World, log: Log) -> None:
    author = lead(log, "a")
    assert promote(log, "b", expect=7).code is Code.CONFLICT
    assert promote(log, "b", unleased=True).code is Code.CONFLICT
    log.give_back(author.writer._replace(boot="another"), 1)
    assert len(told(log)) == 1
    world.drop("head")
    assert log.pause("by ann", by="ann").code is Code.LOST
    assert len(told(log)) == 1


def test_of_two_promotions_at_once_that_depend_on_one_look_one_is_told(world: World, log: Log) -> None:
    lead(log, "a")
    logs = [world.log() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda each: promote(each[1], f"n{each[0]}", expect=1), enumerate(logs)))
    (won,) = [reply for reply in replies if reply.code is Code.OK]
    assert [(each.term, each.id) for each in told(log)[1:]] == [(2, str(won.id))]


def test_of_promotions_at_once_each_is_told_once_and_in_order(world: World, log: Log) -> None:
    lead(log, "a")
    logs = [world.log() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        terms = sorted(reply.term for reply in pool.map(lambda each: promote(each, "b"), logs))
    assert [each.term for each in told(log)[1:]] == terms == [2, 3, 4, 5]
    assert [each.ended_term for each in told(log)[1:]] == [1, 2, 3, 4]


# --- how a term ended -------------------------------------------------------------------------------------------------


def test_a_holder_that_gave_its_lease_back_stopped(world: World, log: Log) -> None:
    author = lead(log, "a")
    log.give_back(author.writer, 1)
    stopped_at = last(log).at
    assert head_of(log).left == stopped_at
    world.fail_over(world.copy())  # whatever comes then
    lead(world.log(), "b")
    entry = last(world.log())
    assert (entry.ended, entry.ended_term, entry.ended_node, entry.ended_at) == ("stopped", 1, "a", stopped_at)
    assert entry.lasted_ms is not None
    assert entry.ended_at is not None
    assert 0 <= entry.lasted_ms < 60_000


def test_a_lease_that_somebody_gave_back_for_a_dead_holder_is_told_once_and_as_that(log: Log) -> None:
    author = lead(log, "a", boot="a1")
    since = log.newest_request()
    log.give_back(author.writer, 1, by="its supervisord")
    log.give_back(author.writer, 1, by="its supervisord")
    log.give_back(author.writer, 1)
    _, entry = told(log)
    assert entry == HistoryEntry(
        what="release", term=1, number=2, at=entry.at, node="a", boot="a1", by="its supervisord",
        reason="its process has ended",
    )  # fmt: skip
    assert (head_of(log).left, head_of(log).history_count) == (0, 2), "it did not stop in order"
    (request,) = log.read(None, requests_after=since).requests
    assert (request.what, request.node, request.by) == ("vacant", "a", "its supervisord")


@pytest.mark.parametrize(
    ("node", "claim"),
    [("b", {}), ("b", {"what": "switchover"}), ("a", {"boot": "2"}), ("b", {"ended": "stepped down"})],
    ids=["another node", "a switchover", "its next boot", "a caller that saw something else"],
)
def test_a_holder_whose_lease_was_given_back_for_it_crashed_then(log: Log, node: str, claim: dict[str, Any]) -> None:
    author = lead(log, "a", boot="1")
    log.give_back(author.writer, 1, by="ann")
    gone_at = last(log).at
    lead(log, node, **claim)
    entry = last(log)
    assert (entry.ended, entry.ended_term, entry.ended_node, entry.ended_at) == ("crashed", 1, "a", gone_at)
    assert entry.lasted_ms is not None
    assert 0 <= entry.lasted_ms < 60_000


def test_it_crashed_whatever_becomes_of_redis_then(world: World, log: Log) -> None:
    author = lead(log, "a")
    log.give_back(author.writer, 1, by="ann")
    gone_at = last(log).at
    world.fail_over(world.copy())
    lead(world.log(), "b")
    assert (*ended(world.log()), last(world.log()).ended_at) == ("crashed", 1, "a", gone_at)


def test_a_demotion_of_a_holder_that_is_dead_says_that_it_crashed(log: Log) -> None:
    author = lead(log, "a")
    log.give_back(author.writer, 1, by="ann")
    demote(log)
    assert ended(log) == ("crashed", 1, "a")


def test_a_lease_that_was_given_back_in_an_older_term_says_nothing_of_a_newer_one(log: Log) -> None:
    author = lead(log, "a")
    log.give_back(author.writer, 1, by="ann")
    author = lead(log, "b")
    lead(log, "a")
    assert ended(log) == ("fenced", 2, "b")
    log.give_back(author.writer, 2, by="ann")  # late
    assert len(told(log)) == 4
    lead(log, "b")
    assert ended(log) == ("fenced", 3, "a")


def test_a_lease_that_outlived_its_head_is_given_back_and_not_told(world: World, log: Log) -> None:
    author = lead(log, "a")
    world.drop("head")
    log.give_back(author.writer, 1, by="ann")
    assert [each.what for each in told(log)] == ["found"]


def test_a_holder_whose_lease_runs_is_fenced(log: Log) -> None:
    lead(log, "a")
    lead(log, "b")
    assert ended(log) == ("fenced", 1, "a")
    entry = last(log)
    assert entry.ended_at is not None
    assert entry.at is not None
    assert 0 <= entry.at - entry.ended_at < 60_000


def test_a_holder_that_was_asked_for_it_stepped_down(log: Log) -> None:
    lead(log, "a")
    lead(log, "b", what="switchover")
    assert ended(log) == ("stepped down", 1, "a")
    demote(log)
    assert ended(log) == ("stepped down", 2, "b")
    lead(log, "a")
    assert ended(log) == (None, None, None), "nobody held the term"


def test_a_holder_without_a_lease_is_what_the_caller_saw_of_it(log: Log) -> None:
    lead(log, "a", lease_ms=1)
    time.sleep(0.01)
    lead(log, "b", lease_ms=1)
    assert ended(log) == ("lease ran out", 1, "a")
    time.sleep(0.01)
    lead(log, "c", ended="crashed")
    assert ended(log) == ("crashed", 2, "b")


def test_a_lease_that_ran_out_by_the_clock_of_the_caller_does_not_run(log: Log) -> None:
    lead(log, "a")
    lead(log, "b", expired=log.look().lease)
    assert ended(log) == ("lease ran out", 1, "a")


def test_another_boot_of_the_holder_says_that_it_crashed(log: Log) -> None:
    lead(log, "a", boot="1")
    lead(log, "a", boot="2")
    assert ended(log) == ("crashed", 1, "a")
    lead(log, "a", boot="2")
    assert ended(log) == ("stepped down", 2, "a")


def test_a_run_that_is_over_ended_its_term(world: World, log: Log) -> None:
    lead(log, "a")
    world.fail_over(world.copy())
    lead(world.log(), "b")
    assert ended(world.log()) == ("run changed", 1, "a")


def test_a_log_that_is_founded_anew_ended_the_term_of_the_lost_one(world: World, log: Log) -> None:
    lead(log, "a")
    world.drop("log")
    lead(log, "b", anew=True, what="recover")
    assert (last(log).what, *ended(log)) == ("recover", "log lost", 1, "a")
    assert [each.number for each in told(log)] == [1, 2], "the count is that of the head that was left"


def test_since_is_when_the_newest_term_was_taken(log: Log) -> None:
    for name in "ab":
        author = lead(log, name)
        author.append()
        author.snapshot()
        author.snapshot()
        log.pause("by ann", by="ann")
        assert head_of(log).since == next(each.at for each in told(log) if each.node == name)


# --- what it outlives -------------------------------------------------------------------------------------------------


def test_nothing_of_it_is_lost_when_the_log_is_trimmed(log: Log) -> None:
    author = lead(log, "a")
    lead(log, "b")
    author = lead(log, "c")
    for _ in range(3):
        author.snapshot()
    assert log.find(RecordId(3, 3)) is None, "the log tells nothing of its terms any more"
    assert [each.node for each in told(log)] == ["a", "b", "c"]
    head = head_of(log)
    assert History.of(told(log), count=head.history_count, term=head.term).complete


def test_it_keeps_so_many_and_no_more(log: Log) -> None:
    lead(log, "a")
    for i in range(HISTORY_KEPT):
        log.pause(f"{i}", by=f"{i}")
    entries = told(log)
    assert len(entries) == HISTORY_KEPT == 10_000
    assert (entries[0].by, entries[-1].by) == ("0", "9999")
    found = History.of(entries, count=head_of(log).history_count, term=1)
    assert not found.complete, "the founding is gone"


def test_a_long_reason_is_cut_at_the_end_of_a_character(log: Log) -> None:
    lead(log, "a", reason="x" + "ä" * TEXT_BYTES_MAX)
    reason = last(log).reason
    assert reason is not None
    assert set(reason[1:]) == {"ä"}
    assert TEXT_BYTES_MAX - 4 <= len(reason.encode()) <= TEXT_BYTES_MAX


def test_the_place_of_an_entry_leads_on_to_the_next(log: Log) -> None:
    lead(log, "a")
    first = log.history(count=1)
    log.pause("by ann", by="ann")
    second = log.history(first.end, count=1)
    assert ([each.what for each in first.entries], [each.what for each in second.entries]) == (["found"], ["pause"])
    assert log.history(second.end) == ([], second.end)


# --- what Redis lost is put back --------------------------------------------------------------------------------------


def test_what_was_lost_is_put_back_and_marked(world: World, log: Log) -> None:
    lead(log, "a")
    log.pause("by ann", by="ann", reason="✓")
    before = told(log)
    world.flush()
    lead(log, "b", floor=5, what="recover")
    end = log.history().end
    assert log.refill_history(before, end=end, node="b") == log.history().end
    after = told(log)
    assert [each.what for each in after] == ["recover", "found", "pause"]
    assert after[1:] == [replace(each, restored_by="b") for each in before]
    assert [each.what for each in merged(after, before)] == ["found", "pause", "recover"]


def test_it_is_put_back_only_where_nothing_was_written_since(world: World, log: Log) -> None:
    lead(log, "a")
    before = told(log)
    world.flush()
    assert log.refill_history(before, end="7-0", node="a") is None
    assert log.refill_history(before, end="", node="a") is not None
    assert log.refill_history(before, end="", node="b") is None, "another node was faster"
    assert told(log) == [replace(each, restored_by="a") for each in before]


def test_what_is_put_back_again_is_marked_with_who_did_it_last(world: World, log: Log) -> None:
    lead(log, "a")
    before = told(log)
    world.flush()
    log.refill_history(before, end="", node="a")
    once = told(log)
    world.flush()
    log.refill_history(once, end="", node="b")
    assert [each.restored_by for each in told(log)] == ["b"]


# --- without a log ----------------------------------------------------------------------------------------------------


def test_what_is_done_while_there_is_no_log_is_told_without_a_number(log: Log) -> None:
    log.forget("z", by="ann")
    (entry,) = told(log)
    assert (entry.what, entry.node, entry.number, entry.term) == ("forget", "z", 0, 0)
    lead(log, "a")
    assert [each.what for each in merged(told(log))] == ["forget", "found"]


def test_no_head_is_made_for_it(log: Log) -> None:
    log.forget("z", by="ann")
    assert log.look().head is None
    assert log.pause("by ann", by="ann").code is Code.LOST
