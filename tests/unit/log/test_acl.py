"""The rules of a role. That they are right is tried on servers (tests/integration/test_acl.py)."""

from __future__ import annotations

import hashlib

import pytest

from replicator.errors import ConfigError
from replicator.log.acl import ROLES, SERVERS, user_for

HERE = "redis://localhost"


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("role", ROLES)
def test_every_user_begins_with_nothing(role: str, server: str) -> None:
    user = user_for(role, "g", server=server, url=HERE)
    assert user.as_command().startswith(f"ACL SETUSER g-{role} reset on resetchannels ")
    assert user.as_line().startswith(f"user g-{role} on resetchannels ")
    rules = [rule for rule in user.rules if rule.startswith("+")]
    assert user.rules.index("-@all") < user.rules.index(rules[0])
    assert not [rule for rule in rules if rule.startswith("+@")], "no category: what is in one may grow"
    assert all(rule.endswith("*") or rule[-1] != ":" for rule in user.rules)


def test_a_password_is_there_as_its_hash() -> None:
    user = user_for("node", "g", server="7", url=HERE, password="pw")
    assert f"#{hashlib.sha256(b'pw').hexdigest()}" in user.rules
    assert "pw" not in user.as_command()


@pytest.mark.parametrize("server", SERVERS)
def test_a_monitor_has_no_command_that_writes(server: str) -> None:
    rules = user_for("monitor", "g", server=server, url=HERE).rules
    assert not {"+set", "+del", "+incr", "+hset", "+hdel", "+xadd", "+xtrim"} & set(rules)
    assert ("+evalsha" in rules) == (server == "6.2"), "what it calls writes nothing all the same"


def test_what_is_in_the_url_counts() -> None:
    assert "+cluster|slots" in user_for("node", "g", server="7", url="redis+cluster://h").rules
    assert "+select" in user_for("node", "g", server="7", url="redis://h/3").rules
    assert "+select" not in user_for("node", "g", server="7", url="redis://h/0").rules


@pytest.mark.parametrize("group", ["*", "a?", "[ab]", "a b", "a\\", ""])
def test_a_group_whose_name_would_be_a_pattern_is_refused(group: str) -> None:
    with pytest.raises(ConfigError):
        user_for("node", group, server="7", url=HERE)
