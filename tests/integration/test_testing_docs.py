"""Every example of docs/testing-your-service.md is run as its reader would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

BLOCKS = BLOCK.findall((ROOT / "docs/testing-your-service.md").read_text())

FILE = re.compile(r"# (\w+\.py)\n")

#: Modules that the tests after them import, by the names that they have in their first lines.
FILES = {named[1]: program for language, program in BLOCKS if language == "python" and (named := FILE.match(program))}

EXAMPLES = [program for language, program in BLOCKS if language == "python" and program not in FILES.values()]


def run(place: Path, program: str) -> str:
    (place / "flags.py").write_text(EXAMPLES[0])
    for name, text in FILES.items():
        (place / name).write_text(text)
    (place / "test_it.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "replicator.testing.pytest_plugin"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", "test_it.py"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{place}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_there_is_python_and_what_it_says_and_nothing_else() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "text"}
    assert len(EXAMPLES) > 5


@pytest.mark.parametrize("number", range(1, len(EXAMPLES)))
def test_the_examples_do_what_they_say(number: int, tmp_path: Path) -> None:
    program = EXAMPLES[number]
    count = program.count("\ndef test_")
    assert count
    assert f"{count} passed" in run(tmp_path, program)


def test_the_failure_is_told_in_the_words_of_the_page(tmp_path: Path) -> None:
    program = next(program for program in EXAMPLES if "print(caught.value)" in program)
    told = next(text for language, text in BLOCKS if language == "text")
    assert told.strip() in run(tmp_path, program)
