"""One look a second for everybody who watches, and none while nobody does."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from typing import Any

import pytest

from replicator.errors import LogUnavailable
from replicator.ops import group_status
from replicator.testing import MemoryLog
from replicator.ui import feed as module
from replicator.ui.feed import Feed, FullHouse
from replicator.ui.picture import Picture
from tests.support.kv import PATIENCE_S, Group, eventually, push


class Opened:
    """Gives the log; counts how often it was opened, and can be away."""

    def __init__(self, group: Group) -> None:
        self.count = 0
        self.away = False
        self.error = LogUnavailable(url="redis://x", problem="refused")
        self._group = group

    def __call__(self) -> MemoryLog:
        self.count += 1
        log = self._group.log()
        look = log.look

        def looked() -> Any:
            if self.away:
                raise self.error
            return look()

        log.look = looked  # type: ignore[method-assign]
        return log


@pytest.fixture
def opened(group: Group) -> Opened:
    return Opened(group)


async def until(feed: Feed, holds: Any) -> Picture:
    async with asyncio.timeout(PATIENCE_S), aclosing(feed.pictures()) as pictures:
        async for picture in pictures:
            if holds(picture):
                return picture
    raise AssertionError("it ended")


def is_running() -> bool:
    return any(thread.name == "ui-feed" for thread in threading.enumerate())


def test_what_is_written_is_seen(group: Group, opened: Opened) -> None:
    a = group.primary("a")
    feed = Feed(opened, told_by="test", every_s=0.01)
    for value in range(30):
        a.submit(push(value))

    async def watched() -> None:
        picture = await until(feed, lambda picture: picture.status["holder"] == "a")
        assert len(picture.records) == module.RECORDS_SHOWN
        assert [term["holder"] for term in picture.terms] == ["a"]
        a.submit(push("new"))
        picture = await until(feed, lambda picture: picture.records[0]["id"] == "1-32")
        assert picture.records[0]["what"] == "1 change"
        ids = [int(record["id"].split("-")[1]) for record in picture.records]
        assert ids == list(range(32, 32 - module.RECORDS_SHOWN, -1)), "each of them once, the newest first"

    asyncio.run(watched())
    feed.close()


def test_nobody_looks_while_nobody_watches(group: Group, opened: Opened) -> None:
    eventually(lambda: not is_running())  # nor anybody of another test any more
    feed = Feed(opened, told_by="test", every_s=0.01)
    assert not is_running()
    asyncio.run(until(feed, lambda picture: True))
    eventually(lambda: not is_running())
    assert opened.count == 1
    asyncio.run(until(feed, lambda picture: True))
    eventually(lambda: not is_running())
    assert opened.count == 2


def test_two_who_watch_cost_one(group: Group, opened: Opened) -> None:
    feed = Feed(opened, told_by="test", every_s=0.01)

    async def two() -> None:
        await asyncio.gather(until(feed, lambda picture: True), until(feed, lambda picture: True))

    asyncio.run(two())
    assert opened.count == 1
    feed.close()


def test_while_redis_is_away_it_says_so_and_afterwards_goes_on(group: Group, opened: Opened) -> None:
    group.primary("a")
    feed = Feed(opened, told_by="test", every_s=0.01)

    async def watched() -> None:
        await until(feed, lambda picture: picture.redis_problem is None and picture.status["holder"] == "a")
        opened.away = True
        async with asyncio.timeout(PATIENCE_S), aclosing(feed.pictures()) as pictures:
            async for picture in pictures:
                if picture.redis_problem is not None:
                    assert "redis://x" in picture.redis_problem
                    opened.away = False
                elif not opened.away and picture.redis_problem is None and picture.redis_away_ms is None:
                    break
        assert picture.status["holder"] == "a"

    asyncio.run(watched())
    feed.close()


def test_a_redis_that_was_never_there_is_said_too(group: Group, opened: Opened) -> None:
    opened.away = True
    feed = Feed(opened, told_by="test", every_s=0.01)
    picture = asyncio.run(until(feed, lambda picture: True))
    assert picture.redis_problem is not None
    assert picture.headline["text"].startswith("Redis is not reached.")
    opened.error = LogUnavailable.refuses("redis://x", "NOPERM")
    picture = asyncio.run(until(feed, lambda picture: "refuses" in (picture.redis_problem or "")))
    assert picture.headline["text"].startswith("Redis answers,")
    feed.close()


def test_it_does_not_have_redis_go_through_the_log_at_each_look(
    group: Group, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = group.primary("a")
    sizes: list[int] = []
    size_of = group_status.size_of

    def counted(*of: Any) -> Any:
        sizes.append(1)
        return size_of(*of)

    monkeypatch.setattr(group_status, "size_of", counted)
    feed = Feed(opened, told_by="test", every_s=0.01)

    async def watched() -> None:
        await until(feed, lambda picture: picture.status["holder"] == "a")
        a.submit(push("new"))
        await until(feed, lambda picture: picture.records[0]["id"] == "1-2")

    async def while_another_does() -> None:
        async with aclosing(feed.pictures()) as pictures:
            await anext(pictures)
            await watched()

    asyncio.run(while_another_does())
    feed.close()
    assert len(sizes) == 1


def test_a_history_with_a_gap_does_not_make_it_read_the_log(
    group: Group, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = group.primary("a")
    for value in range(100):
        a.submit(push(value))
    reads: list[int] = []

    def open_log() -> MemoryLog:
        log = opened()
        read, told = log.read, log.history

        def reading(after: Any, **more: Any) -> Any:
            reads.append(after.n)
            return read(after, **more)

        monkeypatch.setattr(log, "read", reading)
        monkeypatch.setattr(log, "history", lambda end="": told(end)._replace(entries=[]))
        return log

    feed = Feed(open_log, told_by="test", every_s=0.01)
    picture = asyncio.run(until(feed, lambda picture: picture.status["holder"] == "a"))
    assert (picture.redis_problem, picture.terms) == (None, [])
    assert min(reads) >= 100 - module.RECORDS_SHOWN
    feed.close()


def test_so_many_may_watch_and_no_more(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCHERS_MAX", 1)
    feed = Feed(opened, told_by="test", every_s=0.01)

    async def watched() -> None:
        async with aclosing(feed.pictures()) as pictures:
            await anext(pictures)
            with pytest.raises(FullHouse):
                await anext(feed.pictures())
        await anext(feed.pictures())

    asyncio.run(watched())
    feed.close()


def test_who_watches_sees_the_end(opened: Opened) -> None:
    feed = Feed(opened, told_by="test", every_s=0.01)

    async def watched() -> int:
        count = 0
        async with asyncio.timeout(PATIENCE_S):
            async for _ in feed.pictures():
                count += 1
                if count == 1:
                    threading.Thread(target=feed.close).start()
        return count

    assert asyncio.run(watched()) >= 1
    eventually(lambda: not is_running())
