"""What a queue of jobs says: near plain values, and what wants to import, to call, or to fill the memory."""

from __future__ import annotations

import io
import json
import pickle
from typing import Any

from replicator.jobs.plain_pickle import NotPlain, read, written
from tests.fuzz.core_targets import whole
from tests.fuzz.engine import MIB, Target
from tests.fuzz.mutate import Choices, bytes_near

__all__ = ["TARGETS"]

_CALL = ("replicator.workers.jobs.switchover", None, (), {"to": "b", "term": 3, "at": 2**40, "reason": "é" * 300})
_META = {"progress": "b leads", "step": ["b", 1, 2.5], "lines": ["b", "b"], "result": {"equal": True, "b": None}}
_VALID = (
    *(pickle.dumps(each, protocol=protocol) for each in (_CALL, _META) for protocol in range(6)),
    *(written(each) for each in (_CALL, _META)),
    json.dumps(_CALL).encode(),
)

#: Whole opcodes, of plain values and of all that is not: what comes of them in any order.
_SAID = (
    *(b"(", b")", b"]", b"}", b"\x94", b"N", b"\x88", b"K\x05", b"\x8a\x02\x00\x01", b"G" + b"\x40" * 8),
    *(b"\x85", b"\x86", b"\x87", b"t", b"a", b"e", b"s", b"u", b"h\x00", b"h\x01", b"j\x00\x00\x00\x00"),
    *(b"\x8c\x01a", b"\x8c\x02os", b"X\x01\x00\x00\x00b", b"\x95" + b"\x04" + b"\x00" * 7),
    *(
        b"\x8c\x06system",
        b"\x93",
        b"R",
        b"b",
        b"cos\nsystem\n",
        b"ios\nsystem\n",
        b"o",
        b"\x81",
        b"\x92",
        b"Q",
        b"Px\n",
    ),
    *(b"\x82\x01", b"2", b"0", b"1", b"l", b"d", b"r\xff\xff\xff\x7f", b"\x96" + b"\xff" * 5 + b"\x00" * 3, b"p7\n"),
)


class _Importless(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise AssertionError(f"what was accepted imports {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise AssertionError(f"what was accepted asks for {pid}")


def _pickle(choices: Choices) -> bytes:
    if choices.once_in(2):
        return bytes_near(choices, choices.pick(_VALID))
    return b"\x80\x04" + b"".join(choices.pick(_SAID) for _ in choices.few(24)) + b"."


def _reads(data: bytes) -> bool:
    """What is accepted is a plain value, and harmless to Python's own reader, for which it is the same."""
    try:
        value = read(data)
    except NotPlain:
        return False
    text = json.dumps(value)
    assert json.dumps(read(written(value))) == text
    if data.startswith(pickle.PROTO):
        try:
            theirs = _Importless(io.BytesIO(data)).load()
        # It wants frames to fit, which say nothing, and appends to no tuple, which is a list here.
        except (pickle.UnpicklingError, EOFError, ValueError, OverflowError, AttributeError):
            return True
        assert json.dumps(theirs) == text
    return True


TARGETS = (Target(name="job", build=_pickle, opened=whole(_reads), bytes_max=8 * MIB),)
