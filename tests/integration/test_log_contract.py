"""The contract of a log, kept by its twin in memory and by every Redis at hand. Each guarantee is named where it shows.

What only a network or a real server can do to a client stands in `log_faults/`.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from replicator.errors import ConfigError, CorruptRecord, LogUnavailable, OutcomeUnknown
from replicator.format.ids import ERA, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import ChangeRecord, seal_change, seal_part
from replicator.log.interface import Ack, Batch, Log
from replicator.log.redis_log import RedisLog, client_for
from replicator.protocol.group import Code, LeaseText, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.kv import PATIENCE_S
from tests.support.worlds import (
    CLOCK_ID,
    LOG_ID,
    Author,
    MemoryWorld,
    RedisWorld,
    World,
    head_of,
    ids,
    lead,
    looked,
    promote,
)

# --- its size ---------------------------------------------------------------------------------------------------------


def test_its_size_is_told_in_records_and_in_bytes_that_redis_needs_for_them(log: Log) -> None:
    author = lead(log)
    one = log.size()
    author.append(random.Random(1).randbytes(20_000).hex())
    two = log.size()
    assert (one.records, two.records) == (1, 2)
    assert one.bytes is not None
    assert two.bytes is not None
    assert one.bytes < 20_000 < two.bytes


# --- the lease --------------------------------------------------------------------------------------------------------


def test_a_promotion_sets_the_lease_and_a_renewal_extends_it(log: Log) -> None:
    author = lead(log, lease_ms=1_000_000)
    assert 0 < (log.look().lease_ms or 0) <= 1_000_000
    assert log.renew(author.writer, 1, 50_000_000) == Reply(Code.OK)
    assert 1_000_000 < (log.look().lease_ms or 0) <= 50_000_000


def test_a_lease_says_who_has_it_and_for_how_long(log: Log) -> None:
    author = lead(log, lease_ms=1_000)
    assert log.renew(author.writer, 1, 50_000) == Reply(Code.OK)
    look = log.look()
    lease = LeaseText.parse(look.lease)
    assert lease is not None
    assert lease[:2] == ("1 a 1", 50_000)
    assert abs(lease.granted_ms - look.now_ms) < 60_000
    log.give_back(author.writer, 1)
    assert log.look().lease == ""


def test_a_lease_of_which_the_server_says_that_it_is_longer_than_it_can_be_is_as_long_as_it_can_be(
    world: World, log: Log
) -> None:
    lead(log, lease_ms=60_000)
    world.stretch_lease()
    assert log.look().lease_ms == 60_000


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
    since = log.newest_request()
    log.give_back(Writer("a", "another boot"), 1)
    log.give_back(author.writer, 1)
    log.give_back(author.writer, 1)
    assert [(request.what, request.node) for request in log.read(None, requests_after=since).requests] == [
        ("vacant", "a")
    ]


# --- reads ------------------------------------------------------------------------------------------------------------


def found_nothing(batch: Batch) -> bool:
    return not (batch.records or batch.requests or batch.acks or batch.corrupt)


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


#: Longer than anybody waits for a read that nothing wakes.
LONG_MS = round(2 * PATIENCE_S * 1000)


def test_a_blocking_read_ends_with_the_next_record(world: World, log: Log) -> None:
    author = lead(log)
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(world.log().read, RecordId(1, 1), block_ms=LONG_MS)
        time.sleep(0.05)
        author.append()
        assert [str(record.id) for record in read.result(PATIENCE_S).records] == ["1-2"]


def test_a_blocking_read_ends_by_itself(log: Log) -> None:
    lead(log)
    started = time.monotonic()
    assert found_nothing(log.read(RecordId(1, 1), block_ms=60))
    assert 0.04 <= time.monotonic() - started < PATIENCE_S


def test_closing_ends_a_blocked_read(log: Log) -> None:
    lead(log)
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(log.read, RecordId(1, 1), block_ms=LONG_MS)
        time.sleep(0.1)
        log.close()
        with pytest.raises(LogUnavailable):
            read.result(PATIENCE_S)


def test_a_closed_log_stays_closed(log: Log) -> None:
    author = lead(log)
    log.close()
    for call in (log.look, author.append, lambda: log.read(ZERO_ID)):
        with pytest.raises(LogUnavailable, match="closed"):
            call()


def test_asks_are_read_once_beside_the_records(log: Log) -> None:
    lead(log)
    since = log.newest_request()
    first = log.request("snapshot", by="ann")
    second = log.request("digest", by="bob", node="a")
    batch = log.read(ZERO_ID, requests_after=since)
    assert [(request.id, request.what, request.node, request.by) for request in batch.requests] == [
        (first, "snapshot", "", "ann"),
        (second, "digest", "a", "bob"),
    ]
    assert len(batch.records) == 1
    assert log.read(None, requests_after=second).requests == []
    assert log.newest_request() == second


def test_an_ask_wakes_a_blocked_read(world: World, log: Log) -> None:
    lead(log)
    since = log.newest_request()
    with ThreadPoolExecutor(1) as thread:
        read = thread.submit(world.log().read, RecordId(1, 1), requests_after=since, block_ms=LONG_MS)
        time.sleep(0.05)
        log.request("digest", by="ann")
        assert [request.what for request in read.result(PATIENCE_S).requests] == ["digest"]


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
        read = thread.submit(world.log().read, None, acks_after="0-0", block_ms=LONG_MS)
        time.sleep(0.05)
        log.ack(Ack("b", RecordId(1, 1)))
        assert [ack.node for ack in read.result(PATIENCE_S).acks] == ["b"]


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
    log.beat(Heartbeat("b", "b1", every_ms=60_000, in_sync=False, http="http://b", stalled="apply failed"))
    time.sleep(0.06)
    heartbeats = log.look().heartbeats
    assert heartbeats["a"]._replace(age_ms=0, beaten_at=0) == heartbeat
    assert 50 <= heartbeats["a"].age_ms < 60_000
    assert (heartbeats["a"].alive, heartbeats["b"].alive) == (False, True)
    log.beat(heartbeat._replace(boot="a2"))
    assert log.look().heartbeats["a"].boot == "a2"
    assert log.look().heartbeats["b"].stalled == "apply failed"


# --- what is not a record ---------------------------------------------------------------------------------------------


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


# --- a server in another run ------------------------------------------------------------------------------------------


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


# --- what the head remembers ------------------------------------------------------------------------------------------


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
    after = log.newest_request()
    for name in "bc":
        log.beat(Heartbeat(name, "1"))
    log.forget("b", by="ann")
    assert list(log.look().heartbeats) == ["c"]
    (request,) = log.read(None, requests_after=after).requests
    assert (request.what, request.node, request.by) == ("forget", "b", "ann")


# --- settings ---------------------------------------------------------------------------------------------------------


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
