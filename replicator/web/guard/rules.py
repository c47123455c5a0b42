"""What a request is refused for, before anything else looks at it. Decides, and does nothing.

In this order:

1. Its target is a path (400): no URL, no `*`.
2. Its `Host` is a name of this node (421). HTTP/1.0 may have none, as probes have; browsers always send one.
3. No page of another origin had it sent (403), by its `Origin` and `Sec-Fetch-Site`. A link from elsewhere to a page of
   ours is none: the answer is shown, and the other page does not see it.
4. It has the right that it needs (401, 403), once there are tokens.
5. The node takes writes (404): one beside a program does not, and says where they go.
6. A write says that its body is JSON (415): what a form sends never does.

Without a token: what load balancers and orchestrators ask, because few of them can send one, and what the answer says
(a name, a role, a term, a position) is on every answer of the service anyway; and the files of the page, in which there
is nothing of the group. `/health`, `/cluster`, `/history` and `/metrics` are for people and Prometheus, and say more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from ..failures import Failure
from .hosts import Hosts
from .token_file import RIGHTS, Tokens

__all__ = ["EVENTS", "PAGE", "Request", "Rules", "right_for", "without_right"]

SAFE = frozenset(("GET", "HEAD", "OPTIONS"))

#: Asked by whoever decides where requests go.
PROBES = frozenset(("/live", "/ready", "/primary", "/standby", "/read-only"))

PAGE = frozenset(("/ui", "/ui/", "/ui/page.css", "/ui/page.js"))

#: An answer without an end.
EVENTS = "/ui/events"

#: The whole document has the tokens of all networks in it, and replaces everything. Actions are an operator's.
FOR_ADMIN = ("/v1/state", "/ui/do/", "/ui/preview")

#: What a browser says of a request that no other page had sent.
OUR_SITES = frozenset(("same-origin", "none"))

#: So a link is followed: the whole window shows the answer.
FOLLOWED = ("navigate", "document")


class Request(NamedTuple):
    """A request's head. `path`: decoded, as routes see it. `target`: as it was sent. `headers`: in small letters."""

    method: str
    path: str
    target: str
    headers: Mapping[str, list[str]]

    @classmethod
    def of(cls, method: str, path: str, target: str, headers: Iterable[tuple[bytes, bytes]]) -> Request:
        found: dict[str, list[str]] = {}
        for name, value in headers:
            found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        return cls(method, path, target, found)

    def one(self, name: str) -> str | None:
        """The header, if it is there once."""
        found = self.headers.get(name, [])
        return found[0] if len(found) == 1 else None


class Rules:
    """`tokens`: None: whoever reaches the port may do everything. `elsewhere`: says where writes go that this node does
    not take; None: it takes them."""

    def __init__(self, hosts: Hosts, tokens: Tokens | None, *, elsewhere: Callable[[], str] | None = None) -> None:
        self._hosts = hosts
        self._tokens = tokens
        self._elsewhere = elsewhere

    def refusal(self, request: Request) -> Failure | None:
        """Why it is refused; None: it is not."""
        of_the_sender = _target(request) or self._host(request) or _origin(request) or self._right(request)
        return of_the_sender or self._write(request) or _media_type(request)

    def _write(self, request: Request) -> Failure | None:
        is_of_the_node = request.path in PROBES or request.path == "/ui" or request.path.startswith("/ui/")
        if self._elsewhere is None or request.method in SAFE or is_of_the_node:
            return None
        return Failure(status=404, code="no_writes_here", message=self._elsewhere())

    def _host(self, request: Request) -> Failure | None:
        sent = request.headers.get("host", [])
        if not sent or (len(sent) == 1 and self._hosts.knows(sent[0])):
            return None
        message = (
            f"{sent[0]!a:.80} is no name of this node: ask it by the address that it listens on or tells others; "
            "`--http-host NAME` adds one"
        )
        return Failure(status=421, code="foreign_host", message=message, field="Host")

    def _right(self, request: Request) -> Failure | None:
        return None if self._tokens is None else without_right(request, self._tokens)


def without_right(request: Request, tokens: Tokens) -> Failure | None:
    """Why it has not the right that it needs; None: it has."""
    needed = right_for(request)
    if needed is None:
        return None
    sent = request.headers.get("authorization", [])
    if not sent:
        message = f"this needs a token with the right to {needed}: Authorization: Bearer TOKEN"
        return Failure(status=401, code="no_token", message=message, field="Authorization")
    scheme, _, token = sent[0].partition(" ")
    right = tokens.right_of(token.strip()) if len(sent) == 1 and scheme.lower() == "bearer" else None
    if right is None:
        message = "the token that came with this is none of this node's"
        return Failure(status=401, code="wrong_token", message=message, field="Authorization")
    if RIGHTS.index(right) < RIGHTS.index(needed):
        message = f"the token has the right to {right}, and this needs that to {needed}"
        more = {"needs": needed}
        return Failure(status=403, code="right_missing", message=message, field="Authorization", more=more)
    return None


def right_for(request: Request) -> str | None:
    """The right that a request needs; None: none."""
    path, is_read = request.path, request.method in SAFE
    if is_read and path in PAGE:
        return None
    if is_read and path in PROBES:
        # To have it wait takes one of the places for those who may read.
        return "read" if "replicator-wait" in request.headers else None
    if path.startswith(FOR_ADMIN):
        return "admin"
    return "read" if is_read else "write"


def _target(request: Request) -> Failure | None:
    if request.target.startswith("/"):
        return None
    return Failure(status=400, code="invalid_target", message="the target of a request is a path that begins with /")


def _origin(request: Request) -> Failure | None:
    sites = request.headers.get("sec-fetch-site", [])
    is_followed = (
        request.method in ("GET", "HEAD")
        and (request.one("sec-fetch-mode"), request.one("sec-fetch-dest")) == FOLLOWED
        and "origin" not in request.headers
    )
    if not OUR_SITES.issuperset(sites) and not is_followed:
        return _foreign("Sec-Fetch-Site", sites[0])
    host = request.one("host")
    for origin in request.headers.get("origin", []):
        if host is None or not _is_of(origin, host):
            return _foreign("Origin", origin)
    return None


def _is_of(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


def _foreign(header: str, value: str) -> Failure:
    message = f"a page of another origin had this sent ({header}: {value!a:.80}), and no other page has a say here"
    return Failure(status=403, code="foreign_origin", message=message, field=header)


def _media_type(request: Request) -> Failure | None:
    if request.method in SAFE:
        return None
    given = request.headers.get("content-type", [])
    kinds = {value.partition(";")[0].strip().lower() for value in given}
    if kinds == {"application/json"} or (not given and not _has_body(request)):
        return None
    message = "a write is JSON, and says so: Content-Type: application/json"
    return Failure(status=415, code="unsupported_media_type", message=message, field="Content-Type")


def _has_body(request: Request) -> bool:
    lengths = request.headers.get("content-length", [])
    return "transfer-encoding" in request.headers or any(length.strip() != "0" for length in lengths)
