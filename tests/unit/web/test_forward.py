"""Requests that the middleware sends on to the primary itself, over a real connection."""

from __future__ import annotations

import asyncio
import gzip
import io
import socket
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from replicator import ConfigError
from replicator.errors import NotPrimary
from replicator.web import asgi, forward
from replicator.web.certificate import Certificate
from replicator.web.forward import onward, returned
from replicator.web.server import WebServer
from replicator.web.wsgi import Replicated
from tests.support.certificates import Authority
from tests.support.kv import PATIENCE_S, eventually
from tests.support.sites import SITES, FakeNode, Sites, raising, sites_of, standby

MEGABYTE = 1024 * 1024


@pytest.fixture(params=SITES, ids=["asgi", "wsgi"])
def sites(request: pytest.FixtureRequest) -> Iterator[Sites]:
    yield from sites_of(request.param)


class Primary:
    """A server that notes what it is asked."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.asked: list[tuple[str, str, list[tuple[str, str]], bytes]] = []
        route = Route("/{path:path}", self._answer, methods=["GET", "POST", "PUT", "DELETE"])
        self.server = WebServer(Starlette(routes=[route]), certificate=certificate)

    async def _answer(self, request: Request) -> Response:
        headers = [(name.decode(), value.decode()) for name, value in request.headers.raw]
        target = request.scope["raw_path"].decode() + "?" + request.scope["query_string"].decode()
        self.asked.append((request.method, target, headers, await request.body()))
        if request.url.path == "/streamed":
            return StreamingResponse(_parts(), 202, media_type="text/plain")
        if request.url.path == "/zipped":
            return Response(gzip.compress(b"zipped"), headers={"Content-Encoding": "gzip"})
        answer = Response(b"of the primary", 201, {"Replicator-Position": "5-2000", "X-Of": "b", "Keep-Alive": "x"})
        answer.set_cookie("replicator-position", "5-2000")
        answer.set_cookie("session", "s")
        return answer


async def _parts() -> AsyncIterator[bytes]:
    for number in range(3):
        yield f"part {number}\n".encode()


@pytest.fixture
def primary() -> Iterator[Primary]:
    primary = Primary()
    with primary.server:
        yield primary


def test_a_write_goes_to_the_primary_and_its_answer_comes_back(sites: Sites, primary: Primary) -> None:
    # given
    site = sites.of(standby(primary.server.url), writes="forward")
    # when
    given = {"X-Own": "1", "Connection": "keep-alive, X-Hop", "X-Hop": "2", "X-Forwarded-For": "9.9.9.9"}
    answer = site.ask("POST", "/a%20b?x=%20y&z", content=b"body", headers=given)
    # then the primary is asked the same
    [(method, target, headers, body)] = primary.asked
    assert (method, target, body) == ("POST", "/a%20b?x=%20y&z", b"body")
    sent = dict(headers)
    assert (sent["host"], sent["x-own"], sent["replicator-forwarded"]) == ("site", "1", "a")
    assert (sent["content-length"], sent["x-forwarded-for"].split(", ")[0]) == ("4", "9.9.9.9")
    assert sent["x-forwarded-proto"] == "http"
    assert "x-hop" not in sent
    # and its answer is the answer: its stamps and its cookie, too
    assert (answer.status_code, answer.text, answer.headers["x-of"]) == (201, "of the primary", "b")
    assert answer.headers.get_list("replicator-position") == ["5-2000"]
    assert len(answer.headers.get_list("set-cookie")) == 2
    assert "keep-alive" not in answer.headers
    assert sites.served == []


def test_it_goes_over_tls_to_who_has_a_certificate_that_the_machine_trusts(
    sites: Sites, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted, other = Authority(tmp_path / "trusted"), Authority(tmp_path / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.path))
    found = []
    for by in (trusted, other):
        files = (tmp_path / f"{len(found)}.pem", tmp_path / f"{len(found)}.key")
        by.certificate("b", *files)
        primary = Primary(Certificate(*files))
        with primary.server:
            assert primary.server.url.startswith("https://")
            answer = sites.of(standby(primary.server.url), writes="forward").ask("POST", "/", content=b"body")
        found.append((answer.status_code, [body for *_, body in primary.asked]))
    assert found == [(201, [b"body"]), (503, [])]
    assert answer.json()["error"] == "primary_unreachable"
    assert "CERTIFICATE_VERIFY_FAILED" in answer.json()["detail"]


def test_nothing_is_logged_of_a_request_that_goes_well(
    sites: Sites, primary: Primary, caplog: pytest.LogCaptureFixture
) -> None:
    site = sites.of(standby(primary.server.url), writes="forward")
    with caplog.at_level("INFO"):
        assert site.ask("POST", "/").status_code == 201
    assert [record.getMessage() for record in caplog.records if primary.server.url in record.getMessage()] == []


def test_nothing_goes_to_a_server_that_has_not_proved_to_be_the_primary(sites: Sites, primary: Primary) -> None:
    node = standby(primary.server.url, unproven=True)
    given = {"Cookie": "session=s", "X-Api-Key": "k"}
    answer = sites.of(node, writes="forward", primary_within_s=0.1).ask("POST", "/", content=b"secret", headers=given)
    assert (answer.status_code, answer.json()["error"]) == (503, "primary_unreachable")
    assert "did not prove that it is the primary; nothing was sent" in answer.json()["detail"]
    assert primary.asked == []


def test_the_node_hears_the_nonce_of_any_request(sites: Sites) -> None:
    node = standby(None)
    sites.of(node, writes="local", cookie=None, health=None).ask("HEAD", "/health", headers={"Replicator-Nonce": "17"})
    assert node.heard == ["17"]


def test_reads_stay_here_and_so_do_writes_of_the_primary(sites: Sites, primary: Primary) -> None:
    assert sites.of(standby(primary.server.url), writes="forward").ask("GET", "/").text == "here"
    assert sites.of(FakeNode(primary_http=primary.server.url), writes="forward").ask("POST", "/").text == "here"
    assert primary.asked == []


def test_a_read_that_would_come_too_early_is_forwarded(sites: Sites, primary: Primary) -> None:
    site = sites.of(standby(primary.server.url), writes="forward")
    assert site.ask("GET", "/", headers={"Cookie": "replicator-position=5-2000"}).text == "of the primary"
    assert primary.asked[0][0] == "GET"


def exchanged(port: int, request: bytes) -> bytes:
    """What a server answers to these very bytes, until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


async def never(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the application is not asked")


@pytest.mark.parametrize("writes", ["forward", "redirect"])
def test_nothing_goes_to_a_host_that_a_client_names(primary: Primary, writes: str) -> None:
    # given a primary to which a name and a password would go, were they before an @
    edge = asgi.Replicated(never, node=standby("http://10.9.9.9:7002"), writes=writes, start=False)
    target = f"@127.0.0.1:{primary.server.port}/latest/meta-data"
    request = f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    with WebServer(edge) as server:
        answer = exchanged(server.port, request.encode())
    # then
    assert (primary.asked, answer.partition(b"\r\n")[0]) == ([], b"HTTP/1.1 400 Bad Request")
    assert b"location" not in answer.lower()


TOKEN = {"Authorization": "Bearer s3cret"}


def test_a_token_goes_to_nodes_that_the_application_named_alone(sites: Sites, primary: Primary) -> None:
    """Whoever can write to Redis can name another place for the primary."""
    url = primary.server.url
    refused = sites.of(standby(url), writes="forward").ask("POST", "/", content=b"1", headers=TOKEN)
    assert (refused.status_code, refused.json()["error"]) == (503, "primary_unnamed")
    assert url in refused.json()["detail"]
    assert "s3cret" not in refused.text
    elsewhere = sites.of(standby(url), writes="forward", forward_to=["http://node-b:8001"])
    assert [elsewhere.ask("POST", "/", headers=headers).status_code for headers in (TOKEN, {})] == [503, 503]
    assert primary.asked == []
    named = sites.of(standby(url), writes="forward", forward_to=["http://node-b:8001", f"{url}/"])
    assert named.ask("POST", "/", headers=TOKEN).status_code == 201
    assert dict(primary.asked[0][2])["authorization"] == "Bearer s3cret"


def test_cookies_and_keys_of_clients_go_to_the_primary_that_proved_its_url_or_to_named_nodes_alone(
    sites: Sites, primary: Primary
) -> None:
    """An application in which people log in has a cookie with each write, so a cookie alone asks for no list."""
    url, secrets = primary.server.url, {"Cookie": "session=s", "X-Api-Key": "k"}
    elsewhere = sites.of(standby(url), writes="forward", forward_to=["http://node-b:8001"])
    assert elsewhere.ask("POST", "/", headers=secrets).json()["error"] == "primary_unnamed"
    assert primary.asked == []
    assert sites.of(standby(url), writes="forward").ask("POST", "/", headers=secrets).status_code == 201
    sent = dict(primary.asked[0][2])
    assert (sent["cookie"], sent["x-api-key"]) == ("session=s", "k")


@pytest.mark.parametrize("given", ["http://node-b:8001", ["node-b"]])
def test_nodes_to_forward_to_are_a_list_of_urls(sites: Sites, given: Any) -> None:
    with pytest.raises(ConfigError, match="forward_to"):
        sites.of(standby(), writes="forward", forward_to=given)


def test_large_bodies_go_through(sites: Sites, primary: Primary) -> None:
    site = sites.of(standby(primary.server.url), writes="forward")
    assert site.ask("PUT", "/", content=b"x" * (3 * MEGABYTE)).status_code == 201
    assert len(primary.asked[0][3]) == 3 * MEGABYTE


def test_an_answer_in_parts_and_one_that_is_encoded_stay_so(sites: Sites, primary: Primary) -> None:
    site = sites.of(standby(primary.server.url), writes="forward")
    streamed = site.ask("POST", "/streamed")
    assert (streamed.status_code, streamed.text) == (202, "part 0\npart 1\npart 2\n")
    zipped = site.ask("POST", "/zipped", headers={"Accept-Encoding": "gzip"})
    assert (zipped.text, zipped.headers["content-encoding"]) == ("zipped", "gzip")


def test_a_primary_that_cannot_be_reached_was_sent_nothing(sites: Sites) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    answer = sites.of(standby(f"http://127.0.0.1:{port}"), writes="forward").ask("POST", "/x?secret=1", content=b"1")
    assert (answer.status_code, answer.json()["error"]) == (503, "primary_unreachable")
    assert "nothing was sent" in answer.json()["detail"]
    assert "secret" not in answer.text
    assert "retry-after" in answer.headers
    assert answer.headers["replicator-role"] == "standby"


class Mute:
    """A server that takes a request and breaks the connection, or says nothing."""

    def __init__(self, *, breaks: bool) -> None:
        self._breaks = breaks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        connection.recv(65536)
        if self._breaks:
            connection.close()
        self._connections.append(connection)

    def close(self) -> None:
        self._listener.close()
        for connection in self._connections:
            connection.close()


@pytest.mark.parametrize(("breaks", "status"), [(True, 502), (False, 504)])
def test_a_primary_that_does_not_answer_leaves_the_outcome_unknown(sites: Sites, breaks: bool, status: int) -> None:
    mute = Mute(breaks=breaks)
    timeout_s = PATIENCE_S if breaks else 0.2
    site = sites.of(standby(mute.url), writes="forward", forward_timeout_s=timeout_s)

    def sent() -> httpx.Response | None:
        """The answer, unless this machine stood still for so long that not even a connection was made in time."""
        answer = site.ask("POST", "/", content=b"1")
        return None if answer.status_code == 503 else answer

    answer = eventually(sent)
    assert (answer.status_code, answer.json()["error"]) == (status, "outcome_unknown")
    assert "read before you repeat it" in answer.json()["detail"]
    mute.close()


def test_nothing_is_read_beyond_the_end_of_a_body() -> None:
    class Body:
        left = 1

        def read(self, size: int) -> bytes:
            assert self.left, "a server may wait here for ever"
            self.left -= 1
            return b"1"

    statuses = []
    mute = Mute(breaks=True)
    app = Replicated(raising(ZeroDivisionError()), node=standby(mute.url), start=False, writes="forward")
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/",
        "wsgi.input": Body(),
        "CONTENT_LENGTH": "1",
        "HTTP_HOST": "x",
    }
    list(app(environ, lambda status, headers, *_: statuses.append(status)))  # type: ignore[arg-type, return-value]
    assert statuses == ["502 Bad Gateway"]
    mute.close()


def test_a_write_that_loses_the_primary_in_its_middle_is_to_come_back_and_is_not_redirected(sites: Sites) -> None:
    node = FakeNode()

    def deposed(*_: Any) -> tuple[int, bytes]:
        node.role, node.leads, node.primary_http = "standby", False, "http://b:7002"
        return raising(NotPrimary(node="a"))(*_)

    answer = sites.of(node, deposed, writes="forward").ask("POST", "/")
    assert (answer.status_code, answer.json()["error"]) == (503, "not_primary")


def test_without_httpx_it_says_what_to_install(sites: Sites, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)
    with pytest.raises(ConfigError, match=r'writes: "forward" needs httpx: pip install'):
        sites.of(standby(), writes="forward")


# --- Headers ----------------------------------------------------------------------------------------------------------


def test_headers_of_one_connection_stay_behind() -> None:
    given = [
        (b"connection", b"close, X-One"),
        (b"x-one", b"1"),
        (b"te", b"trailers"),
        (b"upgrade", b"h2c"),
        (b"a", b"b"),
    ]
    sent = onward(given, by="n", client=None, scheme="https")
    assert sent.headers == [(b"a", b"b"), (b"x-forwarded-proto", b"https"), (b"replicator-forwarded", b"n")]
    assert not sent.has_body
    both = [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"9"), (b"X-One", b"1")]
    assert returned(both) == [(b"x-one", b"1")]
    assert returned([(b"Connection", b"x-one"), (b"X-One", b"1"), (b"Set-Cookie", b"a"), (b"Set-Cookie", b"b")]) == [
        (b"set-cookie", b"a"),
        (b"set-cookie", b"b"),
    ]


def test_connection_names_no_header_of_the_message() -> None:
    given = [(b"connection", b"Content-Length, host, x-forwarded-proto"), (b"content-length", b"4"), (b"host", b"site")]
    sent = onward([*given, (b"x-forwarded-proto", b"liar")], by="n", client=None, scheme="https")
    assert sent.has_body
    assert sent.headers[:3] == [(b"content-length", b"4"), (b"host", b"site"), (b"x-forwarded-proto", b"https")]


def test_cookies_in_several_headers_are_sent_on_in_one() -> None:
    sent = onward([(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2")], by="n", client=None, scheme="http")
    assert [value for name, value in sent.headers if name == b"cookie"] == [b"a=1; b=2"]


def test_an_answer_has_the_date_and_the_server_that_the_next_server_gives_it() -> None:
    given = [(b"Date", b"today"), (b"Server", b"b"), (b"Last-Modified", b"then")]
    assert returned(given) == [(b"last-modified", b"then")]


def test_a_client_cannot_say_that_another_node_sent_its_request() -> None:
    sent = onward([(b"replicator-forwarded", b"liar")], by="n", client="1.2.3.4", scheme="http")
    assert [value for name, value in sent.headers if name == b"replicator-forwarded"] == [b"n"]


@pytest.mark.parametrize(
    ("headers", "has_body", "keeps_length"),
    [
        ([(b"content-length", b"3")], True, True),
        ([(b"content-length", b"0")], False, True),
        ([], False, False),
        ([(b"transfer-encoding", b"chunked")], True, False),
        # what is in chunks has no other length: two of them are how requests are smuggled
        ([(b"transfer-encoding", b"chunked"), (b"content-length", b"3")], True, False),
    ],
)
def test_a_body_is_what_the_headers_say(headers: list[Any], has_body: bool, keeps_length: bool) -> None:
    sent = onward(headers, by="n", client=None, scheme="http")
    assert (sent.has_body, any(name == b"content-length" for name, _ in sent.headers)) == (has_body, keeps_length)
    assert not any(name == b"transfer-encoding" for name, _ in sent.headers)


@pytest.mark.parametrize("parts", [[b"order=4711"], [b"order", b"=4711"], [b"", b"order=4711"], [b""]])
def test_a_body_of_which_no_header_tells_is_forwarded_over_asgi(primary: Primary, parts: list[bytes]) -> None:
    """HTTP/2 has neither of the two headers."""
    left = list(parts)

    async def receive() -> Any:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.append(message["status"])

    statuses: list[int] = []
    app = asgi.Replicated(never, node=standby(primary.server.url), writes="forward", start=False)
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [(b"host", b"site")]}
    asyncio.run(app(scope, receive, send))
    assert (statuses, primary.asked[0][3], left) == ([201], b"".join(parts), [])


@pytest.mark.parametrize("is_chunked", [True, False])
@pytest.mark.parametrize("is_terminated", [True, False])
def test_a_body_of_which_no_header_tells_is_forwarded_over_wsgi(
    primary: Primary, is_chunked: bool, is_terminated: bool
) -> None:
    statuses: list[str] = []
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/", "HTTP_HOST": "x", "wsgi.input": io.BytesIO(b"order=4711")}
    environ |= {"HTTP_TRANSFER_ENCODING": "chunked"} if is_chunked else {}
    environ |= {"wsgi.input_terminated": True} if is_terminated else {}
    app = Replicated(raising(ZeroDivisionError()), node=standby(primary.server.url), start=False, writes="forward")
    list(app(environ, lambda status, *_: statuses.append(status)))  # type: ignore[arg-type, return-value]
    if is_terminated:
        assert (statuses, primary.asked[0][3]) == (["201 Created"], b"order=4711")
    elif is_chunked:  # there is a body, and the server does not say how to read it
        assert (statuses, primary.asked) == (["411 Length Required"], [])
    else:
        assert (statuses, primary.asked[0][3]) == (["201 Created"], b"")


def test_a_client_that_leaves_in_the_middle_of_its_body_gets_no_answer(primary: Primary) -> None:
    site = Sites(SITES[0]).of(standby(primary.server.url), writes="forward")
    sent: list[Any] = []

    async def play() -> None:
        messages = iter([{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}])

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-length", b"10"), (b"host", b"site")]
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
        await site.app(scope, receive, send)  # type: ignore[arg-type, misc, call-arg]

    site._runner.run(play())  # type: ignore[union-attr]
    site.close()
    assert sent == []


def test_an_answer_that_breaks_off_is_broken_off(sites: Sites) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
        connection.close()

    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=serve, daemon=True).start()
    site = sites.of(standby(f"http://127.0.0.1:{listener.getsockname()[1]}"), writes="forward")
    with pytest.raises(httpx.HTTPError):
        site.ask("POST", "/")
    listener.close()


@pytest.mark.parametrize("is_known", [True, False])
def test_a_body_that_stops_coming_gives_its_way_to_the_primary_back(
    primary: Primary, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """A single way, and a client that sends a byte and nothing more."""
    monkeypatch.setattr(forward, "CONNECTIONS_MAX", 1)

    async def one(app: Any, parts: list[Any], headers: list[Any]) -> int:
        async def receive() -> Any:
            return parts.pop(0) if parts else await asyncio.sleep(3600)

        async def send(message: Any) -> None:
            statuses.append(message.get("status"))

        statuses: list[Any] = []
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": headers}
        await app(scope, receive, send)
        return int(statuses[0])

    async def play() -> list[int]:
        options: dict[str, Any] = {"writes": "forward", "start": False}
        impatient = asgi.Replicated(never, node=standby(primary.server.url), forward_timeout_s=0.5, **options)
        headers = [(b"host", b"x"), *([(b"content-length", b"2")] if is_known else [])]
        slow = [{"type": "http.request", "body": b"a", "more_body": True}]
        whole = [{"type": "http.request", "body": b"ab", "more_body": False}]
        # the primary has its time, and the body has not
        impatient._forwarder._timeout_s = PATIENCE_S  # type: ignore[union-attr]
        return [await one(impatient, slow, headers), await one(impatient, whole, headers)]

    assert asyncio.run(play()) == [408, 201]


def test_a_body_that_nobody_wants_and_that_stops_coming_is_answered_all_the_same() -> None:
    async def receive() -> Any:
        return await asyncio.sleep(3600)

    async def send(message: Any) -> None:
        statuses.append(message.get("status"))

    statuses: list[Any] = []
    app = asgi.Replicated(never, node=standby(), start=False, forward_timeout_s=0.1)
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))
    assert statuses[0] == 307
