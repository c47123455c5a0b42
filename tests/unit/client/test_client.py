"""Both clients carry out what is decided: over a service that is a table, and over real connections."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest

from replicator import (
    ChangeRejected,
    ConfigError,
    NotAllowed,
    NotJSON,
    NotPrimary,
    OutcomeUnknown,
    PositionLost,
    WrongProcess,
)
from replicator.client import AsyncClient, Client, async_client, raise_for_error, setup
from replicator.client import client as client_of_threads
from replicator.registry.api import registry_app
from replicator.web.server import WebServer
from tests.support.clients import AsyncTwin, Service, Twin, breaks, in_turn, node, refuses
from tests.support.forking import in_child
from tests.support.kv import PATIENCE_S, eventually, in_thread
from tests.support.registry_api import NodeInMemory, Position

URLS = ["http://a", "http://b", "http://c"]

Make = Callable[..., Twin]


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=[Client, AsyncTwin], ids=["threads", "asyncio"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    made: list[Twin] = []

    def make(*args: Any, **options: Any) -> Twin:
        made.append(request.param(*args, **options))
        return made[-1]

    yield make
    for twin in made:
        twin.close()


@pytest.fixture
def client(make: Make, service: Service) -> Twin:
    service.nodes = {"http://a": node(), "http://b": node("standby"), "http://c": node("standby")}
    return make(urls=URLS, http={"transport": service.transport()})


def by_clock(monkeypatch: pytest.MonkeyPatch, now: Callable[[], float]) -> None:
    """Deadlines are counted by this one."""
    for module in (client_of_threads, async_client, setup):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=now))


class TestRequests:
    def test_a_write_is_sent_whole_and_its_answer_given(self, client: Twin, service: Service) -> None:
        service.nodes["http://a"] = node(status=201, body={"id": 1})
        response = client.post("/v1/nodes", json={"hostname": "db1"}, params={"x": "1"}, headers={"X-Mine": "yes"})
        assert (response.status_code, response.json()) == (201, {"id": 1})
        (request,) = service.requests
        assert (request.method, str(request.url)) == ("POST", "http://a/v1/nodes?x=1")
        assert orjson.loads(request.content) == {"hostname": "db1"}
        assert request.headers["content-type"] == "application/json"
        assert request.headers["x-mine"] == "yes"
        assert re.fullmatch('"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"', request.headers["idempotency-key"])

    @pytest.mark.parametrize("status", [400, 404, 405, 412, 422, 428])
    def test_an_answer_about_the_request_is_an_answer(self, client: Twin, service: Service, status: int) -> None:
        service.nodes["http://a"] = refuses("rejected", status)
        response = client.put("/x", content=b"body")
        assert response.status_code == status
        if status == 422:
            with pytest.raises(ChangeRejected, match="because of rejected"):
                raise_for_error(response)

    def test_each_write_draws_a_key_of_its_own_and_repeats_it(self, client: Twin, service: Service) -> None:
        service.nodes["http://a"] = in_turn(breaks(httpx.ReadError), node())
        service.nodes["http://b"] = service.nodes["http://c"] = refuses("not_primary", role="standby")
        client.post("/x")
        client.post("/x")
        keys = [request.headers["idempotency-key"] for request in service.requests]
        assert len(keys) == len(service.asked) > 2
        assert len(set(keys)) == 2
        assert keys[-1] != keys[0]

    @pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError])
    def test_without_a_key_a_write_that_may_have_landed_is_not_repeated(
        self, client: Twin, service: Service, error: Any
    ) -> None:
        service.nodes["http://a"] = breaks(error)
        with pytest.raises(OutcomeUnknown, match=error.__name__):
            client.post("/x", keyed=False)
        assert service.asked == ["a"]

    @pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout])
    def test_one_that_never_left_is_repeated_whatever_it_is(self, client: Twin, service: Service, error: Any) -> None:
        service.nodes["http://a"] = breaks(error)
        service.nodes["http://b"] = node()
        assert client.post("/x", keyed=False).status_code == 200
        assert service.asked == ["a", "b"]

    def test_a_write_with_a_condition_has_no_key_unless_it_is_asked_for(self, client: Twin, service: Service) -> None:
        headers = {"If-Match": '"5-10"'}
        client.put("/x", headers=headers)
        client.put("/x", headers=headers, keyed=True)
        assert ["idempotency-key" in request.headers for request in service.requests] == [False, True]

    def test_a_redirect_to_the_primary_is_followed_with_the_body(self, client: Twin, service: Service) -> None:
        service.nodes["http://a"] = refuses("not_primary", 307, "standby", Location="http://c/v1/x?q=1")
        service.nodes["http://c"] = node()
        client.post("/v1/x", json=[1], params={"q": 1})
        client.post("/v1/x", json=[2])
        assert service.asked == ["a", "c", "c"]
        assert [request.content for request in service.requests] == [b"[1]", b"[1]", b"[2]"]

    def test_a_read_carries_what_was_seen(self, client: Twin, service: Service) -> None:
        assert client.position is None
        client.get("/x")
        assert client.position == "5-10"
        service.nodes["http://a"] = node(at="5-12")
        client.post("/x")
        client.get("/x", fresh=True)
        client.saw("6-1")
        client.get("/x")
        waits = [request.headers.get("replicator-wait") for request in service.requests]
        assert waits == [None, None, "5-12", "6-1"]
        assert [request.headers.get("replicator-fresh") for request in service.requests] == [None, None, "1", None]

    def test_cookies_of_nodes_are_not_kept(self, client: Twin, service: Service) -> None:
        service.nodes["http://a"] = node(**{"Set-Cookie": "position=5-10; Path=/"})
        client.post("/x")
        client.post("/x")
        assert ["cookie" in request.headers for request in service.requests] == [False, False]

    def test_a_position_that_was_lost_is_told_once(self, client: Twin, service: Service) -> None:
        client.saw("5-99")
        for name in ("a", "b", "c"):
            service.nodes[f"http://{name}"] = lambda request: (
                refuses("position_lost", 409) if "replicator-wait" in request.headers else node(at="6-3")
            )(request)
        with pytest.raises(PositionLost, match="because of position_lost"):
            client.get("/x")
        assert client.get("/x").status_code == 200
        assert client.position == "6-3"

    def test_the_deadline_ends_it_with_what_was_in_the_way(
        self, client: Twin, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("a", "b", "c"):
            service.nodes[f"http://{name}"] = refuses("not_primary", role="standby")
        by_clock(monkeypatch, lambda: 0.1 * len(service.requests))
        with pytest.raises(NotPrimary, match="because of not_primary"):
            client.post("/x", timeout_s=0.45)
        # Each answer took a tenth of a second, so there was no time for a fifth one.
        assert service.asked == ["a", "b", "c", "a"]

    def test_a_change_gives_what_apply_returned(self, client: Twin, service: Service) -> None:
        service.nodes["http://a"] = node(body={"result": {"id": 7}})
        assert client.submit({"op": "x"}, key="order-1") == {"id": 7}
        assert service.requests[0].url.path == "/v1/changes"
        assert service.requests[0].headers["idempotency-key"] == '"order-1"'

    def test_a_change_that_is_rejected_is_an_error(self, client: Twin, service: Service) -> None:
        service.nodes["http://a"] = refuses("rejected", 422)
        with pytest.raises(ChangeRejected, match="because of rejected"):
            client.submit({"op": "x"})

    @pytest.mark.parametrize("status", [200, 404])
    def test_a_service_that_takes_no_changes_there_is_told(self, client: Twin, service: Service, status: int) -> None:
        service.nodes["http://a"] = node(status=status, body=[1])
        with pytest.raises(ConfigError, match=f"http://a/v1/changes answers {status}, and not with the result"):
            client.submit({"op": "x"})

    def test_an_answer_that_is_no_json_is_told(self, client: Twin, service: Service) -> None:
        for status in (200, 413):
            service.nodes["http://a"] = lambda request, status=status: httpx.Response(status, html="<h1>Hello</h1>")
            with pytest.raises(ConfigError, match=f"answers {status}, and not with the result"):
                client.submit({"op": "x"})

    def test_a_load_balancer_that_gives_up_does_not_say_what_became_of_a_change(
        self, make: Make, service: Service
    ) -> None:
        service.nodes["http://a"] = lambda request: httpx.Response(504, html="<h1>Gateway Timeout</h1>")
        client = make(urls=["http://a"], keyed=False, http={"transport": service.transport()})
        with pytest.raises(OutcomeUnknown, match="answers 504"):
            client.submit({"op": "x"})
        assert service.asked == ["a"]

    @pytest.mark.parametrize("key", [None, "order-1"])
    def test_neither_does_an_application_that_failed(self, client: Twin, service: Service, key: str | None) -> None:
        service.nodes["http://a"] = refuses("internal", 500)
        with pytest.raises(OutcomeUnknown, match="http://a/v1/changes answers 500") as raised:
            client.submit({"op": "x"}, key=key)
        assert f'"{raised.value.fields["key"]}"' == service.requests[0].headers["idempotency-key"]
        assert key in (None, raised.value.fields["key"])

    def test_every_method_has_a_name(self, client: Twin, service: Service) -> None:
        for method in ("get", "post", "put", "patch", "delete"):
            getattr(client, method)("/x")
        client.request("head", "/x")
        assert [request.method for request in service.requests] == ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"]


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ({}, "redis_url: give the URL of Redis and a group"),
            ({"group": "g"}, "redis_url: give the URL of Redis"),
            ({"redis_url": "redis://h"}, "group: '' is not a name"),
            ({"redis_url": "http://h", "group": "g"}, "http://h"),
            ({"urls": []}, "urls: give a list"),
            ({"urls": "http://h"}, "urls: give a list"),
            ({"urls": ["h:1"]}, "'h:1' is not a URL"),
            ({"urls": ["http://h?x=1"]}, "is not the address of a node"),
            ({"urls": ["http://h"], "group": "g"}, "not both"),
            ({"urls": ["http://h"], "keyed": "no"}, "neither True nor False"),
            ({"urls": ["http://h"], "timeout_s": "5"}, "timeout_s: '5' is not a number of seconds"),
            ({"urls": ["http://h"], "attempt_timeout_s": 0}, "attempt_timeout_s: 0 is not within"),
            ({"urls": ["http://h"], "http": {"timeout": 5}}, "timeout is for the client to decide"),
        ],
    )
    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    def test_a_setting_is_told_when_it_is_given(self, kind: Any, arguments: dict[str, Any], problem: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(problem)):
            kind(**arguments)

    @pytest.mark.parametrize(
        ("method", "path", "options", "problem"),
        [
            ("FETCH", "/x", {}, "'FETCH' is none of GET"),
            ("GET", "x", {}, "'x' is not a path"),
            ("GET", "http://elsewhere/x", {}, "is not a path"),
            ("GET", "//elsewhere/x", {}, "is not a path"),
            ("GET", "/x\n", {}, "does not belong into a line"),
            ("GET", "/x", {"key": "k"}, "a read has no key"),
            ("POST", "/x", {"key": ""}, "printable characters of ASCII"),
            ("POST", "/x", {"key": "ä"}, "printable characters of ASCII"),
            ("POST", "/x", {"key": "k" * 257}, "printable characters of ASCII"),
            ("POST", "/x", {"key": 7}, "printable characters of ASCII"),
            ("POST", "/x", {"key": "k", "keyed": False}, "a write with keyed=False has none"),
            ("POST", "/x", {"fresh": True}, "a write goes to the primary anyway"),
            ("POST", "/x", {"json": 1, "content": b"1"}, "not both"),
            ("POST", "/x", {"content": iter([b"1"])}, "it may have to be sent again"),
            ("POST", "/x", {"headers": {"Idempotency-Key": "k"}}, "give key="),
            ("POST", "/x", {"timeout_s": -1}, "timeout_s: -1 is not within"),
        ],
    )
    def test_so_is_an_argument_and_nothing_is_sent(
        self, client: Twin, service: Service, method: str, path: str, options: Any, problem: str
    ) -> None:
        with pytest.raises(ConfigError, match=re.escape(problem)):
            client.request(method, path, **options)
        assert service.requests == []

    def test_a_body_that_is_not_json_is_told(self, client: Twin) -> None:
        with pytest.raises(NotJSON, match="the body is not JSON"):
            client.post("/x", json={1, 2})

    def test_a_position_that_is_none_is_told(self, client: Twin) -> None:
        for position in ("soon", 5):
            with pytest.raises(ConfigError, match="position"):
                client.saw(position)  # type: ignore[arg-type]

    def test_a_client_that_was_closed_says_so(self, make: Make, service: Service) -> None:
        twin = make(urls=URLS, http={"transport": service.transport()})
        if isinstance(twin, AsyncTwin):
            twin.runner.run(twin.client.aclose())
        else:
            twin.close()
        with pytest.raises(ConfigError, match="it was closed: make another one"):
            twin.get("/x")

    def test_an_asyncio_client_belongs_to_one_event_loop(self, service: Service) -> None:
        service.nodes["http://a"] = node()
        client = AsyncClient(urls=["http://a"], http={"transport": service.transport()})

        async def get() -> None:
            await client.get("/x")

        asyncio.run(get())
        with pytest.raises(ConfigError, match="another event loop"):
            asyncio.run(get())


TOKEN = "t" * 32


class TestTokens:
    def test_it_goes_to_the_nodes_that_were_named(self, make: Make, service: Service) -> None:
        service.nodes = {"http://a": node(), "http://b": node("standby")}
        client = make(urls=["http://a", "http://b"], token=TOKEN, http={"transport": service.transport()})
        client.post("/x")
        client.get("/x")
        assert [request.headers["authorization"] for request in service.requests] == [f"Bearer {TOKEN}"] * 2

    def test_a_redirect_to_a_node_that_nobody_named_is_not_followed_with_it(self, make: Make, service: Service) -> None:
        away = refuses("not_primary", 307, "standby", Location="http://evil/x")
        service.nodes = {"http://a": away, "http://evil": node()}
        client = make(urls=["http://a"], token=TOKEN, http={"transport": service.transport()})
        with pytest.raises(ConfigError, match="is not sent to http://evil, which only Redis named, or a redirect"):
            client.post("/x")
        assert service.asked == ["a"]
        named = make(urls=["http://a"], token=TOKEN, token_to=["http://evil"], http={"transport": service.transport()})
        assert named.post("/x").status_code == 200

    @pytest.mark.parametrize(
        ("http", "headers", "named"),
        [
            ({"headers": {"X-Api-Key": "k"}}, {}, "x-api-key"),
            ({"headers": [("Authorization", "Basic eA==")]}, {}, "authorization"),
            ({"auth": ("u", "p")}, {}, "auth"),
            ({"cookies": {"session": "s"}}, {}, "cookies"),
            ({}, {"Cookie": "session=s"}, "cookie"),
            ({}, {"X-Auth-Token": "t"}, "x-auth-token"),
        ],
    )
    def test_so_it_is_with_what_else_is_a_secret(
        self, make: Make, service: Service, http: dict[str, Any], headers: dict[str, str], named: str
    ) -> None:
        away = refuses("not_primary", 307, "standby", Location="http://evil/x")
        service.nodes = {"http://a": away, "http://evil": node()}
        options = {"urls": ["http://a"], "http": {"transport": service.transport(), **http}}
        with pytest.raises(ConfigError, match=f"^{named}: is not sent to http://evil, which only Redis named"):
            make(**options).post("/x", headers=headers)
        assert service.asked == ["a"]
        assert make(**options, token_to=["http://evil"]).post("/x", headers=headers).status_code == 200

    def test_headers_that_are_none_go_to_whichever_node_leads(self, make: Make, service: Service) -> None:
        service.nodes["http://a"] = refuses("not_primary", 307, "standby", Location="http://b/x")
        service.nodes["http://b"] = node()
        client = make(urls=["http://a"], http={"transport": service.transport(), "headers": {"User-Agent": "x"}})
        assert client.post("/x", headers={"Replicator-Ack": "applied:1", "Accept": "*/*"}).status_code == 200

    def test_what_may_have_landed_before_stays_unknown(self, make: Make, service: Service) -> None:
        away = refuses("not_primary", 307, "standby", Location="http://evil/x")
        service.nodes = {"http://a": in_turn(breaks(httpx.ReadError), away)}
        client = make(urls=["http://a"], token=TOKEN, http={"transport": service.transport()})
        with pytest.raises(OutcomeUnknown, match="is not sent to http://evil"):
            client.post("/x")

    def test_a_token_that_the_node_does_not_take(self, make: Make, service: Service) -> None:
        service.nodes["http://a"] = refuses("wrong_token", 401)
        client = make(urls=["http://a"], token=TOKEN, http={"transport": service.transport()})
        answer = client.get("/x")
        assert answer.status_code == 401
        with pytest.raises(NotAllowed, match="because of wrong_token"):
            raise_for_error(answer)
        with pytest.raises(NotAllowed):
            client.submit({"op": "x"})

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ({"token": "two words"}, "token: is no token"),
            ({"token": TOKEN, "token_file": "x"}, "token_file: give a token or a file with one, not both"),
            ({"token_file": "/nowhere/token"}, "token_file: /nowhere/token cannot be read"),
            ({"token": TOKEN, "token_to": "http://a"}, "token_to: give a list of URLs"),
            ({"token": TOKEN, "token_to": ["a"]}, "token_to: 'a' is not a URL"),
            ({"ca_file": "/nowhere/ca"}, "ca_file: /nowhere/ca has no certificates in PEM"),
            ({"ca_file": "x", "http": {"verify": False}}, "ca_file: it says what is trusted"),
        ],
    )
    @pytest.mark.parametrize("kind", [Client, AsyncClient])
    def test_a_setting_is_told_when_it_is_given(self, kind: Any, arguments: dict[str, Any], problem: str) -> None:
        with pytest.raises(ConfigError, match=re.escape(problem)) as raised:
            kind(urls=["http://a"], **arguments)
        assert TOKEN not in str(raised.value)


# --- over real connections ------------------------------------------------------------------------------------------


@pytest.fixture
def served() -> Iterator[tuple[NodeInMemory, str]]:
    node = NodeInMemory()
    with WebServer(registry_app(node, wait_timeout_s=0.2)) as server:
        node.primary_http = server.url
        yield node, server.url


def test_over_a_real_server(make: Make, served: tuple[NodeInMemory, str]) -> None:
    node, url = served
    client = make(urls=[url + "/"])
    assert client.post("/v1/nodes", json={"hostname": "db1"}).status_code == 201
    assert client.position == node.position.id
    assert client.get("/v1/nodes/1").json()["hostname"] == "db1"
    assert client.get("/v1/nodes/9").status_code == 404
    assert client.get("/v1/state", fresh=True).json()["nodes"]["1"]["hostname"] == "db1"


def test_a_standby_that_lacks_it_is_passed_over(make: Make, served: tuple[NodeInMemory, str]) -> None:
    behind = NodeInMemory(role="standby", position=Position(5, 1), primary_http=served[1])
    with WebServer(registry_app(behind, wait_timeout_s=0.05)) as standby:
        client = make(urls=[standby.url, served[1]])
        client.post("/v1/nodes", json={"hostname": "db1"})
        answers = [client.get("/v1/nodes/1") for _ in range(3)]
        assert [answer.json()["hostname"] for answer in answers] == ["db1"] * 3
        assert {answer.headers["replicator-role"] for answer in answers} == {"primary"}
        assert set(behind.waited) == {served[0].position.id}


def test_a_whole_state_is_put_with_a_condition_or_without_a_key(make: Make, served: tuple[NodeInMemory, str]) -> None:
    client = make(urls=[served[1]])
    seen = client.get("/v1/state", fresh=True)
    refused = client.put("/v1/state", json=seen.json(), params={"force": 1})
    assert (refused.status_code, refused.json()["field"]) == (400, "Idempotency-Key")
    assert client.put("/v1/state", json=seen.json(), headers={"If-Match": seen.headers["ETag"]}).status_code == 200
    assert client.put("/v1/state", json=seen.json(), params={"force": 1}, keyed=False).status_code == 200


class Dripping:
    """A server that sends a byte of its answer now and then, and never all of it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.ended = threading.Event()
        self.asked_at: float | None = None
        threading.Thread(target=self._serve, daemon=True).start()

    def now(self) -> float:
        """It stands still until somebody has come."""
        return 0.0 if self.asked_at is None else time.monotonic() - self.asked_at

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.asked_at = self.asked_at or time.monotonic()
            threading.Thread(target=self._drip, args=[connection], daemon=True).start()

    def _drip(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                while not self.ended.wait(0.02):
                    connection.sendall(b"x")
            except OSError:
                return


@pytest.fixture
def dripping() -> Iterator[Dripping]:
    server = Dripping()
    yield server
    server.ended.set()
    server.listener.close()


@pytest.mark.parametrize(
    ("method", "options", "error", "says"),
    [
        ("GET", {}, TimeoutError, "GET /x: no answer from"),
        ("POST", {}, OutcomeUnknown, "lands once"),
        ("POST", {"keyed": False}, OutcomeUnknown, "read before you repeat it"),
    ],
)
def test_an_answer_that_never_ends_is_given_up_at_the_deadline(
    make: Make,
    dripping: Dripping,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    options: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    twin = make(urls=[dripping.url], attempt_timeout_s=0.1)
    by_clock(monkeypatch, dripping.now)
    # It ends at all: each byte comes in time.
    with pytest.raises(error, match=says):
        twin.request(method, "/x", timeout_s=0.3, **options)


def test_a_node_that_hangs_costs_an_attempt(make: Make, served: tuple[NodeInMemory, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        url = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        client = make(urls=[url, served[1]], attempt_timeout_s=1.0)
        assert client.post("/v1/nodes", json={"hostname": "db1"}).status_code == 201


def test_threads_share_a_client(served: tuple[NodeInMemory, str]) -> None:
    node, url = served
    with Client(urls=[url]) as client:

        def write(number: int) -> Callable[[], Any]:
            def some() -> list[int]:
                posts = [client.post("/v1/nodes", json={"hostname": f"n{number}-{i}"}) for i in range(5)]
                return [post.status_code for post in posts]

            return in_thread(some)

        writers = [write(number) for number in range(8)]
        assert [writer() for writer in writers] == [[201] * 5] * 8
    assert len(node.submitted) == 40


def test_tasks_share_a_client(served: tuple[NodeInMemory, str]) -> None:
    async def work() -> list[int]:
        async with AsyncClient(urls=[served[1]]) as client:
            posts = [client.post("/v1/nodes", json={"hostname": f"n{i}"}) for i in range(20)]
            return [answer.status_code for answer in await asyncio.gather(*posts)]

    assert asyncio.run(work()) == [201] * 20


def test_closing_ends_a_request_that_waits(served: tuple[NodeInMemory, str]) -> None:
    served[0].failure = NotPrimary(node="a")
    client = Client(urls=[served[1]])
    request = in_thread(lambda: client.post("/v1/nodes", timeout_s=600.0))
    eventually(lambda: client._pools)
    client.close()
    with pytest.raises((ConfigError, RuntimeError)):
        request()


def test_in_a_forked_child_it_is_refused_and_its_connections_are_closed_there(
    served: tuple[NodeInMemory, str],
) -> None:
    with Client(urls=[served[1]]) as client:
        client.get("/v1/nodes")
        (connection,) = client._setup._sockets
        number = connection.fileno()

        def child() -> list[str]:
            told = []
            try:
                os.fstat(number)
                told.append("open")
            except OSError:
                told.append("closed")
            try:
                client.get("/v1/nodes")
            except WrongProcess as error:
                told.append(str(error))
            client.close()
            return told

        assert in_child(child)[0] == "closed"
        assert "make one after the fork" in in_child(child)[1]
        assert client.get("/v1/nodes").status_code == 200


def test_the_deadline_of_an_asyncio_request_is_its_callers_too(dripping: Dripping) -> None:
    async def work() -> float:
        async with AsyncClient(urls=[dripping.url]) as client:
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.get("/x", timeout_s=PATIENCE_S), 0.1)
            return time.monotonic() - began

    assert asyncio.run(work()) < PATIENCE_S
