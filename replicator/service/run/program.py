"""The program of a node that leads, from the node's side: started, looked after, and ended, by way of its keeper.

The rules, and who sees to each:

1. *It runs only while the node leads, and has ended before anybody else may.* The keeper has the end of the lease, less
   its margin, and is told of each renewal. What the node tells it in time is that it leads; nobody has to tell it to
   end. So a node that hangs, is stopped or is killed changes nothing.
2. *There is one at a time.* A run ends, with all that it has started, before the next one begins: a lock says so, which
   the keeper has (`storage/program_lock.py`), and which outlives a node that was killed.
3. *A program that ends or does not answer is started again; one that is not well after that costs the node its lease.*
   So another node takes over, if there is one. This one may do so again after a while.

What it writes to stdout and stderr is in the node's log, a line an event (`program.output`).
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from ...errors import ConfigError, NoThread, ProgramError, ReplicatorError
from ...node.leadership import Leadership
from ...node.lease import MARGIN
from ...runtime import checks
from ...runtime.backoff import Backoff
from ...runtime.event_log import EventLogger, in_this_context
from ...runtime.threads import started
from ...storage.program_lock import program_is_over, take_program_lock
from ..role_commands import command, without_secrets
from .checking import Checking, Question, question
from .keeper import ControlGroup

__all__ = ["RunOptions", "RunProgram"]

logger = EventLogger(__name__)

KEEPER = Path(__file__).with_name("keeper.py")

#: The part of a lease between SIGTERM and SIGKILL, if the lease runs out. With the margin this leaves two renewals.
GRACE = 1 / 5

#: The part of that after which a keeper that should have ended its program is taken for one that hangs: half a margin.
HUNG = 1 / 4

#: How long the last lines of a program that has ended may take to be in the log.
OUTPUT_WITHIN_S = 2.0

#: How soon it is started again after it has ended, and how often without having been well in between.
AGAIN_S, AGAIN_S_MAX = 0.5, 10.0
RESTARTS_MAX = 2

#: A program that is not checked counts as well once it has run for so long.
WELL_AFTER_S = 10.0

#: So long after the node has given up its lease for the program it may lead again.
UNFIT_S = 30.0

#: Of a line that it writes, what goes into one event of the log.
LINE_BYTES_MAX = 8192

POLL_EVERY_S = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """`command`: its command line, run without a shell. `check`: a command, or a URL, asked every `check_every_s`.

    `stop_s`: between SIGTERM and SIGKILL, where there is time: in a switchover, and when the node stops.
    """

    command: str
    check: str = ""
    check_every_s: float = 5.0
    stop_s: float = 10.0


class RunsBeside(Protocol):
    """What it needs of a `Node`."""

    @property
    def data_dir(self) -> Path: ...
    @property
    def lease_ms(self) -> int | None: ...
    def report(self, name: str, problem: ReplicatorError | None) -> None: ...
    def while_leading(self, work: Callable[[Leadership], None]) -> object: ...


class RunProgram:
    """Of one node, whose lease is `lease_s` long. Before the node starts: `attach`; its watchdog is `unfit`.

    For one thread at a time, but for `unfit`. Raises `ConfigError`.
    """

    def __init__(self, options: RunOptions, *, lease_s: float) -> None:
        self._words = command("run", options.command)
        if not self._words:
            raise ConfigError(setting="run", problem="is empty: give a command")
        #: What it is called where people read it.
        self._line = shlex.join(self._words)
        self._ask: Question | None = question(options.check) if options.check else None
        self._every_s = checks.seconds("check-every-s", options.check_every_s, least=0.1)
        self._stop_s = checks.seconds("run-stop-s", options.stop_s)
        self._lease_s = lease_s
        self._node: RunsBeside
        self._leadership: Leadership | None = None
        self._run: _Run | None = None
        #: What the next run is told of its role; None: there is to be none.
        self._wanted: Mapping[str, str] | None = None
        self._not_before = 0.0
        self._backoff = Backoff(AGAIN_S, AGAIN_S_MAX)
        self._restarts = 0
        self._unfit_until = 0.0
        self._unfit = ""
        #: What went wrong when it was to end, in words; empty: nothing did.
        self.failed = ""

    def unfit(self) -> str:
        """Why the node is not to lead: for its watchdog. Empty: it may."""
        if self._unfit and (self._wanted is not None or time.monotonic() < self._unfit_until):
            return self._unfit
        return ""

    def attach(self, node: RunsBeside) -> None:
        """Have it be the program of this node."""
        self._node = node
        node.while_leading(self._hold)

    def _hold(self, leadership: Leadership) -> None:
        self._leadership = leadership
        leadership.lost.wait()

    @property
    def may_run(self) -> bool:
        """Whether the node leads, and nobody else may have a program that runs: a leadership begins that late."""
        return self._leadership is not None and not self._leadership.is_over

    @property
    def ended_term(self) -> int:
        """The term in which the program might run, and of which nothing is left; 0: there is none, or it runs, or that
        cannot be told.
        """
        leadership = self._leadership
        if leadership is None or leadership.is_over or self._run is not None:
            return 0
        try:
            return leadership.term if program_is_over(self._node.data_dir, within_s=0.0) else 0
        except OSError:
            return 0

    # --- what a sidecar asks for, as of `Commands` ---

    @property
    def running(self) -> str:
        """`"standby"` while the program ends, which has to be waited for; else empty."""
        return "standby" if self._run is not None and self._wanted is None else ""

    def begin(self, role: str, *, about: Mapping[str, str], limit_s: float) -> None:
        """Have it run from now on, with what is said `about` its role, or not run."""
        del limit_s
        if role == "primary":
            if not self.unfit():
                self._restarts, self._unfit = 0, ""
            self._not_before = 0.0
            self._wanted = about
        else:
            if self._unfit:
                self._unfit_until = time.monotonic() + UNFIT_S
            self._wanted = None
        self.look()

    def look(self) -> None:
        """See what became of it, and do what is to be done now."""
        run = self._run
        if run is not None:
            self._keep(run)
        elif self._wanted is not None and not self._unfit and time.monotonic() >= self._not_before:
            self._start(self._wanted)

    def finish(self) -> None:
        """Wait until it has ended; it was told to."""
        while self.running:
            self.look()
            time.sleep(POLL_EVERY_S)

    def cut_short(self) -> None:
        """Nothing to do: it ends with its role."""

    # --- one run ---

    def _start(self, about: Mapping[str, str]) -> None:
        until, grace_s = self._until(), self._lease_s * GRACE
        if not self.may_run or time.monotonic() >= until - grace_s:
            return  # it would have to end at once; a renewal, or another role, is soon
        try:
            lock = take_program_lock(self._node.data_dir)
            if lock is None:
                self._waits("the one that a node before this one ran here has not ended")
                return
            try:
                self._run = _Run(self._words, about, until, grace_s, lock)
            finally:
                os.close(lock)  # its keeper has it
        except (OSError, NoThread) as error:
            self._ended_badly(f"cannot be run: {getattr(error, 'strerror', None) or error}")
            return
        if self._ask is not None:
            self._run.checking = Checking(self._ask, self._every_s)

    def _until(self) -> float:
        """When the program has to have ended, by the monotonic clock."""
        now = time.monotonic()  # before the lease is looked at: it is rather too early than too late
        return now + (self._node.lease_ms or 0) / 1000 - self._lease_s * MARGIN

    def _keep(self, run: _Run) -> None:
        ended = run.look()
        if ended is not None:
            self._run = None
            self._is_over(run, *ended)
            return
        run.lead_until(self._until())  # also while it ends: that may take as long as the node leads
        if self._wanted is None or self._wanted["TERM"] != run.term:
            run.end(self._stop_s)
            return
        problem = run.checking.problem if run.checking is not None else ""
        if problem:
            run.problem = problem
            run.end(self._stop_s)
        elif run.is_well and (self._restarts or self.failed):
            self._well()

    def _waits(self, problem: str) -> None:
        """It is not started yet, and looked at again soon."""
        if self.failed != problem:
            self.failed = problem
            self._node.report("command", ProgramError(what=f"--run: {self._line}", problem=problem))

    def _well(self) -> None:
        self._restarts, self.failed = 0, ""
        self._backoff.succeeded()
        self._node.report("command", None)

    def _is_over(self, run: _Run, status: int, why: str) -> None:
        how = f"exit code {status}" if status >= 0 else _signal_name(-status)
        expected = why != "exit" and not run.problem
        if expected and not run.pid:
            return  # its keeper found that there is no time left for it
        level = logging.INFO if expected else logging.WARNING
        logger.at(level, "program.ended", "%s has ended (%s)", self._line, how, pid=run.pid, why=why)
        if run.is_well:
            self._restarts = 0
        if why == "lost":
            self._ended_badly("its keeper was killed")
        elif not expected:
            self._ended_badly(run.problem or f"ended with {how}")

    def _ended_badly(self, problem: str) -> None:
        if self._wanted is None:
            return
        self._restarts += 1
        self.failed = problem
        if self._restarts > RESTARTS_MAX:
            self._unfit = f"--run: {self._line} {problem}"
            logger.error("program.unfit", "%s, again and again: this node gives up its lease", self._unfit)
        else:
            pause_s = self._backoff.failed()
            self._not_before = time.monotonic() + pause_s
            logger.warning("program.again", "%s %s; started again in %.1f s", self._line, problem, pause_s)
        self._node.report("command", ProgramError(what=f"--run: {self._line}", problem=problem))


class _Run:
    """One run of the program, with its keeper. `about`: its role. `lock`: a descriptor for the keeper."""

    def __init__(self, words: Sequence[str], about: Mapping[str, str], until: float, grace_s: float, lock: int) -> None:
        self.term = about["TERM"]
        self.pid = 0
        self.checking: Checking | None = None
        #: Why it is ended, if that is not because of its role.
        self.problem = ""
        self._line = shlex.join(words)
        self._began = time.monotonic()
        self._until = until
        #: When it has to have ended since it was asked to.
        self._end_at = math.inf
        self._asked_to_end = False
        self._hung_s = grace_s * HUNG
        self._group = ControlGroup(lock)
        self._unread = b""
        self._ended: tuple[int, str] | None = None
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        try:
            arguments = [str(os.getpid()), str(theirs.fileno()), str(lock), repr(until), repr(grace_s), *words]
            # A group of its own: what a terminal or a supervisor sends to that of the node (SIGTSTP, SIGKILL) would
            # leave nobody to end the program.
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(KEEPER), *arguments],
                env=without_secrets(os.environ) | {f"REPLICATOR_{name}": value for name, value in about.items()},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno(), lock],
                process_group=0 if sys.platform == "linux" else None,
            )
            assert self._keeper.stdout is not None
            try:
                self._output = started(in_this_context(_log_lines), self._keeper.stdout, name="program-output")
            except NoThread:
                self._socket.close()  # the keeper sees that, and ends
                self._keeper.stdout.close()
                self._keeper.wait()
                raise
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()

    @property
    def is_well(self) -> bool:
        if self.checking is not None:
            return self.checking.is_well
        return time.monotonic() - self._began >= WELL_AFTER_S

    def lead_until(self, until: float) -> None:
        """The lease was renewed, or not."""
        if until > self._until:
            self._until = until
            self._say(f"until {until!r}")

    def end(self, stop_s: float) -> None:
        """Have it end, by SIGTERM, and so much later by SIGKILL."""
        self._end_at = min(self._end_at, time.monotonic() + stop_s)
        if not self._asked_to_end:
            self._asked_to_end = self._say(f"end {stop_s!r}")

    def look(self) -> tuple[int, str] | None:
        """How it has ended, and why: `exit`, `asked`, `lease`, or `lost` with its keeper. None: it runs."""
        over = False
        with suppress(BlockingIOError):
            while data := self._received():
                *lines, self._unread = (self._unread + data).split(b"\n")
                for line in lines:
                    self._hear(line.decode("ascii", "replace").split())
            over = True
        if not over:
            self._look_at_keeper()
            return None
        self._keeper.wait()
        self._socket.close()
        if self.checking is not None:
            self.checking.end()
        if self._ended is None:
            # The system has killed the program; this is for what it had started.
            if self.pid:
                self._kill_group()
            self._group.end()
        if self._ended is not None:
            self._output.join(OUTPUT_WITHIN_S)  # nobody writes any more; what there is shall be in the log
        return self._ended or (self._keeper.returncode, "lost")

    def _look_at_keeper(self) -> None:
        """One that hangs, or was stopped, ends nothing. So the node sees to the program, and has its keeper go on."""
        if self.pid and time.monotonic() > min(self._until, self._end_at) + self._hung_s:
            self._kill_group()
            self._group.kill()
            self._keeper.send_signal(signal.SIGCONT)

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _received(self) -> bytes:
        try:
            return self._socket.recv(4096)
        except ConnectionError:
            return b""

    def _hear(self, words: Sequence[str]) -> None:
        if words[:1] == ["started"]:
            self.pid = int(words[1])
            logger.info("program.started", "started %s, for term %s", self._line, self.term, pid=self.pid)
        elif words[:1] == ["ended"]:
            self._ended = int(words[1]), words[2]

    def _say(self, line: str) -> bool:
        """Whether it was said. It is not if the keeper has ended, which `look` sees, or reads nothing any more."""
        with suppress(OSError):
            self._socket.sendall(f"{line}\n".encode())
            return True
        return False


def _log_lines(output: IO[bytes]) -> None:
    """What the program writes, until nobody has the other end any more."""
    with output:
        while line := output.readline(LINE_BYTES_MAX):
            logger.info("program.output", "%s", line.decode("utf-8", "replace").rstrip())


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
