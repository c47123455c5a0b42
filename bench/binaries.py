"""Programs of others that are measured beside the package, if they are there: nats-server, etcd, redis-benchmark.

They are looked for on the PATH, beside the Redis or Valkey server in use, and in a directory of unpacked Debian
packages: the one that $REPLICATOR_BENCH_PEERS names, or `replicator-bench` in the user's cache. `make bench-peers`
(`python -m bench.install_peers`) fills it. None of them is needed: what is missing has a row that says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from replicator.errors import ConfigError
from replicator.sandbox.redis_server import find_server

__all__ = ["DIRECTORY_VARIABLE", "NOT_INSTALLED", "Program", "find_program", "peers_directory"]

DIRECTORY_VARIABLE = "REPLICATOR_BENCH_PEERS"

#: What a row says in the place of a figure.
NOT_INSTALLED = "not installed"


class Program(NamedTuple):
    path: Path
    #: With what it is to be started.
    environment: Mapping[str, str]
    #: What it says of its version.
    version: str


def peers_directory() -> Path:
    """Where unpacked packages are looked for, and put by `bench.install_peers`."""
    if named := os.environ.get(DIRECTORY_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "replicator-bench"


def find_program(*names: str) -> Program | None:
    """The first one of these names that is found and runs."""
    return next((found for path in _paths(names) if (found := _asked(path)) is not None), None)


def _paths(names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        if path := shutil.which(name):
            yield Path(path)
    directory = peers_directory()
    for place in (_beside_the_server(), *(directory / below for below in ("", "bin", "usr/bin", "usr/sbin"))):
        if place is not None:
            yield from (path for path in (place / name for name in names) if os.access(path, os.X_OK))


def _beside_the_server() -> Path | None:
    try:
        return find_server().path.parent
    except ConfigError:
        return None


def _asked(path: Path) -> Program | None:
    # The packages have their libraries beside them, and no loader knows of those.
    libraries = [str(library) for library in sorted((peers_directory() / "usr/lib").glob("*/"))]
    environment = dict(os.environ)
    if path.is_relative_to(peers_directory()) and libraries:
        environment["LD_LIBRARY_PATH"] = ":".join(libraries)
    try:
        asked = [str(path), "--version"]
        said = subprocess.run(asked, env=environment, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return Program(path, environment, (said.splitlines() or [""])[0])
