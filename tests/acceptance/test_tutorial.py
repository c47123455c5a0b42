"""docs/tutorial.md, command by command: what its reader types is typed, and says what the page shows.

`...` on the page stands for anything. A command that does not say yet what is shown is given again, until patience is
over. What says nothing is given once.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replicator.sandbox.free_ports import free_ports

PAGE = (Path(__file__).parents[2] / "docs/tutorial.md").read_text()

#: For each command; a failover takes a lease of 5 s.
PATIENCE_S = 300.0

#: What brings the package, which is here already.
INSTALLS = ("python3 -m venv ", "pip install ")

PORTS = ("6390", "8001", "8002", "8003")

END = "--- that was all of it ---"


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def steps(page: str) -> list[tuple[str, str]]:
    """Each command, and what it says."""
    lines = "".join(blocks(page, "console")).splitlines()
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return [(command, "\n".join(said)) for command, said in found if not command.startswith(INSTALLS)]


def is_as_shown(said: str, shown: str) -> bool:
    """Other lines may come before and after; a line that is nothing but dots stands for any number of lines."""
    parts = [".*?".join(map(re.escape, part.split("..."))) for part in shown.split("\n...\n")]
    return re.search("^" + "\n(?:.*?\n)?".join(parts), said, re.DOTALL | re.MULTILINE) is not None


class Shell:
    """A bash that is given one command after the other. Its jobs are in its process group."""

    def __init__(self, directory: Path) -> None:
        self._errors = directory / "errors"
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                ["bash"],
                cwd=directory,
                env={"PATH": path, "HOME": str(directory)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    @property
    def errors(self) -> str:
        return self._errors.read_text()

    def says(self, command: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho '{END}'\n")
        self.process.stdin.flush()
        said = ""
        for line in self.process.stdout:
            before, end, _ = line.partition(END)
            said += before.replace("\r", "")
            if end:
                return said
        raise AssertionError(f"the shell ended in {command}: {self.errors}")

    def follows(self, command: str, shown: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        said = self.says(command)
        while not is_as_shown(said, shown):
            assert time.monotonic() < deadline, f"$ {command}\n{said}\n--- the page has:\n{shown}\n{self.errors}"
            time.sleep(0.1)
            said = self.says(command)

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@contextmanager
def shell(directory: Path) -> Iterator[Shell]:
    shell = Shell(directory)
    try:
        yield shell
    finally:
        shell.close()


def test_the_tutorial_does_what_it_says(tmp_path: Path) -> None:
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    page = re.sub("|".join(PORTS), lambda port: ports[port[0]], PAGE)
    (tmp_path / "service.py").write_text(blocks(page, "python")[0])
    with shell(tmp_path) as bash:
        for command, shown in steps(page):
            bash.follows(command, shown)
        assert bash.says("jobs -p").split() == []


def test_everything_on_the_page_is_a_command_or_the_service() -> None:
    assert len(blocks(PAGE, "python")) == 1
    assert PAGE.count("```") == 2 * (1 + len(blocks(PAGE, "console")))
    assert len(steps(PAGE)) > 30


@pytest.mark.parametrize(
    ("said", "shown", "holds"),
    [
        ('{"written by":"b"}', '{"written by":"..."}', True),
        ('{"written by":"b"}', '{"written by":"a"}', False),
        ("one\ntwo\nthree\n", "one\n...\nthree", True),
        ("one\nthree\n", "one\n...\nthree", True),
        ("three\none\n", "one\n...\nthree", False),
        ("", "...", True),
        ("", "a ...", False),
    ],
)
def test_dots_stand_for_anything(said: str, shown: str, holds: bool) -> None:
    assert is_as_shown(said, shown) is holds
