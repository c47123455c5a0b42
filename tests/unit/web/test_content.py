"""What the key of a request goes by where the application says nothing: method, path, query and body."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from flask import Flask
from flask import request as flask_request

from replicator import Commands, Key, Node, ReplicatorError, change
from replicator.format.keyed import RequestKey
from replicator.testing import Cluster
from replicator.web import asgi, wsgi
from replicator.web.content import Content, Heard
from replicator.web.head import Head
from replicator.web.idempotency import idempotency_key
from tests.support.sites import SITES, FakeNode, Sites, sites_of

KEY = {"Idempotency-Key": '"k"'}


@pytest.fixture(params=SITES, ids=["asgi", "wsgi"])
def sites(request: pytest.FixtureRequest) -> Iterator[Sites]:
    yield from sites_of(request.param)


class Keys:
    """A site of which the application notes the key of each request, and what it read."""

    def __init__(self, sites: Sites) -> None:
        self.seen: list[Any] = []
        self.bodies: list[bytes] = []
        self._site = sites.of(FakeNode(), self._answer)

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.seen.append(idempotency_key(self._sent))
        self.bodies.append(body)
        return 200, b""

    def of(self, method: str, url: str, content: Any = None, headers: dict[str, str] = KEY) -> Any:
        self._sent = headers
        self._site.ask(method, url, content=content, headers=headers)
        return self.seen[-1]


def test_a_key_goes_by_method_path_query_and_body(sites: Sites) -> None:
    keys = Keys(sites)
    first = keys.of("POST", "/a?x=1", b"body")
    assert (isinstance(first, Key), str(first)) == (True, "k")
    assert keys.of("POST", "/a?x=1", b"body").fingerprint == first.fingerprint
    others = [("PUT", "/a?x=1", b"body"), ("POST", "/b?x=1", b"body"), ("POST", "/a?x=2", b"body")]
    others += [("POST", "/a?x=1", b"other"), ("POST", "/a?x=1", b"")]
    fingerprints = {keys.of(*other).fingerprint for other in others}
    assert len(fingerprints | {first.fingerprint}) == 6
    assert keys.bodies[:3] == [b"body"] * 3  # the application reads what was sent


def test_a_request_without_a_key_has_none_and_a_content_that_is_given_counts_alone(sites: Sites) -> None:
    keys = Keys(sites)
    assert keys.of("POST", "/a", b"body", {}) is None

    def given(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        keys.seen.append(idempotency_key('"k"', content=b"of mine"))
        return 200, b""

    sites.of(FakeNode(), given).ask("POST", "/b", content=b"body", headers=KEY)
    assert keys.seen[-1].fingerprint == Key("k", content=b"of mine").fingerprint


def test_outside_of_a_request_a_key_is_a_text_and_goes_by_its_change() -> None:
    assert type(idempotency_key(KEY)) is str


def test_a_part_is_a_key_of_its_own(sites: Sites) -> None:
    parts: list[Any] = []

    def two(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        parts.extend(idempotency_key('"k"', part=part) for part in ("", "2"))
        parts.append(idempotency_key(None, part="2"))
        return 200, b""

    sites.of(FakeNode(), two).ask("POST", "/b", content=b"body", headers=KEY)
    first, second, without = parts
    assert (first, second, without) == ("k", "k/2", None)
    assert second.fingerprint == first.fingerprint


HEAD = Head("POST", "/a b", b"/a%20b", b"x=\xc3\xa4", None, "", False)


def fingerprint(head: Head, *parts: bytes, ends: bool = True) -> str:
    content = Content(head)
    for number, part in enumerate(parts, 1):
        content.takes(part, is_last=ends and number == len(parts))
    return content.key("k").fingerprint


def test_a_body_is_the_same_in_however_many_parts_it_comes() -> None:
    assert fingerprint(HEAD, b"bo", b"", b"dy") == fingerprint(HEAD, b"body") != fingerprint(HEAD, b"bod")


def test_a_body_that_was_not_read_to_its_end_does_not_count() -> None:
    assert fingerprint(HEAD, b"bo", ends=False) == fingerprint(HEAD, b"x", ends=False) == fingerprint(HEAD)
    assert fingerprint(HEAD) == fingerprint(HEAD, b"")  # as one that is empty


def test_it_is_the_same_of_a_request_that_was_sent_on() -> None:
    sent_on = HEAD._replace(raw_path=b"", query=b"x=%C3%A4", is_forwarded=True)
    assert fingerprint(HEAD, b"body") == fingerprint(sent_on, b"body")


@pytest.mark.parametrize("length", [9, None])
@pytest.mark.parametrize(
    "read",
    [
        lambda heard: heard.read(),
        lambda heard: b"".join(iter(lambda: heard.read(2), b"")),
        lambda heard: b"".join(heard),
        lambda heard: b"".join(heard.readlines()),
        lambda heard: b"".join(iter(heard.readline, b"")),
    ],
    ids=["read", "read-some", "iter", "readlines", "readline"],
)
def test_wsgi_input_is_read_as_ever(read: Any, length: int | None) -> None:
    content = Content(HEAD)
    assert read(Heard(io.BytesIO(b"one\ntwo\n3"), content, length)) == b"one\ntwo\n3"
    assert content.key("k").fingerprint == fingerprint(HEAD, b"one\ntwo\n3")


def test_a_body_of_known_length_ends_with_its_last_byte() -> None:
    content = Content(HEAD)
    heard = Heard(io.BytesIO(b"body, and what follows it"), content, 4)
    assert heard.read(4) == b"body"
    assert content.key("k").fingerprint == fingerprint(HEAD, b"body")


# --- a service whose changes have a time in them ---

times = itertools.count(1.0)


@dataclass
class Uses(Commands):
    uses: list[str] = field(default_factory=list)

    @change
    def use(self, code: str, at: float) -> int:
        self.uses.append(code)
        return len(self.uses)


def fastapi_service(node: Node[Uses]) -> FastAPI:
    app = FastAPI()
    app.add_middleware(asgi.Replicated, node=node)

    @app.post("/uses/{code}")
    async def use(code: str, request: Request, body: dict[str, str] | None = None) -> int:
        return await node.asubmit(Uses.use(code, next(times)), key=idempotency_key(request.headers))

    @app.post("/streamed")
    async def streamed(request: Request) -> int:
        body = b"".join([part async for part in request.stream()])
        return await node.asubmit(Uses.use(body.decode(), next(times)), key=idempotency_key(request.headers))

    @app.post("/twice")
    def twice(request: Request) -> list[int]:
        return [node.submit(Uses.use(code, 0.0), key=idempotency_key(request.headers)) for code in "ab"]

    return app


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster[Uses]]:
    with Cluster(1, Uses) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: Cluster[Uses]) -> Iterator[TestClient]:
    with TestClient(fastapi_service(cluster["a"])) as client:
        yield client


def key(text: str) -> dict[str, str]:
    return {"Idempotency-Key": f'"{text}"'}


def uses(cluster: Cluster[Uses]) -> list[str]:
    with cluster["a"].reading() as state:
        return list(state.uses)


def test_a_repeat_is_answered_as_the_first_although_its_change_has_another_time(
    client: TestClient, cluster: Cluster[Uses]
) -> None:
    first, again = (client.post("/uses/x", json={"by": "ann"}, headers=key("f1")) for _ in range(2))
    assert (first.status_code, first.json()) == (again.status_code, again.json())
    assert uses(cluster).count("x") == 1
    # and another request with the key is refused
    for url, body in (("/uses/x", {"by": "bob"}), ("/uses/y", {"by": "ann"}), ("/uses/x?a=1", {"by": "ann"})):
        other = client.post(url, json=body, headers=key("f1"))
        assert (other.status_code, other.json()["error"]) == (422, "key_reused")


def test_a_body_in_a_stream_counts_and_is_read_by_the_application(client: TestClient, cluster: Cluster[Uses]) -> None:
    def sent(*parts: bytes) -> Any:
        return client.post("/streamed", content=iter(parts), headers=key("s1"))

    assert sent(b"str", b"eam").json() == sent(b"stream").json()
    assert uses(cluster).count("stream") == 1
    assert sent(b"other").status_code == 422


def test_a_second_change_with_the_key_of_a_request_is_refused_and_not_taken_for_a_repeat(
    client: TestClient, cluster: Cluster[Uses]
) -> None:
    answer = client.post("/twice", headers=key("t1"))
    assert (answer.status_code, answer.json()["error"]) == (422, "key_reused")
    assert 'part="2"' in answer.json()["detail"]
    assert (uses(cluster).count("a"), uses(cluster).count("b")) == (1, 0)


def test_flask_has_the_same(cluster: Cluster[Uses]) -> None:
    app = Flask(__name__)
    app.wsgi_app = wsgi.Replicated(app.wsgi_app, node=cluster["a"], start=False)  # type: ignore[method-assign]
    app.register_error_handler(ReplicatorError, wsgi.answer)

    @app.post("/uses/<code>")
    def use(code: str) -> list[Any]:
        body = flask_request.get_json()
        made = cluster["a"].submit(Uses.use(code, next(times)), key=idempotency_key(flask_request.headers))
        return [made, body]

    client = app.test_client()
    first, again = (client.post("/uses/flask", json={"by": "ann"}, headers=key("w1")) for _ in range(2))
    assert first.json == again.json == [first.json[0], {"by": "ann"}]
    assert client.post("/uses/flask", json={"by": "bob"}, headers=key("w1")).status_code == 422
    assert uses(cluster).count("flask") == 1


def test_the_key_of_a_request_may_be_given_to_its_change_again() -> None:
    key = RequestKey("k", fingerprint="0" * 32)
    for _ in range(2):
        key.give_to({"op": "x"})
    with pytest.raises(ReplicatorError, match="another change already"):
        key.give_to({"op": "y"})
