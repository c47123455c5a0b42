"""The page in an application's own server, over ASGI and over WSGI alike: who gets to see it, and that nobody waits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from replicator import Node
from replicator.errors import ConfigError
from replicator.ui import feed as feed_module
from replicator.ui.page import Page
from replicator.web import page as page_module
from tests.support.kv import PATIENCE_S, Group, eventually, push
from tests.support.sites import SITES, Sites, sites_of

READER, ADMIN, WRITER = "r" * 32, "a" * 32, "w" * 32


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(params=SITES, ids=["asgi", "wsgi"])
def sites(request: pytest.FixtureRequest) -> Iterator[Sites]:
    yield from sites_of(request.param)


@pytest.fixture(autouse=True)
def looks_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "FIRST_LOOK_S", PATIENCE_S)
    monkeypatch.setattr(feed_module, "ASKS_WITHIN_S", PATIENCE_S)


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"read {READER}\nwrite {WRITER}\nadmin {ADMIN}\n")
    return path


@pytest.fixture
def node(group: Group) -> Node:
    node = group.primary("a")
    node.submit(push("x"))
    return node


def picture_in(answer: httpx.Response) -> Any:
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream"), answer.text
    begins, told, rest = answer.text.split("\n\n")
    assert (begins, rest) == ("retry: 1000", "")
    return json.loads(told.removeprefix("data: "))


def test_who_may_read_sees_the_group_and_nobody_else_does(sites: Sites, node: Node, tokens: Path) -> None:
    site = sites.of(node, page=Page(node, tokens=tokens))
    for token in (READER, WRITER, ADMIN):
        seen = picture_in(site.ask("GET", "/ui/events", headers=bearer(token)))
        assert (seen["status"]["holder"], seen["told_by"], seen["may_act"]) == ("a", "node a", False)
        assert seen["records"][0]["what"] == "1 change"
    for headers, status, error in (
        ({}, 401, "no_token"),
        (bearer("x" * 32), 401, "wrong_token"),
        ({"Authorization": READER}, 401, "wrong_token"),
        ({"Authorization": f"Basic {READER}"}, 401, "wrong_token"),
    ):
        answer = site.ask("GET", "/ui/events", headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (status, error)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert READER not in answer.text
    # and what is asked for again shows what has come since
    node.submit(push("y"))
    eventually(lambda: picture_in(site.ask("GET", "/ui/events", headers=bearer(READER)))["status"]["last_id"] == "1-3")


def test_its_files_are_for_everybody_and_say_nothing_of_the_group(sites: Sites, node: Node, tokens: Path) -> None:
    site = sites.of(node, page=Page(node, tokens=tokens))
    page = site.ask("GET", "/ui")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert page.headers["cache-control"] == "no-store"
    for path in ("page.css", "page.js"):
        assert f'"ui/{path}"' in page.text
        assert site.ask("GET", urljoin("/ui", f"ui/{path}")).status_code == 200
    assert urljoin("/ui/", site.ask("GET", "/ui/").headers["location"]) == "/ui"
    assert site.ask("HEAD", "/ui").content == b""
    for method in ("POST", "OPTIONS", "DELETE"):
        answer = site.ask(method, "/ui/events", headers=bearer(ADMIN))
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    # what only the page of an operator has is the application's
    assert site.ask("POST", "/ui/do/pause", headers=bearer(ADMIN)).text == "here"


def test_it_is_where_the_probes_are_also_below_a_root_path(sites: Sites, node: Node, tokens: Path) -> None:
    site = sites.of(node, page=Page(node, tokens=tokens), health="/internal")
    assert site.ask("GET", "/internal/ui").status_code == 200
    assert picture_in(site.ask("GET", "/internal/ui/events", headers=bearer(READER)))
    assert site.ask("GET", "/ui").text == "here"
    site = sites.of(node, page=Page(node, tokens=tokens), health=None)
    assert site.ask("GET", "/ui").status_code == 200


def test_without_it_the_application_has_these_paths(sites: Sites, node: Node) -> None:
    site = sites.of(node)
    for path in ("/ui", "/ui/events"):
        assert site.ask("GET", path).text == "here"


def test_a_token_that_is_taken_back_is_none_any_more(sites: Sites, node: Node, tokens: Path) -> None:
    page = Page(node, tokens=tokens)
    site = sites.of(node, page=page)
    assert site.ask("GET", "/ui/events", headers=bearer(READER)).status_code == 200
    tokens.write_text(f"read {ADMIN}\n")
    eventually(lambda: site.ask("GET", "/ui/events", headers=bearer(READER)).status_code == 401)


def test_while_redis_is_away_it_is_said_so_and_the_first_who_asks_does_not_wait_for_it(
    sites: Sites, group: Group, node: Node, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()
    open_log = node.looking

    def looking() -> Any:
        log = open_log()
        look = log.look
        log.look = lambda: (held.wait(), look())[1]  # type: ignore[method-assign]
        return log

    monkeypatch.setattr(node, "looking", looking)
    monkeypatch.setattr(page_module, "FIRST_LOOK_S", 1.0)
    site = sites.of(node, page=Page(node, tokens=tokens))
    answer = site.ask("GET", "/ui/events", headers=bearer(READER))
    assert (answer.status_code, answer.json()["error"], "retry-after" in answer.headers) == (503, "busy", True)
    held.set()
    assert eventually(lambda: site.ask("GET", "/ui/events", headers=bearer(READER)).status_code == 200)
    # and when a look hangs later, what was seen before is not told as if it were now
    monkeypatch.setattr(feed_module, "ASKS_WITHIN_S", 0.1)
    held.clear()
    assert eventually(lambda: site.ask("GET", "/ui/events", headers=bearer(READER)).status_code == 503)
    held.set()


def test_nobody_looks_any_more_once_nobody_asks(
    sites: Sites, node: Node, tokens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = sites.of(node, page=Page(node, tokens=tokens))
    picture_in(site.ask("GET", "/ui/events", headers=bearer(READER)))
    monkeypatch.setattr(feed_module, "ASKS_WITHIN_S", 0.1)
    eventually(lambda: not any(thread.name == "ui-feed" for thread in threading.enumerate()))
    monkeypatch.setattr(feed_module, "ASKS_WITHIN_S", PATIENCE_S)
    # and whoever asks again sees what is now
    node.submit(push("y"))
    assert picture_in(site.ask("GET", "/ui/events", headers=bearer(READER)))["status"]["last_id"] == "1-3"


@pytest.mark.parametrize("content", ["", "read short", "look " + "x" * 32])
def test_without_tokens_there_is_no_page(node: Node, tokens: Path, content: str) -> None:
    tokens.write_text(content)
    with pytest.raises(ConfigError, match="tokens: "):
        Page(node, tokens=tokens)
    tokens.chmod(0o644)
    with pytest.raises(ConfigError, match="others may use it"):
        Page(node, tokens=tokens)
    tokens.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        Page(node, tokens=tokens)


def test_what_is_no_page_is_refused(sites: Sites, node: Node) -> None:
    with pytest.raises(ConfigError, match="page: give a Page"):
        sites.of(node, page="/etc/tokens")
