"""SECURITY.md names a test for each threat: that they exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PAGE = (ROOT / "SECURITY.md").read_text()

#: A row of a threat: what it is, what stands against it, and the tests.
ROWS = [
    cells
    for section in PAGE.split("\n### ")[1:]
    for line in section.splitlines()
    if line.startswith("| ") and len(cells := line.strip("|").split(" | ")) == 3 and cells[0].strip() != "threat"
]

NAMED = re.compile(r"`(?P<path>tests/[\w/]+\.py)`(?:[^()`]*\((?P<names>`[^)]*`)\))?")


@pytest.mark.parametrize(("threat", "tests"), [(row[0].strip(), row[2]) for row in ROWS])
def test_the_tests_of_a_threat_exist(threat: str, tests: str) -> None:
    found = list(NAMED.finditer(tests))
    assert found or tests.startswith("the same, and"), threat
    for each in found:
        text = (ROOT / each["path"]).read_text()
        for name in re.findall(r"`(\w+)(?:\.\.\.)?`", each["names"] or ""):
            assert re.search(rf"^ *(def|class) {name}", text, re.M), f"{each['path']} has no {name}"


def test_every_part_of_the_list_has_threats() -> None:
    parts = re.findall(r"^\| [^|]* \| \[([^]]*)\]\(#", PAGE, re.M)
    sections = {section.partition("\n")[0]: section for section in PAGE.split("\n### ")[1:]}
    assert [part.lower() for part in parts] == [name.lower() for name in sections]
    assert all("\n| threat |" in section and "\n*Left:*" in section for section in sections.values())


def test_the_core_has_the_dependencies_that_are_counted() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert len(project["dependencies"]) == 7
    assert "The core has seven" in PAGE
