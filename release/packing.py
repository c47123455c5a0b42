"""Wheel and sdist of a source tree, the same to the byte wherever and whenever they are built."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

__all__ = ["build", "foreign_names", "repacked"]

#: What a package may have at its top; nobody else's names are taken, and no test or benchmark is in it.
WHEEL_TOPS = {"replicator"}
SDIST_TOPS = {
    "replicator", "replicator.egg-info", "workers", "docker",
    "LICENSE", "README.md", "PKG-INFO", "pyproject.toml", "setup.cfg",
}  # fmt: skip


def build(source: Path, to: Path, *, at: int) -> list[Path]:
    """The sdist, and a wheel that is built from it, by the setuptools that is locked. `at`: unix seconds."""
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(at), "PYTHONHASHSEED": "0"}
    # In an environment of its own, by hash: what this one has as setuptools is whatever made it.
    locked = ["--build-constraints", str(source / "requirements/build.txt"), "--require-hashes"]
    uv = str(Path(sysconfig.get_path("scripts")) / "uv")
    command = [uv, "build", "--quiet", "--python", sys.executable, *locked, "--no-create-gitignore"]
    command += ["--out-dir", str(to), str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"it was not built:\n{(done.stdout + done.stderr)[-3000:]}")
    (sdist,) = to.glob("*.tar.gz")
    sdist.write_bytes(repacked(sdist.read_bytes(), at))
    return sorted([sdist, *to.glob("*.whl")])


def repacked(sdist: bytes, at: int) -> bytes:
    """With the names in order, and no time, owner or mode that says where it was built: setuptools keeps those."""
    unpacked = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(sdist)) as before,
        tarfile.open(fileobj=unpacked, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for member in sorted(before.getmembers(), key=lambda member: member.name):
            member.mtime, member.mode = at, 0o755 if member.isdir() else 0o644
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.pax_headers = {}
            after.addfile(member, before.extractfile(member) if member.isfile() else None)
    return gzip.compress(unpacked.getvalue(), mtime=at)


def foreign_names(package: Path) -> set[str]:
    """What is at the top of a wheel or an sdist that has no place in it."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            tops = {name.partition("/")[0] for name in wheel.namelist()}
        return {top for top in tops if not top.endswith(".dist-info")} - WHEEL_TOPS
    with tarfile.open(package) as sdist:
        below = [name.partition("/")[2] for name in sdist.getnames()]
    return {name.partition("/")[0] for name in below if name} - SDIST_TOPS
