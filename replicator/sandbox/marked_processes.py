"""The processes that have a token in their environment, and how they are ended: those, and no others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

from ..errors import ReplicatorError

__all__ = ["LEFTOVER_TIMEOUT_S", "TOKEN_VARIABLE", "end_processes"]

#: Environment variable that marks the processes of one start of one stack.
TOKEN_VARIABLE = "REPLICATOR_DEV_STACK"

#: What is left over had its chance to end in order; it gets this long to end at all.
LEFTOVER_TIMEOUT_S = 5.0

POLL_S = 0.05


def end_processes(token: str) -> None:
    """End every process that has the token: SIGTERM, once each, and after a while SIGKILL; until there is none."""
    asked: set[int] = set()
    started = time.monotonic()
    while pids := _processes_with(token):
        # Each round looks anew: a supervisord among them may start programs while it is being ended.
        elapsed_s = time.monotonic() - started
        if elapsed_s > 2 * LEFTOVER_TIMEOUT_S:
            raise ReplicatorError(f"these processes of the dev stack cannot be ended: {pids}")
        for pid in pids:
            if elapsed_s > LEFTOVER_TIMEOUT_S:
                _signal_if_marked(pid, token, signal.SIGKILL)
            elif pid not in asked:
                _signal_if_marked(pid, token, signal.SIGTERM)
                _signal_if_marked(pid, token, signal.SIGCONT)  # a stopped process takes no SIGTERM
        asked.update(pids)
        time.sleep(POLL_S)


def _processes_with(token: str) -> list[int]:
    if Path("/proc/self/environ").exists():
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if pid != os.getpid() and _is_marked(pid, token)]
    return _processes_by_ps(token)


def _is_marked(pid: int, token: str) -> bool:
    """Tell whether a process was started with the token. Of a zombie, or another user's process, the answer is no."""
    with contextlib.suppress(OSError):
        return f"{TOKEN_VARIABLE}={token}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return False


def _signal_if_marked(pid: int, token: str, number: signal.Signals) -> None:
    """Send a signal, but not to a stranger who got the process id in the meantime: a pidfd stays with its process."""
    with contextlib.suppress(OSError):
        if not hasattr(os, "pidfd_open"):
            os.kill(pid, number)
            return
        descriptor = os.pidfd_open(pid)
        try:
            if _is_marked(pid, token):
                signal.pidfd_send_signal(descriptor, number)
        finally:
            os.close(descriptor)


def _processes_by_ps(token: str) -> list[int]:
    """The same where there is no /proc: BSD's ps shows the environment after the command."""
    listing = subprocess.run(["ps", "-axwwE", "-o", "pid=,command="], capture_output=True, text=True, check=True).stdout
    marked = (line.split(None, 1)[0] for line in listing.splitlines() if f"{TOKEN_VARIABLE}={token}" in line)
    return [int(pid) for pid in marked if int(pid) != os.getpid()]
