"""The routes of the page: plain files, server-sent events, and the actions, where there are any.

- What is served, and what is told of a look, is in `files.py`.
- Who may see that, and act, is decided before (`web/guard/`): the files are for everybody, the events for who may read,
  the actions for an administrator. The page sends the token in a header, and keeps it in its `sessionStorage`: there is
  no cookie that a browser would send by itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from ..errors import NoThread, ReplicatorError
from ..web.answers import error_answer, json_answer
from ..web.failures import Refusal
from ..web.requests import read_body
from ..web.routes import Endpoint
from .actions import Actions
from .feed import Feed, FullHouse
from .files import BEGINS, FILES, POLICY, event, read_file
from .picture import Picture

__all__ = ["ui_routes"]

#: A reason and a few names.
BODY_BYTES_MAX = 8192


def ui_routes(feed: Feed, actions: Actions | None = None) -> list[Route]:
    """`actions`: without, the page is to look at. Put `Guarded` around them."""
    at = "/ui"
    routes = [Route(at + path, _file(*found), methods=["GET"]) for path, found in FILES.items()]
    routes.append(Route(at + "/", _to(at), methods=["GET"]))
    routes.append(Route(at + "/events", _events(feed), methods=["GET"]))
    if actions is not None:
        routes.append(Route(at + "/preview", _told_why(_preview(actions)), methods=["POST"]))
        routes.append(Route(at + "/do/{action}", _told_why(_act(actions, feed)), methods=["POST"]))
    return routes


def _to(at: str) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        return RedirectResponse(at, 308)

    return endpoint


def _file(name: str, media_type: str) -> Endpoint:
    content = read_file(name)

    async def endpoint(request: Request) -> Response:
        return Response(content, headers=POLICY, media_type=media_type)

    return endpoint


def _events(feed: Feed) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        headers = {**POLICY, "X-Accel-Buffering": "no"}  # nginx is not to hold events back
        if request.method == "HEAD":  # whoever asks for no body is not to wait for its end
            return Response(headers=headers, media_type="text/event-stream")
        pictures = feed.pictures()
        try:
            first = await anext(pictures)
        except (FullHouse, StopAsyncIteration, NoThread):
            return error_answer(503, "busy", "as many watch as can be served; try again later")
        return StreamingResponse(_told(first, pictures), headers=headers, media_type="text/event-stream")

    return endpoint


async def _told(first: Picture, pictures: AsyncIterator[Picture]) -> AsyncIterator[bytes]:
    yield BEGINS + event(first)
    async for picture in pictures:
        yield event(picture)


def _told_why(endpoint: Endpoint) -> Endpoint:
    """It, and an answer for what it raises."""

    async def told(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Refusal as refusal:
            return error_answer(refusal.status, refusal.code, str(refusal))
        except ReplicatorError as error:
            return error_answer(409, "refused", str(error))
        except TimeoutError as error:
            return error_answer(504, "timeout", str(error))

    return told


async def _asked(request: Request) -> dict[str, Any]:
    try:
        asked = orjson.loads(await read_body(request, BODY_BYTES_MAX))
    except orjson.JSONDecodeError:
        asked = None
    if not isinstance(asked, dict):
        raise Refusal(400, "invalid_body", "send a JSON object", field="body")
    return asked


def _preview(actions: Actions) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        asked = await _asked(request)
        return json_answer(await run_in_threadpool(actions.preview, str(asked.get("node", ""))), headers=dict(POLICY))

    return endpoint


def _act(actions: Actions, feed: Feed) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        asked = await _asked(request)
        try:
            done = await run_in_threadpool(actions.do, request.path_params["action"], asked)
        finally:
            feed.look_now()
        return json_answer(done, headers=dict(POLICY))

    return endpoint
