"""What a refusal is over HTTP, and that what is refused reaches nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.testclient import TestClient

from replicator.web.guard.app import Guarded
from replicator.web.guard.hosts import Hosts
from replicator.web.guard.rules import Rules
from replicator.web.guard.token_file import Tokens

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
