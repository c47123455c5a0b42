"""Finds the Redis of a URL and connects to it: at a fixed address, at the master that sentinels name, or in a cluster.

A `Finder` is asked whenever a connection is made (`connection.py`), because the master may have moved since the last
one. How it knows depends on the kind of URL: `_Server` has one address; `_Sentinels` and `_Cluster` ask others
(`master_discovery.py`), take the master of the newest epoch, and refuse a server that does not call itself a master.

- A new connection is complete only with the run of its server and its role: both come from INFO, so every write can
  carry the run.
- Nothing here may hang. Names are resolved with a limit (`host_names.py`), sentinels and cluster nodes are asked in
  threads of their own, and each step has a timeout of the caller's, whatever timeouts the URL has.
- redis-py makes the connections, with retries off and the protocol fixed, and hands them over to a `Wire`. Its clients
  are not used, except that `client_for` gives one to libraries such as RQ.
- An error says what to do (`redis_errors.py`). Neither side of a connection says that the other one speaks TLS:
  `tls.py` guesses from how it failed.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Protocol

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.crc import key_slot
from redis.retry import Retry
from redis.sentinel import Sentinel

from replicator.errors import ConfigError
from replicator.log.host_names import Names
from replicator.log.master_discovery import Answer, MasterDiscovery
from replicator.log.urls import Address, Place, place_of, shown, wrong
from replicator.log.wire import RedisWire, Wire

from . import tls
from .redis_errors import NoMaster, advice, text_of

__all__ = [
    "ANSWER_S",
    "ASKING_TIMEOUT_S",
    "ASK_AGAIN_AFTER_S",
    "SOURCE_WAIT_S",
    "Finder",
    "Opened",
    "client_for",
    "finder_for",
    "is_cluster",
    "user_of",
]

#: How long a request may take by default.
ANSWER_S = 5.0


#: How long a sentinel, or a cluster node that is asked for the slots, may take. A healthy one answers within a
#: millisecond, and there are others to ask.
ASKING_TIMEOUT_S = 1.0


#: How long to wait for a source that hangs: once, and not again until it has answered. It may know of a newer master
#: than those that answer.
SOURCE_WAIT_S = 0.5


#: How long an answer of the sentinels about the master is used. Heartbeats are rarer, but callers that wait for
#: something look more often.
ASK_AGAIN_AFTER_S = 0.1


class Opened(NamedTuple):
    """A connection that was made. `address` is None if the URL has a fixed one, which cannot become wrong.

    `reads_apart`: scripts that only read have a command of their own there (EVALSHA_RO), for which a right to read is
    enough.
    """

    wire: Wire
    run: str
    address: Address | None = None
    reads_apart: bool = False


class Finder(Protocol):
    """Finds the Redis of a URL. Thread-safe."""

    def open(self, timeout_s: float = ANSWER_S) -> Opened:
        """Connect to where writes go now. Each step takes at most `timeout_s`.

        Raises redis' `RedisError` or `OSError`; then no connection is left open.
        """
        ...

    def master(self, wait_s: float) -> Address | None:
        """Where the master is now; None if there is nobody to ask, or no answer within `wait_s`."""
        ...


def finder_for(url: str, *, key: bytes, name: str, timeout_s: float) -> Finder:
    """Make the finder for a URL; `key` tells the slot in a cluster, `name` is the client name of its connections.

    Raises:
        ConfigError: it is not a Redis URL, or has an unknown option.
    """
    ours = {
        # Never repeat a command: redis-py cannot know whether an append may be sent again.
        "retry": Retry(NoBackoff(), 0),
        # The shapes of answers must not depend on the server's or the library's defaults.
        "protocol": 2,
        "decode_responses": False,
    }
    place = checked_place(url)
    options = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "client_name": name,
        **_options_of(place),
        **ours,
    }
    finder: Finder
    if place.kind == "sentinel":
        asking = {**options, **_hurried(timeout_s), "credential_provider": None, "db": 0, **place.asking}
        finder = _Sentinels(place.hosts, asking, options, place.service)
    elif place.kind == "cluster":
        finder = _Cluster(place.hosts, {**options, **_hurried(timeout_s)}, options, key_slot(key))
    else:
        finder = _Server(options)
    try:
        _made(options)
    except (TypeError, ValueError, redis.exceptions.RedisError):
        raise wrong(url, "redis-py does not take its options") from None
    return finder


def checked_place(url: str) -> Place:
    """What a URL says, once the certificates that it names were loaded. Raises `ConfigError`."""
    place = place_of(url)
    try:
        tls.check_certificates(place.options)
    except ValueError as error:
        raise wrong(url, str(error)) from None
    return place


def client_for(url: str) -> redis.Redis:
    """A plain client, for libraries that need one of their own (RQ changes the timeouts of the one it is given).

    Raises:
        ConfigError: it is not a Redis URL, or it is that of a cluster.
    """
    place = checked_place(url)
    if place.kind == "cluster":
        problem = f"RQ does not run on a cluster: give the jobs a Redis of their own instead of {shown(url)!r}"
        raise ConfigError(setting="redis", problem=problem)
    try:
        return _plain_client(place)
    except (TypeError, ValueError, redis.exceptions.RedisError):
        raise wrong(url, "redis-py does not take its options") from None


def _plain_client(place: Place) -> redis.Redis:
    if place.kind == "":
        return redis.Redis.from_pool(ConnectionPool(**_options_of(place)))
    options = {**place.options, "ssl": place.tls}
    asking = {**options, **_hurried(ASKING_TIMEOUT_S), "credential_provider": None, "db": 0, **place.asking}
    asking["retry"] = Retry(NoBackoff(), 0)
    # The classes of redis.sentinel have no types.
    make: Any = Sentinel
    client: redis.Redis = make(place.hosts, sentinel_kwargs=asking, **options).master_for(place.service)
    return client


def is_cluster(url: str) -> bool:
    """Whether the URL is that of a cluster, in which each key may be on another server. Raises `ConfigError`."""
    return place_of(url).kind == "cluster"


def _options_of(place: Place) -> dict[str, Any]:
    """The options for redis-py's connections; for sentinels and clusters, host and port are added later."""
    if "path" in place.options:
        return {**place.options, "connection_class": UnixDomainSocketConnection}
    return {**place.options, "connection_class": SSLConnection} if place.tls else place.options


def user_of(url: str) -> str:
    """The Redis user of its connections. Raises `ConfigError`."""
    return place_of(url).user


def _hurried(timeout_s: float) -> dict[str, float]:
    timeout_s = min(timeout_s, ASKING_TIMEOUT_S)
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}


class _Server:
    """There is one server, at the address in the URL."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._names = Names()

    def open(self, timeout_s: float = ANSWER_S) -> Opened:
        wire, server = _opened(self._options, self._names, timeout_s)
        return Opened(wire, server.run, reads_apart=server.reads_apart)

    def master(self, wait_s: float) -> Address | None:
        return None


class _Discovered:
    """Other servers tell where the master is (`master_discovery.py`)."""

    def __init__(self, sources: tuple[Address, ...], asking: dict[str, Any], options: dict[str, Any]) -> None:
        self._asking = asking
        self._options = options
        self._names = Names()
        self._discovery = MasterDiscovery(sources, self._ask)

    def open(self, timeout_s: float = ANSWER_S) -> Opened:
        """Try all places that are named for the newest epoch. If none is a master, the error says why, for each."""
        self._discovery.ask(min(SOURCE_WAIT_S, timeout_s), someone_s=timeout_s)
        problems: list[str] = []
        for place in self._discovery.places():
            try:
                return self._open_master(place, timeout_s)
            except (redis.exceptions.RedisError, OSError) as error:
                problems.append(f"{place}: {advice(error)}")
        for source, problem in self._discovery.problems():
            problems.append(f"{source}: {advice(problem) if problem is not None else 'it does not answer'}")
        raise NoMaster(f"no master was found; {'; '.join(problems)}")

    def master(self, wait_s: float) -> Address | None:
        return None

    def _ask(self, source: Address) -> Answer[Address]:
        raise NotImplementedError

    def _asked(self, source: Address, *commands: tuple[str, ...]) -> list[Any]:
        return _asked(_at(source, self._asking), self._names, *commands)

    def _open_master(self, address: Address, timeout_s: float) -> Opened:
        # A sentinel or a cluster node may not know yet that the master it names has become a replica.
        wire, server = _opened(_at(address, self._options), self._names, timeout_s)
        if server.role != "master":
            wire.close()
            raise redis.exceptions.ConnectionError(f"it is said to be the master, but calls itself {server.role}")
        return Opened(wire, server.run, address, server.reads_apart)


class _Sentinels(_Discovered):
    """Sentinels choose the master, and know it by the name of the service.

    Each choice has a number, the configuration epoch. A sentinel that is cut off names the master of an earlier epoch:
    a client that asks only that one writes to a master that the others have replaced.
    """

    def __init__(
        self, sources: tuple[Address, ...], asking: dict[str, Any], options: dict[str, Any], service: str
    ) -> None:
        super().__init__(sources, asking, options)
        self._service = service
        self._ask_again_at = 0.0

    def master(self, wait_s: float) -> Address | None:
        now = time.monotonic()
        if now < self._ask_again_at:
            return None
        self._ask_again_at = now + ASK_AGAIN_AFTER_S
        self._discovery.ask(min(SOURCE_WAIT_S, wait_s))
        places = self._discovery.places()
        # Sentinels that disagree within one epoch do not know epochs (the user may not ask): none is to be followed.
        return places[0] if len(places) == 1 else None

    def _ask(self, source: Address) -> Answer[Address]:
        # The epoch first. If another master is chosen between the two questions, the new one gets the old epoch, which
        # costs a moment at most; the other way round, the old master would get the new epoch, and pass for the new one.
        questions = (("SENTINEL", "MASTER", self._service), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service))
        try:
            told, place = self._asked(source, *questions)
        except redis.exceptions.AuthenticationError as error:
            # The advice for Redis itself would be wrong: sentinels have a password of their own.
            problem = f"this sentinel says: {error} (its password goes into the URL as ?sentinel_password=…)"
            raise redis.exceptions.ConnectionError(problem) from None
        if isinstance(place, Exception):
            raise place
        if place is None:
            raise redis.exceptions.ConnectionError(f"this sentinel knows no master {self._service!r}")
        return Answer(_epoch_of(told), Address(place[0].decode(), int(place[1])))


def _epoch_of(told: Any) -> int:
    """The configuration epoch; 0 if this user may not ask for it."""
    if isinstance(told, Exception):
        return 0
    epoch = dict(zip(told[::2], told[1::2], strict=False)).get(b"config-epoch", b"")
    return int(epoch) if epoch.isdigit() else 0


class _Cluster(_Discovered):
    """Each node of a cluster knows which node has which slot. A group's keys share a hash tag, so one slot has all."""

    def __init__(
        self, sources: tuple[Address, ...], asking: dict[str, Any], options: dict[str, Any], slot: int
    ) -> None:
        super().__init__(sources, asking, options)
        self._slot = slot

    def _ask(self, source: Address) -> Answer[Address]:
        (slots,) = self._asked(source, ("CLUSTER", "SLOTS"))
        if isinstance(slots, Exception):
            raise slots
        for first, last, master, *_ in slots:
            if first <= self._slot <= last:
                host = (master[0] or b"?").decode()
                # A node that does not know its own name means: where you asked.
                return Answer(0, Address(source.host if host == "?" else host, master[1]))
        raise redis.exceptions.ConnectionError(f"no node of the cluster has slot {self._slot}")


def _at(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "host": address.host, "port": address.port}


def _made(options: dict[str, Any]) -> Any:
    """A connection that is not open yet."""
    # Each has a pool of its own: a pool counts all connections that it ever made, and makes no more than 100.
    return ConnectionPool(**options).make_connection()


def _asked(options: dict[str, Any], names: Names, *commands: tuple[str, ...]) -> list[Any]:
    """The answers to some questions, over a connection of their own; a refusal is an answer."""
    wire = _connected(options, names, options["socket_connect_timeout"])
    try:
        return [_answer_or_refusal(wire, command) for command in commands]
    finally:
        wire.close()


def _answer_or_refusal(wire: Wire, command: tuple[str, ...]) -> Any:
    try:
        return wire.ask(*command)
    except redis.exceptions.ResponseError as refusal:
        return refusal


class _Described(NamedTuple):
    """What a server says of itself to a new connection."""

    run: str
    role: str
    reads_apart: bool


def _opened(options: dict[str, Any], names: Names, timeout_s: float) -> tuple[Wire, _Described]:
    """A connection, and what its server says of itself."""
    wire = _connected(options, names, timeout_s)
    try:
        # Two commands: Redis 6.2 accepts only one section.
        server = _fields(wire.ask("INFO", "server"))
        replication = _fields(wire.ask("INFO", "replication"))
        # EVALSHA_RO came with 7.0. Valkey gives the version of Redis that it is compatible with, 7.2.
        reads_apart = not server.get("redis_version", "6.").startswith("6.")
        return wire, _Described(_run_of(server, replication), replication.get("role", ""), reads_apart)
    except BaseException:
        wire.close()
        raise


def _connected(options: dict[str, Any], names: Names, timeout_s: float) -> Wire:
    """Connect to the first address of the host that answers. A wrong password ends the search: it is wrong at all."""
    # Timeouts among the options can only shorten the caller's limit.
    timeouts = {name: min(timeout_s, options.get(name) or timeout_s) for name in _TIMEOUTS}
    if "path" in options:
        return _connected_to({**options, **timeouts})
    name = options.get("host", "localhost")
    problem: Exception = redis.exceptions.ConnectionError(f"the name {name!r} has no address")
    for address in names.addresses(name, timeout_s):
        try:
            wire = _connected_to({**options, **timeouts, **_by_address(address, name, options)})
        except redis.exceptions.AuthenticationError:
            raise
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
            problem = error
        else:
            names.answered(name, address)
            return wire
    raise problem


_TIMEOUTS = ("socket_timeout", "socket_connect_timeout")


def _by_address(address: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options to connect to an address of a name. With TLS, the certificate is still checked against the name."""
    if options.get("connection_class") is redis.SSLConnection and address != name:
        return {"host": address, "connection_class": _NamedTLS, "named": name}
    return {"host": address}


class _NamedTLS(redis.SSLConnection):
    """A TLS connection to an address, with a server whose certificate is that of a name."""

    def __init__(self, *, named: str, **options: Any) -> None:
        make: Any = super().__init__
        make(**options)
        self._named = named

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        self.host = self._named
        wrap: Any = super()._wrap_socket_with_ssl
        return wrap(sock)


def _connected_to(options: dict[str, Any]) -> Wire:
    """Connect with exactly these options. An error that looks like a mix-up of TLS and plain text says so."""
    connection = _made(options)
    try:
        connection.connect()
        return RedisWire(connection)
    except (redis.exceptions.RedisError, OSError) as error:
        connection.disconnect()
        speaks_tls = isinstance(connection, SSLConnection)
        why = tls.hint(str(error), tls=speaks_tls, has_certificate="ssl_certfile" in options)
        if not why:
            raise
        raise redis.exceptions.ConnectionError(f"{text_of(error)} ({why})") from None
    except BaseException:
        connection.disconnect()
        raise


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value.strip() for name, colon, value in lines if colon}


def _run_of(server: dict[str, str], replication: dict[str, str]) -> str:
    """The run, computed as `server_run` in lua/fence.lua does, which says what it is made of and why."""
    try:
        return f"{server['run_id'][:16]}-{replication['master_replid'][:16]}"
    except KeyError as error:
        raise redis.exceptions.ResponseError(f"its INFO has no {error.args[0]}: is it a Redis?") from None
