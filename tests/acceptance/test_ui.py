"""The page in a real browser (Chromium), over real processes: a failover, by keyboard, on a phone, in the dark."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import ops
from replicator.format.ids import ZERO_CHAIN, Position, RecordId
from replicator.log.redis_log import RedisLog
from replicator.protocol.heartbeat import Heartbeat
from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import PATIENCE_S, eventually
from tests.support.needs import needs

playwright = pytest.importorskip("playwright.sync_api")

NAMES = "abc"

#: Of one expectation in the browser. The machine may be busy.
EXPECT_MS = 3000 * PATIENCE_S

#: Every phase of a page that somebody watches is a moment; this is how often it is looked at from here.
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Group:
    """Three nodes of the registry, each a process, and `replicator ui`."""

    def __init__(self, redis: RedisServer, directory: Path) -> None:
        self.redis = redis
        self._directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        self.log = RedisLog(redis.url, "g")
        for name in NAMES:
            self.start(name)
        eventually(lambda: set(self.log.look().heartbeats) == set(NAMES), patience_s=3 * PATIENCE_S)
        ops.promote(self.log, "a", by="test", timeout_s=PATIENCE_S)
        out = (directory / "ui.out").open("wb")
        command = [str(Path(sys.executable).with_name("replicator")), "ui", "--no-open"]
        self.processes["ui"] = subprocess.Popen(command, stdout=out, stderr=out, env=self._environment())
        self.url = eventually(lambda: self._said("ui.out", r"http://\S+#token=\S+"), patience_s=3 * PATIENCE_S)

    def start(self, name: str) -> None:
        more = {
            "REPLICATOR_DATA_DIR": str(self._directory / name),
            "REPLICATOR_HTTP": f"127.0.0.1:{self.ports[name]}",
            "REPLICATOR_AUTO_PROMOTE": "true",
            "REPLICATOR_ON_RESTART": "standby",
            "REPLICATOR_LEASE_S": "10",
        }
        command = [sys.executable, "-m", "replicator.workers.node", "--name", name]
        with (self._directory / f"{name}.out").open("ab") as out:
            environment = self._environment() | more
            self.processes[name] = subprocess.Popen(command, stdout=out, stderr=out, env=environment)

    def close(self) -> None:
        self.log.close()
        for process in self.processes.values():
            process.kill()
            process.wait()

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "REPLICATOR_REDIS": self.redis.url, "REPLICATOR_GROUP": "g"}

    def _said(self, file: str, what: str) -> str | None:
        found = re.search(what, (self._directory / file).read_text())
        return found[0] if found else None


@pytest.fixture
def group(any_redis: RedisServer, tmp_path: Path) -> Iterator[Group]:
    needs(CHROMIUM is not None, "chromium")
    group = Group(any_redis, tmp_path)
    yield group
    group.close()


@pytest.fixture(scope="module")
def _chromium() -> Iterator[Any]:
    needs(CHROMIUM is not None, "chromium")
    with playwright.sync_playwright() as started:
        # As root there is no sandbox of Chromium's own; it opens nothing but our page.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browser(_chromium: Any) -> Iterator[Any]:
    """One for all tests. Each page is of a context of its own, and is closed at the end of its test."""
    yield _chromium
    for context in _chromium.contexts:
        context.close()


class Page:
    """A page, and what went wrong in it or was asked of anybody else."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.errors: list[str] = []
        self.page = browser.new_page(**options)
        self.page.set_default_timeout(EXPECT_MS)
        playwright.expect.set_options(timeout=EXPECT_MS)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda asked: self._own(asked.url, url))
        self.page.goto(url)

    def _own(self, asked: str, url: str) -> None:
        if not asked.startswith((url.split("/ui")[0], "data:")):
            self.errors.append(f"it asked {asked}")

    def headline(self, text: str) -> None:
        playwright.expect(self.page.locator("#headline")).to_contain_text(re.compile(text))

    def sees(self, where: str, text: str) -> None:
        playwright.expect(self.page.locator(where)).to_contain_text(re.compile(text))

    def barriers(self) -> list[str]:
        """What keeps somebody from using it, by the rules of axe (WCAG 2 A and AA)."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright")
        found = axe.Axe().run(self.page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        told = [{each["id"]: [node["html"] for node in each["nodes"]]} for each in found.response["violations"]]
        return [json.dumps(each) for each in told]


def test_a_failover_is_seen_as_it_happens(group: Group, browser: Any) -> None:
    page = Page(browser, group.url)
    page.headline("^✔ a may write")
    page.sees("#problems", "None")
    # when its process is killed
    group.processes["a"].send_signal(signal.SIGKILL)
    # then it is said who leads instead, which term that began, and who is missing
    page.headline("^[✔✖▲] (b|c) may write")
    leader = ops.status(group.log).holder
    page.sees("#lanes tbody tr:has(th:text('a'))", "lease ran out|crashed")
    page.sees(f"#lanes tbody tr:has(th:text('{leader}'))", "● leads")
    page.sees("#nodes tbody tr:has(th:text('a'))", "✖ silent")
    page.sees("#records tbody", "opens term")
    # and when it is back, all is well
    group.start("a")
    page.headline(f"^✔ {leader} may write")
    page.sees("#problems", "None")
    # and what a node says of forks and of records that came too late is in its lane
    told = Heartbeat("x", "x1", position=Position(RecordId(1, 1), ZERO_CHAIN), fork_count=2, fork_id=RecordId(1, 3))
    group.log.beat(told._replace(stale_count=4))
    page.sees("#lanes tbody tr:has(th:text('x')) th", "ignored 4 stale records")
    page.sees("#lanes tbody tr:has(th:text('x'))", "✂ keeps 2 forks, the newest up to 1-3")
    assert page.errors == []


def test_while_nobody_leads_it_says_so_and_promotes(group: Group, browser: Any) -> None:
    page = Page(browser, group.url)
    page.headline("^✔ a may write")
    ops.demote(group.log, by="test")
    page.headline("^✖ Nobody may write: nobody holds the term")
    page.sees("#problems", "replicator promote [abc]")
    page.page.get_by_role("button", name="Promote c").click()
    page.sees("dialog[open]", "Nothing is lost")
    page.page.locator("#dialog-do").click()
    page.sees("#dialog-outcome", r"c leads in term \d+")
    page.page.keyboard.press("Escape")
    page.headline("^✔ c may write")
    page.sees("#lanes tbody", "nobody")
    assert page.errors == []


def test_a_switchover_by_keyboard_alone(group: Group, browser: Any) -> None:
    page = Page(browser, group.url)
    page.headline("^✔ a may write")
    before = ops.status(group.log).term
    button = page.page.get_by_role("button", name="Switch over to b")
    playwright.expect(button).to_be_visible()
    assert "token" not in page.page.url, "it does not stay where people copy it from"
    for _ in range(20):
        page.page.keyboard.press("Tab")
        if button.evaluate("it => it === document.activeElement"):
            break
    page.page.keyboard.press("Enter")
    page.sees("dialog[open]", "Nothing is lost")
    # it is a question: nothing was done, and Escape takes it back
    page.page.keyboard.press("Escape")
    playwright.expect(page.page.locator("dialog[open]")).to_have_count(0)
    assert ops.status(group.log).term == before
    # and the focus is where it was, though the page was drawn anew meanwhile
    playwright.expect(button).to_be_focused()
    page.page.keyboard.press("Enter")
    page.page.get_by_role("textbox", name="Why").fill("a new kernel")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Enter")
    page.sees("#dialog-outcome", f"b leads in term {before + 1}; nobody led for")
    page.page.keyboard.press("Escape")
    page.headline("b may write")
    page.sees("#lanes tbody tr:has(th:text('b'))", "a new kernel")
    assert page.errors == []


def test_failover_is_paused_and_resumed_and_that_is_seen(group: Group, browser: Any) -> None:
    page = Page(browser, group.url)
    page.page.get_by_role("button", name="Pause failover").click()
    page.page.get_by_role("textbox", name="Why").fill("<b>maintenance</b>")
    page.page.locator("#dialog-do").click()
    page.sees("#dialog-outcome", "paused")
    page.page.keyboard.press("Escape")
    page.sees("#problems", r"automatic failover is paused \(by .*: <b>maintenance</b>\)")
    page.page.get_by_role("button", name="Resume failover").click()
    page.page.locator("#dialog-do").click()
    page.sees("#dialog-outcome", "on again")
    assert page.errors == []


def test_the_page_of_a_node_is_to_look_at(group: Group, browser: Any) -> None:
    page = Page(browser, f"http://127.0.0.1:{group.ports['c']}/ui")
    page.headline("^✔ a may write")
    page.sees("#told", "told by node c")
    # and tells how long a change takes there
    body = json.dumps({"owner": "test", "hostname": "web-1"}).encode()
    asked = f"http://127.0.0.1:{group.ports['a']}/v1/nodes"
    urllib.request.urlopen(urllib.request.Request(asked, body, {"Content-Type": "application/json"})).close()
    page.sees("#stages tbody", "standby: from the primary's stamp until applied here")
    page.sees("#stages tbody", "apply: .* ms")
    assert page.page.get_by_role("button").count() == 0
    assert page.errors == []


def test_when_redis_is_away_and_when_its_own_process_is_gone(group: Group, browser: Any) -> None:
    page = Page(browser, group.url)
    page.headline("^✔ a may write")
    group.redis.pause()
    page.headline("^✖ Redis is not reached. Before that: ")
    page.sees("#facts", "away for")
    page.sees("#problems", "Bring it back, with its data")
    # nothing is shown as if it were now
    page.sees("#facts", "lease\\s*not known")
    page.sees("#nodes tbody tr:has(th:text('a'))", "– was primary.*before Redis went away")
    page.sees("#lanes tbody", "○ led when Redis was last reached")
    # and what could do nothing says why, and does nothing
    buttons = page.page.get_by_role("button")
    playwright.expect(buttons).to_have_count(3)
    for button in buttons.all():
        playwright.expect(button).to_be_disabled()
        playwright.expect(button).to_have_accessible_description(re.compile("while Redis is away"))
        button.click(force=True)
    assert page.page.locator("dialog[open]").count() == 0
    assert page.barriers() == []
    group.redis.resume()
    page.headline("may write")
    playwright.expect(page.page.get_by_role("button", name="Switch over to b")).to_be_enabled()
    group.processes["ui"].kill()
    page.headline("This page has heard nothing for")


LOOKS = [(scheme, width) for scheme in ("light", "dark") for width in (390, 1200)]


def test_nobody_is_kept_out(group: Group, browser: Any) -> None:
    pages: list[Page] = []
    for scheme, width in LOOKS:
        page = Page(browser, group.url, viewport={"width": width, "height": 900}, color_scheme=scheme)
        pages.append(page)
        page.headline("^✔ a may write")
        assert page.barriers() == [], (scheme, width)
        # and nothing of the page itself is off the screen to the side
        assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (scheme, width)
        page.page.get_by_role("button", name="Switch over to b").click()
        page.sees("dialog[open]", "Nothing is lost")
        assert page.barriers() == [], (scheme, width)
        page.page.keyboard.press("Escape")
    group.processes["c"].send_signal(signal.SIGKILL)
    for page, look in zip(pages, LOOKS, strict=True):
        page.sees("#nodes tbody tr:has(th:text('c'))", "✖ silent")
        assert page.barriers() == [], look
        assert page.errors == [], look
