"""Loopback ports that are free, for servers that will be started there and started again.

They are taken at random from below the range out of which the kernel gives ports to clients. A port of that range is
free while its server is down, and then any connection that somebody opens meanwhile may hold it.

None is given twice by one process: the server that it was given for may be down for the moment.
"""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

#: Above what well-known servers use; the ports of a Cluster's bus, 10,000 above these, are ports too.
LOWEST = 10_240

#: Linux: where clients' ports begin and end. Elsewhere they begin at 49152 (IANA), or can be asked for otherwise.
CLIENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST_CLIENT_PORT = 32_768

#: So many are tried before the kernel is asked for one of its own.
TRIES = 100

#: By this process.
_given: set[int] = set()


def free_port() -> int:
    """Give a loopback port that is free now. Another process may take it before you do."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Give different loopback ports that are free now."""
    with contextlib.ExitStack() as opened:
        return [_bound(opened) for _ in range(count)]


def _bound(opened: contextlib.ExitStack) -> int:
    """A port that stays bound, and so is given once, until `opened` is closed."""
    probe = opened.enter_context(socket.socket())
    for port in random.sample(among := places(), min(TRIES, len(among))):
        if port in _given:
            continue
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port
    probe.bind(("127.0.0.1", 0))
    return int(probe.getsockname()[1])


def places() -> range:
    """The ports that may be given."""
    return range(LOWEST, max(_first_client_port(), LOWEST + TRIES))


def _first_client_port() -> int:
    try:
        return int(CLIENT_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return FIRST_CLIENT_PORT
