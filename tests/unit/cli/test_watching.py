"""What `status --watch` makes of one look after the other, and of a Redis that is away."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from replicator.cli.watching import LAGS_KEPT, Health, Watch, asked_over_http
from tests.support.kv import PATIENCE_S
from tests.support.statuses import WELL, A, B


def texts(events: Any) -> list[str]:
    return [event.text for event in events]


def test_it_begins_with_how_things_are() -> None:
    assert texts(Watch.begun(WELL, 0.0).events) == ["a leads in term 3"]
    dead = replace(WELL, nodes=[replace(A, leads=False, alive=False)], codes=["not_reporting", "paused"])
    assert texts(Watch.begun(dead, 0.0).events) == ["no node leads; the term is 3", "group: paused"]


def test_events_are_what_differs() -> None:
    watch = Watch.begun(WELL, 0.0)
    assert watch.saw(WELL, 1.0) == []
    dead = replace(A, alive=False, leads=False, codes=["not_reporting"])
    assert texts(watch.saw(replace(WELL, nodes=[dead, B]), 2.0)) == ["a does not report", "a does not lead any more"]
    leads = replace(B, leads=True, role="primary", term=4)
    follows = replace(A, boot="a2", leads=False, role="standby", codes=["out_of_sync"])
    assert texts(watch.saw(replace(WELL, term=4, holder="b", nodes=[follows, leads]), 3.0)) == [
        "b took term 4; a held term 3", "a reports again", "a was restarted", "a is not ready: out_of_sync",
        "b leads in term 4",
    ]  # fmt: skip
    assert texts(watch.saw(replace(WELL, run="r2", term=4, holder="b", nodes=[leads], codes=["paused"]), 4.0)) == [
        "Redis is in another run", "a is forgotten", "group: paused",
    ]  # fmt: skip


def test_while_redis_is_away_the_last_look_is_kept_and_the_nodes_speak_for_themselves() -> None:
    watch = Watch.begun(WELL, 0.0)
    leads = Health(node="a", http="http://a", answers=True, leads=True, ready=True)
    assert texts(watch.missed("refused", {"a": leads}, 1.0)) == ["Redis is away; the nodes are asked over HTTP"]
    assert (watch.status, watch.away, watch.away_since) == (WELL, "refused", 1.0)
    assert texts(watch.missed("refused", {"a": replace(leads, leads=False)}, 2.0)) == ["a does not lead any more"]
    gone = {"a": Health(node="a", http="http://a", answers=False)}
    assert texts(watch.missed("refused", gone, 3.0)) == ["a does not answer over HTTP"]
    assert texts(watch.saw(WELL, 31.0)) == ["Redis is back, after 30 s"]
    assert (watch.away, watch.healths) == ("", {})


def test_lags_are_kept_by_the_second_the_greatest_of_each() -> None:
    watch = Watch.begun(WELL, 0.0)
    for at, lag in ((0.5, 7), (1.0, 3), (1.5, None), (2.0, None)):
        watch.saw(replace(WELL, nodes=[A, replace(B, lag_records=lag)]), at)
    assert list(watch.lags["b"]) == [7, 3, None]
    for at in range(3, 100):
        watch.saw(WELL, float(at))
    assert len(watch.lags["b"]) == LAGS_KEPT


class _Node(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({
            "node": "a", "role": "primary", "leads": True, "ready": False, "term": 3, "position": "3-9", "problem": "p",
        }).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Node)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_nodes_are_asked_at_the_urls_that_they_told(url: str) -> None:
    nodes = [replace(A, http=url), replace(B, http=url), replace(B, node="c", http=None)]
    seen = replace(WELL, nodes=[*nodes, replace(B, node="d", http="http://127.0.0.1:1")])
    told = asked_over_http(seen, timeout_s=PATIENCE_S)
    assert told["a"] == Health(
        node="a", http=url, answers=True, role="primary", leads=True, ready=False, term=3, position="3-9", problem="p"
    )
    assert (told["b"].answers, told["b"].problem) == (False, f"another node answers at {url}: a")
    assert (told["c"].answers, told["c"].problem) == (False, "it told no URL")
    assert not told["d"].answers
    assert "no answer at http://127.0.0.1:1 (Connection refused)" in (told["d"].problem or "")
