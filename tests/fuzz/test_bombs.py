"""A few bytes that become many: refused by what they declare, and by what they turn out to be, in bounded memory.

Counted by the operating system, in a process of its own: what zstd takes for itself is not Python's.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest

from tests.fuzz.core_targets import bomb

MIB = 1024 * 1024

#: What each decoder may take beyond what the process had before: the payload, the chunk that zstd gives at a time, and
#: zstd's window of 8 MiB at most, as far as it is touched.
CHANGES_BYTES_MAX = 16 * MIB

#: The bound on a piece in these tests (the real one is 64 MiB), and what may be held for it: its chunks, those
#: joined, the piece itself, and what JSON makes of it.
PIECE_BYTES_MAX = 16 * MIB
SNAPSHOT_BYTES_MAX = 5 * PIECE_BYTES_MAX

#: The bound on what all pieces weigh (the real one is 4 GiB), and what they take: what weighs less than a byte of JSON
#: may be before it is counted comes on top.
WEIGHT_MAX = 128 * MIB
KEPT_BYTES_MAX = 2 * WEIGHT_MAX + SNAPSHOT_BYTES_MAX

# VmHWM and not ru_maxrss: a child begins with the latter of its parent.
CHILD = """
import sys
from replicator.format import codec
from replicator.errors import CorruptRecord

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

kind, most = sys.argv[1], int(sys.argv[2])
codec.PIECE_BYTES_MAX = most
body = sys.stdin.buffer.read()
before = peak()
try:
    if kind == "change":
        codec.decode_changes("json+zstd", body, "", 1, id_="1-1")
    elif len(sys.argv) > 3:
        kept = []
        for piece in codec.SnapshotDecoder(kind, "", id_="1-1", most=int(sys.argv[3])).pieces([body]):
            kept.append(piece)
    else:
        for piece in codec.SnapshotDecoder(kind, "", id_="1-1").pieces([body]):
            del piece
except CorruptRecord as problem:
    print(peak() - before, problem)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


def _refused(kind: str, body: bytes, *more: int) -> tuple[int, str]:
    """The memory that it took to refuse it, and why it was."""
    command = [sys.executable, "-c", CHILD, kind, str(PIECE_BYTES_MAX), *map(str, more)]
    done = subprocess.run(command, input=body, capture_output=True, check=True, timeout=300)
    taken, _, why = done.stdout.decode().strip().partition(" ")
    return int(taken), why


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x7f\x01\x00\x00", "it declares 9223372036854775807 bytes"),
        (partial(bomb, 256 * MIB), "of a size that a record takes"),
        (partial(bomb, 64 * MIB, b"[],"), "of a size that a record takes"),
    ],
    ids=["declared", "real", "lists"],
)
def test_a_change_takes_no_more_memory_than_a_change_may(made: Callable[[], bytes], why: str) -> None:
    body = made()
    assert len(body) < 64 * 1024
    taken, told = _refused("change", body)
    assert why in told
    assert taken < CHANGES_BYTES_MAX


@pytest.mark.parametrize(
    ("kind", "made", "why"),
    [
        ("json+zstd", partial(bomb, 256 * MIB), "too large"),
        ("json+zstd", partial(bomb, 4 * MIB, b"0\n"), "digest"),
        ("raw+zstd", partial(bomb, 24 * MIB, b"\x00\x00\xff\xff" + b"x" * 65535), "digest"),
        ("raw+zstd", partial(bomb, 256 * MIB, b"\x7f"), "a piece of it has 2139062143 bytes"),
    ],
    ids=["a line without an end", "many lines", "many frames", "a frame that declares 2 GiB"],
)
def test_a_snapshot_takes_no_more_memory_than_some_pieces(kind: str, made: Callable[[], bytes], why: str) -> None:
    body = made()
    assert len(body) < 256 * 1024
    taken, told = _refused(kind, body)
    assert why in told
    assert taken < SNAPSHOT_BYTES_MAX


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("raw+zstd", partial(bomb, 512 * MIB, b"\x00")),
        ("raw+zstd", partial(bomb, 512 * MIB, b"\x00\x00\xff\xff" + b"x" * 65535)),
        ("json+zstd", partial(bomb, 512 * MIB, b"0\n")),
        ("json+zstd", partial(bomb, 512 * MIB, b"[]\n")),
        ("json+zstd", partial(bomb, 256 * MIB, b"[" + b"[]," * 30_000 + b"0]\n")),
        ("json+zstd", partial(bomb, 256 * MIB, b"[" + b"{}," * 30_000 + b"0]\n")),
        ("json+zstd", partial(bomb, 256 * MIB, b"[" * 1000 + b"]" * 1000 + b"\n")),
        ("json+zstd", partial(bomb, 256 * MIB, b'{"a":' * 1000 + b"0" + b"}" * 1000 + b"\n")),
        ("json+zstd", partial(bomb, 256 * MIB, b"[" + b"0.5," * 30_000 + b"0]\n")),
    ],
    ids=["empty pieces", "bytes", "numbers", "arrays", "arrays in arrays", "objects", "deep", "deep objects", "floats"],
)
def test_who_keeps_all_pieces_of_a_snapshot_has_no_more_than_it_may_weigh(kind: str, made: Callable[[], bytes]) -> None:
    body = made()
    assert len(body) < 512 * 1024
    taken, told = _refused(kind, body, WEIGHT_MAX)
    assert "snapshot_bytes_max" in told
    assert taken < KEPT_BYTES_MAX


@pytest.mark.parametrize("kind", ["change", "json+zstd", "raw+zstd"])
def test_a_frame_that_wants_a_large_window_is_refused(kind: str) -> None:
    # RFC 8878, 3.1.1.1.2: exponent 16, so 64 MiB; then one block of a byte.
    body = b"\x28\xb5\x2f\xfd\x00" + bytes([16 << 3]) + b"\x09\x00\x00x"
    taken, told = _refused(kind, body)
    assert "is not zstd" in told
    assert taken < CHANGES_BYTES_MAX
