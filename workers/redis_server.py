"""The dev stack's Redis: starts the server that `find_server` finds, with its data in REPLICATOR_DEV_DIR/redis.

With an argument, `python -m replicator.workers.redis_server NAME`, the data is in REPLICATOR_DEV_DIR/NAME. Where to
listen comes from the URL that the clients use, REPLICATOR_REDIS, so that both sides share one setting. The process
replaces itself by the server (exec), so signals of supervisord reach the server, and its exit code is the server's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from replicator.errors import ConfigError
from replicator.log.password_file import password_of as password_in
from replicator.log.urls import url_in
from replicator.sandbox.redis_server import command_line
from replicator.storage import disk

#: Redis' default, if the URL names no port.
DEFAULT_PORT = 6379

#: It is for this machine: it has no password, unless the URL names a file with one, and speaks no TLS.
LOOPBACK = ("127.0.0.1", "localhost")


def server_command(name: str = "redis") -> list[str]:
    """Return the argv of the server that the environment describes, and make its data directory, `name`."""
    data_dir = Path(_setting("REPLICATOR_DEV_DIR")).absolute() / name
    disk.make_directory(data_dir)
    unix_socket, port = listening_place(_redis())
    return command_line(data_dir, unix_socket=unix_socket, port=port)


def required_password(url: str) -> str:
    """Return the password that the server is to ask for, in the file that `url` names; empty: it asks for none.

    Raises:
        ConfigError: the file cannot be read, or has none.
    """
    (path,) = parse_qs(urlsplit(url).query).get("password_file", [""])
    return password_in("REPLICATOR_REDIS", path) if path else ""


def listening_place(url: str) -> tuple[Path | None, int | None]:
    """Return the unix socket or the loopback port in `url`.

    Raises:
        ConfigError: it names another machine, a user or a password, or another kind of server.
    """
    parts = urlsplit(url)
    options = parse_qs(parts.query, keep_blank_values=True)
    if parts.username or parts.password or options.keys() & {"username", "password"}:
        raise _refused("the URL", "has a user or a password: give the server's with ?password_file=FILE")
    if parts.scheme == "unix" and parts.path:
        return Path(unquote(parts.path)), None
    if parts.scheme == "redis" and parts.hostname in LOOPBACK:
        return None, _port(parts, url)
    raise _refused(url, "is not unix:///path or redis://127.0.0.1:port; the dev stack's server listens nowhere else")


def main() -> None:
    try:
        argv = server_command(*sys.argv[1:2])
        password = required_password(_redis())
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    if password:
        argv = _with_password(argv, password)
    os.execv(argv[0], argv)


def _with_password(argv: list[str], password: str) -> list[str]:
    """Have the server read its password where nobody else does: the arguments of a process, everybody here sees."""
    quoted = "".join(f"\\x{byte:02x}" for byte in password.encode())
    read, write = os.pipe()
    os.write(write, f'requirepass "{quoted}"\n'.encode())
    os.close(write)
    os.dup2(read, 0)
    return [argv[0], "-", *argv[1:]]


def _redis() -> str:
    _setting("REPLICATOR_REDIS")
    return url_in(os.environ)


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
