"""Restoring aside: what is drawn when, what the end of the pieces does, and who is to blame for what."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from replicator.errors import CheckpointError, CorruptRecord
from replicator.format.codec import SnapshotEncoder
from replicator.format.ids import ORIGIN, ZERO_ID, Writer
from replicator.format.records import PartRecord, seal_part
from replicator.format.snapshot_parts import Cutter
from replicator.replica import restore
from replicator.replica.restore import Dropped, Failed, Restoring, Spoilt, run
from replicator.runtime import gc_pause
from replicator.runtime.gc_pause import HOLD_COLLECTOR_FROM_BYTES, HeldCollector
from tests.support.kv import PATIENCE_S, eventually, in_thread

#: Half as large when compressed: twelve of them fill eight parts of 60,000 bytes. zstd gives what it has each 128 KiB.
PIECES = [[os.urandom(40_000).hex()] for _ in range(12)]
PART_BYTES = 60_000


class Slate:
    """A state that keeps its pieces, and shows how far its restore is."""

    def __init__(self, *, then: Callable[[], None] = lambda: None) -> None:
        self.pieces: list[Any] = ["old"]
        self.drawn: list[Any] = []
        self.then = then

    def snapshot(self) -> Iterable[Any]:
        return iter(list(self.pieces))

    def restore(self, pieces: Iterable[Any]) -> None:
        self.drawn = []
        for piece in pieces:
            self.drawn.append(piece)
        self.then()
        self.pieces = self.drawn


class Ending:
    """Notes what happened in which order."""

    def __init__(self, slate: Slate, *, problem: Exception | None = None) -> None:
        self.slate = slate
        self.problem = problem
        self.entered: list[tuple[Any, Any]] = []
        self.left: list[Any] = []
        self.failed = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self.problem is not None:
            raise self.problem
        self.entered.append((list(self.slate.pieces), list(self.slate.drawn)))
        try:
            yield
        except BaseException:
            self.failed = True
            raise
        self.left.append(list(self.slate.pieces))


def failing(pieces: list[Any], problem: Exception) -> Iterator[Any]:
    yield from pieces
    raise problem


class TestRun:
    def test_the_ending_is_entered_at_the_end_of_the_pieces_and_left_after_the_swap(self) -> None:
        slate = Slate()
        ending = Ending(slate)
        run(slate, iter([1, 2]), ending)
        assert ending.entered == [(["old"], [1, 2])]
        assert ending.left == [[1, 2]]

    @pytest.mark.parametrize("problem", [CorruptRecord(id="1-1", problem="x"), CheckpointError(path="x", problem="x")])
    def test_what_the_pieces_raise_is_raised_whatever_restore_made_of_it(self, problem: Exception) -> None:
        class Wrapping(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                try:
                    super().restore(pieces)
                except Exception as error:
                    raise KeyError("another one") from error

        slate = Wrapping()
        ending = Ending(slate)
        with pytest.raises(type(problem)):
            run(slate, failing([1], problem), ending)
        assert (slate.pieces, ending.entered) == (["old"], [])

    def test_what_the_ending_raises_is_raised_and_the_state_is_what_it_was(self) -> None:
        slate = Slate()
        with pytest.raises(CheckpointError):
            run(slate, iter([1]), Ending(slate, problem=CheckpointError(path="x", problem="full")))
        assert slate.pieces == ["old"]

    def test_a_restore_that_raises_at_right_pieces_has_failed(self) -> None:
        class Refusing(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                next(iter(pieces))
                raise ZeroDivisionError("oops")

        slate = Refusing()
        ending = Ending(slate)
        with pytest.raises(Failed, match="oops"):
            run(slate, iter([1, 2]), ending)
        assert ending.entered == []

    def test_a_restore_that_raises_at_pieces_that_were_damaged_is_not_to_blame(self) -> None:
        class Refusing(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                next(iter(pieces))
                raise ZeroDivisionError("what is this")

        with pytest.raises(CorruptRecord):
            run(Refusing(), failing([1, 2], CorruptRecord(id="1-1", problem="x")), Ending(Slate()))

    def test_a_restore_that_raises_in_the_swap_has_failed_and_the_ending_knows(self) -> None:
        def fail() -> None:
            raise ZeroDivisionError("oops")

        slate = Slate(then=fail)
        ending = Ending(slate)
        with pytest.raises(Failed, match="oops"):
            run(slate, iter([1]), ending)
        assert ending.failed
        assert ending.left == []

    def test_a_restore_that_returns_before_the_end_has_spoilt_the_state(self) -> None:
        class Hasty(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                self.pieces = [next(iter(pieces))]

        slate = Hasty()
        ending = Ending(slate)
        with pytest.raises(Spoilt, match="draw them to the end"):
            run(slate, iter([1, 2]), ending)
        assert ending.entered == []

    def test_a_restore_that_goes_on_without_its_pieces_has_spoilt_the_state(self) -> None:
        class Stubborn(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                try:
                    super().restore(pieces)
                except CorruptRecord:
                    self.pieces = self.drawn

        with pytest.raises(Spoilt, match="went on"):
            run(Stubborn(), failing([1], CorruptRecord(id="1-1", problem="x")), Ending(Slate()))

    def test_who_draws_on_behind_the_end_gets_nothing_and_the_ending_is_entered_once(self) -> None:
        class Thorough(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                super().restore(pieces)
                assert list(pieces) == []

        slate = Thorough()
        ending = Ending(slate)
        run(slate, [1], ending)
        assert len(ending.entered) == 1


def parts_of(pieces: list[Any], *, digest: str | None = None) -> list[PartRecord]:
    """A snapshot of these pieces."""
    encoder, cutter = SnapshotEncoder(), Cutter(PART_BYTES)
    bodies = [body for piece in pieces for body in cutter.feed(encoder.feed(piece))]
    bodies += [*cutter.feed(encoder.finish()), cutter.finish()]
    records: list[PartRecord] = []
    for part, body in enumerate(bodies):
        last = part + 1 == len(bodies)
        records.append(
            seal_part(
                writer=Writer("a", "boot-a"), term=1, after=records[-1].position if records else ORIGIN, n=part + 1,
                at=0, codec=encoder.codec, digest=(digest or encoder.digest) if last else "", part=part,
                parts=len(bodies) if last else 0, as_of=ORIGIN, changed=ZERO_ID, replaces=False, ends=(), body=body,
            )
        )  # fmt: skip
    return records


class TestRestoring:
    def begin(self, slate: Slate, parts: list[PartRecord], **options: Any) -> Restoring:
        self.spoilt: list[Spoilt] = []
        self.read: list[int] = []

        def read(part: int) -> bytes:
            self.read.append(part)
            return parts[part].body

        return Restoring(slate, parts[0], read=read, spoilt=self.spoilt.append, **options)

    def test_pieces_are_drawn_while_later_parts_are_still_to_come(self) -> None:
        slate, parts = Slate(), parts_of(PIECES)
        restoring = self.begin(slate, parts)
        for part in parts[:-1]:
            restoring.feed(part)
        eventually(lambda: len(slate.drawn) >= 6, "half of the pieces")
        assert slate.pieces == ["old"]
        ending = Ending(slate)
        restoring.complete(parts[-1], ending)
        assert slate.pieces == PIECES
        assert ending.entered == [(["old"], PIECES)]

    def test_one_that_begins_in_the_middle_reads_what_was_saved_before(self) -> None:
        slate, parts = Slate(), parts_of(PIECES)
        restoring = self.begin(slate, parts)
        restoring.feed(parts[3])
        for part in parts[4:-1]:
            restoring.feed(part)
        restoring.complete(parts[-1], Ending(slate))
        assert slate.pieces == PIECES
        assert self.read == [0, 1, 2]

    def test_what_has_no_room_in_memory_is_read_from_the_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(restore, "HELD_BODIES_MAX", 3)
        gate = threading.Event()

        class Slow(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                assert gate.wait(PATIENCE_S)
                super().restore(pieces)

        slate, parts = Slow(), parts_of(PIECES)
        restoring = self.begin(slate, parts)
        for part in parts[:-1]:
            restoring.feed(part)
        gate.set()
        restoring.complete(parts[-1], Ending(slate))
        assert slate.pieces == PIECES
        assert self.read == list(range(3, len(parts) - 1))

    def test_one_that_is_dropped_leaves_the_state_and_ends(self) -> None:
        slate, parts = Slate(), parts_of(PIECES)
        restoring = self.begin(slate, parts)
        restoring.feed(parts[0])
        restoring.drop()
        restoring.join()
        assert (slate.pieces, self.spoilt) == (["old"], [])
        with pytest.raises(Dropped):
            restoring.complete(parts[-1], Ending(slate))

    def test_who_waits_for_the_last_part_hears_that_it_was_dropped(self) -> None:
        gate = threading.Event()

        class Slow(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                assert gate.wait(PATIENCE_S)
                super().restore(pieces)

        slate, parts = Slow(), parts_of(PIECES)
        restoring = self.begin(slate, parts)
        ending = Ending(slate)
        result = in_thread(lambda: restoring.complete(parts[-1], ending))
        restoring.drop()
        gate.set()
        with pytest.raises(Dropped):
            result()
        assert (slate.pieces, ending.entered) == (["old"], [])

    def test_the_next_one_waits_until_restore_has_returned_from_the_one_before(self) -> None:
        inside: list[int] = []
        gate = threading.Event()

        class Careful(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                inside.append(1)
                assert len(inside) == 1, "two at a time"
                try:
                    super().restore(pieces)
                finally:
                    assert gate.wait(PATIENCE_S)
                    inside.pop()

        slate, parts = Careful(), parts_of(PIECES)
        first = self.begin(slate, parts)
        eventually(lambda: inside, "the first restore")
        first.drop()
        second = self.begin(slate, parts, after=first)
        for part in parts[:-1]:
            second.feed(part)
        gate.set()
        second.complete(parts[-1], Ending(slate))
        assert slate.pieces == PIECES

    def test_a_wrong_digest_is_known_at_the_end_and_leaves_the_state(self) -> None:
        slate, parts = Slate(), parts_of(PIECES, digest="0" * 32)
        restoring = self.begin(slate, parts)
        for part in parts[:-1]:
            restoring.feed(part)
        ending = Ending(slate)
        with pytest.raises(CorruptRecord, match="digest"):
            restoring.complete(parts[-1], ending)
        assert (slate.pieces, ending.entered) == (["old"], [])

    def test_a_state_that_was_spoilt_is_told_although_nobody_waits(self) -> None:
        class Hasty(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                self.pieces = [next(iter(pieces))]

        parts = parts_of(PIECES)
        restoring = self.begin(Hasty(), parts)
        for part in parts[:6]:
            restoring.feed(part)
        (problem,) = eventually(lambda: self.spoilt, "the problem")
        assert "draw them to the end" in str(problem)

    def test_while_no_part_comes_the_collector_is_not_held(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gc_pause, "HOLD_COLLECTOR_FROM_BYTES", 2 * PART_BYTES)
        monkeypatch.setattr(restore, "HOLD_COLLECTOR_FOR_S", 0.3)
        on: list[bool] = []

        class Noting(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                super().restore(self.noted(pieces))

            def noted(self, pieces: Iterable[Any]) -> Iterator[Any]:
                for piece in pieces:
                    on.append(gc.isenabled())
                    yield piece

        slate, parts = Noting(), parts_of(PIECES)
        restoring = self.begin(slate, parts)
        for part in parts[:6]:
            restoring.feed(part)
        eventually(lambda: not all(on), "a piece that was decoded without the collector")
        eventually(gc.isenabled, "the collector")
        del on[:]
        for part in parts[6:-1]:
            restoring.feed(part)
        restoring.complete(parts[-1], Ending(slate))
        assert not any(on)
        assert gc.isenabled()

    def test_an_end_of_the_thread_is_not_waited_for_for_ever(self) -> None:
        class Leaving(Slate):
            def restore(self, pieces: Iterable[Any]) -> None:
                raise SystemExit

        parts = parts_of([PIECES[0]])
        restoring = self.begin(Leaving(), parts)
        with pytest.raises(Failed, match="SystemExit"):
            restoring.complete(parts[-1], Ending(Slate()))


class TestHeldCollector:
    @pytest.fixture(autouse=True)
    def collector_is_as_it_was(self) -> Iterator[None]:
        yield
        gc.enable()

    def test_a_small_snapshot_does_not_touch_it(self) -> None:
        frozen = gc.get_freeze_count()
        with HeldCollector() as collector:
            for _ in collector.watching([b"x" * (HOLD_COLLECTOR_FROM_BYTES - 1)]):
                assert gc.isenabled()
        assert gc.get_freeze_count() <= frozen  # of what is frozen some may be let go

    def test_it_is_off_while_much_is_built_and_what_was_built_is_out_of_its_sight(self) -> None:
        built: list[Any] = []
        with HeldCollector() as collector:
            for _ in collector.watching([b"x" * HOLD_COLLECTOR_FROM_BYTES] * 2):
                assert not gc.isenabled()
                built.append([1])
        assert gc.isenabled()
        assert not any(one is built for one in gc.get_objects())

    def test_the_last_of_several_switches_it_on_again_also_after_an_error(self) -> None:
        def hold() -> None:
            with HeldCollector() as inner:
                inner.hold()
                assert not gc.isenabled()
                raise ZeroDivisionError

        with HeldCollector() as outer:
            outer.hold()
            outer.hold()
            with pytest.raises(ZeroDivisionError):
                in_thread(hold)()
            assert not gc.isenabled()
        assert gc.isenabled()

    def test_who_builds_nothing_freezes_nothing_unless_another_one_did(self) -> None:
        frozen = gc.get_freeze_count()
        with HeldCollector(freezes=False) as drawing:
            drawing.hold()
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() <= frozen  # of what is frozen some may be let go
        with HeldCollector(freezes=False) as drawing:
            drawing.hold()
            with HeldCollector() as building:
                building.hold()
                with HeldCollector(freezes=False) as another:
                    another.hold()
            assert not gc.isenabled()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen

    def test_it_is_held_while_pieces_are_drawn_until_the_holder_ends_however_far_that_came(self) -> None:
        with HeldCollector(freezes=False) as collector:
            pieces = collector.drawing([1, 2])
            assert gc.isenabled()
            assert next(pieces) == 1
            assert not gc.isenabled()
        assert gc.isenabled()
        assert list(pieces) == [2]
        assert gc.isenabled()

    def test_pieces_that_take_too_long_do_not_keep_it_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gc_pause, "HOLD_WHILE_DRAWN_S", -1.0)
        with HeldCollector(freezes=False) as collector:
            assert [(piece, gc.isenabled()) for piece in collector.drawing([1, 2])] == [(1, False), (2, True)]

    def test_who_builds_nothing_does_not_join_those_who_have_held_it_for_long(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with HeldCollector(freezes=False) as first:
            first.hold()
            monkeypatch.setattr(gc_pause, "JOIN_HOLDERS_FOR_S", 0.0)
            with HeldCollector(freezes=False) as second, HeldCollector() as building:
                second.hold()
                first.release()
                assert gc.isenabled()
                second.hold()  # nobody holds it now
                assert not gc.isenabled()
                building.hold()  # what is built is worth it
                second.release()
                assert not gc.isenabled()
        assert gc.isenabled()

    def test_one_that_was_off_stays_off(self) -> None:
        gc.disable()
        frozen = gc.get_freeze_count()
        with HeldCollector() as collector:
            collector.hold()
        assert not gc.isenabled()
        assert gc.get_freeze_count() <= frozen  # of what is frozen some may be let go
