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

The URLs (rediss wherever redis stands is the same with TLS, to the sentinels, too):

    redis://[USER:PASSWORD@]HOST[:6379][/DB]
    unix://[USER:PASSWORD@]/PATH/TO.SOCK[?db=DB]
    redis+sentinel://[USER:PASSWORD@]HOST[:26379],HOST…/SERVICE[/DB][?sentinel_username=…&sentinel_password=…]
    redis+cluster://[USER:PASSWORD@]HOST[:6379],HOST…

Each takes redis-py's options behind a `?`. The parts of a URL are percent-encoded where they hold one of `/?#@:%`.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, parse_url
from redis.crc import key_slot
from redis.retry import Retry
from redis.sentinel import Sentinel

from replicator.errors import ConfigError, LogUnavailable, OutcomeUnknown
from replicator.process import Owner, let_go_in_child
from replicator.wire import RedisWire, Wire

__all__ = ["Finder", "Link", "Script", "advice", "client_for", "finder_for", "follow", "is_cluster", "shown"]

#: How long a sentinel, or a node that is asked for the slots, may take. They answer within a millisecond or are ill,
#: and there are others to ask.
ASKING_TIMEOUT_S = 1.0

#: How long what a sentinel said about the master is good enough. Heartbeats are rarer, but those who wait for
#: something look more often.
ASK_AGAIN_AFTER_S = 0.1

#: Sentinels that hang must not hold up the heartbeats: who waited for one does not ask again for so many times as long.
ASKING_SHARE = 4

SENTINEL_PORT = 26379
REDIS_PORT = 6379

_FORMS = (
    "redis://[USER:PASSWORD@]HOST:PORT/DB, unix:///PATH/TO.SOCK, "
    "redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/SERVICE/DB or redis+cluster://[USER:PASSWORD@]HOST:PORT,"
    "HOST:PORT (rediss: with TLS; what stands in a name or a password is percent-encoded)"
)


class Script(Protocol):
    """A script's text and the hash that Redis knows it by."""

    text: bytes
    sha: bytes


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Opened(NamedTuple):
    """A connection that was made. `address` is None where nobody can tell that it is the wrong one."""

    wire: Wire
    run: str
    address: Address | None = None


class Finder(Protocol):
    """Knows the way to the Redis of a URL. May be used by several threads."""

    def open(self) -> Opened:
        """Make a connection to where writes go now. Raises redis' `RedisError` or `OSError`; then none is open."""
        ...

    def master(self) -> Address | None:
        """Where the master is now, if there is somebody to ask and it answers."""
        ...


class Link:
    """One connection, made when it is needed, and never remade in the middle of anything."""

    def __init__(self, finder: Finder, url: str) -> None:
        self._finder = finder
        self._url = url
        self._opened: Opened | None = None
        self._lock = threading.Lock()
        self._stale = False
        self._closed = False
        self._owner = Owner(f"this connection to {url}")
        let_go_in_child(self, Link._let_go)

    def call(self, *command: Any) -> Any:
        """Send one command, give its answer. Raises `LogUnavailable`, `OutcomeUnknown`, or redis' `ResponseError`."""
        self._owner.check()
        with self._lock:
            return self._answer(self._connected().wire, *command)

    def script(
        self,
        script: Script,
        keys: list[bytes],
        *args: Any,
        in_run: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        """Run a script; with `in_run` its first argument is the run that this very connection belongs to.

        `meanwhile` is called once it is on its way, if it gets there. A script that Redis does not know has done
        nothing, so sending its text then is no repeat.
        """
        self._owner.check()
        with self._lock:
            opened = self._connected()
            args = (opened.run, *args) if in_run else args
            return self._evaluated(opened.wire, script, keys, args, meanwhile)

    def script_then(self, script: Script, keys: list[bytes], *args: Any, then: tuple[Any, ...]) -> tuple[Any, Any]:
        """Run a script and, if it answers `ok`, one more command on the very same connection; both answers."""
        self._owner.check()
        with self._lock:
            wire = self._connected().wire
            answer = self._evaluated(wire, script, keys, args)
            if answer[0] != b"ok":
                return answer, None
            return answer, self._answer(wire, *then)

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
        self._closed = True
        self._end()

    def _connected(self) -> Opened:
        opened = self._opened
        if not self._closed and (opened is None or self._stale or not opened.wire.is_open):
            self._drop()
            # Before the way is asked for: what is found out meanwhile makes the new connection stale as well.
            self._stale = False
            try:
                opened = self._opened = self._finder.open()
            except (redis.exceptions.RedisError, OSError) as error:
                raise LogUnavailable(url=self._url, problem=advice(error)) from None
        # Asked after the connection was made known, so that either `close` sees it or this sees that it is closed.
        if self._closed or opened is None:
            self._drop()
            raise LogUnavailable(url=self._url, problem="the connection is closed")
        return opened

    def _evaluated(
        self,
        wire: Wire,
        script: Script,
        keys: list[bytes],
        args: tuple[Any, ...],
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        try:
            return self._answer(wire, b"EVALSHA", script.sha, len(keys), *keys, *args, meanwhile=meanwhile)
        except redis.exceptions.NoScriptError:
            return self._answer(wire, b"EVAL", script.text, len(keys), *keys, *args)

    def _answer(self, wire: Wire, *command: Any, meanwhile: Callable[[], None] | None = None) -> Any:
        try:
            return wire.ask(*command, meanwhile=meanwhile)
        except redis.exceptions.ResponseError as error:
            if _is_elsewhere(error):
                self._drop()
            raise
        except (redis.exceptions.BusyLoadingError, redis.exceptions.AuthenticationError) as error:
            # Connection errors to redis-py, but the server did answer: it did nothing.
            raise LogUnavailable(url=self._url, problem=advice(error)) from None
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
        if self._lock.acquire(blocking=False):
            try:
                self._drop()
            finally:
                self._lock.release()
        elif (opened := self._opened) is not None:
            opened.wire.shut_down()


def follow(finder: Finder, links: Iterable[Link]) -> None:
    """Leave a Redis that is no longer the master.

    One that hung while the sentinels chose another takes writes on its old connections for seconds after it is back,
    and loses them all when the sentinels make it a replica. A sentinel that does not answer changes nothing.
    """
    connected = [link for link in links if link.address is not None]
    address = finder.master() if connected else None
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
    place = _place_of(url)
    options = {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "client_name": name,
        **place.options,
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
    except (TypeError, ValueError, redis.exceptions.RedisError) as error:
        raise _wrong(url, _refused_option(error, url)) from None
    return finder


def client_for(url: str) -> redis.Redis:
    """A plain client, for libraries that want one of their own (RQ changes the timeouts of the one it is given).

    Raises:
        ConfigError: it is not the URL of a Redis, or it is that of a cluster.
    """
    place = _place_of(url)
    if place.kind == "cluster":
        problem = f"RQ does not run on a cluster: give the jobs a Redis of their own instead of {shown(url)!r}"
        raise ConfigError(setting="redis", problem=problem)
    try:
        return _plain_client(url, place)
    except (TypeError, ValueError, redis.exceptions.RedisError) as error:
        raise _wrong(url, _refused_option(error, url)) from None


def _plain_client(url: str, place: _Place) -> redis.Redis:
    if place.kind == "":
        return redis.Redis.from_url(url)
    options = {name: value for name, value in place.options.items() if name not in ("host", "connection_class")}
    options["ssl"] = "connection_class" in place.options
    asking = {**options, **_hurried(ASKING_TIMEOUT_S), "username": None, "password": None, "db": 0, **place.asking}
    asking["retry"] = Retry(NoBackoff(), 0)
    # Its classes and methods carry no types.
    make: Any = Sentinel
    client: redis.Redis = make(place.hosts, sentinel_kwargs=asking, **options).master_for(place.service)
    return client


def is_cluster(url: str) -> bool:
    """Whether the URL is that of a cluster, in which each key may be on another server. Raises `ConfigError`."""
    return _place_of(url).kind == "cluster"


def shown(url: str) -> str:
    """The URL without its passwords, which have no place in a message.

    A URL that is written wrong may have them anywhere: rather too much is hidden than too little.
    """
    secrets = [match.span(1) for match in _USER_PASSWORD.finditer(url)]
    secrets += [match.span(2) for match in _OPTION.finditer(url) if "password" in unquote(match[1]).lower()]
    hidden = {place for start, end in secrets for place in range(start, end)}
    return re.sub("\0+", "***", "".join("\0" if place in hidden else sign for place, sign in enumerate(url)))


# Up to the last @, for somebody may have forgotten to encode one.
_USER_PASSWORD = re.compile(r"(?s)^(?:[^:/@]*://)?+[^:@]*:(.*)@")
_OPTION = re.compile(r"(?<=[?&])([^=&?]*)=(?=([^&]*))")


class _Place(NamedTuple):
    """What a URL says. `kind` is empty for a single server; then the options tell where it is, else the hosts."""

    kind: str
    options: dict[str, Any]
    hosts: tuple[Address, ...] = ()
    service: str = ""
    #: Options for connections to sentinels.
    asking: Mapping[str, Any] = MappingProxyType({})


_MANY = re.compile(r"(rediss?)\+(sentinel|cluster)://(?:([^@/?#]*)@)?([^@/?#]+)(?:/([^?#]*))?(?:\?([^#]*))?")
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?")


def _place_of(url: str) -> _Place:
    try:
        return _parsed(url)
    except ValueError as error:
        # What urllib says may quote a part of the password.
        raise _wrong(url, str(error) if isinstance(error, _Wrong) else "") from None


class _Wrong(ValueError):
    """What is wrong about a URL, without any secret."""


def _wrong(url: str, why: str) -> ConfigError:
    reason = f" ({why})" if why else ""
    return ConfigError(setting="redis", problem=f"{shown(url)!r} is not a Redis URL{reason}; one is {_FORMS}")


def _refused_option(error: Exception, url: str) -> str:
    match = re.search(r"argument '(\w+)'", str(error))
    # A password that is not encoded may be taken for an option.
    return f"{match[1]} is no option" if match and match[1] in shown(url) else ""


def _parsed(url: str) -> _Place:
    if not re.match(r"rediss?\+", url):
        return _Place("", _options_of(url))
    match = _MANY.fullmatch(url)
    if match is None:
        raise _Wrong("it is neither of sentinels nor of a cluster")
    scheme, kind, user, hosts, path, query = match.groups()
    service, database = _path_of(kind, path or "")
    options = _options_of(f"{scheme}://{user + '@' if user else ''}-/{database}?{query or ''}")
    if kind == "cluster" and options.get("db"):
        raise _Wrong("a cluster has only database 0")
    asking = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    port = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
    return _Place(kind, options, _hosts_of(hosts, port), service, asking)


def _options_of(url: str) -> dict[str, Any]:
    parse: Any = parse_url
    try:
        options: dict[str, Any] = parse(url)
    except ValueError as error:
        if "Invalid value for" in str(error):
            raise _Wrong(str(error)) from None
        raise
    return options


def _path_of(kind: str, path: str) -> tuple[str, int]:
    """The service and the database."""
    service, _, database = path.partition("/") if kind == "sentinel" else ("", "", path)
    if kind == "sentinel" and not service:
        raise _Wrong("it does not name the service, as the sentinels call the master")
    if not re.fullmatch("[0-9]*", database):
        raise _Wrong("the database is a number")
    return unquote(service), int(database or 0)


def _hosts_of(hosts: str, port: int) -> tuple[Address, ...]:
    addresses = []
    for text in hosts.split(","):
        match = _HOST.fullmatch(text)
        if match is None or int(match[3] or port) > 65535:
            raise _Wrong("each of its hosts is HOST or HOST:PORT")
        addresses.append(Address(unquote(match[1] or match[2]), int(match[3] or port)))
    return tuple(dict.fromkeys(addresses))


def _hurried(timeout_s: float) -> dict[str, float]:
    timeout_s = min(timeout_s, ASKING_TIMEOUT_S)
    return {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}


# --- finders ---


class _Server:
    """There is one server, and the URL says where."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options

    def open(self) -> Opened:
        wire, run, _ = _opened(self._options)
        return Opened(wire, run)

    def master(self) -> Address | None:
        return None


class _Told:
    """Others tell where the master is, and one of them is enough. The one that was of use is asked first next time."""

    def __init__(self, tellers: tuple[Address, ...], asking: dict[str, Any], options: dict[str, Any]) -> None:
        self._tellers = tellers
        self._asking = asking
        self._options = options

    def open(self) -> Opened:
        problems: list[str] = []
        tried: set[Address] = set()
        for teller in self._tellers:
            place = teller
            try:
                place = self._ask(teller)
                if place in tried:
                    continue
                tried.add(place)
                opened = self._open_master(place)
            except (redis.exceptions.RedisError, OSError) as error:
                problems.append(f"{place}: {advice(error)}")
                continue
            self._tellers = (teller, *(each for each in self._tellers if each != teller))
            return opened
        raise _NoMaster(f"no master was found; {'; '.join(problems)}")

    def master(self) -> Address | None:
        return None

    def _ask(self, teller: Address) -> Address:
        raise NotImplementedError

    def _open_master(self, address: Address) -> Opened:
        # A sentinel may not know yet that the master it names has become a replica, and neither may a node.
        wire, run, role = _opened(_at(address, self._options))
        if role != "master":
            wire.close()
            raise redis.exceptions.ConnectionError(f"it is said to be the master, but calls itself {role}")
        return Opened(wire, run, address)


class _Sentinels(_Told):
    """Sentinels choose the master, and know it by the name of the service."""

    def __init__(
        self, tellers: tuple[Address, ...], asking: dict[str, Any], options: dict[str, Any], service: str
    ) -> None:
        super().__init__(tellers, asking, options)
        self._service = service
        self._ask_again_at = 0.0

    def master(self) -> Address | None:
        started = time.monotonic()
        if started < self._ask_again_at:
            return None
        first, *others = self._tellers
        try:
            return self._ask(first)
        except (redis.exceptions.RedisError, OSError):
            self._tellers = (*others, first)
            return None
        finally:
            now = time.monotonic()
            self._ask_again_at = now + max(ASK_AGAIN_AFTER_S, ASKING_SHARE * (now - started))

    def _ask(self, teller: Address) -> Address:
        try:
            answer = _asked(_at(teller, self._asking), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
        except redis.exceptions.AuthenticationError as error:
            # Not the advice for Redis itself, whose password is another one.
            problem = f"this sentinel says: {error} (its password goes into the URL as ?sentinel_password=…)"
            raise redis.exceptions.ConnectionError(problem) from None
        if answer is None:
            raise redis.exceptions.ConnectionError(f"this sentinel knows no master {self._service!r}")
        return Address(answer[0].decode(), int(answer[1]))


class _Cluster(_Told):
    """Each node of a cluster knows who has which slot. A group's keys share a hash tag, so they are all in one."""

    def __init__(
        self, tellers: tuple[Address, ...], asking: dict[str, Any], options: dict[str, Any], slot: int
    ) -> None:
        super().__init__(tellers, asking, options)
        self._slot = slot

    def _ask(self, teller: Address) -> Address:
        for first, last, master, *_ in _asked(_at(teller, self._asking), "CLUSTER", "SLOTS"):
            if first <= self._slot <= last:
                host = (master[0] or b"?").decode()
                # A node that does not know its own name means: where you asked.
                return Address(teller.host if host == "?" else host, master[1])
        raise redis.exceptions.ConnectionError(f"no node of the cluster has slot {self._slot}")


class _NoMaster(redis.exceptions.ConnectionError):
    """Nobody led to a master. The text says it all."""


def _at(address: Address, options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "host": address.host, "port": address.port}


def _made(options: dict[str, Any]) -> Any:
    """A connection that is not open yet."""
    # A pool of its own for each: a pool counts what it ever made, and makes no more than 100.
    return ConnectionPool(**options).make_connection()


def _asked(options: dict[str, Any], *command: str) -> Any:
    """The answer to one question, on a connection of its own."""
    wire = _connected(options)
    try:
        return wire.ask(*command)
    finally:
        wire.close()


def _opened(options: dict[str, Any]) -> tuple[Wire, str, str]:
    """A connection, the run of its server, and the server's role."""
    wire = _connected(options)
    try:
        # Two commands: 6.2 takes but one section.
        server = _fields(wire.ask("INFO", "server"))
        replication = _fields(wire.ask("INFO", "replication"))
        return wire, _run_of(server, replication), replication.get("role", "")
    except BaseException:
        wire.close()
        raise


def _connected(options: dict[str, Any]) -> Wire:
    connection = _made(options)
    try:
        connection.connect()
        return RedisWire(connection)
    except BaseException:
        connection.disconnect()
        raise


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
    "BADTERM": "the key was changed by hand; set it to the term that `replicator status` shows",
    "MISCONF": "it cannot write to its disk",
    "BUSY": "a script keeps it busy",
    "MOVED": "another node of the cluster has the group's keys; a redis+cluster:// URL finds it",
    "ASK ": "the group's keys are moving to another node of the cluster; it will answer soon",
    "TRYAGAIN": "the group's keys are moving to another node of the cluster; it will answer soon",
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


def _is_elsewhere(error: Exception) -> bool:
    return _ELSEWHERE.search(_text_of(error)) is not None


def _text_of(error: Exception) -> str:
    return " ".join(filter(None, [_word_of(error), str(error)])) or type(error).__name__


def _word_of(error: Exception) -> str:
    if isinstance(error, redis.exceptions.AuthenticationError):
        return "NOAUTH" if "required" in str(error) else "WRONGPASS"
    return _WORDS.get(type(error), "")
