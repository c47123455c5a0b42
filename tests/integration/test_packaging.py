"""What an installed wheel has, and what it leaves alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.support.needs import needs

ROOT = Path(__file__).parents[2]

#: Where packages lie that are not below the one they belong to.
ELSEWHERE = {"replicator.docker": "docker", "replicator.workers": "workers"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout: what was built before stays in the directory in which one builds."""
    source = tmp_path_factory.mktemp("checkout") / "source"
    for name in ("replicator", "workers", "docker"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("wheel")
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


#: A project of somebody else's. All that has a page of the reference is imported.
PROJECT = """
from fastapi import FastAPI, Request

from replicator import DictState, Node, put
from replicator.testing import Cluster
from replicator.web.asgi import Replicated
from replicator.web.failures import ANSWERS, Failure, plain
from replicator.web.idempotency import idempotency_key

node = Node.from_env(DictState())
app = FastAPI()
app.add_middleware(Replicated, node=node, answers=ANSWERS, errors=plain)


@app.put("/x/{name}")
async def write(name: str, value: int, request: Request) -> int:
    await node.asubmit(put(name, value), key=idempotency_key(request.headers))
    return await node.view(lambda state: len(state))


node.submit(put(1, 1))
"""


def python_of(directory: Path) -> tuple[Path, Path]:
    """An environment with all that this one has, but for replicator: its interpreter, and where packages go."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    site = next(directory.glob("lib/python*/site-packages"))
    (site / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return directory / "bin" / "python", site


def module_of(name: str) -> str:
    """The module that a page of the reference names, or that has what it names."""
    path = ROOT / name.replace(".", "/")
    return name if path.is_dir() or path.with_suffix(".py").is_file() else name.rpartition(".")[0]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mypy found in the packages that all environments have."""
    return tmp_path_factory.mktemp("mypy")


def checked_by_mypy(python: Path, directory: Path, cache: Path) -> str:
    named = "".join(path.read_text() for path in sorted((ROOT / "docs/reference").glob("*.md")))
    modules = {module_of(name) for name in re.findall(r"^::: (\S+)", named, re.MULTILINE)}
    assert len(modules) > 20
    (directory / "app.py").write_text("".join(f"import {name}\n" for name in sorted(modules)) + PROJECT)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), "--python-executable", str(python)]
    command.append("app.py")
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, env={"PATH": "/bin"})
    return done.stdout


def test_a_type_checker_sees_all_that_is_public_in_an_installed_wheel(wheel: Path, tmp_path: Path, cache: Path) -> None:
    python, site = python_of(tmp_path / "venv")
    zipfile.ZipFile(wheel).extractall(site)
    told = checked_by_mypy(python, tmp_path, cache).splitlines()
    assert [line.partition("error: ")[2][:34] for line in told[:-1]] == ['Argument 1 to "put" has incompatib'], told


def test_and_in_an_editable_install_as_the_page_says_to_make_it(
    source: Path, wheel: Path, tmp_path: Path, cache: Path
) -> None:
    options = re.search(r"pip install (--config-settings \S+) --editable", (ROOT / "docs/api.md").read_text())
    assert options is not None
    python, _ = python_of(tmp_path / "venv")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*command, *options[1].split(), "--editable", str(source)], check=True)
    told = checked_by_mypy(python, tmp_path, cache).splitlines()
    assert [line.partition("error: ")[2][:34] for line in told[:-1]] == ['Argument 1 to "put" has incompatib'], told
