"""The middleware for WSGI: Flask, Django, and whatever else is one.

    app.wsgi_app = Replicated(app.wsgi_app, node=node)                   # Flask
    application = Replicated(get_wsgi_application(), node=node)          # Django

WSGI knows no startup. So the node starts here and now, when the application is put together, and stops when the process
ends (`atexit`) or `close` is called. That has to be in the process that serves: one that forks afterwards (gunicorn
with --preload, uwsgi without lazy-apps) has children in which every request is answered 500, `wrong_process`,
and told what to do. What the middleware does with requests stands in `middleware.py`; `Options`
(`options.py`) are keywords here. A request that waits holds its thread for as long.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from types import TracebackType
from typing import Any, Protocol, TypeAlias, Unpack, cast

from .content import Content, Heard
from .cookie import Cookie
from .failures import Answer, Refusal
from .forward import CHUNK_BYTES, Forwarder, onward
from .head import Head, raw_below
from .life import Life, LivingNode
from .middleware import CURRENT, Forward, Middleware, Pause, Step, Visit, answer
from .options import Keywords, Options
from .served_node import ServedNode

__all__ = ["Cookie", "Replicated", "answer"]

Environ: TypeAlias = dict[str, Any]
ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | Any
Headers: TypeAlias = list[tuple[str, str]]
Write: TypeAlias = Callable[[bytes], object]


class StartResponse(Protocol):
    def __call__(self, status: str, headers: Headers, exc_info: ExcInfo = None, /) -> Write: ...


App: TypeAlias = Callable[[Any, Any], Iterable[bytes]]

#: How much of a body that nobody wants is read and dropped, so that its sender gets to see the answer.
DROPPED_BYTES_MAX = 1024 * 1024 * 1024


class Replicated:
    """A WSGI application around another one. `start`: whether it starts and stops the node. Raises `ConfigError`, also
    where several workers share a node, and what `Node.start` raises.
    """

    def __init__(self, app: App, *, node: ServedNode[Any], start: bool = True, **keywords: Unpack[Keywords]) -> None:
        options = Options(**keywords)
        self._app = app
        self._node = node
        self._middleware = Middleware(node, options)
        self._forwarder = Forwarder(node, options) if options.writes == "forward" else None
        self._life: Life | None = None
        if start:
            self._life = Life(cast(LivingNode, node), is_sent_writes=options.writes != "local")
            self._life.start()
            atexit.register(self._end, os.getpid())

    def close(self) -> None:
        """Stop the node, if it was started here. Raises what `Node.stop` raises."""
        atexit.unregister(self._end)
        if self._forwarder is not None:
            self._forwarder.close()
        if self._life is not None:
            self._life.stop()

    def _end(self, pid: int) -> None:
        if os.getpid() == pid:  # not in a child, which has the handlers of its parent
            self.close()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        visit = Visit(_head_of(environ), self._middleware)
        stamping = _Stamping(self._middleware, visit, start_response)
        is_in_application = False
        # Read once: some servers wait for ever for what comes after its end.
        sent = _body_of(environ)
        try:
            what = self._before(visit)
            if isinstance(what, Answer):
                return self._refused(what, environ, sent, visit, start_response)
            if isinstance(what, Forward):
                return self._forwarded(what.url, environ, sent, visit, start_response)
            is_in_application = True
            _hear(environ, visit)
            current = CURRENT.set(visit)
            try:
                body = self._app(environ, stamping)
            finally:
                CURRENT.reset(current)
        except Exception as error:
            found = None if stamping.has_begun else self._middleware.answer(error, visit)
            if found is None:
                raise
            if not is_in_application:
                return self._refused(found, environ, sent, visit, start_response)
            return self._answered(found, visit, start_response)
        # An application that is a generator has not begun yet, and its errors come with its first piece.
        return body if stamping.has_begun else self._begun(body, stamping, visit, start_response)

    def _begun(
        self, body: Iterable[bytes], stamping: _Stamping, visit: Visit, start_response: StartResponse
    ) -> Iterator[bytes]:
        try:
            pieces = iter(body)
            current = CURRENT.set(visit)
            try:
                first = next(pieces, None)
            finally:
                CURRENT.reset(current)
            if first is not None:
                yield first
                yield from pieces
        except Exception as error:
            found = None if stamping.has_begun else self._middleware.answer(error, visit)
            if found is None:
                raise
            yield from self._answered(found, visit, start_response)
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def _before(self, visit: Visit) -> Answer | Forward | None:
        steps = self._middleware.before(visit)
        try:
            step = next(steps)
            while True:
                try:
                    self._carry_out(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(None)
        except StopIteration as end:
            what: Answer | Forward | None = end.value
            return what

    def _carry_out(self, step: Step) -> None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
        else:
            self._node.wait(position=step.position, timeout_s=step.timeout_s)

    def _refused(
        self,
        answer: Answer,
        environ: Environ,
        sent: Iterator[bytes],
        visit: Visit,
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        dropped = 0
        if "HTTP_EXPECT" not in environ:
            for chunk in sent:
                dropped += len(chunk)
                if dropped > DROPPED_BYTES_MAX:
                    break
        return self._answered(answer, visit, start_response)

    def _answered(self, answer: Answer, visit: Visit, start_response: StartResponse) -> Iterable[bytes]:
        headers = [*answer.headers, *_as_text(self._middleware.stamps_of_ours(visit))]
        start_response(_status_line(answer.status), headers)
        return [] if visit.head.method == "HEAD" else [answer.body]

    def _forwarded(
        self, url: str, environ: Environ, sent: Iterator[bytes], visit: Visit, start_response: StartResponse
    ) -> Iterable[bytes]:
        assert self._forwarder is not None
        client, scheme = environ.get("REMOTE_ADDR") or None, environ.get("wsgi.url_scheme", "http")
        head = onward(_headers_of(environ), by=self._node.name, client=client, scheme=scheme)
        if not _has_known_end(environ):
            raise Refusal(411, "length_required", "this server does not tell where a body ends: send Content-Length")
        status, reason, headers, body = self._forwarder.forward(url, visit.head.method, head, sent)
        start_response(f"{status} {reason or _reason(status)}", _as_text(headers))
        return body


class _Stamping:
    """A `start_response` that stamps."""

    __slots__ = ("_middleware", "_start_response", "_visit", "has_begun")

    def __init__(self, middleware: Middleware, visit: Visit, start_response: StartResponse) -> None:
        self._middleware = middleware
        self._visit = visit
        self._start_response = start_response
        self.has_begun = False

    def __call__(self, status: str, headers: Headers, exc_info: ExcInfo = None) -> Write:
        stamped = [*headers, *_as_text(self._middleware.stamps(self._visit))]
        self.has_begun = True
        return self._start_response(status, stamped, exc_info) if exc_info else self._start_response(status, stamped)


def _head_of(environ: Environ) -> Head:
    raw: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    path, root = (environ.get(name, "").encode("latin-1") for name in ("PATH_INFO", "SCRIPT_NAME"))
    # As the client sent it, where the server tells. A proxy's absolute form is of no use here.
    raw_path = raw.partition("?")[0].encode("latin-1") if raw.startswith("/") else b""
    if root:
        raw_path = raw_below(root.decode("utf-8", "replace"), raw_path)
    return Head(
        environ["REQUEST_METHOD"],
        path.decode("utf-8", "replace"),
        raw_path,
        environ.get("QUERY_STRING", "").encode("latin-1"),
        environ.get("HTTP_REPLICATOR_WAIT"),
        environ.get("HTTP_COOKIE", ""),
        "HTTP_REPLICATOR_FORWARDED" in environ,
        environ.get("HTTP_REPLICATOR_NONCE"),
        (environ["HTTP_AUTHORIZATION"],) if "HTTP_AUTHORIZATION" in environ else (),
    )


def _hear(environ: Environ, visit: Visit) -> None:
    """Have noted what a key goes by, if one was sent."""
    if "HTTP_IDEMPOTENCY_KEY" in environ:
        visit.content = Content(visit.head)
        length = environ.get("CONTENT_LENGTH") or ""
        known = int(length) if length.isascii() and length.isdecimal() else None
        environ["wsgi.input"] = Heard(environ["wsgi.input"], visit.content, known)


def _headers_of(environ: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    names = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}
    return [
        ((names.get(key) or key[5:].replace("_", "-").lower()).encode("latin-1"), value.encode("latin-1"))
        for key, value in environ.items()
        if (key.startswith("HTTP_") or (key in names and value)) and isinstance(value, str)
    ]


def _body_of(environ: Environ) -> Iterator[bytes]:
    """As far as the client says that there is one, or, in chunks, as far as the server knows where it ends."""
    source, length = environ["wsgi.input"], environ.get("CONTENT_LENGTH") or ""
    if environ.get("wsgi.input_terminated") and not length:
        left = sys.maxsize
    else:
        left = int(length) if length.isascii() and length.isdecimal() else 0
    while left > 0:
        chunk = source.read(min(CHUNK_BYTES, left))
        if not chunk:
            return
        left -= len(chunk)
        yield chunk


def _has_known_end(environ: Environ) -> bool:
    """Not if it comes in chunks that the server does not put together: nobody can tell then how much is to be read."""
    is_chunked = "HTTP_TRANSFER_ENCODING" in environ and not environ.get("CONTENT_LENGTH")
    return not is_chunked or bool(environ.get("wsgi.input_terminated"))


def _as_text(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def _status_line(status: int) -> str:
    return f"{status} {_reason(status)}"


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
