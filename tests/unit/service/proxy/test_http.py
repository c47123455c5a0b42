"""Requests through a proxy, over real connections."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from replicator.errors import NotPrimary, PositionLost
from replicator.service.proxy import http
from replicator.service.sidecar import Publication
from tests.support.kv import PATIENCE_S, eventually, in_thread

from .conftest import LARGE, FakeNode, Site, ask, lines, ok


def raw(url: str, sent: bytes) -> bytes:
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=6 * PATIENCE_S) as connection:
        connection.sendall(sent)
        return connection.recv(65536)


def test_a_write_is_passed_as_it_came_and_published_before_it_is_answered(site: Site) -> None:
    # given a program, and a publication that takes its time
    url, goes_on = site.proxy(), threading.Event()

    def publish() -> Publication:
        goes_on.wait()
        return Publication("5-9", "")

    site.node.publish = publish
    site.target.does = lambda asked: ok(b"kept", "201 Created")
    # when
    origin = b"X-Real-IP: 9\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\n"
    head = b"POST /a%20b/../c?x=%7e&y HTTP/1.1\r\nHost: notes\r\nContent-Length: 4\r\n" + origin
    answer = in_thread(lambda: raw(url, head + b"\r\nbody"), patience_s=6 * PATIENCE_S)
    eventually(lambda: site.target.asked)
    # then the program got it byte for byte, with the address of the client
    [asked] = site.target.asked
    assert asked.startswith(b"POST /a%20b/../c?x=%7e&y HTTP/1.1\r\n")
    assert asked.endswith(b"\r\n\r\nbody")
    told = {b"host: notes", b"x-forwarded-for: 127.0.0.1", b"x-forwarded-host: notes", b"x-forwarded-proto: http"}
    assert told <= set(lines(asked))
    assert not any(line.startswith((b"x-real-ip", b"replicator-")) for line in lines(asked))
    # and the client its answer after that was published, with the position
    goes_on.set()
    said = answer()
    assert said.startswith(b"HTTP/1.1 201")
    assert b"replicator_position=5-9; Max-Age=3600; Path=/; HttpOnly" in said
    assert b"replicator-position: 5-9" in said.lower()
    # a read is not published
    site.node.publish = lambda: 1 / 0  # type: ignore[assignment, return-value]
    read = ask(url)
    assert (read.text, "set-cookie" in read.headers) == ("kept", False)


def test_a_write_whose_publication_is_not_known_is_not_answered_by_the_program(site: Site) -> None:
    url = site.proxy(wait_s=0.2)
    # not published within the limit
    site.node.publish = lambda: Publication("", "the log does not answer")
    answer = ask(url, "POST")
    assert (answer.status_code, answer.json()["error"]) == (504, "outcome_unknown")
    assert "the log does not answer" in answer.json()["detail"]

    # published, and the node led in another term by then
    def publish() -> Publication:
        site.node.term = 6
        return Publication("6-1", "")

    site.node.publish = publish
    assert (ask(url, "POST").status_code, len(site.target.asked)) == (504, 2)
    site.node.term = 5
    # when nobody wants it published, the lease counts all the same
    site.node.publish = lambda: Publication("", "not asked")
    url = site.proxy(publish=False)
    assert "set-cookie" not in ask(url, "POST").raise_for_status().headers

    def loses_the_lease(asked: bytes) -> bytes:
        site.node.leads = False
        return ok()

    site.target.does = loses_the_lease
    assert ask(url, "POST").json()["error"] == "outcome_unknown"


def test_an_error_after_a_write_never_says_that_nothing_was_written(site: Site) -> None:
    def publish() -> Publication:
        raise NotPrimary(node="a")

    site.node.publish = publish
    answer = ask(site.proxy(), "POST")
    assert (answer.status_code, answer.json()["error"], len(site.target.asked)) == (500, "internal", 1)
    assert not {"replicator-refused", "retry-after"} & set(answer.headers)


def test_a_program_that_answers_before_it_writes_is_given_time(site: Site) -> None:
    times: list[float] = []

    def noted() -> Publication:
        times.append(time.monotonic())
        return Publication("5-7", "")

    def does(asked: bytes) -> bytes:
        times.append(time.monotonic())
        return ok()

    site.node.publish, site.target.does = noted, does
    ask(site.proxy(settle_s=0.1), "POST").raise_for_status()
    answered_at, published_at = times
    assert published_at - answered_at >= 0.09


def test_what_is_safe_is_repeated_and_what_is_not_is_sent_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "HOLD_READ_S", PATIENCE_S)  # nothing goes out before it is known whether it is whole
    url = site.proxy()
    # a connection that breaks, an answer that breaks off
    answers = [None, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", ok(b"whole")]
    site.target.does = lambda asked: answers.pop(0)
    assert ask(url).text == "whole"
    assert len(site.target.asked) == 3
    # writes that break, whichever these are
    site.target.does = lambda asked: None
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = ask(url, method, headers={"Idempotency-Key": '"k"'}, content=b"x")
        assert (answer.status_code, answer.json()["error"]) == (502, "outcome_unknown")
    assert len(site.target.asked) == 7
    assert b'idempotency-key: "k"' in lines(site.target.asked[-1])


def test_a_program_that_takes_too_long_is_asked_once(site: Site) -> None:
    url, goes_on = site.proxy(timeout_s=0.2), threading.Event()
    site.target.does = lambda asked: ok() if goes_on.wait() else None
    assert [ask(url, "GET").json()["error"], ask(url, "POST").json()["error"]] == ["no_answer", "outcome_unknown"]
    goes_on.set()
    # on a machine that stood still, less than once
    assert len(site.target.asked) <= 2
    assert len({asked.partition(b" ")[0] for asked in site.target.asked}) == len(site.target.asked)


def test_requests_wait_for_a_program_that_takes_them(site: Site) -> None:
    # given a node that does not lead, and no program
    site.target.close()
    site.node.program_term, site.node.leads = 0, False
    url = site.proxy()
    answers = [in_thread(lambda method=method: ask(url, method, content=LARGE), patience_s=6 * PATIENCE_S)
               for method in ("GET", "POST")]  # fmt: skip
    # when it leads, and its program is started after that
    site.node.program_term, site.node.leads = 5, True
    site.start(lambda asked: ok(b"%d" % len(asked.partition(b"\r\n\r\n")[2])))
    assert [answer().text for answer in answers] == [str(len(LARGE))] * 2
    # when it takes too long
    site.node.program_term = 0
    late = ask(site.proxy(wait_s=0.05), "POST")
    assert (late.status_code, late.json()["error"], late.headers["retry-after"]) == (503, "not_primary", "1")
    assert late.headers["replicator-refused"] == "not_primary"


def test_a_client_that_sends_slowly_reaches_no_program_that_may_not_lead_by_then(site: Site) -> None:
    # given a request that a program would take, of which not all is here
    node = site.node
    where = urlsplit(site.proxy(wait_s=0))
    with socket.create_connection((where.hostname or "", where.port or 0), timeout=6 * PATIENCE_S) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo")
        eventually(lambda: site.measures.values()["replicator_proxy_body_bytes"] == 2)
        # then no switchover waits for it
        assert node.requests.are_answered()
        # when the rest comes after the lease is over
        node.program_term, node.leads = 0, False
        connection.sendall(b"dy")
        assert connection.recv(65536).startswith(b"HTTP/1.1 503")
    assert site.target.asked == []


def test_a_standby_passes_it_to_the_proxy_of_the_primary_that_has_proven_itself(site: Site) -> None:
    # given a primary, and a standby that does not know whether it is one
    there = site.proxy()
    b = FakeNode()
    b.name = "b"
    b.follows(there, is_proven=False)
    here = site.proxy(b)
    answer = in_thread(lambda: ask(here, "POST", "/x", content=b"body"), patience_s=6 * PATIENCE_S)
    assert ask(site.proxy(b, wait_s=0.05), "POST").json()["error"] == "primary_unreachable"
    assert not site.target.asked
    # when it has proven itself
    b.proven = {there}
    assert answer().headers["replicator-position"] == "5-7"
    [asked] = site.target.asked
    assert asked.endswith(b"body")
    assert b"x-forwarded-for: 127.0.0.1" in lines(asked)
    # one with a token goes only to whom somebody named
    token = {"Authorization": "Bearer t"}
    assert ask(here, headers=token).json()["error"] == "primary_unnamed"
    assert ask(site.proxy(b, to=(there,)), headers=token).text == "ok"
    assert ask(site.proxy(b, to=("http://127.0.0.1:1",))).json()["error"] == "primary_unnamed"
    assert len(site.target.asked) == 2


def test_what_came_to_the_wrong_proxy_goes_to_the_right_one_later(site: Site) -> None:
    # given two nodes of which neither leads, and one takes the other for the primary
    there = site.proxy(wait_s=0)
    site.node.follows("", is_proven=False)
    b = FakeNode()
    b.follows(there)
    refused = ask(there, "POST", headers={"Replicator-Forwarded": "b"})
    assert (refused.status_code, refused.headers["replicator-refused"]) == (503, "not_primary")
    small = in_thread(lambda: ask(site.proxy(b), "POST", content=b"small"), patience_s=6 * PATIENCE_S)
    # a large body has been read by then
    assert ask(site.proxy(b), "POST", content=LARGE).json()["error"] == "not_primary"
    # when the other one leads
    site.node.role, site.node.leads, site.node.program_term = "primary", True, 5
    assert small().text == "ok"
    assert [asked[-5:] for asked in site.target.asked] == [b"small"]


def test_nobody_waits_for_the_answer_of_a_machine_that_is_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "REPLACED_FOR_S", 0.1)
    hangs, goes_on = f"http://127.0.0.1:{site.target.port}", threading.Event()
    site.target.does = lambda asked: ok() if goes_on.wait() else None
    b = FakeNode()
    b.follows(hangs)
    here = site.proxy(b)
    read, write = (in_thread(lambda method=method: ask(here, method), patience_s=6 * PATIENCE_S)
                   for method in ("GET", "POST"))  # fmt: skip
    eventually(lambda: len(site.target.asked) == 2)
    # when another one is the primary
    other = Site()
    b.follows(other.proxy())
    try:
        other.target.does = lambda asked: ok(b"of the other")
        assert read().text == "of the other"
        assert write().json()["error"] == "outcome_unknown"
        assert len(other.target.asked) == 1
    finally:
        goes_on.set()
        other.close()


def test_a_read_of_a_standby_finds_the_position_that_it_has_to_find(site: Site) -> None:
    # given a standby whose program answers, and a primary
    there = site.proxy()
    primary = site.node
    standby = FakeNode()
    standby.follows(there)
    primary.leads, asked_for = True, []

    def waited(position: str, timeout_s: float) -> None:
        asked_for.append(position)
        if position == "5-8":
            raise TimeoutError
        if position == "4-1":
            raise PositionLost(position, term=4, term_end="4-0", next_term=5)

    standby.waited = waited
    here = site.proxy(standby, reads="local")

    def went(**headers: str) -> httpx.Response:
        return ask(here, headers=headers)

    def is_of_the_standby() -> bool:
        return not any(line.startswith(b"replicator-") for line in lines(site.target.asked[-1]))

    # what it has, and what nobody asked for
    assert [went().text, went(Cookie="a=b; replicator_position=5-7").text] == ["ok", "ok"]
    assert asked_for == ["5-7"]
    # what it has not: the primary
    before = primary.requests
    primary.requests = Counting()  # type: ignore[assignment]
    assert went(**{"Replicator-Wait": "5-8"}).text == "ok"
    assert primary.requests.count == 1  # type: ignore[attr-defined]
    # what was lost
    lost = went(Cookie="replicator_position=4-1")
    assert (lost.headers["replicator-lost"], "Max-Age=0" in lost.headers["set-cookie"]) == ("4-1", True)
    # and where its file is not what was published
    standby.state_problem = "the disk is full"
    assert went().text == "ok"
    assert primary.requests.count == 2  # type: ignore[attr-defined]
    primary.requests = before
    assert is_of_the_standby()


def test_a_read_does_not_wait_for_a_thread_to_wait_in(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    # given readers of positions that do not come, and as many threads
    monkeypatch.setattr(http, "WAITS_MAX", 1)
    standby, goes_on = FakeNode(), threading.Event()
    standby.follows(site.proxy())

    def waited(position: str, timeout_s: float) -> None:
        if timeout_s:
            goes_on.wait()
        raise TimeoutError

    standby.waited = waited
    here = site.proxy(standby, reads="local")
    try:
        answers = [
            in_thread(lambda: ask(here, headers={"Replicator-Wait": "9-9"}), patience_s=6 * PATIENCE_S)
            for _ in range(2)
        ]
        # then both go to the primary when their time is over
        assert [answer().text for answer in answers] == ["ok", "ok"]
    finally:
        goes_on.set()


class Counting:
    def __init__(self) -> None:
        self.count = 0

    def one(self) -> Any:
        self.count += 1
        return threading.Lock()


def test_what_asks_whose_url_this_is_does_not_reach_the_program(site: Site) -> None:
    url = site.proxy()
    nonce = "0123456789abcdef" * 2
    assert ask(url, "HEAD", "/live", headers={"Replicator-Nonce": nonce}).status_code == 204
    assert (site.node.heard, site.target.asked) == ([nonce], [])
    assert ask(url, headers={"Replicator-Nonce": "no nonce"}).text == "ok"


def test_what_two_servers_may_read_differently_is_refused(site: Site) -> None:
    url = site.proxy()
    both = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    for wrong in (
        both,
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://elsewhere/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ):
        assert raw(url, wrong).startswith(b"HTTP/1.1 4"), wrong[:60]
    assert not site.target.asked


def test_a_body_that_comes_slowly_goes_to_who_is_the_primary_when_all_of_it_has_come(site: Site) -> None:
    """And not to a URL that was proven when its head came: another server may be there by then."""
    former, b = Site(), FakeNode()
    try:
        b.follows(former.proxy())
        where = urlsplit(site.proxy(b))
        measures = site.measures
        with socket.create_connection((where.hostname or "", where.port or 0), timeout=6 * PATIENCE_S) as connection:
            connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbo")
            eventually(lambda: measures.values()["replicator_proxy_body_bytes"] == 2)
            b.follows(site.proxy())
            connection.sendall(b"dy")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert (len(former.target.asked), len(site.target.asked)) == (0, 1)
    finally:
        former.close()
