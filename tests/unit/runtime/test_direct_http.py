"""What asks a node or a program asks that one: no proxy of the environment, and no further than it was told."""

from __future__ import annotations

import http.server
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from replicator.workers import healthcheck

from replicator.cli.node_http import NodeHttp
from replicator.errors import LogUnavailable
from replicator.node.url_proof import prove
from replicator.protocol.group import GroupView
from replicator.runtime.direct_http import ask
from replicator.service.run import checking
from tests.support.kv import PATIENCE_S


class Server(http.server.ThreadingHTTPServer):
    """Answers, and notes what it was asked for. `/moved` leads to `/`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(302 if self.path == "/moved" else 200)
        self.send_header("Location", "/")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server
        server.shutdown()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield proxy
        proxy.shutdown()


def _with_a_token(url: str, directory: Path) -> None:
    file = directory / "token"
    file.write_text("a-token-of-sixteen-characters-or-more\n")
    file.chmod(0o600)
    with NodeHttp(file, [url]).open(urllib.request.Request(f"{url}/live"), 30.0, how="--to"):
        pass


def _by_the_health_check(url: str, directory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPLICATOR_HTTP", url.removeprefix("http://"))
        patch.setenv("REPLICATOR_DATA_DIR", str(directory))
        patch.setattr(healthcheck, "ANSWERED", directory / "answered")
        patch.setattr(healthcheck, "ANSWER_S", PATIENCE_S)
        assert healthcheck.main("live") == 0


def _by_a_proof(url: str, directory: Path) -> None:
    def away() -> GroupView:
        raise LogUnavailable(url="redis://x", problem="away")

    with pytest.raises(LogUnavailable):  # once it was asked
        prove(away, "a", "a1", url, within_s=PATIENCE_S)


def _by_a_check(url: str, directory: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "ANSWER_WITHIN_S", PATIENCE_S)
        assert checking.question(f"{url}/live")() == ""


@pytest.mark.parametrize("asks", [_with_a_token, _by_the_health_check, _by_a_proof, _by_a_check])
def test_no_proxy_hears_of_it(server: Server, proxy: Server, tmp_path: Path, asks: Callable[[str, Path], Any]) -> None:
    asks(server.url, tmp_path)
    assert (server.asked, proxy.asked) == (["/live"], [])


def test_a_redirect_is_followed_where_that_is_wanted_and_else_is_the_answer(server: Server) -> None:
    with ask(f"{server.url}/moved", timeout_s=30.0, follow=True) as answer:
        assert answer.status == 200
    assert server.asked == ["/moved", "/"]
    with pytest.raises(urllib.error.HTTPError) as raised:
        ask(f"{server.url}/moved", timeout_s=30.0, follow=False)
    raised.value.close()
    assert raised.value.code == 302
    assert server.asked == ["/moved", "/", "/moved"]
