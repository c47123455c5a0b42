"""`python -m bench.install_peers`: fetch the optional programs (see `bench.binaries`) from Debian's packages.

They are downloaded with `apt-get download` and unpacked with `dpkg-deb -x` into one directory, so neither root nor an
installation is needed, nothing is started, and deleting the directory removes them. Needs a Debian or Ubuntu whose
package lists are there (`apt-get update`). A package that this release has not, is left out and named.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from bench.binaries import find_program, peers_directory

#: What provides which program: the first package that the release has, and the libraries that come with it.
PACKAGES: dict[str, Sequence[Sequence[str]]] = {
    "nats-server": [["nats-server"]],
    "etcd": [["etcd-server"]],
    "redis-benchmark": [["redis-tools", "liblzf1", "libjemalloc2"], ["valkey-tools"]],
}


@click.command()
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), help="Instead of the directory in the cache.")
def main(into: Path | None) -> None:
    """Fetch nats-server, etcd and redis-benchmark for `python -m bench`."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        sys.exit("This needs apt-get and dpkg-deb. Elsewhere, put nats-server and etcd on the PATH.")
    directory = into or peers_directory()
    directory.mkdir(parents=True, exist_ok=True)
    for program, choices in PACKAGES.items():
        fetched = next((names for names in choices if _fetched(names, directory)), None)
        click.echo(f"{program}: {' '.join(fetched) if fetched else 'no package could be fetched'}")
    click.echo(f"in {directory}")
    if into is None:
        _tell()


def _fetched(names: Sequence[str], directory: Path) -> bool:
    """Download the packages and unpack them; whether all of them were there."""
    with tempfile.TemporaryDirectory(prefix="replicator-bench-") as place:
        asked = subprocess.run(["apt-get", "download", *names], cwd=place, capture_output=True, check=False)
        packages = sorted(Path(place).glob("*.deb"))
        if asked.returncode != 0 or len(packages) < len(names):
            return False
        for package in packages:
            subprocess.run(["dpkg-deb", "-x", str(package), str(directory)], check=True)
    return True


def _tell() -> None:
    for program in PACKAGES:
        found = find_program(program)
        click.echo(f"{program}: {found.version} ({found.path})" if found else f"{program}: does not run here")


if __name__ == "__main__":
    main()
