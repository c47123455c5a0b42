"""Which settings file is read where none is named, and which one is not trusted."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from replicator.cli import cli
from replicator.cli.settings_file import check_trusted, found_settings, has_password, masked
from replicator.errors import ConfigError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory, and beside it one for settings."""
    for name in [name for name in os.environ if name.startswith("REPLICATOR_")]:
        monkeypatch.delenv(name)
    (tmp_path / "here").mkdir()
    (tmp_path / "home" / "replicator").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "here"


def written(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_the_current_directory_comes_before_the_users_settings(here: Path) -> None:
    assert found_settings() is None
    at_home = written(here.parent / "home" / "replicator" / "replicator.toml", "")
    assert found_settings() == at_home
    written(here / "replicator.toml", "")
    assert found_settings() == Path("replicator.toml")


def test_a_file_that_is_found_and_that_anybody_may_write_is_refused(here: Path) -> None:
    path = written(here / "replicator.toml", "", 0o602)
    with pytest.raises(ConfigError, match=r"replicator\.toml: it was found, and anybody may write it"):
        found_settings()
    path.chmod(0o664)
    assert found_settings() is not None, "many systems make files writable for a group that has one member"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to somebody else")
def test_a_file_that_is_found_and_belongs_to_somebody_else_is_refused(here: Path) -> None:
    os.chown(written(here / "replicator.toml", ""), 65534, 65534)
    with pytest.raises(ConfigError, match="it belongs to another user"):
        found_settings()


@pytest.mark.parametrize("url", ["redis://:secret@h/0", "redis://u:secret@h/0", "redis://h/0?password=secret"])
def test_a_file_with_a_password_that_others_may_write_is_refused(here: Path, url: str) -> None:
    path = written(here / "s.toml", "", 0o620)
    for settings in ({"redis": url}, {"node": {"x": url}}):
        with pytest.raises(ConfigError, match=r"s.toml: (redis|node.x) has a password in it, and others may write"):
            check_trusted(path, settings)
    check_trusted(path, {"redis": "redis://user@h/0", "node": {"on_primary": "mail a:b@c"}})
    path.chmod(0o644)
    check_trusted(path, {"redis": url})


def test_what_is_shown_has_no_password_in_it() -> None:
    assert masked("redis", "redis://u:secret@h:6379/0") == "redis://u:***@h:6379/0"
    assert masked("redis", "redis+sentinel://h/m?sentinel_password=secret&db=1") == (
        "redis+sentinel://h/m?sentinel_password=***&db=1"
    )
    assert masked("password", "secret") == "***"
    assert masked("redis", "unix:///a/b.sock") == "unix:///a/b.sock"
    assert not has_password("name", "a")


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:se/cret@h:1/0", "redis://u:se?cret@h", "redis://u:se#cret@h", "redis://:se@cret@h",
        "redis://h?PASSWORD=secret", "redis://h?pass%77ord=secret", "u:secret@h",
    ],
)  # fmt: skip
def test_a_password_in_a_malformed_url_is_a_password(url: str) -> None:
    assert has_password("redis", url)
    assert "cret" not in masked("redis", url)
    if "://" in url:
        assert "cret" not in masked("archive", url)


def run(*args: str, **environment: str) -> str:
    """Where the command looked for a Redis: there is none."""
    told = CliRunner().invoke(cli, [*args, "status"], env=environment)
    assert told.exit_code == 6, told.output
    return told.stderr


def test_an_option_goes_before_the_environment_and_that_before_the_file(here: Path) -> None:
    written(here / "replicator.toml", 'redis = "redis://127.0.0.1:1"\n')
    assert "127.0.0.1:1 is not available" in run()
    assert "127.0.0.1:2 is not available" in run(REPLICATOR_REDIS="redis://127.0.0.1:2")
    assert "127.0.0.1:3 is not available" in run("--redis", "redis://127.0.0.1:3", REPLICATOR_REDIS="redis://h:2")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[status]\nwatch = 'perhaps'\n", "replicator.toml: watch in [status] cannot be 'perhaps': "),
        ("[node]\nlease-s = true\n[status]\nwatsch = true\n", "replicator.toml: watsch in [status] is not an option"),
        ("redis = \n", "replicator.toml: it is not TOML: Invalid value (at line 1, column 9)"),
    ],
)
def test_what_is_wrong_in_it_is_told_with_its_name(here: Path, text: str, told: str) -> None:
    written(here / "replicator.toml", text)
    result = CliRunner().invoke(cli, ["status"])
    assert result.exit_code == 2
    assert told in result.stderr


def test_of_a_node_as_well(here: Path) -> None:
    written(here / "replicator.toml", "[node]\nname = 'a'\nlease-s = 'long'\n")
    result = CliRunner().invoke(cli, ["node"])
    assert result.exit_code == 2
    assert "replicator.toml: lease_s in [node] cannot be 'long': 'long' is not a number of seconds" in result.stderr


def test_config_show_says_where_each_setting_comes_from(here: Path) -> None:
    written(here / "replicator.toml", "group = 'f'\n[node]\nack = 'applied:1'\nname = 'a'\n[promote]\ntimeout = 3\n")
    environment = {"REPLICATOR_REDIS": "redis://u:secret@h:1/0", "REPLICATOR_LEASE_S": "7", "REPLICATOR_NAME": "b"}
    told = CliRunner().invoke(cli, ["--log-level", "error", "config", "show", "--json"], env=environment)
    assert (told.exit_code, told.stderr) == (0, "")
    assert "secret" not in told.stdout
    found = {(each.pop("command"), each.pop("setting")): tuple(each.values()) for each in json.loads(told.stdout)}
    assert found[None, "redis"] == ("redis://u:***@h:1/0", "environment", "REPLICATOR_REDIS")
    assert found[None, "group"] == ("f", "file", "replicator.toml")
    assert found[None, "log-level"] == ("ERROR", "option", None)
    assert found[None, "log-format"] == ("auto", "default", None)
    assert found["node", "lease-s"] == ("7", "environment", "REPLICATOR_LEASE_S")
    assert found["node", "name"] == ("b", "environment", "REPLICATOR_NAME")
    assert found["node", "ack"] == ("applied:1", "file", "replicator.toml")
    assert found["node", "auto-promote"] == ("false", "default", None)
    assert found["node", "file"] == (None, "default", None)
    lines = CliRunner().invoke(cli, ["config", "show", "promote"]).stdout.splitlines()
    assert next(line.split() for line in lines if "timeout" in line) == [
        "promote.timeout", "3", "file", "replicator.toml",
    ]  # fmt: skip
    assert CliRunner().invoke(cli, ["config", "show", "forks"]).exit_code == 2
