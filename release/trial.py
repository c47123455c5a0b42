"""A wheel in an empty environment of each Python: it is installed as users do it, its command runs, quick tests pass.

Pythons are those on PATH, those of pyenv, and those that uv can bring. Which of `WANTED` could not be had is said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["WANTED", "Failed", "environment", "found", "tried"]

#: From the oldest that is supported to the newest that there is.
WANTED = ("3.11", "3.12", "3.13", "3.14")

#: Pure code, and what earlier commits wrote: a minute, and most of what differs from one Python to the next.
QUICK = ("tests/unit/format", "tests/unit/protocol", "tests/unit/state", "tests/compat")


#: What a checkout has of the package.
PACKAGED = ("replicator", "workers", "docker")


class Failed(Exception):
    """What did not work, and what was said."""


def run(*words: object, cwd: Path | None = None) -> str:
    known = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "CI")}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=known, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def uv(*words: object) -> str:
    return run(Path(sysconfig.get_path("scripts")) / "uv", "--quiet", *words)


def found(version: str) -> Path | None:
    """An interpreter of this version. uv is asked to bring one only where there is none: that takes a while."""
    here = next((path for path in _candidates(version) if _is(path, version)), None)
    if here is not None:
        return here
    try:
        uv("python", "install", version)
        return Path(uv("python", "find", "--managed-python", version).strip())
    except Failed:
        return None


def _candidates(version: str) -> Iterator[Path]:
    named = shutil.which(f"python{version}")
    if named:
        yield Path(named)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/python"), reverse=True)


def _is(python: Path, version: str) -> bool:
    # A shim of a version manager is there for Pythons that it does not run.
    code = "import sys, sqlite3, ssl; print('%d.%d' % sys.version_info[:2])"
    try:
        return run(python, "-c", code).strip() == version
    except (Failed, OSError):
        return False


def environment(python: Path, directory: Path) -> Path:
    """An empty one: its interpreter."""
    uv("venv", "--python", python, directory)
    return directory / "bin" / "python"


def tried(python: Path, packages: Path, version: str, source: Path) -> str:
    """Install from `packages`, a directory, and test it with the tests of `source`. What came of it, in a line.

    Raises `Failed`.
    """
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        ours = f"replicator=={version}"
        for kind in ("wheel", "sdist"):
            empty = environment(python, directory / kind)
            only = "--no-binary" if kind == "sdist" else "--only-binary"
            uv("pip", "install", "--python", empty, "--find-links", packages, only, "replicator", ours)
            said = run(empty.parent / "replicator", "--version", cwd=directory)
            if not said.strip().endswith(version):
                raise Failed(f"the {kind} says it is {said.strip()}, and not {version}")
        tested = environment(python, directory / "tested")
        uv("pip", "install", "--python", tested, "--require-hashes", "-r", source / "requirements/dev.txt")
        uv("pip", "install", "--python", tested, "--no-deps", "--no-index", "--find-links", packages, ours)
        # A checkout without what is in the package: that is installed, and not found beside the tests.
        there = directory / "there"
        shutil.copytree(source, there, ignore=lambda path, _: PACKAGED if path == str(source) else ())
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", *QUICK]
        return run(tested, *words, cwd=there).strip().splitlines()[-1].strip("= ")
