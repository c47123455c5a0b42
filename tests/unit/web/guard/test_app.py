"""What a refusal is over HTTP, and that what is refused reaches nobody."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from replicator.web.guard.app import Guarded
from replicator.web.guard.hosts import Hosts
from replicator.web.guard.rules import Rules
from replicator.web.guard.token_file import TokenFile, Tokens

READ = "r" * 32


class App:
    """Counts who reached it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.reached.append(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def client(app: App) -> TestClient:
    return TestClient(Guarded(app, Rules(Hosts("testserver"), Tokens([("read", READ)]))))


def test_a_401_says_how_to_ask_and_is_problem_details(client: TestClient, app: App) -> None:
    answer = client.get("/v1/nodes")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == 'Bearer realm="replicator"'
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json() == {
        "type": "urn:replicator:error:no_token", "title": "No token", "status": 401, "error": "no_token",
        "detail": "this needs a token with the right to read: Authorization: Bearer TOKEN", "field": "Authorization",
    }  # fmt: skip
    wrong = client.get("/v1/nodes", headers={"Authorization": "Bearer x"})
    assert wrong.headers["www-authenticate"] == 'Bearer realm="replicator", error="invalid_token"'
    assert app.reached == []


def test_a_403_says_which_right_is_missing(client: TestClient, app: App) -> None:
    answer = client.post("/v1/nodes", json={}, headers={"Authorization": f"Bearer {READ}"})
    assert answer.status_code == 403
    assert answer.headers["www-authenticate"] == 'Bearer realm="replicator", error="insufficient_scope", scope="write"'
    assert answer.json()["needs"] == "write"
    assert READ not in answer.text
    assert app.reached == []


def test_head_has_the_status_and_no_body(client: TestClient) -> None:
    answer = client.head("/v1/nodes")
    assert (answer.status_code, answer.content) == (401, b"")


def test_who_may_gets_the_answer_of_the_application(client: TestClient, app: App) -> None:
    assert client.get("/v1/nodes", headers={"Authorization": f"Bearer {READ}"}).json() == {}
    assert client.get("/live").status_code == 200
    assert app.reached == ["http", "http"]


def test_what_is_no_request_reaches_nobody(app: App) -> None:
    async def nothing(*_: Any) -> Any:
        raise AssertionError("nothing is sent or received")

    guarded = Guarded(app, Rules(Hosts("testserver"), None))
    asyncio.run(guarded({"type": "websocket", "path": "/", "headers": []}, nothing, nothing))
    assert app.reached == []


def test_events_end_with_the_token_that_opened_them(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"read {READ}\n")
    path.chmod(0o600)
    tokens = TokenFile(path, clock=itertools.count(0, 2).__next__)
    guarded = Guarded(events_without_end, Rules(Hosts("testserver"), tokens))
    scope = {
        "type": "http", "method": "GET", "path": "/ui/events",
        "headers": [(b"host", b"testserver"), (b"authorization", f"Bearer {READ}".encode())],
    }  # fmt: skip
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 3:
            path.write_text(f"read {'n' * 32}\n")

    asyncio.run(guarded(scope, send, send))
    assert [message.get("body") for message in sent] == [None, b"data: 1", b"data: 2", None]
    assert [message.get("more_body", False) for message in sent] == [False, True, True, False]


async def events_without_end(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for number in range(1, 6):
        await send({"type": "http.response.body", "body": f"data: {number}".encode(), "more_body": True})
