"""Patches: what comes out is what went in, whatever that is; what is damaged or of another payload is refused."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import CorruptRecord
from replicator.format.codec import digest_of
from replicator.format.ids import Position, RecordId, Writer
from replicator.format.patch import CODEC, Gatherer, Maker, PatchHead, cut, rebuild
from replicator.format.records import BODY_BYTES_MAX, ChangeRecord, seal_change

KIB = 1024
MIB = 1024 * 1024


class Held:
    """A payload in memory. Nobody reads outside of it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.read_most = 0

    def read(self, start: int, end: int) -> bytes:
        assert 0 <= start <= end <= self.size
        self.read_most = max(self.read_most, end - start)
        return self.data[start:end]


def made(old: bytes, new: bytes, *, chunk: int = 100_000, raw: bool = True, most: int = 1 << 40) -> bytes:
    maker = Maker(Held(old), digest_of(old), most=most)
    for at in range(0, len(new), chunk):
        maker.feed(new[at : at + chunk])
    patch = maker.finish(raw=raw)
    assert patch is not None
    assert maker.digest == digest_of(new)
    return patch


def applied(old: bytes, patch: bytes) -> bytes:
    return b"".join(rebuild(Held(old), digest_of(old), patch, id_="5-7"))


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def text(size: int, seed: int = 1) -> bytes:
    """Records that are alike, as in a document."""
    draw = random.Random(seed)
    lines: list[bytes] = []
    length = 0
    while length < size:
        lines.append(
            b'{"id": %d, "tags": ["web", "eu-west-1"], "key": "%s"},\n'
            % (len(lines), draw.randbytes(20).hex().encode())
        )
        length += len(lines[-1])
    return b"".join(lines)[:size]


OLD = text(3 * MIB)


@st.composite
def changed(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A payload, and what some edits made of it: in place, inserted, deleted, moved."""
    old = draw(st.sampled_from([OLD, OLD[: 40 * KIB], bytes(300 * KIB), noise(200 * KIB), b"", b"short"]))
    new = bytearray(old)
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(new)))
        length = draw(st.sampled_from([0, 1, 7, 300, 5000, 70_000, 400_000]))
        put = draw(st.sampled_from([b"", b"x", noise(3000, 2), text(9000, 3), bytes(600), old[:90_000]]))
        new[at : at + length] = put
    return old, bytes(new)


@settings(max_examples=150, deadline=None)
@given(changed(), st.sampled_from([1000, 65_536, 1_000_000]))
def test_what_is_patched_is_what_was_meant(payloads: tuple[bytes, bytes], chunk: int) -> None:
    old, new = payloads
    assert applied(old, made(old, new, chunk=chunk)) == new


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=3000), st.binary(max_size=3000))
def test_any_bytes_become_any_others(old: bytes, new: bytes) -> None:
    assert applied(old, made(old, new)) == new


def test_a_change_here_and_there_costs_little_wherever_what_follows_has_moved_to() -> None:
    # given one record in a hundred changed, and some inserted and deleted besides
    draw = random.Random(4)
    lines = OLD.split(b"\n")
    for at in draw.sample(range(len(lines)), len(lines) // 100):
        lines[at] = lines[at].replace(b"web", b"db")
    for _ in range(10):
        lines.insert(draw.randrange(len(lines)), b"an inserted line")
        del lines[draw.randrange(len(lines))]
    new = b"\n".join(lines)
    # then the patch is a small part of it
    assert len(made(OLD, new)) < len(new) * 0.01


@pytest.mark.parametrize(
    ("new", "most"),
    [
        (OLD[1_000_000:] + OLD[:1_000_000], 2000),
        (OLD[:500_000] + noise(100_000) + OLD[500_000:], 110_000),
        (OLD[:500_000] + OLD[1_800_000:], 20_000),
        (OLD + b"!", 200),
        (b"!" + OLD, 200),
        (OLD, 100),
        (b"", 60),
    ],
    ids=["halves swapped", "inserted", "deleted", "appended", "prepended", "the same", "emptied"],
)
def test_what_moved_is_found_again(new: bytes, most: int) -> None:
    patch = made(OLD, new)
    assert applied(OLD, patch) == new
    assert len(patch) <= most


def test_a_patch_says_what_it_is_for() -> None:
    head = PatchHead.of(made(b"old", b"newer", raw=False), id_="1-1")
    assert head == PatchHead(digest_of(b"old"), digest_of(b"newer"), 3, 5, raw=False)


def test_a_patch_that_gets_too_large_is_given_up() -> None:
    maker = Maker(Held(b""), digest_of(b""), most=100 * KIB)
    for seed in range(20):
        maker.feed(noise(MIB, seed))
    assert maker.finish(raw=True) is None
    # and did not keep what it was fed
    assert maker.size == 20 * MIB
    assert len(maker._held) < 2 * MIB


def test_another_payload_is_not_patched() -> None:
    patch = made(OLD, OLD + b"more")
    for other in (OLD[:-1], OLD[:-1] + b"?", b""):
        with pytest.raises(CorruptRecord, match="starts from another payload"):
            applied(other, patch)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_patch_is_refused(data: st.DataObject) -> None:
    new = OLD[:100_000] + b"inserted" + OLD[130_000:200_000] + noise(900)
    patch = bytearray(made(OLD, new))
    at = data.draw(st.integers(0, len(patch) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if kind == "flip":
        patch[at] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del patch[at:]
    else:
        patch[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    try:
        found = applied(OLD, bytes(patch))
    except CorruptRecord:
        return
    # Some bits are no part of what it yields: the flag of its pieces, which whoever splits the payload sees, and what
    # zstd does not look at.
    assert found == new


def test_neither_side_reads_much_of_the_old_payload_at_a_time() -> None:
    old, new = Held(OLD), OLD[:700_000] + b"x" * 1000 + OLD[700_000:]
    maker = Maker(old, digest_of(OLD))
    maker.feed(new)
    patch = maker.finish(raw=True)
    assert patch is not None
    for chunk in rebuild(old, digest_of(OLD), patch, id_="1-1"):
        assert len(chunk) <= MIB
    assert old.read_most <= MIB


CHILD = """
import os, sys
from replicator.format.codec import digest_of
from replicator.format.patch import Maker, rebuild
from replicator.errors import CorruptRecord

class OnDisk:
    def __init__(self, path):
        self.file, self.size = os.open(path, os.O_RDONLY), os.stat(path).st_size
    def read(self, start, end):
        return os.pread(self.file, end - start, start)

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

old, digest, patch = OnDisk(sys.argv[1]), sys.argv[2], sys.stdin.buffer.read()
before = peak()
try:
    for chunk in rebuild(old, digest, patch, id_="1-1"):
        pass
    told = "applied"
except CorruptRecord as problem:
    told = problem
print(peak() - before, told)
"""

pytestmark_linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")


def _memory_of_applying(path: object, digest: str, patch: bytes) -> tuple[int, str]:
    command = [sys.executable, "-c", CHILD, str(path), digest]
    done = subprocess.run(command, input=patch, capture_output=True, check=True, timeout=300)
    taken, _, told = done.stdout.decode().strip().partition(" ")
    return int(taken), told


@pytestmark_linux
def test_a_large_payload_is_patched_in_some_mb(tmp_path: object) -> None:
    # given 48 MiB of which every tenth line changed
    old = text(48 * MIB)
    new = b"\n".join(line + b" changed" if at % 10 == 0 else line for at, line in enumerate(old.split(b"\n")))
    path = f"{tmp_path}/old"
    with open(path, "wb") as file:
        file.write(old)
    # when it is applied in a process of its own
    taken, told = _memory_of_applying(path, digest_of(old), made(old, new))
    # then that takes what the largest stretch does
    assert told == "applied"
    assert taken < 24 * MIB


def bombs() -> Iterator[tuple[str, bytes, str]]:
    """Patches that would yield much more than they are."""
    from replicator.format import patch as module

    head = PatchHead(digest_of(b"x" * MIB), "0" * 32, MIB, 1 << 31, raw=True).to_bytes()
    # An edit of 1 GiB.
    operations = module._varint(2 * (1 << 30) + 1) + module._varint(0) + module._varint(0)
    frame = module._packed(bytes(10), b"")
    yield (
        "declared",
        head + module._STRETCH.pack(len(operations), 0xFFFFFFFF, len(frame)) + operations + frame,
        "too large",
    )
    # A frame of more than its edits.
    packer = module.zstd.ZstdCompressor(level=1)
    frame = b"".join([*(packer.compress(bytes(MIB)) for _ in range(256)), packer.flush()])
    operations = module._varint(2 * 1000 + 1) + module._varint(0) + module._varint(0)
    yield "real", head + module._STRETCH.pack(len(operations), 1000, len(frame)) + operations + frame, "frame"
    # The same old bytes again and again, as a prefix.
    operations = b"".join(
        module._varint(2 * 1 + 1) + module._varint(2 * MIB - 1 if at else 0) + module._varint(MIB) for at in range(200)
    )
    yield (
        "one prefix for many edits",
        head + module._STRETCH.pack(len(operations), 200, len(frame)) + operations + frame,
        "prefix",
    )
    # Old bytes for an edit of one: each stretch would have 2 MiB of them read.
    frame = module._packed(b"y", b"x" * 2 * MIB)
    operations = module._varint(2 * 1 + 1) + module._varint(0) + module._varint(MIB)
    stretch = module._STRETCH.pack(len(operations), 1, len(frame)) + operations + frame
    yield "a large prefix for a small edit", head + stretch, "prefix"
    # The same old bytes again and again, as it says.
    head = PatchHead(digest_of(b"x" * MIB), "0" * 32, MIB, 1 << 40, raw=True).to_bytes()
    operations = module._varint(2 * MIB) + module._varint(0)
    operations += (module._varint(2 * MIB) + module._varint(2 * MIB - 1)) * 9999
    yield "copies", head + module._STRETCH.pack(len(operations), 0, 0) + operations, "yields 1099511627776 bytes"


@pytestmark_linux
@pytest.mark.parametrize(("patch", "why"), [pytest.param(*rest, id=name) for name, *rest in bombs()])
def test_a_bomb_is_refused_before_it_has_gone_off(tmp_path: object, patch: bytes, why: str) -> None:
    path = f"{tmp_path}/old"
    with open(path, "wb") as file:
        file.write(b"x" * MIB)
    taken, told = _memory_of_applying(path, digest_of(b"x" * MIB), patch)
    assert why in told
    assert taken < 16 * MIB


# --- records ----------------------------------------------------------------------------------------------------------


def record(body: bytes, n: int = 1, *, node: str = "a", term: int = 1, **fields: object) -> ChangeRecord:
    given = {"codec": CODEC, "digest": digest_of(body), "count": 1} | fields
    after = Position(RecordId(term, n - 1), "0" * 32)
    return seal_change(writer=Writer(node, "x"), term=term, after=after, at=1, body=body, **given)  # type: ignore[arg-type]


def test_a_patch_that_fits_is_one_record_and_others_are_several() -> None:
    assert len(cut(made(b"old", b"new"))) == 1
    bodies = cut(noise(600 * KIB))
    assert [len(body) for body in bodies[:2]] == [BODY_BYTES_MAX, BODY_BYTES_MAX]
    gatherer = Gatherer()
    found = [gatherer.add(record(body, n)) for n, body in enumerate(bodies, 1)]
    assert found == [None, None, noise(600 * KIB)]
    # The last one again, because the disk refused: it is the same.
    assert gatherer.add(record(bodies[-1], 4)) == found[-1]


@pytest.mark.parametrize("stray", ["missing", "another node", "another term", "twice", "forgotten"])
def test_bodies_that_do_not_follow_each_other_are_no_patch(stray: str) -> None:
    first, second, third = cut(noise(600 * KIB))
    gatherer = Gatherer()
    gatherer.add(record(first, 1))
    if stray != "missing":
        gatherer.add(record(second, 2))
    if stray == "forgotten":
        gatherer.forget()
    bad = {
        "another node": record(third, 3, node="b"),
        "another term": record(third, 3, term=2),
        "twice": record(second, 3),
    }.get(stray, record(third, 3))
    with pytest.raises(CorruptRecord, match="other bodies did not come"):
        gatherer.add(bad)


def test_a_patch_that_was_begun_and_not_ended_is_forgotten_when_another_begins() -> None:
    gatherer = Gatherer()
    assert gatherer.add(record(cut(noise(600 * KIB))[0], 1)) is None
    assert gatherer.add(record(cut(b"patch")[0], 2, node="b", term=2)) == b"patch"


@pytest.mark.parametrize(
    ("body", "fields", "why"),
    [
        (b"[1]", {"codec": "json"}, "accepts patches only"),
        (cut(b"patch")[0], {"digest": "0" * 32}, "digest"),
        (b"RP\0\0\0\1", {}, "too short"),
        (b"RP\0\1\0\1x", {}, "not that of a patch"),
        (b"RP\0\0\xff\xffx", {}, "not that of a patch"),
        (b"XX\0\0\0\1x", {}, "not that of a patch"),
    ],
)  # fmt: skip
def test_a_record_that_is_none_of_a_patch_is_refused(body: bytes, fields: dict[str, str], why: str) -> None:
    with pytest.raises(CorruptRecord, match=why):
        Gatherer().add(record(body, **fields))
