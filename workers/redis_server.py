"""The dev stack's Redis: starts the server that `find_server` finds, with its data in REPLICATOR_DEV_DIR/redis.

With an argument, `python -m replicator.workers.redis_server NAME`, the data is in REPLICATOR_DEV_DIR/NAME. Where to
listen comes from the URL that the clients use, REPLICATOR_REDIS, so that both sides share one setting. The process
replaces itself by the server (exec), so signals of supervisord reach the server, and its exit code is the server's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from replicator.errors import ConfigError
from replicator.sandbox.redis_server import command_line
from replicator.storage import disk

#: Redis' default, if the URL names no port.
DEFAULT_PORT = 6379

#: This server has no password, so it must not be reachable from other machines.
LOOPBACK = ("127.0.0.1", "localhost")


def server_command(name: str = "redis") -> list[str]:
    """Return the argv of the server that the environment describes, and make its data directory, `name`."""
    data_dir = Path(_setting("REPLICATOR_DEV_DIR")).absolute() / name
    disk.make_directory(data_dir)
    unix_socket, port = listening_place(_setting("REPLICATOR_REDIS"))
    return command_line(data_dir, unix_socket=unix_socket, port=port)


def listening_place(url: str) -> tuple[Path | None, int | None]:
    """Return the unix socket or the loopback port in `url`.

    Raises:
        ConfigError: it names another machine, a password, or another kind of server.
    """
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise _refused("the URL", "has a user or a password; the dev stack's server takes none")
    if parts.scheme == "unix" and parts.path:
        return Path(unquote(parts.path)), None
    if parts.scheme == "redis" and parts.hostname in LOOPBACK:
        return None, _port(parts, url)
    raise _refused(url, "is not unix:///path or redis://127.0.0.1:port; the dev stack's server listens nowhere else")


def main() -> None:
    try:
        argv = server_command(*sys.argv[1:2])
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    os.execv(argv[0], argv)


def _port(parts: SplitResult, url: str) -> int:
    try:
        return parts.port or DEFAULT_PORT
    except ValueError as error:
        raise _refused(url, str(error)) from error


def _refused(url: str, problem: str) -> ConfigError:
    return ConfigError(setting="REPLICATOR_REDIS", problem=f"{url} {problem}")


def _setting(name: str) -> str:
    if value := os.environ.get(name):
        return value
    raise ConfigError(setting=name, problem="is not set; `replicator dev` sets it")


if __name__ == "__main__":
    main()
