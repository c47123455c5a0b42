"""What goes through the queue: plain values as a pickle, read by nothing that could import or call."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pickle
import pickletools
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.jobs import plain_pickle
from replicator.jobs.plain_pickle import BYTES_MAX, DEPTH_MAX, AnswersInJSON, NotPlain, PlainPickle, read, written

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)

#: The opcodes that import, call, build, ask somebody else, or make room for what was only claimed.
DANGEROUS = {
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"),
    *("PERSID", "BINPERSID", "BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "PUT", "BINPUT", "LONG_BINPUT", "DUP"),
    *("LONG4", "BINBYTES8", "BINUNICODE8", "EMPTY_SET", "FROZENSET"),
}

#: Of those that are known to this module.
KNOWN = {
    *plain_pickle._GIVEN,
    *plain_pickle._MADE,
    *plain_pickle._GATHERED,
    *plain_pickle._SAID,
    "BINGET",
    "LONG_BINGET",
}


class Importless(pickle.Unpickler):
    """Python's own reader, which may neither import nor ask."""

    def find_class(self, module: str, name: str) -> Any:
        raise AssertionError(f"it imports {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise AssertionError(f"it asks for {pid}")


def said(*parts: bytes) -> bytes:
    """A pickle of these opcodes."""
    return b"\x80\x04" + b"".join(parts) + b"."


def refused(data: bytes) -> str:
    with pytest.raises(NotPlain) as raised:
        read(data)
    return str(raised.value)


# --- what is plain ---


@given(PLAIN)
def test_it_is_what_json_makes_of_it_also_for_who_unpickles(value: Any) -> None:
    plain = json.loads(json.dumps(value))
    assert read(written(value)) == plain
    assert Importless(io.BytesIO(written(value))).load() == plain


@given(PLAIN, st.sampled_from((4, 5)))
def test_what_rqs_own_serializer_writes_of_plain_values_is_read(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(json.loads(json.dumps(value)), protocol=protocol)) == json.loads(json.dumps(value))


def test_a_call_as_rq_pickles_it_is_read() -> None:
    call = ("replicator.workers.jobs.switchover", None, (), {"to": "b", "term": 3, "reason": "b"})
    assert read(pickle.dumps(call)) == [call[0], None, [], call[3]]


@given(PLAIN)
def test_what_an_earlier_version_wrote_is_read_and_answered_as_it_asked(value: Any) -> None:
    assert PlainPickle.loads(json.dumps(value).encode()) == json.loads(json.dumps(value))
    assert AnswersInJSON.dumps(value) == json.dumps(value).encode()


def test_it_keeps_what_json_of_python_keeps() -> None:
    assert read(written({1: (2, float("inf"))})) == {"1": [2, math.inf]}
    with pytest.raises(TypeError):
        written({"x": {1, 2}})


# --- what is not ---


class Spring:
    """Is called when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os._exit, (9,))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_what_would_call_something_is_refused_whatever_its_protocol(protocol: int) -> None:
    for value in (Spring(), ("replicator.workers.jobs.verify", None, (), {"x": Spring()}), os.system):
        refused(pickle.dumps(value, protocol=protocol))


def test_every_other_opcode_is_refused_by_its_name() -> None:
    assert {each.name for each in pickletools.opcodes} - KNOWN >= DANGEROUS
    for each in pickletools.opcodes:
        if each.name not in KNOWN:
            # an argument for each: eight bytes, and lines
            told = refused(b"\x80\x04" + each.code.encode("latin-1") + b"\x00" * 8 + b"\n\n.")
            assert each.name in told or "cannot be read" in told, each.name


@pytest.mark.parametrize(
    ("pickled", "told"),
    [
        (b"\x80\x04cos\nsystem\n(S'true'\ntR.", "the opcode GLOBAL"),
        (said(b"\x8c\x02os\x8c\x06system\x93"), "the opcode STACK_GLOBAL"),
        (said(b"N)R"), "the opcode REDUCE"),
        (said(b"N}b"), "the opcode BUILD"),
        (said(b"(ios\nsystem\n"), "the opcode INST"),
        (said(b"(No"), "the opcode OBJ"),
        (said(b"N)\x81"), "the opcode NEWOBJ"),
        (said(b"N)}\x92"), "the opcode NEWOBJ_EX"),
        (said(b"\x82\x01"), "the opcode EXT1"),
        (said(b"\x83\x01\x00"), "the opcode EXT2"),
        (said(b"\x84\x01\x00\x00\x00"), "the opcode EXT4"),
        (said(b"Pid\n"), "the opcode PERSID"),
        (said(b"NQ"), "the opcode BINPERSID"),
        # Python's reader would make room for these before it sees that they are not there.
        (said(b"N" + b"r" + struct.pack("<I", 2**31 - 1)), "the opcode LONG_BINPUT"),
        (said(b"\x96" + struct.pack("<Q", 2**40)), "cannot be read"),
        (said(b"X" + struct.pack("<I", 2**31)), "cannot be read"),
        (said(b"\x8d" + struct.pack("<Q", 2**60)), "cannot be read"),
        (said(b"\x8a\xff\x01"), "cannot be read"),
        # containers that contain themselves, or are there many times
        (said(b"]\x94h\x00a"), "names something again that is no text"),
        (said(b"}\x94\x8c\x01ah\x00s"), "names something again that is no text"),
        (said(b"]\x94]\x94(h\x00h\x00e"), "names something again that is no text"),
        (said(b"h\x07"), "names something again that is no text"),
        (said(b"X", struct.pack("<I", 4096), b"x" * 4096, b"\x94(", b"h\x00" * 300, b"t"), "more than 1048576 char"),
        (said(b"]" * 3000, b"a" * 2999), "lists and dicts in each other"),
        (said(b")", b"\x85" * 3000), "lists and dicts in each other"),
        # what does not fit together
        (said(b""), "more or less than one value"),
        (said(b"NN"), "more or less than one value"),
        (said(b"(N"), "more or less than one value"),
        (said(b"a"), "a value that is not there"),
        (said(b"Na"), "a value that is not there"),
        (said(b"NNa"), "appends to what is no list"),
        (said(b"e"), "a mark that is not there"),
        (said(b"t"), "a mark that is not there"),
        (said(b"\x94"), "a value that is not there"),
        (said(b"}(NNu"), "by what is no text"),
        (said(b"}(\x8c\x01au"), "by what is no text"),
        (said(b"]\x8c\x01aNs"), "sets in what is no dict"),
        (said(b"}]Ns"), "by what is no text"),
        (b"\x80", "cannot be read"),
        (b"\x80\x04N", "cannot be read"),
        (b"\x80\x04\xff.", "cannot be read"),
        (b"", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[" * 40 + b"]" * 40, "lists and dicts in each other"),
        # text that can neither be shown nor sent
        (said(b"X\x03\x00\x00\x00\xed\xa0\x80"), "text that is none"),
        (b'{"\\ud800": 1}', "text that is none"),
        (b'["\\udfff"]', "text that is none"),
        (b" " * (BYTES_MAX + 1), "more than 1048576"),
    ],
)  # fmt: skip
def test_it_is_refused_in_words(pickled: bytes, told: str) -> None:
    assert told in refused(pickled)


def test_what_is_as_deep_as_may_be_is_read() -> None:
    deep: Any = 1
    for _ in range(DEPTH_MAX):
        deep = [deep]
    assert read(written(deep)) == deep
    refused(written([deep]))


@given(st.binary())
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    for each in (data, b"\x80\x04" + data, b"\x80\x04" + data + b"."):
        with contextlib.suppress(NotPlain):
            read(each)
