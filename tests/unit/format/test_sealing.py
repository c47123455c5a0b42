"""What is sealed for one place opens there, with the key, and nowhere else. Chance is counted here."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import CorruptRecord
from replicator.format.codec import digest_of
from replicator.format.ids import ERA, ORIGIN, Position, RecordId, Writer
from replicator.format.records import (
    BODY_BYTES_MAX,
    CLOSED,
    ChangeRecord,
    PartRecord,
    Record,
    parse,
    seal_change,
    seal_part,
)
from replicator.format.sealing import Key, Keyring, Sealer, Sealing
from replicator.format.seals import SEAL_BYTES, Refused

A = Writer("a", "boot of a")
HERE = Position(RecordId(5, 41), "c" * 32)
ID = RecordId(5, 42)

KEY, NEW = Key(b"k" * 32), Key(b"n" * 32)


def counted() -> Callable[[int], bytes]:
    numbers = itertools.count()
    return lambda size: hashlib.sha256(str(next(numbers)).encode()).digest()[:size]


def ring(writes: Key | None, *opens: Key, takes_unsealed: bool = False) -> Keyring:
    keys = [key for key in (writes, *opens) if key is not None]
    return Keyring(writes, {key.id: key for key in keys}, takes_unsealed, "FILE")


def sealing(writes: Key | None = KEY, *opens: Key, group: str = "g", takes_unsealed: bool = False) -> Sealing:
    return Sealing(ring(writes, *opens, takes_unsealed=takes_unsealed), group, random=counted())


def sealer(of: Sealing | None = None) -> Sealer:
    found = (of or sealing()).sealer
    assert found is not None
    return found


def change(payload: bytes = b'[{"a":1}]', *, by: Sealer | None = None, after: Position = HERE) -> ChangeRecord:
    return seal_change(
        writer=A,
        term=5,
        after=after,
        at=7,
        codec="json",
        digest=digest_of(payload),
        count=1,
        body=payload,
        sealer=by or sealer(),
    )


def part(*, last: bool, by: Sealer | None = None) -> PartRecord:
    return seal_part(
        writer=A, term=5, after=HERE, n=42, at=7, codec="json+zstd", digest="d" * 32 if last else "", part=0,
        parts=int(last), as_of=HERE, changed=RecordId(5, 40), replaces=False, body=b"snapshot", sealer=by or sealer(),
    )  # fmt: skip


def read(record: Record, opens: Sealing | None = None) -> Record:
    return parse(str(record.id), record.header, record.body, opens or sealing())


@given(st.binary(max_size=300))
def test_what_is_sealed_opens_and_shows_nothing_of_itself(payload: bytes) -> None:
    record = change(payload)
    found = read(record)
    assert found == record
    assert (found.payload, found.digest) == (payload, digest_of(payload))  # type: ignore[attr-defined]
    assert len(record.body) == len(payload) + SEAL_BYTES
    assert record.header == change(b"another").header, "it says nothing of the payload, nor its digest"
    assert len(payload) < 8 or payload not in record.body
    assert bytes.fromhex(digest_of(payload)) not in record.body


@pytest.mark.parametrize("last", [False, True])
def test_parts_are_sealed_with_the_digest_of_the_snapshot_in_the_last_one(last: bool) -> None:
    record = part(last=last)
    found = read(record)
    assert isinstance(found, PartRecord)
    assert (found.payload, found.digest) == (b"snapshot", "d" * 32 if last else "")
    assert b"digest" not in record.header


@given(st.data())
def test_a_flipped_bit_anywhere_is_refused(data: st.DataObject) -> None:
    record = change()
    header, body = bytearray(record.header), bytearray(record.body)
    which = data.draw(st.sampled_from([header, body]))
    at = data.draw(st.integers(0, len(which) - 1))
    which[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CorruptRecord, match=str(ID)):
        parse(str(ID), bytes(header), bytes(body), sealing())


@given(st.binary(max_size=200))
def test_bytes_that_nobody_sealed_are_refused(body: bytes) -> None:
    with pytest.raises(CorruptRecord):
        parse(str(ID), change().header, body, sealing())
    with pytest.raises(CorruptRecord):
        parse(str(ID), change().header, b"S1" + KEY.id + body, sealing())


def test_it_opens_at_its_own_place_alone() -> None:
    record, other = change(), change(after=Position(HERE.id, "d" * 32))
    for id_, header, body in (
        ("5-43", record.header, record.body),  # moved, or replayed
        ("6-42", record.header, record.body),  # into another term
        (str(ID), other.header, record.body),  # after another history
        (str(ID), record.header.replace(b'"count":1', b'"count":0'), record.body),
    ):
        with pytest.raises(CorruptRecord, match="forged, changed, moved here or replayed"):
            parse(id_, header, body, sealing())
    with pytest.raises(CorruptRecord, match="forged"):
        read(record, sealing(group="another"))


def test_who_has_no_key_or_another_one_is_told_which_one_is_missing() -> None:
    record = change()
    with pytest.raises(CorruptRecord, match="no key was given: give the group's key file"):
        parse(str(ID), record.header, record.body)
    with pytest.raises(CorruptRecord, match=f"sealed with key {KEY.name}, which FILE does not have"):
        read(record, sealing(NEW))


def test_who_only_copies_it_has_it_closed() -> None:
    record = parse(str(ID), change().header, change().body, CLOSED)
    assert isinstance(record, ChangeRecord)
    assert (record.payload, record.digest, record.count) == (b"", "", 1)


def test_what_is_not_sealed_is_taken_only_while_the_keys_say_so() -> None:
    plain = seal_change(writer=A, term=5, after=HERE, at=7, codec="json", digest="d" * 32, count=0, body=b"[]")
    with pytest.raises(CorruptRecord, match="it is not sealed"):
        read(plain)
    assert read(plain, sealing(takes_unsealed=True)) == plain
    assert sealing(None, KEY, takes_unsealed=True).sealer is None


def test_a_key_that_was_added_since_is_looked_for_once_it_is_met() -> None:
    rings = [ring(NEW, KEY)]
    opens = Sealing(ring(KEY), "g", random=counted(), reload=lambda: rings[0])
    record = change(by=sealer(sealing(NEW)))
    assert read(record, opens) == record
    assert sealer(opens).key == NEW, "and it writes with the one that writes now"


def test_no_nonce_comes_twice_and_two_boots_have_different_subkeys() -> None:
    one = sealer()
    bodies = [one.seal(ID, b"h", b"p", "") for _ in range(200)]
    assert len({body[22:34] for body in bodies}) == 200
    assert len({body[6:22] for body in bodies}) == 1
    other = Sealer(KEY, "g", lambda size: b"o" * size)
    assert other.seal(ID, b"h", b"p", "")[6:22] != bodies[0][6:22]


def test_what_fits_without_a_key_fits_with_one() -> None:
    record = change(b"x" * BODY_BYTES_MAX)
    assert read(record) == record
    with pytest.raises(CorruptRecord, match="its body has"):
        parse(str(ID), record.header, record.body + b"x", sealing())


# --- what has no body ------------------------------------------------------------------------------------------------

CLAIM = {"node": "a", "boot": "b", "by": "ann", "reason": "because"}


def term_record(seal: str | None, **fields: object) -> bytes:
    told = {"v": 1, "kind": "term", "prev": ORIGIN.chain, "at": 7, "log_id": "l", "run": "r", "ends": ""} | CLAIM
    return orjson.dumps(told | ({} if seal is None else {"seal": seal}) | fields)


def test_a_claim_is_good_for_the_term_that_it_can_get_and_for_what_it_says() -> None:
    seal = sealer().sign_claim(CLAIM, floor=4, expect=5)
    for term in (6, ERA + 1):
        assert parse(f"{term}-1", term_record(seal), b"", sealing()).id.term == term
    for id_, header in (
        ("7-1", term_record(seal)),  # replayed
        ("4-1", term_record(seal)),
        ("6-1", term_record(seal, node="z")),
        ("6-1", term_record(seal, boot="z")),
        ("6-1", term_record(seal, skip="5-7")),
        ("6-1", term_record(seal, version=2, v=2)),
        ("6-1", term_record(seal.replace("4:5", "4:9"))),
        ("6-1", term_record(None)),
        ("6-1", term_record("")),
        ("6-1", term_record(seal[:-1])),
        ("6-1", term_record("4:5:1:zz:zz")),
        ("6-1", term_record(seal)[:-1] + b',"by":' + b"[" * 500 + b"]" * 500 + b"}"),
    ):
        with pytest.raises(CorruptRecord, match="key"):
            parse(id_, header, b"", sealing())
    with pytest.raises(CorruptRecord):
        parse("6-1", term_record(seal), b"", sealing(group="another"))


@pytest.mark.parametrize("added", [{"run": "x"}, {"ends": "1-7"}, {"log_id": "x"}, {"app": "x"}, {"at": 8}])
def test_what_the_script_adds_to_a_claim_is_vouched_for_by_the_record_after_it(added: dict[str, object]) -> None:
    """docs/sealed.md: until then whoever has Redis can change these, and nothing else of a term record."""
    seal = sealer().sign_claim(CLAIM, floor=4, expect=5)
    written, changed = (
        parse("6-42", header, b"", sealing()) for header in (term_record(seal), term_record(seal, **added))
    )
    # when its holder has read it and writes the next record, then that follows no other one
    after = change(after=written.position)
    assert (after.prev == written.chain, after.prev == changed.chain) == (True, False)
    # and cannot be made to
    told = orjson.loads(after.header) | {"prev": changed.chain}
    with pytest.raises(CorruptRecord, match="did not seal this"):
        parse(str(after.id), orjson.dumps(told), after.body, sealing())


def test_heartbeats_and_acks_have_a_mac_that_is_of_one_group_and_one_use() -> None:
    signed = sealer().sign_json("beat", b'{"node":"a"}')
    assert orjson.loads(signed)["node"] == "a"
    assert sealing().verified_json("beat", signed) == b'{"node":"a"}'
    assert sealing(NEW, KEY).verified_json("beat", signed) == b'{"node":"a"}'
    for opens, what, told in (
        (sealing(), "beat", signed.replace(b'"a"', b'"b"')),
        (sealing(), "ack", signed),
        (sealing(), "beat", b'{"node":"a"}'),
        (sealing(group="another"), "beat", signed),
        (sealing(NEW), "beat", signed),
    ):
        assert opens.verified_json(what, told) is None
    assert sealing(takes_unsealed=True).verified_json("beat", b'{"node":"a"}') == b'{"node":"a"}'


def test_texts_are_sealed_for_who_has_the_key() -> None:
    told = sealer().seal_text("apply() failed at {'secret': 1}")
    assert "secret" not in told
    assert sealing().open_text(told) == "apply() failed at {'secret': 1}"
    assert sealing().open_text("plain") == "plain"
    assert sealer().seal_text("") == ""
    for wrong in (told[:-8], "sealed:é", "sealed:" + "A" * 400):
        with pytest.raises(Refused):
            sealing().open_text(wrong)


def test_nodes_blind_a_digest_alike_whichever_key_they_write_with() -> None:
    marker = change(b"[]")
    old, new = sealing(KEY, NEW), sealing(NEW, KEY)
    assert old.blinded("d" * 32, marker.body) == new.blinded("d" * 32, marker.body) != "d" * 32
    assert old.blinded("e" * 32, marker.body) != old.blinded("d" * 32, marker.body)
    assert sealing(None, KEY, takes_unsealed=True).blinded("d" * 32, b"[]") == "d" * 32


@given(st.text(max_size=120) | st.from_regex(r"[0-9]{0,18}:[0-9]{0,18}:[0-9]{0,3}:[0-9a-f]{0,9}:[0-9a-f]{0,66}"))
def test_whatever_else_stands_in_the_place_of_a_mac_is_refused(text: str) -> None:
    assert not sealing().vouches("ack", b"x", text)
    assert not sealing().vouches("ack", b"x", f"{KEY.name}:{text}")
    with pytest.raises(CorruptRecord):
        parse("6-1", term_record(text), b"", sealing())
    with pytest.raises(Refused):
        sealing().open_text("sealed:" + text)
