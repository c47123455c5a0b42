"""How commands ask nodes: who gets to see the token."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from replicator.cli.node_http import ANYBODY, NodeHttp
from replicator.errors import ConfigError

TOKEN = "t" * 32


class Place:
    """A server that notes who shows it what, and sends all on to `onward`, if there is such."""

    def __init__(self, onward: str = "") -> None:
        self.shown: list[str | None] = []
        place = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                place.shown.append(self.headers["Authorization"])
                self.send_response(302 if onward else 200)
                self.send_header("Location", onward)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def serving(onward: str = "") -> Iterator[Place]:
    place = Place(onward)
    thread = threading.Thread(target=place.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield place
    place.server.shutdown()
    place.server.server_close()
    thread.join()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    return path


def ask(asks: NodeHttp, url: str) -> int:
    with asks.open(urllib.request.Request(f"{url}/health"), 20, how="name it") as answer:
        return int(answer.status)


def test_a_named_node_is_shown_it_and_no_other(token_file: Path) -> None:
    with serving() as named, serving() as other:
        asks = NodeHttp(token_file, [named.url])
        assert ask(asks, named.url) == 200
        with pytest.raises(ConfigError, match="is not sent to"):
            ask(asks, other.url)
        assert ask(ANYBODY, other.url) == 200
    assert (named.shown, other.shown) == ([f"Bearer {TOKEN}"], [None])


def test_where_a_named_node_sends_the_question_on_it_is_not_shown(token_file: Path) -> None:
    with serving() as other, serving(f"{other.url}/health") as named:
        assert ask(NodeHttp(token_file, [named.url]), named.url) == 200
    assert (named.shown, other.shown) == ([f"Bearer {TOKEN}"], [None])
