"""One node's copy, without threads: what it folds, what it applies, and what is on its disk at each moment."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator import CheckpointError, CorruptRecord, Stalled
from replicator.errors import SnapshotRefused
from replicator.format.codec import SnapshotEncoder, encode_changes
from replicator.format.ids import ORIGIN, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import PartRecord, seal_change, seal_part
from replicator.format.snapshot_parts import Cutter
from replicator.protocol.fold import Holder, Verdict, View
from replicator.protocol.group import Code, Reply
from replicator.replica import restore
from replicator.replica.replica import Replica
from replicator.replica.restore import Dropped
from replicator.storage.checkpoint_reader import CheckpointReader
from replicator.testing import MemoryLog
from tests.support.kv import KV, PATIENCE_S, eventually, in_thread, push
from tests.support.replicas import ME, all_of, snapshot_of
from tests.support.worlds import Author, lead

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def parts_of(author: Author, pieces: list[Any], *, digest: str = "", replaces: bool = False) -> list[PartRecord]:
    """The same in several parts. They follow what the author wrote; the author is behind them then."""
    encoder, cutter = SnapshotEncoder(), Cutter(60_000)
    bodies = [body for piece in pieces for body in cutter.feed(encoder.feed(piece))]
    bodies += [*cutter.feed(encoder.finish()), cutter.finish()]
    as_of, records = author.position, []
    for part, body in enumerate(bodies):
        last = part + 1 == len(bodies)
        record = seal_part(
            writer=author.writer, term=author.term, after=author.position, n=author.position.id.n + 1, at=0,
            codec=encoder.codec, digest=(digest or encoder.digest) if last else "", part=part,
            parts=len(bodies) if last else 0, as_of=as_of, changed=ZERO_ID, replaces=replaces, ends=(), body=body,
        )  # fmt: skip
        author.position = record.position
        records.append(record)
    assert len(records) > 4
    return records


def pieces_of(count: int = 12) -> list[Any]:
    """Pieces of a `KV`, 80 kB each, that do not compress well."""
    return [["pushed", ["new"]], *(["data", f"{number:02}", os.urandom(40_000).hex()] for number in range(count))]


class Watched(KV):
    """Shows how far its restores are, and how they ended. `gate`: what a restore waits for before its first piece."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[int] = []
        self.ended: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()

    def restore(self, pieces: Any) -> None:
        self.drawn.append(0)
        assert self.gate.wait(PATIENCE_S)
        try:
            super().restore(self._counted(pieces))
        except BaseException as error:
            self.ended.append(error)
            raise
        self.ended.append(None)

    def _counted(self, pieces: Any) -> Iterator[Any]:
        for piece in pieces:
            self.drawn[-1] += 1
            yield piece


class TestTake:
    def test_it_applies_what_follows_in_order(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        for i in range(3):
            author.append(push(i))
        replica = make()
        verdicts = replica.take(all_of(log))
        assert verdicts == [Verdict.FOLLOW, Verdict.APPLY, Verdict.APPLY, Verdict.APPLY]
        assert replica.applied.state.pushed == [0, 1, 2]
        assert replica.node_state.view.position == author.position

    def test_a_term_outlives_a_power_cut_at_once_and_a_change_a_moment_later(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica = make()
        # when it has read a term, then that is on the disk
        replica.take(all_of(log))
        assert replica.saved.is_flushed
        # and a change is with the system only, until it is flushed
        author.append(push("x"))
        replica.take(all_of(log))
        assert not replica.saved.is_flushed
        assert replica.synced_upto < replica.node_state.view.position.id
        replica.flush()
        assert replica.saved.is_flushed
        assert replica.synced_upto == replica.node_state.view.position.id

    def test_what_was_folded_is_passed_over(self, log: MemoryLog, author: Author, make: Callable[..., Replica]) -> None:
        author.append(push("x"))
        replica = make()
        replica.take(all_of(log))
        author.append(push("y"))
        assert replica.take(all_of(log) + all_of(log)) == [Verdict.APPLY]
        assert replica.applied.state.pushed == ["x", "y"]

    def test_a_stale_record_is_ignored_counted_and_logged_at_warning(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica], caplog: pytest.LogCaptureFixture
    ) -> None:
        author.append(push("stale"))
        replica = make()
        replica.saved.checkpoint.save(View(term=5, holder=Holder("c", "boot-c", "run-1")), boot="before")
        replica = make()
        with caplog.at_level(logging.WARNING):
            verdicts = replica.take(all_of(log))
        assert verdicts == [Verdict.REJECT_STALE, Verdict.REJECT_STALE]
        assert replica.rejected == 2
        assert replica.applied.state.pushed == []
        assert replica.node_state.view.term == 5
        assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"][1] == (
            "ignored 1-2 change by a: term 1 is over, the term is 5"
        )

    def test_if_the_disk_refuses_what_must_not_be_forgotten_nothing_moves(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        author.append(push("x"))
        replica = make()

        def full(*args: Any, **options: Any) -> None:
            raise CheckpointError(path="x", problem="full")

        with monkeypatch.context() as patched:
            patched.setattr(replica.saved.checkpoint, "save", full)
            with pytest.raises(CheckpointError):
                replica.take(all_of(log))
        assert replica.node_state.view == View()
        assert replica.applied.state.pushed == []
        replica.take(all_of(log))
        assert replica.applied.state.pushed == ["x"]

    def test_it_stops_where_this_node_becomes_the_holder(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"))
        own = lead(log, *ME[:1], boot=ME.boot)
        own.append(push("its own"))
        replica = make()
        assert replica.take(all_of(log))[-1] is Verdict.LEAD
        assert replica.node_state.is_primary
        assert replica.applied.state.pushed == ["x"]

    def test_what_comes_before_a_damaged_body_is_done_and_it_keeps_its_place(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"))
        good = all_of(log)
        record = author.change(push("y"))
        damaged = replace(record, payload=record.payload.replace(b"y", b"z"))
        replica = make()
        with pytest.raises(CorruptRecord, match="digest"):
            replica.take([*good, damaged])
        assert replica.applied.state.pushed == ["x"]
        assert replica.node_state.view.position == author.position
        replica.take([record])
        assert replica.applied.state.pushed == ["x", "y"]

    def test_a_bug_in_the_application_stalls_it_at_the_record_before(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"))
        before = author.position
        author.append({"nonsense": 1})
        author.append(push("y"))
        replica = make()
        with pytest.raises(Stalled, match="1-3"):
            replica.take(all_of(log))
        assert (replica.node_state.view.position, replica.applied.state.pushed) == (before, ["x"])
        with pytest.raises(Stalled):
            replica.take(all_of(log))
        again = make()  # the term among them had all of it saved
        assert (again.node_state.view.position, again.applied.state.pushed) == (before, ["x"])
        assert "1-3" in again.stalled


class TestSnapshots:
    def behind(self, log: MemoryLog, author: Author, make: Callable[..., Replica]) -> Replica:
        """A replica that misses a record, and knows it."""
        replica = make()
        replica.take(all_of(log))
        author.append(push("missed"))
        author.append(push("seen"))
        assert replica.take(all_of(log)[-1:]) == [Verdict.NEED_SNAPSHOT]
        return replica

    def test_a_node_that_is_out_of_sync_is_rebuilt_and_reads_on(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica = self.behind(log, author, make)
        part = snapshot_of(author, [["pushed", ["missed", "seen"]]])
        assert replica.take([part]) == [Verdict.RESTORE]
        assert replica.applied.state.pushed == ["missed", "seen"]
        assert replica.node_state.view.in_sync
        assert make().applied.state.pushed == ["missed", "seen"]

    def test_a_damaged_snapshot_leaves_the_state_and_another_one_is_waited_for(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica = self.behind(log, author, make)
        replica.take([snapshot_of(author, [["pushed", ["wrong"]]], digest="0" * 32)])
        assert replica.applied.state.pushed == []
        assert not replica.node_state.view.in_sync
        assert replica.stalled == ""

    def test_a_restore_that_reads_only_the_beginning_stalls_the_node_and_nothing_is_saved(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        class Lazy(KV):
            def restore(self, pieces: Any) -> None:
                ((_, self.pushed),) = (next(iter(pieces)),)

        replica = make(state=Lazy())
        replica.take(all_of(log))
        before = replica.node_state.view
        with pytest.raises(Stalled, match="draw them to the end"):
            replica.take([snapshot_of(author, [["pushed", ["x"]], ["data", "k", 1]], replaces=True)])
        loaded = replica.saved.checkpoint.load()
        assert loaded is not None
        assert loaded.view == replica.node_state.view == before

    def test_a_snapshot_that_follows_is_kept_as_the_payload_and_changes_nothing(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"))
        replica = make()
        replica.take(all_of(log))
        assert replica.take([snapshot_of(author, [["pushed", ["x"]]])]) == [Verdict.SKIP]
        assert replica.saved.checkpoint.payload_bytes == 0
        replica.flush()
        assert replica.saved.checkpoint.payload_bytes > 0
        assert replica.saved.checkpoint.changes_bytes == 0


class TestSnapshotsThatAreTooHeavy:
    """A node names what it met, stays where it is, and takes the next one."""

    def behind(self, log: MemoryLog, author: Author, make: Callable[..., Replica], state: Any = None) -> Replica:
        author.append(push("old"))
        replica = make(state=state)
        replica.take(all_of(log))
        author.append(push("missed"))
        author.append(push("seen"))
        replica.take(all_of(log)[-1:])
        return replica

    @pytest.mark.parametrize("pieces", [[["pushed", ["x" * 50_000]]], [["pushed", []] for _ in range(100)]])
    def test_one_is_passed_by_and_named_until_another_one_comes(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica], pieces: list[Any]
    ) -> None:
        replica = self.behind(log, author, make)
        replica._rebuild.snapshot_bytes_max = 20_000
        bomb = snapshot_of(author, pieces)
        replica.take([bomb])
        assert (replica.applied.state.pushed, replica.stalled, replica.node_state.view.in_sync) == (["old"], "", False)
        assert isinstance(replica.known.passed_by, SnapshotRefused)
        assert f"the snapshot at {bomb.id} is not taken" in str(replica.known.passed_by)
        assert "snapshot_bytes_max" in str(replica.known.passed_by)
        author.position = bomb.position
        assert replica.take([snapshot_of(author, [["pushed", ["new"]]])]) == [Verdict.RESTORE]
        assert (replica.applied.state.pushed, replica.known.passed_by) == (["new"], None)

    def test_one_whose_parts_come_one_by_one_is_as_well(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica = self.behind(log, author, make)
        replica._rebuild.snapshot_bytes_max = 200_000
        for part in parts_of(author, pieces_of()):
            replica.take([part])
        assert (replica.applied.state.pushed, replica.stalled) == (["old"], "")
        assert isinstance(replica.known.passed_by, SnapshotRefused)

    def test_no_end_of_empty_pieces_comes_to_an_end(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        class Counting(KV):
            drawn = 0

            def restore(self, pieces: Any) -> None:
                for _ in pieces:
                    self.drawn += 1

        state = Counting()
        replica = self.behind(log, author, make, state)
        replica._rebuild.snapshot_bytes_max = 256 * 10_000
        packer = zstd.ZstdCompressor(level=1)
        zeros = bytes(1024 * 1024)
        body = b"".join([*(packer.compress(zeros) for _ in range(64)), packer.flush()])
        assert len(body) < 16 * 1024
        part = replace(snapshot_of(author, []), codec="raw+zstd", body=body, payload=body)
        replica.take([part])
        assert isinstance(replica.known.passed_by, SnapshotRefused)
        assert state.drawn == 10_000

    def test_a_node_that_stops_ends_one_that_it_restores_where_it_reads_it(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        state = Watched()
        replica = self.behind(log, author, make, state)
        before = replica.node_state.view
        part = snapshot_of(author, [["data", f"{number}", 1] for number in range(1000)])
        state.gate.clear()
        taken = in_thread(lambda: replica.take([part]))
        eventually(lambda: state.drawn, "the restore")
        replica.close()
        state.gate.set()
        taken()
        assert [type(ended) for ended in state.ended] == [Dropped]
        assert state.drawn == [0]
        assert (replica.node_state.view, state.pushed, replica.stalled) == (before, ["old"], "")

    def test_a_node_that_stops_does_not_draw_what_the_application_did_not_want(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica = self.behind(log, author, make)

        def fail() -> None:
            replica.close()
            raise ValueError("a bug")

        class Broken(KV):
            def restore(self, pieces: Any) -> None:
                next(iter(pieces))
                fail()

        replica.applied.state = Broken()
        replica.take([snapshot_of(author, [["data", f"{number}", 1] for number in range(1000)])])
        assert replica.stalled == "", "nobody knows whether its pieces were right"


class TestSnapshotsInParts:
    def behind(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica], **options: Any
    ) -> tuple[Replica, Watched]:
        """A replica with a state of its own that misses a record, and knows it."""
        state = Watched()
        author.append(push("old"))
        replica = make(state=state, **options)
        replica.take(all_of(log))
        author.append(push("missed"))
        author.append(push("seen"))
        assert replica.take(all_of(log)[-1:]) == [Verdict.NEED_SNAPSHOT]
        return replica, state

    def test_it_is_decoded_while_parts_arrive_and_swapped_in_with_the_last_one(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica, state = self.behind(log, author, make)
        pieces = pieces_of()
        *parts, last = parts_of(author, pieces)
        before = replica.node_state.view.position
        for part in parts:
            replica.take([part])
        eventually(lambda: state.drawn and state.drawn[0] > len(pieces) / 2, "half of the pieces")
        with replica.applied.reading() as read:  # nobody waits meanwhile
            assert (read.pushed, replica.node_state.view.position) == (["old"], before)
        assert replica.take([last]) == [Verdict.RESTORE]
        assert list(state.snapshot()) == pieces
        assert (state.drawn, state.ended) == ([len(pieces)], [None])
        again = make(state=Watched())
        assert (list(again.applied.state.snapshot()), again.node_state.view) == (pieces, replica.node_state.view)

    def test_at_the_swap_all_of_it_is_on_disk_and_the_lock_is_held(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica, state = self.behind(log, author, make)
        parts = parts_of(author, pieces_of())
        seen: list[Any] = []

        def look() -> None:
            loaded = replica.saved.checkpoint.load()
            assert loaded is not None
            seen.append(
                (
                    loaded.view.in_sync,
                    loaded.view.changed,
                    replica.applied.lock.locked(),
                    replica.node_state.view.in_sync,
                )
            )

        state.in_restore = look
        replica.take(parts)
        assert seen == [(True, ZERO_ID, True, False)]
        assert not replica.applied.lock.locked()

    def test_no_reader_finds_the_new_state_at_the_old_position_or_the_other_way_round(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica, state = self.behind(log, author, make)
        old = replica.node_state.view.position
        parts = parts_of(author, pieces_of())
        seen: set[tuple[bool, bool]] = set()
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                with replica.applied.reading() as found:
                    seen.add((found.pushed == ["old"], replica.node_state.view.position == old))

        readers = [in_thread(read) for _ in range(3)]
        eventually(lambda: (True, True) in seen, "a reader")
        state.in_restore = lambda: time.sleep(0.02)  # the swap takes its time
        for part in parts:
            replica.take([part])
        eventually(lambda: (False, False) in seen)
        done.set()
        for reader in readers:
            reader()
        assert seen == {(True, True), (False, False)}

    def test_a_node_that_ends_in_the_middle_goes_on_with_what_it_saved(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica, _ = self.behind(log, author, make)
        pieces = pieces_of()
        parts = parts_of(author, pieces)
        replica.take(parts[:3])
        replica.close()
        again = make(state=Watched())
        assert again.applied.state.pushed == ["old"]
        for part in parts[3:]:
            again.take([part])
        assert list(again.applied.state.snapshot()) == pieces

    def test_one_that_breaks_off_is_dropped_and_the_next_one_taken(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica, state = self.behind(log, author, make)
        replica.take(parts_of(author, pieces_of())[:4])
        pieces = pieces_of()
        parts = parts_of(author, pieces)
        replica.take(parts[:3])
        eventually(lambda: len(state.ended) == 1, "the end of the first")
        assert isinstance(state.ended[0], Dropped)
        assert (replica.stalled, state.pushed) == ("", ["old"])
        replica.take(parts[3:])
        assert list(state.snapshot()) == pieces

    def test_one_that_breaks_off_is_no_part_of_one_that_is_a_single_part(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica, state = self.behind(log, author, make)
        replica.take(parts_of(author, pieces_of())[:4])
        assert replica.take([snapshot_of(author, [["pushed", ["whole"]]])]) == [Verdict.RESTORE]
        assert (replica.node_state.view.in_sync, replica.known.passed_by, state.pushed) == (True, None, ["whole"])

    def test_one_that_a_new_term_ends_is_dropped(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica, state = self.behind(log, author, make)
        replica.take(parts_of(author, pieces_of())[:4])
        lead(log, "c", boot="boot-c")
        assert replica.take(all_of(log)[-1:]) == [Verdict.FOLLOW]
        eventually(lambda: state.ended, "the end of it")
        assert isinstance(state.ended[0], Dropped)
        assert (replica.stalled, state.pushed) == ("", ["old"])

    def test_this_node_may_take_the_term_in_the_middle_and_keeps_its_own_state(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica, state = self.behind(log, author, make)
        replica.take(parts_of(author, pieces_of())[:4])
        lead(log, ME.node, boot=ME.boot)
        assert replica.take(all_of(log)[-1:]) == [Verdict.LEAD_AFTER_REBASE]
        eventually(lambda: state.ended, "the end of it")
        assert (replica.node_state.holds_term, replica.stalled, state.pushed) == (True, "", ["old"])

    def test_a_damaged_one_leaves_the_state_and_another_one_is_waited_for(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica, state = self.behind(log, author, make)
        for part in parts_of(author, pieces_of(), digest="0" * 32):
            replica.take([part])
        assert (replica.stalled, replica.node_state.view.in_sync, state.pushed) == ("", False, ["old"])
        pieces = pieces_of()
        replica.take(parts_of(author, pieces))
        assert (replica.node_state.view.in_sync, list(state.snapshot())) == (True, pieces)

    def test_a_restore_that_fails_stalls_the_node_once_the_snapshot_proved_right(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        class Refusing(Watched):
            def _counted(self, pieces: Any) -> Iterator[Any]:
                for number, piece in enumerate(pieces):
                    if number == 1:
                        raise ZeroDivisionError("oops")
                    yield piece

        state = Refusing()
        author.append(push("old"))
        replica = make(state=state)
        replica.take(all_of(log))
        author.append(push("missed"))
        author.append(push("seen"))
        replica.take(all_of(log)[-1:])
        *parts, last = parts_of(author, pieces_of())
        replica.take(parts)
        eventually(lambda: state.ended, "the failure")
        assert replica.stalled == ""
        with pytest.raises(Stalled, match="oops"):
            replica.take([last])
        loaded = replica.saved.checkpoint.load()
        assert loaded is not None
        assert (loaded.view.in_sync, state.pushed) == (False, ["old"])

    def test_if_the_disk_refuses_at_the_end_nothing_moves_and_it_is_tried_again(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replica, state = self.behind(log, author, make)
        pieces = pieces_of()
        *parts, last = parts_of(author, pieces)
        replica.take(parts)

        def full(*args: Any, **options: Any) -> None:
            raise CheckpointError(path="x", problem="full")

        before = replica.node_state.view
        with monkeypatch.context() as patched:
            patched.setattr(replica.saved.checkpoint, "save", full)
            with pytest.raises(CheckpointError):
                replica.take([last])
        assert (replica.node_state.view, state.pushed, replica.stalled) == (before, ["old"], "")
        assert replica.take([last]) == [Verdict.RESTORE]
        assert list(state.snapshot()) == pieces

    def test_a_node_that_stops_gives_it_up_and_restores_it_at_the_next_start(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica, state = self.behind(log, author, make)
        pieces = pieces_of()
        *parts, last = parts_of(author, pieces)
        state.gate.clear()
        replica.take(parts)
        before = replica.node_state.view
        taken = in_thread(lambda: replica.take([last]))
        replica.close()
        state.gate.set()
        taken()
        assert (replica.node_state.view, state.pushed) == (before, ["old"])
        again = make(state=Watched())
        again.take([last])
        assert list(again.applied.state.snapshot()) == pieces

    def test_a_node_in_sync_decodes_none(self, log: MemoryLog, author: Author, make: Callable[..., Replica]) -> None:
        state = Watched()
        replica = make(state=state)
        replica.take(all_of(log))
        for part in parts_of(author, pieces_of()):
            assert replica.take([part]) == [Verdict.SKIP]
        assert (state.drawn, replica._updater._restoring) == ([], None)

    def test_a_node_in_sync_builds_what_replaces_the_state_while_parts_arrive(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        state = Watched()
        author.append(push("old"))
        replica = make(state=state)
        replica.take(all_of(log))
        pieces = pieces_of()
        *parts, last = parts_of(author, pieces, replaces=True)
        replica.take(parts)
        eventually(lambda: state.drawn and state.drawn[0] > len(pieces) / 2, "half of the pieces")
        assert state.pushed == ["old"]
        assert replica.take([last]) == [Verdict.RESTORE]
        assert list(state.snapshot()) == pieces

    def test_what_it_builds_so_it_has_on_its_disk_where_there_is_no_room_for_it(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(restore, "HELD_BODIES_MAX", 1)
        state = Watched()
        replica = make(state=state)
        replica.take(all_of(log))
        pieces = pieces_of()
        *parts, last = parts_of(author, pieces, replaces=True)
        state.gate.clear()
        for part in parts:
            assert replica.take([part]) == [Verdict.SKIP]
        state.gate.set()
        eventually(lambda: state.drawn and state.drawn[0] > len(pieces) / 2, "half of the pieces")
        assert replica.take([last]) == [Verdict.RESTORE]
        assert list(state.snapshot()) == pieces


class TestCommit:
    def leading(self, log: MemoryLog, make: Callable[..., Replica]) -> tuple[Replica, Author]:
        own = lead(log, ME.node, boot=ME.boot)
        replica = make()
        replica.take(all_of(log))
        return replica, own

    def test_it_gives_the_results_and_saves_at_the_next_flush(
        self, log: MemoryLog, make: Callable[..., Replica]
    ) -> None:
        replica, own = self.leading(log, make)
        assert replica.commit(own.change(push("x"))) == [1]
        loaded = replica.saved.checkpoint.load()
        assert loaded is not None
        assert loaded.view.position.id == RecordId(1, 1)
        replica.flush()
        loaded = replica.saved.checkpoint.load()
        assert loaded is not None
        assert loaded.view.position.id == RecordId(1, 2)

    def test_what_it_comes_to_can_be_worked_out_before_and_moves_nothing(
        self, log: MemoryLog, make: Callable[..., Replica]
    ) -> None:
        replica, own = self.leading(log, make)
        before, record = replica.node_state, own.change(push("x"))
        prepared = replica.prepare(record)
        assert replica.node_state is before
        assert replica.applied.state.pushed == []
        assert replica.commit(record, prepared=prepared) == [1]
        assert replica.node_state is prepared.after

    def test_what_was_worked_out_counts_only_for_its_record_and_where_the_node_still_is(
        self, log: MemoryLog, make: Callable[..., Replica]
    ) -> None:
        replica, own = self.leading(log, make)
        first, other = own.change(push("x")), own.change(push("y"))
        assert replica.commit(first, prepared=replica.prepare(other)) == [1]
        assert replica.node_state.view.position == first.position
        own.position = first.position
        second = own.change(push("z"))
        prepared = replica.prepare(second)
        replica.known.refused(Reply(Code.BEHIND))  # it fell out of sync
        replica.commit(second, prepared=prepared)
        assert not replica.node_state.view.in_sync
        assert replica.applied.state.pushed == ["x"]

    def test_a_flush_that_fails_keeps_what_is_not_saved(
        self, log: MemoryLog, make: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        replica, own = self.leading(log, make)
        for value in "xy":
            record = own.change(push(value))
            replica.commit(record)
            own.position = record.position

        def full(*args: Any, **options: Any) -> None:
            raise CheckpointError(path="x", problem="full")

        with monkeypatch.context() as patched:
            patched.setattr(replica.saved.checkpoint, "save", full)
            with pytest.raises(CheckpointError):
                replica.flush()
        replica.flush()
        assert make().applied.state.pushed == ["x", "y"]

    def test_what_it_committed_last_is_in_the_fork_although_it_was_not_saved(
        self, log: MemoryLog, make: Callable[..., Replica], tmp_path: Path
    ) -> None:
        # given a primary with a change that is not on its disk, and that Redis lost
        replica, own = self.leading(log, make)
        replica.commit(own.change(push("surplus")))
        # when the first that it reads is a whole snapshot in a later term, whose own record is trimmed already
        other = Author(log, Writer("c", "boot-c"), 9, Position(RecordId(9, 2), "c" * 32))
        assert replica.take([snapshot_of(other, [["pushed", []]], ends=(RecordId(1, 1),))]) == [Verdict.RESTORE]
        # then
        (fork,) = (tmp_path / "b" / "forks").glob("*.sqlite")
        assert [record.id for record in CheckpointReader(fork).changes()] == [RecordId(1, 2)]

    def test_a_refusal_ends_its_lead_at_once(self, log: MemoryLog, make: Callable[..., Replica]) -> None:
        replica, _ = self.leading(log, make)
        assert replica.node_state.is_primary
        replica.known.refused(Reply(Code.FENCED, term=2, node="c"))
        assert not replica.node_state.holds_term
        assert replica.node_state.view.term == 1

    def test_another_run_of_redis_ends_its_lead_at_once(self, log: MemoryLog, make: Callable[..., Replica]) -> None:
        replica, _ = self.leading(log, make)
        replica.known.talks_to("run-2")
        assert not replica.node_state.holds_term

    def test_what_moved_meanwhile_in_another_thread_is_kept(self, log: MemoryLog, make: Callable[..., Replica]) -> None:
        replica, own = self.leading(log, make)
        record = own.change(push("x"))

        # when the node hears that its term is over while it folds its own record
        def hears(*_: Any) -> None:
            replica.known.beaten()
            replica.known.refused(Reply(Code.FENCED, term=2, node="c"))

        replica.applied.state.in_apply = hears
        # then the record is in its state, and its term is over
        assert replica.commit(record) == [1]
        assert (replica.node_state.beats_in_run, replica.node_state.over, replica.node_state.is_primary) == (
            1,
            1,
            False,
        )
        assert replica.node_state.view.position == record.position

    def test_its_record_is_not_applied_where_it_fell_out_of_sync_meanwhile(
        self, log: MemoryLog, make: Callable[..., Replica]
    ) -> None:
        replica, own = self.leading(log, make)
        record = own.change(push("x"))
        replica.known.refused(Reply(Code.BEHIND))
        replica.commit(record)
        assert not replica.node_state.view.in_sync
        assert replica.applied.state.pushed == []


def test_a_new_replica_is_at_the_beginning_and_in_sync(make: Callable[..., Replica]) -> None:
    replica = make()
    assert (replica.node_state.view.position, replica.node_state.view.in_sync) == (ORIGIN, True)
    assert replica.node_state.previous_boot == ""


def test_it_knows_the_boot_before_it(log: MemoryLog, author: Author, make: Callable[..., Replica]) -> None:
    make().take(all_of(log))
    assert make(me=Writer("b", "next")).node_state.previous_boot == ME.boot


def test_a_marker_keeps_the_state_as_it_was_there(log: MemoryLog, author: Author, make: Callable[..., Replica]) -> None:
    author.append(push("x"))
    replica = make()
    replica.take(all_of(log))
    codec, body, digest = encode_changes([])
    marker = seal_change(
        writer=author.writer, term=1, after=author.position, at=0, codec=codec, body=body, digest=digest, count=0
    )
    replica.take([marker])
    ((at, pieces, _, _),) = replica.applied.markers
    replica.applied.state.pushed.append("later")
    assert (at, list(pieces)) == (marker.id, [["pushed", ["x"]]])
    assert isinstance(replica.node_state.view.position, Position)
    # An empty batch makes nobody the more advanced one.
    assert replica.node_state.view.changed == RecordId(1, 2)
