"""A release in dist/: wheel, sdist, SBOM, licences, and their hashes, of the newest commit (docs/releasing.md).

    python -m release.build [--python 3.12]...      # without: on every Python from 3.11 on that is to be had

It is built twice, in two places, and has to be the same to the byte. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

from release import inventory, packing, trial
from release.source import ROOT, Commit, export, newest

DIST = ROOT / "dist"


def built(commit: Commit, work: Path) -> tuple[Path, list[Path]]:
    """The source, and both packages that are made of it, in dist/, if two builds are equal."""
    shutil.rmtree(DIST, ignore_errors=True)
    sources = [export(commit, work / place) for place in ("one", "other")]
    first, second = (
        packing.build(source, to, at=commit.at) for source, to in zip(sources, (DIST, work / "again"), strict=True)
    )
    differ = [one.name for one, other in zip(first, second, strict=True) if one.read_bytes() != other.read_bytes()]
    if differ:
        sys.exit(f"two builds of one commit differ: {', '.join(differ)}")
    return sources[0], first


def checked(packages: list[Path]) -> None:
    for package in packages:
        foreign = packing.foreign_names(package)
        if foreign:
            sys.exit(f"{package.name} has what belongs in no package: {', '.join(sorted(foreign))}")
    scripts = Path(sysconfig.get_path("scripts"))
    try:
        trial.run(scripts / "twine", "check", "--strict", *packages)
        trial.run(scripts / "check-wheel-contents", *(each for each in packages if each.suffix == ".whl"))
    except trial.Failed as failed:
        sys.exit(str(failed))


def tried(commit: Commit, source: Path, wanted: tuple[str, ...]) -> Path:
    """Try it on each; the newest Python that there is."""
    there = {version: trial.found(version) for version in wanted}
    for version, python in there.items():
        if python is None:
            print(f"Python {version}: NOT TRIED, it cannot be had here (not installed, and uv could not bring it)")
            continue
        try:
            print(f"Python {version}: {trial.tried(python, DIST, commit.version, source)}", flush=True)
        except trial.Failed as failed:
            sys.exit(f"Python {version}: {failed}")
    pythons = [python for python in there.values() if python is not None]
    if not pythons:
        sys.exit("there is no Python to try it on")
    return pythons[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Build a release in dist/, and try it.")
    parser.add_argument("--python", action="append", help=f"only this version  [default: {', '.join(trial.WANTED)}]")
    wanted = tuple(parser.parse_args().python or trial.WANTED)
    commit = newest()
    what = "a release" if commit.is_release else "a trial: the commit has no tag of a version"
    print(f"replicator {commit.version} of {commit.id[:12]}: {what}")
    if not commit.is_clean:
        print("What is not committed is not in it.")
    if "urls" not in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]:
        print("It names no URL of the project: add [project.urls] to pyproject.toml once it has an address.")
    with tempfile.TemporaryDirectory() as place:
        source, packages = built(commit, Path(place))
        checked(packages)
        print(f"{', '.join(each.name for each in packages)}: built twice, equal; checked")
        python = tried(commit, source, wanted)
        made = [*packages, *inventory.write(python, DIST, commit.version, source, at=commit.at)]
    sums = [f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}\n" for each in made]
    (DIST / "SHA256SUMS").write_text("".join(sums))
    print("".join(f"dist/{each.name}\n" for each in [*made, DIST / "SHA256SUMS"]), end="")


if __name__ == "__main__":
    main()
