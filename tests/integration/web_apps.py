"""One small application in four frameworks, as a server is told to run it. Its settings are in the environment.

`GET /k/KEY` reads a value, `PUT /k/KEY` writes one.
"""

from __future__ import annotations

import os
import time
from typing import Any

from fastapi import FastAPI, Request

from replicator import Node, ReplicatorError
from replicator.ui.page import Page
from replicator.web import asgi, wsgi
from tests.support.kv import KV, LEASE_S


def _node() -> Node[KV]:
    state, slow_s = KV(), float(os.environ.get("APP_SLOW_S", "0"))
    state.in_apply = lambda change: time.sleep(slow_s)
    return Node(
        state,
        group="g",
        name=os.environ["APP_NAME"],
        redis=os.environ["APP_REDIS"],
        data_dir=os.environ["APP_DIR"],
        http=os.environ["APP_HTTP"],
        lease_s=float(os.environ.get("APP_LEASE_S", LEASE_S)),
        auto_promote=True,
    )


def _options(node: Node[KV]) -> dict[str, Any]:
    tokens = os.environ.get("APP_TOKENS")
    page = Page(node, tokens=tokens) if tokens else None
    return {"writes": os.environ.get("APP_WRITES", "redirect"), "page": page}


def _value(node: Node[KV], key: str) -> Any:
    with node.reading() as state:
        return state.data.get(key)


def fastapi_app() -> Any:
    node, app = _node(), FastAPI()
    app.add_middleware(asgi.Replicated, node=node, **_options(node))

    @app.get("/k/{key}")
    def read(key: str) -> Any:
        return {"value": _value(node, key), "by": node.name}

    @app.put("/k/{key}")
    async def write(key: str, request: Request) -> Any:
        await node.asubmit({"set": [key, (await request.body()).decode()]})
        return {"by": node.name}

    return app


def quart_app() -> Any:
    from quart import Quart, request

    node, app = _node(), Quart(__name__)
    app.asgi_app = asgi.Replicated(app.asgi_app, node=node, **_options(node))  # type: ignore[method-assign]
    app.register_error_handler(ReplicatorError, asgi.answer)

    @app.get("/k/<key>")
    async def read(key: str) -> Any:
        return {"value": _value(node, key), "by": node.name}

    @app.put("/k/<key>")
    async def write(key: str) -> Any:
        await node.asubmit({"set": [key, (await request.get_data()).decode()]})
        return {"by": node.name}

    return app


def flask_app() -> Any:
    from flask import Flask, request

    node, app = _node(), Flask(__name__)
    app.wsgi_app = wsgi.Replicated(app.wsgi_app, node=node, **_options(node))  # type: ignore[method-assign]
    app.register_error_handler(ReplicatorError, wsgi.answer)

    @app.get("/k/<key>")
    def read(key: str) -> Any:
        return {"value": _value(node, key), "by": node.name}

    @app.put("/k/<key>")
    def write(key: str) -> Any:
        node.submit({"set": [key, request.get_data(as_text=True)]})
        return {"by": node.name}

    return app


def _django(node: Node[KV]) -> None:
    import django
    from django.conf import settings
    from django.http import JsonResponse
    from django.urls import path

    def view(request: Any, key: str) -> JsonResponse:
        if request.method == "PUT":
            node.submit({"set": [key, request.body.decode()]})
            return JsonResponse({"by": node.name})
        return JsonResponse({"value": _value(node, key), "by": node.name})

    urls = type("Urls", (), {"urlpatterns": [path("k/<key>", view)]})
    errors = "replicator.web.django.ErrorAnswers"
    settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], MIDDLEWARE=[errors], SECRET_KEY="x")
    django.setup()


def django_asgi_app() -> Any:
    from django.core.handlers.asgi import ASGIHandler

    node = _node()
    _django(node)
    return asgi.Replicated(ASGIHandler(), node=node, **_options(node))


def django_wsgi_app() -> Any:
    from django.core.handlers.wsgi import WSGIHandler

    node = _node()
    _django(node)
    return wsgi.Replicated(WSGIHandler(), node=node, **_options(node))
