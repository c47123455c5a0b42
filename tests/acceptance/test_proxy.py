"""Clients of a program that cannot be changed, behind proxies, through a switchover and a `kill -9`; and a browser.

Two nodes, each a process that runs the program where it leads. What is safe to repeat never fails, and every write that
was answered is there in the end.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from replicator import ops
from replicator.log.redis_log import RedisLog
from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.redis_server import RedisServer
from tests.support.kv import PATIENCE_S, eventually
from tests.support.needs import needs
from tests.support.notes import notes

LONG_S = 6 * PATIENCE_S

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


OF_THE_BROWSER = ("first", "second")


class Group:
    """Nodes a and b, with a proxy each. `reads`: and whether the program runs on both, beside the nodes."""

    def __init__(self, redis: RedisServer, directory: Path) -> None:
        self._redis = redis
        self._directory = directory
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        ports = free_ports(4)
        self.targets = dict(zip("ab", ports[:2], strict=True))
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in zip("ab", ports[2:], strict=True)}
        self.log = RedisLog(redis.url, "g")
        for name in "ab":
            (directory / name).mkdir()
            self._start(name)
        eventually(lambda: all(self.log.look().heartbeats.get(name) for name in "ab"), patience_s=LONG_S)
        ops.promote(self.log, "a", by="test", timeout_s=LONG_S)

    def _start(self, name: str) -> None:
        home = self._directory / name
        program = notes(home / "notes.json", self.targets[name])
        options = {
            "--name": name,
            "--data-dir": str(home / "data"),
            "--lease-s": "4",
            "--file": str(home / "notes.json"),
            "--run": program,
            "--proxy": self.urls[name].removeprefix("http://"),
            "--target": f"127.0.0.1:{self.targets[name]}",
            "--proxy-wait-s": str(LONG_S),
        }
        given = [each for option in options.items() for each in option]
        known = {key: value for key, value in os.environ.items() if not key.startswith("REPLICATOR_")}
        environment = {**known, "REPLICATOR_REDIS": self._redis.url, "REPLICATOR_GROUP": "g"}
        with (self._directory / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", "replicator.workers.node", "--auto-promote", *given]
            self.processes[name] = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def leader(self) -> str:
        return next((node.node for node in ops.status(self.log).nodes if node.role == "primary" and node.alive), "")

    def close(self) -> None:
        self.log.close()
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """One for both tests: the second one kills a node."""
    directory = tmp_path_factory.mktemp("group")
    redis = RedisServer(directory / "redis")
    group = Group(redis.start(), directory)
    try:
        yield group
    finally:
        group.close()
        redis.kill()


class Loop:
    """A client of one proxy, in a thread: it writes with and without a key, and reads, by turns."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._over = threading.Event()
        self.answered: list[str] = []
        #: Those of which it heard that nobody knows.
        self.unknown: list[str] = []
        self.reads = 0
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join(2 * LONG_S)
        assert not self._thread.is_alive()
        assert self.wrong == []

    def goes_on(self, count: int = 5) -> None:
        """Wait until so many more writes were answered."""
        wanted = len(self.answered) + count
        eventually(lambda: len(self.answered) >= wanted or self.wrong, "answered writes", patience_s=2 * LONG_S)

    def _run(self) -> None:
        try:
            # Kept connections, and some that are not: as browsers and scripts do.
            with httpx.Client(timeout=2 * LONG_S, trust_env=False) as client:
                number = 0
                while not self._over.is_set():
                    number += 1
                    self._write(client, f"{self._name}{number}", keyed=number % 2 == 0)
                    self._read(client)
        except Exception as error:
            self.wrong.append(repr(error))

    def _write(self, client: httpx.Client, text: str, *, keyed: bool) -> None:
        headers = {"Idempotency-Key": f'"{text}"'} if keyed else {}
        answer = client.post(f"{self._url}/notes", content=text, headers=headers)
        if answer.status_code == 201:
            self.answered.append(text)
        elif answer.json().get("error") == "outcome_unknown":
            self.unknown.append(text)
        else:
            self.wrong.append(f"POST {answer.status_code} {answer.text}")

    def _read(self, client: httpx.Client) -> None:
        answer = client.get(f"{self._url}/notes")
        self.reads += 1
        if answer.status_code != 200:
            self.wrong.append(f"GET {answer.status_code} {answer.text}")
        elif lost := set(self.answered) - set(answer.json()):
            self.wrong.append(f"{lost} were answered, and are not there")


def test_a_browser_reads_what_it_wrote_through_the_proxy_of_a_standby(group: Group) -> None:
    needs(CHROMIUM is not None, "chromium")
    playwright: Any = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        # As root there is no sandbox of Chromium's own; it opens nothing but our page.
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = browser.new_page()
            page.set_default_timeout(1000 * LONG_S)
            page.goto(group.urls["b"])
            for text in OF_THE_BROWSER:
                page.fill("input", text)
                page.click("button")
                found = page.locator("li", has_text=text)
                found.wait_for()
            assert page.locator("li").all_text_contents() == list(OF_THE_BROWSER)
            [cookie] = page.context.cookies()
            assert (cookie["name"], cookie["httpOnly"]) == ("replicator_position", True)
        finally:
            browser.close()


def test_no_answered_write_is_lost_and_nothing_fails_that_is_safe_to_repeat(group: Group) -> None:
    # given a client of each proxy
    a, b = Loop(group.urls["a"], "a"), Loop(group.urls["b"], "b")
    a.goes_on()
    b.goes_on()
    # when the other node is to lead: nothing fails, not even a write that is under way
    ops.switchover(group.log, "b", by="test", timeout_s=LONG_S)
    a.goes_on()
    b.goes_on()
    b.end()
    assert (a.unknown, b.unknown) == ([], [])
    # when that one is killed while the client of the other one goes on
    group.processes["b"].kill()
    eventually(lambda: group.leader() == "a", patience_s=LONG_S)
    a.goes_on()
    a.end()
    # then what was answered is there, once; what is not known was under way at that moment
    assert len(a.unknown) <= 1
    found = httpx.get(f"{group.urls['a']}/notes", timeout=LONG_S, trust_env=False).json()
    assert len(found) == len(set(found))
    answered = {*a.answered, *b.answered}
    assert answered <= set(found) <= answered | {*a.unknown, *OF_THE_BROWSER}
    assert min(a.reads, b.reads) > 5
