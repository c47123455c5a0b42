"""Loopback ports that are free, for servers that will be started there and started again.

They are taken at random from below the range out of which the kernel gives ports to clients. A port of that range is
free while its server is down, and then any connection that somebody opens meanwhile may hold it.

None is given twice, however many processes of this user ask (two drills at once): one that was given belongs to the
process that got it, for as long as that runs, also before its server listens and while it is down.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import tempfile
import threading
from pathlib import Path

#: Above what well-known servers use; the ports of a Cluster's bus, 10,000 above these, are ports too.
LOWEST = 10_240

#: Linux: where clients' ports begin and end. Elsewhere they begin at 49152 (IANA), or can be asked for otherwise.
CLIENT_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
FIRST_CLIENT_PORT = 32_768

#: So many are tried before the kernel is asked for one of its own.
TRIES = 100


def free_port() -> int:
    """Give a loopback port that is free now. Somebody who does not ask here may take it before you do."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Give different loopback ports that are free now."""
    with contextlib.ExitStack() as opened:
        return [_bound(opened) for _ in range(count)]


def _bound(opened: contextlib.ExitStack) -> int:
    """A port that stays bound, and so is given once, until `opened` is closed."""
    probe = opened.enter_context(socket.socket())
    for port in random.sample(range(LOWEST, max(_first_client_port(), LOWEST + TRIES)), TRIES):
        with contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if _GIVEN.take(port):
                return port
            probe.close()
            probe = opened.enter_context(socket.socket())
    probe.bind(("127.0.0.1", 0))
    return int(probe.getsockname()[1])


def _first_client_port() -> int:
    try:
        return int(CLIENT_PORTS.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return FIRST_CLIENT_PORT


class _Given:
    """Ports that were given, by a lock on one byte each of a file that the processes of a user share. The kernel lets
    go of them when a process ends, however that comes about.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ports: set[int] = set()
        self._file = -1

    def take(self, port: int) -> bool:
        """Whether nobody has it. Where there can be no such file, that is not known of other processes."""
        with self._lock:
            if port in self._ports or not self._is_ours(port):
                return False
            self._ports.add(port)
            return True

    def _is_ours(self, port: int) -> bool:
        try:
            if self._file < 0:
                # Open for good: a process that closes any descriptor of a file gives up its locks on it (fcntl(2)).
                path = Path(tempfile.gettempdir(), f"replicator-ports-{os.getuid()}")
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
        except (BlockingIOError, PermissionError):
            return self._file < 0
        except OSError:
            pass
        return True


_GIVEN = _Given()
