"""The names of a node, however they are written."""

from __future__ import annotations

import pytest

from replicator.errors import ConfigError
from replicator.web.guard.hosts import Hosts, host_of

OURS = Hosts("10.0.0.1", advertised="https://Node-A.example:8443/x", more=["registry.example", "[2001:db8::5]:9"])


@pytest.mark.parametrize(
    "host",
    [
        "10.0.0.1", "10.0.0.1:8001", "10.0.0.1:1", "127.0.0.1", "127.9.9.9:80", "localhost", "LOCALHOST:8001",
        "localhost.", "localhost.:8001", "[::1]", "[::1]:8001", "[0:0:0:0:0:0:0:1]", "node-a.example",
        "NODE-A.EXAMPLE.",         "registry.example:443", "[2001:db8::5]", "[2001:DB8:0::5]:8001",
    ],
)  # fmt: skip
def test_a_name_of_the_node(host: str) -> None:
    assert OURS.knows(host)


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "evil.example", "10.0.0.2", "10.0.0.1.evil.example", "localhost.evil.example", "localhost..",
        "evil.example:8001", "user@localhost", "localhost@evil.example", "localhost:8001@evil.example", "localhost:x",
        "localhost:", "localhost:123456", "localhost/", "localhost/evil", "localhost, evil.example", "localhost evil",
        "::1", "[::1", "[::1]evil", "[::1%25eth0]", "[evil]", "[127.0.0.1]", "http://localhost", "2130706433", "0x7f.1",
        "%6cocalhost", "lоcalhost", "localhost\t", " localhost", "0.0.0.0",
    ],
)  # fmt: skip
def test_a_name_that_is_not(host: str) -> None:
    assert not OURS.knows(host)


def test_one_that_listens_on_all_addresses_is_asked_by_any_of_them() -> None:
    anywhere = Hosts("0.0.0.0")
    assert all(anywhere.knows(host) for host in ("0.0.0.0:8000", "192.0.2.7:8000", "[2001:db8::1]", "localhost"))
    assert not anywhere.knows("evil.example")
    assert not Hosts("::1").knows("192.0.2.7")


def test_one_that_listens_on_a_name_is_asked_by_whatever_address_that_means() -> None:
    named = Hosts("node-a")
    assert all(named.knows(host) for host in ("node-a:8000", "192.0.2.7:8000", "[2001:db8::1]"))
    assert not named.knows("evil.example")
    assert not Hosts("localhost").knows("192.0.2.7")


def test_what_is_no_name_is_told_when_it_is_given() -> None:
    with pytest.raises(ConfigError, match="http-host: 'a b' is not a name"):
        Hosts("localhost", more=["a b"])


def test_a_name_in_a_host() -> None:
    assert (host_of("A.Example.:80"), host_of("[::1]"), host_of("a@b")) == ("a.example", "::1", None)
