"""Records: written and read back, and each invariant refused where it is broken."""

from __future__ import annotations

import dataclasses
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ChangeTooLarge, CorruptRecord
from replicator.format.acts import decode_act, encode_version
from replicator.format.codec import digest_of
from replicator.format.ids import ORIGIN, TERM_MAX, ZERO_CHAIN, Position, RecordId, extend_chain
from replicator.format.records import (
    BODY_BYTES_MAX,
    HEADER_BYTES_MAX,
    ChangeRecord,
    PartRecord,
    Record,
    TermRecord,
    parse,
    seal_change,
    seal_part,
)
from replicator.format.term_ends import ENDS_KEPT, show_ends
from tests.support.history import A, change, part, term_record

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
chains = st.text("0123456789abcdef", min_size=32, max_size=32)
terms = st.integers(1, TERM_MAX)
positions = st.builds(Position, st.builds(RecordId, terms, st.integers(1, TERM_MAX - 1)), chains)

COMMON = {"v": 1, "node": "a", "boot": "a1", "prev": ZERO_CHAIN, "at": 7}
FIELDS: dict[str, dict[str, Any]] = {
    "term": COMMON | {"kind": "term", "log_id": "l", "run": "r", "by": "b", "reason": ""},
    "change": COMMON | {"kind": "change", "codec": "json", "digest": "d", "count": 1},
    "part": COMMON
    | {
        "kind": "part",
        "codec": "json+zstd",
        "digest": "d",
        "part": [0, 1],
        "as_of": f"1-1@{ZERO_CHAIN}",
        "changed": "0-0",
    },
}


def read(fields: dict[str, Any], id_: str = "1-1", body: bytes = b"") -> Record:
    return parse(id_, orjson.dumps(fields), body)


@given(names, names, terms, positions, st.binary(max_size=200), st.integers(0, 1000), st.integers(0, 2**53))
def test_a_change_is_read_back_as_it_was_sealed(
    node: str, boot: str, term: int, after: Position, body: bytes, count: int, at: int
) -> None:
    record = seal_change(
        writer=type(A)(node, boot), term=term, after=after, at=at, codec="json", digest="d", count=count, body=body
    )
    again = parse(str(record.id), record.header, record.body)
    assert again == record
    assert isinstance(again, ChangeRecord)
    assert (again.node, again.boot, again.count, again.body, again.at) == (node, boot, count, body, at)
    assert again.id == RecordId(term, after.id.n + 1)
    assert again.chain == extend_chain(after.chain, record.header, body)
    assert again.position == Position(again.id, again.chain)


@given(terms, positions, positions, st.integers(0, 1000), st.booleans(), st.booleans(), st.binary(max_size=200))
def test_a_part_is_read_back_as_it_was_sealed(
    term: int, after: Position, as_of: Position, index: int, last: bool, replaces: bool, body: bytes
) -> None:
    record = seal_part(
        writer=A,
        term=term,
        after=after,
        n=after.id.n + 1,
        at=7,
        codec="raw+zstd",
        digest="d" * 32,
        part=index,
        parts=index + 1 if last else 0,
        as_of=as_of,
        changed=as_of.id,
        replaces=replaces,
        body=body,
    )
    again = parse(str(record.id), record.header, record.body)
    assert again == record
    assert isinstance(again, PartRecord)
    assert (again.is_last, again.replaces, again.as_of, again.changed) == (last, replaces, as_of, as_of.id)
    assert again.digest == ("d" * 32 if last else "")


def test_a_term_record_says_who_promoted_whom_and_why() -> None:
    record = term_record(A, 3, by="ann", reason="planned")
    assert isinstance(record, TermRecord)
    assert (record.writer, record.by, record.reason, record.log_id) == (A, "ann", "planned", "log-1")
    assert str(record) == "3-1 term by a"


all_ends = st.lists(st.builds(RecordId, terms, terms), max_size=ENDS_KEPT).map(tuple)


@given(all_ends)
def test_term_records_and_last_parts_tell_the_ends_of_terms(ends: tuple[RecordId, ...]) -> None:
    assert term_record(A, 3, ends=show_ends(ends)).ends == ends
    assert part(A, 3, ORIGIN, (1, 2), as_of=ORIGIN, ends=ends).ends == ends


def test_a_part_before_the_last_tells_no_ends() -> None:
    record = part(A, 3, ORIGIN, (1, 0), as_of=ORIGIN, ends=(RecordId(1, 7),))
    assert record.ends == ()
    assert b"ends" not in record.header
    told = read(FIELDS["part"] | {"part": [3, 0], "ends": "1-7"})
    assert isinstance(told, PartRecord)
    assert told.ends == ()


@pytest.mark.parametrize("kind", ["term", "part"])
def test_a_record_that_tells_no_ends_is_one_of_a_history_without_any(kind: str) -> None:
    record = read(FIELDS[kind])
    assert isinstance(record, TermRecord | PartRecord)
    assert record.ends == ()


def test_all_the_ends_that_a_history_tells_fit_into_a_header() -> None:
    ends = [RecordId(TERM_MAX, TERM_MAX)] * ENDS_KEPT
    record = term_record(A, 3, ends=show_ends(ends), log_id="f" * 32, run="f" * 33, by="ann" * 20, reason="x" * 8000)
    assert len(record.ends) == ENDS_KEPT


@given(st.booleans())
def test_a_change_says_whether_standbys_are_to_acknowledge_it(wants_acks: bool) -> None:
    record = seal_change(
        writer=A, term=1, after=ORIGIN, at=7, codec="json", digest="d", count=1, body=b"", wants_acks=wants_acks
    )
    assert record.wants_acks == wants_acks
    assert parse(str(record.id), record.header, record.body) == record
    assert (b"acks" in record.header) == wants_acks, "most of them are a word shorter"


def test_records_are_frozen() -> None:
    record = change(A, 1, ORIGIN, "x")
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.body = b""  # type: ignore[misc]


def test_a_change_that_was_made_field_by_field_is_like_any_other() -> None:
    sealed = change(A, 1, ORIGIN, "x")
    for made in (sealed, parse(str(sealed.id), sealed.header, sealed.body)):
        fields = {each.name: getattr(made, each.name) for each in dataclasses.fields(made)}
        assert made == ChangeRecord(**fields)
        assert type(made) is ChangeRecord
        with pytest.raises(dataclasses.FrozenInstanceError):
            del made.body


@pytest.mark.parametrize("kind", FIELDS)
def test_unknown_members_of_a_header_are_left_alone(kind: str) -> None:
    assert read(FIELDS[kind] | {"later": [1]}).kind == kind


# --- invariant 1: ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("id_", ["0-1", "1-0", f"{TERM_MAX + 1}-1", f"1-{TERM_MAX + 1}", "1-*", "", "x"])
def test_an_id_out_of_range_is_no_record(id_: str) -> None:
    with pytest.raises(CorruptRecord, match="TERM-N") as caught:
        read(FIELDS["change"], id_)
    assert caught.value.fields["id"] == id_


def test_the_highest_id_is_a_record() -> None:
    assert read(FIELDS["change"], f"{TERM_MAX}-{TERM_MAX}").id == RecordId(TERM_MAX, TERM_MAX)


# --- invariants 2 to 4: what a header holds --------------------------------------------------------------------------

BROKEN = [
    ("change", {"prev": "0" * 31}, "prev is not a chain"),
    ("change", {"prev": "G" * 32}, "prev is not a chain"),
    ("change", {"prev": None}, "prev is missing"),
    ("change", {"node": ""}, "who wrote it"),
    ("change", {"boot": ""}, "who wrote it"),
    ("change", {"node": 7}, "node is missing or not a text"),
    ("change", {"at": "now"}, "at is missing or not an integer"),
    ("change", {"at": True}, "at is missing or not an integer"),
    ("change", {"codec": None}, "codec is missing"),
    ("change", {"digest": None}, "digest is missing"),
    ("change", {"count": None}, "count is missing"),
    ("change", {"count": -1}, "count is below 0"),
    ("change", {"count": 1.0}, "count is missing or not an integer"),
    ("term", {"log_id": None}, "log_id is missing"),
    ("term", {"run": None}, "run is missing"),
    ("term", {"by": None}, "by is missing"),
    ("term", {"reason": None}, "reason is missing"),
    ("part", {"codec": None}, "codec is missing"),
    ("part", {"digest": None}, "digest is missing"),
    ("part", {"part": None}, "part is not"),
    ("part", {"part": [0]}, "part is not"),
    ("part", {"part": [-1, 0]}, "part is not"),
    ("part", {"part": [0, True]}, "part is not"),
    ("part", {"part": [0, 2]}, "only the last part"),
    ("part", {"part": [2, 2]}, "only the last part"),
    ("part", {"as_of": "1-1"}, "TERM-N@CHAIN"),
    ("part", {"changed": "x"}, "TERM-N"),
    ("part", {"ends": "1-7 x"}, "TERM-N"),
    ("part", {"ends": None}, "ends is missing or not a text"),
    ("term", {"ends": "1-7,5-8"}, "TERM-N"),
    ("term", {"ends": ["1-7"]}, "ends is missing or not a text"),
    ("change", {"v": 4}, "update replicator"),
    ("change", {"v": None}, "update replicator"),
    ("change", {"kind": "diff"}, "update replicator"),
    ("change", {"kind": ["change"]}, "update replicator"),
]


@pytest.mark.parametrize(("kind", "broken", "problem"), BROKEN)
def test_a_header_that_breaks_an_invariant_is_no_record(kind: str, broken: dict[str, Any], problem: str) -> None:
    assert read(FIELDS[kind]).kind == kind
    with pytest.raises(CorruptRecord, match=problem):
        read(FIELDS[kind] | broken)


@pytest.mark.parametrize("kind", FIELDS)
def test_every_member_of_a_header_is_needed(kind: str) -> None:
    for name in FIELDS[kind]:
        with pytest.raises(CorruptRecord):
            read({other: value for other, value in FIELDS[kind].items() if other != name})


def test_a_part_before_the_last_needs_no_digest() -> None:
    record = read({name: value for name, value in FIELDS["part"].items() if name != "digest"} | {"part": [3, 0]})
    assert isinstance(record, PartRecord)
    assert (record.part, record.digest, record.is_last) == (3, "", False)


# --- invariant 5: sizes ----------------------------------------------------------------------------------------------


def test_a_body_that_does_not_fit_is_refused_when_sealed_and_when_read() -> None:
    fits = b"x" * BODY_BYTES_MAX
    assert read(FIELDS["change"], body=fits).body == fits
    with pytest.raises(CorruptRecord, match="its body has 262145 bytes"):
        read(FIELDS["change"], body=fits + b"x")
    with pytest.raises(ChangeTooLarge, match="262145 bytes"):
        seal_change(writer=A, term=1, after=ORIGIN, at=0, codec="json", digest="d", count=1, body=fits + b"x")


def test_a_header_that_is_too_long_is_no_record() -> None:
    with pytest.raises(CorruptRecord, match="its header has"):
        read(FIELDS["term"] | {"reason": "x" * HEADER_BYTES_MAX})


def test_what_is_sealed_is_checked_like_what_is_read() -> None:
    with pytest.raises(CorruptRecord, match="who wrote it"):
        change(type(A)("", "a1"), 1, ORIGIN, "x")
    with pytest.raises(CorruptRecord, match="only the last part"):
        part(A, 1, ORIGIN, (0, 3), as_of=ORIGIN)
    with pytest.raises(CorruptRecord, match="its id"):
        change(A, TERM_MAX + 1, ORIGIN, "x")


# --- anything at all -------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
headers = (
    st.binary(max_size=300)
    | st.builds(lambda value: orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), json_values)
    | st.builds(
        lambda kind, changes: orjson.dumps(FIELDS[kind] | changes),
        st.sampled_from(sorted(FIELDS)),
        st.dictionaries(st.sampled_from([*FIELDS["part"], *FIELDS["term"], "count", "ends"]), json_values, max_size=4),
    )
)


@given(st.text(max_size=12) | st.just("1-1"), st.none() | headers, st.none() | st.binary(max_size=50))
def test_anything_at_all_is_a_record_or_a_corrupt_record(id_: str, header: bytes | None, body: bytes | None) -> None:
    try:
        record = parse(id_, header, body)
    except CorruptRecord as problem:
        assert problem.fields["id"] == id_  # noqa: PT017
    else:
        assert record.chain == extend_chain(record.prev, record.header, record.body)
        assert RecordId(1, 1) <= record.id


def test_an_entry_of_somebody_elses_has_no_header() -> None:
    with pytest.raises(CorruptRecord, match="something else wrote into the stream"):
        parse("1700000000000-0", None, None)


@pytest.mark.parametrize("header", [b"", b"{", b"[]", b"null", b"7", b"\xff", b'{"v":NaN}', b'"\\ud800"'])
def test_a_header_that_is_no_json_object_is_no_record(header: bytes) -> None:
    with pytest.raises(CorruptRecord, match=r"not JSON|not a JSON object"):
        parse("1-1", header, b"")


# --- found by tests.fuzz ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v", "kind"])
def test_a_format_or_a_kind_that_is_nested_deeply_is_corrupt_and_not_shown(name: str) -> None:
    fields = {key: value for key, value in FIELDS["change"].items() if key != name}
    deep = b"[" * 1000 + b"]" * 1000
    header = orjson.dumps(fields)[:-1] + b',"%s":%s}' % (name.encode(), deep)
    with pytest.raises(CorruptRecord, match=r"is a list.*: update replicator"):
        parse("1-1", header, b"")


@pytest.mark.parametrize("version", [True, 1.0, "1", None])
def test_a_format_is_a_number_and_nothing_that_equals_it(version: Any) -> None:
    with pytest.raises(CorruptRecord, match="update replicator"):
        read(FIELDS["change"] | {"v": version})


@pytest.mark.parametrize(
    "fields",
    [
        {"as_of": f"{'9' * 20}-1@{ZERO_CHAIN}"},
        {"as_of": f"1-{TERM_MAX + 1}@{ZERO_CHAIN}"},
        {"changed": f"{TERM_MAX + 1}-1"},
        {"ends": f"1-1 2-{TERM_MAX + 1}"},
        {"part": [TERM_MAX + 1, 0]},
        {"part": [TERM_MAX, TERM_MAX + 1]},
    ],
)
def test_numbers_that_sqlite_and_lua_do_not_have_are_corrupt(fields: dict[str, Any]) -> None:
    with pytest.raises(CorruptRecord):
        read(FIELDS["part"] | fields)


# --- versions ---------------------------------------------------------------------------------------------------------


def test_an_act_a_part_and_the_record_that_founds_a_log_say_their_version() -> None:
    codec, body, digest = encode_version(3, before=2, by="ann")
    act = seal_change(writer=A, term=1, after=ORIGIN, at=7, codec=codec, digest=digest, count=1, body=body, version=3)
    assert parse(str(act.id), act.header, act.body) == act
    assert (act.version, orjson.loads(act.header)["v"]) == (3, 2)
    assert decode_act(act.body, act.digest, 3, id_="1-1") == {"version": 3, "before": 2, "by": "ann"}
    fields = {"v": 2, "version": 3}
    assert read(FIELDS["part"] | fields).version == 3  # type: ignore[attr-defined]
    assert read(FIELDS["term"] | fields).version == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", FIELDS)
def test_records_of_the_first_version_are_what_they_were(kind: str) -> None:
    record = read(FIELDS[kind])
    assert record.version == (0 if kind == "change" else 1)  # type: ignore[attr-defined]
    plain = seal_change(writer=A, term=1, after=ORIGIN, at=7, codec="json", digest="d", count=1, body=b"[1]")
    assert plain.header == (
        b'{"v":1,"kind":"change","node":"a","boot":"a1","prev":"00000000000000000000000000000000","at":7,'
        b'"codec":"json","digest":"d","count":1}'
    )


@pytest.mark.parametrize("version", [0, -1, "2", 2.0, True, None, 2**40])
@pytest.mark.parametrize("kind", ["term", "part"])
def test_a_version_that_is_none_makes_no_record(kind: str, version: Any) -> None:
    with pytest.raises(CorruptRecord, match="version is not a whole number"):
        read(FIELDS[kind] | {"version": version})


def test_only_an_act_raises_the_version() -> None:
    with pytest.raises(CorruptRecord, match="only an act raises the version"):
        read(FIELDS["change"] | {"version": 2})


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b"[1]", b'[{"version":2}]', b'[{"version":3,"before":1}]', b'[{"version":2,"before":2}]',
     b'[{"version":2,"before":0}]', b'[{"version":2,"before":true}]', b'[{"skip":"5-1"}]',
     b'[{"version":2,"before":1},{"version":2,"before":1}]'],
)  # fmt: skip
def test_what_is_no_act_that_this_program_knows_is_refused(body: bytes) -> None:
    with pytest.raises(CorruptRecord, match="1-1"):
        decode_act(body, digest_of(body), 2, id_="1-1")


def test_an_act_that_was_damaged_is_refused() -> None:
    _, body, digest = encode_version(2, before=1, by="ann")
    with pytest.raises(CorruptRecord, match="damaged"):
        decode_act(body.replace(b"ann", b"bob"), digest, 2, id_="1-1")
