"""The examples as their readers run them: one command, three processes, and a primary that is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import plain_http
from tests.support.kv import eventually

ROOT = Path(__file__).parents[2]

#: A failover takes a lease of 5 s, on an idle machine.
PATIENCE_S = 300.0


class Example:
    """An example that runs. `urls` and `kills`: by the name of each process, where it is and how it is killed."""

    def __init__(self, name: str, output: Path) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", f"examples.{name}"], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT
            )

    @property
    def said(self) -> str:
        return self._output.read_text()

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.said
        return "Ctrl-C ends all of it" in self.said

    @property
    def urls(self) -> dict[str, str]:
        return dict(re.findall(r"^([abc])  (http://\S+)", self.said, re.MULTILINE))

    @property
    def kills(self) -> dict[str, str]:
        return dict(re.findall(r"^([abc])  .*  ends by: (kill -9 -- -\d+)$", self.said, re.MULTILINE))

    def tries(self) -> list[str]:
        """The commands that it tells its reader to try."""
        return re.findall(r"^(?:try: |     )((?:curl|replicator) .*)$", self.said, re.MULTILINE)

    def primary(self) -> str:
        return patiently(lambda: next((name for name in self.urls if self._leads(name)), None))

    def _leads(self, name: str) -> bool:
        try:
            return bool(plain_http.get(f"{self.urls[name]}/health", timeout=PATIENCE_S).json()["leads"])
        except httpx.TransportError:
            return False

    def is_there(self, name: str) -> bool:
        """Whether the process is there."""
        try:
            os.kill(int(self.kills[name].rpartition("-")[2]), 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self, name: str) -> None:
        subprocess.run(["bash", "-c", self.kills[name]], check=True)

    def ends(self) -> int:
        """Ctrl-C: its exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_S)


def patiently(holds: Callable[[], Any]) -> Any:
    return eventually(holds, patience_s=PATIENCE_S)


@contextmanager
def example(name: str, directory: Path) -> Iterator[Example]:
    """It runs as long as the block lasts, and then ends as it should."""
    running = Example(name, directory / "output")
    try:
        patiently(running.is_ready)
        yield running
        assert running.ends() == 0, running.said
        assert "Traceback" not in running.said
        assert not any(running.is_there(name) for name in running.kills)
    finally:
        if running.process.poll() is None:
            running.ends()


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """As a browser: it follows redirects and keeps cookies."""
    with plain_http.Client(follow_redirects=True, timeout=PATIENCE_S) as client:
        yield client


def succeeds(request: Callable[[], httpx.Response]) -> httpx.Response:
    """Repeat a request until it goes well. It does not while nobody leads, or a standby does not know yet who does."""

    def once() -> httpx.Response | None:
        try:
            answer = request()
        except httpx.TransportError:
            return None
        return answer if answer.is_success or answer.is_redirect else None

    found: httpx.Response = patiently(once)
    return found


def put_flag(client: httpx.Client, url: str, name: str) -> None:
    succeeds(lambda: client.put(f"{url}/flags/{name}", json={"on": True}, headers={"Idempotency-Key": f'"{name}"'}))


def has_flag(client: httpx.Client, url: str, name: str) -> bool:
    return bool(succeeds(lambda: client.get(f"{url}/flags/{name}")).json()["on"])


def put_link(client: httpx.Client, url: str, name: str) -> None:
    succeeds(lambda: client.put(f"{url}/{name}", content=f"https://example.org/{name}"))


def has_link(client: httpx.Client, url: str, name: str) -> bool:
    answer = succeeds(lambda: client.get(f"{url}/{name}", follow_redirects=False))
    return bool(answer.headers["location"] == f"https://example.org/{name}")


@pytest.mark.parametrize(("name", "put", "has"), [("flags", put_flag, has_flag), ("links", put_link, has_link)])
def test_nothing_is_lost_when_the_primary_is_killed(
    name: str, put: Callable[..., None], has: Callable[..., bool], tmp_path: Path, client: httpx.Client
) -> None:
    with example(name, tmp_path) as service:
        primary = service.primary()
        one, other = (url for each, url in service.urls.items() if each != primary)
        # given: what was written by way of one process is read from each of the others
        put(client, one, "first")
        assert all(has(client, url, "first") for url in service.urls.values())
        # when
        service.kill(primary)
        put(client, one, "second")
        # then
        for each in ("first", "second"):
            assert has(client, other, each)
        assert service.primary() != primary


def runs_noted(client: httpx.Client, url: str) -> int:
    return int(succeeds(lambda: client.get(f"{url}/jobs")).json()["hello"]["runs"])


RUN = re.compile(r"^([abc]) runs hello \(term (\d+)\)$", re.MULTILINE)


def test_jobs_go_on_after_a_kill_and_their_terms_never_go_back(tmp_path: Path, client: httpx.Client) -> None:
    with example("scheduler", tmp_path) as service:
        primary = service.primary()
        one, other = (url for each, url in service.urls.items() if each != primary)
        # given
        succeeds(lambda: client.put(f"{one}/jobs/hello", params={"every_s": 0.1}))
        noted = patiently(lambda: (runs := runs_noted(client, other)) >= 3 and runs)
        # when
        service.kill(primary)
        begun = len(RUN.findall(service.said))
        # then
        patiently(lambda: len(RUN.findall(service.said)) >= begun + 3)
        runs = runs_noted(client, other)
        done = RUN.findall(service.said)
        assert noted <= runs <= len(done)
        terms = [int(term) for _, term in done]
        assert terms == sorted(terms)
        assert len({(name, term) for name, term in done}) == len(set(terms)) >= 2


@pytest.mark.parametrize("name", ["flags", "links", "scheduler"])
def test_what_an_example_says_to_try_works(name: str, tmp_path: Path) -> None:
    environ = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    with example(name, tmp_path) as service:
        status, *requests = service.tries()
        assert len(requests) >= 2
        for line in (status, *(f"{line} --fail" for line in requests)):
            patiently(lambda line=line: subprocess.run(["bash", "-c", line], env=environ, check=False).returncode == 0)
