"""What a proxy counts: each request once, by what became of it; what waits, and for how long; what it keeps."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from replicator.metrics.catalogue import METRICS
from replicator.metrics.histogram import Histogram
from replicator.service.proxy.body import ClientGone
from replicator.service.proxy.measures import Measures, Waiting, outcome_of
from replicator.service.proxy.websocket import WebSocketProxy
from replicator.web.failures import Refusal
from tests.support.kv import PATIENCE_S, eventually, in_thread

from .conftest import LARGE, FakeNode, Program, Site, ask, ok


def counted(measures: Measures) -> dict[str, float]:
    """The outcomes that there were."""
    requests: Any = measures.values()["replicator_proxy_requests_total"]
    return {outcome: count for outcome, count in requests.items() if count}


def waits(measures: Measures) -> Histogram:
    found = measures.values()["replicator_proxy_wait_seconds"]
    assert isinstance(found, Histogram)
    return found


def test_a_request_counts_once_by_what_became_of_it(site: Site) -> None:
    here = site.proxy()
    measures = site.measures
    assert set(measures.values()) == {name for name in METRICS if "_proxy_" in name}
    # of a primary
    for method in ("GET", "POST"):
        ask(here, method)
    assert counted(measures) == {"here": 2}
    site.target.does = lambda asked: None
    assert ask(here, "POST").json()["error"] == "outcome_unknown"
    assert counted(measures) == {"here": 2, "unknown": 1}
    where = urlsplit(here)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=6 * PATIENCE_S) as connection:
        connection.sendall(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 400")
    assert counted(measures) == {"here": 2, "unknown": 1, "refused": 1}
    # of a standby: by its own program, by the primary's proxy, by nobody
    site.target.does = lambda asked: ok()
    standby = FakeNode()
    standby.follows(here)
    there = site.proxy(standby, reads="local")
    of_standby = site.measures
    for method in ("GET", "POST"):
        ask(there, method)
    assert ask(there, "POST", headers={"Authorization": "Bearer t"}).json()["error"] == "primary_unnamed"
    assert counted(of_standby) == {"standby": 1, "forwarded": 1, "refused": 1}
    assert waits(of_standby).count == 0
    # when nobody leads for longer than it may wait
    standby.follows("", is_proven=False)
    assert ask(site.proxy(standby, wait_s=0.05), "POST").json()["error"] == "not_primary"
    assert (counted(site.measures), waits(site.measures).count) == ({"gave_up": 1}, 1)
    assert waits(site.measures).sum >= 0.05
    # when the node is about to stop, which is nobody's trouble
    stops = site.proxy(standby)
    site.place.is_closing = True
    assert ask(stops, "POST").json()["error"] == "not_primary"
    assert counted(site.measures) == {"refused": 1}


def test_what_waits_and_is_kept_is_seen_while_it_is(site: Site) -> None:
    node = site.node
    node.program_term, node.leads = 0, False
    url = site.proxy()
    measures = site.measures
    answer = in_thread(lambda: ask(url, "POST", content=b"body"), patience_s=6 * PATIENCE_S)
    eventually(lambda: measures.values()["replicator_proxy_waiting"] == 1)
    assert measures.values()["replicator_proxy_body_bytes"] == 4
    node.program_term, node.leads = 5, True
    assert answer().status_code == 200
    eventually(lambda: measures.values()["replicator_proxy_body_bytes"] == 0)
    assert measures.values()["replicator_proxy_waiting"] == 0
    assert (counted(measures), waits(measures).count) == ({"here": 1}, 1)
    # of a large body no more than what is kept of any, and nothing once its client has left
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0)) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123")
        eventually(lambda: measures.values()["replicator_proxy_body_bytes"] == 3)
    eventually(lambda: counted(measures) == {"here": 1, "client_left": 1})
    eventually(lambda: measures.values()["replicator_proxy_body_bytes"] == 0)
    assert ask(url, "POST", content=LARGE).status_code == 200


def test_websockets_count_while_they_are_open(site: Site) -> None:
    site.target.close()
    with Program(site.target_port).server:
        url = site.proxy(app=WebSocketProxy).replace("http", "ws")
        measures = site.measures
        with connect(f"{url}/socket", proxy=None, open_timeout=6 * PATIENCE_S) as open_one:
            open_one.send("hello")
            open_one.recv()
            assert measures.values()["replicator_proxy_websockets"] == 1
        eventually(lambda: measures.values()["replicator_proxy_websockets"] == 0)
        assert counted(measures) == {"here": 1}
        # one that the program denies is answered by it
        with pytest.raises(InvalidStatus), connect(f"{url}/denied", proxy=None, open_timeout=6 * PATIENCE_S):
            pass
        assert counted(measures) == {"here": 2}


@pytest.mark.parametrize("gives_up", [False, True])
def test_the_wait_is_over_when_a_program_is_asked_that_takes_it(gives_up: bool) -> None:
    now, measures = [0.0], Measures()
    with Waiting(measures, lambda: now[0]) as waiting:
        waiting.tries()
        now[0] += 1.0  # a connection that is refused is no wait: that begins now
        waiting.begins()
        now[0] += 2.0
        waiting.tries()
        now[0] += 4.0
        if gives_up:
            waiting.begins()
    assert waits(measures).sum == (6.0 if gives_up else 2.0)


def test_an_outcome_by_its_error() -> None:
    assert outcome_of(ClientGone()) == "client_left"
    assert outcome_of(Refusal(502, "no_answer", "")) == "no_answer"
    assert outcome_of(Refusal(503, "busy", "")) == "refused"
    assert outcome_of(ZeroDivisionError()) == "failed"
