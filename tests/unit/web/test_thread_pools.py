"""Places, and the bytes that belong to them."""

from __future__ import annotations

import pytest

from replicator.web.thread_pools import Full, Pool, Pools


def test_bodies_of_all_places_share_what_there_is() -> None:
    pool = Pool("writes", places=3, threads=1, bytes_max=100)
    with pool.place() as one, pool.place() as other:
        one.take(60)
        other.take(40)
        with pytest.raises(Full, match="100 bytes of writes are under way"):
            one.take(1)
    with pool.place() as next_one:
        next_one.take(100)


def test_twelve_uploads_are_no_more_in_memory_than_one_of_the_greatest_size() -> None:
    pools = Pools()
    with pools.replacements.place() as one, pools.replacements.place() as other, pools.writes.place() as write:
        one.take(300 << 20)
        with pytest.raises(Full):
            other.take(300 << 20)
        write.take(1 << 20)  # which replacements do not keep out
