"""What both clients are made with and what a request of theirs is made of, checked when it is given."""

from __future__ import annotations

import os
import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple, TypedDict
from weakref import WeakSet

import httpx
import orjson

from ..errors import ConfigError, NotJSON, OutcomeUnknown
from ..format.ids import RecordId
from ..format.keyed import KEY_CHARACTERS_MAX
from ..runtime import checks
from ..runtime.process import Owner, let_go_in_child
from ..web.guard.token_bearer import Recipients, bearer_of, is_secret, trusting, withheld_from
from .answers import Answer, read_answer
from .directory import Directory, RedisDirectory, StaticDirectory
from .exchange import Call, Exchange, Send
from .known import Known

__all__ = ["CHANGES", "NOT_SENT", "ClientOptions", "ClientSetup", "Outgoing", "RequestOptions", "changed", "told"]

#: A failover with the default lease takes some 7 s.
TIMEOUT_S = 20.0

#: How long one node is waited for, where another one may be asked: a node that hangs costs so much. Longer than a node
#: holds a write back for a primary (`PRIMARY_WITHIN_S`), or every write during a failover would have been cut off.
ATTEMPT_S = 7.0

#: Shorter than servers keep a connection that nobody uses (uvicorn: 5 s). A request on one that is being closed is
#: lost, and nobody can tell whether it was received.
IDLE_S = 2.0

#: Methods that write nothing.
READS = ("GET", "HEAD", "OPTIONS")
WRITES = ("POST", "PUT", "PATCH", "DELETE")

#: The request never left: there is no connection.
NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

#: Set by the client itself; for each there is an argument.
OURS = {"idempotency-key": "key=", "replicator-fresh": "fresh="}

HOW_TO_NAME = "name the nodes in urls= or token_to=, or give the CA of their certificates in ca_file="

#: Where an application takes a change as it is. The registry does.
CHANGES = "/v1/changes"


class ClientOptions(TypedDict, total=False):
    """How a client is made: see `Client`."""

    urls: Sequence[str] | None
    keyed: bool
    timeout_s: float
    attempt_timeout_s: float
    http: Mapping[str, Any] | None
    token: str | None
    token_file: str | os.PathLike[str] | None
    token_to: Sequence[str]
    ca_file: str | os.PathLike[str] | None


class RequestOptions(TypedDict, total=False):
    """What a request may have besides its method and its path.

    `json`, or `content` (bytes or a text): the body. `params`: the query, as httpx takes it. `headers`: further ones,
    `Replicator-Ack` for example. `key`: of a write, 1 to 256 printable characters of ASCII; None: one is drawn.
    `keyed`: for this request, instead of what the client was given. `fresh`: of a read. `timeout_s`: of all attempts.
    """

    json: Any
    content: bytes | str | None
    params: Any
    headers: Mapping[str, str] | None
    key: str | None
    keyed: bool | None
    fresh: bool
    timeout_s: float | None


class Outgoing(NamedTuple):
    """A request as it is sent, however often."""

    call: Call
    content: bytes | None
    params: Any

    def built(
        self, http: httpx.Client | httpx.AsyncClient, send: Send, authorization: Mapping[str, str]
    ) -> httpx.Request:
        return http.build_request(
            self.call.method,
            send.url + self.call.path,
            params=self.params,
            headers={**authorization, **send.headers},
            content=self.content,
            timeout=send.timeout_s,
        )


class ClientSetup:
    """Settings, and what a client knows. Nothing here sends anything.

    In a forked child every call raises `WrongProcess`, and its copies of the connections are closed there.
    """

    def __init__(
        self,
        redis: str,
        group: str,
        *,
        urls: Sequence[str] | None = None,
        keyed: bool = True,
        timeout_s: float = TIMEOUT_S,
        attempt_timeout_s: float = ATTEMPT_S,
        http: Mapping[str, Any] | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        token_to: Sequence[str] = (),
        ca_file: str | os.PathLike[str] | None = None,
    ) -> None:
        self._keyed = checks.flag("keyed", keyed)
        self._timeout_s = checks.seconds("timeout_s", timeout_s)
        self._attempt_s = checks.seconds("attempt_timeout_s", attempt_timeout_s, least=0.01)
        self.http_options = _http_options(http, ca_file)
        self.directory = _directory(redis, group, urls)
        named = [*_urls("token_to", token_to), *(urls or ())]
        self._bearer = bearer_of(token, token_file, named, has_ca=ca_file is not None)
        self._recipients = Recipients(named, has_ca=ca_file is not None)
        self._secret = _secret_of(http or {})
        self.known = Known()
        self._owner = Owner("this client")
        self.closed = False
        #: The connections that were used, to be closed in a child.
        self._sockets: WeakSet[Any] = WeakSet()
        let_go_in_child(self, ClientSetup._let_go)

    def check(self) -> None:
        self._owner.check()
        if self.closed:
            raise ConfigError(setting="client", problem="it was closed: make another one")

    @property
    def is_here(self) -> bool:
        return self._owner.is_here

    def begin(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | str | None = None,
        params: Any = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
        keyed: bool | None = None,
        fresh: bool = False,
        timeout_s: float | None = None,
    ) -> tuple[Outgoing, Exchange]:
        """The request that these arguments ask for (`RequestOptions`). Raises `ConfigError`, `NotJSON`."""
        limit_s = self._timeout_s if timeout_s is None else checks.seconds("timeout_s", timeout_s)
        method = _method(method)
        is_read = method in READS
        own = _headers(headers)
        if json is not None:
            if content is not None:
                raise ConfigError(setting="json", problem="give json or content, not both")
            content = _encoded(json)
            own.setdefault("content-type", "application/json")
        call = Call(
            method=method,
            path=_path(path),
            is_read=is_read,
            key=_key(key, self._is_keyed(keyed, own), is_read=is_read),
            fresh=_fresh(fresh, is_read=is_read),
            headers=own,
        )
        exchange = Exchange(call, self.known, until=time.monotonic() + limit_s, attempt_s=self._attempt_s)
        return Outgoing(call, _content(content), params), exchange

    def _is_keyed(self, asked: bool | None, headers: Mapping[str, str]) -> bool:
        """Whether a write gets a key. `If-Match` has a condition of its own: sent again, it would meet its own work."""
        if asked is not None:
            return checks.flag("keyed", asked)
        return self._keyed and "if-match" not in headers

    def authorization(self, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The header with the token, if there is one. `headers`: the other ones. Raises `ConfigError` if the node
        there is not to see it, or another secret that the application gave.
        """
        secret = next((name for name in headers if is_secret(name)), self._secret)
        if secret is not None and not self._recipients.has(url):
            raise withheld_from(url, how=HOW_TO_NAME, what=secret)
        if self._bearer is None:
            return {}
        if not self._bearer.is_for(url):
            raise withheld_from(url, how=HOW_TO_NAME)
        return {"authorization": self._bearer.header}

    def read(self, response: httpx.Response) -> Answer:
        return read_answer(response)

    def note(self, response: httpx.Response) -> None:
        """Remember the connection that an answer came over."""
        stream = response.extensions.get("network_stream")
        connection = stream.get_extra_info("socket") if stream is not None else None
        connection = getattr(connection, "_sock", connection)  # asyncio shows it in a wrapper
        if connection is not None:
            self._sockets.add(connection)

    def _let_go(self) -> None:
        for connection in self._sockets:
            connection.close()

    # --- what a client says of itself ---

    @property
    def position(self) -> str | None:
        token = self.known.token
        return None if token is None else str(token)

    def saw(self, position: str) -> None:
        if not isinstance(position, str):
            raise ConfigError(setting="position", problem=f"{position!r} is not a text like 5-1042")
        self.known.saw(RecordId.parse(position))


def told(error: Exception) -> str:
    """An error of the connection, in a line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def changed(response: httpx.Response, key: str | None) -> Any:
    """What a change came to, as `POST /v1/changes` answers it. `key`: what it was sent with, for `OutcomeUnknown`."""
    said = f"{response.request.url} answers {response.status_code}"
    if response.is_server_error:
        raise OutcomeUnknown(problem=said, key=key)
    members = _decoded(response.content) if response.is_success else None
    if not isinstance(members, dict) or "result" not in members:
        raise ConfigError(setting="path", problem=f"{said}, and not with the result of a change")
    return members["result"]


def _decoded(content: bytes) -> Any:
    """None: it is no JSON."""
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def _directory(redis: str, group: str, urls: Sequence[str] | None) -> Directory:
    if urls is not None:
        if redis or group:
            raise ConfigError(setting="urls", problem="give the URLs of the nodes, or a Redis and a group, not both")
        return StaticDirectory(urls)
    if not isinstance(redis, str) or not redis:
        raise ConfigError(setting="redis_url", problem="give the URL of Redis and a group, or urls=[...] of the nodes")
    return RedisDirectory(redis, checks.name("group", group))


def _urls(setting: str, given: object) -> Sequence[str]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigError(setting=setting, problem="give a list of URLs: ['https://HOST:PORT', ...]")
    return given


def _http_options(given: Mapping[str, Any] | None, ca_file: str | os.PathLike[str] | None) -> dict[str, Any]:
    """For the pool of each node. Making a TLS context takes longer than most requests, so all share one.

    No cookies are kept: an application may put a position into one, and this client has its own.
    """
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    options: dict[str, Any] = {"limits": httpx.Limits(keepalive_expiry=IDLE_S), "cookies": no_cookies, **(given or {})}
    for name in ("base_url", "follow_redirects", "timeout"):
        if name in options:
            raise ConfigError(setting="http", problem=f"{name} is for the client to decide")
    if ca_file is not None:
        if "verify" in options or "transport" in options:
            raise ConfigError(setting="ca_file", problem="it says what is trusted: leave verify and transport out")
        options["verify"] = trusting(ca_file)
    if options.get("verify", True) is True and "transport" not in options:
        options["verify"] = httpx.create_ssl_context()
    return options


def _secret_of(http: Mapping[str, Any]) -> str | None:
    """What of these options every request shows that is a secret; None: nothing."""
    given = (name for name in ("auth", "cookies") if http.get(name) is not None)
    return next(given, None) or next((name for name in httpx.Headers(http.get("headers")) if is_secret(name)), None)


def _method(method: object) -> str:
    if isinstance(method, str) and method.upper() in (*READS, *WRITES):
        return method.upper()
    raise ConfigError(setting="method", problem=f"{method!r} is none of {', '.join((*READS, *WRITES))}")


def _path(path: object) -> str:
    if not isinstance(path, str) or not path.startswith("/") or path.startswith("//"):
        raise ConfigError(setting="path", problem=f"{path!r} is not a path like /v1/nodes: the client knows the hosts")
    return checks.line("path", path)


def _headers(given: Mapping[str, str] | None) -> dict[str, str]:
    headers = {name.lower(): value for name, value in (given or {}).items()}
    for name in OURS.keys() & headers.keys():
        raise ConfigError(setting="headers", problem=f"{name} is sent by the client: give {OURS[name]}")
    return headers


def _key(key: object, keyed: bool, *, is_read: bool) -> str | None:
    """The key of a write: the one that was given, or a new one."""
    if is_read:
        if key is not None:
            raise ConfigError(setting="key", problem="a read has no key: it is repeated as it is")
        return None
    if not keyed:
        if key is not None:
            raise ConfigError(setting="key", problem="a write with keyed=False has none")
        return None
    if key is None:
        return _drawn_key()
    if not isinstance(key, str) or not 0 < len(key) <= KEY_CHARACTERS_MAX or not (key.isascii() and key.isprintable()):
        problem = f"{key!r:.80} is not 1 to {KEY_CHARACTERS_MAX} printable characters of ASCII"
        raise ConfigError(setting="key", problem=problem)
    return key


def _drawn_key() -> str:
    # From the system's own source: a worker that was forked draws another one than its siblings.
    return str(uuid.UUID(bytes=secrets.token_bytes(16), version=4))


def _fresh(fresh: object, *, is_read: bool) -> bool:
    if checks.flag("fresh", fresh) and not is_read:
        raise ConfigError(setting="fresh", problem="is for reads: a write goes to the primary anyway")
    return bool(fresh)


def _encoded(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise NotJSON(what="the body", problem=str(error)) from None


def _content(content: object) -> bytes | None:
    if content is None or isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    raise ConfigError(setting="content", problem="is bytes or a text: it may have to be sent again")
