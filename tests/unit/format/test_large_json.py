"""A large document that is decoded in slices is what orjson decodes in one go, and so is what is wrong with it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.registry_data import generate
from replicator.format import large_json


@pytest.fixture(autouse=True)
def _small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "SLICED_FROM_BYTES", 0)
    monkeypatch.setattr(large_json, "SLICE_BYTES", 20)
    monkeypatch.setattr(large_json, "GUESSES", 3)
    monkeypatch.setattr(large_json, "GUESS_WITHIN_BYTES", 200)
    monkeypatch.setattr(large_json, "REST_BYTES", 400)


def outcome(body: bytes, decode: Any) -> tuple[str, Any]:
    """What came of it, with the order of members and the types of numbers."""
    try:
        return "is", repr(decode(body))
    except orjson.JSONDecodeError as error:
        return "is not JSON", str(error)


def check(body: bytes) -> None:
    expected = outcome(body, orjson.loads)
    for each in (body, bytearray(body)):
        assert outcome(each, lambda it: large_json.loads(it, lambda: None)) == expected


def sliced(body: bytes) -> int:
    """Into how many slices it was cut. Raises if it was not cut at all."""
    pauses: list[int] = []
    large_json._document(body, lambda: pauses.append(1))
    return len(pauses)


@pytest.mark.parametrize("option", [0, orjson.OPT_INDENT_2], ids=["compact", "indented"])
def test_a_registry_is_cut_into_many_slices_and_is_the_same(option: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "SLICE_BYTES", 4096)
    monkeypatch.setattr(large_json, "GUESS_WITHIN_BYTES", 16384)
    monkeypatch.setattr(large_json, "REST_BYTES", 65536)
    body = orjson.dumps(generate(500, seed=1), option=option)
    check(body)
    assert sliced(body) > 50


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(st.text(max_size=3), inner, max_size=12),
    max_leaves=60,
)


@given(VALUES, st.sampled_from([0, orjson.OPT_INDENT_2]))
def test_whatever_it_is_it_is_the_same(value: Any, option: int) -> None:
    try:
        body = orjson.dumps(value, option=option)
    except TypeError:  # a text with half a surrogate pair
        return
    check(body)


#: What JSON is made of, in any order: most of it is none, and some of it nearly.
TOKENS = st.sampled_from(
    [
        *(b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b'"', b"\\", b'"a"', b'"b"', b'"\\""', b'"}"', b'"}, "'),
        *(b"1", b"-0.5", b"01", b"1e400", b"true", b"null", b"NaN", b"\xff", b"\xef\xbb\xbf", b'"\xc3\xa4"'),
        b'{"a":{"b":1},"c":2}',
    ]
)


@settings(max_examples=500)
@given(st.lists(TOKENS, max_size=40))
@example([b'{"a":{"b":1},', b"}"])
@example([b'{"a":[', b" " * 100, b",1]}"])
@example([b'{"a":[1', b",2" * 100, b",]}"])
@example([b'{"a":{', b'"b":{},' * 100, b"}}"])
@example([b'{"a":{"b":{}', b',"b":{"c":1}' * 100, b"}}"])
def test_what_is_not_json_is_refused_in_the_same_words(tokens: list[bytes]) -> None:
    check(b"".join(tokens))


@given(st.data())
def test_a_document_that_was_damaged_anywhere_is_what_orjson_says(data: st.DataObject) -> None:
    body = bytearray(
        orjson.dumps({"nodes": {str(n): {"n": n, "in": {"a": [n]}} for n in range(30)}, "pairs": ["1:2"] * 30})
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(TOKENS)
    check(bytes(body))


@pytest.mark.parametrize(
    "body", [b"", b"[1,2]", b'"text"', b"{}", b" {} ", b"{} x", b'{"a":1} ', b'{"a":{}}', b'{"a":[]}']
)
def test_what_is_small_or_no_object_is_decoded_as_well(body: bytes) -> None:
    check(body)


def test_the_last_of_several_members_of_one_name_counts_and_stands_in_the_place_of_the_first() -> None:
    members = b",".join(b'"%d":{"n":%d}' % (n % 7, n) for n in range(100))
    check(b'{"nodes":{%b},"nodes":{%b}}' % (members, members))


def test_a_small_document_is_not_looked_at_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "SLICED_FROM_BYTES", 100)
    monkeypatch.setattr(large_json, "_document", None)
    assert large_json.loads(b'{"a":1}', lambda: None) == {"a": 1}
