"""What our processes write to stderr: the form that was asked for, and no password."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from replicator.sandbox.free_ports import free_ports
from replicator.sandbox.redis_server import RedisServer
from tests.conftest import RedisFactory
from tests.support.kv import PATIENCE_S, eventually

SECRET = "corr3ct-horse"

Start = Callable[..., Path]


@pytest.fixture
def redis(redis_factory: RedisFactory) -> RedisServer:
    return redis_factory(config={"requirepass": SECRET})


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a module of ours; the file that has its stderr."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(module: str, url: str, **environment: str) -> Path:
        path = tmp_path / f"{module}.log"
        settings = {"REPLICATOR_REDIS": url, "REPLICATOR_GROUP": "g", **environment}
        with path.open("w") as log:
            command = [sys.executable, "-m", f"replicator.workers.{module}"]
            processes.append(subprocess.Popen(command, env={**os.environ, **settings}, stderr=log))
        return path

    yield start
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        assert process.wait(PATIENCE_S) in (0, 6)


@pytest.mark.parametrize(
    "command",
    [["uvicorn", "--log-config"], ["gunicorn", "--worker-class", "asgi", "--log-config-json"]],
    ids=lambda c: c[0],
)
def test_servers_write_the_same_lines_with_the_file_of_the_document(command: list[str], tmp_path: Path) -> None:
    # given the file that the document shows
    text = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()
    [config] = re.findall(r"```json\n(\{\n.*?)```", text, re.DOTALL)
    (tmp_path / "log.json").write_text(config)
    (tmp_path / "service.py").write_text("async def app(scope, receive, send):\n    raise NotImplementedError\n")
    # when a server runs with it
    [port] = free_ports(1)
    bind = ["--port", str(port)] if command[0] == "uvicorn" else ["--bind", f"127.0.0.1:{port}"]
    path = tmp_path / "server.log"
    with path.open("w") as log:
        words = [sys.executable, "-m", *command, "log.json", *bind, "service:app"]
        process = subprocess.Popen(words, cwd=tmp_path, stderr=log, stdout=log)
    eventually(lambda: path.read_text().count("\n") >= 3 or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE_S)
    # then every line of it is an object
    loggers = {line["logger"] for line in lines(path)}
    assert loggers & {"uvicorn.error", "gunicorn.error"}, path.read_text()


SERVICE = """
from replicator import DictState, Node
from replicator.testing import MemoryLog, MemoryRedis
from replicator.web.asgi import Replicated

async def nothing(scope, receive, send):
    raise NotImplementedError

node = Node.from_env(DictState(), log=MemoryLog(MemoryRedis(), "g"), auto_promote=True)
app = Replicated(nothing, node=node)
"""


def test_a_service_that_says_nothing_of_logging_writes_what_its_environment_asks_for(tmp_path: Path) -> None:
    # given a service of ours without a line about logging
    (tmp_path / "service.py").write_text(SERVICE)
    path, [port] = tmp_path / "server.log", free_ports(1)
    settings = {"REPLICATOR_NAME": "a", "REPLICATOR_GROUP": "g", "REPLICATOR_LOG_FORMAT": "json"}
    # when uvicorn runs it
    with path.open("w") as log:
        words = [sys.executable, "-m", "uvicorn", "--port", str(port), "service:app"]
        environment = {**os.environ, **settings}
        process = subprocess.Popen(words, cwd=tmp_path, stderr=log, stdout=log, env=environment)
    eventually(lambda: "node.leads" in path.read_text() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    process.wait(PATIENCE_S)
    # then every line is an object, of the node and of uvicorn
    told = lines(path)
    assert "uvicorn.error" in {line["logger"] for line in told}
    assert "node.leads" in {line.get("event") for line in told}


def with_password(redis: RedisServer, password: str) -> str:
    scheme, _, rest = redis.url.partition("://")
    return f"{scheme}://:{password}@{rest}"


def node(tmp_path: Path, **more: str) -> dict[str, str]:
    [port] = free_ports(1)
    data_dir = str(tmp_path / "data")
    return {"REPLICATOR_NAME": "a", "REPLICATOR_DATA_DIR": data_dir, "REPLICATOR_HTTP": f"127.0.0.1:{port}", **more}


def lines(path: Path) -> list[dict[str, Any]]:
    """Those that are whole: of a process that runs, the last one may be under way."""
    return [orjson.loads(line) for line in path.read_text().rpartition("\n")[0].splitlines()]


def test_a_node_without_a_terminal_writes_json_and_uvicorn_in_it_as_well(
    redis: RedisServer, start: Start, tmp_path: Path
) -> None:
    path = start("node", with_password(redis, SECRET), **node(tmp_path))
    told = eventually(lambda: "service.started" in path.read_text() and lines(path))
    assert {line["node"] for line in told} == {"a"}
    [uvicorn] = [line for line in told if line["logger"] == "uvicorn.error"]
    assert (uvicorn["group"], uvicorn["boot"]) == ("g", told[0]["boot"])


def test_a_job_worker_writes_json_and_rq_in_it_as_well(redis: RedisServer, start: Start) -> None:
    path = start("jobs", with_password(redis, SECRET))
    told = eventually(lambda: "istening on" in path.read_text() and lines(path))
    assert {line["group"] for line in told} == {"g"}
    assert "rq.worker" in {line["logger"] for line in told}


@pytest.mark.parametrize("module", ["node", "jobs"])
@pytest.mark.parametrize("format_", ["console", "json"])
def test_no_password_is_ever_written(
    redis: RedisServer, start: Start, tmp_path: Path, module: str, format_: str
) -> None:
    # given a process that tells all it can, with a password that is wrong, and then a Redis that is away
    settings = {"REPLICATOR_LOG_LEVEL": "DEBUG", "REPLICATOR_LOG_FORMAT": format_}
    more = node(tmp_path, **settings) if module == "node" else settings
    path = start(module, with_password(redis, "wr0ng-horse"), **more)
    eventually(lambda: "WRONGPASS" in path.read_text() or "password" in path.read_text())
    redis.stop()
    eventually(lambda: "not available" in path.read_text())
    # then it has told neither
    text = path.read_text()
    assert "horse" not in text


@pytest.mark.parametrize("module", ["node", "jobs"])
def test_a_format_that_is_none_ends_the_process(redis: RedisServer, tmp_path: Path, module: str) -> None:
    settings = {"REPLICATOR_REDIS": redis.url, "REPLICATOR_GROUP": "g", "REPLICATOR_LOG_FORMAT": "yaml"}
    command = [sys.executable, "-m", f"replicator.workers.{module}"]
    environment = {**os.environ, **settings, **node(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert "yaml" in done.stderr
    assert "json" in done.stderr
