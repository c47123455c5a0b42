"""Connections to the Redis of a URL, wherever it is at the moment.

What a client can get wrong about a connection is settled here:

- No command is ever sent twice. redis-py repeats commands on its own if built the plain way; here it makes single
  connections with retries off, a `Wire` uses them, and one that broke is not opened again behind our back.
- A connection knows the run of the Redis that it leads to: it is learnt when the connection is made. So an append
  carries it without asking INFO each time, and a primary that talks to another Redis than it thinks is refused.
- A request whose answer was lost raises `OutcomeUnknown`, one that was certainly not sent `LogUnavailable`. Only the
  first needs a second look.
- Behind Sentinel and in a cluster the master moves. It is asked for whenever a connection is made, and never in the
  middle of a call: an answer that it is elsewhere (MOVED, READONLY ...) means that nothing was done, so the connection
  is given up, the caller is told, and its next call finds the right place.

`urls.py` says what a URL means.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.crc import key_slot
from redis.retry import Retry
from redis.sentinel import Sentinel

from replicator.errors import ConfigError, LogUnavailable, OutcomeUnknown
from replicator.log.host_names import Names
from replicator.log.tellers import Said, Tellers
from replicator.log.urls import Address, Place, place_of, shown, wrong
from replicator.log.wire import Limit, RedisWire, Wire
from replicator.runtime.aside import Aside
from replicator.runtime.process import Owner, let_go_in_child
from replicator.runtime.sharing import FairLock

__all__ = [
    "Finder",
    "Link",
    "Script",
    "advice",
    "client_for",
    "finder_for",
    "follow",
    "is_cluster",
    "is_forbidden",
    "shown",
    "user_of",
]

#: How long a request may take if nobody says how long it may.
ANSWER_S = 5.0

#: How long a sentinel, or a node that is asked for the slots, may take. They answer within a millisecond or are ill,
#: and there are others to ask.
ASKING_TIMEOUT_S = 1.0

#: How long one that hangs is waited for: once, and not again until it has answered. Another one may know of a newer
#: master than those that answer.
TELLER_WAIT_S = 0.5

#: How long what the sentinels said about the master is good enough. Heartbeats are rarer, but those who wait for
#: something look more often.
ASK_AGAIN_AFTER_S = 0.1


class Script(Protocol):
    """A script's text and the hash that Redis knows it by."""

    text: bytes
    sha: bytes


class Opened(NamedTuple):
    """A connection that was made. `address` is None where nobody can tell that it is the wrong one."""

    wire: Wire
    run: str
    address: Address | None = None


class Finder(Protocol):
    """Knows the way to the Redis of a URL. May be used by several threads."""

    def open(self, timeout_s: float = ANSWER_S) -> Opened:
        """Make a connection to where writes go now. Raises redis' `RedisError` or `OSError`; then none is open.

        Each of its steps takes at most `timeout_s`.
        """
        ...

    def master(self, wait_s: float) -> Address | None:
        """Where the master is now, if there is somebody to ask, and it answers soon."""
        ...


DEFAULT_LIMIT = Limit(ANSWER_S)

_CLOSED = "the connection is closed"


class Link:
    """One connection, made when it is needed, and never remade in the middle of anything.

    Every call has a `Limit`, and keeps it whatever hangs: the call before it, the way to the server, the server. A
    connection is made aside from who needs it: who cannot wait leaves, and the next one finds the attempt further on.
    """

    def __init__(self, finder: Finder, url: str) -> None:
        self._finder = finder
        self._url = url
        self._opened: Opened | None = None
        self._lock = FairLock()
        self._attempts: Aside[None] = Aside("connection", most=1)
        #: Held while what an attempt made becomes the connection, or none is wanted any more.
        self._adopting = threading.Lock()
        self._stale = False
        self._closed = False
        self._owner = Owner(f"this connection to {url}")
        let_go_in_child(self, Link._let_go)

    def call(self, *command: Any, limit: Limit = DEFAULT_LIMIT) -> Any:
        """Send one command, give its answer. Raises `LogUnavailable`, `OutcomeUnknown`, or redis' `ResponseError`."""
        self._begin(limit)
        try:
            return self._answer(self._connected(limit).wire, *command, limit=limit)
        finally:
            self._lock.release()

    def script(
        self,
        script: Script,
        keys: list[bytes],
        *args: Any,
        in_run: bool = False,
        meanwhile: Callable[[], None] | None = None,
        limit: Limit = DEFAULT_LIMIT,
    ) -> Any:
        """Run a script; with `in_run` its first argument is the run that this very connection belongs to.

        `meanwhile` is called once it is on its way, if it gets there. A script that Redis does not know has done
        nothing, so sending its text then is no repeat.
        """
        self._begin(limit)
        try:
            opened = self._connected(limit)
            args = (opened.run, *args) if in_run else args
            return self._evaluated(opened.wire, script, keys, args, limit, meanwhile)
        finally:
            self._lock.release()

    def script_then(
        self,
        script: Script,
        keys: list[bytes],
        *args: Any,
        then: tuple[Any, ...],
        limit: Limit = DEFAULT_LIMIT,
        then_limit: Limit = DEFAULT_LIMIT,
    ) -> tuple[Any, Any]:
        """Run a script and, if it answers `ok`, one more command on the very same connection; both answers."""
        self._begin(limit)
        try:
            wire = self._connected(limit).wire
            answer = self._evaluated(wire, script, keys, args, limit)
            if answer[0] != b"ok":
                return answer, None
            return answer, self._answer(wire, *then, limit=then_limit)
        finally:
            self._lock.release()

    @property
    def address(self) -> Address | None:
        """Where the connection leads, if that can change."""
        opened = self._opened
        return opened.address if opened is not None else None

    def leave_other_run(self, run: str) -> None:
        """Make a new connection for the next call if the run is not the one that the connection learnt."""
        opened = self._opened
        if opened is not None and opened.run != run:
            self._stale = True

    def leave_other_address(self, address: Address) -> None:
        """Close the connection if it leads elsewhere. A call that is waiting for its answer fails."""
        opened = self._opened
        if opened is not None and opened.address != address:
            self._stale = True
            self._end()

    def close(self) -> None:
        """Close it for good. A call that is waiting for its answer, such as a read that blocks, fails."""
        self._owner.check()
        with self._adopting:
            self._closed = True
        self._attempts.give_up(redis.exceptions.ConnectionError(_CLOSED))
        self._end()

    def _begin(self, limit: Limit) -> None:
        """Be the one who uses the connection. Raises `WrongProcess` before it waits for a lock."""
        self._owner.check()
        if not self._lock.acquire() and not self._lock.acquire(limit.left_s):
            raise self._unavailable("it has not answered the requests before this one")

    def _connected(self, limit: Limit) -> Opened:
        opened = self._opened
        if opened is None or self._stale or not opened.wire.is_open:
            opened = self._connect(limit)
        if limit.until != math.inf and limit.left_s <= 0:
            raise self._unavailable("there was no time left to ask it")
        return opened

    def _connect(self, limit: Limit) -> Opened:
        self._drop()
        # Before the way is asked for: what is found out meanwhile makes the new connection stale as well.
        self._stale = False
        while not self._closed:
            attempt = self._attempts.ask("", lambda: self._open(limit.answer_s))
            if not attempt.wait(limit.left_s):
                raise self._unavailable("there is no connection to it yet")
            if attempt.error is not None:
                raise self._unavailable(advice(attempt.error))
            opened = self._opened
            if opened is not None:
                return opened
        self._drop()
        raise self._unavailable(_CLOSED)

    def _open(self, timeout_s: float) -> None:
        opened = self._finder.open(timeout_s)
        with self._adopting:
            if not self._closed:
                self._opened = opened
                return
        opened.wire.close()

    def _unavailable(self, problem: str) -> LogUnavailable:
        return LogUnavailable(url=self._url, problem=problem)

    def _evaluated(
        self,
        wire: Wire,
        script: Script,
        keys: list[bytes],
        args: tuple[Any, ...],
        limit: Limit,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        try:
            command = (b"EVALSHA", script.sha, len(keys), *keys, *args)
            return self._answer(wire, *command, limit=limit, meanwhile=meanwhile)
        except redis.exceptions.NoScriptError:
            return self._answer(wire, b"EVAL", script.text, len(keys), *keys, *args, limit=limit)

    def _answer(self, wire: Wire, *command: Any, limit: Limit, meanwhile: Callable[[], None] | None = None) -> Any:
        try:
            return wire.ask(*command, limit=limit, meanwhile=meanwhile)
        except redis.exceptions.ResponseError as error:
            if _is_elsewhere(error):
                self._drop()
            raise
        except (redis.exceptions.BusyLoadingError, redis.exceptions.AuthenticationError) as error:
            # Connection errors to redis-py, but the server did answer: it did nothing.
            raise self._unavailable(advice(error)) from None
        except (redis.exceptions.RedisError, OSError) as error:
            self._drop()
            raise OutcomeUnknown(url=self._url, problem=str(error) or type(error).__name__) from None
        except BaseException:
            # An answer that was not read would be taken for that of the next command.
            self._drop()
            raise

    def _let_go(self) -> None:
        if self._opened is not None:
            self._opened.wire.let_go()

    def _drop(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.wire.close()

    def _end(self) -> None:
        """Close the connection, whoever uses it."""
        if self._lock.acquire():
            try:
                self._drop()
            finally:
                self._lock.release()
        elif (opened := self._opened) is not None:
            opened.wire.shut_down()


def follow(finder: Finder, links: Iterable[Link], *, wait_s: float = TELLER_WAIT_S) -> None:
    """Leave a Redis that is no longer the master.

    One that hung while the sentinels chose another takes writes on its old connections for seconds after it is back,
    and loses them all when the sentinels make it a replica. A sentinel that does not answer changes nothing. They are
    waited for no longer than `wait_s`.
    """
    connected = [link for link in links if link.address is not None]
    address = finder.master(wait_s) if connected else None
    if address is not None:
        for link in connected:
            link.leave_other_address(address)


# --- URLs ---


def finder_for(url: str, *, key: bytes, name: str, timeout_s: float) -> Finder:
    """Give the finder of a URL; `key` tells the slot in a cluster, `name` is what the connections are called.

    Raises:
        ConfigError: it is not a URL of any form, or has an option that nobody knows.
    """
    ours = {
        # Never repeat a command: an append that is sent twice by somebody else's retry is not our retry.
        "retry": Retry(NoBackoff(), 0),
        # The shapes of answers must not depend on the server's or the library's defaults.
        "protocol": 2,
        "decode_responses": False,
    }
    place = place_of(url)
    options = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "client_name": name,
        **_options_of(place),
        **ours,
    }
    finder: Finder
    if place.kind == "sentinel":
        asking = {**options, **_hurried(timeout_s), "username": None, "password": None, "db": 0, **place.asking}
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


def client_for(url: str) -> redis.Redis:
    """A plain client, for libraries that want one of their own (RQ changes the timeouts of the one it is given).

    Raises:
        ConfigError: it is not the URL of a Redis, or it is that of a cluster.
    """
    place = place_of(url)
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
    asking = {**options, **_hurried(ASKING_TIMEOUT_S), "username": None, "password": None, "db": 0, **place.asking}
    asking["retry"] = Retry(NoBackoff(), 0)
    # Its classes and methods carry no types.
    make: Any = Sentinel
    client: redis.Redis = make(place.hosts, sentinel_kwargs=asking, **options).master_for(place.service)
    return client


def is_cluster(url: str) -> bool:
    """Whether the URL is that of a cluster, in which each key may be on another server. Raises `ConfigError`."""
    return place_of(url).kind == "cluster"


def _options_of(place: Place) -> dict[str, Any]:
    """What redis-py makes connections with, where there is one server or once a host and a port are added."""
    if "path" in place.options:
        return {**place.options, "connection_class": UnixDomainSocketConnection}
    return {**place.options, "connection_class": SSLConnection} if place.tls else place.options


def user_of(url: str) -> str:
    """As whom its connections act. Raises `ConfigError`."""
    return str(place_of(url).options.get("username") or "default")


def _hurried(timeout_s: float) -> dict[str, float]:
    timeout_s = min(timeout_s, ASKING_TIMEOUT_S)
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}


# --- finders ---


class _Server:
    """There is one server, and the URL says where."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._names = Names()

    def open(self, timeout_s: float = ANSWER_S) -> Opened:
        wire, run, _ = _opened(self._options, self._names, timeout_s)
        return Opened(wire, run)

    def master(self, wait_s: float) -> Address | None:
        return None


class _Told:
    """Others tell where the master is (`tellers.py`)."""

    def __init__(self, tellers: tuple[Address, ...], asking: dict[str, Any], options: dict[str, Any]) -> None:
        self._asking = asking
        self._options = options
        self._names = Names()
        self._tellers = Tellers(tellers, self._ask)

    def open(self, timeout_s: float = ANSWER_S) -> Opened:
        self._tellers.ask(min(TELLER_WAIT_S, timeout_s), someone_s=timeout_s)
        problems: list[str] = []
        for place in self._tellers.places():
            try:
                return self._open_master(place, timeout_s)
            except (redis.exceptions.RedisError, OSError) as error:
                problems.append(f"{place}: {advice(error)}")
        for teller, problem in self._tellers.problems():
            problems.append(f"{teller}: {advice(problem) if problem is not None else 'it does not answer'}")
        raise _NoMaster(f"no master was found; {'; '.join(problems)}")

    def master(self, wait_s: float) -> Address | None:
        return None

    def _ask(self, teller: Address) -> Said[Address]:
        raise NotImplementedError

    def _asked(self, teller: Address, *commands: tuple[str, ...]) -> list[Any]:
        return _asked(_at(teller, self._asking), self._names, *commands)

    def _open_master(self, address: Address, timeout_s: float) -> Opened:
        # A sentinel may not know yet that the master it names has become a replica, and neither may a node.
        wire, run, role = _opened(_at(address, self._options), self._names, timeout_s)
        if role != "master":
            wire.close()
            raise redis.exceptions.ConnectionError(f"it is said to be the master, but calls itself {role}")
        return Opened(wire, run, address)


class _Sentinels(_Told):
    """Sentinels choose the master, and know it by the name of the service.

    Each of their choices has a number, the configuration epoch. One of them that was cut off names the master of an
    earlier one: whoever asks only that one writes to a master that the others have replaced.
    """

    def __init__(
        self, tellers: tuple[Address, ...], asking: dict[str, Any], options: dict[str, Any], service: str
    ) -> None:
        super().__init__(tellers, asking, options)
        self._service = service
        self._ask_again_at = 0.0

    def master(self, wait_s: float) -> Address | None:
        now = time.monotonic()
        if now < self._ask_again_at:
            return None
        self._ask_again_at = now + ASK_AGAIN_AFTER_S
        self._tellers.ask(min(TELLER_WAIT_S, wait_s))
        places = self._tellers.places()
        # Who disagree about one epoch know no epochs (their user may not ask), and then nobody is to be followed.
        return places[0] if len(places) == 1 else None

    def _ask(self, teller: Address) -> Said[Address]:
        # The epoch first: a choice that is made between the two then goes by the number before it, which may cost a
        # moment; the old master by the new number would be taken for the new one.
        questions = (("SENTINEL", "MASTER", self._service), ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service))
        try:
            told, place = self._asked(teller, *questions)
        except redis.exceptions.AuthenticationError as error:
            # Not the advice for Redis itself, whose password is another one.
            problem = f"this sentinel says: {error} (its password goes into the URL as ?sentinel_password=…)"
            raise redis.exceptions.ConnectionError(problem) from None
        if isinstance(place, Exception):
            raise place
        if place is None:
            raise redis.exceptions.ConnectionError(f"this sentinel knows no master {self._service!r}")
        return Said(_epoch_of(told), Address(place[0].decode(), int(place[1])))


def _epoch_of(told: Any) -> int:
    """The configuration epoch; 0 if this user may not ask for it."""
    if isinstance(told, Exception):
        return 0
    epoch = dict(zip(told[::2], told[1::2], strict=False)).get(b"config-epoch", b"")
    return int(epoch) if epoch.isdigit() else 0


class _Cluster(_Told):
    """Each node of a cluster knows who has which slot. A group's keys share a hash tag, so they are all in one."""

    def __init__(
        self, tellers: tuple[Address, ...], asking: dict[str, Any], options: dict[str, Any], slot: int
    ) -> None:
        super().__init__(tellers, asking, options)
        self._slot = slot

    def _ask(self, teller: Address) -> Said[Address]:
        (slots,) = self._asked(teller, ("CLUSTER", "SLOTS"))
        if isinstance(slots, Exception):
            raise slots
        for first, last, master, *_ in slots:
            if first <= self._slot <= last:
                host = (master[0] or b"?").decode()
                # A node that does not know its own name means: where you asked.
                return Said(0, Address(teller.host if host == "?" else host, master[1]))
        raise redis.exceptions.ConnectionError(f"no node of the cluster has slot {self._slot}")


class _NoMaster(redis.exceptions.ConnectionError):
    """Nobody led to a master. The text says it all."""


def _at(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "host": address.host, "port": address.port}


def _made(options: dict[str, Any]) -> Any:
    """A connection that is not open yet."""
    # A pool of its own for each: a pool counts what it ever made, and makes no more than 100.
    return ConnectionPool(**options).make_connection()


def _asked(options: dict[str, Any], names: Names, *commands: tuple[str, ...]) -> list[Any]:
    """The answers to some questions, on a connection of its own; a refusal is an answer."""
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


def _opened(options: dict[str, Any], names: Names, timeout_s: float) -> tuple[Wire, str, str]:
    """A connection, the run of its server, and the server's role."""
    wire = _connected(options, names, timeout_s)
    try:
        # Two commands: 6.2 takes but one section.
        server = _fields(wire.ask("INFO", "server"))
        replication = _fields(wire.ask("INFO", "replication"))
        return wire, _run_of(server, replication), replication.get("role", "")
    except BaseException:
        wire.close()
        raise


def _connected(options: dict[str, Any], names: Names, timeout_s: float) -> Wire:
    # What the URL says of timeouts cannot hold a caller up: each one has its own limit.
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
    """What makes redis-py connect to the address of a name: with TLS, the certificate is still that of the name."""
    if options.get("connection_class") is redis.SSLConnection and address != name:
        return {"host": address, "connection_class": _NamedTLS, "named": name}
    return {"host": address}


class _NamedTLS(redis.SSLConnection):
    """A TLS connection to an address, to a server that shows the certificate of a name."""

    def __init__(self, *, named: str, **options: Any) -> None:
        make: Any = super().__init__
        make(**options)
        self._named = named

    def _wrap_socket_with_ssl(self, sock: Any) -> Any:
        self.host = self._named
        wrap: Any = super()._wrap_socket_with_ssl
        return wrap(sock)


def _connected_to(options: dict[str, Any]) -> Wire:
    connection = _made(options)
    try:
        connection.connect()
        return RedisWire(connection)
    except (redis.exceptions.RedisError, OSError) as error:
        connection.disconnect()
        hint = _tls_hint(error, tls=isinstance(connection, SSLConnection))
        if not hint:
            raise
        raise redis.exceptions.ConnectionError(f"{_text_of(error)} ({hint})") from None
    except BaseException:
        connection.disconnect()
        raise


#: What is seen by a side that is not understood: the other one closes, or answers in its own language.
_HUNG_UP = re.compile("closed by server|reset by peer|Broken pipe|Protocol error|EOF occurred|UNEXPECTED_EOF")
_NOT_TLS = re.compile("WRONG_VERSION_NUMBER|UNKNOWN_PROTOCOL|record layer|Timeout", re.IGNORECASE)


def _tls_hint(error: Exception, *, tls: bool) -> str:
    """What TLS may have to do with a connection that could not be made. Neither side says that the other speaks it."""
    text = str(error)
    if not tls:
        return "if this port speaks TLS, the URL begins with rediss instead of redis" if _HUNG_UP.search(text) else ""
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "?ssl_ca_certs=FILE in the URL names who signed its certificate, which has to name the host of the URL"
    wants = "if it wants a certificate, the URL has ?ssl_certfile=FILE&ssl_keyfile=FILE"
    if "ALERT" in text:
        return wants
    hint = "if this port does not speak TLS, the URL begins with redis instead of rediss"
    if _NOT_TLS.search(text):
        return hint
    return f"{hint}; {wants}" if _HUNG_UP.search(text) else ""


def _fields(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value.strip() for name, colon, value in lines if colon}


def _run_of(server: dict[str, str], replication: dict[str, str]) -> str:
    """The run as `server_run` of lua/fence.lua gives it, which says what it is made of and why."""
    try:
        return f"{server['run_id'][:16]}-{replication['master_replid'][:16]}"
    except KeyError as error:
        raise redis.exceptions.ResponseError(f"its INFO has no {error.args[0]}: is it a Redis?") from None


# --- errors ---


_ADVICE = {
    "READONLY": "it is a replica; point the URL at the master",
    "OOM": "its memory is full; raise maxmemory (and keep maxmemory-policy noeviction)",
    "LOADING": "it is still loading its data; it will answer soon",
    "NOAUTH": "it wants a password; put it into the URL",
    "WRONGPASS": "the password in the URL is wrong",
    "NOPERM": "this user may not do that; see `ACL LOG`",
    "ACL failure": "this user may not do that; see `ACL LOG`",
    "can't run this command": "this user may not do that; see `ACL LOG`",
    "WRONGTYPE": "a key of the group holds something else; is it the right database?",
    "BADTERM": "the key was changed by hand; `replicator recover` sets it right",
    "BADHEAD": "the key was changed by hand; `replicator recover` founds the log anew",
    "MISCONF": "it cannot write to its disk",
    "BUSY": "a script keeps it busy",
    "MOVED": "another node of the cluster has the group's keys; a redis+cluster:// URL finds it",
    "ASK ": "the group's keys are moving to another node of the cluster; it will answer soon",
    "TRYAGAIN": "the group's keys are moving to another node of the cluster; it will answer soon",
    "DB index": "the URL ends with the number of a database, and this Redis has fewer",
    "CLUSTERDOWN": "the cluster lacks nodes; see `CLUSTER INFO`",
}


#: redis-py turns the first word of these answers into a class, and takes it out of the text.
_WORDS: dict[type[Exception], str] = {
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.NoPermissionError: "NOPERM",
    redis.exceptions.MovedError: "MOVED",
    redis.exceptions.AskError: "ASK",
    redis.exceptions.TryAgainError: "TRYAGAIN",
    redis.exceptions.ClusterDownError: "CLUSTERDOWN",
    redis.exceptions.MasterDownError: "MASTERDOWN",
}

#: What answers start with that mean: nothing was done, and another server is the one to ask. Within a script, 6.2 puts
#: the word into the middle of the text, behind a `-`.
_ELSEWHERE = re.compile(r"(^|-)(READONLY|MOVED|ASK|TRYAGAIN|CLUSTERDOWN|MASTERDOWN)\b")


def advice(error: Exception) -> str:
    """The text of an error, and what to do about it."""
    text = _text_of(error)
    if isinstance(error, _NoMaster):
        return text
    for word, hint in _ADVICE.items():
        # Redis 6.2 puts the word into the middle of the error of a script.
        if word in text:
            return f"{text} ({hint})"
    return text


def is_forbidden(error: Exception) -> bool:
    """Whether the user lacks a right."""
    return _FORBIDDEN.search(_text_of(error)) is not None


#: 6.2 says it without the word within a script.
_FORBIDDEN = re.compile("NOPERM|ACL failure|executing the script can't")


def _is_elsewhere(error: Exception) -> bool:
    return _ELSEWHERE.search(_text_of(error)) is not None


def _text_of(error: Exception) -> str:
    return " ".join(filter(None, [_word_of(error), str(error)])) or type(error).__name__


def _word_of(error: Exception) -> str:
    if isinstance(error, redis.exceptions.AuthenticationError):
        return "NOAUTH" if "required" in str(error) else "WRONGPASS"
    return _WORDS.get(type(error), "")
