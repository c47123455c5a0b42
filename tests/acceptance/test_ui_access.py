"""A browser (Chromium) before a node: what a page of another origin can have it do, and the page that wants a token."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from replicator import Node
from replicator.registry.api import registry_app
from replicator.ui import feed as feed_module
from replicator.ui.app import ui_routes
from replicator.ui.feed import Feed
from replicator.ui.page import Page as PageInApplication
from replicator.web import asgi, wsgi
from replicator.web.guard.app import Guarded
from replicator.web.guard.hosts import Hosts
from replicator.web.guard.rules import Rules
from replicator.web.guard.token_file import Tokens
from replicator.web.server import WebServer
from tests.support.kv import PATIENCE_S, Group, eventually, push
from tests.support.needs import needs
from tests.support.registry_api import NodeInMemory

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

EXPECT_MS = 3000 * PATIENCE_S

#: Names that mean this machine: of a page of somebody else, and of one that first meant another machine (rebinding).
NAMES = "--host-resolver-rules=MAP evil.example 127.0.0.1, MAP rebind.example 127.0.0.1"

READ = "r" * 32

#: What a page can send without being asked by the browser whether it may, and what it can only try.
ATTACK = """
async (node) => {
  const tried = [
    fetch(`${node}/v1/nodes`, {method: "POST", mode: "no-cors", body: '{"hostname": "by-text"}'}),
    fetch(`${node}/v1/nodes`, {method: "POST", mode: "no-cors", body: new Blob(['{"hostname": "by-blob"}'])}),
    fetch(`${node}/v1/nodes/1/heartbeat`, {method: "POST", mode: "no-cors"}),
    fetch(`${node}/v1/nodes`, {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"}),
    fetch(`${node}/v1/nodes/1`, {method: "DELETE"}),
    fetch(`${node}/v1/state?force=1`, {method: "PUT", body: "{}"}),
    fetch(`${node}/v1/nodes`).then((answer) => answer.text()).then((text) => { window.read = text; }),
  ];
  await Promise.allSettled(tried);
  return window.read ?? null;
}
"""

#: A form needs nobody's leave either. Its answer is for a frame, or is saved as a file.
FORM = """
(node) => {
  const form = document.createElement("form");
  form.method = "POST"; form.action = `${node}/v1/nodes`; form.enctype = "text/plain"; form.target = "frame";
  const field = document.createElement("input");
  field.name = '{"hostname": "by-form", "tags": ["'; field.value = '"]}';
  form.append(field);
  const frame = document.createElement("iframe");
  frame.name = "frame";
  document.body.append(frame, form);
  form.submit();
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    needs(CHROMIUM is not None, "chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", NAMES])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    page.set_default_timeout(EXPECT_MS)
    playwright.expect.set_options(timeout=EXPECT_MS)
    yield page
    page.close()


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """A site of somebody else."""

    async def empty(_: Any) -> HTMLResponse:
        return HTMLResponse("<!doctype html><title>evil</title><body></body>")

    with WebServer(Starlette(routes=[Route("/", empty)])) as server:
        yield f"http://evil.example:{server.port}/"


@contextmanager
def served(*, with_rules: bool) -> Iterator[tuple[NodeInMemory, WebServer]]:
    node = NodeInMemory()
    app = registry_app(node)
    with WebServer(Guarded(app, Rules(Hosts("127.0.0.1"), None)) if with_rules else app) as server:
        yield node, server


def attack(page: Any, node: str) -> tuple[str | None, int]:
    """Have the page that is open try what it can: what it read, and the status of the form."""
    read = page.evaluate(ATTACK, node)
    with page.expect_response(lambda answer: answer.request.is_navigation_request()) as found:
        page.evaluate(FORM, node)
    return read, found.value.status


def hostnames(node: NodeInMemory) -> set[str]:
    with node.reading() as registry:
        return {record["hostname"] for record in registry.nodes(after=-1, limit=100).values()}


def test_a_page_of_another_origin_reads_and_writes_nothing(page: Any, elsewhere: str) -> None:
    """Though the node asks for no token: it is on loopback, and the browser is, too."""
    with served(with_rules=True) as (node, server):
        node.submit({"op": "register", "hostname": "db1", "last_seen": "2026-01-31T12:00:00Z"})
        page.goto(elsewhere)
        assert attack(page, server.url) == (None, 403)
        assert hostnames(node) == {"db1"}
        assert attack(page, f"http://rebind.example:{server.port}") == (None, 421)
        assert hostnames(node) == {"db1"}


def test_without_the_rules_that_page_writes(page: Any, elsewhere: str) -> None:
    """So the test above would fail if they were not there."""
    with served(with_rules=False) as (node, server):
        page.goto(elsewhere)
        assert attack(page, server.url) == (None, 201)
        assert {"by-text", "by-form"} <= hostnames(node)


def test_a_name_that_was_rebound_is_refused_though_its_page_is_of_the_same_origin(page: Any) -> None:
    with served(with_rules=True) as (node, server):
        answer = page.goto(f"http://rebind.example:{server.port}/v1/nodes")
        assert (answer.status, answer.json()["error"]) == (421, "foreign_host")
        sent = """async () => (await fetch("/v1/nodes", {method: "POST", body: '{"hostname": "x"}',
                  headers: {"Content-Type": "application/json"}})).status"""
        assert page.evaluate(sent) == 421
        assert hostnames(node) == set()
        # by its own name it is served
        assert page.goto(f"http://localhost:{server.port}/v1/nodes").status == 200
        assert page.evaluate(sent) == 201


def test_a_link_from_elsewhere_is_followed(page: Any, elsewhere: str) -> None:
    with served(with_rules=True) as (_, server):
        page.goto(elsewhere)
        page.evaluate("(url) => { location.href = url; }", f"{server.url}/v1/nodes")
        page.wait_for_url(f"{server.url}/v1/nodes")
        assert '"nodes"' in page.content()


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.close()


@contextmanager
def over_asgi(node: Node, page: PageInApplication) -> Iterator[str]:
    app = asgi.Replicated(Starlette(), node=node, start=False, page=page, health="/internal")
    with WebServer(app) as server:
        yield f"{server.url}/internal/ui"


@contextmanager
def over_wsgi(node: Node, page: PageInApplication) -> Iterator[str]:
    def nothing(environ: Any, start_response: Any) -> list[bytes]:
        start_response("404 Not Found", [])
        return []

    app = wsgi.Replicated(nothing, node=node, start=False, page=page)
    with make_server("127.0.0.1", 0, app, handler_class=Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/ui"
        finally:
            server.shutdown()
            thread.join()


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *_: Any) -> None: ...


@pytest.mark.parametrize("served", [over_asgi, over_wsgi])
def test_the_page_of_an_application_asks_for_a_token_and_goes_on(
    page: Any, group: Group, tmp_path: Path, served: Any
) -> None:
    node = group.primary("a")
    tokens = tmp_path / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"read {READ}\n")
    with served(node, PageInApplication(node, tokens=tokens)) as url:
        page.clock.install()
        page.goto(url)
        page.get_by_label("A token with the right to read").fill(READ)
        page.keyboard.press("Enter")
        headline = page.locator("#headline")
        playwright.expect(headline).to_contain_text("a may write", timeout=EXPECT_MS)
        # and what comes later is seen, one answer after the other
        node.submit(push("x"))
        last_id = str(node.position.id)
        playwright.expect(page.locator("#records tbody")).to_contain_text(last_id, timeout=EXPECT_MS)
        # until the token is none any more
        tokens.write_text(f"read {'o' * 32}\n")
        playwright.expect(headline).to_contain_text("for those who have a token", timeout=EXPECT_MS)
        page.clock.fast_forward(20_000)
        assert "for those who have a token" in headline.text_content(), "and not that nothing was heard"
        assert page.context.cookies() == []


def test_a_page_that_is_refused_its_first_look_says_why(
    page: Any, group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "WATCHERS_MAX", 0)
    with WebServer(Starlette(routes=ui_routes(Feed(group.log, told_by="node a")))) as server:
        page.clock.install()
        page.goto(f"{server.url}/ui")

        def later() -> bool:
            page.clock.fast_forward(2_000)
            return "as many watch as can be served" in page.locator("#headline").text_content()

        eventually(later)


def test_the_page_asks_for_a_token_and_keeps_it_for_this_tab_alone(page: Any, group: Group) -> None:
    group.primary("a")
    feed = Feed(group.log, told_by="node a")
    rules = Rules(Hosts("127.0.0.1"), Tokens([("read", READ)]))
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url))
    with WebServer(Guarded(Starlette(routes=ui_routes(feed)), rules)) as server:
        try:
            page.goto(f"{server.url}/ui")
            field = page.get_by_label("A token with the right to read")
            playwright.expect(field).to_be_focused()
            assert field.get_attribute("type") == "password"
            field.fill("w" * 32)
            page.keyboard.press("Enter")
            playwright.expect(page.locator("#login-said")).to_contain_text("none of this node's")
            field.fill(READ)
            page.get_by_role("button", name="Show the group").click()
            playwright.expect(page.locator("#headline")).to_contain_text("a may write")
            playwright.expect(field).to_be_hidden()
            # it is known after a reload, and nowhere that others get at: no cookie, no address, no other tab
            page.reload()
            playwright.expect(page.locator("#headline")).to_contain_text("a may write")
            assert page.context.cookies() == []
            assert not [url for url in sent if READ in url]
            assert page.evaluate("localStorage.length") == 0
            other = page.context.browser.new_page()
            other.goto(f"{server.url}/ui")
            playwright.expect(other.get_by_label("A token with the right to read")).to_be_visible(timeout=EXPECT_MS)
            other.close()
            eventually(lambda: page.locator("#login").is_hidden())
        finally:
            feed.end()
            feed.close()
