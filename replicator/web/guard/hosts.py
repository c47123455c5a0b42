"""The names under which a node is asked: a `Host` that is none of them was put there by somebody else.

A page that has a name of its own may have it mean this machine (DNS rebinding), and is of the same origin then, for the
browser; the name in `Host` gives it away. A number is nobody's to point elsewhere.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from ...errors import ConfigError
from ...runtime import checks

__all__ = ["Hosts", "host_of"]

#: Of a `Host`: a name or an address, and a port. No user, no path, no escapes.
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")


class Hosts:
    """`listens`: the host that it was told to listen on. `advertised`: its URL for others. `more`: further names.

    Raises `ConfigError`.
    """

    def __init__(self, listens: str, *, advertised: str = "", more: Iterable[str] = ()) -> None:
        self._names = {_plain(listens), "localhost"}
        if advertised:
            self._names.add(_plain(urlsplit(advertised).hostname or ""))
        for given in more:
            name = host_of(given)
            if name is None:
                raise ConfigError(setting="http-host", problem=f"{given!a:.80} is not a name like registry.example")
            self._names.add(name)
        #: Which addresses the machine has, or a name means, may change, and be another one's to know (a port that is
        #: passed on). A kubelet and Prometheus ask by address whatever it listens on.
        is_name = not _is_address(_plain(listens)) and not checks.is_loopback(listens)
        self._any_address = checks.is_anywhere(listens) or is_name

    def knows(self, host: str) -> bool:
        """Whether a `Host` is one of this node's. Its port is not looked at: whoever passes a port on has another."""
        name = host_of(host)
        if name is None:
            return False
        return name in self._names or (_is_address(name) and (self._any_address or checks.is_loopback(name)))


def host_of(host: str) -> str | None:
    """The name in a `Host`, in small letters and without the dot at its end; None: there is none in it."""
    found = _HOST.fullmatch(host)
    if found is None:
        return None
    if found["six"] is not None:
        return _plain(found["six"]) if ":" in found["six"] and _is_address(found["six"]) else None
    return _plain(found["name"]) or None


def _plain(name: str) -> str:
    name = name.lower().removesuffix(".")
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
