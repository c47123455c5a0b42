"""python -m examples.devpi"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from examples.installing import from_pypi, run
from examples.two_hosts import Program, main


def programs() -> Path:
    return from_pypi("devpi-server", "6.20.3")


def prepare(directory: Path, port: int) -> None:
    """One host begins, and the other one gets what that has."""
    del port
    if directory.name == "a" and not (directory / "server").exists():
        run([str(programs() / "devpi-init"), "--serverdir", str(directory / "server"), "--no-root-pypi"])


if __name__ == "__main__":
    main(
        Program(
            name="devpi",
            path="/+api",
            install=lambda: programs() / "devpi-server",
            prepare=prepare,
            write=f"{shlex.quote(sys.executable)} -m examples.devpi.upload $url",
            read="curl $url/root/dev/+simple/on-two-hosts/",
        )
    )
