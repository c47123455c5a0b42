"""The registry: its documents, and its HTTP API with every route, header and body that somebody may send.

Requests go to the application itself, as a server would pass them on, so that nothing between refuses them first.
"""

from __future__ import annotations

import asyncio
import contextlib
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from starlette.types import ASGIApp, Message

from replicator.errors import ChangeRejected, ChangeTooLarge, NotJSON, NotPrimary, Outdated
from replicator.format.codec import SnapshotDecoder, SnapshotEncoder, decode_changes, encode_changes, encoded_keyed
from replicator.format.ids import RecordId
from replicator.format.keyed import change_in
from replicator.node.acks import Level
from replicator.node.health import Unready
from replicator.registry.api import registry_app
from replicator.registry.document import InvalidDocument, document_of, term_of
from replicator.registry.loading import pieces_of
from replicator.registry.operations import OPERATIONS
from replicator.registry.state import Registry
from tests.fuzz.core_targets import whole
from tests.fuzz.engine import MIB, Target
from tests.fuzz.mutate import NASTY_TEXTS, Choices, edit_bytes, edits, json_near
from tests.support.registry_api import Known

__all__ = ["TARGETS"]

_KEY = "a2V5"
_TIME = "2026-01-31T12:00:00Z"
_ID_MAX = 2**53 - 1

#: Everything that a document can have: tokens, roles, nulls, members that we do not know, a node with the highest id.
_DOCUMENT: dict[str, Any] = {
    "version": 1,
    "term": 5,
    "next_node": 4,
    "next_net": 3,
    "nodes": {
        "1": {"id": 1, "hostname": "db1", "public_key": _KEY, "networks": [0, 1], "tags": ["x"], "public": True},
        "2": {"id": 2, "networks": [0], "last_seen": _TIME, "later": {"x": None}},
        "3": {"id": 3, "hostname": None, "lan_addrs": ["10.0.0.1"], "networks": None},
    },
    "networks": {
        "0": {"id": 0, "name": "all", "join_rule": "open", "members": [1, 2], "member_roles": {"1": "owner"}},
        "1": {"id": 1, "name": "some", "join_rule": "token", "token": "t", "members": [1]},
        "2": {"name": "none", "join_rule": "invite", "members": None},
    },
    "trust_pairs": ["1:2"],
    "extra": [1, {"y": 2}],
}
_SMALL: dict[str, Any] = {"nodes": {"1": {}, "2": {"networks": [7]}}, "networks": {"0": {"members": [9]}}}
_HIGH: dict[str, Any] = {"next_node": _ID_MAX, "next_net": _ID_MAX, "nodes": {"5": {}}, "networks": {"1": {}}}
_DOCUMENTS: tuple[dict[str, Any], ...] = (_DOCUMENT, _SMALL, _HIGH, {})

#: A change of every kind.
_CHANGES: tuple[dict[str, Any], ...] = (
    {"op": "register", "hostname": "db9", "public_key": "bmV3", "key_created": _TIME, "last_seen": _TIME, "tags": []},
    {"op": "register", "public_key": _KEY},
    {"op": "heartbeat", "id": 1, "last_seen": _TIME, "real_addr": "10.0.0.1:1"},
    {"op": "set_hostname", "id": 1, "hostname": None},
    {"op": "set_hostname", "id": 2, "hostname": "db2"},
    {"op": "set_tags", "id": 1, "tags": ["a", "b"]},
    {"op": "rotate_key", "id": 2, "public_key": "b3RoZXI=", "key_created": _TIME},
    {"op": "update", "id": 3, "owner": "o", "public": False, "lan_addrs": [], "version": "1"},
    {"op": "create_network", "name": "new", "join_rule": "token", "token": "t", "created": _TIME},
    {"op": "create_network", "name": "mine", "creator": 1, "join_rule": "invite"},
    {"op": "join", "network": 0, "node": 3, "role": "guest"},
    {"op": "join", "network": 1, "node": 2, "token": "t"},
    {"op": "join", "network": 2, "node": 2, "invited_by": 1},
    {"op": "trust", "a": 1, "b": 3},
    {"op": "untrust", "a": 1, "b": 2},
    {"op": "leave", "network": 0, "node": 1},
    {"op": "leave", "network": 0, "node": 9},
    {"op": "delete_network", "id": 0},
    {"op": "deregister", "id": 1},
    {"op": "deregister", "id": _ID_MAX},
    {"op": "register"},
)

# --- documents -------------------------------------------------------------------------------------------------------


def _document(choices: Choices) -> tuple[list[bytes], list[int]]:
    """The JSON of pieces, and which changes come after them."""
    document = choices.pick((_DOCUMENT, _DOCUMENT, *_DOCUMENTS))
    if choices.below(4):
        texts = [json_near(choices, document)]
    else:
        head = {name: value for name, value in document.items() if name != "nodes"}
        pieces: list[dict[str, Any]] = [head, {"nodes": document.get("nodes", {})}, {"nodes": {"77": {}}}]
        texts = [json_near(choices, piece) for piece in pieces]
    return texts, [choices.below(len(_CHANGES)) for _ in range(choices.below(6))]


def _load_document(given: tuple[list[bytes], list[int]]) -> bool:
    texts, changes = given
    try:
        pieces = [orjson.loads(text) for text in texts]
    except orjson.JSONDecodeError:
        return False
    registry = Registry()
    try:
        registry.restore(pieces)
        term = term_of(pieces[0])
        drawn = list(pieces_of(pieces[0])) if len(pieces) == 1 else None
    except InvalidDocument:
        return False
    found = list(registry.snapshot())
    assert drawn is None or drawn == found
    if not _fits_into_records(found):
        return False
    check_registry(registry, term)
    for number in changes:
        with contextlib.suppress(ChangeRejected):
            registry.apply(_CHANGES[number])
    check_registry(registry, term)
    return True


def _fits_into_records(pieces: list[Any]) -> bool:
    """Whether a primary would take it: its encoder refuses what is nested too deeply, before anything is written."""
    try:
        for piece in pieces:
            SnapshotEncoder().feed(piece)
    except (ChangeTooLarge, NotJSON):
        return False
    return True


def check_registry(registry: Registry, term: int) -> None:
    """What it gives out can be taken in again by another node, and is the same there."""
    pieces = list(registry.snapshot())
    again = Registry()
    again.restore(orjson.loads(orjson.dumps(piece)) for piece in pieces)
    assert list(again.snapshot()) == pieces
    document = orjson.loads(b"".join(document_of(pieces, term)))
    assert list(pieces_of(document)) == pieces
    assert len(registry) == len(registry.nodes(limit=10_000))


def _change(choices: Choices) -> tuple[int, list[bytes]]:
    return choices.below(3), [json_near(choices, choices.pick(_CHANGES)) for _ in range(1 + choices.below(3))]


def _apply(given: tuple[int, list[bytes]]) -> bool:
    which, texts = given
    registry = Registry()
    registry.restore([_DOCUMENTS[which]])
    applied = 0
    for text in texts:
        with contextlib.suppress(orjson.JSONDecodeError, ChangeRejected):
            assert type(registry.apply(orjson.loads(text))) is dict
            applied += 1
    check_registry(registry, 5)
    return applied > 0


# --- a node to be served ---------------------------------------------------------------------------------------------


@dataclass
class _Position:
    id: RecordId = field(default_factory=lambda: RecordId(5, 1042))


@dataclass
class _Lag:
    records: int | None = 0
    ms: int | None = 0


@dataclass
class _Node(Known):
    """A node alone. Changes and documents go through the real codec: what it does not take, a real node does not."""

    name: str = "a"
    group: str = "registry"
    role: str = "primary"
    term: int = 5
    position: _Position = field(default_factory=_Position)
    in_sync: bool = True
    lag: _Lag = field(default_factory=_Lag)
    state_problem: str | None = None
    primary_http: str | None = None
    lease_ms: int | None = 4000
    leads: bool = True
    problem: str = ""
    unready: Unready | None = None
    registry: Registry = field(default_factory=Registry)

    async def asubmit(
        self,
        change: Any,
        *,
        timeout_s: float = 10.0,
        term: int | None = None,
        ack: str | None = None,
        key: str | None = None,
    ) -> Any:
        if ack is not None:
            Level.parse(ack)
        if self.role != "primary":
            raise NotPrimary(node=self.name, primary=self.primary_http)
        json, _, keyed = encoded_keyed([change], [key])
        codec, body, digest = encode_changes([json], "keyed" if keyed else "json")
        (entry,) = decode_changes(codec, body, digest, 1, id_="5-1043")
        return self.registry.apply(change_in(entry))

    def replace(
        self, pieces: Iterable[Any], *, term: int | None = None, ack: str | None = None, expect: str | None = None
    ) -> None:
        if expect is not None and RecordId.parse(expect) != self.position.id:
            raise Outdated(expect=expect, position=self.position.id)
        encoder = SnapshotEncoder()
        body = b"".join([*map(encoder.feed, pieces), encoder.finish()])
        self.registry.restore(SnapshotDecoder(encoder.codec, encoder.digest, id_="5-1043").pieces([body]))

    def wait(self, *, position: str, timeout_s: float) -> None:
        if RecordId.parse(position) > self.position.id:
            raise TimeoutError

    @contextlib.contextmanager
    def reading(self, *, fresh: bool = False, timeout_s: float = 5.0, blocks: bool = True) -> Iterator[Registry]:
        yield self.registry


# --- requests --------------------------------------------------------------------------------------------------------


class _Request(NamedTuple):
    """As a server passes it on: `target` is the path as it was sent, `chunks` are those of the body."""

    method: str
    target: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    chunks: list[bytes]
    role: str
    primary_http: str | None


def _fields(*names: str) -> list[dict[str, Any]]:
    """The bodies of the routes that make changes of these kinds: all but what the URL says."""
    left = ("op", "id", "network", "node", "a", "b")
    return [{k: v for k, v in one.items() if k not in left} for one in _CHANGES if one["op"] in names]


_ROUTES: tuple[tuple[str, str, list[dict[str, Any]]], ...] = (
    ("POST", "/v1/nodes", _fields("register")),
    ("GET", "/v1/nodes", []),
    ("GET", "/v1/nodes/{1}", []),
    ("PATCH", "/v1/nodes/{1}", _fields("update", "set_hostname", "set_tags", "rotate_key")),
    ("DELETE", "/v1/nodes/{1}", []),
    ("POST", "/v1/nodes/{1}/heartbeat", _fields("heartbeat")),
    ("POST", "/v1/networks", _fields("create_network")),
    ("GET", "/v1/networks", []),
    ("DELETE", "/v1/networks/{0}", []),
    ("PUT", "/v1/networks/{0}/members/{2}", _fields("join")),
    ("DELETE", "/v1/networks/{0}/members/{1}", []),
    ("PUT", "/v1/trust/{1}/{3}", []),
    ("DELETE", "/v1/trust/{1}/{2}", []),
    ("POST", "/v1/changes", list(_CHANGES)),
    ("GET", "/v1/state", []),
    ("PUT", "/v1/state", list(_DOCUMENTS)),
    ("PUT", "/v1/state", [_DOCUMENT]),
    ("GET", "/health", []),
    ("GET", "/ready", []),
)
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "")
_QUERIES = (
    b"", b"limit=1", b"limit=1001", b"limit=-1", b"limit=0", b"limit=", b"limit", b"after=1", b"after=" + b"9" * 16,
    b"after=" + b"9" * 5000, b"limit=1&limit=x", b"any_term=1", b"any_term=2", b"any_term=%00", b"after=%ff%fe",
    b"after=\xff\xfe", b"\xc3\xa9=\xc3\xa9", b"after=%D9%A3", b"%", b"&&&=", b"a" * 3000, b"after=1;limit=2",
    b"limit=1e3", b"force=1", b"force=x", b"force=1&any_term=1",
)  # fmt: skip
_HEADERS = (
    (b"replicator-term", (b"5", b"4", b"6", b"0")),
    (b"replicator-wait", (b"5-1042", b"5-1043", b"4-9", b"9999999999999999-1")),
    (b"replicator-fresh", (b"1", b"0")),
    (b"if-match", (b'"5-1042"', b"5-1042", b'"5-1"', b"*", b'W/"5-1042"')),
    (b"idempotency-key", (b'"k"', b'""', b"k", b'"\\"', b'"' + b"k" * 5000 + b'"', b'"a \\" b"')),
    (b"replicator-ack", (b"appended", b"applied:1", b"fsynced", b"replicated:2", b"applied:" + b"9" * 5000)),
    (b"content-length", (b"0", b"7", b"99999999999", b"1048577")),
    (b"content-type", (b"application/json", b"text/plain", b"multipart/form-data")),
    (b"expect", (b"100-continue",)),
    (b"accept-encoding", (b"gzip",)),
    (b"host", (b"a:7001", b"[::1", b"", b"\xff")),
)
_NASTY_VALUES = tuple(text.encode("utf-8", "surrogateescape").replace(b"\n", b" ") for text in NASTY_TEXTS)
_SEGMENTS = (
    "1",
    "2",
    "0",
    "77",
    str(_ID_MAX),
    "9" * 16,
    "9" * 5000,
    *(urllib.parse.quote(t, safe="") for t in NASTY_TEXTS),
)


def _request(choices: Choices) -> _Request:
    method, target, bodies = choices.pick(_ROUTES)
    if choices.once_in(16):
        method = choices.pick(_METHODS)
    role, primary = choices.pick((("primary", None),) * 6 + (("standby", None), ("standby", "http://b:7002/")))
    query = choices.pick(_QUERIES) if choices.once_in(4) else b""
    headers = [_header(choices) for _ in choices.few(3)]
    return _Request(method, _target(choices, target), query, headers, _chunks(choices, bodies), role, primary)


def _target(choices: Choices, template: str) -> str:
    for known in ("1", "0", "2", "3"):
        segment = choices.pick(_SEGMENTS) if choices.once_in(8) else known
        template = template.replace("{" + known + "}", segment)
    if choices.once_in(16):
        raw = edit_bytes(template.encode(), edits(choices)).replace(b"?", b"").replace(b"#", b"")
        template = "/" + urllib.parse.quote(raw, safe="/%")
    return template


def _header(choices: Choices) -> tuple[bytes, bytes]:
    name, values = choices.pick(_HEADERS)
    return name, choices.pick(_NASTY_VALUES) if choices.once_in(4) else choices.pick(values)


def _chunks(choices: Choices, bodies: list[dict[str, Any]]) -> list[bytes]:
    kind = choices.below(16)
    body = json_near(choices, choices.pick(bodies)) if bodies else b""
    if kind == 15:
        body = choices.pick((b"", b"[]", b"{", b"{}", b"\x00" * 100, b" " * (1024 * 1024 + 1), choices.bytes(30)))
    if kind == 14:
        return [body[at : at + 7] for at in range(0, min(len(body), 500), 7)] + [body[504:], b""]
    return [body]


# --- a server of one request at a time -------------------------------------------------------------------------------


class _Served:
    """The application, a node and an event loop that are used again and again."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._node = _Node()
        self._app: ASGIApp = registry_app(self._node, wait_timeout_s=0.01)
        self._before = orjson.dumps(_DOCUMENT)

    def serve(self, request: _Request) -> bool:
        self._node.role, self._node.primary_http = request.role, request.primary_http
        self._node.registry = Registry()
        self._node.registry.restore([_DOCUMENT])
        status, headers, body = self._loop.run_until_complete(self._answer(request))
        _check_answer(request, status, headers, body)
        check_registry(self._node.registry, self._node.term)
        assert orjson.dumps(_DOCUMENT) == self._before, "a record was changed in its place"
        return status < 400

    async def _answer(self, request: _Request) -> tuple[int, dict[bytes, bytes], bytes]:
        sent: list[Message] = []
        waiting = list(request.chunks)

        async def receive() -> Message:
            if not waiting:
                # The client stays until it has its answer.
                await asyncio.Event().wait()
            return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

        async def send(message: Message) -> None:
            sent.append(message)

        await self._app(_scope(request), receive, send)
        start = sent[0]
        assert start["type"] == "http.response.start"
        assert not sent[-1].get("more_body", False)
        return start["status"], dict(start["headers"]), b"".join(one.get("body", b"") for one in sent[1:])


def _scope(request: _Request) -> dict[str, Any]:
    """The scope that a server makes of it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": urllib.parse.unquote(request.target),
        "raw_path": request.target.encode("ascii"),
        "query_string": request.query,
        "root_path": "",
        "headers": [(b"host", b"a:7001"), *request.headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 7001),
    }


#: The only answers above 499 that a node which can be reached gives to a request: no primary, and not yet applied.
_EXPECTED_ERRORS = {(503, "not_primary"), (504, "wait_timeout")}


def _check_answer(request: _Request, status: int, headers: dict[bytes, bytes], body: bytes) -> None:
    if request.method == "OPTIONS" and status < 300:
        assert (body, b"allow" in headers) == (b"", True), (status, headers, body[:200])
        return
    assert headers.get(b"content-type") == b"application/json", (status, headers, body[:200])
    assert {b"replicator-position", b"replicator-role", b"replicator-term"} <= headers.keys()
    if request.method == "HEAD" and not body:
        return  # what the middleware answers itself leaves it out; of what an application gives, a server does
    answer = orjson.loads(body)
    if status >= 300:
        assert answer.keys() >= {"error", "field", "message"}
        assert answer["message"]
    assert status < 500 or (status, answer["error"]) in _EXPECTED_ERRORS, (status, answer)
    if status == 307:
        headers[b"location"].decode("ascii")


@contextlib.contextmanager
def _serving() -> Iterator[Callable[[Any], bool]]:
    loop = asyncio.new_event_loop()
    try:
        yield _Served(loop).serve
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


assert {one["op"] for one in _CHANGES} == set(OPERATIONS)

TARGETS = (
    Target(name="document", build=_document, opened=whole(_load_document)),
    Target(name="operation", build=_change, opened=whole(_apply)),
    # A body may have 1 MiB, and is there twice while it is read.
    Target(name="http", build=_request, size=64, opened=_serving, bytes_max=16 * MIB),
)
