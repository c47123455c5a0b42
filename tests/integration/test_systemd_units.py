"""The units in docker/systemd/: systemd's own checks, without a systemd that runs. What they run: tests/acceptance."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from replicator.cli.node import node
from replicator.errors import ConfigError
from tests.support.needs import needs
from tests.support.units import UNITS, VENV, read_unit

NAMES = (
    "replicator-node.service",
    "replicator-node@a.service",
    "replicator-jobs.service",
    "replicator-archive.service",
)

#: By `systemd-analyze security`, of 10. A service without any of this has 9.6.
EXPOSED_MAX = 20

#: For a node that runs a program, beside the unit of that node.
DROP_IN = "run-a-program.conf"

#: What the template has of its own.
OF_THE_TEMPLATE = {"Description", "EnvironmentFile", "Environment", "StateDirectory"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root directory of a host with the units, and with the programs that they name."""
    needs(shutil.which("systemd-analyze") is not None, "systemd")
    root = tmp_path_factory.mktemp("root")
    shutil.copytree("/usr/lib/systemd/system", root / "usr/lib/systemd/system", symlinks=True)
    shutil.copytree(UNITS, root / "etc/systemd/system")
    programs = root / VENV[1:] / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "replicator"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    return root


def analyze(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_they_are_all_of_the_folder() -> None:
    assert {name.replace("@a.", "@.") for name in NAMES} | {DROP_IN} == {path.name for path in UNITS.iterdir()}


@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_wrong(root: Path, name: str) -> None:
    analyze("verify", "--man=no", f"--root={root}", name)


@pytest.mark.parametrize("name", NAMES)
def test_little_is_exposed(root: Path, name: str) -> None:
    assert "Overall exposure level" in analyze(
        "security", "--offline=true", f"--threshold={EXPOSED_MAX}", "--no-pager", f"--root={root}", name
    )


def test_a_node_that_runs_a_program_has_what_that_needs(root: Path) -> None:
    dropped = root / "etc/systemd/system/replicator-node@b.service.d" / DROP_IN
    dropped.parent.mkdir()
    shutil.copy(UNITS / DROP_IN, dropped)
    name = "replicator-node@b.service"
    analyze("verify", "--man=no", f"--root={root}", name)
    said = analyze("security", "--offline=true", "--threshold=30", "--no-pager", f"--root={root}", name)
    assert "Overall exposure level" in said
    # and a slip in it is found there
    dropped.write_text((UNITS / DROP_IN).read_text().replace("MemoryMax=2G", "MemoryMax=2Q"))
    command = ["systemd-analyze", "verify", "--man=no", f"--root={root}", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Invalid memory limit" in done.stderr


def test_a_node_knows_the_settings_that_are_said_to_have_it_run_a_program() -> None:
    page = (UNITS.parents[1] / "docs/systemd.md").read_text().partition("## A program on two machines")[2]
    named = re.findall(r"REPLICATOR_\w+", page.partition("\n## ")[0] + (UNITS / DROP_IN).read_text())
    known = {str(param.envvar) for param in node.params} | {"REPLICATOR_GROUP"}
    assert {"REPLICATOR_RUN", "REPLICATOR_SQLITE", "REPLICATOR_CHECK"} <= set(named) <= known


def test_a_slip_in_a_unit_is_found(root: Path, tmp_path: Path) -> None:
    slip = tmp_path / "replicator-jobs.service"
    slip.write_text((UNITS / slip.name).read_text().replace("Restart=always", "Restart=allways"))
    done = subprocess.run(["systemd-analyze", "verify", str(slip)], capture_output=True, text=True, check=False)
    assert "Failed to parse service restart specifier" in done.stderr


def test_one_of_several_nodes_is_a_node_like_any_other() -> None:
    alone, of_several = read_unit("replicator-node.service"), read_unit("replicator-node@a.service")
    assert {name for name in alone.keys() | of_several.keys() if alone[name] != of_several[name]} == OF_THE_TEMPLATE


def test_all_are_hardened_and_restarted_alike() -> None:
    own = OF_THE_TEMPLATE | {"ExecStart", "ExecStopPost", "StateDirectoryMode"}
    first, *others = [{name: value for name, value in read_unit(each).items() if name not in own} for each in NAMES]
    assert others == [first] * 3
    assert first["RestartPreventExitStatus"] == [str(ConfigError.exit_code)], "a setting that is wrong"


def test_the_job_worker_may_write_where_its_backups_go() -> None:
    unit = read_unit("replicator-jobs.service")
    (state,) = unit["StateDirectory"]
    assert unit["Environment"] == [f"REPLICATOR_BACKUPS=/var/lib/{state}"]


def test_what_a_node_is_run_by_is_what_gives_its_lease_back() -> None:
    for name in NAMES[:2]:
        unit = read_unit(name)
        assert unit["ExecStart"] == [f"{VENV}/bin/replicator node"]
        assert unit["ExecStopPost"] == [f"-{VENV}/bin/replicator release"]
        (state,) = unit["StateDirectory"]
        assert f"REPLICATOR_DATA_DIR=/var/lib/{state}" in unit["Environment"]
