"""What a snapshot cuts from the log is deleted in slices, so that no script holds Redis up for long."""

from __future__ import annotations

import pytest

from replicator.format.ids import RecordId
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Code
from tests.support.worlds import Author, RedisWorld, head_of, ids, lead

#: What a slice deletes, and what the entries of its last step may be beyond that: 16 of them, or 32 behind a small one.
SLICE_BYTES_MAX = 512 * 1024 + 32 * 131_072


def cut_behind_changes(log: RedisLog, world: RedisWorld, *, size: int, count: int) -> tuple[Author, RecordId]:
    """A log with so many changes of that size behind which the next first part cuts it; and where."""
    author = lead(log)
    after = author.position
    pipe = world.admin.pipeline(transaction=False)
    for n in range(after.id.n + 1, after.id.n + 1 + count):
        pipe.xadd(world.key("log"), {"h": b"{}", "b": bytes(size)}, id=f"1-{n}")
    pipe.execute()
    at = RecordId(1, after.id.n + count)
    world.admin.hset(world.key("head"), mapping={"id": str(at), "snapshot_at": str(at)})
    author.position = after._replace(id=at)
    return author, at


@pytest.mark.parametrize(("size", "count"), [(10, 60_000), (400, 20_000), (131_072, 200)])
def test_a_part_deletes_a_slice_and_sweeps_the_rest(world: RedisWorld, log: RedisLog, size: int, count: int) -> None:
    author, at = cut_behind_changes(log, world, size=size, count=count)
    # when the log is cut
    assert author.append_part(0).code is Code.OK
    assert head_of(log).previous_snapshot_at == at
    left = [world.admin.xlen(world.key("log"))]
    # then it is not deleted at once, and each call takes a little
    while log.sweep():
        left.append(world.admin.xlen(world.key("log")))
        assert 0 < (left[-2] - left[-1]) * size <= SLICE_BYTES_MAX
    assert left[0] > count / 2
    assert ids(log) == [f"1-{at.n + 1}"]


def test_the_parts_that_follow_delete_too(world: RedisWorld, log: RedisLog) -> None:
    author, _ = cut_behind_changes(log, world, size=131_072, count=60)
    as_of = author.position
    left = []
    for part in range(6):
        author.append_part(part, as_of=as_of)
        left.append(world.admin.xlen(world.key("log")) - part - 1)
    assert left == sorted(left, reverse=True)
    assert left[-1] == 0


def test_a_head_that_was_cut_beyond_its_snapshot_by_hand_does_not_cost_what_is_behind_it(
    world: RedisWorld, log: RedisLog
) -> None:
    author = lead(log)
    author.snapshot(parts=1)
    author.append()
    before = ids(log)
    world.admin.hset(world.key("head"), "previous_snapshot_at", "9-99")
    assert not log.sweep()
    assert ids(log) == before[1:], "the complete snapshot, and what came after it, is there"
