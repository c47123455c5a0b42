"""The routes of the page: what is served to whom, and who may act."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import orjson
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from replicator import Node
from replicator.ui.actions import Actions
from replicator.ui.app import ui_routes
from replicator.ui.feed import Feed
from replicator.ui.files import FILES, event
from replicator.web.guard.app import Guarded
from replicator.web.guard.hosts import Hosts
from replicator.web.guard.rules import Rules
from replicator.web.guard.token_file import Tokens
from tests.support.kv import Group, eventually, in_step

TOKEN = "t0ken-of-an-administrator"
READER = "t0ken-of-a-reader"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def feed(group: Group) -> Iterator[Feed]:
    feed = Feed(group.log, told_by="test")
    yield feed
    feed.close()


@pytest.fixture
def client(group: Group, feed: Feed) -> TestClient:
    return served(feed, Actions(group.log, by="tester"))


def served(feed: Feed, actions: Actions | None = None) -> TestClient:
    rules = Rules(Hosts("testserver"), Tokens([("admin", TOKEN), ("read", READER)]))
    return TestClient(Guarded(Starlette(routes=ui_routes(feed, actions)), rules))


@pytest.mark.parametrize("path", FILES)
def test_the_page_is_whole_and_asks_nobody_else(client: TestClient, path: str) -> None:
    answer = client.get(f"/ui{path}")
    assert answer.status_code == 200
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"""(src|href|url\(|fetch\()\s*=?\s*["'`]?(https?:)?//""", answer.text)
    for there in re.findall(r'(?:href|src)="([^"#]*)"', answer.text):
        assert there.startswith("data:") or client.get(urljoin("/ui", there)).status_code == 200
    assert client.get("/ui/", follow_redirects=False).headers["location"] == "/ui"


def test_who_asks_for_no_body_does_not_watch(client: TestClient, feed: Feed) -> None:
    feed.end()
    assert client.get("/ui/events").status_code == 401
    reader = {"Authorization": f"Bearer {READER}"}
    assert client.get("/ui/events", headers=reader).status_code == 503
    answer = client.head("/ui/events", headers=reader)
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")


def test_without_actions_there_is_nothing_to_act_with(feed: Feed) -> None:
    client = served(feed)
    assert client.post("/ui/do/pause", json={}, headers=BEARER).status_code == 404
    assert client.post("/ui/preview", json={"node": "a"}, headers=BEARER).status_code == 404


@pytest.mark.parametrize("path", ["/ui/do/pause", "/ui/do/promote", "/ui/preview"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 401, id="no token"),
        pytest.param({"Authorization": "Bearer "}, 401, id="an empty one"),
        pytest.param({"Authorization": "Bearer wrong"}, 401, id="a wrong one"),
        pytest.param({"Authorization": f"Bearer {READER}"}, 403, id="one to look"),
        pytest.param({**BEARER, "Origin": "https://elsewhere.example"}, 403, id="a page of elsewhere"),
        pytest.param({**BEARER, "Origin": "null"}, 403, id="a page of nowhere"),
        pytest.param({**BEARER, "Content-Type": "text/plain"}, 415, id="what a form may send"),
    ],
)
def test_who_may_not_act(client: TestClient, group: Group, path: str, headers: dict[str, str], status: int) -> None:
    answer = client.post(path, content=b'{"node": "a"}', headers={"Content-Type": "application/json", **headers})
    assert answer.status_code == status
    assert group.log().look().head is None


@pytest.mark.parametrize("body", [b"", b"[]", b"nonsense", b"\xff"])
def test_what_is_no_question(client: TestClient, body: bytes) -> None:
    headers = {**BEARER, "Content-Type": "application/json"}
    assert client.post("/ui/do/pause", content=body, headers=headers).status_code == 400
    assert client.post("/ui/do/pause", content=b" " * 10_000, headers=headers).status_code == 413


def act(client: TestClient, what: str, **asked: Any) -> Any:
    return client.post(f"/ui/do/{what}", json=asked, headers={**BEARER, "Origin": "http://testserver"})


@pytest.fixture
def pair(group: Group) -> tuple[Node, Node]:
    """A primary and a standby, both of which have reported what they have."""
    a, b = group.primary("a"), group.node("b")
    in_step(a, b)
    eventually(lambda: {"a", "b"} <= group.log().look().heartbeats.keys())
    return a, b


def test_a_promotion_is_of_the_term_that_its_preview_was_of(client: TestClient, pair: tuple[Node, Node]) -> None:
    _, b = pair
    preview = client.post("/ui/preview", json={"node": "b"}, headers=BEARER).json()
    assert (preview["term"], preview["losses"], preview["refusal"]) == (1, [], None)
    assert act(client, "promote", node="b").status_code == 409, "it says of no term"
    answer = act(client, "promote", node="b", expect=preview["term"], reason="try")
    assert answer.json()["done"] == "b leads in term 2"
    again = act(client, "promote", node="a", expect=preview["term"])
    assert again.status_code == 409
    eventually(lambda: b.leads)


@pytest.mark.usefixtures("pair")
def test_a_switchover_and_what_is_refused(client: TestClient) -> None:
    assert act(client, "switchover", node="b").json()["primary"] == "b"
    refused = act(client, "switchover", node="b")
    assert (refused.status_code, "leads already" in refused.json()["message"]) == (409, True)
    assert act(client, "switchover").status_code == 409
    assert act(client, "explode").status_code == 409


def test_pause_and_resume(client: TestClient, group: Group) -> None:
    group.primary("a")
    assert act(client, "pause", reason="an upgrade").status_code == 200
    head = group.log().look().head
    assert head is not None
    assert head.paused == "by tester: an upgrade"
    assert act(client, "resume").status_code == 200
    head = group.log().look().head
    assert head is not None
    assert not head.paused


def test_what_others_wrote_does_not_control_how_it_is_shown() -> None:
    odd = "a\x1b[2J\u202eb"
    told = event({"headline": {odd: odd}, "nodes": [{"problem": odd, "term": 1}]})
    assert orjson.loads(told.removeprefix(b"data: ")) == {
        "headline": {odd: "a\\x1b[2J\\u202eb"},
        "nodes": [{"problem": "a\\x1b[2J\\u202eb", "term": 1}],
    }
