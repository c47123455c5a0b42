"""What a stack needs is checked before anything of it is started, and told once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from replicator.cli import cli
from replicator.sandbox import demo
from replicator.sandbox.redis_server import find_server
from replicator.sandbox.requirements import check_installed

SAID = 'starlette, uvicorn: not installed; `pip install "replicator[all,embedded]"` brings all that this needs'


@pytest.fixture
def without_web(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the extra `embedded` alone."""
    for name in ("starlette", "uvicorn"):
        monkeypatch.setitem(sys.modules, name, None)


def test_where_everything_is_there_it_gives_the_server() -> None:
    assert check_installed() == find_server()


@pytest.mark.usefixtures("without_web")
@pytest.mark.parametrize("command", [["dev", "--port", "0"], ["drill"]], ids=["dev", "drill"])
def test_a_command_names_all_that_is_missing_once_and_starts_nothing(command: list[str], tmp_path: Path) -> None:
    directory = tmp_path / "stack"
    result = CliRunner().invoke(cli, [*command, "--dir", str(directory)])
    assert result.exit_code == 2
    assert result.stderr.count(SAID) == result.stderr.count("pip install") == 1
    assert not directory.exists()


@pytest.mark.usefixtures("without_web")
def test_so_does_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main() == 2
    assert capsys.readouterr().err == f"Error: {SAID}\n"
