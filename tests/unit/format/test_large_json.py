"""A large document that is decoded in slices is what orjson decodes in one go, and so is what is wrong with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.registry_data import generate
from replicator.format import large_json


@pytest.fixture(autouse=True, params=[4, 1024], ids=["with windows", "without windows"])
def _small_slices(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(large_json, "WINDOW_BYTES", request.param)
    monkeypatch.setattr(large_json, "SLICED_FROM_BYTES", 0)
    monkeypatch.setattr(large_json, "SLICE_BYTES", 20)
    monkeypatch.setattr(large_json, "GUESSES", 3)
    monkeypatch.setattr(large_json, "GUESS_WITHIN_BYTES", 200)
    monkeypatch.setattr(large_json, "REST_BYTES", 640)


def outcome(body: bytes, decode: Any) -> tuple[str, Any]:
    """What came of it, with the order of members and the types of numbers."""
    try:
        return "is", repr(decode(body))
    except orjson.JSONDecodeError as error:
        return "is not JSON", str(error)


def in_slices(body: bytes) -> Any:
    return large_json.loads(body, lambda: None)


def check(body: bytes) -> None:
    expected = outcome(body, orjson.loads)
    for each in (body, bytearray(body)):
        assert outcome(each, in_slices) == expected


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


def looked_at(body: bytes, monkeypatch: pytest.MonkeyPatch) -> float:
    """How much of a document was looked at until it was decoded, of its length."""
    seen: list[int] = []

    def counted(decode: Any) -> Any:
        def count(text: Any) -> Any:
            seen.append(len(text))
            return decode(text)

        return count

    module = SimpleNamespace(loads=counted(orjson.loads), JSONDecodeError=orjson.JSONDecodeError)
    with monkeypatch.context() as patched:
        patched.setattr(large_json, "orjson", module)
        patched.setattr(large_json, "_extent", counted(large_json._extent))
        assert repr(large_json.loads(body, lambda: None)) == repr(orjson.loads(body))
    return sum(seen) / len(body)


#: For what is looked at with slices as they are: once is enough.
as_they_are = pytest.mark.parametrize("_small_slices", [1024], ids=["as they are"], indirect=True)


@as_they_are
@pytest.mark.parametrize("small", [b"{}", b"[]", b'{"a":{"b":[1,2]}}', b"[[1],[2],[{}]]", b"1"])
@pytest.mark.parametrize("members", [60, 90_000])
def test_small_members_at_the_top_cost_what_they_are(
    small: bytes, members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # slices as they are
    body = b'{"op":"register",%b}' % b",".join(b'"%d":%b' % (number, small) for number in range(members))
    rest = b" " * max(0, large_json.SLICED_FROM_BYTES - len(body))
    assert looked_at(body + rest, monkeypatch) < 2


@as_they_are
@pytest.mark.parametrize("size", [2_000, 60_000, 100_000, 400_000])
def test_large_members_at_the_top_are_looked_at_a_few_times(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    member = b"[%b]" % b",".join(b'{"n":%d}' % number for number in range(size // 10))
    members = max(2, large_json.SLICED_FROM_BYTES // len(member) + 1)
    body = b"{%b}" % b",".join(b'"%d":%b' % (number, member) for number in range(members))
    assert looked_at(body, monkeypatch) < 8


@pytest.mark.parametrize("lists", range(1018, 1027))
@pytest.mark.parametrize(
    "around",
    # The last two are too deep where no window looked: what Python cannot look into is decoded in one go.
    [
        '{"a":DEEP,"b":[ELEMENTS]}',
        '{"a":[DEEP,ELEMENTS]}',
        '{"a":{MEMBERS,"b":DEEP,MEMBERS}}',
        '{"a":[ELEMENTS,DEEP,ELEMENTS]}',
    ],
)
@pytest.mark.parametrize("slice_bytes", [20, 4096])
def test_what_is_nested_too_deep_is_refused_as_in_one_go(
    around: str, lists: int, slice_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(large_json, "SLICE_BYTES", slice_bytes)
    monkeypatch.setattr(large_json, "GUESS_WITHIN_BYTES", 16384)
    others = {"MEMBERS": ",".join(['"c":[]'] * 1000), "ELEMENTS": ",".join(["[]"] * 1000)}
    body = around.replace("DEEP", "[" * lists + "]" * lists)
    for mark, text in others.items():
        body = body.replace(mark, text)
    # `repr` is not so deep.
    found, expected = (outcome(body.encode(), lambda it, by=by: by(it) and None) for by in (in_slices, orjson.loads))
    assert found == expected


def test_a_slice_that_closes_its_container_and_opens_another_is_none() -> None:
    check(b'{"a":{"b":{}},{"c":{}%b}}' % (b',"d":{}' * 10))
    check(b'{"a":[[]],[[]%b]}' % (b",[]" * 20))
