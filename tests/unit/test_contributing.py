"""The examples in CONTRIBUTING.md are what the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: The name of a file, a blank line, and lines of it.
EXAMPLE = re.compile(r"^`([\w/.]+)`:\n\n```(?:python|lua)\n(.*?)\n```$", re.MULTILINE | re.DOTALL)

EXAMPLES = EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text())


def flat(text: str) -> str:
    """Without indentation: an example has less of it."""
    return "\n".join(line.strip() for line in text.splitlines())


@pytest.mark.parametrize(("path", "example"), EXAMPLES, ids=[f"{path}-{n}" for n, (path, _) in enumerate(EXAMPLES)])
def test_an_example_is_in_the_file_that_it_names(path: str, example: str) -> None:
    assert flat(example) in flat((ROOT / path).read_text())


def test_there_are_examples_of_all_kinds() -> None:
    assert len(EXAMPLES) >= 6
