"""`replicator release`: what it refuses, and that as a wrapper it is the command that it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.storage.directory_lock import DirectoryLock

#: Nobody listens there.
AWAY = "redis://127.0.0.1:1/0"


def started(*arguments: object, data_dir: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from replicator.cli import main; main()", "--redis", AWAY, "release"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REPLICATOR_")}
    return subprocess.Popen(
        [*command, "--data-dir", str(data_dir), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: object, data_dir: Path) -> tuple[int, str]:
    """The exit code, and all that it said."""
    process = started(*arguments, data_dir=data_dir)
    out, err = process.communicate()
    return process.returncode, out + err


def test_it_is_refused_for_a_node_that_runs(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path)
    code, said = run(data_dir=tmp_path)
    lock.release()
    assert code == 3
    assert f"process {os.getpid()} is using it, so its lease is not given back" in said


def test_a_directory_without_a_node_is_a_slip(tmp_path: Path) -> None:
    code, said = run(data_dir=tmp_path / "nowhere")
    assert (code, "is no data directory of a node" in said) == (2, True)


def test_where_no_boot_is_known_redis_is_not_asked(tmp_path: Path) -> None:
    DirectoryLock(tmp_path).release()
    assert run(data_dir=tmp_path) == (
        0,
        f"{tmp_path}: no node is known to have run here, so there is nothing to give back\n",
    )


@pytest.mark.parametrize(("code", "ends"), [("sys.exit(7)", 7), ("pass", 0), ("os.kill(os.getpid(), 9)", 137)])
def test_it_ends_as_the_command_did_whether_redis_answers_or_not(tmp_path: Path, code: str, ends: int) -> None:
    lock = DirectoryLock(tmp_path)
    lock.runs("b1")
    lock.release()
    status, said = run("--", sys.executable, "-c", f"import os, sys; {code}", data_dir=tmp_path)
    assert status == ends
    assert "127.0.0.1:1" in said, "it tried"


def test_options_of_the_command_are_its_own(tmp_path: Path) -> None:
    code, said = run("--", "echo", "--data-dir", "--help", data_dir=tmp_path)
    assert (code, said.startswith("--data-dir --help\n")) == (0, True)


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, said = run("--", tmp_path / "nothing", data_dir=tmp_path)
    assert (code, "cannot be run: No such file or directory" in said) == (127, True)


def test_signals_are_passed_on(tmp_path: Path) -> None:
    waits = "import signal, sys; signal.signal(15, lambda *_: sys.exit(5)); print('up', flush=True); signal.pause()"
    process = started("--", sys.executable, "-c", waits, data_dir=tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 5
