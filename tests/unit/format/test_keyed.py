"""Changes with keys in a record: what goes in comes out, with the digest of the bytes that are there."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import ChangeTooLarge, ConfigError, CorruptRecord
from replicator.format.codec import (
    CHANGE_BYTES_MAX,
    decode_changes,
    digest_of,
    encode_change,
    encode_changes,
    encoded,
    encoded_keyed,
)
from replicator.format.keyed import Key, Keyed, as_keyed, change_in, is_key, key_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(alphabet='a"\\[]{},é\n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"\\]},', max_size=4), inner),
    max_leaves=8,
)
KEYS = st.text(alphabet='k"\\],[é ', min_size=1, max_size=9)


def decoded(payload: bytes, count: int, codec: str = "keyed") -> list[Any]:
    return decode_changes(codec, payload, digest_of(payload), count, id_="1-1")


@given(st.lists(st.tuples(st.none() | KEYS, VALUES), min_size=1, max_size=5))
def test_keys_and_changes_come_back_with_the_digest_of_each(pairs: list[tuple[str | None, Any]]) -> None:
    keys, changes = [key for key, _ in pairs], [change for _, change in pairs]
    given_ = encoded_keyed(changes, keys)
    assert given_.keyed is any(key is not None for key in keys)
    codec, body, digest = encode_changes([given_.json], "keyed" if given_.keyed else "json")
    found = decode_changes(codec, body, digest, len(changes), id_="1-1")
    # the primary applies what everybody else decodes
    assert found == given_.changes
    assert list(map(change_in, found)) == changes
    assert list(map(key_of, found)) == keys
    for change, entry in zip(changes, found, strict=True):
        assert not isinstance(entry, Keyed) or entry.digest == digest_of(encode_change(change))


@given(st.lists(VALUES, min_size=1, max_size=5), VALUES)
def test_changes_without_keys_share_a_record_with_one_that_has_a_key(others: list[Any], change: Any) -> None:
    jsons = [as_keyed(encoded(others).json, len(others)), encoded_keyed([change], ["k"]).json]
    codec, body, digest = encode_changes(jsons, "keyed")
    *found, last = decode_changes(codec, body, digest, len(others) + 1, id_="1-1")
    assert found == others
    assert last == Keyed("k", change, digest_of(encode_change(change)))


def test_what_has_no_key_is_what_it_always_was() -> None:
    assert encoded_keyed([{"a": 1}, 2], [None, None]) == encoded([{"a": 1}, 2])
    assert encode_changes([encoded([{"a": 1}, 2]).json])[:2] == ("json", b'[{"a":1},2]')


def test_the_form_in_the_log() -> None:
    given_ = encoded_keyed([{"a": 1}, 2], ["order-4711", None])
    assert encode_changes([given_.json], "keyed")[:2] == ("keyed", b'[["order-4711",{"a":1}],[null,2]]')
    large = encoded_keyed(["x" * 50_000], ["k"])
    assert encode_changes([large.json], "keyed")[0] == "keyed+zstd"


def test_the_digest_is_of_the_bytes_in_the_log_however_they_are_written() -> None:
    change = orjson.Fragment(b'{ "a" : [1, 2] }')
    (entry,) = encoded_keyed([change], ["k"]).changes
    assert entry == Keyed("k", {"a": [1, 2]}, digest_of(b'{ "a" : [1, 2] }'))
    codec, body, digest = encode_changes([encoded_keyed([change, 1], ["k", None]).json], "keyed")
    assert decode_changes(codec, body, digest, 2, id_="1-1")[0] == entry


def test_a_key_may_say_itself_what_makes_two_attempts_the_same() -> None:
    json, entries, _ = encoded_keyed([{"at": 1}, 5], [Key("k", content=b"body"), None])
    assert json == b'["k",{"at":1},"' + digest_of(b"body").encode() + b'"],[null,5]'
    assert decoded(b"[" + json + b"]", 2) == entries == [Keyed("k", {"at": 1}, digest_of(b"body")), 5]


@pytest.mark.parametrize("key", ["", "k" * 257, "a\nb", "\x7f", "\ud800", 5, None, b"k"])
def test_what_is_no_key(key: Any) -> None:
    assert not is_key(key)


@pytest.mark.parametrize(
    "key", ["k", "k" * 256, "Bestellung №4711", '"quoted" \\ [', "8e03978e-40d5-43e8-bc93-6894a57f9324"]
)
def test_what_is_a_key(key: str) -> None:
    assert is_key(key)


@pytest.mark.parametrize(
    "payload",
    [b'["a",1]', b'[["a"]]', b'[["a",1,2]]', b'[[1,2]]', b'[["",1]]', b'[[ "a",1]]', b'[ ["a",1]]', b'[["a" ,1]]',
     b'[["\\n",1]]', b'[{"a":1}]', b'[null]', b'[["' + b"k" * 257 + b'",1]]', b'[["a",1,"0"]]',
     b'[["a",1] ]', b'[["a",1]]\n',
     b'[["a",1,null]]', b'[[null,1,"' + b"0" * 32 + b'"]]', b'[["a",1,"' + b"0" * 32 + b'",1]]'],
)  # fmt: skip
def test_another_form_is_refused(payload: bytes) -> None:
    with pytest.raises(CorruptRecord):
        decoded(payload, len(orjson.loads(payload)))


@given(
    st.binary(max_size=60) | VALUES.map(orjson.dumps) | st.lists(st.lists(VALUES | KEYS, max_size=3)).map(orjson.dumps)
)
def test_any_bytes_are_decoded_or_refused(payload: bytes) -> None:
    for count in (0, 1, 2):
        try:
            found = decoded(payload, count)
        except CorruptRecord:
            continue
        assert len(found) == count


def test_a_change_that_is_too_large_with_its_key_is_refused() -> None:
    most = "x" * (CHANGE_BYTES_MAX - 4)
    assert encoded([most])
    with pytest.raises(ChangeTooLarge, match="with its key"):
        encoded_keyed([most], ["k"])


def test_the_content_of_a_key_is_bytes() -> None:
    with pytest.raises(ConfigError, match="content: 'text' is not bytes"):
        Key("k", content="text")  # type: ignore[arg-type]
    assert Key("k", content=bytearray(b"x")).fingerprint == Key("k", content=b"x").fingerprint
