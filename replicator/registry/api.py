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
  position that its sender saw (the `ETag` of a `GET`), or `?force=1`. What was seen is compared under the write lock
  under which the new state is written, so no change comes in between.
- `Idempotency-Key: "..."` on the write of a change has it land once, however often it is sent (the IETF's draft of
  that name): each answer is that to the first. What makes it the same is method, path, query and body. `PUT /v1/state`
  keeps no such promise, and so refuses the header.
- Times that a change needs and the sender left out are stamped here: the state itself reads no clock.
- The middleware (`web/asgi.py`) waits for positions, stamps answers, and is the one place where exceptions become
  answers, by the table `REGISTRY_ANSWERS`. Handlers only raise.

Nothing waits on the event loop. What has to wait for the node's lock, or for a position, does so on threads; a read
that finds the lock free, or a position that is there, needs none. A write is a task of the node (`Node.asubmit`), so
writers that wait for an acknowledgement cost no thread. Reads, waits, writes and replacements of the state have a pool
each (`web/thread_pools.py`): none of them fills that of another, and a request that finds its own one full is answered
503 at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from ..errors import Outdated
from ..runtime.event_log import EventLogger
from ..runtime.gc_pause import HOLD_COLLECTOR_FROM_BYTES, HeldCollector
from ..web.access import Access
from ..web.answers import ANSWERS, Answers, Refusal, json_answer
from ..web.envelope import FACTS, WAIT_TIMEOUT_S, application
from ..web.pieces import Pieces
from ..web.requests import (
    SENT_KEY,
    drop_body,
    now,
    parsed,
    parsed_in_slices,
    path_id,
    query_integer,
    read_body,
    read_pieces,
    sent_ack,
    sent_key,
    sent_tag,
)
from ..web.routes import Endpoint, by_method, within
from ..web.served_node import ServedNode
from ..web.thread_pools import Pools
from .document import (
    Conflict,
    IncompleteDocument,
    InvalidDocument,
    Record,
    UnknownId,
    check_complete,
    term_of,
)
from .loading import give_up, pieces_of
from .state import Registry

__all__ = ["registry_app"]

log = EventLogger(__name__)

#: A change must fit into a record of the log, which is far smaller; this only bounds what is read.
BODY_BYTES_MAX = 1024 * 1024

#: Six times the reference size.
DOCUMENT_BYTES_MAX = 512 * 1024 * 1024

PAGE_LENGTH = 100
PAGE_LENGTH_MAX = 1000

#: Ids are exact in every JSON reader.
ID_MAX = 2**53 - 1

#: Whoever sends a key may rely on it, and send the document again over what others wrote since.
KEYED_DOCUMENT = (
    "PUT /v1/state takes no Idempotency-Key: a document that is sent again replaces again; send If-Match with the ETag "
    "that GET /v1/state gave, or ?force=1, without a key"
)

T = TypeVar("T")

#: Those of the registry, among those of every node.
REGISTRY_ANSWERS: Answers = {
    **ANSWERS,
    UnknownId: (404, "unknown_id"),
    Conflict: (409, "conflict"),
    IncompleteDocument: (400, "incomplete_document"),
    InvalidDocument: (422, "invalid_document"),
}


async def read_change(request: Request) -> bytearray:
    """The body of a write of one change, whose `Idempotency-Key` goes by it."""
    body = await read_body(request, BODY_BYTES_MAX)
    request.scope[SENT_KEY] = sent_key(request, body)
    return body


async def read_fields(request: Request, *of_the_path: str) -> Record:
    """The fields of a change that the body gives; an empty body gives none."""
    body = await read_change(request)
    fields = parsed(body) if body else {}
    if type(fields) is not dict:
        raise Refusal(422, "rejected", "the body must be a JSON object")
    for name in ("op", *of_the_path):
        if name in fields:
            raise Refusal(422, "rejected", f"{name} is not a field here: the URL says it; leave it out", field=name)
    return fields


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

    def __init__(self, node: ServedNode[Registry], *, wait_timeout_s: float, pools: Pools) -> None:
        self._node = node
        self._access = Access(node, wait_timeout_s=wait_timeout_s, pools=pools)
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
        }
        for path, methods in table.items():
            pool = self._pools.replacements if path == "/v1/state" else self._pools.writes
            methods.update({name: within(pool, methods[name]) for name in methods if name != "GET"})
        return [Route(path, by_method(methods), methods=list(methods)) for path, methods in table.items()]

    # Nodes

    async def register(self, request: Request) -> Response:
        await self._access.refuse_unless_primary(request)
        fields = await read_fields(request)
        fields.setdefault("last_seen", now())
        result = await self._submit(request, "register", fields)
        return json_answer(result, 201 if result["created"] else 200)

    async def list_nodes(self, request: Request) -> Response:
        return await self._page(request, "nodes", Registry.nodes, is_quick=True)

    async def get_node(self, request: Request) -> Response:
        node = path_id(request, "id")
        record = await self._access.read(request, lambda registry: registry.node(node), is_quick=True)
        if record is None:
            raise Refusal(404, "unknown_id", f"there is no node {node}", field="id")
        return json_answer(record)

    async def update_node(self, request: Request) -> Response:
        await self._access.refuse_unless_primary(request)
        node, fields = path_id(request, "id"), await read_fields(request, "id")
        operation = OPERATION_OF_FIELDS.get(frozenset(fields), "update")
        return json_answer(await self._submit(request, operation, fields, id=node))

    async def deregister(self, request: Request) -> Response:
        return await self._write(request, "deregister", "id")

    async def heartbeat(self, request: Request) -> Response:
        await self._access.refuse_unless_primary(request)
        node, fields = path_id(request, "id"), await read_fields(request, "id")
        fields.setdefault("last_seen", now())
        return json_answer(await self._submit(request, "heartbeat", fields, id=node))

    # Networks and trust

    async def create_network(self, request: Request) -> Response:
        await self._access.refuse_unless_primary(request)
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
        await self._access.refuse_unless_primary(request)
        change = parsed(await read_change(request))
        if type(change) is not dict:
            raise Refusal(422, "rejected", "a change is a JSON object")
        return json_answer({"result": await self._access.commit(request, change)})

    # The whole document

    async def get_state(self, request: Request) -> Response:
        chunks = await self._access.read(request, lambda registry: registry.document(self._node.term))
        tag = {"ETag": f'"{request.scope[FACTS].position}"'}
        return StreamingResponse(chunks, media_type="application/json", headers=tag)

    async def put_state(self, request: Request) -> Response:
        await self._access.refuse_unless_primary(request)
        if "idempotency-key" in request.headers:
            await drop_body(request)
            raise Refusal(400, "invalid_header", KEYED_DOCUMENT, field="Idempotency-Key")
        body = await read_pieces(request, DOCUMENT_BYTES_MAX)
        asked = _Replacement.asked_for(request)
        return await self._pools.replacements.on_thread(lambda: self._replaced(body, asked))

    def _replaced(self, body: Pieces, asked: _Replacement) -> Response:
        # Nothing of the document stays: the node builds its state of what was encoded, and freezes that.
        document, collector = None, HeldCollector(freezes=False)
        if len(body) >= HOLD_COLLECTOR_FROM_BYTES:
            collector.hold()
        try:
            document = parsed_in_slices(body)
            return self._load(document, asked, collector)
        finally:
            # The smallest collection would look at all that is left of it.
            give_up(document, then=collector.release)

    def _load(self, document: Any, asked: _Replacement, collector: HeldCollector) -> Response:
        term, current = term_of(document), self._node.term
        verdict = "load" if asked.any_term else document_verdict(term, current)
        if verdict == "stale":
            log.warning("document.stale", "a document of term %d was not loaded: the current term is %d", term, current)
            message = f"term {term} is over, the current one is {current}; ?any_term=1 loads the document all the same"
            return json_answer({"applied": False, "term": current, "message": message})
        if verdict == "future":
            message = f"term {term} was never issued here, the current one is {current}; ?any_term=1 loads it anyway"
            raise Refusal(409, "unknown_term", message, field="term", term=current)
        check_complete(document)
        expect = asked.expect if asked.expect or asked.force else self._place_without_anything()
        # Drawn to their end, they are encoded. What the node waits for then (Redis, acknowledgements) may take long.
        pieces = chain(pieces_of(document), _nothing_but(collector.release))
        try:
            # In the term that the verdict was about: the node may have been replaced and promoted again since.
            self._node.replace(pieces, term=current, ack=asked.ack, expect=expect)
        except Outdated:
            if asked.expect is None:  # it was empty a moment ago
                raise _not_empty(str(self._node.position.id)) from None
            raise
        return json_answer({"applied": True, "term": self._node.term, "node_count": len(document.get("nodes") or ())})

    def _place_without_anything(self) -> str:
        """Where the state is, if there is nothing in it to be lost."""
        with self._node.reading() as registry:
            place = str(self._node.position.id)
            if registry.is_pristine:
                return place
        raise _not_empty(place)

    # What they share

    async def _page(
        self, request: Request, name: str, page: Callable[..., dict[int, Record]], *, is_quick: bool = False
    ) -> Response:
        limit = query_integer(request, "limit", PAGE_LENGTH, 1, PAGE_LENGTH_MAX)
        after = query_integer(request, "after", -1, 0, ID_MAX)
        # One more than asked for says whether there is a next page.
        found = await self._access.read(
            request, lambda registry: page(registry, after=after, limit=limit + 1), is_quick=is_quick
        )
        ids = list(found)[:limit]
        following = ids[-1] if len(found) > limit else None
        return json_answer({name: [found[number] for number in ids], "next": following})

    async def _write(self, request: Request, operation: str, *of_the_path: str) -> Response:
        await self._access.refuse_unless_primary(request)
        fields = await read_fields(request, *of_the_path)
        ids = {name: path_id(request, name) for name in of_the_path}
        return json_answer(await self._submit(request, operation, fields, **ids))

    async def _submit(self, request: Request, operation: str, fields: Record, **ids: int) -> Any:
        if "public_key" in fields:
            fields.setdefault("key_created", now())
        return await self._access.commit(request, {"op": operation, **ids, **fields})


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
            expect=sent_tag(request),
            ack=sent_ack(request),
        )


def _nothing_but(call: Callable[[], object]) -> Iterator[Any]:
    """An end of an iterator, at which this is called."""
    call()
    yield from ()


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


def _networks_without_tokens(registry: Registry, *, after: int, limit: int) -> dict[int, Record]:
    """A token lets its bearer in: only the whole document, which must be complete, has it."""
    found = registry.networks(after=after, limit=limit)
    return {one: {name: value for name, value in record.items() if name != "token"} for one, record in found.items()}


def registry_app(
    node: ServedNode[Registry], *, wait_timeout_s: float = WAIT_TIMEOUT_S, routes: Sequence[Route] = ()
) -> Starlette:
    """The application that serves `node`, whose state is a Registry. `routes`: what else it serves."""
    pools = Pools()
    api = RegistryApi(node, wait_timeout_s=wait_timeout_s, pools=pools)
    return application(
        node, [*api.routes(), *routes], pools=pools, wait_timeout_s=wait_timeout_s, answers=REGISTRY_ANSWERS
    )
