"""The contract of a log, kept by its twin in memory and by every Redis at hand. Each guarantee is named where it shows.

What only a network or a real server can do to a client stands in `test_log_faults.py`.
"""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from replicator.errors import ConfigError, CorruptRecord, LogUnavailable, OutcomeUnknown
from replicator.format.codec import encode_changes
from replicator.format.ids import ERA, N_LEAP, TERM_LEAP, TERM_MAX, ZERO_CHAIN, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import ChangeRecord, PartRecord, TermRecord, seal_change, seal_part
from replicator.log.interface import Ack, Batch, Log
from replicator.log.redis_log import RedisLog, client_for
from replicator.protocol.group import TAKEN_KEPT, Code, Head, LeaseText, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.worlds import (
    CLOCK_ID,
    LOG_ID,
    Author,
    MemoryWorld,
    RedisWorld,
    World,
    ids,
    lead,
    looked,
    promote,
)


@pytest.fixture
def log(world: World) -> Log:
    return world.log()


# --- promote ---------------------------------------------------------------------------------------------------------


def test_a_log_is_founded_only_with_a_new_log_id(world: World, log: Log) -> None:
    assert promote(log, new_log_id="") == Reply(Code.LOST)
    assert log.look().head is None
    assert promote(log, new_log_id=LOG_ID) == Reply(Code.OK, term=1, id=RecordId(1, 1))


def test_a_promotion_opens_its_term_with_a_term_record(log: Log) -> None:
    before_ms = int(time.time() * 1000) - 1000
    promote(log, "a", boot="a1", by="ann", reason='planned: "move" to /b\n✓')
    record = log.find(RecordId(1, 1))
    assert isinstance(record, TermRecord)
    assert (record.node, record.boot, record.prev) == ("a", "a1", ZERO_CHAIN)
    assert (record.log_id, record.by, record.reason) == (LOG_ID, "ann", 'planned: "move" to /b\n✓')
    assert record.run == log.look().run
    assert before_ms <= record.at <= before_ms + 60_000


def test_a_promotion_moves_the_head_and_the_holder_together(log: Log) -> None:
    author = lead(log, "a", boot="a1")
    look = log.look()
    assert look.head is not None
    assert look.head.writer == Writer("a", "a1")
    assert (look.head.log_id, look.head.term, look.head.run) == (LOG_ID, 1, look.run)
    assert look.head.position == author.position
    assert look.last_id == RecordId(1, 1)
    assert look.term == 1


def test_the_next_term_follows_the_history_of_the_one_before(log: Log) -> None:
    first = lead(log, "a")
    first.append()
    second = lead(log, "b", new_log_id="another")
    record = log.find(RecordId(2, 3))
    assert isinstance(record, TermRecord)
    assert record.prev == first.position.chain
    assert record.log_id == LOG_ID
    assert second.term == 2


def test_a_promotion_asks_everybody_to_look(log: Log) -> None:
    since = log.newest_ask()
    promote(log, "b", by="ann")
    (ask,) = log.read(None, asks_after=since).asks
    assert (ask.what, ask.node, ask.by) == ("term", "b", "ann")


def test_the_floor_lifts_the_next_term(log: Log) -> None:
    lead(log, "a")
    assert promote(log, "b", floor=7).term == 8
    assert promote(log, "c", floor=3).term == 9


def test_a_floor_under_a_log_that_is_founded_starts_a_new_era(log: Log) -> None:
    assert promote(log, floor=7).term == ERA + 1


def test_an_expectation_that_is_over_is_a_conflict_and_writes_nothing(world: World, log: Log) -> None:
    lead(log, "a")
    before = world.contents()
    assert promote(log, "b", expect=0) == Reply(Code.CONFLICT, term=1, node="a")
    assert promote(log, "b", expect=2) == Reply(Code.CONFLICT, term=1, node="a")
    assert world.contents() == before
    assert promote(log, "b", expect=1).term == 2


def test_an_expected_head_that_moved_is_a_conflict_and_writes_nothing(world: World, log: Log) -> None:
    author = lead(log, "a")
    seen = author.position.id
    author.append()
    before = world.contents()
    assert promote(log, "b", expect_head=seen) == Reply(Code.CONFLICT, term=1, node="a")
    assert promote(log, "b", expect=1, expect_head=RecordId(1, 3)) == Reply(Code.CONFLICT, term=1, node="a")
    assert world.contents() == before
    assert promote(log, "b", expect_head=author.position.id).term == 2


def test_the_head_knows_the_last_change_in_its_history(log: Log) -> None:
    def changed() -> RecordId:
        head = log.look().head
        assert head is not None
        return head.changed

    author = lead(log, "a")
    assert changed() == ZERO_ID
    author.append()
    assert changed() == RecordId(1, 2)
    author.snapshot()  # what it contains is in the history already
    lead(log, "b")
    assert changed() == RecordId(1, 2)


def test_a_marker_is_no_change(log: Log) -> None:
    author = lead(log, "a")
    codec, body, digest = encode_changes([])
    marker = seal_change(
        writer=author.writer, term=1, after=author.position, at=0, codec=codec, digest=digest, count=0, body=body
    )
    assert log.append(marker).code is Code.OK
    head = log.look().head
    assert head is not None
    assert head.changed == ZERO_ID


def test_a_snapshot_that_brings_another_history_brings_its_last_change(log: Log) -> None:
    author = lead(log, "a")
    author.append()
    last = {"part": 0, "parts": 1, "as_of": author.position, "digest": "0" * 32, "codec": "json+zstd", "body": b"x"}
    common = {"writer": author.writer, "term": 1, "at": 0, **last}
    rebased = seal_part(**common, after=author.position, n=9, changed=RecordId(1, 7), replaces=False)  # type: ignore[arg-type]
    assert log.part(rebased, rebase=True).code is Code.OK
    head = log.look().head
    assert head is not None
    assert head.changed == RecordId(1, 7)
    replacing = seal_part(**common, after=rebased.position, n=10, changed=RecordId(1, 7), replaces=True)  # type: ignore[arg-type]
    assert log.part(replacing).code is Code.OK
    head = log.look().head
    assert head is not None
    assert head.changed == RecordId(1, 10)


def test_an_expectation_of_another_run_is_refused_and_writes_nothing(world: World, log: Log) -> None:
    lead(log, "a")
    before = world.contents()
    assert promote(log, "b", run="0" * 40).code is Code.NEW_RUN
    assert world.contents() == before
    assert promote(log, "b", run=log.look().run).code is Code.OK


def test_terms_end_at_2_to_the_53(world: World, log: Log) -> None:
    lead(log, "a")
    assert promote(log, "b", floor=TERM_MAX - 1).term == TERM_MAX
    before = world.contents()
    with pytest.raises(LogUnavailable, match="no more terms"):
        promote(log, "c")
    with pytest.raises(LogUnavailable, match="no more terms"):
        promote(log, "c", floor=TERM_MAX)
    assert world.contents() == before
    assert ids(log)[-1] == f"{TERM_MAX}-2"


@pytest.mark.parametrize("broken", [{"name": ""}, {"boot": ""}, {"reason": "x" * 20_000}, {"by": "x" * 20_000}])
def test_a_term_record_that_nobody_could_read_is_not_written(world: World, log: Log, broken: dict[str, str]) -> None:
    lead(log, "a")
    before = world.contents()
    with pytest.raises(LogUnavailable, match="BADRECORD"):
        promote(log, **broken)
    assert world.contents() == before


def test_64_concurrent_promotions_give_64_terms_in_order(world: World) -> None:
    """G1."""
    lead(world.log(), "first")
    start = threading.Barrier(64)

    def one(i: int) -> int:
        log = world.log()
        log.look()
        start.wait()
        return promote(log, f"n{i}").term

    with ThreadPoolExecutor(64) as threads:
        terms = list(threads.map(one, range(64)))
    records = world.log().read(ZERO_ID, count=100).records
    assert sorted(terms) == list(range(2, 66))
    assert [record.id for record in records] == [RecordId(term, term) for term in range(1, 66)]
    assert [record.node for record in records[1:]] == [f"n{terms.index(term)}" for term in range(2, 66)]
    assert [record.prev for record in records[1:]] == [record.chain for record in records[:-1]]


def test_of_64_promotions_with_one_expectation_one_succeeds(world: World) -> None:
    """G1."""
    lead(world.log(), "first")
    with ThreadPoolExecutor(64) as threads:
        replies = list(threads.map(lambda i: promote(world.log(), f"n{i}", expect=1), range(64)))
    assert sorted(reply.code.value for reply in replies) == ["conflict"] * 63 + ["ok"]


# --- what else a claim depends on -----------------------------------------------------------------------------------


def head_of(log: Log) -> Head:
    head = log.look().head
    assert head is not None
    return head


def test_an_unleased_claim_is_refused_while_a_lease_runs_and_writes_nothing(world: World, log: Log) -> None:
    author = lead(log, "a")
    before = world.contents()
    assert promote(log, "b", unleased=True) == Reply(Code.CONFLICT, term=1, node="a")
    assert world.contents() == before
    log.give_back(author.writer, 1)
    assert promote(log, "b", unleased=True).term == 2


def test_an_unleased_claim_is_taken_once_the_lease_ran_out(log: Log) -> None:
    lead(log, "a", lease_ms=20)
    time.sleep(0.05)
    assert log.look().lease_ms is None
    assert promote(log, "b", unleased=True).term == 2


def test_a_lease_that_was_renewed_at_the_last_moment_keeps_candidates_out(world: World, log: Log) -> None:
    author = lead(log, "a", lease_ms=20)
    time.sleep(0.05)
    assert log.renew(author.writer, 1, 60_000).code is Code.OK
    before = world.contents()
    assert promote(log, "b", unleased=True, expect=1).code is Code.CONFLICT
    assert world.contents() == before


def test_a_claim_may_name_a_lease_that_outlives_its_holder(world: World, log: Log) -> None:
    """The server's clock was set back. The candidate saw by its own clock that nobody renewed the lease."""
    lead(log, "a", lease_ms=1_000)
    world.stretch_lease()
    seen = log.look().lease
    before = world.contents()
    for expired in ("", "1 a 1", seen + " ", seen[:-1] + "x"):
        assert promote(log, "b", unleased=True, expired=expired).code is Code.CONFLICT
    assert world.contents() == before
    assert promote(log, "b", unleased=True, expired=seen).term == 2
    assert log.look().lease != seen


def test_a_lease_that_was_renewed_since_it_was_seen_is_another_one(world: World, log: Log) -> None:
    author = lead(log, "a", lease_ms=60_000)
    seen = log.look().lease
    time.sleep(0.005)
    assert log.renew(author.writer, 1, 60_000).code is Code.OK
    assert log.look().lease != seen
    before = world.contents()
    assert promote(log, "b", unleased=True, expired=seen).code is Code.CONFLICT
    assert world.contents() == before


def test_of_16_candidates_that_saw_the_lease_run_out_one_wins(world: World) -> None:
    """G1."""
    lead(world.log(), "first", lease_ms=1)
    time.sleep(0.02)
    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(lambda i: promote(world.log(), f"n{i}", unleased=True, expect=1), range(16)))
    assert sorted(reply.code.value for reply in replies) == ["conflict"] * 15 + ["ok"]


# --- founding anew ---------------------------------------------------------------------------------------------------


def broken_by(how: str, world: World) -> None:
    if how == "a stray entry":
        world.write_raw(CLOCK_ID)
    elif how == "none":
        world.flush()
    else:
        world.drop("log" if how == "no stream" else "head")


BROKEN = ["a stray entry", "no stream", "no head", "none"]


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_log_is_founded_anew_in_a_new_era_above_the_floor(world: World, log: Log, how: str) -> None:
    """G3: above all that anybody has seen, whatever Redis still knows."""
    author = lead(log, "a", floor=6)  # term 7 of era 0, or of era 1 where nothing was before
    author.append("lost")
    broken_by(how, world)
    assert promote(log, "b", new_log_id="").code in (Code.LOST, Code.STRAY)
    reply = promote(log, "b", anew=True, floor=author.term, new_log_id="log-2")
    era_start = (author.term // ERA + 1) * ERA
    assert reply == Reply(Code.OK, term=era_start + 1, id=RecordId(era_start + 1, 1))
    assert ids(log) == [f"{era_start + 1}-1"]
    look = log.look()
    assert look.last_id == reply.id
    assert look.term == reply.term
    head = head_of(log)
    assert (head.log_id, head.writer, head.position.id, head.run) == ("log-2", Writer("b", "1"), reply.id, look.run)
    assert (head.changed, head.ends, head.snapshot_at, head.part_next) == (ZERO_ID, (), ZERO_ID, 0)
    record = log.find(reply.id)
    assert isinstance(record, TermRecord)
    assert (record.prev, record.ends, record.log_id) == (ZERO_CHAIN, (), "log-2")
    assert author.append() == Reply(Code.FENCED, term=reply.term, node="b")


@pytest.mark.parametrize("how", ["a stray entry", "no stream", "no head"])
def test_a_log_that_is_founded_anew_goes_on_above_what_redis_still_knows(world: World, log: Log, how: str) -> None:
    """G3: the claimant may have seen less."""
    author = lead(log, "a", floor=3 * ERA)
    broken_by(how, world)
    assert promote(log, "b", anew=True, floor=1).term == (author.term // ERA + 1) * ERA + 1


def test_a_log_that_was_founded_anew_takes_writes(world: World, log: Log) -> None:
    lead(log, "a").append()
    world.write_raw(CLOCK_ID)
    author = lead(log, "b", anew=True)
    assert author.append().code is Code.OK
    author.snapshot()
    assert lead(log, "c").append().code is Code.OK


def test_a_whole_log_is_not_founded_anew(world: World, log: Log) -> None:
    author = lead(log, "a")
    author.append()
    before = world.contents()
    assert promote(log, "b", anew=True) == Reply(Code.WHOLE, id=RecordId(1, 2))
    assert promote(log, "b", anew=True, expect=0).code is Code.WHOLE
    assert world.contents() == before


def test_without_an_identity_nothing_is_founded_anew(world: World, log: Log) -> None:
    lead(log, "a")
    world.write_raw(CLOCK_ID)
    before = world.contents()
    assert promote(log, "b", anew=True, new_log_id="") == Reply(Code.STRAY, id=CLOCK_ID)
    assert world.contents() == before


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize(
    ("depends", "code"),
    [
        ({"expect": 99}, Code.CONFLICT),
        ({"expect_head": RecordId(1, 1)}, Code.CONFLICT),
        ({"run": "0" * 40}, Code.NEW_RUN),
    ],
)
def test_what_a_claim_to_found_anew_depends_on_counts(
    world: World, log: Log, how: str, depends: dict[str, Any], code: Code
) -> None:
    lead(log, "a")
    broken_by(how, world)
    before = world.contents()
    assert promote(log, "b", anew=True, **depends).code is code
    assert world.contents() == before


def test_of_8_that_found_a_log_anew_one_wins(world: World) -> None:
    """G1."""
    lead(world.log(), "a")
    world.drop("log")
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda i: promote(world.log(), f"n{i}", anew=True, expect=1), range(8)))
    codes = [reply.code for reply in replies]
    assert codes.count(Code.OK) == 1
    assert set(codes) <= {Code.OK, Code.WHOLE, Code.CONFLICT}
    assert len(ids(world.log())) == 1


# --- the ends of terms -----------------------------------------------------------------------------------------------


def test_a_promotion_ends_the_term_before_it(log: Log) -> None:
    author = lead(log, "a")
    assert head_of(log).ends == ()
    author.append()
    lead(log, "b")
    lead(log, "c").append()
    lead(log, "a")
    ends = (RecordId(1, 2), RecordId(2, 3), RecordId(3, 5))
    assert head_of(log).ends == ends
    records = log.read(ZERO_ID, count=100).records
    assert [record.ends for record in records if isinstance(record, TermRecord)] == [(), ends[:1], ends[:2], ends]


def test_the_last_100_ends_are_kept(log: Log) -> None:
    for _ in range(103):
        lead(log, "a")
    assert head_of(log).ends == tuple(RecordId(i, i) for i in range(3, 103))


def test_after_a_rebase_the_ends_are_those_of_the_history_that_the_snapshot_tells(log: Log) -> None:
    author = lead(log, "a")
    author.append()
    author = lead(log, "a")
    assert head_of(log).ends == (RecordId(1, 2),)
    place = {"writer": author.writer, "term": 2, "at": 0, "codec": "json+zstd", "digest": "0" * 32, "body": b"x"}
    as_of = Position(RecordId(1, 9), "f" * 32)
    about = {"as_of": as_of, "changed": RecordId(1, 9), "replaces": False}
    first = seal_part(**place, **about, after=as_of, n=10, part=0, parts=0, ends=())  # type: ignore[arg-type]
    assert log.part(first, rebase=True).code is Code.OK
    assert head_of(log).ends == (RecordId(1, 2),), "until it is complete it means nothing"
    ends = (RecordId(1, 9),)
    last = seal_part(**place, **about, after=first.position, n=11, part=1, parts=2, ends=ends)  # type: ignore[arg-type]
    assert log.part(last, rebase=True).code is Code.OK
    assert head_of(log).ends == ends
    lead(log, "b")
    assert head_of(log).ends == (*ends, RecordId(2, 11))


def test_a_snapshot_that_does_not_rebase_leaves_the_ends(log: Log) -> None:
    lead(log, "a")
    lead(log, "b").snapshot()
    assert head_of(log).ends == (RecordId(1, 1),)


# --- who took terms by itself ----------------------------------------------------------------------------------------


def test_the_head_remembers_who_took_a_term_by_itself_and_when(log: Log) -> None:
    before_ms = log.look().now_ms
    promote(log, "a", by="ann")
    assert head_of(log).taken == ()
    promote(log, "b", by="b")
    promote(log, "a", by="b")
    promote(log, "a", by="a")
    taken = head_of(log).taken
    assert [node for _, node in taken] == ["b", "a"]
    assert before_ms <= taken[0][0] <= taken[1][0] <= log.look().now_ms


def test_it_remembers_the_last_16_of_them(log: Log) -> None:
    for i in range(TAKEN_KEPT + 2):
        promote(log, f"n{i}", by=f"n{i}")
        promote(log, "a", by="ann")
    assert [node for _, node in head_of(log).taken] == [f"n{i}" for i in range(2, TAKEN_KEPT + 2)]
    assert TAKEN_KEPT == 16


# --- automatic failover, on and off ----------------------------------------------------------------------------------


def test_a_pause_stands_in_the_head_until_it_is_ended(log: Log) -> None:
    author = lead(log, "a")
    since = log.newest_ask()
    assert log.pause("by ann: moving house ✓").code is Code.OK
    assert head_of(log).paused == "by ann: moving house ✓"
    author.append()
    lead(log, "b").snapshot()
    assert head_of(log).paused == "by ann: moving house ✓"
    assert log.pause("").code is Code.OK
    assert head_of(log).paused == ""
    assert [ask.what for ask in log.read(None, asks_after=since).asks] == ["paused", "term", "paused"]


def test_where_there_is_no_log_nothing_is_paused(world: World, log: Log) -> None:
    before = world.contents()
    assert log.pause("by ann") == Reply(Code.LOST)
    assert world.contents() == before


def test_a_pause_changes_nothing_else(log: Log) -> None:
    lead(log, "a").append()
    before = head_of(log)
    log.pause("by ann")
    paused = head_of(log)
    assert paused == before._replace(paused="by ann", paused_at=paused.paused_at)
    assert 0 <= log.look().now_ms - paused.paused_at < 60_000, "since when, by the clock of Redis"
    log.pause("")
    assert head_of(log) == before


# --- append ----------------------------------------------------------------------------------------------------------


def test_the_holder_appends_behind_the_head(log: Log) -> None:
    author = lead(log)
    record = author.change({"op": "set"})
    assert log.append(record) == Reply(Code.OK)
    head = log.look().head
    assert head is not None
    assert head.position == record.position
    assert log.find(RecordId(1, 2)) == record


def test_a_record_is_given_back_byte_for_byte(log: Log) -> None:
    author = lead(log)
    author.append("".join(map(chr, range(300))) * 20)
    record = author.change(["ü", None, 1.5, {"deep": [[]]}])
    log.append(record)
    assert log.read(RecordId(1, 2)).records == [record]


def test_the_same_append_sent_twice_lands_once(log: Log) -> None:
    author = lead(log)
    record = author.change()
    assert log.append(record).code is Code.OK
    assert log.append(record) == Reply(Code.DUPLICATE, id=record.id)
    assert ids(log) == ["1-1", "1-2"]


def test_a_repeat_of_an_older_append_is_behind_and_lands_nowhere(log: Log) -> None:
    author = lead(log)
    record = author.change("first")
    author.append("first")
    author.append("second")
    assert log.append(record) == Reply(Code.BEHIND, id=RecordId(1, 3))
    assert ids(log) == ["1-1", "1-2", "1-3"]


def test_an_append_that_stopped_behind_its_record_is_ended_by_a_repeat(world: World, log: Log) -> None:
    """The head was not moved: the user lost that right in between."""
    author = lead(log)
    record = author.change()
    assert world.write_raw(record.id, record.header, record.body)
    assert log.append(record).code is Code.OK
    assert head_of(log).position == record.position
    assert head_of(log).changed == record.id
    author.position = record.position
    assert author.append().code is Code.OK
    assert ids(log) == ["1-1", "1-2", "1-3"]


def test_a_part_that_stopped_behind_its_record_is_ended_by_a_repeat(world: World, log: Log) -> None:
    author = lead(log)
    as_of = author.position
    for index, count in ((0, 0), (1, 2)):
        record = author.part(index, count, as_of=as_of)
        assert world.write_raw(record.id, record.header, record.body)
        assert log.part(record).code is Code.OK
        author.position = record.position
    assert (head_of(log).position, head_of(log).snapshot_at) == (author.position, as_of.id)


def test_a_rebase_that_stopped_behind_its_record_is_ended_by_a_repeat(world: World, log: Log) -> None:
    author = lead(log)
    author.position = Position(RecordId(1, 40), "f" * 32)  # the log lost what the holder has
    record = author.part(0, as_of=author.position, skip=2)
    assert world.write_raw(record.id, record.header, record.body)
    assert log.part(record).code is Code.BEHIND
    assert log.part(record, rebase=True).code is Code.OK
    assert head_of(log).position == record.position
    author.position = record.position
    assert author.append_part(1, 2).code is Code.OK
    assert author.append().code is Code.OK


def test_another_record_in_the_place_of_an_append_stays_in_its_way(world: World, log: Log) -> None:
    author = lead(log)
    record = author.change("x")
    assert world.write_raw(record.id, record.header, record.body + b" ")
    before = world.contents()
    assert log.append(record) == Reply(Code.STRAY, id=record.id)
    assert world.contents() == before


def test_an_append_that_does_not_follow_the_head_is_refused(world: World, log: Log) -> None:
    author = lead(log)
    author.position = Position(RecordId(1, 5), "f" * 32)
    before = world.contents()
    assert author.append() == Reply(Code.BEHIND, id=RecordId(1, 1))
    assert world.contents() == before


def test_of_a_row_of_appends_the_first_refusal_refuses_the_rest(log: Log) -> None:
    author = lead(log)
    records = []
    for value in "xyz":
        records.append(author.change(value))
        author.position = records[-1].position
    codes = [log.append(record).code for record in (records[0], records[2], records[1], records[2])]
    assert codes == [Code.OK, Code.BEHIND, Code.OK, Code.OK]


def test_a_replaced_primary_is_fenced_and_changes_nothing(world: World, log: Log) -> None:
    """G1, G2."""
    former = lead(log, "a")
    lead(world.log(), "b")
    before = world.contents()
    assert former.append() == Reply(Code.FENCED, term=2, node="b")
    assert former.append_part(0, 1) == Reply(Code.FENCED, term=2, node="b")
    assert log.renew(former.writer, 1, 1000) == Reply(Code.FENCED, term=2, node="b")
    assert world.contents() == before


def test_another_boot_of_the_holder_is_fenced_in_the_very_same_term(world: World, log: Log) -> None:
    """G1."""
    author = lead(log, "a", boot="a1")
    before = world.contents()
    author.writer = Writer("a", "a2")
    assert author.append() == Reply(Code.FENCED, term=1, node="a")
    assert author.append_part(0, 1).code is Code.FENCED
    assert log.renew(author.writer, 1, 1000).code is Code.FENCED
    assert world.contents() == before


def test_a_term_that_nobody_took_is_fenced(log: Log) -> None:
    author = lead(log)
    author.term = 2
    assert author.append() == Reply(Code.FENCED, term=1, node="a")


def test_a_delayed_append_that_arrives_after_a_promotion_and_a_return_changes_nothing(world: World, log: Log) -> None:
    """G1. The same node in the same boot holds a later term: its record of the earlier one stays out."""
    author = lead(log, "a", boot="a1")
    delayed = author.change()
    lead(world.log(), "b")
    lead(world.log(), "a", boot="a1")
    before = world.contents()
    assert log.append(delayed) == Reply(Code.FENCED, term=3, node="a")
    assert world.contents() == before


def test_a_stale_raw_xadd_is_refused_by_the_server_itself(world: World, log: Log) -> None:
    """G2: even by a writer that ignores the scripts."""
    lead(log, "a")
    lead(log, "b")
    assert world.write_raw(RecordId(1, 9999)) is False
    assert ids(log) == ["1-1", "2-2"]


def test_no_log_is_lost_and_never_made_by_a_write(world: World, log: Log) -> None:
    author = lead(log)
    author.append()
    world.flush()
    before = world.contents()
    assert author.append() == Reply(Code.LOST)
    assert author.append_part(0, 1) == Reply(Code.LOST)
    assert log.renew(author.writer, 1, 1000) == Reply(Code.LOST)
    assert promote(log, new_log_id="") == Reply(Code.LOST)
    log.give_back(author.writer, 1)
    assert world.contents() == before
    assert log.look().head is None


# --- part ------------------------------------------------------------------------------------------------------------


def test_parts_enter_the_head_when_the_last_one_is_there(log: Log) -> None:
    author = lead(log)
    author.append()
    as_of = author.position
    assert author.append_part(0, as_of=as_of).code is Code.OK
    head = log.look().head
    assert head is not None
    assert (head.part_next, head.snapshot_at) == (1, ZERO_ID)
    assert author.append_part(1, 2, as_of=as_of) == Reply(Code.OK)
    head = log.look().head
    assert head is not None
    assert (head.part_next, head.snapshot_at, head.previous_snapshot_at) == (0, RecordId(1, 2), ZERO_ID)
    assert head.position == author.position


def test_changes_may_come_between_the_parts(log: Log) -> None:
    author = lead(log)
    as_of = author.position
    assert author.append_part(0, as_of=as_of).code is Code.OK
    assert author.append().code is Code.OK
    assert author.append_part(1, 2, as_of=as_of).code is Code.OK


def test_a_part_that_does_not_follow_the_one_before_starts_the_snapshot_anew(world: World, log: Log) -> None:
    author = lead(log)
    as_of = author.position
    assert author.append_part(1, as_of=as_of) == Reply(Code.RESTART)
    author.append_part(0, as_of=as_of)
    before = world.contents()
    assert author.append_part(2, as_of=as_of) == Reply(Code.RESTART)
    assert author.append_part(2, 3, as_of=as_of) == Reply(Code.RESTART)
    assert world.contents() == before
    assert author.append_part(0, as_of=as_of).code is Code.OK
    assert author.append_part(1, 2, as_of=as_of).code is Code.OK


def test_a_snapshot_does_not_go_on_in_another_term(log: Log) -> None:
    author = lead(log, "a")
    author.append_part(0)
    again = lead(log, "a")
    assert again.append_part(1, 2) == Reply(Code.RESTART)


def test_the_same_part_sent_twice_lands_once(log: Log) -> None:
    author = lead(log)
    record = author.part(0, 1, as_of=author.position)
    assert log.part(record).code is Code.OK
    assert log.part(record) == Reply(Code.DUPLICATE, id=record.id)
    head = log.look().head
    assert head is not None
    assert (head.snapshot_at, head.previous_snapshot_at) == (RecordId(1, 1), ZERO_ID)


def test_a_part_that_does_not_follow_the_head_is_behind(log: Log) -> None:
    author = lead(log)
    author.position = Position(RecordId(1, 5), "f" * 32)
    assert author.append_part(0, 1) == Reply(Code.BEHIND, id=RecordId(1, 1))


def cut(log: Log) -> tuple[str, RecordId, RecordId]:
    """The oldest record, where the log says it was cut, and of what the newest complete snapshot is."""
    head = log.look().head
    assert head is not None
    return ids(log)[0], head.previous_snapshot_at, head.snapshot_at


def test_the_log_is_trimmed_when_the_next_snapshot_begins_and_not_when_it_is_complete(log: Log) -> None:
    """G8: the complete one, and all that came after it, stays; two are there at the most."""
    author = lead(log)
    author.append()
    as_of = author.position  # 1-2; the parts are 1-3 and 1-4
    author.append_part(0, as_of=as_of)
    assert cut(log) == ("1-1", ZERO_ID, ZERO_ID), "nothing is complete yet"
    author.append_part(1, 2, as_of=as_of)
    author.append()
    assert cut(log) == ("1-1", ZERO_ID, RecordId(1, 2))
    as_of = author.position
    author.append_part(0, as_of=as_of)  # of 1-5
    assert cut(log) == ("1-3", RecordId(1, 2), RecordId(1, 2))
    author.append()
    author.append_part(1, as_of=as_of)
    author.append_part(2, 3, as_of=as_of)
    assert cut(log) == ("1-3", RecordId(1, 2), RecordId(1, 5)), "a slow reader of the one before can finish"
    author.append()
    assert cut(log) == ("1-3", RecordId(1, 2), RecordId(1, 5))
    author.append_part(0, as_of=author.position)
    assert cut(log) == ("1-6", RecordId(1, 5), RecordId(1, 5))
    assert ids(log) == [f"1-{n}" for n in range(6, 12)]


def test_a_snapshot_of_one_part_trims_behind_the_one_before_it(log: Log) -> None:
    author = lead(log)
    author.append()
    author.snapshot(parts=1)  # as of 1-2, in 1-3
    author.append()
    author.snapshot(parts=1)  # as of 1-4, in 1-5
    assert cut(log) == ("1-3", RecordId(1, 2), RecordId(1, 4))


def test_a_snapshot_that_is_begun_again_and_again_leaves_the_complete_one(log: Log) -> None:
    """G8."""
    author = lead(log, "a")
    author.snapshot(parts=2)  # as of 1-1, in 1-2 and 1-3
    first = author.part(0, as_of=author.position)
    assert log.part(first).code is Code.OK
    author.position = first.position
    assert log.part(first) == Reply(Code.DUPLICATE, id=first.id)
    author.append_part(0, as_of=author.position)
    promoted = lead(log, "b")
    promoted.append_part(0, as_of=promoted.position)
    assert cut(log) == ("1-2", RecordId(1, 1), RecordId(1, 1))
    assert ids(log) == ["1-2", "1-3", "1-4", "1-5", "2-6", "2-7"]


def test_a_first_part_that_is_refused_trims_nothing(world: World, log: Log) -> None:
    author = lead(log, "a")
    author.append()
    author.snapshot(parts=2)
    author.append()
    behind = seal_part_of(author, after=Position(RecordId(1, 3), "f" * 32))
    late = author.part(0, as_of=author.position)
    before = world.contents()
    assert log.part(behind).code is Code.BEHIND
    assert log.part(author.part(1, as_of=author.position)).code is Code.RESTART
    assert world.contents() == before
    lead(log, "b")
    before = world.contents()
    assert log.part(late).code is Code.FENCED
    assert world.contents() == before


def seal_part_of(author: Author, *, after: Position) -> PartRecord:
    """A first part behind a place at which the log is not."""
    held, author.position = author.position, after
    try:
        return author.part(0, as_of=after)
    finally:
        author.position = held


def test_a_rebase_trims_like_any_other_snapshot_and_the_cut_never_goes_back(log: Log) -> None:
    author = lead(log, "a")
    author.append()
    ahead = Position(RecordId(1, 40), "f" * 32)  # 38 records that the log lost
    second = lead(log, "b")  # 2-3
    second.append()
    second.snapshot(parts=2)  # as of 2-4, in 2-5 and 2-6
    third = lead(log, "a")  # 3-7
    third.position = ahead
    first = third.part(0, as_of=ahead)
    assert log.part(first, rebase=True).code is Code.OK
    assert cut(log) == ("2-5", RecordId(2, 4), RecordId(2, 4)), "the complete one stays, in case this one never is"
    third.position = first.position
    assert log.part(third.part(1, 2, as_of=ahead), rebase=True).code is Code.OK
    third.position = third.part(1, 2, as_of=ahead).position
    assert cut(log) == ("2-5", RecordId(2, 4), ahead.id)
    # what is behind the cut is gone, whatever the newest snapshot is of
    third.append_part(0, as_of=third.position)
    assert cut(log) == ("2-5", RecordId(2, 4), ahead.id)
    third.append_part(1, 2)
    third.append_part(0, as_of=third.position)
    first_id, cut_at, complete = cut(log)
    assert cut_at == complete > first.id
    assert first_id == f"3-{cut_at.n + 1}"


def test_ids_below_the_trim_point_stay_refused(world: World, log: Log) -> None:
    """G2."""
    author = lead(log, "a")
    author = lead(log, "b")
    author.snapshot()
    author.snapshot()
    assert ids(log)[0] == "2-3"
    assert world.write_raw(RecordId(1, 1)) is False
    assert world.write_raw(RecordId(1, 9999)) is False


def test_a_holder_ahead_of_the_log_continues_at_its_own_place(log: Log) -> None:
    author = lead(log, "a")
    author.position = Position(RecordId(1, 40), "f" * 32)  # 39 records that the log lost
    record = author.part(0, as_of=author.position, skip=2)
    assert log.part(record).code is Code.BEHIND
    assert log.part(record, rebase=True) == Reply(Code.OK)
    author.position = record.position
    assert author.append_part(1, 2).code is Code.OK
    assert author.append().code is Code.OK
    assert ids(log) == ["1-1", "1-43", "1-44", "1-45"]


def test_only_the_first_part_may_leave_the_head_behind(log: Log) -> None:
    author = lead(log, "a")
    author.append_part(0)
    author.position = Position(RecordId(1, 40), "f" * 32)
    assert log.part(author.part(1, as_of=author.position), rebase=True).code is Code.BEHIND


def test_a_rebase_does_not_step_over_a_stray_record(world: World, log: Log) -> None:
    author = lead(log, "a")
    world.write_raw(RecordId(1, 10))
    author.position = Position(RecordId(1, 40), "f" * 32)
    record = author.part(0, as_of=author.position)
    before = world.contents()
    assert log.part(record, rebase=True) == Reply(Code.STRAY, id=RecordId(1, 10))
    assert world.contents() == before


# --- its size --------------------------------------------------------------------------------------------------------


def test_its_size_is_told_in_records_and_in_bytes_that_redis_needs_for_them(log: Log) -> None:
    author = lead(log)
    one = log.size()
    author.append(random.Random(1).randbytes(20_000).hex())
    two = log.size()
    assert (one.records, two.records) == (1, 2)
    assert one.bytes is not None
    assert two.bytes is not None
    assert one.bytes < 20_000 < two.bytes


# --- the lease -------------------------------------------------------------------------------------------------------


def test_a_promotion_sets_the_lease_and_a_renewal_extends_it(log: Log) -> None:
    author = lead(log, lease_ms=1_000)
    assert 0 < (log.look().lease_ms or 0) <= 1_000
    assert log.renew(author.writer, 1, 50_000) == Reply(Code.OK)
    assert 1_000 < (log.look().lease_ms or 0) <= 50_000


def test_a_lease_says_who_has_it_and_for_how_long(log: Log) -> None:
    author = lead(log, lease_ms=1_000)
    assert log.renew(author.writer, 1, 50_000) == Reply(Code.OK)
    look = log.look()
    lease = LeaseText.parse(look.lease)
    assert lease is not None
    assert lease[:2] == ("1 a 1", 50_000)
    assert abs(lease.granted_ms - look.now_ms) < 10_000
    log.give_back(author.writer, 1)
    assert log.look().lease == ""


def test_a_lease_of_which_the_server_says_that_it_is_longer_than_it_can_be_is_as_long_as_it_can_be(
    world: World, log: Log
) -> None:
    lead(log, lease_ms=1_000)
    world.stretch_lease()
    assert log.look().lease_ms == 1_000


def test_a_lease_runs_out(log: Log) -> None:
    author = lead(log, lease_ms=20)
    time.sleep(0.05)
    assert log.look().lease_ms is None
    assert author.append().code is Code.OK, "the lease is for the others to look at: the fence is the term"


def test_a_holder_gives_back_its_own_lease_and_no_other(world: World, log: Log) -> None:
    former = lead(log, "a")
    holder = lead(log, "b")
    log.give_back(former.writer, 1)
    log.give_back(holder.writer, 1)
    log.give_back(Writer("b", "another boot"), 2)
    assert log.look().lease_ms is not None
    log.give_back(holder.writer, 2)
    assert log.look().lease_ms is None
    log.give_back(holder.writer, 2)


def test_a_lease_that_is_given_back_tells_everybody_once(log: Log) -> None:
    author = lead(log, "a")
    since = log.newest_ask()
    log.give_back(Writer("a", "another boot"), 1)
    log.give_back(author.writer, 1)
    log.give_back(author.writer, 1)
    assert [(ask.what, ask.node) for ask in log.read(None, asks_after=since).asks] == [("vacant", "a")]


# --- reads -----------------------------------------------------------------------------------------------------------


def found_nothing(batch: Batch) -> bool:
    return not (batch.records or batch.asks or batch.acks or batch.corrupt)


def test_an_empty_server_has_no_head_and_no_records(log: Log) -> None:
    look = log.look()
    assert (look.term, look.head, look.last_id, look.lease_ms, dict(look.heartbeats)) == (0, None, ZERO_ID, None, {})
    assert look.run
    assert abs(look.now_ms - time.time() * 1000) < 60_000
    assert found_nothing(log.read(ZERO_ID))
    assert found_nothing(log.read(None))
    assert log.find(RecordId(1, 1)) is None


def test_a_read_gives_records_in_order_behind_an_id(log: Log) -> None:
    author = lead(log)
    for value in range(5):
        author.append(value)
    assert ids(log) == ["1-1", "1-2", "1-3", "1-4", "1-5", "1-6"]
    assert ids(log, RecordId(1, 4)) == ["1-5", "1-6"]
    assert [str(record.id) for record in log.read(RecordId(1, 1), count=2).records] == ["1-2", "1-3"]
    assert log.read(RecordId(1, 6)).records == []
    assert isinstance(log.find(RecordId(1, 3)), ChangeRecord)


def test_a_blocking_read_ends_with_the_next_record(world: World, log: Log) -> None:
    author = lead(log)
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(world.log().read, RecordId(1, 1), block_ms=2_000)
        time.sleep(0.05)
        author.append()
        assert [str(record.id) for record in read.result(1).records] == ["1-2"]


def test_a_blocking_read_ends_by_itself(log: Log) -> None:
    lead(log)
    started = time.monotonic()
    assert found_nothing(log.read(RecordId(1, 1), block_ms=60))
    assert 0.04 <= time.monotonic() - started < 1


def test_closing_ends_a_blocked_read(log: Log) -> None:
    lead(log)
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(log.read, RecordId(1, 1), block_ms=2_500)
        time.sleep(0.1)
        log.close()
        with pytest.raises(LogUnavailable):
            read.result(1)


def test_a_closed_log_stays_closed(log: Log) -> None:
    author = lead(log)
    log.close()
    for call in (log.look, author.append, lambda: log.read(ZERO_ID)):
        with pytest.raises(LogUnavailable, match="closed"):
            call()


def test_asks_are_read_once_beside_the_records(log: Log) -> None:
    lead(log)
    since = log.newest_ask()
    first = log.ask("snapshot", by="ann")
    second = log.ask("digest", by="bob", node="a")
    batch = log.read(ZERO_ID, asks_after=since)
    assert [(ask.id, ask.what, ask.node, ask.by) for ask in batch.asks] == [
        (first, "snapshot", "", "ann"),
        (second, "digest", "a", "bob"),
    ]
    assert len(batch.records) == 1
    assert log.read(None, asks_after=second).asks == []
    assert log.newest_ask() == second


def test_an_ask_wakes_a_blocked_read(world: World, log: Log) -> None:
    lead(log)
    since = log.newest_ask()
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(world.log().read, RecordId(1, 1), asks_after=since, block_ms=2_000)
        time.sleep(0.05)
        log.ask("digest", by="ann")
        assert [ask.what for ask in read.result(1).asks] == ["digest"]


def test_acks_are_read_from_where_one_was(log: Log) -> None:
    lead(log)
    assert found_nothing(log.read(None))
    first, second = Ack("b", RecordId(1, 2)), Ack("größe", RecordId(ERA + 1, 7))
    log.ack(first)
    log.ack(second)
    batch = log.read(None, acks_after="0-0")
    assert list(batch.acks) == [first, second]
    assert list(log.read(None, acks_after=batch.acks_after).acks) == []
    log.ack(first)
    again = log.read(ZERO_ID, acks_after=batch.acks_after)
    assert list(again.acks) == [first]
    assert len(again.records) == 1
    assert log.read(None, acks_after=again.acks_after).acks_after == again.acks_after


def test_an_ack_wakes_a_blocked_read(world: World, log: Log) -> None:
    lead(log)
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(world.log().read, None, acks_after="0-0", block_ms=2_000)
        time.sleep(0.05)
        log.ack(Ack("b", RecordId(1, 1)))
        assert [ack.node for ack in read.result(1).acks] == ["b"]


def test_acks_are_not_kept_for_ever(world: World, log: Log) -> None:
    if not isinstance(world, RedisWorld):
        pytest.skip("memory is not scarce in memory")
    for i in range(1300):
        log.ack(Ack("b", RecordId(1, i)))
    kept = world.admin.xlen(world.key("acks"))
    assert 1000 <= kept < 1300, "each one includes those before it"
    assert log.read(None, acks_after="0-0", count=2000).acks[-1] == Ack("b", RecordId(1, 1299))


def test_what_is_no_ack_hides_none(world: World, log: Log) -> None:
    if not isinstance(world, RedisWorld):
        pytest.skip("nobody writes there by hand")
    world.admin.xadd(world.key("acks"), {"hello": "world"})
    world.admin.xadd(world.key("acks"), {"node": "b", "at": "nowhere"})
    log.ack(Ack("b", RecordId(1, 1)))
    batch = log.read(None, acks_after="0-0")
    assert list(batch.acks) == [Ack("b", RecordId(1, 1))]
    assert list(log.read(None, acks_after=batch.acks_after).acks) == []


def test_a_heartbeat_is_seen_with_its_age_by_the_clock_of_the_server(log: Log) -> None:
    heartbeat = Heartbeat(
        "a", "a1", term=3, position=Position(RecordId(3, 9), "c" * 32), changed=RecordId(2, 5), every_ms=10,
        candidate=True, log_id=LOG_ID, problem="the log is lost",
    )  # fmt: skip
    log.beat(heartbeat)
    log.beat(Heartbeat("b", "b1", in_sync=False, http="http://b", stalled="apply failed"))
    time.sleep(0.06)
    heartbeats = log.look().heartbeats
    assert heartbeats["a"]._replace(age_ms=0, beaten_at=0) == heartbeat
    assert 50 <= heartbeats["a"].age_ms < 5_000
    assert (heartbeats["a"].alive, heartbeats["b"].alive) == (False, True)
    log.beat(heartbeat._replace(boot="a2"))
    assert log.look().heartbeats["a"].boot == "a2"
    assert log.look().heartbeats["b"].stalled == "apply failed"


# --- what is not a record --------------------------------------------------------------------------------------------


def test_a_stray_record_is_in_the_way_of_every_write(world: World, log: Log) -> None:
    author = lead(log)
    assert world.write_raw(CLOCK_ID)
    before = world.contents()
    assert author.append() == Reply(Code.STRAY, id=CLOCK_ID)
    assert author.append_part(0, 1) == Reply(Code.STRAY, id=CLOCK_ID)
    assert promote(log, "b") == Reply(Code.STRAY, id=CLOCK_ID)
    assert world.contents() == before


def test_a_stray_record_is_shown_by_a_look(world: World, log: Log) -> None:
    lead(log)
    assert log.look().last_id == RecordId(1, 1)
    world.write_raw(RecordId(1, 7))
    world.write_raw(CLOCK_ID)
    look = log.look()
    assert look.last_id == CLOCK_ID, "the newest one: it is the one that refuses the next append"
    assert look.head is not None
    assert look.head.position.id == RecordId(1, 1)


def test_a_stray_record_with_the_next_id_is_in_the_way_too(world: World, log: Log) -> None:
    author = lead(log)
    world.write_raw(RecordId(1, 2))
    assert author.append() == Reply(Code.STRAY, id=RecordId(1, 2))


def test_a_read_delivers_what_is_before_a_stray_record_and_names_it(world: World, log: Log) -> None:
    author = lead(log)
    author.append()
    world.write_raw(CLOCK_ID)
    batch = log.read(ZERO_ID)
    assert [str(record.id) for record in batch.records] == ["1-1", "1-2"]
    assert isinstance(batch.corrupt, CorruptRecord)
    assert str(CLOCK_ID) in str(batch.corrupt)
    assert "no header" in str(batch.corrupt)
    with pytest.raises(CorruptRecord):
        log.find(CLOCK_ID)


def test_a_forged_record_gets_past_no_chain(world: World, log: Log) -> None:
    """A well-formed record by a raw XADD is read, but appends and promotions do not go on from it."""
    author = lead(log)
    forged = author.change("forged")
    world.write_raw(forged.id, forged.header, forged.body)
    assert author.append("honest") == Reply(Code.STRAY, id=forged.id)
    assert promote(log, "b") == Reply(Code.STRAY, id=forged.id)


# --- a server in another run -----------------------------------------------------------------------------------------


def _restarted(world: World, author: Author) -> Author:
    """Bring the server back with all it has; the author has a new connection."""
    world.fail_over(world.copy())
    author.log = world.log()
    return author


def test_in_a_new_run_the_former_holder_holds_nothing(world: World, log: Log) -> None:
    """G1: the new run may not know that the term was given to another."""
    author = lead(log)
    author.append()
    author = _restarted(world, author)
    assert author.append().code is Code.NEW_RUN
    assert author.append_part(0, 1).code is Code.NEW_RUN
    assert author.log.renew(author.writer, 1, 1000).code is Code.NEW_RUN
    assert ids(author.log) == ["1-1", "1-2"]


def test_the_first_promotion_in_a_new_run_starts_an_era(world: World, log: Log) -> None:
    """G3."""
    author = lead(log)
    author.append()
    author = _restarted(world, author)
    again = lead(author.log, "a")
    assert again.position.id == RecordId(ERA + 1, 3)
    assert again.append().code is Code.OK
    assert promote(author.log, "b").term == ERA + 2


def test_a_run_that_lost_terms_and_records_goes_on_above_all_of_them(world: World, log: Log) -> None:
    """G3: the copy knows term 1 only, and term 3 was given away."""
    first = lead(log, "a")
    first.append("kept")
    copy = world.copy()
    first.append("lost")
    lead(log, "b")
    lost = lead(log, "c")
    world.fail_over(copy)
    back = world.log()
    assert ids(back) == ["1-1", "1-2"]
    lost.log = first.log = back
    assert lost.append().code is Code.FENCED
    assert first.append().code is Code.NEW_RUN
    assert lead(back, "b").term == ERA + 1
    assert lost.append() == Reply(Code.FENCED, term=ERA + 1, node="b")


def test_each_new_run_starts_a_new_era(world: World, log: Log) -> None:
    """G3: an era that a lost promotion may have begun is not begun twice if a node remembers it."""
    author = _restarted(world, lead(log))
    copy = world.copy()
    lost = lead(author.log, "b")
    world.fail_over(copy)
    assert lead(world.log(), "a", floor=lost.term).term == 2 * ERA + 1


def test_a_promotion_with_the_run_that_was_looked_at_does_not_cross_a_restart(world: World, log: Log) -> None:
    author = lead(log)
    run = log.look().run
    author = _restarted(world, author)
    before = world.contents()
    assert promote(author.log, "b", run=run).code is Code.NEW_RUN
    assert world.contents() == before


# --- the term key ----------------------------------------------------------------------------------------------------


def test_a_deleted_term_key_does_no_harm(world: World, log: Log) -> None:
    """G3."""
    lead(log, "b")
    author = lead(log, "a", floor=6)
    world.set_term_key(None)
    assert log.look().term == 7
    assert author.append().code is Code.OK
    assert log.renew(author.writer, 7, 1000).code is Code.OK
    assert promote(log, "b").term == 8
    assert author.append() == Reply(Code.FENCED, term=8, node="b")


def test_a_term_key_that_was_set_back_does_no_harm(world: World, log: Log) -> None:
    """G3."""
    lead(log, "b")
    lead(log, "a", floor=6)
    world.set_term_key(2)
    assert log.look().term == 7
    assert promote(log, "b").term == 8


def test_a_bare_incr_of_the_term_key_fences_everybody(world: World, log: Log) -> None:
    author = lead(log, "a")
    world.set_term_key(2)
    before = world.contents()
    assert author.append() == Reply(Code.FENCED, term=2, node="a")
    assert author.append_part(0, 1).code is Code.FENCED
    assert log.renew(author.writer, 1, 1000).code is Code.FENCED
    author.term = 2
    assert author.append().code is Code.FENCED, "nobody took term 2: it was not opened by a term record"
    assert world.contents() == before
    assert promote(log, "b").term == 3


# --- numbers from outside --------------------------------------------------------------------------------------------

FAR = TERM_LEAP + 1


@pytest.mark.parametrize("term", [str(1 + FAR), str(2**53 - 2), str(2**53), "five", "-1"])
def test_a_term_key_that_no_script_can_have_written_is_told_and_not_passed(world: World, log: Log, term: str) -> None:
    author = lead(log)
    author.append()
    world.set_term_key(int(term) if term.isdigit() else term)
    before = world.contents()
    with pytest.raises(LogUnavailable, match=r"BADTERM the term key holds .*`replicator recover`") as marred:
        log.look()
    assert (marred.value.look.term, marred.value.look.head.position.id) == (1, RecordId(1, 2))
    with pytest.raises(LogUnavailable, match="BADTERM"):
        promote(log, "b")
    if term.isdigit():
        assert author.append().code is Code.FENCED
    else:
        with pytest.raises(LogUnavailable, match="BADTERM"):
            author.append()
    assert world.contents() == before
    # and one promotion that is to mend it does, in the same log
    assert promote(log, "b", anew=True, floor=1) == Reply(Code.OK, term=2, id=RecordId(2, 3))
    assert log.look().term == 2
    assert ids(log) == ["1-1", "1-2", "2-3"]
    assert promote(log, "c").term == 3


def test_a_term_key_that_is_ahead_by_what_can_be_counts(world: World, log: Log) -> None:
    lead(log)
    world.set_term_key(1 + TERM_LEAP)
    assert promote(log, "b").term == 2 + TERM_LEAP


@pytest.mark.parametrize("fields", [{"term": str(2**53 - 2)}, {"id": f"{2**53 - 2}-2"}, {"id": "7-2"}])
def test_a_head_that_does_not_fit_together_is_refused_and_founded_anew(
    world: World, log: Log, fields: dict[str, str]
) -> None:
    author = lead(log, floor=ERA)
    author.append()
    world.set_head(**fields)
    before = world.contents()
    with pytest.raises(LogUnavailable, match=r"something else than replicator wrote to .*`replicator recover`"):
        log.look()
    for call in (author.append, lambda: promote(log, "b"), lambda: log.renew(author.writer, author.term, 1000)):
        with pytest.raises(LogUnavailable, match="BADHEAD"):
            call()
    assert world.contents() == before
    reply = promote(log, "b", anew=True, floor=author.term)
    assert reply.id == RecordId((author.term // ERA + 1) * ERA + 1, 1)
    assert log.look().term == reply.term


def test_a_log_at_a_record_that_no_node_takes_is_founded_anew_only_if_it_is_named(world: World, log: Log) -> None:
    """It looks whole: record and head were forged together."""
    author = lead(log)
    far = author.change()
    far = replace(far, id=RecordId(FAR + 1, 2))
    assert world.write_raw(far.id, far.header, far.body)
    world.set_head(term=str(FAR + 1), id=str(far.id))
    assert promote(log, "b", anew=True, floor=1).code is Code.WHOLE
    assert promote(log, "b", anew=True, floor=1, unfollowed=RecordId(FAR + 1, 3)).code is Code.WHOLE
    assert promote(log, "b", anew=True, floor=1, unfollowed=far.id).id == RecordId(ERA + 1, 1)


def test_records_count_by_one(world: World, log: Log) -> None:
    author = lead(log)
    author.append()
    honest = author.position
    author.position = Position(RecordId(1, 9), honest.chain)
    before = world.contents()
    assert author.append() == Reply(Code.BEHIND, id=honest.id)
    assert author.append_part(0, 1).code is Code.BEHIND
    assert world.contents() == before


def test_a_rebase_leaves_a_gap_up_and_not_without_end(world: World, log: Log) -> None:
    author = lead(log)
    for _ in range(3):
        author.append()
    before = world.contents()
    beyond = author.part(0, as_of=author.position, skip=N_LEAP)
    with pytest.raises(LogUnavailable, match="BADRECORD"):
        log.part(beyond, rebase=True)
    author.position = Position(RecordId(1, 1), "1" * 32)
    assert log.part(author.part(0, as_of=author.position), rebase=True) == Reply(Code.BEHIND, id=RecordId(1, 4))
    assert world.contents() == before
    assert log.part(author.part(0, as_of=author.position, skip=3), rebase=True).code is Code.OK


# --- what the head remembers -----------------------------------------------------------------------------------------


def test_the_head_remembers_the_least_number_of_standbys_that_anybody_waited_for(world: World, log: Log) -> None:
    author = lead(log)

    def applied_min() -> int:
        head = log.look().head
        assert head is not None
        return head.applied_min

    for waits, least in ((0, 0), (3, 3), (2, 2), (5, 2), (0, 2), (1, 1)):
        record = seal_change(
            writer=author.writer, term=1, after=author.position, at=0, codec="json", digest="0", count=1,
            body=b"", wants_acks=waits,
        )  # fmt: skip
        assert log.append(record).code is Code.OK
        author.position = record.position
        assert applied_min() == least
    assert lead(log, "b", applied_min=7).append().code is Code.OK
    assert applied_min() == 1, "a promotion keeps it"
    world.write_raw(CLOCK_ID)
    assert promote(log, "c", anew=True, floor=2).code is Code.OK
    assert applied_min() == 1, "and so does founding anew"


def test_a_promotion_and_a_replacement_tell_it_too(world: World, log: Log) -> None:
    author = lead(log, applied_min=4)
    head = log.look().head
    assert head is not None
    assert head.applied_min == 4
    part = seal_part(
        writer=author.writer, term=1, after=author.position, n=2, at=0, codec="json+zstd", digest="0", part=0, parts=1,
        as_of=author.position, changed=ZERO_ID, replaces=True, body=b"", wants_acks=2,
    )  # fmt: skip
    assert log.part(part).code is Code.OK
    head = log.look().head
    assert head is not None
    assert head.applied_min == 2
    assert lead(log, "b", applied_min=1).term == 2
    head = log.look().head
    assert head is not None
    assert head.applied_min == 1


def test_whoever_leads_says_that_the_log_is_whole_in_this_run(world: World, log: Log) -> None:
    author = lead(log)
    run = log.look().run
    says = Heartbeat("a", author.writer.boot, run=run, term=1, role="primary")
    others = ("b", {"boot": "9"}), ("b", {}), ("a", {"term": 2}), ("a", {"run": "other"}), ("a", {"role": "standby"})
    for name, facts in others:
        log.beat(says._replace(node=name, **({"boot": "9"} if name == "b" else {}) | facts))  # type: ignore[arg-type]
        assert not log.look().is_whole
    log.beat(says)
    look = log.look()
    assert look.is_whole
    assert look.head is not None
    assert 0 <= look.now_ms - look.head.whole_at < 60_000
    world.fail_over(world.copy())
    assert not looked(log, 30).is_whole


def test_a_node_says_goodbye_in_its_own_run_only(world: World, log: Log) -> None:
    lead(log)
    run = log.look().run
    log.beat(Heartbeat("b", "1", run=run))
    log.beat(Heartbeat("b", "1", run="other", left=True))
    assert not log.look().heartbeats["b"].left
    log.beat(Heartbeat("b", "1", run=run, left=True))
    heartbeat = log.look().heartbeats["b"]
    assert heartbeat.left
    assert not heartbeat.alive


def test_a_node_that_is_forgotten_is_gone_and_the_others_hear_of_it(world: World, log: Log) -> None:
    lead(log)
    after = log.newest_ask()
    for name in "bc":
        log.beat(Heartbeat(name, "1"))
    log.forget("b", by="ann")
    assert list(log.look().heartbeats) == ["c"]
    (ask,) = log.read(None, asks_after=after).asks
    assert (ask.what, ask.node, ask.by) == ("forget", "b", "ann")


# --- settings --------------------------------------------------------------------------------------------------------


def test_groups_do_not_meet(world: World, log: Log) -> None:
    if isinstance(world, MemoryWorld):
        pytest.skip("one MemoryRedis is one group")
    lead(log)
    other = RedisLog(log.url, "another.group_2-b")
    assert other.look().head is None
    assert promote(other).term == 1
    assert ids(log) == ["1-1"]
    other.close()


@pytest.mark.parametrize("group", ["", "{a", "a}", "a b", "a\tb", "größe", "x" * 65])
def test_a_group_whose_name_is_none_is_refused(group: str) -> None:
    with pytest.raises(ConfigError, match="group"):
        RedisLog("redis://localhost", group)
    with pytest.raises(ConfigError, match="group"):
        MemoryLog(MemoryRedis(), group)


def test_a_word_of_who_took_terms_lately_that_means_nothing_is_passed_over(world: World, log: Log) -> None:
    if isinstance(world, MemoryWorld):
        pytest.skip("it has no words there")
    lead(log)
    with client_for(log.url) as client:
        client.hset(f"replicator:{{{log.group}}}:head", "taken", "5/a yesterday 7/b\tc x/y")
    assert head_of(log).taken == ((5, "a"), (7, "b"))
    assert promote(log, "z").code is Code.OK


def test_a_url_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a Redis URL"):
        RedisLog("http://localhost", "g")


def test_an_outcome_that_is_not_known_is_a_kind_of_unavailable() -> None:
    assert issubclass(OutcomeUnknown, LogUnavailable)
