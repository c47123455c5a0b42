"""What the log weighs in Redis, and what snapshots cost: measured on real servers, while snapshots are under way.

The writer's own log is measured in the thread that writes to it, after each part of a snapshot and every few changes:
no moment is missed at which it is the largest. Values are random, so that they cannot be compressed.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pytest
import redis

from replicator import Node
from replicator.format.ids import ZERO_ID, RecordId
from replicator.format.records import ChangeRecord, PartRecord, Record, parse
from replicator.log.interface import Appending, Log
from replicator.log.redis_log import RedisLog
from replicator.protocol import snapshot_due
from replicator.protocol.group import Reply
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import PATIENCE_S, eventually

GROUP = "g"
VALUE_BYTES = 8 * 1024

#: What a stream has around entries, and an allocator around that: jemalloc rounds an entry of 128 KiB up to 160 KiB.
OVERHEAD = 1.25
OVERHEAD_BYTES = 128 * 1024

CHANGES_A_SAMPLE = 25

#: A pause after each change, so that the time in which a due snapshot is noticed brings few of them.
PACE_S = 0.001


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots as often as the bytes of the changes have it."""
    monkeypatch.setattr(snapshot_due, "PAUSE_TIMES", 0)
    monkeypatch.setattr(snapshot_due, "PAUSE_S_MIN", 0.0)


class Values:
    """Keys with values of one size: the state is as large as it was, whatever is changed."""

    def __init__(self, count: int, value_bytes: int = VALUE_BYTES) -> None:
        self.values = {str(key): noise(key, value_bytes) for key in range(count)}

    def apply(self, change: Any) -> None:
        self.values = self.values | {change[0]: change[1]}

    def snapshot(self) -> Iterator[Any]:
        return iter(self.values.items())

    def restore(self, pieces: Iterable[Any]) -> None:
        self.values = dict(pieces)


def noise(seed: int, size: int) -> str:
    return random.Random(seed).randbytes(size).hex()


class Sample(NamedTuple):
    """The log at one moment. `snapshot`: the bodies of the newest complete one; `since`, `kept`: the changes behind it,
    and behind where the log was cut; `parts`: all bodies of parts; `other`: headers of parts, and records of terms.
    `left`: what was cut, and is still there; nothing else counts it, but for `records` and `memory`."""

    under_way: bool
    records: int
    total: int
    memory: int
    snapshot: int
    since: int
    kept: int
    parts: int
    other: int
    snapshots: int
    left: int


class MeasuredAppending:
    """An append to a log that is measured."""

    def __init__(self, log: MeasuredLog, appending: Appending, record: ChangeRecord) -> None:
        self._log = log
        self._appending = appending
        self._record = record

    def __enter__(self) -> MeasuredAppending:
        self._appending.__enter__()
        return self

    def receive(self) -> Reply:
        reply = self._appending.receive()
        self._log.has(self._record)
        return reply

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._appending.__exit__(kind, error, at)


class MeasuredLog(RedisLog):
    """A log that is measured whenever it grew. `samples`: also by what is in it, all of which is read for each."""

    def __init__(self, url: str, *, samples: bool = True) -> None:
        super().__init__(url, GROUP)
        self.samples: list[Sample] = []
        self._takes_samples = samples
        #: The size of each change.
        self.changes: dict[RecordId, int] = {}
        #: The size of each part, by the state that it is of, and by its id: one may be sent twice.
        self._parts: dict[RecordId, dict[RecordId, int]] = {}
        #: Of each complete snapshot: the place of its state, and its size.
        self.complete: list[tuple[RecordId, int]] = []
        self._appends = 0
        self._key = f"replicator:{{{GROUP}}}:"
        # All of the log in one answer, beside whatever else the machine does.
        self._client = redis.Redis.from_url(url, socket_timeout=PATIENCE_S)

    def within(self, until: float) -> Log:
        return self  # all is counted in one place

    def appending(self, record: ChangeRecord) -> Appending:
        return MeasuredAppending(self, super().appending(record), record)

    def has(self, record: ChangeRecord) -> None:
        """It was appended."""
        self.changes[record.id] = weight(record)
        self._appends += 1
        if self._appends % CHANGES_A_SAMPLE == 0:
            self._sample()

    def part(self, record: PartRecord, *, rebase: bool = False) -> Reply:
        reply = super().part(record, rebase=rebase)
        parts = self._parts.setdefault(record.as_of.id, {})
        parts[record.id] = weight(record)
        if record.is_last and record.as_of.id not in dict(self.complete):
            self.complete.append((record.as_of.id, sum(parts.values())))
        self._sample()
        return reply

    def _sample(self) -> None:
        if self._takes_samples:
            self.samples.append(self.measure())

    def measure(self) -> Sample:
        """One consistent look."""
        with self._client.pipeline(transaction=True) as pipe:
            pipe.xrange(self._key + "log").memory_usage(self._key + "log", samples=0).hgetall(self._key + "head")
            entries, memory, head = pipe.execute()
        every = [parse(id_.decode(), fields[b"h"], fields[b"b"]) for id_, fields in entries]
        complete, cut = place(head, b"snapshot_at"), place(head, b"previous_snapshot_at")
        records = [record for record in every if record.id > cut]
        parts = [record for record in records if isinstance(record, PartRecord)]
        changes = [record for record in records if isinstance(record, ChangeRecord)]
        bodies = sum(len(part.body) for part in parts)
        kept = sum(map(weight, changes))
        return Sample(
            under_way=head.get(b"part_next", b"0") != b"0",
            records=len(every),
            total=sum(map(weight, records)),
            memory=memory,
            snapshot=sum(len(part.body) for part in parts if part.as_of.id == complete),
            since=sum(weight(change) for change in changes if change.id > complete),
            kept=kept,
            parts=bodies,
            other=sum(map(weight, records)) - kept - bodies,
            snapshots=len({part.as_of for part in parts}),
            left=sum(map(weight, every)) - sum(map(weight, records)),
        )

    def close(self) -> None:
        super().close()
        self._client.close()


def place(head: dict[bytes, bytes], name: bytes) -> RecordId:
    return RecordId.parse(head[name].decode()) if name in head else ZERO_ID


def weight(record: Record) -> int:
    return len(record.header) + len(record.body)


def written(
    url: str,
    directory: Path,
    *,
    keys: int,
    snapshots: int,
    beat_every_s: float = 1.0,
    at_most: float = math.inf,
    samples: bool = True,
) -> MeasuredLog:
    """A log after so many snapshots that were due, with changes flowing all the time.

    `at_most`: with more bytes of changes since the newest one, the writer waits for the next.
    """
    log = MeasuredLog(url, samples=samples)
    node = Node(
        Values(keys), group=GROUP, name="a", log=log, data_dir=directory, lease_s=30.0, beat_every_s=beat_every_s
    )
    with node:
        node.promote(timeout_s=PATIENCE_S)
        number = keys
        while len(log.complete) < snapshots:
            node.submit([str(number % keys), noise(number, VALUE_BYTES)])
            number += 1
            time.sleep(PACE_S)
            if log.samples and log.samples[-1].since > at_most:
                complete = len(log.complete)
                eventually(lambda complete=complete: len(log.complete) > complete, "the next snapshot")
    return log


def test_the_log_stays_below_two_snapshots_and_the_changes_since(redis_server: RedisServer, tmp_path: Path) -> None:
    log = written(redis_server.url, tmp_path / "a", keys=256, snapshots=5)
    first = next(i for i, sample in enumerate(log.samples) if sample.snapshot)
    samples = log.samples[first:]
    size = max(sample.snapshot for sample in samples)
    assert size > 2_000_000, "the state of this test has some MB, and cannot be compressed"
    under_way = [sample for sample in samples if sample.under_way]
    assert len(under_way) >= 5 * 4, "most of the parts of five snapshots were looked at"
    for sample in under_way:
        # at its largest: the complete one, nearly all of the next one, and what came after the complete one
        assert sample.total <= 2 * size + sample.since + sample.other
        assert sample.since == sample.kept
    for sample in samples:
        assert sample.parts <= 2 * size
        assert sample.snapshots <= 2
        assert sample.total <= 2 * size + sample.kept + sample.other
        assert sample.other < 0.01 * sample.total
        assert sample.memory <= OVERHEAD * (sample.total + sample.left) + OVERHEAD_BYTES
    # What was cut is deleted faster than parts come, so the log is at its largest when a snapshot begins.
    most = max(sample.kept for sample in samples)
    for before, after in pairwise(samples):
        assert after.left + after.total <= 2 * size + most + after.other
        assert after.left <= before.left or after.snapshots > before.snapshots or not before.under_way
    assert any(sample.left for sample in samples)
    assert not any(sample.left for sample in samples if not sample.under_way)
    print(
        f"snapshot {size:,}; under way: log at most {max(s.total for s in under_way) / size:.2f} snapshots, "
        f"over all {max(s.total for s in samples) / size:.2f}; "
        f"MEMORY USAGE at most {max(s.memory / s.total for s in samples):.3f} of the entries"
    )


def test_the_log_does_not_wait_for_a_beat_to_be_cut(any_redis: RedisServer, tmp_path: Path) -> None:
    # when beats are rare, then a snapshot begins as soon as it is due, and not a beat later, with ten times as much
    log = written(any_redis.url, tmp_path / "a", keys=192, snapshots=3, beat_every_s=9.0)
    size = max(sample.snapshot for sample in log.samples)
    assert max(sample.since for sample in log.samples) < 4 * size


def test_the_log_stays_bounded_whatever_pause_there_is_between_snapshots(
    any_redis: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a writer that is done with what a pause may keep long before it is over
    monkeypatch.setattr(snapshot_due, "PAUSE_S_MIN", 3600.0)
    monkeypatch.setattr(snapshot_due, "OVERDUE_BYTES_MIN", 1024 * 1024)
    at_most = snapshot_due.changes_bytes_max(96 * VALUE_BYTES) + 3 * 96 * VALUE_BYTES
    log = written(any_redis.url, tmp_path / "a", keys=96, snapshots=4, beat_every_s=9.0, at_most=at_most)
    # then there is a snapshot all the same, and not before the changes are many times as heavy as the one before
    size = max(sample.snapshot for sample in log.samples)
    since = [sample.since for sample in log.samples if sample.snapshot]
    print(f"snapshot {size:,}; since the complete one at most {max(since) / size:.2f} snapshots")
    assert max(since) > snapshot_due.changes_bytes_max(size) * 0.9
    # without the writer's own waiting: noticed a tenth of a second later, and then it takes a moment until it is sent
    assert max(since) <= at_most + 2 * CHANGES_A_SAMPLE * 3 * VALUE_BYTES


def test_the_size_that_is_told_is_what_all_entries_take_and_no_guess_from_the_first(
    any_redis: RedisServer, tmp_path: Path
) -> None:
    # given a log that begins with the large parts of a snapshot, and goes on with small changes
    written(any_redis.url, tmp_path / "a", keys=192, snapshots=2)
    with closing(MeasuredLog(any_redis.url)) as tool:
        now = tool.measure()
        assert tool.size() == (now.records, now.memory)
        assert now.memory < OVERHEAD * (now.total + now.left) + OVERHEAD_BYTES


@pytest.mark.parametrize("keys", [192, 384, 768])
def test_snapshots_cost_no_more_than_the_changes_however_large_the_state_is(
    any_redis: RedisServer, tmp_path: Path, keys: int
) -> None:
    log = written(any_redis.url, tmp_path / "a", keys=keys, snapshots=5, samples=False)
    # From the state of the first one, which is due by what a small log may hold, to the state of the last: each but the
    # last was followed by more changes than it weighs, before the next one was drawn.
    places = [place for place, _ in log.complete]
    snapshots = sum(size for _, size in log.complete[:-1])
    changes = sum(size for id_, size in log.changes.items() if places[0] < id_ <= places[-1])
    ratio = snapshots / changes
    print(f"{keys} keys: {snapshots:,} bytes of snapshots, {changes:,} of changes: {ratio:.2f}")
    assert ratio <= 1.0
