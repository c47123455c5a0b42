"""The contract of a log (test_log_contract.py), of terms: who gets one, on what that depends, what is kept of it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import orjson
import pytest

from replicator.errors import LogUnavailable
from replicator.format.codec import encode_changes
from replicator.format.ids import ERA, N_LEAP, TERM_LEAP, TERM_MAX, ZERO_CHAIN, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import TermRecord, seal_change, seal_part
from replicator.log.interface import Log
from replicator.protocol.group import LEASE_MS_MAX, TAKEN_KEPT, Code, LeaseText, Reply
from tests.support.worlds import CLOCK_ID, LOG_ID, World, head_of, ids, lead, promote

# --- promote ----------------------------------------------------------------------------------------------------------


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


def test_a_promotion_says_which_change_the_group_goes_on_without(log: Log) -> None:
    author = lead(log, "a")
    author.append()
    assert promote(log, "b", skip=RecordId(1, 2)).code is Code.OK
    record = log.find(RecordId(2, 3))
    assert isinstance(record, TermRecord)
    assert record.skip == RecordId(1, 2)
    promote(log, "b")
    record = log.find(RecordId(3, 4))
    assert isinstance(record, TermRecord)
    assert (record.skip, b"skip" in record.header) == (ZERO_ID, False), "older programs wrote no such thing"
    head = log.look().head
    assert head is not None
    assert head.changed == RecordId(1, 2), "until the state without it is in the log"


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
    since = log.newest_request()
    promote(log, "b", by="ann")
    (request,) = log.read(None, requests_after=since).requests
    assert (request.what, request.node, request.by) == ("term", "b", "ann")


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


# --- what else a claim depends on -------------------------------------------------------------------------------------


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
    lead(log, "a", lease_ms=60_000)
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


@pytest.mark.parametrize(
    "forged",
    [
        LeaseText("1 z z1", 60_000, 1), LeaseText("2 a {boot}", 60_000, 1), LeaseText("1 a other", 60_000, 1),
        LeaseText("1 a {boot}", LEASE_MS_MAX + 1, 1), LeaseText("", 1, 1),
    ],
)  # fmt: skip
def test_a_lease_that_the_holder_cannot_have_stops_no_candidate(world: World, log: Log, forged: LeaseText) -> None:
    author = lead(log, "a", lease_ms=1)
    forged = forged._replace(holder=forged.holder.format(boot=author.writer.boot))
    world.set_lease(forged)
    look = log.look()
    assert (look.lease, look.lease_ms) == (str(forged), None)
    assert promote(log, "b", unleased=True, expect=1).term == 2
    renewed = LeaseText.parse(log.look().lease)
    assert renewed is not None
    assert renewed.holder.startswith("2 b "), "and the next holder has its own"


def test_of_16_candidates_that_saw_the_lease_run_out_one_wins(world: World) -> None:
    """G1."""
    lead(world.log(), "first", lease_ms=1)
    time.sleep(0.02)
    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(lambda i: promote(world.log(), f"n{i}", unleased=True, expect=1), range(16)))
    assert sorted(reply.code.value for reply in replies) == ["conflict"] * 15 + ["ok"]


# --- founding anew ----------------------------------------------------------------------------------------------------


def broken_by(how: str, world: World) -> None:
    if how == "a stray entry":
        world.write_raw(CLOCK_ID)
    elif how == "none":
        world.flush()
    else:
        world.drop("log" if how == "no stream" else "head")


BROKEN = ["a stray entry", "no stream", "no head", "none"]


def test_a_log_whose_head_names_another_one_goes_on_by_its_own_name(world: World, log: Log) -> None:
    author = lead(log, "a")
    before = head_of(log)
    world.set_head(log_id="forged")
    for named in ("", "other", LOG_ID):
        assert promote(log, "b", anew=True, new_log_id=LOG_ID, misnamed=named).code is Code.WHOLE
    reply = promote(log, "b", anew=True, new_log_id=LOG_ID, misnamed="forged", floor=author.term)
    assert reply == Reply(Code.OK, term=2, id=RecordId(2, before.position.id.n + 1))
    record = log.find(reply.id)
    assert isinstance(record, TermRecord)
    assert (record.log_id, record.prev) == (LOG_ID, before.position.chain)
    assert head_of(log).log_id == LOG_ID


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


# --- the ends of terms ------------------------------------------------------------------------------------------------


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


# --- who took terms by itself -----------------------------------------------------------------------------------------


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


# --- automatic failover, on and off -----------------------------------------------------------------------------------


def test_a_pause_stands_in_the_head_until_it_is_ended(log: Log) -> None:
    author = lead(log, "a")
    since = log.newest_request()
    assert log.pause("by ann: moving house ✓").code is Code.OK
    assert head_of(log).paused == "by ann: moving house ✓"
    author.append()
    lead(log, "b").snapshot()
    assert head_of(log).paused == "by ann: moving house ✓"
    assert log.pause("").code is Code.OK
    assert head_of(log).paused == ""
    assert [request.what for request in log.read(None, requests_after=since).requests] == ["paused", "term", "paused"]


def test_where_there_is_no_log_nothing_is_paused(world: World, log: Log) -> None:
    before = world.contents()
    assert log.pause("by ann") == Reply(Code.LOST)
    assert world.contents() == before


def test_a_pause_changes_nothing_else(log: Log) -> None:
    lead(log, "a").append()
    before = head_of(log)
    log.pause("by ann")
    paused = head_of(log)
    assert paused == before._replace(paused="by ann", paused_at=paused.paused_at, history_count=2)
    assert 0 <= log.look().now_ms - paused.paused_at < 60_000, "since when, by the clock of Redis"
    log.pause("")
    assert head_of(log) == before._replace(history_count=3)


# --- the term key -----------------------------------------------------------------------------------------------------


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


# --- numbers from outside ---------------------------------------------------------------------------------------------


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


# --- whose log it is --------------------------------------------------------------------------------------------------


def test_a_log_is_of_the_application_that_founded_it(log: Log) -> None:
    promote(log, app="Flags")
    record = log.find(RecordId(1, 1))
    assert isinstance(record, TermRecord)
    assert record.app == head_of(log).app == "Flags"


def test_no_node_of_another_application_takes_a_term(world: World, log: Log) -> None:
    lead(log, "a", app="Flags")
    before = world.contents()
    assert promote(log, "b", app="Registry") == Reply(Code.OTHER_APP, app="Flags")
    assert promote(log, "b", app="Registry", expect=7) == Reply(Code.OTHER_APP, app="Flags"), "that will not pass"
    assert world.contents() == before
    assert promote(log, "b", app="Flags").term == 2


def test_a_log_that_knows_no_application_takes_that_of_the_next_term(log: Log) -> None:
    first = lead(log, "a")
    record = log.find(RecordId(1, 1))
    assert isinstance(record, TermRecord)
    assert (record.app, head_of(log).app) == ("", "")
    assert b"app" not in record.header, "the record is what it was before there were names of applications"
    first.append()
    promote(log, "b", app="Flags")
    assert head_of(log).app == "Flags"
    assert promote(log, "c", app="Registry").code is Code.OTHER_APP


def test_whoever_takes_a_term_for_nobody_needs_no_application(log: Log) -> None:
    promote(log, "a", app="Flags")
    assert promote(log, "nobody").term == 2
    assert head_of(log).app == "Flags"
    record = log.find(RecordId(2, 2))
    assert isinstance(record, TermRecord)
    assert record.app == "Flags"


def test_a_broken_log_is_founded_anew_for_its_own_application(world: World, log: Log) -> None:
    lead(log, "a", app="Flags").append()
    world.write_raw(RecordId(9, 9))
    assert promote(log, "b", app="Registry", anew=True) == Reply(Code.OTHER_APP, app="Flags")
    assert promote(log, "b", app="Flags", anew=True).code is Code.OK
    assert head_of(log).app == "Flags"


# --- a group that has a key -------------------------------------------------------------------------------------------

SEAL = "0:0:1:00000000:" + "0" * 64


def test_a_group_that_has_a_key_gives_no_term_to_who_has_none(world: World, log: Log) -> None:
    lead(log, "a", seal=SEAL).append()
    record = log.find(RecordId(1, 1))
    assert record is not None
    assert orjson.loads(record.header)["seal"] == SEAL
    assert head_of(log).sealed
    before = world.contents()
    assert promote(log, "b") == Reply(Code.SEALED)
    assert promote(log, "nobody") == Reply(Code.SEALED)
    assert world.contents() == before
    assert promote(log, "b", seal=SEAL).term == 2
    world.write_raw(RecordId(9, 9))
    assert promote(log, "c", anew=True) == Reply(Code.SEALED)
    assert promote(log, "c", anew=True, seal=SEAL).code is Code.OK
    assert head_of(log).sealed


def test_who_knows_that_nothing_is_sealed_any_more_takes_a_term_for_those_who_have_no_key(log: Log) -> None:
    promote(log, "a", seal=SEAL)
    assert promote(log, "a", seal="-").term == 2
    record = log.find(RecordId(2, 2))
    assert record is not None
    assert b"seal" not in record.header
    assert not head_of(log).sealed
    assert promote(log, "b").term == 3


def test_a_log_with_a_key_whose_head_names_another_one_goes_on_by_its_own_name(world: World, log: Log) -> None:
    author = lead(log, "a", seal=SEAL)
    world.set_head(log_id="forged")
    wanted = {"anew": True, "new_log_id": LOG_ID, "floor": author.term}
    assert promote(log, "b", **wanted, seal=SEAL).code is Code.WHOLE
    assert promote(log, "b", **wanted, misnamed="forged") == Reply(Code.SEALED)
    reply = promote(log, "b", **wanted, seal=SEAL, misnamed="forged")
    assert reply.term == 2
    record = log.find(reply.id)
    assert isinstance(record, TermRecord)
    assert (record.log_id, orjson.loads(record.header)["seal"]) == (LOG_ID, SEAL)
    assert (head_of(log).log_id, head_of(log).sealed) == (LOG_ID, True)
