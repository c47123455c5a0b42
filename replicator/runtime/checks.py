"""What a setting may be, wherever it comes from: a program, the command line, a file, the environment.

A setting is checked when it is given. Later it would be found by whoever stumbles over it: a name with a tab in it
makes a log that nobody can read any more, `lease_s="5"` a node that fails in the middle of its first beat.

Each function gives the value to use, or raises `ConfigError`, which names the setting and what it may be. A wrong value
is shown as Python writes it down in ASCII, so that nothing in it can disturb a terminal or a log.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
import socket
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import ConfigError

__all__ = [
    "choice", "directory", "flag", "is_anywhere", "is_name", "line", "name", "plain", "plain_json", "public_url",
    "seconds", "url", "whole",
]  # fmt: skip

#: Of nodes and groups. They stand in keys of Redis, in texts whose fields spaces part, in names of directories, in URLs
#: and on terminals: what means nothing to any of these is enough for a name.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: Directories have these names already, and a node's has its own.
_NO_NAMES = (".", "..")

#: A day. No lease and no wait is meant to be longer, and Redis and the clocks of threads take no infinite one.
SECONDS_MAX = 86_400.0

#: A reason or a command is a line, and goes into a header of at most 16 KiB.
LINE_CHARACTERS_MAX = 2000

#: Control characters, what parts lines and paragraphs, what turns the direction of writing, halves of characters.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: What nodes believe of the URL of another one (`protocol/node_url.py` looks closer): ASCII, no query, nothing escaped.
_PUBLIC = re.compile(r"https?://[A-Za-z0-9._:%\[\]-]{1,280}(/(?!\.\.?(/|$))[A-Za-z0-9._~-]+)*/?")

#: Of those, what writers of JSON leave as it is.
_ODD_IN_JSON = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

#: ::ffff:0.0.0.0, an address of IPv4 in those of IPv6.
_ANY_IPV4 = b"\0" * 10 + b"\xff\xff" + b"\0" * 4

#: So much of a wrong value is enough to find it.
_SHOWN = 80


def is_name(value: object) -> bool:
    """Whether a node or a group may have this name."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None and value not in _NO_NAMES


def name(setting: str, value: object) -> str:
    """Of a node or a group: 1 to 64 of letters, digits, `.`, `_` and `-`."""
    if isinstance(value, str) and is_name(value):
        return value
    raise _wrong(setting, value, "is not a name: it has 1 to 64 of the letters A to Z and a to z, digits, . _ and -")


def seconds(setting: str, value: object, *, least: float = 0.0, most: float = SECONDS_MAX) -> float:
    """A number of seconds from `least` to `most`."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not -math.inf < value < math.inf:
        raise _wrong(setting, value, "is not a number of seconds")
    if not least <= value <= most:
        raise _wrong(setting, value, f"is not within {least:g} and {most:g} seconds")
    return value


def whole(setting: str, value: object, *, least: int, most: int) -> int:
    """A whole number from `least` to `most`."""
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return value
    raise _wrong(setting, value, f"is not a whole number from {least} to {most}")


def flag(setting: str, value: object) -> bool:
    """True or False. Not what Python takes for such: "no" would be true."""
    if isinstance(value, bool):
        return value
    raise _wrong(setting, value, "is neither True nor False")


def choice(setting: str, value: object, among: Collection[str]) -> str:
    """One of a few words."""
    if isinstance(value, str) and value in among:
        return value
    raise _wrong(setting, value, f"is none of {', '.join(among)}")


def line(setting: str, value: object) -> str:
    """One line of text, as it can be shown and sent: no control characters, nothing that UTF-8 cannot write."""
    if not isinstance(value, str):
        raise _wrong(setting, value, "is not a text")
    if len(value) > LINE_CHARACTERS_MAX:
        raise ConfigError(setting=setting, problem=f"it has {len(value)} characters, more than {LINE_CHARACTERS_MAX}")
    if odd := _ODD.search(value):
        raise _wrong(setting, value, f"has {odd[0]!a} in it, which does not belong into a line of text")
    return value


def plain(text: str) -> str:
    """The text on one line, with nothing in it that a terminal obeys: for what others wrote."""
    return _ODD.sub(lambda odd: ascii(odd[0])[1:-1], text)


def plain_json(text: str) -> str:
    """A JSON text, in which nothing is left that a terminal obeys: escaped as JSON does it, so it means the same."""
    return _ODD_IN_JSON.sub(lambda odd: f"\\u{ord(odd[0]):04x}", text)


def directory(setting: str, value: object) -> Path:
    """A path, which may be any but an empty one. What is there is not looked at."""
    if not isinstance(value, str | os.PathLike):
        raise _wrong(setting, value, "is not a path")
    path = os.fspath(value)
    if not isinstance(path, str) or not path or "\0" in path:
        raise _wrong(setting, value, "is not the path of a directory")
    return Path(path)


def url(setting: str, value: object) -> str:
    """An http(s) URL at which others reach a node; or an empty text, if they do not."""
    text = line(setting, value)
    if not text:
        return text
    try:
        parts = urlsplit(text)
        host = parts.hostname if parts.port is None or parts.port > 0 else None
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or set(text) & set(" \\<>\"'"):
        raise _wrong(setting, value, "is not a URL: http://HOST:PORT")
    if is_anywhere(host):
        raise _wrong(setting, value, "means every address of this machine; give one at which others reach it")
    return text


def public_url(setting: str, value: object) -> str:
    """`url`, of a node that tells it to everybody: no user, no password, and what others believe (docs/trust.md)."""
    text = url(setting, value)
    if "@" in urlsplit(text).netloc:
        problem = "has a user or a password in it, and everybody is told this URL: give http://HOST:PORT"
        raise ConfigError(setting=setting, problem=problem)
    if text and not _PUBLIC.fullmatch(text):
        raise _wrong(setting, value, "is not what others send requests to: give http://HOST:PORT, and a plain path")
    return text


def is_anywhere(host: str) -> bool:
    """Whether a host means all addresses of a machine (0.0.0.0, ::, however they are written), and so none."""
    try:
        return not any(socket.inet_aton(host))
    except (OSError, ValueError):
        pass
    try:
        packed = socket.inet_pton(socket.AF_INET6, host)
    except (OSError, ValueError):
        return not host
    return not any(packed) or packed == _ANY_IPV4


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it. A name is one if it is `localhost`; others are not asked for."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _wrong(setting: str, value: object, problem: str) -> ConfigError:
    try:
        shown = ascii(value)
    except ValueError:  # an integer of more digits than Python writes down
        shown = f"that {type(value).__name__}"
    return ConfigError(setting=setting, problem=f"{shown[:_SHOWN]}{'…' if len(shown) > _SHOWN else ''} {problem}")
