"""Programs that are not ours on two hosts, as readers run them: one command, and what it says to try."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.kv import eventually
from tests.support.needs import needs

ROOT = Path(__file__).parents[2]

#: It may install a program, and compile a part of it.
PATIENCE_S = 300.0

pytestmark = pytest.mark.timeout(900)


def those_of(directory: Path) -> list[str]:
    """The processes that an example has started: its programs have this in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("REPLICATOR_DEV_DIR") == str(directory):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


class Example:
    def __init__(self, name: str, directory: Path) -> None:
        self.directory = directory / "data"
        self._output = directory / "output"
        with self._output.open("wb") as file:
            command = [sys.executable, "-m", f"examples.{name}", "--dir", str(self.directory)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

    @property
    def said(self) -> str:
        logs = [path.read_text() for path in sorted((self.directory / "log").glob("*.log"))]
        return "\n".join([self._output.read_text(), *logs])

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.said
        return "Ctrl-C ends all of it" in self._output.read_text()

    def tries(self) -> tuple[dict[str, str], list[str]]:
        """The environment, and the commands, that it tells its reader to try."""
        text = self._output.read_text().partition("in this directory:\n")[2].partition("\n\n")[0]
        export, *lines = (line.strip() for line in text.splitlines())
        return dict(re.findall(r"(\w+)='?([^' ]+)", export)), lines

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait()


def played(line: str, environment: dict[str, str]) -> str:
    """What a command says, once it goes well: a program needs a moment to be there."""
    line = line.replace("curl ", "curl --silent --show-error --fail ")

    def once() -> str | None:
        done = subprocess.run(
            ["bash", "-c", line], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        return (done.stdout or "-") if done.returncode == 0 else None

    return str(eventually(once, line, patience_s=PATIENCE_S))


@pytest.mark.parametrize(
    ("name", "needed", "packages", "written"),
    [
        ("json_server", "npm", "nodejs and npm", "on two hosts"),
        ("isso", "cc", "a C compiler", "on two hosts"),
        ("devpi", "python3", "Python", "on_two_hosts-1.0-py3-none-any.whl"),
    ],
)
def test_a_program_that_is_not_ours_moves_and_survives_its_node(
    name: str, needed: str, packages: str, written: str, tmp_path: Path
) -> None:
    needs(shutil.which(needed) is not None, packages)
    if needed == "npm" and subprocess.run(["npm", "view", "json-server", "name"], capture_output=True).returncode:
        pytest.skip("the registry of npm does not answer")
    example = Example(name, tmp_path)
    try:
        eventually(example.is_ready, patience_s=PATIENCE_S)
        settings, (write, switchover, read_there, kill, read_here, status) = example.tries()
        environment = {**os.environ, **settings}
        # written on one host, and moved in order
        played(write, environment)
        played(switchover, environment)
        assert written in played(read_there, environment)
        # the node there dies with its program, by SIGKILL
        played(kill, environment)
        assert written in played(read_here, environment)
        assert re.search(r"^a +primary", played(status, environment), re.M)
        # and what was printed runs in order
        assert example.end() == 0, example.said
        assert those_of(example.directory) == []
    except AssertionError:
        print(example.said)
        raise
    finally:
        if example.process.poll() is None:
            example.end()
