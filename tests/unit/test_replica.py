"""One node's copy, without threads: what it folds, what it applies, and what is on its disk at each moment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator import CheckpointError, CorruptRecord, Stalled
from replicator.checkpoint import Checkpoint
from replicator.checkpoint_file import Stored
from replicator.core.codec import SnapshotEncoder, encode_changes
from replicator.core.fold import Holder, Verdict, View
from replicator.core.ids import ORIGIN, ZERO_ID, Position, RecordId, Writer
from replicator.core.records import PartRecord, Record, seal_change, seal_part
from replicator.core.replies import Code, Reply
from replicator.replica import Replica
from replicator.testing import MemoryLog, MemoryRedis
from tests.integration.worlds import Author, lead
from tests.kv import KV, push

ME = Writer("b", "boot-b")


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(MemoryRedis())


@pytest.fixture
def author(log: MemoryLog) -> Author:
    return lead(log, "a", boot="boot-a")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Replica]]:
    checkpoints: list[Checkpoint] = []

    def make(name: str = "b", *, state: Any = None, me: Writer = ME) -> Replica:
        for checkpoint in checkpoints:
            checkpoint.close()
        checkpoints.append(Checkpoint(tmp_path / name, "g", node=name))
        replica = Replica(KV() if state is None else state, checkpoints[-1], me)
        replica.talks_to("run-1")
        return replica

    yield make
    for checkpoint in checkpoints:
        checkpoint.close()


def all_of(log: MemoryLog) -> list[Record]:
    return log.read(ZERO_ID, count=1000).records


def snapshot_of(
    author: Author,
    pieces: list[Any],
    *,
    digest: str | None = None,
    replaces: bool = False,
    ends: tuple[RecordId, ...] = (),
) -> PartRecord:
    """A whole snapshot in one part, behind what the author wrote."""
    encoder = SnapshotEncoder()
    body = b"".join(encoder.feed(piece) for piece in pieces) + encoder.finish()
    return seal_part(
        writer=author.writer, term=author.term, after=author.position, n=author.position.id.n + 1, at=0,
        codec=encoder.codec, digest=digest or encoder.digest, part=0, parts=1, as_of=author.position,
        changed=ZERO_ID, replaces=replaces, ends=ends, body=body,
    )  # fmt: skip


class TestTake:
    def test_it_applies_what_follows_in_order(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        for i in range(3):
            author.append(push(i))
        replica = make()
        verdicts = replica.take(all_of(log))
        assert verdicts == [Verdict.FOLLOW, Verdict.APPLY, Verdict.APPLY, Verdict.APPLY]
        assert replica.state.pushed == [0, 1, 2]
        assert replica.member.view.position == author.position

    def test_what_was_folded_is_passed_over(self, log: MemoryLog, author: Author, make: Callable[..., Replica]) -> None:
        author.append(push("x"))
        replica = make()
        replica.take(all_of(log))
        author.append(push("y"))
        assert replica.take(all_of(log) + all_of(log)) == [Verdict.APPLY]
        assert replica.state.pushed == ["x", "y"]

    def test_a_stale_record_is_ignored_counted_and_logged_at_warning(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica], caplog: pytest.LogCaptureFixture
    ) -> None:
        author.append(push("stale"))
        replica = make()
        replica._checkpoint.save(View(term=5, holder=Holder("c", "boot-c", "run-1")), boot="before")
        replica = make()
        with caplog.at_level(logging.WARNING):
            verdicts = replica.take(all_of(log))
        assert verdicts == [Verdict.REJECT_STALE, Verdict.REJECT_STALE]
        assert replica.rejected == 2
        assert replica.state.pushed == []
        assert replica.member.view.term == 5
        assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"][1] == (
            "ignored 1-2 change by a: term 1 is over, the term is 5"
        )

    def test_everything_is_on_disk_before_any_of_it_is_applied(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"))
        author.append(push("y"))
        replica = make()
        on_disk: list[Any] = []

        def look(change: Any) -> None:
            loaded = replica._checkpoint.load()
            assert loaded is not None
            on_disk.append((change["push"], loaded.view.term, loaded.view.position))

        replica.state.in_apply = look
        replica.take(all_of(log))
        assert on_disk == [("x", 1, author.position), ("y", 1, author.position)]

    def test_if_the_disk_refuses_nothing_moves(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        author.append(push("x"))
        replica = make()

        def full(*args: Any, **options: Any) -> None:
            raise CheckpointError(path="x", problem="full")

        with monkeypatch.context() as patched:
            patched.setattr(replica._checkpoint, "save", full)
            with pytest.raises(CheckpointError):
                replica.take(all_of(log))
        assert replica.member.view == View()
        assert replica.state.pushed == []
        replica.take(all_of(log))
        assert replica.state.pushed == ["x"]

    def test_it_stops_where_this_node_becomes_the_holder(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"))
        own = lead(log, *ME[:1], boot=ME.boot)
        own.append(push("its own"))
        replica = make()
        assert replica.take(all_of(log))[-1] is Verdict.LEAD
        assert replica.member.leads
        assert replica.state.pushed == ["x"]

    def test_what_comes_before_a_damaged_body_is_done_and_it_keeps_its_place(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"))
        good = all_of(log)
        record = author.change(push("y"))
        damaged = replace(record, body=record.body.replace(b"y", b"z"))
        replica = make()
        with pytest.raises(CorruptRecord, match="digest"):
            replica.take([*good, damaged])
        assert replica.state.pushed == ["x"]
        assert replica.member.view.position == author.position
        replica.take([record])
        assert replica.state.pushed == ["x", "y"]

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
        assert (replica.member.view.position, replica.state.pushed) == (before, ["x"])
        with pytest.raises(Stalled):
            replica.take(all_of(log))
        again = make()
        assert (again.member.view.position, again.state.pushed) == (before, ["x"])
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
        assert replica.state.pushed == ["missed", "seen"]
        assert replica.member.view.in_sync
        assert make().state.pushed == ["missed", "seen"]

    def test_a_damaged_snapshot_leaves_the_state_and_another_one_is_waited_for(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        replica = self.behind(log, author, make)
        replica.take([snapshot_of(author, [["pushed", ["wrong"]]], digest="0" * 32)])
        assert replica.state.pushed == []
        assert not replica.member.view.in_sync
        assert replica.stalled == ""

    def test_a_restore_that_reads_only_the_beginning_stalls_the_node_and_nothing_is_saved(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        class Lazy(KV):
            def restore(self, pieces: Any) -> None:
                ((_, self.pushed),) = (next(iter(pieces)),)

        replica = make(state=Lazy())
        replica.take(all_of(log))
        before = replica.member.view
        with pytest.raises(Stalled, match="draw them to the end"):
            replica.take([snapshot_of(author, [["pushed", ["x"]], ["data", "k", 1]], replaces=True)])
        loaded = replica._checkpoint.load()
        assert loaded is not None
        assert loaded.view == replica.member.view == before

    def test_a_snapshot_that_follows_is_kept_as_the_payload_and_changes_nothing(
        self, log: MemoryLog, author: Author, make: Callable[..., Replica]
    ) -> None:
        author.append(push("x"))
        replica = make()
        replica.take(all_of(log))
        assert replica.take([snapshot_of(author, [["pushed", ["x"]]])]) == [Verdict.SKIP]
        assert replica._checkpoint.payload_bytes > 0
        assert replica._checkpoint.changes_bytes == 0


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
        loaded = replica._checkpoint.load()
        assert loaded is not None
        assert loaded.view.position.id == RecordId(1, 1)
        replica.flush()
        loaded = replica._checkpoint.load()
        assert loaded is not None
        assert loaded.view.position.id == RecordId(1, 2)

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
            patched.setattr(replica._checkpoint, "save", full)
            with pytest.raises(CheckpointError):
                replica.flush()
        replica.flush()
        assert make().state.pushed == ["x", "y"]

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
        assert [record.id for record in Stored(fork).changes()] == [RecordId(1, 2)]

    def test_a_refusal_ends_its_lead_at_once(self, log: MemoryLog, make: Callable[..., Replica]) -> None:
        replica, _ = self.leading(log, make)
        assert replica.member.leads
        replica.refused(Reply(Code.FENCED, term=2, node="c"))
        assert not replica.member.holds_term
        assert replica.member.view.term == 1

    def test_another_run_of_redis_ends_its_lead_at_once(self, log: MemoryLog, make: Callable[..., Replica]) -> None:
        replica, _ = self.leading(log, make)
        replica.talks_to("run-2")
        assert not replica.member.holds_term

    def test_what_moved_meanwhile_in_another_thread_is_kept(self, log: MemoryLog, make: Callable[..., Replica]) -> None:
        replica, own = self.leading(log, make)
        replica.state.in_apply = lambda change: None
        record = own.change(push("x"))
        replica.beaten()
        replica.commit(record)
        assert replica.member.beats_in_run == 1


def test_a_new_replica_is_at_the_beginning_and_in_sync(make: Callable[..., Replica]) -> None:
    replica = make()
    assert (replica.member.view.position, replica.member.view.in_sync) == (ORIGIN, True)
    assert replica.member.previous_boot == ""


def test_it_knows_the_boot_before_it(log: MemoryLog, author: Author, make: Callable[..., Replica]) -> None:
    make().take(all_of(log))
    assert make(me=Writer("b", "next")).member.previous_boot == ME.boot


def test_a_marker_keeps_the_state_as_it_was_there(log: MemoryLog, author: Author, make: Callable[..., Replica]) -> None:
    author.append(push("x"))
    replica = make()
    replica.take(all_of(log))
    codec, body, digest = encode_changes([])
    marker = seal_change(
        writer=author.writer, term=1, after=author.position, at=0, codec=codec, body=body, digest=digest, count=0
    )
    replica.take([marker])
    ((at, pieces),) = replica.markers
    replica.state.pushed.append("later")
    assert (at, list(pieces)) == (marker.id, [["pushed", ["x"]]])
    assert isinstance(replica.member.view.position, Position)
    # An empty batch makes nobody the more advanced one.
    assert replica.member.view.changed == RecordId(1, 2)
