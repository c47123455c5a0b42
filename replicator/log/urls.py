"""Reads the URL of a Redis, strictly: what could mean two things is refused, never guessed.

    redis://[USER:PASSWORD@]HOST[:6379][/DB]
    unix://[USER:PASSWORD@]/PATH/TO.SOCK[?db=DB]
    redis+sentinel://[USER:PASSWORD@]HOST[:26379],HOST…/SERVICE[/DB][?sentinel_username=…&sentinel_password=…]
    redis+cluster://[USER:PASSWORD@]HOST[:6379],HOST…

`?password_file=FILE` takes the password from a file (`password_file.py`): a URL without a secret in it. So do
`sentinel_password_file` and `ssl_password_file`.

With rediss instead of redis, connections use TLS (those to sentinels, too), and `?ssl_ca_certs=FILE` and redis-py's
other options for TLS are allowed. Within a part, any of `/?#@:%` has to be percent-encoded.

A lenient reader would make something of a database that is no number, a missing host, or a password with a raw `/` in
it: another database, this very machine, or a part of the password as a host.

URLs are shared with other programs, so they may have options about the behaviour of redis-py. Timeouts, retries and the
like are not used here, because their values follow from the lease. A warning says so.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, unquote_plus

from replicator.errors import ConfigError

from ..runtime.event_log import EventLogger
from .password_file import FilePassword, password_of, read_password

__all__ = ["Address", "Place", "place_of", "shown", "url_in", "with_password_file", "wrong"]

logger = EventLogger(__name__)

SENTINEL_PORT = 26379
REDIS_PORT = 6379

#: Up to six digits: more databases than any Redis has. A longer number is a slip of the finger.
_DATABASE = re.compile("[0-9]{1,6}")

_FORMS = (
    "redis://[USER:PASSWORD@]HOST:PORT/DB, unix:///PATH/TO.SOCK, "
    "redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/SERVICE/DB or redis+cluster://[USER:PASSWORD@]HOST:PORT,"
    "HOST:PORT (rediss: with TLS; what stands in a name or a password is percent-encoded)"
)


class Address(NamedTuple):
    """The host and port on which a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Place(NamedTuple):
    """What a URL says. `kind` is empty for a single server, which the options locate; otherwise `hosts` does."""

    kind: str
    #: Options for connections to Redis, named as in redis-py.
    options: dict[str, Any]
    tls: bool = False
    hosts: tuple[Address, ...] = ()
    service: str = ""
    #: Options for connections to sentinels.
    asking: Mapping[str, Any] = MappingProxyType({})
    user: str = "default"
    has_password: bool = False
    #: The files that secrets are taken from.
    secret_files: tuple[str, ...] = ()


class _Wrong(ValueError):
    """What is wrong about a URL, without any secret."""


def place_of(url: str) -> Place:
    """Read a URL. Raises `ConfigError`."""
    try:
        return _parsed(url)
    except _Wrong as error:
        raise wrong(url, str(error)) from None


def wrong(url: object, why: str) -> ConfigError:
    """The error that `url` is no Redis URL, and why."""
    if not isinstance(url, str):
        return ConfigError(setting="redis", problem=f"a {type(url).__name__} is not a Redis URL; one is {_FORMS}")
    hint = f"; {_ENCODED}" if _may_lack_encoding(url) else ""
    return ConfigError(setting="redis", problem=f"{shown(url)!a} is not a Redis URL ({why}{hint}); one is {_FORMS}")


_ENCODED = "a user or a password has to be percent-encoded: %2F for /, %3F for ?, %23 for #, %40 for @, %25 for %"


def _may_lack_encoding(url: str) -> bool:
    """Whether an @ stands where it can only come from a user or a password that was not encoded."""
    rest = url.partition("://")[2]
    return rest.count("@") > 1 or re.search(r"([/?#]|%(?![0-9A-Fa-f]{2})).*@", rest, re.DOTALL) is not None


def shown(url: str) -> str:
    """The URL with its passwords hidden, for messages.

    A malformed URL may have them anywhere, so rather too much is hidden than too little.
    """
    secrets = [_secret_of_user(match) for match in _USER_PASSWORD.finditer(url)]
    secrets += [match.span(2) for match in _OPTION.finditer(url) if _is_secret(unquote(match[1]).lower())]
    hidden = {place for start, end in secrets for place in range(start, end)}
    return re.sub("\0+", "***", "".join("\0" if place in hidden else sign for place, sign in enumerate(url)))


def _is_secret(option: str) -> bool:
    return "password" in option and not option.endswith("password_file")


# Up to the last @: one within the password may not have been encoded.
_USER_PASSWORD = re.compile(r"(?s)^(?:[^:/@]*://)?+(([^:/?#@]*)(.*))@")
_OPTION = re.compile(r"(?<=[?&])([^=&?]*)=(?=([^&]*))")


def _secret_of_user(match: re.Match[str]) -> tuple[int, int]:
    if not match[3] or (not match[2] and match[3].startswith("/")):
        return 0, 0  # only a user; or no user, and the path of a socket
    if match[3].startswith(":"):
        return match.start(3) + 1, match.end(3)
    return match.span(1)


# --- the parts -------------------------------------------------------------------------------------------------------

_WHOLE = re.compile(
    r"(?P<scheme>unix|rediss?)(?:\+(?P<kind>[a-z]+))?://(?:(?P<user>[^@/?#]*)@)?(?P<hosts>[^@/?#]*)"
    r"(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::([0-9]{1,5}))?")


def _parsed(url: str) -> Place:
    """Read a URL part by part. Raises `_Wrong`, whose text has nothing of the URL that could be secret."""
    if not isinstance(url, str):
        raise _Wrong("")
    if not url:
        raise _Wrong("it is empty")
    if re.search(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]", url):
        raise _Wrong("it has a space, a line break or another such character in it")
    match = _WHOLE.fullmatch(url)
    if match is None:
        raise _Wrong(_why_not(url))
    scheme, kind, user, hosts, path, query = match.groups()
    tls = scheme == "rediss"
    options = _user_of(user or "") | _options_of(query or "", url, tls=tls, kind=kind)
    about = {
        "user": options.get("username", "default"),
        "has_password": "password" in options or "password_file" in options,
        "secret_files": tuple(options[name] for name in _SECRET_FILES if name in options),
    }
    options |= _login(options)
    asking = {name: options.pop(f"sentinel_{name}") for name in _LOGIN if f"sentinel_{name}" in options}
    asking |= _login(asking)
    asking = {"username": None, "password": None, **asking}
    if "ssl_password_file" in options:
        options["ssl_password"] = _secret_in(options, "ssl_password")
    if scheme == "unix":
        return Place("", options | _socket_of(kind, hosts, path or ""), **about)
    if kind is None:
        return Place("", options | _server_of(hosts) | _database_of(path or "", options), tls, **about)
    if kind not in ("sentinel", "cluster"):
        raise _Wrong("it is neither of sentinels nor of a cluster")
    if not hosts:
        raise _Wrong("it is neither of sentinels nor of a cluster: it has no host")
    service, _, database = (path or "/")[1:].partition("/") if kind == "sentinel" else ("", "", (path or "/")[1:])
    if kind == "sentinel" and not service:
        raise _Wrong("it does not name the service, as the sentinels call the master")
    options |= _database_of(f"/{database}", options)
    if kind == "cluster" and options["db"]:
        raise _Wrong("a cluster has only database 0")
    port = SENTINEL_PORT if kind == "sentinel" else REDIS_PORT
    return Place(kind, options, tls, _hosts_of(hosts, port), unquote(service), asking, **about)


_LOGIN = ("username", "password", "password_file")


def _login(options: dict[str, Any]) -> dict[str, Any]:
    """What takes the place of the user and the password among these options, if that is in a file."""
    if "password_file" not in options:
        return {}
    path = _secret_in(options, "password", reads=False)
    user = options.pop("username", None)
    try:
        return {"credential_provider": FilePassword(path, user or "")}
    except ValueError as error:
        raise _Wrong(f"password_file: {error}") from None


def _secret_in(options: dict[str, Any], name: str, *, reads: bool = True) -> str:
    """Take the file of this secret out of the options; give what is in it, or its path."""
    path: str = options.pop(f"{name}_file")
    if options.get(name) is not None:
        raise _Wrong(f"it has {name}, and the file of another one")
    options.pop(name, None)
    try:
        return read_password(path) if reads else path
    except ValueError as error:
        raise _Wrong(f"{name}_file: {error}") from None


#: The variables of the URL, and of the file with its password.
URL_VARIABLE, FILE_VARIABLE = "REPLICATOR_REDIS", "REPLICATOR_REDIS_PASSWORD_FILE"


def url_in(environment: Mapping[str, str]) -> str:
    """The URL of Redis that the environment has, with the file of its password, if any; empty: there is none.

    Raises `ConfigError`.
    """
    url, path = environment.get(URL_VARIABLE, ""), environment.get(FILE_VARIABLE, "")
    return with_password_file(url, path, setting=FILE_VARIABLE) if url and path else url


def with_password_file(url: str, path: str | os.PathLike[str], *, setting: str) -> str:
    """The URL of Redis, with its password in this file. Raises `ConfigError` if the URL has a password already."""
    password_of(setting, path)
    if place_of(url).has_password:
        raise ConfigError(setting=setting, problem="the URL of Redis has a password already: leave one of them out")
    return f"{url}{'&' if '?' in url else '?'}password_file={quote(os.fspath(path), safe='/')}"


def _why_not(url: str) -> str:
    if re.match(r"rediss?\+", url):
        return "it is neither of sentinels nor of a cluster"
    if not re.match(r"(redis|rediss|unix)://", url):
        return "it does not begin with redis://, rediss:// or unix://"
    return "it has an @ or a # where none can be"


def _user_of(text: str) -> dict[str, Any]:
    if re.search("%(?![0-9A-Fa-f]{2})", text):
        raise _Wrong("its user or its password has a % that encodes nothing")
    user, _, password = text.partition(":")
    return {name: unquote(value) for name, value in (("username", user), ("password", password)) if value}


def _socket_of(kind: str | None, hosts: str, path: str) -> dict[str, Any]:
    if kind is not None:
        raise _Wrong("a unix socket leads to one server")
    if hosts or path in ("", "/"):
        raise _Wrong("the path of a unix socket begins at the root: unix:///PATH")
    return {"path": unquote(path)}


def _server_of(hosts: str) -> dict[str, Any]:
    if "," in hosts:
        raise _Wrong("several hosts are redis+sentinel:// or redis+cluster://")
    if not hosts or hosts.startswith(":"):
        raise _Wrong("it has no host")
    (address,) = _hosts_of(hosts, REDIS_PORT)
    return address._asdict()


def _hosts_of(hosts: str, port: int) -> tuple[Address, ...]:
    addresses = []
    for text in hosts.split(","):
        match = _HOST.fullmatch(text)
        if match is None or not 0 < int(match[3] or port) <= 65535:
            raise _Wrong("each of its hosts is HOST or HOST:PORT")
        addresses.append(Address(unquote(match[1] or match[2]), int(match[3] or port)))
    return tuple(dict.fromkeys(addresses))


def _database_of(path: str, options: Mapping[str, Any]) -> dict[str, int]:
    """The database in the path; if the options name one, too, it must be the same."""
    text = path[1:]
    if not text:
        return {"db": options.get("db", 0)}
    if not _DATABASE.fullmatch(text):
        raise _Wrong("the database is a number")
    if options.get("db", int(text)) != int(text):
        raise _Wrong("it names two databases")
    return {"db": int(text)}


# --- options ---------------------------------------------------------------------------------------------------------


def _flag(text: str) -> bool:
    # The words that redis-py knows, but strictly: it takes every other word for true.
    for words, value in ((("0", "f", "false", "n", "no"), False), (("1", "t", "true", "y", "yes"), True)):
        if text.lower() in words:
            return value
    raise ValueError


def _file(text: str) -> str:
    if not os.path.exists(text):
        raise _Wrong(f"there is no {text!a}")
    if not os.access(text, os.R_OK):
        raise _Wrong(f"{text!a} cannot be read by this user")
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return read


def _database(text: str) -> int:
    if not _DATABASE.fullmatch(text):
        raise ValueError
    return int(text)


def _verify_flags(text: str) -> list[ssl.VerifyFlags]:
    try:
        return [ssl.VerifyFlags[name.strip()] for name in text.strip("[]").split(",")]
    except KeyError:
        raise ValueError from None


#: The options that are used, and how each is read. redis-py's documentation says what they mean.
_USED: Mapping[str, Callable[[str], Any]] = {
    "db": _database,
    "username": str,
    "password": str,
    "password_file": str,
    "sentinel_username": str,
    "sentinel_password": str,
    "sentinel_password_file": str,
    "ssl_keyfile": _file,
    "ssl_certfile": _file,
    "ssl_password": str,
    "ssl_password_file": str,
    "ssl_ca_certs": _file,
    "ssl_ca_path": _file,
    "ssl_ca_data": str,
    "ssl_cert_reqs": _one_of("none", "optional", "required"),
    "ssl_check_hostname": _flag,
    "ssl_ciphers": str,
    "ssl_min_version": lambda text: ssl.TLSVersion(int(text)),
    "ssl_include_verify_flags": _verify_flags,
    "ssl_exclude_verify_flags": _verify_flags,
    "ssl_validate_ocsp": _flag,
    "ssl_validate_ocsp_stapled": _flag,
}

#: Those that name the file of a secret.
_SECRET_FILES = ("password_file", "sentinel_password_file", "ssl_password_file")

#: The options that mean something to redis-py but are not used here.
_NOT_USED: Mapping[str, Callable[[str], Any]] = {
    "socket_timeout": float,
    "socket_connect_timeout": float,
    "timeout": float,
    "socket_read_size": int,
    "socket_keepalive": _flag,
    "max_connections": int,
    "health_check_interval": int,
    "protocol": int,
    "retry_on_timeout": _flag,
    "retry_on_error": str,
    "decode_responses": _flag,
    "legacy_responses": _flag,
    "encoding": str,
    "encoding_errors": str,
    "client_name": str,
    "lib_name": str,
    "lib_version": str,
}


def _options_of(query: str, url: str, *, tls: bool, kind: str | None) -> dict[str, Any]:
    """Read all options, each with a value and only once; return those that are used."""
    found: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        name, equals, text = (unquote_plus(each) for each in part.partition("="))
        read = _USED.get(name) or _NOT_USED.get(name)
        # What looks like an option may be part of a password that was not encoded: then the message does not show it.
        if read is None or (name.startswith("sentinel_") and kind != "sentinel"):
            raise _Wrong(_unknown(name) if name in shown(url) else _unknown(""))
        if name.startswith("ssl_") and not tls:
            raise _Wrong(f"{name} needs TLS: rediss://")
        if not (equals and text) or name in found:
            raise _Wrong(f"{name} stands there {'twice' if name in found else 'without a value'}")
        try:
            found[name] = read(text)
        except _Wrong as wrong_:
            raise _Wrong(f"{name}: {wrong_}") from None
        except ValueError:
            raise _Wrong(f"{name} cannot be what it is there") from None
    _tell_of_unused(tuple(name for name in found if name in _NOT_USED))
    return {name: value for name, value in found.items() if name in _USED}


def _unknown(name: str) -> str:
    if not re.fullmatch("[A-Za-z0-9_-]+", name):
        return "it has an option that is none"
    near = difflib.get_close_matches(name, [*_USED, *_NOT_USED], 1)
    return f"{name} is no option; did you mean {near[0]}?" if near else f"{name} is no option"


@functools.cache
def _tell_of_unused(names: tuple[str, ...]) -> None:
    if names:
        logger.warning(
            "redis.options_unused",
            "the URL of Redis has %s, which is not used: replicator knows what it needs",
            ", ".join(names),
        )
