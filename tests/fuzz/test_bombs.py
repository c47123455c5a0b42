"""A few bytes that become many: refused by what they declare, and by what they turn out to be, in bounded memory.

Counted by the operating system, in a process of its own: what zstd takes for itself is not Python's.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz.core_targets import bomb

MIB = 1024 * 1024

#: What each decoder may take beyond what the process had before: the payload, the chunk that zstd gives at a time, and
#: zstd's window of 8 MiB at most, as far as it is touched.
CHANGES_BYTES_MAX = 16 * MIB

#: The bound on a piece in these tests (the real one is 256 MiB), and what may be held for it: its chunks, those
#: joined, the piece itself, and what JSON makes of it.
PIECE_BYTES_MAX = 16 * MIB
SNAPSHOT_BYTES_MAX = 5 * PIECE_BYTES_MAX

# VmHWM and not ru_maxrss: a child begins with the latter of its parent.
CHILD = """
import sys
from replicator.core import codec
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
    else:
        for piece in codec.SnapshotDecoder(kind, "", id_="1-1").pieces([body]):
            del piece
except CorruptRecord as problem:
    print(peak() - before, problem)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


def _refused(kind: str, body: bytes) -> tuple[int, str]:
    """The memory that it took to refuse it, and why it was."""
    command = [sys.executable, "-c", CHILD, kind, str(PIECE_BYTES_MAX)]
    done = subprocess.run(command, input=body, capture_output=True, check=True, timeout=60)
    taken, _, why = done.stdout.decode().strip().partition(" ")
    return int(taken), why


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x7f\x01\x00\x00", "it declares 9223372036854775807 bytes"),
        (bomb(256 * MIB), "of a size that a record takes"),
        (bomb(64 * MIB, b"[],"), "of a size that a record takes"),
    ],
    ids=["declared", "real", "lists"],
)
def test_a_change_takes_no_more_memory_than_a_change_may(body: bytes, why: str) -> None:
    assert len(body) < 64 * 1024
    taken, told = _refused("change", body)
    assert why in told
    assert taken < CHANGES_BYTES_MAX


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        ("json+zstd", bomb(256 * MIB), "too large"),
        ("json+zstd", bomb(4 * MIB, b"0\n"), "digest"),
        ("raw+zstd", bomb(24 * MIB, b"\x00\x00\xff\xff" + b"x" * 65535), "digest"),
        ("raw+zstd", bomb(256 * MIB, b"\x7f"), "a piece of 2139062143 bytes"),
    ],
    ids=["a line without an end", "many lines", "many frames", "a frame that declares 2 GiB"],
)
def test_a_snapshot_takes_no_more_memory_than_some_pieces(kind: str, body: bytes, why: str) -> None:
    assert len(body) < 256 * 1024
    taken, told = _refused(kind, body)
    assert why in told
    assert taken < SNAPSHOT_BYTES_MAX
