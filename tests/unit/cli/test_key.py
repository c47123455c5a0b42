"""`replicator key`: a file from its first key to another one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from replicator.cli import cli
from replicator.storage.keyring import KeyFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def run(path: Path, *args: str) -> Result:
    return CliRunner().invoke(cli, ["--key-file", str(path), "key", *args])


def listed(path: Path) -> dict[str, bool]:
    return {each["key"]: each["writes"] for each in json.loads(run(path, "list", "--json").stdout)}


def test_a_file_is_made_and_its_key_replaced(path: Path) -> None:
    old = run(path, "new").stdout.strip()
    assert path.stat().st_mode & 0o777 == 0o600
    new = run(path, "add").stdout.strip()
    assert listed(path) == {old: True, new: False}
    assert run(path, "use", new).exit_code == 0
    assert listed(path) == {old: False, new: True}
    told = run(path, "drop", new)
    assert (told.exit_code, "the one that writes" in told.stderr) == (2, True)
    assert run(path, "drop", old).exit_code == 0
    assert listed(path) == {new: True}
    table = run(path, "list").stdout
    assert new in table
    secret = path.read_text().split()[-1]
    assert secret not in table


def test_a_group_with_records_begins_unsealed(path: Path) -> None:
    key = run(path, "new", "--first-unsealed").stdout.strip()
    assert listed(path) == {key: False, "unsealed": True}
    assert KeyFile(path).of("g").sealer is None
    assert run(path, "use", key).exit_code == 0
    assert run(path, "drop", "unsealed").exit_code == 0
    assert listed(path) == {key: True}


@pytest.mark.parametrize("args", [["list"], ["add"], ["use", "x"], ["drop", "x"]])
def test_without_a_file_it_says_so(path: Path, args: list[str]) -> None:
    told = run(path, *args)
    assert told.exit_code == 2
    assert "cannot be read" in told.stderr
    told = CliRunner().invoke(cli, ["key", *args])
    assert (told.exit_code, "give the file" in told.stderr) == (2, True)


def test_a_file_that_is_there_is_kept(path: Path) -> None:
    run(path, "new")
    before = path.read_bytes()
    assert run(path, "new").exit_code == 2
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", ["dev", "drill"])
def test_a_group_that_seals_nothing_takes_no_key(path: Path, command: str) -> None:
    run(path, "new")
    told = CliRunner().invoke(cli, ["--key-file", str(path), command])
    assert (told.exit_code, "seals nothing" in told.stderr) == (2, True)


def test_the_file_for_supervisord_names_it(path: Path) -> None:
    run(path, "new")
    told = CliRunner().invoke(
        cli, ["--group", "g", "--key-file", str(path), "supervisord", "--nodes", "a", "--", "python"]
    )
    assert f'REPLICATOR_KEY_FILE="{path}"' in told.stdout
