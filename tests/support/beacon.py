"""A program that a node runs: it writes down when it begins and ends, and that it lives, until it is ended."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import NamedTuple

__all__ = ["Sign", "beacon", "signs"]

#: Lines: what, pid, term, node, and the monotonic clock. `rude`: SIGTERM changes nothing. `child`: the same, below it.
SOURCE = """
import os, signal, subprocess, sys, time
path, *kinds = sys.argv[1:]
def sign(what):
    term, node = os.environ.get("REPLICATOR_TERM", "0"), os.environ.get("REPLICATOR_NODE", "-")
    said = what, os.getpid(), term, node, time.monotonic()
    with open(path, "a") as file:
        print(*said, file=file)
def stop(*_):
    sign("stop")
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "rude" in kinds else stop)
if "child" in kinds:
    subprocess.Popen([sys.executable, __file__, path, "rude"], start_new_session=True)
sign("start")
if "ends" in kinds:
    time.sleep(0.2)
    os._exit(3)
while True:
    sign("lives")
    time.sleep(0.02)
"""


class Sign(NamedTuple):
    """What a beacon wrote."""

    what: str
    pid: int
    term: int
    node: str
    at: float


def beacon(path: Path, *kinds: str) -> str:
    """The command line of one that writes into `path`."""
    script = path.with_name("beacon.py")
    script.write_text(SOURCE)
    path.touch()
    return shlex.join([sys.executable, str(script), str(path), *kinds])


def signs(path: Path) -> list[Sign]:
    """All that were written so far."""
    found = [line.split() for line in path.read_text().split("\n")[:-1]]
    return [Sign(what, int(pid), int(term), node, float(at)) for what, pid, term, node, at in found]
