"""The WSGI shell: the node's life in the process that serves, and what frameworks do with it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask

from replicator import ConfigError, DirectoryInUse, Node
from replicator.errors import ChangeRejected, NotPrimary, ReplicatorError
from replicator.runtime.request_writes import CURRENT, NOTED
from replicator.testing import MemoryLog, MemoryRedis
from replicator.web.wsgi import Replicated, answer
from tests.support.forking import in_child
from tests.support.kv import KV
from tests.support.sites import FakeNode, standby


def hello(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def asked(app: Any, method: str, url: str, **more: Any) -> httpx.Response:
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://site") as client:
        return client.request(method, url, **more)


# --- The node's life --------------------------------------------------------------------------------------------------


def test_the_node_starts_with_the_application_and_stops_when_it_is_closed() -> None:
    node = FakeNode()
    app = Replicated(hello, node=node)
    assert node.life == ["start"]
    assert asked(app, "GET", "/").text == "hello"
    app.close()
    app.close()
    assert node.life == ["start", "stop"]


def test_a_node_that_runs_already_is_somebody_elses() -> None:
    for node, options in ((FakeNode(boot="boot"), {}), (FakeNode(), {"start": False})):
        Replicated(hello, node=node, **options).close()  # type: ignore[arg-type]
        assert node.life == []


def test_a_second_worker_is_told_that_there_is_one(tmp_path: Path) -> None:
    node = FakeNode(refuses_to_start=DirectoryInUse(path=tmp_path, who="process 7"))
    with pytest.raises(ConfigError, match=r"workers: .*process 7 is using it.*a node is one process.*--workers 1"):
        Replicated(hello, node=node)


def test_a_second_node_on_the_directory_of_the_first_is_refused(tmp_path: Path) -> None:
    def app() -> Replicated:
        log = MemoryLog(MemoryRedis())
        return Replicated(hello, node=Node(KV(), group="g", name="a", log=log, data_dir=tmp_path, http="http://a"))

    first = app()
    with pytest.raises(ConfigError, match="a node is one process"):
        app()
    first.close()


def test_a_node_that_was_stopped_is_not_served(tmp_path: Path) -> None:
    node = Node(KV(), group="g", name="a", log=MemoryLog(MemoryRedis()), data_dir=tmp_path, http="http://a")
    Replicated(hello, node=node).close()
    with pytest.raises(ConfigError, match="node: a was stopped, and no node starts twice"):
        Replicated(hello, node=node)


def test_a_child_that_puts_the_application_together_around_the_node_of_its_parent_is_refused(tmp_path: Path) -> None:
    node = Node(KV(), group="g", name="a", log=MemoryLog(MemoryRedis()), data_dir=tmp_path, http="http://a")

    def build() -> str:
        with pytest.raises(ConfigError) as error:
            Replicated(hello, node=node)
        return str(error.value)

    assert "without --preload" in in_child(build)


PROGRAM = """
from replicator.web.wsgi import Replicated
class Node:
    name = "a"; boot = ""; http = "http://a"
    def start(self): print("start")
    def stop(self): print("stop")
Replicated(None, node=Node())
{then}
"""


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("", ["start", "stop"]),
        ("raise SystemExit(0)", ["start", "stop"]),
        ("import os, sys; sys.stdout.flush(); os.fork() or sys.exit(); os.wait()", ["start", "stop"]),
    ],
)
def test_the_end_of_the_process_stops_the_node_and_that_of_a_child_does_not(then: str, said: list[str]) -> None:
    program = [sys.executable, "-c", PROGRAM.format(then=then)]
    assert subprocess.run(program, check=True, capture_output=True, text=True).stdout.split() == said


def test_the_middleware_needs_no_package_of_the_extras() -> None:
    names = {"starlette", "anyio", "httpx", "flask", "uvicorn"}
    code = f"import sys; import replicator.web.wsgi; print(sorted({names} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


# --- Requests ---------------------------------------------------------------------------------------------------------


def test_an_error_of_flask_is_handed_to_the_middleware() -> None:
    node = FakeNode()
    app = Flask("app")
    app.wsgi_app = Replicated(app.wsgi_app, node=node, start=False)  # type: ignore[method-assign]
    app.register_error_handler(ReplicatorError, answer)

    @app.post("/flags")
    def set_flag() -> str:
        raise ChangeRejected("no such flag", field="name")

    @app.post("/deposed")
    def deposed() -> str:
        node.role, node.leads, node.primary_http = "standby", False, "http://b:7002"
        raise NotPrimary(node="a")

    found = asked(app, "POST", "/flags")
    assert (found.status_code, found.headers["content-type"]) == (422, "application/problem+json")
    assert (found.json()["error"], found.headers["replicator-role"]) == ("rejected", "primary")
    assert asked(app, "POST", "/deposed?x").headers["location"] == "http://b:7002/deposed?x"
    assert asked(app, "GET", "/nothing").headers["replicator-position"] == "5-1042"


def test_an_error_of_flask_without_the_middleware_stays_what_it_is() -> None:
    app = Flask("app")
    app.register_error_handler(ReplicatorError, answer)

    @app.get("/")
    def fails() -> str:
        raise ChangeRejected("no such flag")

    app.testing = True
    with pytest.raises(ChangeRejected):
        app.test_client().get("/")


def test_an_application_that_is_a_generator_is_stamped_and_its_errors_are_answered() -> None:
    closed = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        try:
            if environ["PATH_INFO"] == "/fails":
                raise ChangeRejected("no")
            start_response("200 OK", [])
            yield b"in "
            yield b"parts"
        finally:
            closed.append(environ["PATH_INFO"])

    site = Replicated(app, node=FakeNode(), start=False)
    whole = asked(site, "GET", "/")
    assert (whole.text, whole.headers["replicator-term"]) == ("in parts", "5")
    assert asked(site, "GET", "/fails").json()["error"] == "rejected"
    assert closed == ["/", "/fails"]


def test_a_generator_that_has_written_is_not_to_be_made_again() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        with NOTED:
            node.role, node.leads, node.primary_http = "standby", False, "http://b:7002"
        raise NotPrimary(node="a")
        yield b""

    node = FakeNode()
    assert asked(Replicated(app, node=node, start=False), "POST", "/").json()["error"] == "outcome_unknown"
    assert CURRENT.get() is None


def test_the_body_of_a_write_that_is_sent_elsewhere_is_read_to_its_end() -> None:
    class Body:
        def __init__(self) -> None:
            self.left = 200_000

        def read(self, size: int) -> bytes:
            size = min(size, self.left)
            self.left -= size
            return b"x" * size

    body, statuses = Body(), []
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "wsgi.input": body, "CONTENT_LENGTH": "200000"}
    app = Replicated(hello, node=standby(), start=False)
    list(app(environ, lambda status, headers, *_: statuses.append(status)))  # type: ignore[arg-type, return-value]
    assert (body.left, statuses) == (0, ["307 Temporary Redirect"])


@pytest.mark.parametrize(
    ("environ", "location"),
    [
        ({"RAW_URI": "/a%2Fb?x=%20"}, "/a%2Fb?x=%20"),
        ({"REQUEST_URI": "/a%2Fb?x=%20"}, "/a%2Fb?x=%20"),
        # the path of the application itself is in the http= of the primary, if it is anywhere
        ({"REQUEST_URI": "/app/a%2Fb?x=%20"}, "/a%2Fb?x=%20"),
        ({"REQUEST_URI": "/apple"}, "/apple?x=%20"),
        ({"SCRIPT_NAME": "/a b", "REQUEST_URI": "/a%20b/c"}, "/c?x=%20"),
        ({"RAW_URI": "http://elsewhere/a"}, "/a%20b/%C3%A9?x=%20"),
        ({}, "/a%20b/%C3%A9?x=%20"),
    ],
)
def test_the_path_stays_what_it_was_where_the_server_tells(environ: dict[str, str], location: str) -> None:
    seen: list[Any] = []
    environ = {
        "REQUEST_METHOD": "POST", "SCRIPT_NAME": "/app", "PATH_INFO": "/a b/\u00c3\u00a9", "QUERY_STRING": "x=%20",
        "wsgi.input": None,
    } | environ  # fmt: skip
    app = Replicated(hello, node=standby(), start=False)
    list(app(environ, lambda status, headers, *_: seen.extend(headers)))  # type: ignore[arg-type, return-value]
    assert dict(seen)["Location"] == f"http://b:7002{location}"
