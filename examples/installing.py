"""Installs a program of others for an example, once, into .replicator/programs/ of the checkout.

Each has a directory of its own, by its name and version, so nothing else on the machine is touched, and removing the
directory undoes it. A file in it, written last, says that it is whole: what was cut short is begun anew.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

from replicator.errors import ReplicatorError

__all__ = ["from_npm", "from_pypi"]

PROGRAMS = Path(__file__).resolve().parents[1] / ".replicator" / "programs"

WHOLE = ".whole"


def from_npm(name: str, version: str) -> Path:
    """The directory with the commands of a package of npm. Raises `ReplicatorError`."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise ReplicatorError(f"{name} needs Node.js and npm, which are not here: apt-get install nodejs npm, say")

    def install(directory: Path) -> None:
        quiet = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")
        run([npm, "install", "--prefix", str(directory), *quiet, f"{name}@{version}"])

    return installed(name, version, install) / "node_modules" / ".bin"


def from_pypi(name: str, version: str) -> Path:
    """The directory with the commands of a package of PyPI, in a virtual environment. Raises `ReplicatorError`."""

    def install(directory: Path) -> None:
        venv.create(directory, with_pip=False, symlinks=True)
        python = directory / "bin" / "python"
        quiet = ("--quiet", "--disable-pip-version-check")
        run([sys.executable, "-m", "pip", "--python", str(python), "install", *quiet, f"{name}=={version}"])

    return installed(name, version, install) / "bin"


def installed(name: str, version: str, install: Callable[[Path], None]) -> Path:
    """Its directory, in which it is now, if it was not before. Two that ask at once wait for one another."""
    directory = PROGRAMS / f"{name}-{version}"
    PROGRAMS.mkdir(parents=True, exist_ok=True)
    with (PROGRAMS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / WHOLE).exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            print(f"installing {name} {version} into {directory} ...", flush=True)
            install(directory)
            (directory / WHOLE).touch()
    return directory


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        end = " ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        raise ReplicatorError(f"{Path(command[0]).name} ended with exit code {done.returncode}: {end}")
