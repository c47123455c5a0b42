"""Whole drills, in processes of their own. Other tests may run drills, too: each is known by its directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from replicator.sandbox.stack import DevStack
from tests.support.json_names import documented, names_in

NAMES = documented()["drill"]

COMMAND = [sys.executable, "-c", "from replicator.cli import main; main()", "drill"]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REPLICATOR_")}
    return {**kept, **more}


def left_in(directory: Path) -> list[psutil.Process]:
    """Processes of a drill in this directory."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("REPLICATOR_DEV_DIR") == str(directory)
            if (marked or str(directory) in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_short_drill_is_passed_and_tells_what_each_fault_cost(tmp_path: Path) -> None:
    directory = (tmp_path / "a drill").resolve()
    faults = ["pause", "redis-failover", "switchover"]
    # A lease that a busy machine does not cost: nobody but the faults replaces a primary.
    options = ["--lease-s", "3", "--seconds-per-fault", "0", "--dir", str(directory), "--output", "json"]
    done = subprocess.run(
        [*COMMAND, *faults, *options],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    # then nothing was lost
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert {path for path, _ in names_in(report, NAMES)} == set(NAMES), "as docs/json.md has it"
    assert report["lost_tags"] == report["doubled_tags"] == report["appeared_tags"] == report["problems"] == []
    assert set(report["digests"]) == {"a", "b", "c"}
    assert len(set(report["digests"].values())) == 1

    # and every fault did what it is there for
    pause, failover, switchover = report["faults"]
    assert [fault["fault"] for fault in report["faults"]] == faults
    assert all(fault["acknowledged_count"] > 0 and fault["problem"] is None for fault in report["faults"])
    assert report["acknowledged_count"] >= sum(fault["acknowledged_count"] for fault in report["faults"])
    assert pause["gap_ms"] > 1_800, "nobody leads before the lease of the paused one is over"
    assert pause["stale_refused_count"] >= 1
    assert pause["term"] < 2**20 < failover["term"] < switchover["term"]
    assert switchover["primary"] != failover["primary"]

    # and it was told meanwhile, and all has ended
    assert "pause: " in done.stderr
    assert "(SIGSTOP)" in done.stderr
    assert left_in(directory) == []
    assert not DevStack(directory, port=0).socket_dir.exists()
    assert (directory / "log" / "node-a.log").exists(), "what was asked to be kept is there"


@pytest.fixture
def temporary() -> Iterator[Path]:
    """An empty directory for temporary ones. Sockets need short paths, and pytest's are long."""
    with tempfile.TemporaryDirectory(prefix="drill-") as path:
        yield Path(path).resolve()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_of_a_fault_ends_it_without_a_trace(temporary: Path, number: signal.Signals) -> None:
    # given a drill in a temporary directory, whose primary is stopped just now
    drill = subprocess.Popen(
        [*COMMAND, "pause"],
        env=environment(TMPDIR=str(temporary)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert drill.stderr is not None
    said = iter(drill.stderr.readline, "")
    directory = Path(next(said).split(" in ")[1].split(";")[0])
    assert any("SIGSTOP" in line for line in said)
    assert left_in(directory) != []

    drill.send_signal(number)
    output, errors = drill.communicate(timeout=120)

    assert drill.returncode == 1
    assert output == ""
    assert errors.splitlines()[-1] == "interrupted; nothing runs any more"
    assert left_in(directory) == []
    assert list(temporary.iterdir()) == []


def test_a_fault_that_is_not_on_the_menu_is_a_wrong_usage(temporary: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "earthquake"],
        env=environment(TMPDIR=str(temporary)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "'earthquake' is not one of" in done.stderr
    assert list(temporary.iterdir()) == []
