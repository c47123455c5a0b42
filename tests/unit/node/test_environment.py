"""The settings of a node in its environment: `Node.from_env`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from replicator import ConfigError, DictState, Node
from replicator.cli import cli
from replicator.cli.environment import _OTHERS, _options, check_environment
from replicator.node.environment import VARIABLES, set_up_logging, settings_of, variable
from replicator.node.options import NodeOptions
from replicator.testing import MemoryLog, MemoryRedis

WHO = {"REPLICATOR_GROUP": "coupons", "REPLICATOR_NAME": "a"}


def settings(environ: dict[str, str], **given: Any) -> dict[str, Any]:
    return settings_of(given, WHO | environ)


def refused(environ: dict[str, str], tmp_path: Path, **given: Any) -> tuple[str, str]:
    """Of which setting it is said that it is wrong, and what is said."""
    with pytest.raises(ConfigError) as raised:
        Node.from_env(DictState(), environ=WHO | environ, **{"data_dir": tmp_path} | given)
    return raised.value.fields["setting"], raised.value.fields["problem"]


@contextmanager
def root_logger(*handlers: logging.Handler) -> Iterator[logging.Logger]:
    """With these handlers and no others: pytest has some of its own, which a process of a user has not."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = handlers
    try:
        yield root
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_what_is_logged_is_written_if_the_environment_says_how() -> None:
    with root_logger() as root:
        set_up_logging(WHO)
        assert root.handlers == []
        uvicorn = logging.getLogger("uvicorn.access")
        uvicorn.addHandler(logging.NullHandler())
        set_up_logging({"REPLICATOR_LOG_LEVEL": "debug"})
        assert (len(root.handlers), root.level) == (1, logging.DEBUG)
        assert (uvicorn.handlers, uvicorn.propagate) == ([], True)


def test_an_application_that_has_set_up_logging_is_left_alone() -> None:
    own = logging.NullHandler()
    with root_logger(own) as root:
        level = root.level
        set_up_logging({"REPLICATOR_LOG_LEVEL": "DEBUG", "REPLICATOR_LOG_FORMAT": "json"})
        assert (root.handlers, root.level) == ([own], level)


@pytest.mark.parametrize("name", ["REPLICATOR_LOG_LEVEL", "REPLICATOR_LOG_FORMAT"])
@pytest.mark.parametrize(("text", "problem"), [("9", "'9' is none of"), ("", "it is set, but empty")])
def test_a_way_of_logging_that_is_none_is_refused(tmp_path: Path, name: str, text: str, problem: str) -> None:
    setting, told = refused({name: text}, tmp_path)
    assert setting == name
    assert problem in told


def test_a_node_has_what_its_environment_says(tmp_path: Path) -> None:
    environ = {
        "REPLICATOR_REDIS": "redis://r:1/2",
        "REPLICATOR_DATA_DIR": str(tmp_path / "x"),
        "REPLICATOR_HTTP": "127.0.0.1:8001",
        "REPLICATOR_APP": "Coupons",
        "REPLICATOR_LEASE_S": "2.5",
        "REPLICATOR_AUTO_PROMOTE": "yes",
        "REPLICATOR_ACK": "applied:1",
        "REPLICATOR_SNAPSHOT_BYTES_MAX": "1000000",
        "REPLICATOR_BEAT_EVERY_S": "0.5",
        "PATH": "/bin",
    }
    node = Node.from_env(DictState(), environ=WHO | environ)
    options = node._setup.options
    assert (node.group, node.name, node.http, node.app) == ("coupons", "a", "http://127.0.0.1:8001", "Coupons")
    assert (options.lease_s, options.auto_promote, options.ack) == (2.5, True, "applied:1")
    assert (options.snapshot_bytes_max, options.beat_every_s) == (1_000_000, 0.5)
    assert node._setup.data_dir == tmp_path / "x"
    assert node._setup.log.url == "redis://r:1/2"
    node.stop()


def test_what_is_not_said_is_as_for_the_command_line() -> None:
    found = settings({})
    assert found == {
        "group": "coupons",
        "name": "a",
        "redis": "redis://localhost:6379/0",
        "data_dir": Path("data/a"),
        "http": "",
    }
    by_name = {option.name: option for option in cli.params}
    assert by_name["redis"].default == found["redis"]


def test_what_is_given_in_the_program_counts_and_its_variable_is_not_looked_at() -> None:
    environ = {"REPLICATOR_LEASE_S": "soon", "REPLICATOR_GROUP": "", "REPLICATOR_HTTP": "nowhere"}
    found = settings(environ, group="g", lease_s=1.0, http="http://h:1")
    assert (found["group"], found["lease_s"], found["http"]) == ("g", 1.0, "http://h:1")


def test_a_log_takes_the_place_of_a_redis(tmp_path: Path) -> None:
    environ = WHO | {"REPLICATOR_REDIS": "redis://r"}
    node = Node.from_env(DictState(), environ=environ, log=MemoryLog(MemoryRedis(), "coupons"), data_dir=tmp_path)
    with node:
        node.promote()


def test_every_option_of_a_node_has_a_variable_of_its_name() -> None:
    for field in fields(NodeOptions):
        assert variable(field.name) in VARIABLES
        check_environment(cli, "status", {variable(field.name): "1"})  # and the command line lets it through


def test_what_the_command_line_takes_for_a_node_has_the_same_names() -> None:
    command = cli.get_command(click.Context(cli), "node")
    assert command is not None
    taken = {"redis": "REPLICATOR_REDIS", "group": "REPLICATOR_GROUP"}
    taken |= {str(option.name): str(option.envvar) for option in command.params if option.envvar}
    ours = {*settings_of({}, WHO), *(field.name for field in fields(NodeOptions)), "app", "advertise"}
    for name in ours & taken.keys():
        assert taken[name] == variable(name)
        assert taken[name] in VARIABLES
    assert {"name", "group", "data_dir", "http", "advertise", "app", "lease_s"} <= ours & taken.keys()


@pytest.mark.parametrize("text", ["1", "true", "T", "yes", "on", "0", "False", "n", "off"])
def test_a_flag_is_read_as_the_command_line_reads_it(text: str) -> None:
    assert settings({"REPLICATOR_AUTO_PROMOTE": text})["auto_promote"] is click.BOOL.convert(text, None, None)


@pytest.mark.parametrize(
    ("serves", "told"),
    [
        ("127.0.0.1:8001", "http://127.0.0.1:8001"),
        ("node-a:8000", "http://node-a:8000"),
        ("[::1]:8001", "http://[::1]:8001"),
        # the address that this machine has towards its Redis
        ("0.0.0.0:8001", "http://127.0.0.1:8001"),
        ("[::]:8001", "http://[::1]:8001"),
    ],
)
def test_others_are_told_where_it_serves(serves: str, told: str) -> None:
    environ = {"REPLICATOR_HTTP": serves, "REPLICATOR_REDIS": "unix:///run/redis.sock"}
    assert settings(environ)["http"] == told


def test_or_what_it_is_to_tell_them() -> None:
    environ = {"REPLICATOR_HTTP": "0.0.0.0:8001", "REPLICATOR_ADVERTISE": "https://a.example/"}
    assert settings(environ)["http"] == "https://a.example"


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("REPLICATOR_LEASE_S", "soon", "'soon' is not a number of seconds"),
        ("REPLICATOR_LEASE_S", "0.001", "0.001 is not within 0.1 and 86400 seconds"),
        ("REPLICATOR_LEASE_S", "nan", "nan is not a number of seconds"),
        ("REPLICATOR_BEAT_EVERY_S", "3", "3.0 is not within"),
        ("REPLICATOR_AUTO_PROMOTE", "maybe", "'maybe' is neither true nor false"),
        ("REPLICATOR_SNAPSHOT_BYTES_MAX", "-1", "'-1' is not a whole number"),
        ("REPLICATOR_SNAPSHOT_BYTES_MAX", "0", "0 is not a whole number from 1"),
        ("REPLICATOR_ACK", "all", "all"),
        ("REPLICATOR_ON_RESTART", "never", "'never' is none of primary, standby"),
        ("REPLICATOR_GROUP", "a/b", "'a/b' is not a name"),
        ("REPLICATOR_NAME", "", "it is set, but empty"),
        ("REPLICATOR_REDIS", "localhost:6379", "is not a Redis URL"),
        ("REPLICATOR_REDIS", "", "it is set, but empty"),
        ("REPLICATOR_APP", "a\nb", "does not belong into a line of text"),
        ("REPLICATOR_HTTP", "8001", "'8001' is not HOST:PORT"),
        ("REPLICATOR_HTTP", "127.0.0.1:0", "has no port that others could be told"),
        ("REPLICATOR_HTTP", "127.0.0.1:70000", "is not HOST:PORT"),
        ("REPLICATOR_ADVERTISE", "a.example", "'a.example' is not a URL"),
        ("REPLICATOR_ADVERTISE", "http://0.0.0.0:1", "means every address of this machine"),
        ("REPLICATOR_LEASE", "30", "did you mean REPLICATOR_LEASE_S?"),
        ("REPLICATOR_AUTOPROMOTE", "1", "did you mean REPLICATOR_AUTO_PROMOTE?"),
        ("REPLICATOR_REDIS_URL", "redis://r", "did you mean REPLICATOR_REDIS?"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_variable(
    name: str, value: str, problem: str, tmp_path: Path
) -> None:
    setting, said = refused({name: value}, tmp_path)
    assert setting == name
    assert problem in said


@pytest.mark.parametrize("name", ["group", "name"])
def test_who_it_is_has_to_be_said(name: str, tmp_path: Path) -> None:
    environ = {key: value for key, value in WHO.items() if key != variable(name)}
    with pytest.raises(ConfigError, match=f"{variable(name)}: it is not set, and no {name}= was given"):
        Node.from_env(DictState(), environ=environ, data_dir=tmp_path)


def test_what_was_given_in_the_program_is_refused_by_its_own_name(tmp_path: Path) -> None:
    assert refused({"REPLICATOR_LEASE_S": "5"}, tmp_path, lease_s=0.0)[0] == "lease_s"
    assert refused({}, tmp_path, http="nowhere")[0] == "http"


def test_names_for_the_command_line_and_other_programs_of_ours_are_let_through() -> None:
    names = {*dict(_options(cli)), *_OTHERS} - {*VARIABLES}  # type: ignore[arg-type]
    assert {"REPLICATOR_HTTP_A", "REPLICATOR_NODE_LEASE_S", "REPLICATOR_ON_STANDBY", "REPLICATOR_LOG_LEVEL"} <= names
    for name in names:
        assert "redis" in settings({name: "x"}), name


@pytest.mark.parametrize("name", ["REPLICATOR_SERVICE_HOST", "REPLICATOR_PORT", "REPLICATOR_REDIS_PORT_6379_TCP_ADDR"])
def test_names_of_kubernetes_are_let_through(name: str) -> None:
    assert "redis" in settings({name: "x"})


def test_the_file_of_the_password_becomes_a_part_of_the_url(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("pw")
    path.chmod(0o600)
    known = {"REPLICATOR_GROUP": "g", "REPLICATOR_NAME": "a", "REPLICATOR_REDIS_PASSWORD_FILE": str(path)}
    assert settings_of({}, known)["redis"] == f"redis://localhost:6379/0?password_file={path}"
    given = settings_of({"redis": "redis://ann@h"}, known)
    assert given["redis"] == f"redis://ann@h?password_file={path}"
    with pytest.raises(ConfigError, match="REPLICATOR_REDIS_PASSWORD_FILE: the URL of Redis has a password already"):
        settings_of({}, {**known, "REPLICATOR_REDIS": "redis://:pw@h"})
