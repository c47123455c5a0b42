"""The files of a node whose database is replicated by pages are damaged: it is found, named, and mended from what
the group has; programs never get it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator import Node
from replicator.errors import CorruptRecord
from replicator.format.pages import PageChange
from replicator.storage.shadow import Shadow
from tests.support.bank import Bank, audited, content
from tests.support.bank_actions import ACTIONS
from tests.support.kv import PATIENCE_S, eventually
from tests.support.page_group import PageGroup

#: Small pages: many places to be damaged.
PAGE_BYTES = 512


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[PageGroup]:
    with PageGroup(tmp_path) as pair:
        yield pair


@pytest.fixture
def bank(pair: PageGroup) -> Iterator[Bank]:
    with Bank(pair.ours, mode="wal", page_size=PAGE_BYTES, auto_vacuum=2) as bank:
        bank.transfer(20)
        pair.carry()
        yield bank


def flip(path: Path, at: int) -> None:
    """One bit of a file, in place."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 4]))


def settled(pair: PageGroup, bank: Bank) -> None:
    """Transfers go on, and in the end the standby has what the primary has, whatever it takes."""

    def equal() -> bool:
        bank.transfer()
        pair.publish()
        # The node may be given up for a moment: it waits for a snapshot.
        return pair.b.position == pair.a.position and pair.b.in_sync and pair.are_equal()

    eventually(equal, "the standby is mended", patience_s=3 * PATIENCE_S)


def test_a_bit_that_flips_in_the_shadow_of_a_standby_is_found_by_the_next_change_of_its_page(
    pair: PageGroup, bank: Bank, caplog: pytest.LogCaptureFixture
) -> None:
    shadow = pair.b.data_dir / "shadow"
    before = shadow.read_bytes()
    bank.transfer()
    pair.carry()
    after = shadow.read_bytes()
    touched = [at for at in range(0, len(before), PAGE_BYTES) if before[at : at + 512] != after[at : at + 512]]
    # a page that each transfer writes: that of the counter
    (counter,) = [at for at in touched if counted(after[at : at + PAGE_BYTES], before[at : at + PAGE_BYTES])][:1]
    flip(shadow, counter + PAGE_BYTES - 100)
    bank.transfer()
    with caplog.at_level(logging.INFO, logger="replicator"):
        pair.publish()
        eventually(lambda: "does not yield what it declares" in caplog.text, patience_s=3 * PATIENCE_S)
        settled(pair, bank)


def counted(after: bytes, before: bytes) -> bool:
    """Whether the page has one cell, which is the only row of its table."""
    return after[:1] == b"\x0d" and after[3:5] == b"\x00\x01" and after != before


def test_a_bit_that_flips_in_the_shadow_of_the_primary_does_not_reach_programs(pair: PageGroup, bank: Bank) -> None:
    """The standby refuses what is made with it, and gets a snapshot, or what is said of the page next."""
    shadow = pair.a.data_dir / "shadow"
    for place in random.Random(1).sample(range(100, shadow.stat().st_size), 5):
        flip(shadow, place)
        for action in ("transfers", "VACUUM", "forgetting"):
            ACTIONS[action](bank)
            pair.publish()
        pair.a.publish()
        settled(pair, bank)
    pair.group.end_lease()
    pair.b.promote(timeout_s=PATIENCE_S)
    assert content(pair.theirs) == content(pair.ours)


def test_a_change_with_a_bit_flipped_is_refused_wherever_that_is(pair: PageGroup, bank: Bank) -> None:
    data = made(pair, bank)
    change = PageChange.of(data, id_="7-7")
    shadow = pair.b._running.replica._updater.whole._shadow  # type: ignore[attr-defined]
    refused = 0
    for at in range(len(data)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        try:
            found = PageChange.of(bytes(damaged), id_="7-7")
            shadow.check(found, id_="7-7")
        except CorruptRecord:
            refused += 1
        else:
            assert found == change  # zstd has bits that mean nothing
    assert refused > 0.98 * len(data)
    for size in range(len(data)):
        with pytest.raises(CorruptRecord, match="7-7"):
            PageChange.of(data[:size], id_="7-7")
    shadow.check(change, id_="7-7")


def made(pair: PageGroup, bank: Bank) -> bytes:
    """What the primary would publish now."""
    bank.transfer()
    whole = pair.a._running.replica._updater.whole  # type: ignore[attr-defined]
    change = whole.source.look(whole._shadow)
    assert isinstance(change, bytes)
    return change


def test_whatever_a_crash_left_of_the_shadow_it_is_what_was_published_after_the_start(
    pair: PageGroup, bank: Bank
) -> None:
    shadow = pair.b.data_dir / "shadow"
    of_before = shadow.read_bytes()
    for _ in range(3):
        ACTIONS["one large transaction"](bank)
        pair.carry()
    ACTIONS["forgetting"](bank)
    pair.carry()
    of_now = shadow.read_bytes()
    for leave in leftovers(of_before, of_now):
        pair.group.crash(pair.b)
        leave(shadow)
        pair.b = pair.standby("b", pair.theirs)
        pair.follow()
        assert pair.are_equal()
        bank.transfer()
        pair.carry()
        assert pair.are_equal()


def leftovers(before: bytes, now: bytes) -> Iterator[Callable[[Path], object]]:
    """A change of which some pages had been written; one that is cut; another one; none."""
    pages = random.Random(2)
    for share in (0.1, 0.5, 0.9):
        torn = bytearray(before.ljust(len(now), b"\0"))
        for at in range(0, len(now), PAGE_BYTES):
            if pages.random() < share:
                torn[at : at + PAGE_BYTES] = now[at : at + PAGE_BYTES]
        yield lambda path, torn=bytes(torn): path.write_bytes(torn)  # type: ignore[misc]
    yield lambda path: path.write_bytes(before)
    for size in (0, 50, PAGE_BYTES, len(now) // 2 + 7, len(now) - 1):
        yield lambda path, size=size: path.write_bytes(path.read_bytes()[:size])  # type: ignore[misc]
    yield lambda path: path.write_bytes(path.read_bytes() + b"more")
    yield lambda path: path.write_bytes(b"another file" * 1000)
    yield lambda path: flip(path, len(now) // 2)
    yield lambda path: path.unlink()
    yield lambda path: path.with_name("shadow.new-3").write_bytes(now[:1000])


def test_a_primary_whose_shadow_is_gone_goes_on_after_its_start(pair: PageGroup, bank: Bank) -> None:
    for leave in (Path.unlink, lambda path: flip(path, 3000), lambda path: path.write_bytes(b"")):
        pair.group.crash(pair.a)
        leave(pair.a.data_dir / "shadow")
        bank.transfer()
        pair.a = pair.standby("a", pair.ours)
        leads(pair, pair.a)
        pair.carry()
        assert pair.are_equal()
        assert audited(pair.ours) == bank.transfers


def leads(pair: PageGroup, node: Node) -> None:
    pair.group.end_lease()
    node.promote(timeout_s=PATIENCE_S, force=True)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_what_a_killed_program_left_at_the_path_of_a_standby_is_no_part_of_what_it_leads_with(
    pair: PageGroup, bank: Bank, mode: str, tmp_path: Path
) -> None:
    """A WAL that stays beside a database that took the place of its own gives wrong content without a sign."""
    # given a standby beside whose path are the files of a program that was killed
    pair.b.stop()
    with Bank(tmp_path / "killed", mode=mode, page_size=PAGE_BYTES) as killed:
        killed.transfer(3)
        killed.db.execute("PRAGMA cache_size = 5")
        killed.db.execute("BEGIN IMMEDIATE")
        for _ in range(20):
            killed.move(note_bytes=1000)
        for suffix in ("", "-wal", "-journal"):
            if (left := Path(f"{killed.path}{suffix}")).exists():
                Path(f"{pair.theirs}{suffix}").write_bytes(left.read_bytes())
        killed.db.execute("ROLLBACK")
    # when it starts, and when such files come once more while it follows
    pair.b = pair.standby("b", pair.theirs)
    bank.transfer(5)
    pair.carry()
    with Bank(pair.theirs, mode=mode) as strange:
        strange.transfer(2)
        unpublished = strange.transfers
        left = {
            suffix: Path(f"{pair.theirs}{suffix}").read_bytes() for suffix in ("", "-wal") if suffix in existing(pair)
        }
    for suffix, data in left.items():
        Path(f"{pair.theirs}{suffix}").write_bytes(data)
    bank.transfer(5)
    pair.carry()
    # then it leads with what was published, and what only that program had is kept
    leads(pair, pair.b)
    assert content(pair.theirs) == content(pair.ours)
    assert audited(pair.theirs) == bank.transfers
    kept = [
        path for path in tmp_path.glob("theirs.db.replaced-*") if not path.name.endswith(("-wal", "-shm", "-journal"))
    ]
    assert unpublished in map(audited, kept)


def existing(pair: PageGroup) -> set[str]:
    return {suffix for suffix in ("", "-wal") if Path(f"{pair.theirs}{suffix}").exists()}


def test_a_change_is_saved_before_the_shadow_of_a_standby_gets_it(
    pair: PageGroup, bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shadow that is torn by a kill is mended by what the checkpoint has: the change that tore it has to be there."""
    checkpoint, really = pair.b._running.replica.saved.checkpoint, Shadow.make
    has: list[bool] = []

    def make(shadow: Shadow, change: PageChange) -> None:
        if shadow.path.parent == pair.b.data_dir:
            *_, newest = checkpoint.changes()
            has.append(change.digest.to_bytes(16, "big") in newest.body)
        really(shadow, change)

    monkeypatch.setattr(Shadow, "make", make)
    for _ in range(3):
        bank.transfer()
        pair.carry()
    assert has == [True, True, True]
