"""The commit that is released, and the version it is of.

The version is in pyproject.toml, and a tag says that a commit is it: `v0.1.0` on a commit whose pyproject.toml says
0.1.0. A commit without such a tag is a trial: `0.1.0.dev862`, by the number of commits before it, so that nobody takes
it for the release.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Commit", "export", "newest", "version_of"]

ROOT = Path(__file__).parents[1]

#: Where pyproject.toml says the version.
VERSION = re.compile(r'^version = "([^"]+)"$', re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """`at`: unix seconds; what is built from it is dated so. `is_clean`: nothing else is in the work tree."""

    id: str
    at: int
    version: str
    is_release: bool
    is_clean: bool


def version_of(declared: str, tags: list[str], count: int) -> tuple[str, bool]:
    """The version, and whether it is a release. Raises `ValueError` for a tag of another version.

    `declared`: in pyproject.toml; `tags`: of the commit; `count`: how many commits there are up to it.
    """
    named = [tag for tag in tags if re.fullmatch(r"v\d.*", tag)]
    if not named:
        return f"{declared}.dev{count}", False
    if named != [f"v{declared}"]:
        raise ValueError(f"the commit has the tag {', '.join(named)}, and pyproject.toml says {declared}: change one")
    return declared, True


def newest() -> Commit:
    if not (ROOT / ".git").exists():
        sys.exit("a release is made from a commit, and this is no checkout of git")
    declared = tomllib.loads(_git("show", "HEAD:pyproject.toml"))["project"]["version"]
    try:
        version, is_release = version_of(
            declared, _git("tag", "--points-at", "HEAD").split(), int(_git("rev-list", "--count", "HEAD"))
        )
    except ValueError as problem:
        sys.exit(str(problem))
    return Commit(
        id=_git("rev-parse", "HEAD"),
        at=int(_git("show", "-s", "--format=%ct", "HEAD")),
        version=version,
        is_release=is_release,
        is_clean=not _git("status", "--porcelain"),
    )


def export(commit: Commit, directory: Path) -> Path:
    """What the commit has, in `directory`, with its version, and the same modes whatever the umask is."""
    directory.mkdir(parents=True)
    packed = directory / "commit.tar"
    subprocess.run(["git", "archive", "--output", str(packed), commit.id], cwd=ROOT, check=True)
    source = directory / "source"
    with tarfile.open(packed) as archive:
        archive.extractall(source, filter="data")
    for path in source.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    pyproject = source / "pyproject.toml"
    pyproject.write_text(VERSION.sub(f'version = "{commit.version}"', pyproject.read_text(), count=1))
    return source


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
