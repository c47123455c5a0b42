"""A body in pieces: what is dropped goes one piece in a turn of the loop, and others have theirs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from replicator.web import requests
from replicator.web.failures import Refusal
from replicator.web.pieces import PIECE_BYTES, Pieces
from replicator.web.requests import PLACE, read_pieces
from replicator.web.thread_pools import Full, Pool

CHUNK = b"x" * (PIECE_BYTES // 2)


class Watched(Pieces):
    """Notes how many pieces there were at each turn of the loop. The newest one is `last`."""

    last: Watched

    def __init__(self) -> None:
        super().__init__()
        Watched.last = self
        self.were: list[int] = []

    async def watch(self) -> None:
        while True:
            self.were.append(len(self._pieces))
            await asyncio.sleep(0)

    @property
    def lost_in_a_turn(self) -> int:
        return max(before - after for before, after in zip(self.were, self.were[1:], strict=False))


def request_of(messages: list[dict[str, Any]], place: Any = None) -> Request:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        return left.pop(0)

    return Request({"type": "http", "method": "PUT", "headers": [], PLACE: place}, receive)


def part(*, is_last: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": CHUNK, "more_body": not is_last}


async def watched(monkeypatch: pytest.MonkeyPatch, request: Request, bytes_max: int) -> Exception:
    """How the reading ended; all turns of it were watched."""
    monkeypatch.setattr(requests, "Pieces", Watched)
    reading = asyncio.create_task(read_pieces(request, bytes_max))
    await asyncio.sleep(0)
    watching = asyncio.create_task(Watched.last.watch())
    (ended,) = await asyncio.gather(reading, return_exceptions=True)
    await asyncio.sleep(0)
    watching.cancel()
    assert isinstance(ended, Exception)
    return ended


def full_after(count: int) -> Pool:
    return Pool("uploads", places=1, threads=1, bytes_max=count * len(CHUNK))


@pytest.mark.parametrize(
    ("messages", "bytes_max", "error"),
    [
        pytest.param([part()] * 8 + [{"type": "http.disconnect"}], 100 * PIECE_BYTES, ClientDisconnect, id="left"),
        pytest.param([part()] * 8 + [part(is_last=True)], 4 * PIECE_BYTES, Refusal, id="too large"),
        pytest.param([part()] * 8 + [part(is_last=True)], 100 * PIECE_BYTES, Full, id="no room"),
    ],
)
def test_a_body_that_nobody_wants_is_dropped_a_piece_in_a_turn(
    messages: list[dict[str, Any]], bytes_max: int, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_after(8 if error is Full else 100).place() as place:
        ended = asyncio.run(watched(monkeypatch, request_of(messages, place), bytes_max))
    assert type(ended) is error
    assert max(Watched.last.were) == 4
    assert Watched.last.were[-1] == 0
    assert Watched.last.lost_in_a_turn == 1


def joined_of(chunks: list[bytes], pause: Callable[[], None] = lambda: None) -> bytearray:
    pieces = Pieces()
    for chunk in chunks:
        pieces.take(chunk)
    assert len(pieces) == sum(map(len, chunks))
    body = pieces.joined(pause)
    assert len(pieces) == 0
    return body


def test_the_whole_is_what_came() -> None:
    assert joined_of([]) == b""
    assert joined_of([b"a", b"", b"bc"]) == b"abc"
    chunks = [bytes([number]) * (PIECE_BYTES // 3) for number in range(10)] + [b"y" * (2 * PIECE_BYTES), b"z"]
    paused: list[bool] = []
    assert joined_of(chunks, lambda: paused.append(True)) == b"".join(chunks)
    assert len(paused) == 5, "others have had their turn after each piece"
