"""The ASGI shell: the node's life within that of the application, and what frameworks do with it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from fastapi import FastAPI
from quart import Quart
from starlette.applications import Starlette

from replicator import ConfigError, DirectoryInUse, Node
from replicator.errors import ChangeRejected, CheckpointError, NotRunning, ReplicatorError
from replicator.testing import MemoryLog, MemoryRedis
from replicator.web.asgi import Replicated, answer
from replicator.web.thread_pools import Pool
from tests.support.kv import KV, PATIENCE_S, eventually
from tests.support.sites import FakeNode, standby

App = Callable[[Any, Any, Any], Awaitable[Any]]


class Server:
    """The lifespan of an application, as a server plays it."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()

    async def begins(self) -> Any:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        self._task = asyncio.create_task(self._app(scope, self._events.get, self._answers.put))  # type: ignore[arg-type]
        return await self._told("lifespan.startup")

    async def ends(self) -> Any:
        answer = await self._told("lifespan.shutdown")
        await asyncio.wait_for(self._task, PATIENCE_S)
        return answer

    async def _told(self, event: str) -> Any:
        await self._events.put({"type": event})
        return await asyncio.wait_for(self._answers.get(), PATIENCE_S)

    async def played(self) -> list[str]:
        return [(await self.begins())["type"], (await self.ends())["type"]]


COMPLETE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def starlette_app(node: FakeNode, **options: Any) -> Starlette:
    """One that notes in the node's life when it starts and stops itself."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        node.life.append("app starts")
        yield
        node.life.append("app stops")

    app = Starlette(lifespan=lifespan)
    app.add_middleware(Replicated, node=node, **options)
    return app


async def knows_no_lifespan(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("this is for HTTP")


async def ignores_lifespan(scope: Any, receive: Any, send: Any) -> None:
    return


def test_the_node_runs_while_the_application_does() -> None:
    node = FakeNode()
    assert asyncio.run(Server(starlette_app(node)).played()) == COMPLETE
    assert node.life == ["start", "app starts", "app stops", "stop"]


@pytest.mark.parametrize("app", [knows_no_lifespan, ignores_lifespan])
def test_an_application_without_a_lifespan_has_the_nodes(app: App) -> None:
    node = FakeNode()
    assert asyncio.run(Server(Replicated(app, node=node)).played()) == COMPLETE
    assert node.life == ["start", "stop"]


def test_a_node_that_runs_already_is_somebody_elses() -> None:
    node = FakeNode(boot="boot")
    assert asyncio.run(Server(starlette_app(node)).played()) == COMPLETE
    assert node.life == ["app starts", "app stops"]


def test_a_node_that_is_not_to_be_started_is_not() -> None:
    node = FakeNode()
    assert asyncio.run(Server(starlette_app(node, start=False)).played()) == COMPLETE
    assert node.life == ["app starts", "app stops"]


def real_node(data_dir: Path, log: MemoryLog | None = None, **more: Any) -> Node:
    log = log or MemoryLog(MemoryRedis(), "g")
    return Node(KV(), group="g", name="a", log=log, data_dir=data_dir, http="http://a:7001", **more)


def around(node: Node) -> Starlette:
    app = Starlette()
    app.add_middleware(Replicated, node=node)
    return app


def test_it_starts_and_stops_on_a_thread_and_the_event_loop_goes_on(tmp_path: Path) -> None:
    class Slow(MemoryLog):
        def look(self) -> Any:
            self._waits()
            return super().look()

        def close(self) -> None:
            self._waits()
            super().close()

        def _waits(self) -> None:
            turned.clear()
            assert turned.wait(PATIENCE_S), "the event loop stands still"

    turned = threading.Event()

    async def played() -> list[str]:
        async def turns() -> None:
            while True:
                turned.set()
                await asyncio.sleep(0.001)

        turning = asyncio.create_task(turns())
        try:
            return await Server(around(real_node(tmp_path, Slow(MemoryRedis(), "g")))).played()
        finally:
            turning.cancel()

    assert asyncio.run(played()) == COMPLETE


def test_an_event_loop_that_is_blocked_keeps_no_lease(tmp_path: Path) -> None:
    node = real_node(tmp_path, lease_s=PATIENCE_S, beat_every_s=0.1, watchdog_s=3.0, auto_promote=True)

    async def main() -> None:
        server = Server(around(node))
        await server.begins()
        await asyncio.to_thread(node.promote, timeout_s=PATIENCE_S)
        # a synchronous driver
        eventually(lambda: "event loop" in node.problem, "the node says so")
        await server.ends()

    asyncio.run(main())


def test_a_startup_that_is_cancelled_leaves_no_node_behind(tmp_path: Path) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(MemoryLog):
        def look(self) -> Any:
            entered.set()
            go_on.wait(PATIENCE_S)
            return super().look()

    node = real_node(tmp_path, Slow(MemoryRedis(), "g"))

    async def main() -> None:
        server = Server(around(node))
        begins = asyncio.create_task(server.begins())
        while not entered.is_set():
            await asyncio.sleep(0.01)
        server._task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await server._task
        begins.cancel()

    asyncio.run(main())
    with pytest.raises(NotRunning, match="was stopped"):
        node.start()


def test_a_second_startup_does_not_serve_a_node_that_was_stopped(tmp_path: Path) -> None:
    app = around(real_node(tmp_path))
    assert asyncio.run(Server(app).played()) == COMPLETE
    begun = asyncio.run(Server(app).begins())
    assert begun["type"] == "lifespan.startup.failed"
    assert "no node starts twice: make another one" in begun["message"]


def test_a_server_that_is_gone_at_the_startup_leaves_no_node_behind() -> None:
    async def receive() -> Any:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        raise ConnectionError

    for app in (knows_no_lifespan, ignores_lifespan):
        node = FakeNode()
        with pytest.raises(ConnectionError):
            asyncio.run(Replicated(app, node=node)({"type": "lifespan"}, receive, send))  # type: ignore[arg-type]
        assert node.life == ["start", "stop"]


def test_a_node_that_does_not_start_fails_the_startup_with_its_words() -> None:
    node = FakeNode(refuses_to_start=ConfigError(setting="name", problem="'a' is taken"))
    answer = asyncio.run(Server(starlette_app(node)).begins())
    assert answer == {"type": "lifespan.startup.failed", "message": "name: 'a' is taken"}
    assert node.life == []


def test_a_second_worker_is_told_that_there_is_one(tmp_path: Path) -> None:
    node = FakeNode(refuses_to_start=DirectoryInUse(path=tmp_path, who="process 7"))
    message = asyncio.run(Server(starlette_app(node)).begins())["message"]
    assert "process 7 is using it" in message
    assert "a node is one process" in message
    assert "--workers 1" in message


def test_an_application_that_fails_to_start_leaves_no_node_running() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    async def begun() -> Any:
        return (await server.begins())["type"], list(node.life)

    node = FakeNode()
    app = Starlette(lifespan=lifespan)
    app.add_middleware(Replicated, node=node)
    server = Server(app)
    # and that before the server hears of it, which may end the process then
    assert asyncio.run(begun()) == ("lifespan.startup.failed", ["start", "stop"])


def test_a_node_that_does_not_stop_in_order_fails_the_shutdown() -> None:
    class Stuck(FakeNode):
        def stop(self) -> None:
            raise CheckpointError(path="data/a", problem="the disk is full")

    app = starlette_app(Stuck())
    assert asyncio.run(Server(app).played()) == ["lifespan.startup.complete", "lifespan.shutdown.failed"]


def test_a_node_that_no_other_one_can_reach_is_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    for node, options in ((FakeNode(), {}), (FakeNode(http=""), {"writes": "local"})):
        asyncio.run(Server(starlette_app(node, **options)).played())
    assert caplog.messages == []
    asyncio.run(Server(starlette_app(FakeNode(http=""))).played())
    assert "no other node can send it writes" in caplog.text


def test_a_real_node_starts_and_stops(tmp_path: Path) -> None:
    node = Node(KV(), group="g", name="a", log=MemoryLog(MemoryRedis()), data_dir=tmp_path)
    app = starlette_app(node)  # type: ignore[arg-type]
    node.life = []  # type: ignore[attr-defined]

    async def played() -> None:
        server = Server(app)
        assert (await server.begins())["type"] == "lifespan.startup.complete"
        assert node.unready is None or node.unready.code != "not_running"
        await server.ends()

    asyncio.run(played())
    assert node.problem == "stopped"


# --- Requests ---------------------------------------------------------------------------------------------------------


async def asked(app: Any, method: str, path: str, **more: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client:
        return await client.request(method, path, **more)


def test_an_error_of_fastapi_comes_out_to_the_middleware() -> None:
    app = FastAPI()
    app.add_middleware(Replicated, node=FakeNode())

    @app.post("/flags")
    async def set_flag() -> None:
        raise ChangeRejected("no such flag", field="name")

    answer = asyncio.run(asked(app, "POST", "/flags"))
    assert (answer.status_code, answer.json()["error"], answer.json()["field"]) == (422, "rejected", "name")
    assert asyncio.run(asked(app, "GET", "/nothing")).headers["replicator-position"] == "5-1042"


def test_an_error_of_quart_is_handed_to_the_middleware() -> None:
    app = Quart("app")
    app.asgi_app = Replicated(app.asgi_app, node=FakeNode())  # type: ignore[method-assign]
    app.register_error_handler(ReplicatorError, answer)

    @app.post("/flags")
    async def set_flag() -> str:
        raise ChangeRejected("no such flag", field="name")

    found = asyncio.run(asked(app, "POST", "/flags"))
    assert (found.status_code, found.headers["content-type"]) == (422, "application/problem+json")
    assert found.json()["error"] == "rejected"


def test_other_scopes_are_the_applications() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(Replicated(app, node=FakeNode())({"type": "websocket"}, None, None))  # type: ignore[arg-type]
    assert seen == ["websocket"]


def test_a_request_that_waits_leaves_the_event_loop_to_the_others() -> None:
    node, go_on = standby(), threading.Event()
    node.meanwhile = lambda: go_on.wait(PATIENCE_S)
    app = FastAPI()
    app.add_middleware(Replicated, node=node)

    async def crowd() -> None:
        waiting = asyncio.create_task(asked(app, "GET", "/", headers={"Replicator-Wait": "5-1043"}))
        while not node.waited:
            await asyncio.sleep(0.001)
        assert (await asked(app, "GET", "/health")).status_code == 200
        node.moves_to(5, 1043)
        go_on.set()
        assert (await waiting).headers["replicator-position"] == "5-1043"

    asyncio.run(crowd())


def test_an_error_after_the_answer_began_is_the_servers() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ChangeRejected("too late")

    with pytest.raises(ChangeRejected):
        asyncio.run(asked(Replicated(app, node=FakeNode()), "GET", "/"))


def test_the_body_of_a_write_that_is_sent_elsewhere_is_read_to_its_end() -> None:
    received: list[int] = []

    async def played() -> None:
        async def receive() -> Any:
            received.append(1)
            return {"type": "http.request", "body": b"x" * 100, "more_body": len(received) < 5}

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        scope = {"type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": []}
        await Replicated(ignores_lifespan, node=standby())(scope, receive, send)

    statuses: list[Any] = []
    asyncio.run(played())
    assert (len(received), statuses[0]) == (5, 307)


def test_the_middleware_needs_no_framework() -> None:
    code = "import sys; import replicator.web.asgi; print(sorted({'starlette', 'httpx', 'flask'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_a_lifespan_that_is_cancelled_stops_the_node() -> None:
    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        while True:
            if (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})

    async def played() -> None:
        server = Server(Replicated(hangs, node=node))
        await server.begins()
        server._task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server._task

    node = FakeNode()
    asyncio.run(played())
    eventually(lambda: node.life == ["start", "stop"])


# --- Below a path -----------------------------------------------------------------------------------------------------


async def answered(app: Any, method: str, path: str, **more: Any) -> tuple[int, dict[bytes, bytes]]:
    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    sent: list[Any] = []
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
    await app({**scope, "headers": [], **more}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


@pytest.mark.parametrize("path", ["/api/ready", "/ready"])
def test_health_is_served_below_a_root_path(path: str) -> None:
    app = Replicated(knows_no_lifespan, node=FakeNode(), start=False)
    status, headers = asyncio.run(answered(app, "GET", path, root_path="/api"))
    assert (status, headers[b"content-type"]) == (200, b"application/json")


@pytest.mark.parametrize(
    ("root", "path", "raw_path", "location"),
    [
        ("/api", "/api/flags/a b", b"/api/flags/a%20b", b"/flags/a%20b"),
        ("/api/", "/api/flags", b"", b"/flags"),
        ("/a b", "/a b/x", b"/a%20b/x", b"/x"),
        ("/api", "/apiary", b"/apiary", b"/apiary"),
        ("/api", "/flags", b"/flags", b"/flags"),
        ("/api", "/api", b"/api", b""),
    ],
)
def test_a_write_goes_to_the_path_within_the_application(
    root: str, path: str, raw_path: bytes, location: bytes
) -> None:
    asked: list[str] = []
    app = Replicated(
        knows_no_lifespan, node=standby(), start=False, is_write=lambda method, path: asked.append(path) or True
    )
    _, headers = asyncio.run(answered(app, "PUT", path, raw_path=raw_path, root_path=root))
    assert headers[b"location"] == b"http://b:7002" + location
    assert asked == [unquote(location.decode())]


# --- Waits ------------------------------------------------------------------------------------------------------------


def test_positions_that_never_come_keep_no_write_from_waiting_for_a_primary() -> None:
    go_on = threading.Event()
    node = standby(None, meanwhile=lambda: go_on.wait(PATIENCE_S))
    waits = Pool("requests that wait for a position", places=2, threads=2)
    app = Replicated(ignores_lifespan, node=node, start=False, primary_within_s=PATIENCE_S, waits=waits)

    async def main() -> int:
        cookie = {"headers": [(b"cookie", b"replicator-position=9-9")]}
        strangers = [asyncio.create_task(answered(app, "GET", "/", **cookie)) for _ in range(2)]
        while len(node.waited) < 2:
            await asyncio.sleep(0.01)
        write = asyncio.create_task(answered(app, "POST", "/"))
        await asyncio.sleep(0.1)
        node.primary_http = "http://b:7002"  # the failover is over
        status, _ = await write
        go_on.set()
        await asyncio.gather(*strangers, return_exceptions=True)
        return status

    assert asyncio.run(main()) == 307
