"""The processes that serve: a node with a registry, and the same application on Starlette alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.harness import heard
from bench.interpreter_watch import InterpreterWatch
from bench.loads import Pace, paced
from bench.registry_data import generate
from replicator import Node
from replicator.registry.api import registry_app
from replicator.registry.loading import pieces_of
from replicator.registry.state import Registry
from replicator.web.requests import now
from replicator.web.server import WebServer

__all__ = ["RESTORE_TIMEOUT_S", "SEED", "be_node", "be_plain", "heartbeats", "plain_app"]

#: The same document in every run.
SEED = 1

#: How long a standby may take until it has the state.
RESTORE_TIMEOUT_S = 120.0


# --- without us -------------------------------------------------------------------------------------------------------


def plain_app(registry: Registry) -> Starlette:
    """A node of the registry, and its heartbeat, as one would serve them from memory."""

    async def get_node(request: Request) -> Response:
        record = registry.node(int(request.path_params["id"]))
        return _json(record, 404 if record is None else 200)

    async def heartbeat(request: Request) -> Response:
        fields = orjson.loads(await request.body())
        fields.setdefault("last_seen", now())
        return _json(registry.apply({"op": "heartbeat", "id": int(request.path_params["id"]), **fields}))

    return Starlette(
        routes=[
            Route("/v1/nodes/{id}", get_node, methods=["GET"]),
            Route("/v1/nodes/{id}/heartbeat", heartbeat, methods=["POST"]),
        ]
    )


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")


def be_plain(pipe: Connection, nodes: int) -> None:
    """The process of the application alone: says its port."""
    registry = Registry()
    registry.restore(pieces_of(generate(nodes, SEED)))
    with WebServer(plain_app(registry)) as server:
        pipe.send(server.port)
        while heard(pipe) is not None:
            pass


# --- with us ----------------------------------------------------------------------------------------------------------


def be_node(pipe: Connection, url: str, group: str, data_dir: Path, name: str, nodes: int) -> None:
    """The process of a node: says its port. With `nodes` it is the primary, of a registry of so many; else a standby.

    Told seconds, it submits heartbeats on one thread for so long, and gives the `Pace`. Told what to do, it says the
    number of the newest record in its state once it is done: "publish", "replace" (by the same document), "look"; told
    a number, it waits for that record. Told "watch", it watches how long a thread waits for the interpreter, until it
    is told "watched", and says the worst (ms).
    """
    watch: InterpreterWatch | None = None
    with Node(Registry(), group=group, name=name, data_dir=data_dir, redis=url) as node:
        if nodes:
            node.promote()
            node.replace(pieces_of(generate(nodes, SEED)), timeout_s=RESTORE_TIMEOUT_S)
        gc.collect()
        with WebServer(registry_app(node)) as server:
            pipe.send(server.port)
            while (told := heard(pipe)) is not None:
                if isinstance(told, float):
                    pipe.send(_submitted(node, told))
                elif told == "watch":
                    watch = InterpreterWatch()
                    pipe.send("begun")
                elif told == "watched" and watch is not None:
                    pipe.send(watch.end())
                else:
                    _carry_out(node, told)
                    pipe.send(node.position.id.n)


def _submitted(node: Node, seconds: float) -> Pace:
    changes = heartbeats(node)
    return paced(lambda: node.submit(next(changes)), seconds)


def _carry_out(node: Node, told: str | int) -> None:
    if isinstance(told, int):
        node.wait(n=told, timeout_s=RESTORE_TIMEOUT_S)
    elif told == "publish":
        node.publish(timeout_s=RESTORE_TIMEOUT_S)
    elif told == "replace":
        with node.reading() as registry:
            pieces = registry.snapshot()
        node.replace(pieces, timeout_s=RESTORE_TIMEOUT_S)


def heartbeats(node: Node) -> Iterator[Any]:
    """Changes that replace a record each, for as long as one likes."""
    with node.reading() as registry:
        ids = list(registry.nodes(limit=1000))
    return ({"op": "heartbeat", "id": each, "last_seen": now()} for each in cycle(ids))
