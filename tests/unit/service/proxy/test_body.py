"""The body of a request: a small one can be had again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from replicator.service.proxy.body import KEPT_BYTES, Body, ClientGone


def coming(*pieces: bytes, ends: bool = True) -> Any:
    messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if ends:
        messages[-1]["more_body"] = False

    async def receive() -> Any:
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


async def read(content: bytes | AsyncIterator[bytes] | None) -> bytes:
    if content is None or isinstance(content, bytes):
        return content or b""
    return b"".join([piece async for piece in content])


def test_a_small_one_can_be_sent_again_and_a_large_one_until_it_has_begun() -> None:
    async def play() -> None:
        small = Body(coming(b"ab", b"", b"c"), exists=True)
        await small.begin()
        assert [await read(small.content()), await read(small.content())] == [b"abc", b"abc"]
        assert small.is_whole
        large = Body(coming(b"a" * KEPT_BYTES, b"b", b"c"), exists=True)
        await large.begin()
        large.content()  # no connection was taken: nothing was read of it
        assert large.is_whole
        assert await read(large.content()) == b"a" * KEPT_BYTES + b"bc"
        assert not large.is_whole
        none = Body(coming(ends=False), exists=False)
        await none.begin()
        assert none.content() is None

    asyncio.run(play())


def test_a_client_that_leaves_in_the_middle_is_told_apart_from_the_end() -> None:
    async def play() -> None:
        with pytest.raises(ClientGone):
            await Body(coming(b"a", ends=False), exists=True).begin()

    asyncio.run(play())
