"""Pages whose blocks of Python are files (`# name.py` in the first line), with tests that are run as by a reader."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FILE = re.compile(r"^```python\n# ([\w/]+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["expiry.md"])
def test_the_tests_of_a_page_pass(page: str, tmp_path: Path) -> None:
    text = (ROOT / "docs" / page).read_text()
    files = FILE.findall(text)
    assert len(files) == text.count("```python")
    for name, program in files:
        (tmp_path / name).write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{tmp_path}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    count = sum(program.count("\ndef test_") for _, program in files)
    assert count
    assert f"{count} passed" in done.stdout
