"""What is in an installation with all that runs for others (requirements/all.txt): an SBOM, and the licences."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from release.trial import environment, uv

__all__ = ["write"]


def write(python: Path, packages: Path, version: str, source: Path, *, at: int) -> list[Path]:
    """Write both beside the packages: CycloneDX as JSON, and a table with the licence of each package."""
    sbom, licences = packages / f"replicator-{version}.cdx.json", packages / f"replicator-{version}-licences.txt"
    with tempfile.TemporaryDirectory() as place:
        installed = environment(python, Path(place) / "all")
        uv("pip", "install", "--python", installed, "--require-hashes", "-r", source / "requirements/all.txt")
        # By its name and not by its file, or the file's place on this machine would be in the SBOM.
        ours = f"replicator=={version}"
        uv("pip", "install", "--python", installed, "--no-deps", "--no-index", "--find-links", packages, ours)
        _tool("cyclonedx-py", "environment", "--output-reproducible", "--pyproject", source / "pyproject.toml",
              "--mc-type", "library", "--output-file", sbom, installed, at=at)  # fmt: skip
        _tool("pip-licenses", "--python", installed, "--from", "mixed", "--format", "plain-vertical", "--with-urls",
              "--with-license-file", "--no-license-path", "--output-file", licences, at=at)  # fmt: skip
    return [sbom, licences]


def _tool(name: str, *words: object, at: int) -> None:
    tool = Path(sysconfig.get_path("scripts")) / name
    done = subprocess.run(
        [str(tool), *map(str, words)],
        env=os.environ | {"SOURCE_DATE_EPOCH": str(at)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{name}: {(done.stdout + done.stderr)[-2000:]}")
