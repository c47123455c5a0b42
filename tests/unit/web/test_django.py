"""Errors that a view of Django raises, on their way to the middleware, over WSGI and over ASGI."""

from __future__ import annotations

import asyncio
from typing import Any

import django
import httpx
import pytest
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.urls import path

from replicator.errors import ChangeRejected, NotPrimary
from replicator.web import asgi, wsgi
from replicator.web.failures import ANSWERS
from tests.support.sites import FakeNode


def _rejects(request: Any) -> None:
    raise ChangeRejected("no such flag", field="name")


async def _rejects_as_a_task(request: Any) -> None:
    raise ChangeRejected("no such flag", field="name")


def _is_no_primary(request: Any) -> None:
    raise NotPrimary(node="a")


def _fails(request: Any) -> None:
    raise ZeroDivisionError


urlpatterns = [
    path("flags", _rejects),
    path("tasks/flags", _rejects_as_a_task),
    path("elsewhere", _is_no_primary),
    path("fails", _fails),
]


@pytest.fixture(autouse=True, scope="module")
def _settings() -> None:
    errors = "replicator.web.django.ErrorAnswers"
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], MIDDLEWARE=[errors], SECRET_KEY="x")
    django.setup()


def over_wsgi(node: FakeNode, method: str, url: str, **options: Any) -> httpx.Response:
    app = wsgi.Replicated(WSGIHandler(), node=node, start=False, **options)
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="http://site") as client:
        return client.request(method, url)


def over_asgi(node: FakeNode, method: str, url: str, **options: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        app = asgi.Replicated(ASGIHandler(), node=node, start=False, **options)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://site") as client:
            return await client.request(method, url)

    return asyncio.run(asked())


@pytest.mark.parametrize("ask", [over_wsgi, over_asgi])
def test_an_error_of_a_view_is_answered_as_the_middleware_does(ask: Any) -> None:
    for url in ("/flags", "/tasks/flags"):
        answer = ask(FakeNode(), "POST", url)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert (answer.json()["field"], answer.headers["replicator-role"]) == ("name", "primary")


@pytest.mark.parametrize("ask", [over_wsgi, over_asgi])
def test_a_view_that_finds_another_primary_redirects(ask: Any) -> None:
    node = FakeNode(role="standby", leads=False, primary_http="http://b:7002")
    answer = ask(node, "GET", "/elsewhere?x")
    assert (answer.status_code, answer.headers["location"]) == (307, "http://b:7002/elsewhere?x")


@pytest.mark.parametrize("ask", [over_wsgi, over_asgi])
def test_other_errors_are_djangos(ask: Any) -> None:
    answer = ask(FakeNode(), "POST", "/fails")
    assert answer.status_code == 500
    assert answer.headers["content-type"] != "application/problem+json"


@pytest.mark.parametrize("ask", [over_wsgi, over_asgi])
def test_errors_that_an_application_adds_are_answered_as_well(ask: Any) -> None:
    answer = ask(FakeNode(), "POST", "/fails", answers={**ANSWERS, ZeroDivisionError: (400, "by_zero")})
    assert (answer.status_code, answer.json()["error"]) == (400, "by_zero")
