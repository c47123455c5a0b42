"""The process between a node and the program that it runs: it ends the program when the node cannot.

    python -I -S keeper.py NODE SOCKET LOCK UNTIL GRACE_S PROGRAM ARGUMENT...

A node that hangs, is stopped (SIGSTOP) or killed does not end anything, and by then another node may lead. So this one
does: when the time is over until which the node said that it leads (`until`, by the monotonic clock, which all
processes of a machine share), when the socket to the node is at its end, and when the node asks for it (`end`).

It speaks lines on the socket. From the node: `until SECONDS`, `end SECONDS` (SIGTERM, and so much later SIGKILL). To
the node: `started PID`, and before its own end `ended STATUS WHY` (as of `os.waitstatus_to_exitcode`; why: `exit`,
`asked` or `lease`). The program is not begun if the node, by its process id, is gone by then, or its time too short.
LOCK is a descriptor that is held, by this process alone, until nothing of the program is left
(`storage/program_lock.py`).

What the program starts is its process group, or what became of it: orphans come to this process (a subreaper), and all
that lives below it is killed before it ends. Where this process may make one, the program has a control group of its
own (cgroup v2), from which nothing that it starts gets away, and which the system kills in one step. If this process is
killed itself, the system kills the program (PR_SET_PDEATHSIG), though not what that has started: by the control group
the node finds that, or the next keeper.

It is run by path, without `site` and without this package: it has to start within milliseconds, and to need nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterable, Iterator

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: How soon an end is noticed that nothing tells: of children while they are ended, and of the node at any time.
POLL_S = 0.01
LOOK_S = 1.0

#: Between two attempts to kill: at first, and where nothing helps (a program of another user) in the end.
KILL_AGAIN_S, KILL_AGAIN_S_MAX = 0.001, 0.1

#: What is not to end this process, or stop it. The last three come from a terminal.
IGNORED = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU,
)  # fmt: skip

#: What a program is not to find ignored: that, and what Python ignores.
DEFAULT = (*IGNORED, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ)

#: What could not be started, as a shell has it.
NOT_RUN = 126
NOT_FOUND = 127


class ControlGroup:
    """That of a program, by the descriptor of its lock. It does nothing where there is none, and none can be made.

    It is below that of this process, so the system lets a service make it that was told it may (systemd:
    `Delegate=yes`), and root in a container.
    """

    def __init__(self, lock: int) -> None:
        at = os.fstat(lock)  # the file that is locked: another program, or a copy of its directory, has another one
        above = _control_group_here()
        self.path = f"{above}/replicator-{at.st_dev:x}-{at.st_ino:x}" if above else ""

    def make(self) -> None:
        """Begin with an empty one: what a killed keeper has left in it is ended first. Needs the lock."""
        self.end()
        with contextlib.suppress(OSError):
            if self.path:
                os.mkdir(self.path, 0o755)

    def join(self) -> None:
        """Have this process, and what it starts from now on, be in it."""
        self._write("cgroup.procs", "0")

    def kill(self) -> None:
        self._write("cgroup.kill", "1")  # Linux 5.14

    def members(self) -> list[int]:
        """The processes in it that have not ended."""
        if not self.path:
            return []
        try:
            with open(f"{self.path}/cgroup.procs", encoding="ascii") as file:
                return [int(pid) for pid in file.read().split() if pid != "0"]
        except (OSError, ValueError):
            return []

    def end(self) -> None:
        """Kill all that is in it, until nothing is, and remove it."""
        while members := self.members():
            self.kill()
            _kill_each(members)
            time.sleep(KILL_AGAIN_S)
        if self.path:
            with contextlib.suppress(OSError):
                os.rmdir(self.path)

    def _write(self, name: str, text: str) -> None:
        if not self.path:
            return
        with contextlib.suppress(OSError):
            file = os.open(f"{self.path}/{name}", os.O_WRONLY | os.O_CLOEXEC)  # it is there, or nothing is done
            try:
                os.write(file, text.encode())
            finally:
                os.close(file)


class Keeper:
    """`until`: when the program has to have ended, by the monotonic clock. `grace_s`: SIGTERM comes so long before.

    `parent`: the process id of the node, whose socket is `node`. `group`: that of the program.
    """

    def __init__(self, parent: int, node: socket.socket, group: ControlGroup, until: float, grace_s: float) -> None:
        self._group = group
        self._node = node
        self._until = until
        self._grace_s = grace_s
        self._parent = parent
        self._unread = b""
        self._pid = 0
        self._status: int | None = None
        #: When it is to be killed, and why; once it was told to end.
        self._kill_at: float | None = None
        self._why = "exit"

    def run(self, words: list[str]) -> None:
        """Start the program, and return when nothing of it is left."""
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)  # what a terminal sends to the node, the node sees to
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        wakes, woken = os.pipe()
        os.set_blocking(woken, False)
        os.set_blocking(wakes, False)
        signal.set_wakeup_fd(woken)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        events = select.poll()  # and not `select`, which takes no descriptor of a node that has a thousand of them
        events.register(self._node.fileno(), select.POLLIN)
        events.register(wakes, select.POLLIN)
        if os.getppid() != self._parent or time.monotonic() >= self._until - self._grace_s:
            self._tell("ended 0 lease")
            return
        self._group.make()
        self._pid = _started(words, self._group)
        try:
            self._tell(f"started {self._pid}")
            while not self._is_over():
                for descriptor, _ in events.poll(math.ceil(self._pause_s() * 1000)):
                    if descriptor == wakes:
                        os.read(wakes, 4096)
                    else:
                        self._hear()
                self._look_at_clock()
        finally:
            self._kill_all()  # also after a failure of its own: the system would kill the program alone
        self._tell(f"ended {self._status} {self._why}")

    def _is_over(self) -> bool:
        self._reap()
        if self._status is not None and self._kill_at is None:
            return True  # by itself: what it has left behind is killed
        return self._status is not None and not self._left()

    def _pause_s(self) -> float:
        if self._kill_at is not None:
            return POLL_S
        return max(0.0, min(LOOK_S, self._until - self._grace_s - time.monotonic()))

    def _hear(self) -> None:
        try:
            data = self._node.recv(4096)
        except OSError:
            data = b""
        if not data:
            self._gone()
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            word, _, seconds = line.partition(b" ")
            if word == b"until":
                self._until = max(self._until, float(seconds))
            elif word == b"end":
                self._end("asked", min(time.monotonic() + float(seconds), self._until))

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        if os.getppid() != self._parent:
            self._gone()
        elif now >= self._until - self._grace_s and self._kill_at is None:
            self._end("lease", self._until)
        if self._kill_at is not None and now >= min(self._kill_at, self._until):
            self._kill_all()

    def _gone(self) -> None:
        """The node is gone: another one leads soon, and nobody would hear how this ended."""
        self._kill_all()
        os._exit(0)

    def _end(self, why: str, kill_at: float) -> None:
        if self._kill_at is None:
            self._why = why
            _signal_group(self._pid, signal.SIGTERM)
        self._kill_at = kill_at if self._kill_at is None else min(self._kill_at, kill_at)

    def _kill_all(self) -> None:
        """Kill the program, and whatever it has started, until nothing lives. Its group first: that takes one call."""
        if self._status is None:
            _signal_group(self._pid, signal.SIGKILL)
        pause_s = KILL_AGAIN_S
        while left := self._left():
            self._group.kill()
            _kill_each(left)
            self._reap()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, KILL_AGAIN_S_MAX)
        self._group.end()

    def _left(self) -> list[int]:
        return [*_below(os.getpid()), *self._group.members(), *([self._pid] if self._status is None else [])]

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._pid:
                    self._status = os.waitstatus_to_exitcode(status)

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._node.sendall(f"{line}\n".encode())


def _started(words: list[str], group: ControlGroup) -> int:
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        # Both sides, whichever is first: from here on its group can be told to end.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return pid
    try:
        os.setpgid(0, 0)
        group.join()
        signal.set_wakeup_fd(-1)
        for number in DEFAULT:
            signal.signal(number, signal.SIG_DFL)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:  # it died before the system was told
            os._exit(NOT_RUN)
        os.execvp(words[0], words)
    except OSError as error:
        os.write(2, f"{words[0]} cannot be run: {error.strerror}\n".encode())
        os._exit(NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_RUN)
    finally:
        os._exit(NOT_RUN)


def _control_group_here() -> str:
    """The directory of the control group (v2) that this process is in; empty: the system has none, or does not say."""
    try:
        with open("/proc/self/cgroup", encoding="utf-8") as file:
            inside = next(line[len("0::") :].rstrip("\n") for line in file if line.startswith("0::"))
        with open("/proc/self/mounts", encoding="utf-8") as file:
            mounted = next(line.split()[1] for line in file if line.split()[2] == "cgroup2")
    except (OSError, StopIteration, IndexError, ValueError):
        return ""
    return f"{mounted}{inside.rstrip('/')}"


def _kill_each(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _signal_group(leader: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _below(root: int) -> Iterator[int]:
    """The processes below this one that have not ended, where the system tells (Linux)."""
    parents: dict[int, list[int]] = {}
    with contextlib.suppress(OSError):
        for entry in os.listdir("/proc"):
            if not entry.isdigit():
                continue
            with contextlib.suppress(OSError, IndexError, ValueError):
                with open(f"/proc/{entry}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    parents.setdefault(int(parent), []).append(int(entry))
    found = list(parents.get(root, []))
    while found:
        pid = found.pop()
        yield pid
        found += parents.get(pid, [])


def _prctl(option: int, value: int) -> None:
    """On Linux. Elsewhere the socket alone tells that the node is gone."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main(arguments: list[str]) -> None:
    parent, descriptor, lock, until, grace_s, *words = arguments
    os.set_inheritable(int(lock), False)
    node = socket.socket(fileno=int(descriptor))
    node.set_inheritable(False)
    Keeper(int(parent), node, ControlGroup(int(lock)), float(until), float(grace_s)).run(words)


if __name__ == "__main__":
    main(sys.argv[1:])
