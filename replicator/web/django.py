"""For Django, which lets no exception out: errors that a view raises, and that are ours, become answers here.

    MIDDLEWARE = ["replicator.web.django.ErrorAnswers", ...]

Together with `Replicated` around the application (`asgi.py` or `wsgi.py`), which says what an answer looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponse

from .middleware import answered

__all__ = ["ErrorAnswers"]


class ErrorAnswers:
    """A middleware of Django's, for views of both kinds."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        found = answered(error)
        return None if found is None else HttpResponse(found.body, status=found.status, headers=dict(found.headers))
