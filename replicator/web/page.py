"""`/ui` in an application: the page of the group, to look at, for who has a token with the right to read.

The page is a file, and what it shows is asked for once a second. Each answer is short: a server of WSGI gives up no
worker to who watches, and one of ASGI has no answer under way that it would wait for when it ends, with the node in it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Generator
from typing import Protocol

from .failures import Answer, Failure, answer_of, problem
from .guard.app import challenge
from .guard.rules import Request, without_right
from .guard.token_file import Tokens
from .head import Head

__all__ = ["METHODS", "ServedPage", "page_answer"]

METHODS = ("GET", "HEAD")

#: Who asks first waits for the first look, and no longer: what is asked again in a second needs no patience.
FIRST_LOOK_S = 1.0
LOOK_EVERY_S = 0.05


class ServedPage(Protocol):
    """The page as the middleware serves it (`replicator.ui.page.Page`)."""

    @property
    def paths(self) -> Collection[str]:
        """`/ui` and those below it."""
        ...

    @property
    def tokens(self) -> Tokens: ...

    def answer(self, path: str) -> Answer | None:
        """What is at one of the paths, at once; None: nothing was seen yet. Raises `NoThread`."""
        ...


def page_answer(page: ServedPage, head: Head, path: str) -> Generator[float, None, Answer]:
    """The answer to a request for `path`, one of the page's. Yields for how long to wait."""
    refused = _refusal(page, head, path)
    if refused is not None:
        return refused
    until = time.monotonic() + FIRST_LOOK_S
    while (answer := page.answer(path)) is None:
        if time.monotonic() >= until:
            message = "its look at the group does not come back, as while Redis hangs; it is asked again each second"
            return _failed(Failure(status=503, code="busy", message=message))
        yield LOOK_EVERY_S
    return answer


def _refusal(page: ServedPage, head: Head, path: str) -> Answer | None:
    if head.method not in METHODS:
        failure = Failure(status=405, code="wrong_method", message="not with this method")
        return _failed(failure, ("Allow", ", ".join(METHODS)))
    sent = {"authorization": list(head.authorization)} if head.authorization else {}
    lacking = without_right(Request(head.method, path, path, sent), page.tokens)
    return None if lacking is None else _failed(lacking, *challenge(lacking))


def _failed(failure: Failure, *headers: tuple[str, str]) -> Answer:
    answer = answer_of(failure, problem)
    return answer._replace(headers=[*answer.headers, *headers, ("Cache-Control", "no-store")])
