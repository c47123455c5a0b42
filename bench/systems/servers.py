"""Starting a server of somebody else, and ending it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from bench.harness import wait_until

__all__ = ["is_listening", "started"]


@contextmanager
def started(argv: Sequence[str], environment: Mapping[str, str], answers: Callable[[], bool]) -> Iterator[None]:
    """A process that is killed in the end. This goes on as soon as it `answers`."""
    # A session of its own: a Ctrl-C at the terminal is for us.
    process = subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def is_ready() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{argv[0]} ended with exit code {process.returncode}")
        return answers()

    try:
        wait_until(is_ready, f"an answer of {argv[0]}")
        yield
    finally:
        process.kill()
        process.wait()


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
