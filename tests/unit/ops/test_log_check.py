"""The walk: a good log is good, whatever happened to its group, and each rule has a forged log that breaks it.

The logs come from members over a log in memory (`tests/support/logs.py`), so a good one is what the product writes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator.format.codec import encode_change, encode_changes
from replicator.format.ids import ERA, ZERO_ID, RecordId
from replicator.format.records import PartRecord
from replicator.ops.log_check import RULES, LogFacts, LogVerifier, Violation
from replicator.protocol.group import Head
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.logs import Entry, Pen, fail_over, forged


def walked(log: MemoryLog, head: Head | None = None) -> LogFacts:
    head = head or log.look().head
    assert head is not None
    with contextlib.closing(LogVerifier()) as walk:
        for record in (batch := log.read(ZERO_ID, count=10_000)).records:
            walk.take(record)
        assert batch.corrupt is None
        walk.finish(head)
        return walk.facts


@pytest.fixture
def server() -> MemoryRedis:
    return MemoryRedis(clock_ms=lambda: 1.0)


def two_terms(server: MemoryRedis) -> Pen:
    """1-1 term a, 1-2 change, 1-3 marker, 1-4 change of two, 2-5 term b, 2-6 change."""
    a = Pen(server, "a")
    a.promote()
    a.change("x")
    a.change()
    a.change("y", "z")
    b = Pen(server, "b")
    b.promote()
    b.change("w")
    return b


# --- good logs -------------------------------------------------------------------------------------------------------


def test_promotions_changes_and_markers_are_counted(server: MemoryRedis) -> None:
    two_terms(server)
    facts = walked(MemoryLog(server))
    assert facts == LogFacts(
        first_id="1-1", last_id="2-6", record_count=6, term_count=2, change_count=4, marker_count=1,
        records_bytes=facts.records_bytes,
    )  # fmt: skip
    assert facts.records_bytes > 500


def test_a_demotion_and_a_term_key_moved_by_hand_are_good(server: MemoryRedis) -> None:
    a = two_terms(server)
    server._write(term=7)
    a.promote(reason="again")
    assert a.node_state.view.term == 8
    a.change("x")
    assert walked(a.log).term_count == 3


def test_a_snapshot_with_changes_between_its_parts_is_good(server: MemoryRedis) -> None:
    b = two_terms(server)
    parts = b.parts(size=10)
    next(parts)
    b.change("between")
    assert len(list(parts)) > 1
    assert walked(b.log).snapshot_count == 1


def test_a_snapshot_that_was_broken_off_by_a_promotion_or_begun_anew_is_good(server: MemoryRedis) -> None:
    b = two_terms(server)
    next(b.parts(size=10))
    next(b.parts(size=10))
    b.promote()
    assert walked(b.log).broken_snapshot_count == 2
    next(b.parts(size=10))
    facts = walked(b.log)
    assert (facts.snapshot_count, facts.broken_snapshot_count) == (0, 2)


def test_a_state_that_was_replaced_is_good(server: MemoryRedis) -> None:
    b = two_terms(server)
    b.snapshot(replaces=True)
    b.change("x")
    assert walked(b.log).snapshot_count == 1


def test_a_log_that_was_trimmed_begins_where_its_snapshot_allows(server: MemoryRedis) -> None:
    b = two_terms(server)
    b.snapshot()
    b.change("x")
    b.snapshot()
    facts = walked(b.log)
    assert (facts.first_id, facts.trimmed, facts.snapshot_count) == ("2-7", True, 2)
    b.promote()
    b.change("y")
    b.snapshot()
    b.change("z")
    Pen(server, "c").promote()
    facts = walked(b.log)
    assert facts.trimmed
    assert facts.term_count == 3


def rebased(server: MemoryRedis) -> Pen:
    """Redis comes back without 1-4 and 1-5; a, which has them, goes on from there."""
    a = Pen(server, "a")
    a.promote()
    a.change("w")
    a.change("x")
    copy = server.state
    a.change("y")
    a.change("z")
    fail_over(server, copy)
    a.promote()
    assert a.node_state.must_rebase
    assert len(a.snapshot(size=10)) > 1
    a.change("on")
    return a


def test_a_rebase_is_good_and_counted(server: MemoryRedis) -> None:
    a = rebased(server)
    first = server.state.entries[4]
    assert (first.id.term, first.id.n) == (ERA + 1, 6)
    facts = walked(a.log)
    assert (facts.rebase_count, facts.snapshot_count, facts.term_count) == (1, 1, 2)
    # and so is what comes after it: terms, snapshots, and a log that is trimmed in the end
    b = Pen(server, "b")
    b.promote()
    a.read()
    a.promote()
    a.snapshot()
    assert walked(a.log).rebase_count == 1
    a.change("x")
    a.snapshot()
    assert walked(a.log).trimmed


def test_what_a_rebase_brings_back_is_the_last_change_of_the_log(server: MemoryRedis) -> None:
    a = Pen(server, "a")
    a.promote()
    copy = server.state
    a.change("x")
    fail_over(server, copy)
    a.promote()
    parts = a.parts(size=10)
    next(parts)
    assert walked(a.log).rebase_count == 1
    assert list(parts)[-1].is_last
    head = a.log.look().head
    assert head is not None
    assert head.changed == RecordId(1, 2)
    with pytest.raises(Violation, match="last change"):
        walked(a.log, head._replace(changed=ZERO_ID))


def test_a_rebase_that_was_broken_off_is_good_and_so_is_the_one_that_another_makes(server: MemoryRedis) -> None:
    a = Pen(server, "a")
    a.promote()
    a.change("w")
    b = Pen(server, "b")
    copy = server.state
    a.change("x")
    b.read()
    fail_over(server, copy)
    a.promote()
    next(a.parts(size=10))
    b.promote()
    b.snapshot(size=10)
    b.change("y")
    facts = walked(b.log)
    assert (facts.rebase_count, facts.snapshot_count, facts.broken_snapshot_count) == (2, 1, 1)


def test_a_log_that_was_founded_anew_is_good(server: MemoryRedis) -> None:
    a = two_terms(server)
    server.stray(RecordId(9, 9))
    a.promote(anew=True, floor=2)
    a.snapshot()
    a.change("x")
    facts = walked(a.log)
    assert (facts.first_id, facts.rebase_count) == (f"{a.node_state.view.term}-1", 1)


def test_nobody_can_know_the_ends_of_terms_that_were_trimmed_away_and_they_are_learnt(server: MemoryRedis) -> None:
    b = two_terms(server)
    b.snapshot(size=1000)
    b.change("x")
    b.snapshot(size=1000)
    with contextlib.closing(LogVerifier()) as walk:
        first, second, *_ = (record for record in b.log.read(ZERO_ID, count=100).records if record.kind == "part")
        ends = second.ends if isinstance(second, PartRecord) else ()
        walk.take(replace(first, part=0, parts=0))
        assert walk._ends is None
    with contextlib.closing(LogVerifier()) as walk:
        walk.take(first)
        assert walk._ends == ends == (RecordId(1, 4),)


# --- broken ones -----------------------------------------------------------------------------------------------------


def violation(log: MemoryLog, head: Head | None = None) -> Violation:
    with pytest.raises(Violation) as raised:
        walked(log, head)
    found = raised.value
    assert str(found) == f"{found.rule}: {found.message} ({RULES[found.rule][1]})"
    assert found.to_dict()["rule"] == found.rule
    return found


def named(found: Violation) -> tuple[str, list[str]]:
    return found.rule, [str(id_) for id_ in found.ids]


def test_a_record_that_was_deleted_is_missed(server: MemoryRedis) -> None:
    two_terms(server)
    found = violation(forged(server, lambda entries: entries.pop(3), rechain=False))
    assert named(found) == ("ids", ["1-3", "2-5"])
    assert "number 4 is missing" in found.message


def test_several_that_were_deleted_are_missed_even_if_the_rest_was_sealed_anew(server: MemoryRedis) -> None:
    two_terms(server)

    def delete(entries: list[Entry]) -> None:
        del entries[1:4]

    found = violation(forged(server, delete))
    assert named(found) == ("ids", ["1-1", "2-5"])
    assert "2 to 4" in found.message


def test_a_record_that_was_deleted_before_a_snapshot_is_not_taken_for_a_rebase(server: MemoryRedis) -> None:
    b = two_terms(server)
    b.change("x")
    b.snapshot()
    assert named(violation(forged(server, lambda entries: entries.pop(6), rechain=False))) == ("ids", ["2-6", "2-8"])


def test_records_that_stand_in_the_wrong_order_are_found(server: MemoryRedis) -> None:
    two_terms(server)

    def swap(entries: list[Entry]) -> None:
        entries[1], entries[2] = entries[2], entries[1]

    log = forged(server, swap)
    log.server.state = replace(log.server.state, entries=tuple(log.server.state.entries))
    assert named(violation(log))[0] == "ids"


def test_ids_that_do_not_grow_are_found(server: MemoryRedis) -> None:
    two_terms(server)

    def repeat(entries: list[Entry]) -> None:
        entries.insert(2, Entry(entries[1].id, dict(entries[1].header), entries[1].body))

    assert named(violation(forged(server, repeat))) == ("ids", ["1-2", "1-2"])


def test_a_lower_term_behind_a_higher_one_is_found(server: MemoryRedis) -> None:
    two_terms(server)

    def go_back(entries: list[Entry]) -> None:
        entries[5].id = RecordId(1, 6)

    assert named(violation(forged(server, go_back))) == ("ids", ["2-5", "1-6"])


def test_an_n_that_counts_back_in_a_higher_term_is_found(server: MemoryRedis) -> None:
    two_terms(server)

    def count_back(entries: list[Entry]) -> None:
        entries[4].id = RecordId(2, 3)
        del entries[5:]

    assert named(violation(forged(server, count_back))) == ("ids", ["1-4", "2-3"])


def test_a_record_that_was_changed_breaks_the_chain_behind_it(server: MemoryRedis) -> None:
    two_terms(server)

    def rewrite(entries: list[Entry]) -> None:
        codec, body, digest = encode_changes([encode_change({"push": "X"})])
        entries[1].body = body
        entries[1].header |= {"codec": codec, "digest": digest}

    assert named(violation(forged(server, rewrite, rechain=False))) == ("chain", ["1-2", "1-3"])


def test_a_first_record_that_follows_another_is_found(server: MemoryRedis) -> None:
    two_terms(server)

    def follow(entries: list[Entry]) -> None:
        entries[0].header["prev"] = "f" * 32
        entries[0].keep = True

    assert named(violation(forged(server, follow))) == ("chain", ["1-1"])


def test_a_log_that_was_cut_by_hand_is_found(server: MemoryRedis) -> None:
    b = two_terms(server)
    entries = server.state.entries
    server._write(entries=entries[1:])
    found = violation(b.log)
    assert named(found) == ("beginning", ["1-2", "0-0"])
    # also one that was cut further than its snapshots allow
    server._write(entries=entries)
    b.snapshot(size=1000)
    b.change("x")
    b.snapshot(size=1000)
    assert walked(b.log).first_id == "2-7"
    server._write(entries=server.state.entries[1:])
    assert named(violation(b.log)) == ("beginning", ["2-8", "2-6"])


def test_a_boot_that_writes_in_the_term_of_another_is_found(server: MemoryRedis) -> None:
    two_terms(server)

    def usurp(entries: list[Entry]) -> None:
        entries[2].header["boot"] = "a-2"

    found = violation(forged(server, usurp))
    assert named(found) == ("writer", ["1-3"])
    assert (found.node, "a/a-2" in found.message, "a/a-1" in found.message) == ("a", True, True)


def test_a_term_that_no_term_record_opens_is_found(server: MemoryRedis) -> None:
    two_terms(server)

    def skip(entries: list[Entry]) -> None:
        del entries[4]
        entries[4].id = RecordId(2, 5)

    assert named(violation(forged(server, skip))) == ("term", ["2-5"])


def test_a_log_that_begins_without_a_term_record_is_found(server: MemoryRedis) -> None:
    two_terms(server)

    def skip(entries: list[Entry]) -> None:
        del entries[0]
        for n, entry in enumerate(entries, 1):
            entry.id = RecordId(entry.id.term, n)

    assert named(violation(forged(server, skip))) == ("term", ["1-1"])


def test_a_term_that_is_opened_twice_is_found(server: MemoryRedis) -> None:
    two_terms(server)

    def reopen(entries: list[Entry]) -> None:
        entries[5] = Entry(RecordId(2, 6), dict(entries[4].header), b"")

    assert named(violation(forged(server, reopen))) == ("term", ["2-6"])


def test_a_term_of_another_log_is_found(server: MemoryRedis) -> None:
    two_terms(server)
    found = violation(forged(server, lambda entries: entries[4].header.update(log_id="log-2")))
    assert named(found) == ("term", ["2-5"])


def test_a_new_run_in_the_same_era_is_found(server: MemoryRedis) -> None:
    two_terms(server)
    found = violation(forged(server, lambda entries: entries[4].header.update(run="run-2")))
    assert named(found) == ("term", ["2-5"])
    assert "same era" in found.message


@pytest.mark.parametrize("ends", ["", "1-3", "0-0 1-4", "1-5"])
def test_a_term_record_that_tells_other_ends_is_found(server: MemoryRedis, ends: str) -> None:
    two_terms(server)
    found = violation(forged(server, lambda entries: entries[4].header.update(ends=ends)))
    assert named(found) == ("ends", ["2-5"])


def test_a_snapshot_that_tells_other_ends_is_found(server: MemoryRedis) -> None:
    two_terms(server).snapshot(size=1000)
    found = violation(forged(server, lambda entries: entries[-1].header.update(ends="1-3")))
    assert named(found) == ("ends", ["2-7"])


@pytest.mark.parametrize("ends", ["", "1-4", "1-5 1-5", f"1-2 {ERA + 1}-5"])
def test_a_rebase_that_tells_another_parting_is_found(server: MemoryRedis, ends: str) -> None:
    a = rebased(server)
    last = next(i for i, entry in enumerate(server.state.entries) if b'"ends"' in (entry.header or b"") and i > 4)

    def tell(entries: list[Entry]) -> None:
        entries[last].header["ends"] = ends

    assert named(violation(forged(server, tell))) == ("ends", [str(server.state.entries[last].id)])
    walked(a.log)


@pytest.mark.parametrize("wrong", ["body", "digest", "count", "codec"])
def test_a_change_whose_body_is_not_what_it_says_is_found(server: MemoryRedis, wrong: str) -> None:
    two_terms(server)

    def damage(entries: list[Entry]) -> None:
        if wrong == "body":
            entries[1].body = entries[1].body.replace(b"x", b"X")
        else:
            entries[1].header[wrong] = {"digest": "0" * 32, "count": 2, "codec": "json+brotli"}[wrong]

    assert named(violation(forged(server, damage))) == ("body", ["1-2"])


def test_a_part_whose_body_was_damaged_is_found_once_its_snapshot_is_complete(server: MemoryRedis) -> None:
    parts = two_terms(server).snapshot(size=10)
    assert len(parts) > 2

    def damage(entries: list[Entry]) -> None:
        body = bytearray(entries[7].body)
        body[3] ^= 1
        entries[7].body = bytes(body)

    assert named(violation(forged(server, damage))) == ("body", [str(parts[-1].id)])


def test_a_part_without_the_one_before_it_is_found(server: MemoryRedis) -> None:
    two_terms(server).snapshot(size=10)

    def skip(entries: list[Entry]) -> None:
        del entries[7]
        for n, entry in enumerate(entries, 1):
            entry.id = RecordId(entry.id.term, n)

    found = violation(forged(server, skip))
    assert named(found) == ("snapshot", ["2-8"])
    assert "part 2, and part 0 is before it" in found.message


def test_a_part_without_any_before_it_is_found(server: MemoryRedis) -> None:
    two_terms(server).snapshot(size=10)

    def skip(entries: list[Entry]) -> None:
        del entries[6]
        for n, entry in enumerate(entries, 1):
            entry.id = RecordId(entry.id.term, n)

    assert "no part is before it" in violation(forged(server, skip)).message


@pytest.mark.parametrize("field", ["as_of", "changed", "codec", "replaces"])
def test_a_part_of_another_snapshot_is_found(server: MemoryRedis, field: str) -> None:
    two_terms(server).snapshot(size=10)
    value = {"as_of": "2-5@" + "0" * 32, "changed": "1-2", "codec": "raw+zstd", "replaces": True}[field]
    found = violation(forged(server, lambda entries: entries[7].header.update({field: value})))
    assert named(found) == ("snapshot", ["2-7", "2-8"])


@pytest.mark.parametrize("as_of", ["1-4", "2-7", "2-9"])
def test_a_snapshot_of_another_place_than_one_of_its_term_is_found(server: MemoryRedis, as_of: str) -> None:
    two_terms(server).snapshot(size=1000)
    found = violation(forged(server, lambda entries: entries[6].header.update(as_of=f"{as_of}@{'0' * 32}")))
    assert named(found) == ("snapshot", ["2-7", as_of])


@pytest.mark.parametrize("how", ["a change before it", "not part 0", "of its own term", "another chain"])
def test_a_gap_that_is_no_rebase_is_not_taken_for_one(server: MemoryRedis, how: str) -> None:
    rebased(server)
    gap = next(i for i, entry in enumerate(server.state.entries) if entry.id.n == 6)

    def alter(entries: list[Entry]) -> None:
        header = entries[gap].header
        entries[gap].keep = True
        if how == "a change before it":
            codec, body, digest = encode_changes([encode_change({"push": "X"})])
            more = {"kind": "change", "codec": codec, "digest": digest, "count": 1}
            change = Entry(RecordId(ERA + 1, 5), {**entries[gap - 1].header, **more}, body)
            entries.insert(gap, change)
        elif how == "not part 0":
            header["part"] = [1, 0]
        elif how == "of its own term":
            header["as_of"] = f"{ERA + 1}-5@{header['prev']}"
        else:
            header["as_of"] = "1-5@" + "0" * 32

    assert named(violation(forged(server, alter)))[0] in ("ids", "chain")


Change = Callable[[Head], dict[str, Any]]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("position", lambda head: {"position": head.position._replace(chain="0" * 32)}),
        ("position", lambda head: {"position": head.position._replace(id=RecordId(2, 99))}),
        ("term", lambda head: {"term": 3}),
        ("holder", lambda head: {"boot": "b-2"}),
        ("holder", lambda head: {"node": "a"}),
        ("log", lambda head: {"log_id": "log-2"}),
        ("last change", lambda head: {"changed": RecordId(1, 4)}),
        ("ends of terms", lambda head: {"ends": ()}),
        ("next part", lambda head: {"part_next": 2}),
        ("newest complete snapshot", lambda head: {"snapshot_at": ZERO_ID}),
        ("place of the cut", lambda head: {"previous_snapshot_at": ZERO_ID}),
    ],
)
def test_a_head_that_is_not_the_logs_is_found(server: MemoryRedis, what: str, change: Change) -> None:
    b = two_terms(server)
    b.snapshot()
    b.change("x")
    b.snapshot()
    Pen(server, "a").promote()
    b.read()
    b.promote()
    head = b.log.look().head
    assert head is not None
    walked(b.log, head)
    found = violation(b.log, head._replace(**change(head)))
    assert found.rule == "head"
    assert found.message.startswith(f"as the {what}, the head has ")


def test_a_log_that_is_empty_is_not_what_a_head_says(server: MemoryRedis) -> None:
    b = two_terms(server)
    server._write(entries=())
    assert named(violation(b.log)) == ("head", ["2-6"])


def test_the_document_has_every_rule() -> None:
    told = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    for rule, (text, meaning) in RULES.items():
        assert f"| `{rule}` | {text} | {meaning.replace('apply()', '`apply`')} |" in told
