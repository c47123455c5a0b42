"""The file for supervisord that `replicator supervisord` prints, as supervisord itself reads it."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from supervisor.datatypes import RestartUnconditionally
from supervisor.options import ServerOptions

from replicator.cli import cli

AT = ["--group", "votes", "--redis", "redis://r:1/2"]


def run(*arguments: str, before: list[str] = AT, **environ: str) -> Result:
    return CliRunner().invoke(cli, [*before, "supervisord", *arguments], env=environ)


def programs(tmp_path: Path, *arguments: str, before: list[str] = AT, **environ: str) -> dict[str, Any]:
    """What supervisord makes of the file, by the name of the program."""
    done = run("--alone", "--directory", str(tmp_path), *arguments, before=before, **environ)
    assert done.exit_code == 0, done.output
    (tmp_path / "file.conf").write_text(done.output)
    options = ServerOptions()
    options.realize(["-c", str(tmp_path / "file.conf")])
    return {each.name: each for group in options.process_group_configs for each in group.process_configs}


def test_each_node_has_a_program_with_settings_of_its_own(tmp_path: Path) -> None:
    found = programs(tmp_path, "--nodes", "a,b", "--http", "10.0.0.1:8001", "--", sys.executable, "{name}", "{port}")
    assert list(found) == ["votes-a", "votes-b"]
    assert found["votes-b"].command == f"{sys.executable} b 8002"
    assert found["votes-b"].environment == {
        "REPLICATOR_GROUP": "votes",
        "REPLICATOR_REDIS": "redis://r:1/2",
        "REPLICATOR_NAME": "b",
        "REPLICATOR_DATA_DIR": str(tmp_path / "data" / "b"),
        "REPLICATOR_HTTP": "10.0.0.1:8002",
    }
    assert (found["votes-a"].stopsignal, found["votes-a"].stopwaitsecs) == (signal.SIGTERM, 30)
    assert found["votes-a"].autorestart is RestartUnconditionally


def test_a_program_is_found_where_it_is_now(tmp_path: Path) -> None:
    path = Path(sys.executable)
    found = programs(tmp_path, "--", path.name, PATH=str(path.parent))
    assert found["votes-a"].command == str(path)


def test_how_nodes_are_to_log_goes_into_their_environment(tmp_path: Path) -> None:
    found = programs(tmp_path, "--", "/bin/true", before=["--log-format", "console", *AT], REPLICATOR_LOG_LEVEL="debug")
    of_node = found["votes-a"].environment
    assert (of_node["REPLICATOR_LOG_FORMAT"], of_node["REPLICATOR_LOG_LEVEL"]) == ("console", "DEBUG")


def test_options_of_a_node_go_into_its_environment_and_defaults_do_not(tmp_path: Path) -> None:
    found = programs(tmp_path, "--auto-promote", "--lease-s", "2.5", "--", "/bin/true", REPLICATOR_ACK="applied:1")
    of_node = found["votes-a"].environment
    assert of_node["REPLICATOR_AUTO_PROMOTE"] == "true"
    assert of_node["REPLICATOR_LEASE_S"] == "2.5"
    assert of_node["REPLICATOR_ACK"] == "applied:1"
    assert "REPLICATOR_ON_RESTART" not in of_node


def test_a_password_is_not_written_down(tmp_path: Path) -> None:
    secret = "redis://:hunter2@r/0"
    found = programs(tmp_path, "--", "/bin/true", before=["--group", "votes", "--redis", secret])
    assert "REPLICATOR_REDIS" not in found["votes-a"].environment
    text = (tmp_path / "file.conf").read_text()
    assert "hunter2" not in text
    assert "REPLICATOR_REDIS has a password in it" in text


def test_percent_signs_and_spaces_stay_what_they_are(tmp_path: Path) -> None:
    place = tmp_path / "all of it"
    place.mkdir()
    url = "redis+sentinel://h1,h2/my%20master/0"
    found = programs(place, "--", "/bin/echo", "50%", "a b", before=["--group", "votes", "--redis", url])
    assert found["votes-a"].command == "/bin/echo 50% 'a b'"
    assert found["votes-a"].environment["REPLICATOR_DATA_DIR"] == str(place / "data" / "a")
    assert found["votes-a"].environment["REPLICATOR_REDIS"] == url
    assert found["votes-a"].directory == str(place)


def test_without_alone_it_is_for_a_directory_of_files() -> None:
    text = run("--", "/bin/true").output
    assert "[supervisord]" not in text
    assert "[program:votes-a]" in text


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--nodes", "a,b/c", "--", "/bin/true"], "nodes: 'b/c' is not a name"),
        (["--nodes", "a,a", "--", "/bin/true"], "nodes: 'a,a' has a name twice"),
        (["--http", "8001", "--", "/bin/true"], "http: '8001' is not HOST:PORT"),
        (["--nodes", "a,b", "--http", "h:65535", "--", "/bin/true"], "http: 'h:65536' is not HOST:PORT"),
        (["--", "no-such-program"], "command: there is no program 'no-such-program' on the PATH"),
        (["--", "/bin/echo", "a ; b"], "cannot stand in a file of supervisord"),
        (["--", "/bin/echo", "a\nb"], "cannot stand in a file of supervisord"),
        (["--directory", 'a"b', "--", "/bin/true"], "cannot stand in a file of supervisord"),
        (["--directory", "50%", "--", "/bin/true"], "has a % in it"),
    ],
)
def test_what_would_be_another_thing_in_the_file_is_refused(arguments: list[str], problem: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert problem in done.output


def test_a_service_of_ones_own_has_a_group_of_its_own() -> None:
    done = run("--", "/bin/true", before=[])
    assert done.exit_code == 2
    assert "group: say of which group" in done.output
    assert run("--", "/bin/true", before=[], REPLICATOR_GROUP="votes").exit_code == 0
