"""The registry over HTTP: reads on every node, writes on the primary, and answers that say how fresh they are.

Rules that hold for every answer, errors and unknown routes included:

- It carries `Replicator-Position`, `Replicator-Role` and `Replicator-Term`. A read carries the very position whose
  state it shows; every other answer one that is read after the work, so a write's answer names a position at or after
  the write: hand it back as `Replicator-Wait` to any node, and that node answers once it has applied that much.
- Its body is JSON, and an error's is `{"error": code, "field": name or null, "message": what to do}`.

Rules for requests:

- A write to a standby is sent on to the primary (307; the same path, query and body) or, when there is none, answered
  503 with `Retry-After`. A node that calls itself primary never redirects, so redirects cannot go round in circles.
- `Replicator-Fresh: 1` on a read has all that was committed when the request came in the answer, on any node.
- `Replicator-Ack: LEVEL` on a write (`applied:1`, say) has it answered once the change has come that far.
- `Replicator-Term: N` on a write is a promise that the sender knows the newest term: a lower N was replaced, and a
  higher one was issued by nobody, and both are refused (409). On a standby a higher N is for the primary to judge.
- `PUT /v1/state` replaces everything. Unless there is nothing yet it says what it replaces: `If-Match`, with the
  position that its sender saw (the `ETag` of a `GET`), or `?force=1`. What was seen is compared in the turn in which
  the new state is written, so no change comes in between.
- Times that a change needs and the sender left out are stamped here: the state itself reads no clock.
- `Envelope` is the one place where exceptions become answers, by the table `ANSWERS`. Handlers only raise.

Nothing waits on the event loop. What waits for the node's lock, or for a position, does so on threads; a write is a
task of the node (`Node.asubmit`), so writers that wait for an acknowledgement cost no thread. Reads, waits, writes and
replacements of the state have a pool each (`pools.py`): none of them fills that of another, and who finds its own one
full is answered 503 at once.
"""

from __future__ import annotations

import datetime
import gc
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from replicator.errors import (
    ChangeRejected,
    ChangeTooLarge,
    ConfigError,
    CorruptRecord,
    Fenced,
    LeaseLost,
    LogLost,
    LogUnavailable,
    NotAcknowledged,
    NotJSON,
    NotPrimary,
    NotRunning,
    OutcomeUnknown,
    Outdated,
    PositionLost,
    ReplicatorError,
    SnapshotFailed,
    Stalled,
    WrongProcess,
)
from replicator.registry.state import (
    Conflict,
    IncompleteDocument,
    InvalidDocument,
    Record,
    Registry,
    UnknownId,
    check_complete,
    pieces_of,
    term_of,
)

from ..web.pools import Full, Pool, Pools

__all__ = ["ServedNode", "health_app", "registry_app"]

log = logging.getLogger(__name__)

#: A change must fit into a record of the log, which is far smaller; this only bounds what is read.
BODY_BYTES_MAX = 1024 * 1024

#: Six times the reference size.
DOCUMENT_BYTES_MAX = 512 * 1024 * 1024

#: How much of a body that nobody wants is read and dropped, so that its sender gets to see the answer.
DROPPED_BYTES_MAX = 2 * DOCUMENT_BYTES_MAX

#: Shorter than the patience of common clients and proxies (30 s and up), so that ours is the answer they see.
WAIT_TIMEOUT_S = 10.0

#: A client that comes back sooner finds the same: renewals and promotions take about this long.
RETRY_AFTER_S = 1

PAGE_LENGTH = 100
PAGE_LENGTH_MAX = 1000

#: What is served of any node, whatever its state is.
HEALTH_PATHS = ("/health", "/ready")

#: Ids are exact in every JSON reader.
ID_MAX = 2**53 - 1

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]


# --- What is served -------------------------------------------------------------------------------------------------


class ServedPosition(Protocol):
    @property
    def id(self) -> object: ...


class ServedLag(Protocol):
    @property
    def records(self) -> int | None: ...
    @property
    def seconds(self) -> float | None: ...


class ServedUnready(Protocol):
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...


class ServedNode(Protocol):
    """What the API needs of a node. The properties answer at once; the methods may block and are called on threads,
    but for `asubmit`, which is awaited.
    """

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def role(self) -> str:
        """ "primary" or "standby"."""
        ...

    @property
    def leads(self) -> bool:
        """Whether it can take writes now."""
        ...

    @property
    def term(self) -> int: ...
    @property
    def position(self) -> ServedPosition:
        """`str(position.id)` is like "5-1042"."""
        ...

    @property
    def in_sync(self) -> bool: ...
    @property
    def lag(self) -> ServedLag: ...
    @property
    def held_up(self) -> str | None:
        """Why the state does not become what it should be, if so."""
        ...

    @property
    def problem(self) -> str:
        """What is in its way now, in words, or nothing."""
        ...

    @property
    def unready(self) -> ServedUnready | None:
        """Why it cannot do its role's work now, if so."""
        ...

    @property
    def primary_http(self) -> str | None:
        """The URL of the current primary."""
        ...

    @property
    def lease_ms(self) -> int | None: ...

    async def asubmit(
        self, change: Any, *, timeout_s: float = 10.0, term: int | None = None, ack: str | None = None
    ) -> Any:
        """Have a change appended and applied; what apply returned. With `term`: in that one, or not at all.

        `ack`: how far it has to have come, `applied:1` for example.
        """
        ...

    def replace(
        self, pieces: Iterable[Any], *, term: int | None = None, ack: str | None = None, expect: str | None = None
    ) -> None:
        """Make these pieces the whole state, on all nodes, at one record. `term`, `ack`: as for `asubmit`.

        `expect`: a position; only if the state is still what it was there (`Outdated`).
        """
        ...

    def wait(self, *, position: str, timeout_s: float) -> None:
        """Return once that position is applied. Raises TimeoutError."""
        ...

    def reading(self, *, fresh: bool = False, timeout_s: float = 5.0) -> AbstractContextManager[Registry]:
        """Give the state; nothing is applied meanwhile, so hold it shortly. `fresh`: all that is committed is in it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Where a node is. Stamped on every answer."""

    position: str
    role: str
    term: int

    @classmethod
    def of(cls, node: ServedNode) -> Facts:
        return cls(position=str(node.position.id), role=node.role, term=node.term)

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [
            (b"replicator-position", self.position.encode()),
            (b"replicator-role", self.role.encode()),
            (b"replicator-term", str(self.term).encode()),
        ]


# --- Answers --------------------------------------------------------------------------------------------------------


class Refusal(Exception):
    """A request that HTTP itself is enough to refuse."""

    def __init__(self, status: int, code: str, message: str, *, field: str | None = None, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.field = field
        #: Further members of the answer.
        self.more = more


#: Error -> status and code; the entry of the nearest base class counts. NotPrimary and Fenced redirect where they can.
ANSWERS: dict[type[BaseException], tuple[int, str]] = {
    Full: (503, "busy"),
    UnknownId: (404, "unknown_id"),
    Conflict: (409, "conflict"),
    IncompleteDocument: (400, "incomplete_document"),
    InvalidDocument: (422, "invalid_document"),
    ChangeRejected: (422, "rejected"),
    ChangeTooLarge: (413, "change_too_large"),
    NotJSON: (422, "not_json"),
    LeaseLost: (503, "lease_lost"),
    NotRunning: (503, "not_running"),
    NotPrimary: (503, "not_primary"),
    Fenced: (409, "fenced"),
    Outdated: (412, "outdated"),
    OutcomeUnknown: (504, "outcome_unknown"),
    NotAcknowledged: (504, "not_acknowledged"),
    LogUnavailable: (503, "log_unavailable"),
    LogLost: (503, "log_lost"),
    CorruptRecord: (503, "corrupt_record"),
    PositionLost: (409, "position_lost"),
    ConfigError: (400, "invalid_header"),
    Stalled: (500, "stalled"),
    SnapshotFailed: (500, "snapshot_failed"),
    WrongProcess: (500, "wrong_process"),
    ReplicatorError: (500, "failed"),
}


def json_answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), status, headers, "application/json")


def error_answer(
    status: int,
    code: str,
    message: str,
    field: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    **more: Any,
) -> Response:
    retry = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    return json_answer(
        {"error": code, "field": field, "message": message, **more}, status, {**retry, **(headers or {})}
    )


def answer_to(error: Exception, node: ServedNode, request: Request) -> Response:
    """The answer that an exception comes to."""
    if isinstance(error, Refusal):
        return error_answer(error.status, error.code, str(error), error.field, **error.more)
    elsewhere = isinstance(error, NotPrimary | Fenced) and not isinstance(error, LeaseLost)
    if elsewhere and (location := _on_the_primary(node, request)):
        headers = {"Location": location}
        return error_answer(307, "not_primary", str(error), headers=headers, location=location)
    for kind in type(error).__mro__:
        if kind in ANSWERS:
            status, code = ANSWERS[kind]
            if kind is ReplicatorError:
                log.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
            return error_answer(status, code, str(error), getattr(error, "field", None))
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_answer(500, "internal", "something went wrong in this node; its log has the details")


#: What a query may have in it as it is; what is escaped already stays so.
ASCII_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def _on_the_primary(node: ServedNode, request: Request) -> str | None:
    """The request's own URL on the primary. None if nobody knows it, or if this node takes itself for the primary."""
    base = node.primary_http
    if base is None or node.role == "primary":
        return None
    raw_path: bytes | None = request.scope.get("raw_path")
    path = quote(raw_path, safe=ASCII_PRINTABLE) if raw_path else quote(request.scope["path"])
    # Some servers pass on bytes that are not ASCII. In a URL they are escaped.
    query = quote(request.scope["query_string"], safe=ASCII_PRINTABLE)
    return base.rstrip("/") + path + (f"?{query}" if query else "")


async def _no_route(request: Request, error: Exception) -> Response:
    """What the router refuses: unknown routes and wrong methods."""
    assert isinstance(error, HTTPException)
    known = {404: ("unknown_route", "there is nothing at this path"), 405: ("wrong_method", "not with this method")}
    code, message = known.get(error.status_code, ("refused", str(error.detail)))
    return error_answer(error.status_code, code, message, headers=error.headers)


# --- Around every request -------------------------------------------------------------------------------------------

#: Where a handler that read under the lock leaves the facts that belong to what it read.
FACTS = "replicator.facts"

INTEGER = re.compile(r"[0-9]{1,16}")
ACK = re.compile(r"[a-z]{1,16}(:[0-9]{1,16})?")
POSITION = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")

#: An entity tag of ours. Some proxies weaken what they compress.
TAG = re.compile(rf'(?:W/)?"({POSITION.pattern})"|({POSITION.pattern})')


class Envelope:
    """Waits for `Replicator-Wait`, stamps what goes out, and turns what is raised into an answer."""

    def __init__(self, app: ASGIApp, *, node: ServedNode, wait_timeout_s: float, waits: Pool) -> None:
        self._app = app
        self._node = node
        self._wait_timeout_s = wait_timeout_s
        self._waits = waits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                facts = scope.get(FACTS) or Facts.of(self._node)
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *facts.headers]}
            await send(message)

        request = Request(scope)
        try:
            await self._wait(request)
            await self._app(scope, receive, stamped)
        except ClientDisconnect:
            return
        except Exception as error:
            if started:
                raise
            # Where the node is another process' there are no facts to stamp.
            stamps = send if isinstance(error, WrongProcess) else stamped
            await answer_to(error, self._node, request)(scope, receive, stamps)

    async def _wait(self, request: Request) -> None:
        position = request.headers.get("replicator-wait")
        if position is None:
            return
        if not POSITION.fullmatch(position):
            message = "Replicator-Wait must be a position as Replicator-Position gives it, like 5-1042"
            raise Refusal(400, "invalid_header", message, field="Replicator-Wait")
        wait = partial(self._node.wait, position=position, timeout_s=self._wait_timeout_s)
        try:
            with self._waits.place():
                await self._waits.on_thread(wait)
        except TimeoutError:
            message = f"{position} was not applied here within {self._wait_timeout_s:g} s; ask again, or another node"
            raise Refusal(504, "wait_timeout", message, field="Replicator-Wait") from None


# --- Reading requests -----------------------------------------------------------------------------------------------


async def read_body(request: Request, bytes_max: int) -> bytearray:
    """The body. Raises Refusal if it is longer than `bytes_max`, of which no more than that is held in memory."""
    body, fits = bytearray(), (_integer(request.headers.get("content-length", "0")) or 0) <= bytes_max
    if fits:
        async for chunk in request.stream():
            fits = fits and len(body) + len(chunk) <= bytes_max
            if fits:
                body += chunk
            else:
                body.clear()
    else:
        await drop_body(request)
    if not fits:
        raise Refusal(413, "too_large", f"the body must be at most {bytes_max} bytes; send less", field="body")
    return body


async def drop_body(request: Request) -> None:
    """Read the body and drop it: a sender that is not done sending would see a broken connection and no answer.

    One that asked first (`Expect: 100-continue`) has not begun, and waits for the answer.
    """
    if "expect" in request.headers:
        return
    dropped = 0
    async for chunk in request.stream():
        dropped += len(chunk)
        if dropped > DROPPED_BYTES_MAX:
            return


def parsed(body: bytearray) -> Any:
    """The JSON value of a body."""
    try:
        with _collector_paused():
            return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, "invalid_json", f"the body is not JSON: {error}", field="body") from None


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Python's collector looks again and again at a growing document and finds nothing: 2.6 times the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


async def read_fields(request: Request, *of_the_path: str) -> Record:
    """The fields of a change that the body gives; an empty body gives none."""
    body = await read_body(request, BODY_BYTES_MAX)
    fields = parsed(body) if body else {}
    if type(fields) is not dict:
        raise Refusal(422, "rejected", "the body must be a JSON object")
    for name in ("op", *of_the_path):
        if name in fields:
            raise Refusal(422, "rejected", f"{name} is not a field here: the URL says it; leave it out", field=name)
    return fields


def path_id(request: Request, name: str) -> int:
    text: str = request.path_params[name]
    value = _integer(text)
    if value is None:
        raise Refusal(404, "unknown_id", f"{text} is not an id: ids are integers", field=name)
    return value


def query_integer(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    value = _integer(text)
    if value is None or not least <= value <= most:
        raise Refusal(400, "invalid_query", f"{name} must be an integer from {least} to {most}", field=name)
    return value


def _integer(text: str) -> int | None:
    return int(text) if INTEGER.fullmatch(text) else None


def now() -> str:
    """RFC 3339, in UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# --- The decision about a document ----------------------------------------------------------------------------------


def document_verdict(term: int, current: int) -> str:
    """What becomes of a document of `term` on a node of term `current`: "load", "stale", or "future".

    A document without a term (0) is from before terms, and whoever sends it means it. An older one was left behind by a
    failover. A higher term was issued by nobody, and taking it over would lock the group out of the terms below it.
    """
    if term in (0, current):
        return "load"
    return "stale" if term < current else "future"


# --- The endpoints --------------------------------------------------------------------------------------------------


class RegistryApi:
    """One method per route. Each reads its request, calls the node, and gives the answer or raises."""

    def __init__(self, node: ServedNode, *, wait_timeout_s: float, pools: Pools) -> None:
        self._node = node
        self._wait_timeout_s = wait_timeout_s
        self._pools = pools

    def routes(self) -> list[Route]:
        """One route per path, so that a wrong method is told which ones there are."""
        table: dict[str, dict[str, Endpoint]] = {
            "/v1/nodes": {"GET": self.list_nodes, "POST": self.register},
            "/v1/nodes/{id}": {"GET": self.get_node, "PATCH": self.update_node, "DELETE": self.deregister},
            "/v1/nodes/{id}/heartbeat": {"POST": self.heartbeat},
            "/v1/networks": {"GET": self.list_networks, "POST": self.create_network},
            "/v1/networks/{id}": {"DELETE": self.delete_network},
            "/v1/networks/{network}/members/{node}": {"PUT": self.join, "DELETE": self.leave},
            "/v1/trust/{a}/{b}": {"PUT": self.trust, "DELETE": self.untrust},
            "/v1/changes": {"POST": self.change},
            "/v1/state": {"GET": self.get_state, "PUT": self.put_state},
            "/health": {"GET": self.health},
            "/ready": {"GET": self.ready},
        }
        for path, methods in table.items():
            pool = self._pools.replacements if path == "/v1/state" else self._pools.writes
            methods.update({name: _within(pool, methods[name]) for name in methods if name != "GET"})
        return [Route(path, _by_method(methods), methods=list(methods)) for path, methods in table.items()]

    # Nodes

    async def register(self, request: Request) -> Response:
        await self._refuse_unless_primary(request)
        fields = await read_fields(request)
        fields.setdefault("last_seen", now())
        result = await self._submit(request, "register", fields)
        return json_answer(result, 201 if result["created"] else 200)

    async def list_nodes(self, request: Request) -> Response:
        return await self._page(request, "nodes", Registry.nodes)

    async def get_node(self, request: Request) -> Response:
        node = path_id(request, "id")
        record = await self._read(request, lambda registry: registry.node(node))
        if record is None:
            raise Refusal(404, "unknown_id", f"there is no node {node}", field="id")
        return json_answer(record)

    async def update_node(self, request: Request) -> Response:
        await self._refuse_unless_primary(request)
        node, fields = path_id(request, "id"), await read_fields(request, "id")
        operation = OPERATION_OF_FIELDS.get(frozenset(fields), "update")
        return json_answer(await self._submit(request, operation, fields, id=node))

    async def deregister(self, request: Request) -> Response:
        return await self._write(request, "deregister", "id")

    async def heartbeat(self, request: Request) -> Response:
        await self._refuse_unless_primary(request)
        node, fields = path_id(request, "id"), await read_fields(request, "id")
        fields.setdefault("last_seen", now())
        return json_answer(await self._submit(request, "heartbeat", fields, id=node))

    # Networks and trust

    async def create_network(self, request: Request) -> Response:
        await self._refuse_unless_primary(request)
        fields = await read_fields(request)
        fields.setdefault("created", now())
        return json_answer(await self._submit(request, "create_network", fields), 201)

    async def list_networks(self, request: Request) -> Response:
        return await self._page(request, "networks", _networks_without_tokens)

    async def delete_network(self, request: Request) -> Response:
        return await self._write(request, "delete_network", "id")

    async def join(self, request: Request) -> Response:
        return await self._write(request, "join", "network", "node")

    async def leave(self, request: Request) -> Response:
        return await self._write(request, "leave", "network", "node")

    async def trust(self, request: Request) -> Response:
        return await self._write(request, "trust", "a", "b")

    async def untrust(self, request: Request) -> Response:
        return await self._write(request, "untrust", "a", "b")

    # A change as the log has it, and as `replicator forks export` gives it

    async def change(self, request: Request) -> Response:
        await self._refuse_unless_primary(request)
        change = parsed(await read_body(request, BODY_BYTES_MAX))
        if type(change) is not dict:
            raise Refusal(422, "rejected", "a change is a JSON object")
        return json_answer({"result": await self._commit(request, change)})

    # The whole document

    async def get_state(self, request: Request) -> Response:
        chunks = await self._read(request, lambda registry: registry.document(self._node.term))
        tag = {"ETag": f'"{request.scope[FACTS].position}"'}
        return StreamingResponse(chunks, media_type="application/json", headers=tag)

    async def put_state(self, request: Request) -> Response:
        await self._refuse_unless_primary(request)
        body = await read_body(request, DOCUMENT_BYTES_MAX)
        asked = _Replacement.asked_for(request)
        return await self._pools.replacements.on_thread(lambda: self._load(parsed(body), asked))

    def _load(self, document: Any, asked: _Replacement) -> Response:
        term, current = term_of(document), self._node.term
        verdict = "load" if asked.any_term else document_verdict(term, current)
        if verdict == "stale":
            log.warning("a document of term %d was not loaded: the current term is %d", term, current)
            return json_answer({"applied": False, "reason": "stale", "term": current})
        if verdict == "future":
            message = f"term {term} was never issued here, the current one is {current}; ?any_term=1 loads it anyway"
            raise Refusal(409, "unknown_term", message, field="term", term=current)
        check_complete(document)
        expect = asked.expect if asked.expect or asked.force else self._place_without_anything()
        with _collector_paused():
            pieces = pieces_of(document)
        try:
            # In the term that the verdict was about: the node may have been replaced and promoted again since.
            self._node.replace(pieces, term=current, ack=asked.ack, expect=expect)
        except Outdated:
            if asked.expect is None:  # it was empty a moment ago
                raise _not_empty(str(self._node.position.id)) from None
            raise
        return json_answer({"applied": True, "term": self._node.term, "nodes": len(document.get("nodes") or ())})

    def _place_without_anything(self) -> str:
        """Where the state is, if there is nothing in it to be lost."""
        with self._node.reading() as registry:
            place = str(self._node.position.id)
            if registry.is_pristine:
                return place
        raise _not_empty(place)

    # Health

    async def health(self, request: Request) -> Response:
        node, unready = self._node, self._node.unready
        return json_answer(
            {
                "name": node.name,
                "group": node.group,
                "role": node.role,
                "leads": node.leads,
                "term": node.term,
                "position": str(node.position.id),
                "in_sync": node.in_sync,
                "lag_records": node.lag.records,
                "lag_seconds": node.lag.seconds,
                "lease_ms": node.lease_ms,
                "stalled": node.held_up,
                "ready": unready is None,
                "problem": node.problem or (unready.message if unready else None),
                "primary_http": node.primary_http,
            }
        )

    async def ready(self, request: Request) -> Response:
        unready = self._node.unready
        if unready is not None:
            return error_answer(503, unready.code, unready.message)
        return json_answer({"ready": True, "role": self._node.role})

    # What they share

    async def _read(self, request: Request, look: Callable[[Registry], T]) -> T:
        """What `look` finds in the state, and the facts that belong to exactly that state."""

        fresh = _wants_fresh(request)

        def under_the_lock() -> tuple[T, Facts]:
            with self._node.reading(fresh=fresh, timeout_s=self._wait_timeout_s) as registry:
                return look(registry), Facts.of(self._node)

        pool = self._pools.waits if fresh else self._pools.reads
        try:
            with pool.place():
                found, request.scope[FACTS] = await pool.on_thread(under_the_lock)
        except TimeoutError as error:
            raise Refusal(504, "wait_timeout", str(error), field="Replicator-Fresh") from None
        return found

    async def _page(self, request: Request, name: str, page: Callable[..., dict[int, Record]]) -> Response:
        limit = query_integer(request, "limit", PAGE_LENGTH, 1, PAGE_LENGTH_MAX)
        after = query_integer(request, "after", -1, 0, ID_MAX)
        # One more than asked for says whether there is a next page.
        found = await self._read(request, lambda registry: page(registry, after=after, limit=limit + 1))
        ids = list(found)[:limit]
        following = ids[-1] if len(found) > limit else None
        return json_answer({name: [found[number] for number in ids], "next": following})

    async def _write(self, request: Request, operation: str, *of_the_path: str) -> Response:
        await self._refuse_unless_primary(request)
        fields = await read_fields(request, *of_the_path)
        ids = {name: path_id(request, name) for name in of_the_path}
        return json_answer(await self._submit(request, operation, fields, **ids))

    async def _submit(self, request: Request, operation: str, fields: Record, **ids: int) -> Any:
        if "public_key" in fields:
            fields.setdefault("key_created", now())
        return await self._commit(request, {"op": operation, **ids, **fields})

    async def _commit(self, request: Request, change: Record) -> Any:
        try:
            return await self._node.asubmit(change, term=_sent_term(request), ack=_sent_ack(request))
        except TimeoutError:
            message = "no answer in time: the change may or may not be in the log; read before you repeat it"
            raise Refusal(504, "outcome_unknown", message) from None

    async def _refuse_unless_primary(self, request: Request) -> None:
        """Raise unless this node may take the write, by its role and by the term that the sender knows."""
        try:
            sent, current = _sent_term(request), self._node.term
            if sent is not None and sent < current:
                message = f"term {sent} is over, the current one is {current}; look at the state before you write"
                raise Refusal(409, "stale_term", message, field="Replicator-Term", term=current)
            if self._node.role != "primary":
                raise NotPrimary(node=self._node.name, primary=self._node.primary_http)
            if not self._node.leads and not self._node.held_up:
                raise LeaseLost(node=self._node.name)
            if sent is not None and sent > current:
                message = f"term {sent} was never issued, the current one is {current}"
                raise Refusal(409, "unknown_term", message, field="Replicator-Term", term=current)
        except (Refusal, NotPrimary):
            await drop_body(request)
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class _Replacement:
    """How a document is to replace the state. `expect`: the position that the sender saw."""

    any_term: bool
    force: bool
    expect: str | None
    ack: str | None

    @classmethod
    def asked_for(cls, request: Request) -> _Replacement:
        return cls(
            any_term=query_integer(request, "any_term", 0, 0, 1) == 1,
            force=query_integer(request, "force", 0, 0, 1) == 1,
            expect=_sent_tag(request),
            ack=_sent_ack(request),
        )


def _not_empty(position: str) -> Refusal:
    message = (
        f'the state is not empty, and this replaces all of it: send If-Match: "{position}" to do so if it is still '
        "what it is now, or ?force=1 whatever it is"
    )
    return Refusal(428, "position_required", message, field="If-Match", position=position)


#: A PATCH of these fields alone is a change of that name, which reads better in the log than `update`.
OPERATION_OF_FIELDS = {
    frozenset({"hostname"}): "set_hostname",
    frozenset({"tags"}): "set_tags",
    frozenset({"public_key"}): "rotate_key",
    frozenset({"public_key", "key_created"}): "rotate_key",
}


def _by_method(endpoints: Mapping[str, Endpoint]) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return await endpoints["GET" if request.method == "HEAD" else request.method](request)

    return endpoint


def _within(pool: Pool, endpoint: Endpoint) -> Endpoint:
    """An endpoint that has a place in the pool for as long as it takes, before it reads the body."""

    async def within(request: Request) -> Response:
        try:
            with pool.place():
                return await endpoint(request)
        except Full:
            await drop_body(request)
            raise

    return within


def _sent_term(request: Request) -> int | None:
    text = request.headers.get("replicator-term")
    if text is None:
        return None
    term = _integer(text)
    if term is None:
        raise Refusal(400, "invalid_header", "Replicator-Term must be an integer", field="Replicator-Term")
    return term


def _sent_tag(request: Request) -> str | None:
    text = request.headers.get("if-match")
    if text is None:
        return None
    tag = TAG.fullmatch(text.strip())
    if tag is None:
        message = (
            'If-Match must be the ETag that GET /v1/state gave, like "5-1042"; ?force=1 replaces whatever is there'
        )
        raise Refusal(400, "invalid_header", message, field="If-Match")
    return tag[1] or tag[2]


def _sent_ack(request: Request) -> str | None:
    text = request.headers.get("replicator-ack")
    if text is not None and not ACK.fullmatch(text):
        message = "Replicator-Ack must be appended, fsynced, replicated:N or applied:N"
        raise Refusal(400, "invalid_header", message, field="Replicator-Ack")
    return text


def _wants_fresh(request: Request) -> bool:
    text = request.headers.get("replicator-fresh", "0")
    if text not in ("0", "1"):
        raise Refusal(400, "invalid_header", "Replicator-Fresh must be 1", field="Replicator-Fresh")
    return text == "1"


def _networks_without_tokens(registry: Registry, *, after: int, limit: int) -> dict[int, Record]:
    """A token lets its bearer in: only the whole document, which must be complete, has it."""
    found = registry.networks(after=after, limit=limit)
    return {one: {name: value for name, value in record.items() if name != "token"} for one, record in found.items()}


def registry_app(node: ServedNode, *, wait_timeout_s: float = WAIT_TIMEOUT_S) -> Starlette:
    """The application that serves `node`, whose state is a Registry."""
    pools = Pools()
    api = RegistryApi(node, wait_timeout_s=wait_timeout_s, pools=pools)
    return _app(node, api.routes(), wait_timeout_s, pools)


def health_app(node: ServedNode, *, wait_timeout_s: float = WAIT_TIMEOUT_S) -> Starlette:
    """The application of a node whose state is something else: it serves how the node is, and nothing of the state."""
    pools = Pools()
    api = RegistryApi(node, wait_timeout_s=wait_timeout_s, pools=pools)
    return _app(node, [route for route in api.routes() if route.path in HEALTH_PATHS], wait_timeout_s, pools)


def _app(node: ServedNode, routes: list[Route], wait_timeout_s: float, pools: Pools) -> Starlette:
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Envelope, node=node, wait_timeout_s=wait_timeout_s, waits=pools.waits)],
        exception_handlers={HTTPException: _no_route},
    )
    # A slash too many is an unknown route like any other, not a redirect without a body.
    app.router.redirect_slashes = False
    return app
