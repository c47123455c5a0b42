"""Many requests that wait at the same time: none holds up those of another kind."""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from replicator.registry.api import registry_app
from replicator.registry.state import Registry
from replicator.web import thread_pools
from replicator.web.thread_pools import Pool
from tests.support.kv import PATIENCE_S, Group
from tests.support.loops import run
from tests.support.registry_api import DOCUMENT, NodeInMemory, error_of


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How many places the pools of applications made from now on have; empty: what they have anyway."""
    places: dict[str, int] = {}
    made = Pool.__init__

    def smaller(self: Pool, what: str, *, places: int, **more: int) -> None:
        made(self, what, places=sizes.get(what, places), **more)

    sizes = places
    monkeypatch.setattr(Pool, "__init__", smaller)
    return places


class Crowd:
    """Clients of one application, all of them on one event loop, as on a server."""

    def __init__(self, node: NodeInMemory) -> None:
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(registry_app(node, wait_timeout_s=60)), base_url="http://a:7001", timeout=None
        )

    def asks(self, method: str, path: str, **options: Any) -> asyncio.Task[httpx.Response]:
        return asyncio.ensure_future(self.client.request(method, path, **options))

    async def answer(self, *requests: asyncio.Task[httpx.Response]) -> list[httpx.Response]:
        return list(await asyncio.wait_for(asyncio.gather(*requests), PATIENCE_S))


async def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_a_body_for_which_there_is_no_memory_is_refused_and_does_not_stay(
    node: NodeInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_pools, "REPLACEMENTS_BYTES_MAX", 2000)

    async def crowd() -> None:
        crowd = Crowd(node)
        document = {"content": DOCUMENT, "params": {"force": 1}}
        large, small = await crowd.answer(
            crowd.asks("PUT", "/v1/state", content=b" " * 2001, params={"force": 1}),
            crowd.asks("POST", "/v1/nodes", json={}),
        )
        assert (large.status_code, large.json()["error"], small.status_code) == (503, "busy", 201)
        assert [one.status_code for one in await crowd.answer(crowd.asks("PUT", "/v1/state", **document))] == [200]

    asyncio.run(crowd())


def test_writers_that_wait_keep_out_no_reader_and_no_other_writer_and_are_no_threads(node: NodeInMemory) -> None:
    async def crowd() -> None:
        acknowledged, waiting = asyncio.Event(), []

        async def wait() -> None:
            waiting.append(1)
            await acknowledged.wait()

        crowd, before = Crowd(node), threading.active_count()
        node.writes_wait = wait
        writers = [crowd.asks("POST", "/v1/nodes", json={}) for _ in range(600)]
        await until(lambda: len(waiting) == 600)
        assert threading.active_count() <= before  # one of before may have ended
        assert [one.status_code for one in await crowd.answer(crowd.asks("GET", "/v1/nodes"))] == [200]
        node.writes_wait = functools.partial(asyncio.sleep, 0)
        assert [one.status_code for one in await crowd.answer(crowd.asks("POST", "/v1/nodes", json={}))] == [201]
        acknowledged.set()
        assert {one.status_code for one in await crowd.answer(*writers)} == {201}

    asyncio.run(crowd())


def test_a_quick_read_that_finds_the_state_in_use_waits_on_a_thread_and_the_event_loop_goes_on(
    node: NodeInMemory,
) -> None:
    async def crowd() -> None:
        crowd, in_use, done = Crowd(node), threading.Event(), threading.Event()
        await crowd.answer(crowd.asks("POST", "/v1/nodes", json={}))

        def use() -> None:
            with node.reading():
                in_use.set()
                done.wait(PATIENCE_S)

        user = threading.Thread(target=use, name="user")
        user.start()
        await until(in_use.is_set)
        read = crowd.asks("GET", "/v1/nodes/1")
        await until(lambda: len(node.threads) == 2)
        assert [one.status_code for one in await crowd.answer(crowd.asks("GET", "/health"))] == [200]
        assert not read.done()
        done.set()
        assert [one.status_code for one in await crowd.answer(read)] == [200]
        user.join()

    asyncio.run(crowd())


def test_a_pool_that_is_full_says_so_at_once_and_the_others_go_on(node: NodeInMemory, pools: dict[str, int]) -> None:
    async def crowd() -> None:
        pools.update({"writes": 2, "requests that wait for a position": 3, "replacements of the state": 1})
        crowd, go_on, let_in = Crowd(node), asyncio.Event(), threading.Event()
        node.writes_wait = go_on.wait
        node.before_replacing = lambda: let_in.wait(PATIENCE_S)
        later = {"Replicator-Wait": "5-1043"}
        under_way = [
            *(crowd.asks("POST", "/v1/nodes", json={}) for _ in range(2)),
            *(crowd.asks("GET", "/v1/nodes", headers=later) for _ in range(3)),
            crowd.asks("PUT", "/v1/state?force=1", content=DOCUMENT),
        ]
        await until(lambda: len(node.waited) == 3)
        await until(lambda: node.acks == [None])  # the replacement
        refused = await crowd.answer(
            crowd.asks("PATCH", "/v1/nodes/1", json={}),
            crowd.asks("POST", "/v1/changes", content=b"x" * 100_000),
            crowd.asks("GET", "/v1/nodes", headers=later),
            crowd.asks("GET", "/v1/nodes", headers={"Replicator-Fresh": "1"}),
            crowd.asks("PUT", "/v1/state?force=1", content=DOCUMENT),
        )
        for answer in refused:
            assert "try again" in error_of(answer, 503, "busy")["message"]
            assert int(answer.headers["retry-after"]) >= 1
        others = await crowd.answer(*(crowd.asks("GET", path) for path in ("/v1/nodes", "/v1/state", "/ready")))
        assert [answer.status_code for answer in others] == [200, 200, 200]
        go_on.set()
        let_in.set()
        assert [answer.status_code for answer in await crowd.answer(*under_way)] == [201, 201, 200, 200, 200, 200]
        again = crowd.asks("POST", "/v1/nodes", json={}), crowd.asks("GET", "/v1/nodes", headers=later)
        assert [answer.status_code for answer in await crowd.answer(*again)] == [201, 200]

    asyncio.run(crowd())


def test_no_request_uses_the_default_executor_of_its_loop(group: Group) -> None:
    """The threads of requests are the server's own; those of the loop are the application's."""
    node = group.primary("a", state=Registry())
    transport = httpx.ASGITransport(registry_app(node))

    async def requests() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://a:7001", timeout=None) as client:
            made = await client.post("/v1/nodes", json={"hostname": "x"})
            asked = {"Replicator-Wait": made.headers["Replicator-Position"], "Replicator-Fresh": "1"}
            answers = [
                await client.get("/v1/nodes", headers=asked),
                await client.get("/v1/state"),
                await client.get("/ready"),
                await client.get("/health"),
                await client.put("/v1/state?force=1", content=DOCUMENT),
            ]
        assert [answer.is_success for answer in (made, *answers)] == [True] * 6, answers

    run(requests())
