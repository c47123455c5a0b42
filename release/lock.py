"""requirements/: for each purpose every package that is installed, with its version and the hashes of its files.

    python -m release.lock              # anew, with the newest versions that pyproject.toml allows
    python -m release.lock --keep       # only what pyproject.toml now asks for; what is locked stays at its version

One lock holds for every Python from 3.11 and every platform: what differs has a marker. Where packages come from is
not in it: that is the configuration of whoever installs (`pip install --require-hashes -r requirements/dev.txt`).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from pathlib import Path

__all__ = ["LOCKS", "REQUIREMENTS"]

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"

#: Which extras each lock has.
LOCKS: dict[str, tuple[str, ...]] = {
    "all": ("all",),
    "run": ("all", "embedded"),
    "dev": ("dev",),
    "bench": ("bench",),
    "release": ("release",),
}

#: What builds a wheel. Not an extra: pyproject.toml has it where build tools look for it.
BUILD = "build"


def compiled(to: Path, *words: str, requirements: str | None = None) -> None:
    """Have uv resolve it. `requirements`: instead of pyproject.toml."""
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    options = ["--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate"]
    options += ["--custom-compile-command", "make lock", "--no-emit-index-url", "--no-emit-find-links"]
    source = "pyproject.toml" if requirements is None else "-"
    done = subprocess.run(
        [str(uv), "pip", "compile", *options, *words, "--output-file", str(to), source],
        cwd=ROOT, input=requirements, text=True, check=False, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{to.name} was not locked: uv found no versions that go together, or no package index")


def lock(*, keep: bool) -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())
    build = told["build-system"]["requires"]
    REQUIREMENTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        # All of them together first: the same package has one version in all locks, so that they can share a .venv.
        together = Path(place) / "together.txt"
        kept = [] if keep else ["--upgrade"]
        if keep:
            together.write_text("".join(path.read_text() for path in sorted(REQUIREMENTS.glob("*.txt"))))
        extras = [word for name in sorted({*LOCKS}) for extra in LOCKS[name] for word in ("--extra", extra)]
        build_file = Path(place) / "build.in"
        build_file.write_text("\n".join(build))
        compiled(together, *extras, *kept, str(build_file))
        for name, extras_of in LOCKS.items():
            words = [word for extra in extras_of for word in ("--extra", extra)]
            compiled(REQUIREMENTS / f"{name}.txt", *words, *kept, "--constraint", str(together))
        compiled(REQUIREMENTS / f"{BUILD}.txt", *kept, "--constraint", str(together), requirements="\n".join(build))


def main() -> None:
    parser = argparse.ArgumentParser(description="Lock what is installed, with hashes.")
    parser.add_argument("--keep", action="store_true", help="leave what is locked at its version")
    lock(keep=parser.parse_args().keep)


if __name__ == "__main__":
    main()
