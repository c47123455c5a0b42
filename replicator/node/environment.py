"""The settings of a node as its environment has them: `Node.from_env`.

Each is called REPLICATOR_ and its name in capitals, as for `replicator node` and the command line. Those of a node's
behaviour are the fields of `NodeOptions`, so what is added there can be set here.

What was given in the program counts, and its variable is not looked at. A variable that is empty, or is nearly called
like one of these, is a slip: if it were passed over, `REPLICATOR_LEASE=30` would leave the lease as it is.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..log.own_address import own_address
from ..log.urls import with_password_file
from ..runtime import checks
from ..runtime.log_output import FORMATS, LEVELS, configure_unless_done
from .options import NodeOptions

__all__ = ["VARIABLES", "address_of", "named_by_variable", "reachable", "set_up_logging", "settings_of", "variable"]

PREFIX = "REPLICATOR_"

#: Where Redis is if nobody says anything, as for the command line.
REDIS = "redis://localhost:6379/0"

#: Looked at here, because a node that has joined its group should not end for that.
PORT_MAX = 65535

#: What click takes for a flag, so that a variable means the same for `replicator node`.
_FLAGS = {
    **dict.fromkeys(("1", "true", "t", "yes", "y", "on"), True),
    **dict.fromkeys(("0", "false", "f", "no", "n", "off"), False),
}


def variable(setting: str) -> str:
    """The name of its variable."""
    return f"{PREFIX}{setting.upper()}"


def _flag(text: str) -> bool:
    if text.lower() not in _FLAGS:
        raise ValueError(f"{text!a:.80} is neither true nor false")
    return _FLAGS[text.lower()]


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!a:.80} is not a number of seconds") from None


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ValueError(f"{text!a:.80} is not a whole number")
    return int(text)


_READERS: Mapping[Any, Callable[[str], Any]] = {bool: _flag, float: _seconds, int: _whole, str: str}


def _reader_of(hint: Any) -> Callable[[str], Any]:
    """How a value of this type is read: of `float | None`, as a float."""
    kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType] or [hint]
    return _READERS[kinds[0]]


#: How each setting is read that is a keyword of `Node`.
_KEYWORDS: Mapping[str, Callable[[str], Any]] = {
    **dict.fromkeys(("group", "name", "redis", "data_dir", "app"), str),
    **{field.name: _reader_of(typing.get_type_hints(NodeOptions)[field.name]) for field in fields(NodeOptions)},
}

#: The names of all of them. The file of the password becomes a part of `redis=`. `http=` is where others reach the
#: node, which follows from the last two.
VARIABLES = tuple(variable(setting) for setting in (*_KEYWORDS, "redis_password_file", "http", "advertise"))

#: A name that is as like one of these was meant to be it; those of other programs of ours are less so.
_NEAR = 0.71

#: Of commands, and like ones of a node: of `acl` the password of a user that it prints; of `load` a client's token.
_OF_COMMANDS = frozenset(("REPLICATOR_ACL_PASSWORD_FILE", "REPLICATOR_TOKEN_FILE"))

#: Settings of several nodes at a time (REPLICATOR_HTTP_A), as the dev stack has them.
_OF_ONE_OF_SEVERAL = re.compile(r".*_[A-Z0-9]")


def settings_of(given: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """The keywords of `Node`, those that were `given` before those of the environment.

    Raises `ConfigError`, which names the variable.
    """
    found = dict(given)
    for name in environ:
        _check_is_no_slip(name)
    for setting, read in _KEYWORDS.items():
        if setting not in given and (text := _text(setting, environ)) is not None:
            try:
                found[setting] = read(text)
            except ValueError as error:
                raise ConfigError(setting=variable(setting), problem=str(error)) from None
    for setting in ("group", "name"):
        if setting not in found:
            problem = f"it is not set, and no {setting}= was given"
            raise ConfigError(setting=variable(setting), problem=problem)
    found.setdefault("data_dir", Path("data") / str(found["name"]))
    if found.get("log") is None:
        found.setdefault("redis", REDIS)
        if (path := _text("redis_password_file", environ)) is not None:
            found["redis"] = with_password_file(found["redis"], path, setting=variable("redis_password_file"))
    else:
        found.pop("redis", None)  # a log takes its place
    if "http" not in given:
        found["http"] = _http(found.get("redis", ""), environ)
    return found


def set_up_logging(environ: Mapping[str, str]) -> None:
    """Have what is logged in this process written to stderr, if REPLICATOR_LOG_LEVEL or REPLICATOR_LOG_FORMAT asks for
    it, and the application has set up no handler itself. Raises `ConfigError`, which names the variable.
    """
    level, wanted = _text("log_level", environ), _text("log_format", environ)
    if level is None and wanted is None:
        return
    level, wanted = level or "INFO", wanted or "auto"
    for setting, chosen, choices in (("log_level", level.upper(), LEVELS), ("log_format", wanted.lower(), FORMATS)):
        if chosen not in choices:
            raise ConfigError(setting=variable(setting), problem=f"{chosen!a:.80} is none of {', '.join(choices)}")
    try:
        configure_unless_done(level, wanted.lower())
    except ConfigError as error:
        raise ConfigError(setting=variable("log_format"), problem=error.fields["problem"]) from None


@contextmanager
def named_by_variable(given: Mapping[str, Any]) -> Iterator[None]:
    """A setting that is refused is called by its variable, if it was not among those `given` in the program."""
    try:
        yield
    except ConfigError as error:
        setting = error.fields.get("setting")
        if setting in given or setting not in (*_KEYWORDS, "http"):
            raise
        name = variable("advertise" if setting == "http" else setting)
        raise ConfigError(setting=name, problem=error.fields["problem"]) from None


def _text(setting: str, environ: Mapping[str, str]) -> str | None:
    text = environ.get(variable(setting))
    if text == "":
        raise ConfigError(setting=variable(setting), problem="it is set, but empty; unset it, or give it a value")
    return text


def _check_is_no_slip(name: str) -> None:
    known_name = name in VARIABLES or name in _OF_COMMANDS
    if not name.startswith(PREFIX) or known_name or _OF_ONE_OF_SEVERAL.fullmatch(name):
        return
    told, known = name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in VARIABLES]
    if any(told.endswith((f"_{each}", f"_{each}S")) for each in known):  # of a command: REPLICATOR_DRILL_LEASE_S
        return
    if near := difflib.get_close_matches(told, known, 1, _NEAR):
        raise ConfigError(setting=name, problem=f"no setting has this name; did you mean {PREFIX}{near[0]}?")


def _http(redis: str, environ: Mapping[str, str]) -> str:
    """Where others reach it: what it is to tell them, or else where it serves."""
    told, serves = _text("advertise", environ), _text("http", environ)
    if told is not None or serves is None:
        return (told or "").rstrip("/")
    host, port = address_of(serves, setting=variable("http"))
    if port == 0:
        problem = f"{serves!a} has no port that others could be told; give the one at which this process serves"
        raise ConfigError(setting=variable("http"), problem=problem)
    return reachable(host, port, redis)


def address_of(text: str, *, setting: str) -> tuple[str, int]:
    """HOST:PORT, as it is served. Raises `ConfigError`."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > PORT_MAX:
        raise ConfigError(setting=setting, problem=f"{text!r} is not HOST:PORT, for example 127.0.0.1:8001")
    return host.strip("[]"), int(port)


def reachable(host: str, port: int, redis: str, *, scheme: str = "http") -> str:
    """The URL that others are told. All addresses of this machine are none: to another one they mean itself."""
    if checks.is_anywhere(host):
        host = own_address(redis, ipv6=":" in host)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
