"""Those who wait for a publication share one that began after they came."""

from __future__ import annotations

import asyncio
import threading

import pytest

from replicator.service.proxy.publications import Publications
from replicator.service.sidecar import Publication


def test_who_comes_while_one_is_under_way_waits_for_the_next_together_with_others() -> None:
    goes_on = [threading.Event() for _ in range(3)]
    begun: list[int] = []

    def publish() -> Publication:
        begun.append(len(begun))
        goes_on[begun[-1]].wait()
        return Publication(f"1-{begun[-1]}", "")

    async def play() -> list[Publication]:
        publications = Publications(publish)
        first = asyncio.ensure_future(publications.of_now())
        while not begun:
            await asyncio.sleep(0)
        others = [asyncio.ensure_future(publications.of_now()) for _ in range(3)]
        await asyncio.sleep(0)
        goes_on[0].set()
        goes_on[1].set()
        return await asyncio.gather(first, *others)

    assert [each.position for each in asyncio.run(play())] == ["1-0", "1-1", "1-1", "1-1"]


def test_one_that_raises_is_no_end_of_them() -> None:
    outcomes = [ZeroDivisionError(), Publication("1-1", "")]

    def publish() -> Publication:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def play() -> None:
        publications = Publications(publish)
        with pytest.raises(ZeroDivisionError):
            await publications.of_now()
        assert (await publications.of_now()).position == "1-1"

    asyncio.run(play())
