"""A Redis that speaks TLS. Those that come in wheels are built without, so this one is a Debian package."""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from replicator.sandbox.redis_server import ServerBinary, inspect_server

from .servers import servers_at_hand

PACKAGE = "redis-tools, whose redis-check-rdb is a Redis that speaks TLS (those in wheels do not)"


@functools.cache
def tls_server() -> ServerBinary | None:
    """One of the machine; None: there is none."""
    return next((server for server in _candidates() if _speaks_tls(server)), None)


def _candidates() -> Iterator[ServerBinary]:
    yield from servers_at_hand()
    # Redis is one program, and is the one by whose name it is called. Debian has the server's name in another package.
    if (path := shutil.which("redis-check-rdb", path="/usr/bin:/usr/local/bin")) is not None:
        link = Path(tempfile.mkdtemp(prefix="replicator-")) / "redis-server"
        link.symlink_to(path)
        yield inspect_server(link)


def _speaks_tls(server: ServerBinary) -> bool:
    """It asks for a certificate, and ends."""
    asked = [str(server.path), "--port", "0", "--tls-port", "1", "--save", ""]
    said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    return "No tls-cert-file" in said.stdout + said.stderr
