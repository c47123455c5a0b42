"""Short links, kept in a dict: Starlette, and no class of one's own. `python -m examples.links` runs three of it."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from replicator import DictState, Node, delete, put
from replicator.web.asgi import Replicated
from replicator.web.idempotency import idempotency_key

node = Node.from_env(DictState(), group="links", auto_promote=True)


async def follow(request: Request) -> Response:
    target = await node.view(lambda links: links.get(request.path_params["name"]))
    return RedirectResponse(target) if target else JSONResponse({"error": "there is no such link"}, 404)


async def write(request: Request) -> Response:
    target = (await request.body()).decode(errors="replace")
    if not target.startswith(("https://", "http://")):
        return JSONResponse({"error": "the body is to be a URL"}, 422)
    await node.asubmit(put(request.path_params["name"], target), key=idempotency_key(request.headers))
    return Response(status_code=204)


async def remove(request: Request) -> Response:
    await node.asubmit(delete(request.path_params["name"]), key=idempotency_key(request.headers))
    return Response(status_code=204)


app = Starlette(
    routes=[
        Route("/{name}", follow),
        Route("/{name}", write, methods=["PUT"]),
        Route("/{name}", remove, methods=["DELETE"]),
    ],
    middleware=[Middleware(Replicated, node=node)],
)
