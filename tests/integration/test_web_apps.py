"""Applications in the middleware as they are run: processes of uvicorn and of gunicorn, over a real Redis."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from replicator import ops
from replicator.log.redis_log import RedisLog
from replicator.sandbox.free_ports import free_port
from replicator.sandbox.redis_server import RedisServer
from tests.support import plain_http
from tests.support.kv import PATIENCE_S, eventually

ROOT = Path(__file__).parents[2]

Command = Callable[[str, int], list[str]]


def uvicorn(app: str, port: int, *more: str) -> list[str]:
    target = f"tests.integration.web_apps:{app}"
    return ["uvicorn", "--factory", target, "--host", "127.0.0.1", "--port", str(port), *more]


def gunicorn(app: str, port: int, *more: str) -> list[str]:
    target = f"tests.integration.web_apps:{app}()"
    return ["gunicorn", target, "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "8", *more]


class Process:
    """A server with one node."""

    def __init__(
        self, command: list[str], port: int, environ: dict[str, str], output: Path, *, directory: Path = ROOT
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=directory,
                env={**os.environ, **environ},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def said(self) -> str:
        return self._output.read_text(errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has said that."""
        with contextlib.suppress(AssertionError):
            eventually(lambda: text in self.said or self.process.poll() is not None, patience_s=3 * PATIENCE_S)
        assert text in self.said, self.said

    def answers(self) -> Any:
        """What it says of itself; None: nothing yet."""
        assert self.process.poll() is None, self.said
        try:
            return plain_http.get(f"{self.url}/health", timeout=PATIENCE_S).json()
        except httpx.TransportError:
            return None

    def kill(self) -> None:
        """All of its processes, at once, as a crash would."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def ends(self) -> int:
        """Told to end, it does: its exit code."""
        self.process.terminate()
        return self.process.wait(PATIENCE_S)


class Service:
    """Servers of one application, each with a node of the group."""

    def __init__(self, redis: RedisServer, directory: Path) -> None:
        self._redis = redis
        self._directory = directory
        self.processes: dict[str, Process] = {}

    def start(
        self, name: str, app: str, command: Callable[..., list[str]], *more: str, waits: bool = True, **environ: str
    ) -> Process:
        port = free_port()
        environ = {
            "APP_NAME": name,
            "APP_REDIS": self._redis.url,
            "APP_DIR": str(self._directory / name),
            "APP_HTTP": f"http://127.0.0.1:{port}",
        } | {f"APP_{key.upper()}": value for key, value in environ.items()}
        output = self._directory / f"{name}.out"
        process = self.processes[name] = Process(command(app, port, *more), port, environ, output)
        if waits:
            eventually(process.answers, f"the server of {name}")
        return process

    def of(self, app: str, command: Callable[..., list[str]], names: str = "ab", **environ: str) -> list[Process]:
        """One server each; the first one's node leads. What is for one name alone: `b_slow_s="1"`."""
        for name in names:
            own = {key.removeprefix(f"{name}_"): value for key, value in environ.items() if key[1] == "_"
                   and key[0] == name}  # fmt: skip
            shared = {key: value for key, value in environ.items() if key[1] != "_"}
            self.start(name, app, command, **shared, **own)
            if name == names[0]:
                self.promote(name)
        for name in names[1:]:
            eventually(lambda name=name: self.health(name)["in_sync"] and self.health(name)["primary_http"])
        return [self.processes[name] for name in names]

    @property
    def left(self) -> set[str]:
        """Whose nodes said goodbye."""
        log = RedisLog(self._redis.url, "g")
        try:
            return {name for name, heartbeat in log.look().heartbeats.items() if heartbeat.left}
        finally:
            log.close()

    def promote(self, name: str) -> None:
        log = RedisLog(self._redis.url, "g")
        try:
            eventually(lambda: name in log.look().heartbeats, "it has reported")
            ops.promote(log, name, by="test", timeout_s=PATIENCE_S)
        finally:
            log.close()
        eventually(lambda: self.health(name)["leads"])

    def health(self, name: str) -> Any:
        return eventually(self.processes[name].answers)

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()


@pytest.fixture
def service(any_redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    service = Service(any_redis, tmp_path)
    yield service
    service.close()


def browser() -> httpx.Client:
    """It has cookies, and follows redirects."""
    return plain_http.Client(follow_redirects=True, timeout=PATIENCE_S)


def gunicorn_asgi(app: str, port: int, *more: str) -> list[str]:
    return gunicorn(app, port, "--worker-class", "asgi", *more)


SERVED = [
    pytest.param("fastapi_app", uvicorn, id="FastAPI, uvicorn"),
    pytest.param("flask_app", gunicorn, id="Flask, gunicorn"),
    pytest.param("quart_app", uvicorn, id="Quart, uvicorn"),
    pytest.param("django_asgi_app", uvicorn, id="Django over ASGI, uvicorn"),
    pytest.param("django_wsgi_app", gunicorn, id="Django over WSGI, gunicorn"),
    pytest.param("fastapi_app", gunicorn_asgi, id="FastAPI, gunicorn"),
]


@pytest.mark.parametrize(("app", "command"), SERVED)
def test_a_browser_reads_on_a_standby_what_it_wrote_there(
    service: Service, app: str, command: Callable[..., list[str]]
) -> None:
    # given standbys that are slow to apply what they read: one redirects writes, the other one forwards them
    slow = {"b_slow_s": "0.7", "c_slow_s": "0.7"}
    a, b, c = service.of(app, command, "abc", b_writes="redirect", c_writes="forward", **slow)
    for name, process, redirects in (("b", b, [307]), ("c", c, [])):
        with browser() as client:
            for value in (f"old {name}", f"new {name}"):
                # when it writes at the standby
                answer = client.put(f"{process.url}/k/x", content=value)
                # then the primary carries that out
                assert (answer.status_code, answer.json()["by"]) == (200, "a"), answer.text
                assert [each.status_code for each in answer.history] == redirects
                # and the standby shows it
                read = client.get(f"{process.url}/k/x")
                assert read.json() == {"value": value, "by": name}
                assert read.headers["replicator-role"] == "standby"
    # and each of them ends in order: the others know that nothing of it is missing
    for process in (c, b, a):
        process.ends()
    assert service.left == {"a", "b", "c"}, a.said + b.said + c.said


@pytest.mark.parametrize(("app", "command"), SERVED[:2])
def test_a_failover_costs_a_browser_a_pause(service: Service, app: str, command: Callable[..., list[str]]) -> None:
    # given
    service.of(app, command, "abc", writes="forward", lease_s="3")
    a, b = service.processes["a"], service.processes["b"]
    with browser() as client:
        assert client.put(f"{b.url}/k/x", content="before").json() == {"by": "a"}
        # when
        a.kill()

        def written() -> Any:
            answer = client.put(f"{b.url}/k/x", content="after")
            # until it is seen that nobody leads, and while nobody does
            known = {"primary_unreachable", "not_primary", "lease_lost", "outcome_unknown"}
            assert answer.status_code == 200 or answer.json()["error"] in known, answer.text
            return answer if answer.status_code == 200 else None

        by = eventually(written).json()["by"]
        # then
        assert by in ("b", "c")
        for name in "bc":
            assert client.get(f"{service.processes[name].url}/k/x").json()["value"] == "after"


@pytest.mark.parametrize(("app", "command"), SERVED[:2])
def test_the_page_of_the_group_is_for_who_has_a_token_and_holds_no_server_up(
    service: Service, tmp_path: Path, app: str, command: Callable[..., list[str]]
) -> None:
    # given
    tokens, token = tmp_path / "tokens", "r" * 32
    tokens.touch(mode=0o600)
    tokens.write_text(f"read {token}\n")
    a = service.of(app, command, "a", tokens=str(tokens))[0]
    with plain_http.Client(base_url=a.url, timeout=PATIENCE_S) as client:
        assert "ui/page.js" in client.get("/ui").text
        assert client.get("/ui/events").status_code == 401
        client.headers["Authorization"] = f"Bearer {token}"
        # when somebody watches
        seen = eventually(lambda: [each for each in [client.get("/ui/events")] if each.status_code == 200])[0]
        assert '"a may write.' in seen.text
        # then the server, whose client stays connected, ends all the same
        a.ends()
    # and the token is in nothing that it said
    assert token not in a.said


@pytest.mark.parametrize(("app", "command"), SERVED)
def test_a_second_worker_is_told_that_there_is_one(
    service: Service, app: str, command: Callable[..., list[str]]
) -> None:
    # uvicorn kills a worker that answers it nothing for 5 s: on a busy machine, each one that is still importing
    patient = ["--timeout-worker-healthcheck", "600"] if command is uvicorn else []
    process = service.start("a", app, command, "--workers", "2", *patient, waits=False)
    process.says("a node is one process")
    process.says("--workers 1")


@pytest.mark.parametrize("app", ["flask_app", "django_wsgi_app"])
def test_a_worker_of_a_master_that_loaded_the_application_says_what_to_do(service: Service, app: str) -> None:
    process = service.start("a", app, gunicorn, "--preload", waits=False)
    answer = eventually(lambda: _got(f"{process.url}/ready"))
    assert (answer.status_code, answer.json()["error"]) == (500, "wrong_process")
    assert "gunicorn: without --preload" in answer.json()["detail"]
    read = plain_http.get(f"{process.url}/k/x", timeout=PATIENCE_S)
    assert (read.status_code, read.json()["error"]) == (500, "wrong_process")


def test_a_worker_of_a_master_that_loaded_the_application_does_not_begin_over_asgi(service: Service) -> None:
    process = service.start("a", "fastapi_app", gunicorn_asgi, "--preload", waits=False)
    process.says("without --preload")


def test_a_server_that_sends_no_lifespan_says_that_nobody_started_the_node(service: Service) -> None:
    process = service.start("a", "fastapi_app", uvicorn, "--lifespan", "off", waits=False)
    answer = eventually(lambda: _got(f"{process.url}/ready"))
    assert (answer.status_code, answer.json()["error"]) == (503, "not_running")


PAGE = (ROOT / "docs/web.md").read_text()

EXAMPLE = re.compile(r"^```python\n# (\w+)\.py: (.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

#: Of the project in Django: each with its path in the first line.
FILE = re.compile(r"^```python\n# (service/\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("module", "command", "program"), EXAMPLE.findall(PAGE))
def test_the_examples_of_the_documentation_run(
    any_redis: RedisServer, tmp_path: Path, module: str, command: str, program: str
) -> None:
    # given
    (tmp_path / f"{module}.py").write_text(program)
    port = free_port()
    it_serves_flags(any_redis, tmp_path, port, command.replace("8001", str(port)).split())


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_the_project_in_django_of_the_documentation_runs(
    any_redis: RedisServer, tmp_path: Path, interface: str
) -> None:
    subprocess.run([sys.executable, "-m", "django", "startproject", "service", "."], cwd=tmp_path, check=True)
    files = dict(FILE.findall(PAGE))
    assert list(files) == [f"service/{name}.py" for name in ("replication", "asgi", "settings", "urls")]
    for name, program in files.items():
        before = (tmp_path / name).read_text() if name.endswith("settings.py") else ""
        (tmp_path / name).write_text(before + program)
    # as the page says
    over_wsgi = files["service/asgi.py"].replace("get_asgi_application", "get_wsgi_application")
    (tmp_path / "service/wsgi.py").write_text(
        over_wsgi.replace("django.core.asgi", "django.core.wsgi").replace("replicator.web.asgi", "replicator.web.wsgi")
    )
    commands = dict(re.findall(r"`((?:uvicorn|gunicorn) service\.(asgi|wsgi).*?)`", PAGE)[::1])
    command = next(each for each, kind in commands.items() if kind == interface)
    port = free_port()
    at = ["--port", str(port)] if interface == "asgi" else ["--bind", f"127.0.0.1:{port}"]
    it_serves_flags(any_redis, tmp_path, port, [*command.split(), *at])


def it_serves_flags(redis: RedisServer, directory: Path, port: int, command: list[str]) -> None:
    settings = {"NAME": "a", "HTTP": f"127.0.0.1:{port}", "REDIS": redis.url}
    environ = {f"REPLICATOR_{name}": value for name, value in settings.items()}
    process = Process(command, port, environ, directory / "out", directory=directory)
    try:
        eventually(lambda: (process.answers() or {}).get("leads"))
        # when
        with browser() as client:
            written = client.put(f"{process.url}/flags/dark", params={"on": "true"})
            # then
            assert (written.status_code, written.json()) == (200, {"on": True}), written.text
            assert client.get(f"{process.url}/flags/dark").json() == {"on": True}
            # and a write with a key lands once
            for on, status in (("false", 200), ("false", 200), ("true", 422)):
                headers = {"Idempotency-Key": '"8e03978e"'}
                answer = client.put(f"{process.url}/flags/dark", params={"on": on}, headers=headers)
                assert answer.status_code == status, answer.text
            # and one that is malformed is refused
            answer = client.put(
                f"{process.url}/flags/dark", params={"on": "true"}, headers={"Idempotency-Key": "8e03978e"}
            )
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_header"), answer.text
            assert (process.answers() or {})["primary_http"] == process.url
    finally:
        process.kill()


def _got(url: str) -> httpx.Response | None:
    try:
        return plain_http.get(url, timeout=PATIENCE_S)
    except httpx.TransportError:
        return None
