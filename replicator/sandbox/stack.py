"""The dev stack: a Redis, three nodes and a job worker under supervisord, in one directory, ended without a trace.

`DevStack` prepares the directory, starts supervisord with docker/supervisord.conf and speaks to it over its control
socket. It knows programs by their names only; what they are, and who becomes the first primary, is for the caller.

Nothing may be left behind, whatever ends first. Four rules see to it:

- Each start draws a token, writes it to stack.json and puts it into the environment of supervisord, so that every
  process of the stack has it, down to the work horse of a job that left its process group, and nothing else on the
  machine has. A process that has the token belongs to the stack and may be ended; a process id alone never says that.
- `stop` asks supervisord to end its programs in their order, then ends whatever still has the token.
- A guard, a small process that holds one end of a pipe, does the same when this process dies without a `stop`.
- A start in a directory first ends what has the token of the start before it (supervisord and guard may both have
  been killed). A file lock keeps a second stack out of a directory that is in use; a lock ends with its process.

supervisord looks at signals and ended children once a second, and at once when something happens on its socket. So
whoever waits for it here keeps asking it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TypeVar
from urllib.parse import quote

from ..errors import ConfigError, ReplicatorError
from ..runtime import checks
from ..runtime.process import Owner
from ..runtime.signals import Interruption
from ..storage import disk
from .free_ports import free_ports
from .marked_processes import LEFTOVER_TIMEOUT_S, TOKEN_VARIABLE, end_processes
from .redis_server import SERVER_VARIABLE
from .requirements import check_installed
from .supervisord import ASK_TIMEOUT_S, Control

__all__ = ["DevStack", "find_conf"]

T = TypeVar("T")

DEFAULT_DIRECTORY = Path(".replicator/sandbox/stack")

#: Node a listens here, b and c on the next two.
DEFAULT_PORT = 8001

NODES = ("a", "b", "c")

#: Longer than the stopwaitsecs of all programs in docker/supervisord.conf one after the other.
STOP_TIMEOUT_S = 50.0

#: supervisord is up in 0.3 s; a loaded machine may take ten times as long.
START_TIMEOUT_S = 20.0

POLL_S = 0.05

#: supervisord appends a dot and its process id while it makes the socket; see redis_server.py for the 103.
SOCKET_PATH_BYTES_MAX = 103 - len(".4194304")

#: These have a meaning in supervisord's configuration, where the directory is substituted into quoted values.
FORBIDDEN_IN_PATHS = "\"'%\\\n"


class DevStack:
    """One stack in one directory, as a child of this process: a context, or `start` and `stop`, or `run`.

    Args:
        directory: of data, logs and pid file; made if missing, never removed.
        port: node a's HTTP port on loopback, b and c take the next two; 0 for three free ones.
        group: name of the replication group.
        redis_url: where the stack's own Redis listens (a unix socket or a loopback port); without, a unix socket.
        conf: configuration of supervisord; without, docker/supervisord.conf.
        environment: further variables for all programs, REPLICATOR_LOG_LEVEL for example.
    """

    #: The names of its nodes.
    nodes: tuple[str, ...] = NODES

    def __init__(
        self,
        directory: str | os.PathLike[str] = DEFAULT_DIRECTORY,
        *,
        port: int = DEFAULT_PORT,
        group: str = "registry",
        redis_url: str | None = None,
        conf: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.socket_dir = _socket_dir(self.directory)
        self.ports = dict(zip(self.nodes, _ports(port, len(self.nodes)), strict=True))
        self.group = checks.name("group", group)
        self._owner = Owner(f"the stack in {self.directory}")
        self.redis_url = redis_url or f"unix://{quote(str(self.socket_dir / 'redis.sock'))}"
        self._given_conf = conf
        # A settings file of the user is about other nodes than these, unless he names it.
        own = {"REPLICATOR_LOG_LEVEL": "INFO", "REPLICATOR_LOG_FORMAT": "auto"}
        own["REPLICATOR_CONFIG"] = os.environ.get("REPLICATOR_CONFIG", os.devnull)
        self._environment = own | dict(environment or {})
        self._lock: IO[str] | None = None
        self._token = ""
        self._guard: subprocess.Popen[bytes] | None = None
        self._supervisord: subprocess.Popen[bytes] | None = None

    def start(self) -> DevStack:
        """Start supervisord and return when it answers; its programs start meanwhile (see `wait_ready`).

        Raises:
            ConfigError: a port is taken, another stack runs in the directory, no Redis server was found, and so on.
        """
        conf = self._given_conf or find_conf()
        self._check_installation()
        self._prepare_directory()
        self._lock = _lock(self.directory)
        try:
            _end_leftovers(self.directory)
            self._check_ports()
            _make_private(self.socket_dir)
            self._write_record()
            self._spawn(conf)
            self._wait_until_supervisord_answers()
        except BaseException:
            self.stop()
            raise
        return self

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Wait until every node answers GET /health, whatever it answers.

        Raises:
            ReplicatorError: a program cannot be started, or a node did not answer in time; with the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        waiting = dict(self.ports)
        while waiting:
            self._check_programs()
            waiting = {name: port for name, port in waiting.items() if not _answers_http(port)}
            if waiting and time.monotonic() > deadline:
                name = next(iter(waiting))
                raise ReplicatorError(
                    f"node {name} did not answer on port {waiting[name]} within {timeout_s:g} s\n"
                    + self.log_tail(f"node-{name}")
                )
            time.sleep(POLL_S if waiting else 0)

    def stop(self) -> None:
        """End everything that belongs to the stack. Does nothing when nothing runs."""
        if self._lock is None:
            return
        if self._token:
            _end_stack(self.directory, self._token)
        for process in (self._supervisord, self._guard):
            if process is not None:
                process.communicate()  # closes the pipe, which tells the guard that it is over, and reaps
        if self._token:
            shutil.rmtree(self.socket_dir, ignore_errors=True)
        self._lock.close()
        self._lock, self._guard, self._supervisord, self._token = None, None, None, ""

    def run(self, on_ready: Callable[[DevStack], None] = lambda _: None) -> None:
        """Start, wait until ready, call `on_ready`, stay until a signal ends it (`runtime/signals.py`), end everything.

        To be called on the main thread. Returns after one of these signals, which `on_ready` meets as a
        KeyboardInterrupt, and the process then ignores further ones.

        Raises:
            ReplicatorError: the stack did not start, or supervisord ended unasked.
        """

        def stay(_: DevStack) -> None:
            on_ready(self)
            assert self._supervisord is not None
            code = self._supervisord.wait()
            raise ReplicatorError(f"supervisord ended unasked, with exit code {code}\n{self.log_tail('supervisord')}")

        with Interruption() as interruption:
            self.run_until(interruption, stay)

    def run_until(self, interruption: Interruption, on_ready: Callable[[DevStack], T]) -> T | None:
        """Start, wait until ready, call `on_ready`, end everything; what that gave. None: it was interrupted.

        Raises:
            ReplicatorError: the stack did not start.
        """

        def work() -> T:
            self.start()
            self.wait_ready()
            return on_ready(self)

        try:
            return interruption.meets(work)
        finally:
            self.stop()

    # What runs

    def urls(self) -> dict[str, str]:
        """Give the base URL of each node by its name."""
        return {name: f"http://127.0.0.1:{port}" for name, port in self.ports.items()}

    def pids(self) -> dict[str, int]:
        """Give the process id of each program that runs, by its name (`redis`, `node-a`, …)."""
        return {name: info["pid"] for name, info in self._control.programs().items() if info["pid"]}

    def supervisord_pid(self) -> int:
        assert self._supervisord is not None, "the stack was not started"
        return self._supervisord.pid

    def signal(self, program: str, number: int) -> None:
        """Send a signal to a program."""
        self._control.call("signalProcess", self._control.full_name(program), str(int(number)))

    @property
    def control_path(self) -> Path:
        """The socket at which supervisorctl reaches its supervisord (`-s unix://PATH`)."""
        return self._control.path

    def start_program(self, program: str) -> None:
        """Start a stopped program; returns when it has been up for its startsecs."""
        self._control.call("startProcess", self._control.full_name(program))

    def stop_program(self, program: str) -> None:
        """Stop a program in its own way, and do not restart it; returns when it has ended."""
        self._control.call("stopProcess", self._control.full_name(program))

    def kill_program(self, program: str) -> None:
        """End a program with SIGKILL, and do not restart it; returns when it has ended.

        It is halted first: so supervisord can be told that it is to stop, without the program ever hearing of it.
        """
        pid = self.pids()[program]
        self.signal(program, signal.SIGSTOP)
        self._control.call("stopProcess", self._control.full_name(program), False)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + LEFTOVER_TIMEOUT_S
        while program in self.pids() and time.monotonic() < deadline:
            time.sleep(POLL_S)

    def log_tail(self, program: str, lines: int = 12) -> str:
        """Give the last lines of a program's log."""
        with contextlib.suppress(FileNotFoundError):
            text = (self.directory / "log" / f"{program}.log").read_text(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    def __enter__(self) -> DevStack:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._owner.is_here:
            self.stop()

    @property
    def _control(self) -> Control:
        if not self._token:
            raise ReplicatorError(f"the stack in {self.directory} does not run")
        return _control(self.directory, self._token)

    # Starting

    def _check_installation(self) -> None:
        server = check_installed()
        if self._given_conf is None:
            self._environment[SERVER_VARIABLE] = str(server.path)

    def _prepare_directory(self) -> None:
        if bad := set(FORBIDDEN_IN_PATHS) & set(str(self.directory) + sys.executable):
            raise ConfigError(setting="--dir", problem=f"{self.directory} has a {bad.pop()!r} in its name")
        for path in (self.directory, self.directory / "log"):
            try:
                disk.make_directory(path)
            except OSError as error:
                raise ConfigError(setting="--dir", problem=f"{path} cannot be made: {error.strerror}") from error

    def _check_ports(self) -> None:
        for name, port in self.ports.items():
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except (OSError, OverflowError) as error:
                    problem = f"port {port} for node {name} cannot be used ({error}); choose others with --port"
                    raise ConfigError(setting="--port", problem=problem) from error

    def _write_record(self) -> None:
        """Write stack.json, whole or not at all, before the first process exists that it must lead to."""
        self._token = secrets.token_hex(16)
        record = {"token": self._token, "redis": self.redis_url, "group": self.group, "nodes": self.urls()}
        disk.write_private(_record_path(self.directory), json.dumps(record, indent=2).encode() + b"\n")

    def _spawn(self, conf: Path) -> None:
        self._guard = self._popen("guard", [sys.executable, "-m", "replicator.sandbox.stack", str(self.directory)], {})
        assert self._guard.stdin is not None
        # By the pipe, not in its environment: the guard must not be one of those that it ends.
        self._guard.stdin.write(self._token.encode() + b"\n")
        self._guard.stdin.flush()
        command = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(conf)]
        self._supervisord = self._popen("supervisord.err", command, {**self._environment, **self._settings()})

    def _popen(self, log_name: str, command: list[str], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        path = self.directory / "log" / f"{log_name}.log"
        path.unlink(missing_ok=True)
        with open(path, "wb", opener=disk.opener) as log:
            return subprocess.Popen(
                command,
                env={**os.environ, **environment},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A Ctrl-C or a lost terminal is for us alone; supervisord would take SIGHUP for "restart".
                start_new_session=True,
                # What they write (the AOF, logs) is for nobody else, wherever the directory is.
                umask=disk.PRIVATE_UMASK,
            )

    def _settings(self) -> dict[str, str]:
        ports = {f"REPLICATOR_HTTP_{name.upper()}": str(port) for name, port in self.ports.items()}
        return {
            "REPLICATOR_DEV_DIR": str(self.directory),
            "REPLICATOR_DEV_SOCKET": str(self._control.path),
            "REPLICATOR_PYTHON": sys.executable,
            "REPLICATOR_GROUP": self.group,
            "REPLICATOR_REDIS": self.redis_url,
            TOKEN_VARIABLE: self._token,
            **ports,
        }

    def _wait_until_supervisord_answers(self) -> None:
        assert self._supervisord is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._control.answers():
            if self._supervisord.poll() is not None:
                raise ConfigError(setting="supervisord", problem=f"does not start\n{self.log_tail('supervisord.err')}")
            if time.monotonic() > deadline:
                raise ReplicatorError(f"supervisord does not answer\n{self.log_tail('supervisord')}")
            time.sleep(POLL_S)

    def _check_programs(self) -> None:
        for name, info in self._control.programs().items():
            if info["statename"] == "FATAL":
                raise ReplicatorError(f"{name} cannot be started: {info['spawnerr']}\n{self.log_tail(name)}")


def _ports(first: int, count: int) -> Iterable[int]:
    return range(first, first + count) if first else free_ports(count)


def find_conf() -> Path:
    """Find supervisord.conf: in docker/ of a checkout, which an installed package has within itself.

    Raises:
        ConfigError: it is in neither place.
    """
    package = Path(__file__).resolve().parents[1]
    for place in (package.parent, package):
        if (conf := place / "docker" / "supervisord.conf").is_file():
            return conf
    raise ConfigError(
        setting="supervisord.conf", problem=f"is neither in {package.parent / 'docker'} nor in the package"
    )


# Ending


def _end_stack(directory: Path, token: str) -> None:
    """End a stack in order if its supervisord still answers, and by force whatever is left of it."""
    control = _control(directory, token)
    with contextlib.suppress(ReplicatorError):
        control.call("shutdown", timeout_s=ASK_TIMEOUT_S)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while control.answers() and time.monotonic() < deadline:
            time.sleep(POLL_S)
    end_processes(token)


def _end_leftovers(directory: Path) -> None:
    """End what is left of the stack that ran in this directory before."""
    if token := _recorded_token(directory):
        _end_stack(directory, token)
        shutil.rmtree(_socket_dir(directory), ignore_errors=True)


# The directory


def _record_path(directory: Path) -> Path:
    return directory / "stack.json"


def _recorded_token(directory: Path) -> str | None:
    try:
        token: str = json.loads(_record_path(directory).read_text())["token"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        problem = f"{_record_path(directory)} is damaged ({error}). If no stack runs there, remove the file"
        raise ConfigError(setting="--dir", problem=problem) from error
    return token


def _lock(directory: Path) -> IO[str]:
    """Take the directory for this process; the lock ends when the file is closed, at the latest with the process."""
    try:
        lock = os.fdopen(disk.open_lock(directory / "lock"), "r+")
    except OSError as error:
        raise ConfigError(setting="--dir", problem=f"{directory / 'lock'} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        problem = f"a stack already runs in {directory} (process {lock.read().strip() or 'unknown'})"
        lock.close()
        raise ConfigError(setting="--dir", problem=problem) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def _socket_dir(directory: Path) -> Path:
    """Choose a short directory for sockets; always the same one, so that the address of Redis survives a restart."""
    digest = hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]
    path = Path(tempfile.gettempdir()) / f"replicator-{os.getuid()}-{digest}"
    if len(os.fsencode(path / "01234567.sock")) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(setting="TMPDIR", problem=f"{tempfile.gettempdir()} is too long for the path of a socket")
    return path


def _control(directory: Path, token: str) -> Control:
    """The control socket of one start, so that a guard which is late never speaks to the stack that came after."""
    return Control(_socket_dir(directory) / f"{token[:8]}.sock")


def _make_private(path: Path) -> None:
    """Make a directory that nobody else can use; refuse one that somebody else made before us."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    found = path.lstat()
    if not path.is_dir() or path.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ConfigError(setting="TMPDIR", problem=f"{path} exists and is not a private directory of yours; remove it")


def _answers_http(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/health")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return True
    finally:
        connection.close()


def _guard(directory: Path) -> None:
    """Wait for the end of the process that holds our standard input, then end the stack that it started."""
    token = sys.stdin.readline().strip()
    sys.stdin.read()
    if not token:
        return
    _end_stack(directory, token)
    # Sockets may stay only for a stack that runs; in an orderly end it is still the lock's holder who removes them.
    with contextlib.suppress(ConfigError), _lock(directory):
        shutil.rmtree(_socket_dir(directory), ignore_errors=True)


if __name__ == "__main__":
    _guard(Path(sys.argv[1]))
