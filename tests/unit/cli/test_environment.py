"""Names and values in the environment that would be passed over without a word."""

from __future__ import annotations

import pytest

from replicator.cli import cli
from replicator.cli.environment import check_environment
from replicator.errors import ConfigError


def check(environment: dict[str, str], command: str = "node") -> None:
    check_environment(cli, command, environment)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REPLICATOR_LEASE", "REPLICATOR_LEASE_S"),
        ("REPLICATOR_GROUPE", "REPLICATOR_GROUP"),
        ("REPLICATOR_REDIS_URL", "REPLICATOR_REDIS"),
        ("REPLICATOR_AUTOPROMOTE", "REPLICATOR_AUTO_PROMOTE"),
        ("REPLICATOR_redis", "REPLICATOR_REDIS"),
    ],
)
def test_a_name_that_nobody_knows_is_refused_with_the_nearest_one(name: str, meant: str) -> None:
    with pytest.raises(ConfigError, match="no setting has this name") as raised:
        check({name: "x"})
    assert raised.value.fields["setting"] == name
    assert meant in str(raised.value) or name == "REPLICATOR_redis"


def test_a_name_like_no_other_is_refused_as_well() -> None:
    with pytest.raises(ConfigError, match="--help"):
        check({"REPLICATOR_0123456789": "x"})


@pytest.mark.parametrize(
    "name",
    [
        *(
            "REPLICATOR_REDIS",
            "REPLICATOR_GROUP",
            "REPLICATOR_NAME",
            "REPLICATOR_NODE_NAME",
            "REPLICATOR_STATUS_OUTPUT",
        ),
        *("REPLICATOR_FORKS_LIST_OUTPUT", "REPLICATOR_RECOVER_FROM", "REPLICATOR_REDIS_SERVER", "REPLICATOR_HTTP_A"),
        *(
            "REPLICATOR_REDIS_2",
            "REPLICATOR_ROLE",
            "REPLICATOR_DEV_DIR",
            "REPLICATOR_DEV_STACK",
            "OTHER",
            "REPLICATORX",
        ),
    ],
)
def test_what_some_command_or_tool_of_ours_knows_is_let_through_by_all(name: str) -> None:
    check({name: "x"}, "status")


@pytest.mark.parametrize(
    "name",
    [
        *("REPLICATOR_SERVICE_HOST", "REPLICATOR_SERVICE_PORT", "REPLICATOR_SERVICE_PORT_HTTP", "REPLICATOR_PORT"),
        *("REPLICATOR_PORT_8000_TCP", "REPLICATOR_REDIS_PORT_6379_TCP_ADDR", "REPLICATOR_REDIS_SERVICE_HOST"),
    ],
)
def test_what_kubernetes_says_of_services_is_nobodys_slip(name: str) -> None:
    check({name: "tcp://10.0.0.1:8000"})


@pytest.mark.parametrize("name", ["REPLICATOR_REDIS", "REPLICATOR_GROUP", "REPLICATOR_NAME", "REPLICATOR_LEASE_S"])
def test_a_setting_that_is_empty_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="it is set, but empty"):
        check({name: ""})


@pytest.mark.parametrize("name", ["REPLICATOR_ADVERTISE", "REPLICATOR_ON_PRIMARY"])
def test_unless_empty_is_what_it_is_by_itself(name: str) -> None:
    check({name: ""})


def test_an_empty_setting_of_another_command_is_in_nobodys_way() -> None:
    check({"REPLICATOR_NAME": ""}, "status")
