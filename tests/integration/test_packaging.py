"""What an installed wheel has, and what it leaves alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.needs import needs

ROOT = Path(__file__).parents[2]

#: Where packages lie that are not below the one they belong to.
ELSEWHERE = {"replicator.docker": "docker", "replicator.workers": "workers"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
    source = place / "source"  # what was built before stays in the directory in which one builds
    for name in ("replicator", "workers", "docker"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    built = subprocess.run(
        [*command, "--wheel-dir", str(place), str(source)], capture_output=True, text=True, check=False
    )
    needs(built.returncode == 0, f"setuptools from a package index: {built.stderr.strip()[-300:]}")
    return next(place.glob("*.whl"))


def test_every_package_is_named() -> None:
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "replicator").rglob("__init__.py")}
    assert set(told["packages"]) == {name.replace("/", ".") for name in found} | set(ELSEWHERE)
    assert {name: told["package-dir"][name] for name in ELSEWHERE} == ELSEWHERE


def test_a_wheel_has_one_package_and_all_that_is_in_it(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in names} == {"replicator"}, "nobody else's names are taken"
    kept = {"__pycache__"}
    sources = {
        f"{package}/{path.relative_to(folder).as_posix()}"
        for package, folder in (("replicator", ROOT / "replicator"), ("replicator/workers", ROOT / "workers"))
        for path in folder.rglob("*")
        if path.is_file() and not kept & set(path.parts)
    }
    assert names == sources | {"replicator/docker/supervisord.conf"}


def test_workers_of_the_users_own_are_left_alone(wheel: Path, tmp_path: Path) -> None:
    # given a directory with a package called workers, and the wheel unpacked beside it
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("MINE = True\n")
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    # -I leaves out what this checkout has of it
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(installed)!r}]\n"
    code += "sys.meta_path = [each for each in sys.meta_path if 'editable' not in getattr(each, '__module__', '')]\n"
    code += "import workers, replicator.workers.node\nfrom replicator.sandbox.stack import find_conf\n"
    code += "print(workers.MINE, replicator.workers.node.__file__, find_conf())"
    told = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False)
    assert told.stdout.split() == [
        "True",
        str(installed / "replicator" / "workers" / "node.py"),
        str(installed / "replicator" / "docker" / "supervisord.conf"),
    ], told.stderr
