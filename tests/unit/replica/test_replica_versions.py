"""A copy of the state, and the versions of the group that its application reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from replicator.errors import Stalled, UpgradeNeeded
from replicator.format.codec import SnapshotEncoder
from replicator.format.ids import ORIGIN, ZERO_ID, RecordId
from replicator.format.records import Record, seal_part
from replicator.protocol.fold import Verdict
from replicator.replica.change_updater import ChangeUpdater
from replicator.replica.replica import Replica
from replicator.replica.whole_updater import WholeUpdater
from replicator.storage.checkpoint import Checkpoint
from replicator.testing import MemoryLog
from tests.support.history import act
from tests.support.opaque import Text
from tests.support.replicas import ME, all_of
from tests.support.versions import Two
from tests.support.worlds import Author, lead

TWO_ALONE = range(2, 3)


def raise_to_two(log: MemoryLog, author: Author) -> None:
    record = act(author.writer, author.term, author.position, 2)
    author._sent(record, log.append(record))


def publish(log: MemoryLog, author: Author, pieces: Sequence[Any], version: int) -> None:
    """A snapshot of that version, in one part."""
    encoder = SnapshotEncoder()
    body = b"".join(encoder.feed(piece) for piece in pieces) + encoder.finish()
    record = seal_part(
        writer=author.writer, term=author.term, after=author.position, n=author.position.id.n + 1, at=0,
        codec=encoder.codec, digest=encoder.digest, part=0, parts=1, as_of=author.position, changed=ZERO_ID,
        replaces=False, ends=(), body=body, version=version,
    )  # fmt: skip
    author._sent(record, log.part(record))


@contextmanager
def started(
    data_dir: Path, state: Any, reads: range = TWO_ALONE, updater: Callable[..., Any] = ChangeUpdater
) -> Iterator[Replica]:
    with Checkpoint(data_dir, "g", node="b") as checkpoint:
        replica = Replica(state, checkpoint, ME, reads=reads, updater=updater)
        replica.known.talks_to("run-1")
        yield replica


def take_each(replica: Replica, records: list[Record]) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for record in records:
        if Verdict.RESTORE not in verdicts:  # it reads on from elsewhere
            verdicts += replica.take([record])
    return verdicts


class TestAnOldVersion:
    """The node reads version 2 alone, and the group is at version 1."""

    @pytest.mark.parametrize("take", [Replica.take, take_each])
    def test_nothing_of_it_is_applied_although_the_log_has_its_beginning(
        self, tmp_path: Path, log: MemoryLog, author: Author, take: Callable[[Replica, list[Record]], list[Verdict]]
    ) -> None:
        author.append(["add", "k", 1])
        state = Two()
        with started(tmp_path, state) as replica:
            verdicts = take(replica, all_of(log))
            view = replica.node_state.view
            assert verdicts == [Verdict.FOLLOW, Verdict.NEED_SNAPSHOT]
            assert (view.position, view.in_sync, view.changed, replica.stalled) == (ORIGIN, False, ZERO_ID, "")
            assert (view.term, view.holder.node, view.cursor) == (1, "a", author.position)
            # nor by what comes at version 2, which builds on it
            raise_to_two(log, author)
            author.append(["note", "k", "seven"])
            take(replica, all_of(log))
            assert (state.applied, state.restored, replica.stalled) == ([], [], "")
            # but from a snapshot of version 2 on
            publish(log, author, [["k", 1, "seven"]], 2)
            author.append(["add", "k", 2])
            for _ in range(2):
                take(replica, log.read(replica.node_state.view.cursor.id, count=99).records)
            assert (state.numbers, state.notes, state.applied) == ({"k": 3}, {"k": "seven"}, [2])
            assert (replica.node_state.view.version, replica.node_state.view.in_sync) == (2, True)

    def test_a_snapshot_of_it_is_passed_by(self, tmp_path: Path, log: MemoryLog, author: Author) -> None:
        author.append(["add", "k", 1])
        publish(log, author, [["k", 1]], 1)
        state = Two()
        with started(tmp_path, state) as replica:
            replica.take(all_of(log))
            assert (state.restored, replica.node_state.view.in_sync, replica.stalled) == ([], False, "")

    def test_a_patch_of_it_is_passed_by(self, tmp_path: Path, log: MemoryLog, author: Author) -> None:
        author.append(["add", "k", 1])  # whatever it is
        with started(tmp_path, Text(), updater=WholeUpdater) as replica:
            assert replica.take(all_of(log)) == [Verdict.FOLLOW, Verdict.NEED_SNAPSHOT]
            assert replica.node_state.view.position == ORIGIN

    def test_it_does_not_lead_even_if_a_term_was_given_to_it(
        self, tmp_path: Path, log: MemoryLog, author: Author
    ) -> None:
        author.append(["add", "k", 1])
        lead(log, "b", boot=ME.boot)
        with started(tmp_path, Two()) as replica:
            with pytest.raises(UpgradeNeeded, match="at version 1, and its code reads 2"):
                replica.take(all_of(log))
            assert not replica.node_state.holds_term
            with pytest.raises(Stalled):
                replica.take(all_of(log))

    @pytest.mark.parametrize(("make_state", "updater"), [(Two, ChangeUpdater), (Text, WholeUpdater)])
    def test_a_node_that_has_nothing_yet_starts_again(
        self, tmp_path: Path, log: MemoryLog, author: Author, make_state: Callable[[], Any], updater: Callable[..., Any]
    ) -> None:
        """It joined a group whose log has no beginning any more, and was restarted before a snapshot came."""
        raise_to_two(log, author)
        author.append(["add", "k", 1])
        left_of_the_log = all_of(log)[2:]
        for _ in range(2):
            with started(tmp_path, make_state(), updater=updater) as replica:
                replica.take(left_of_the_log)
                replica.flush()
                assert not replica.node_state.in_sync
                assert replica.stalled == ""

    def test_one_that_has_a_state_of_it_does_not_start(self, tmp_path: Path, log: MemoryLog, author: Author) -> None:
        author.append(["add", "k", 1])
        with started(tmp_path, Two(), range(1, 3)) as replica:
            replica.take(all_of(log))
            replica.flush()
        with pytest.raises(UpgradeNeeded), started(tmp_path, Two()):
            pass


def test_a_log_that_begins_at_the_version_is_read_from_its_beginning(
    tmp_path: Path, log: MemoryLog, author: Author
) -> None:
    with started(tmp_path, Two(), range(1, 2)) as replica:
        author.append(["add", "k", 1])
        assert replica.take(all_of(log)) == [Verdict.FOLLOW, Verdict.APPLY]
        assert replica.node_state.view.changed == RecordId(1, 2)
