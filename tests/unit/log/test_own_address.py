"""The address that others are told if nobody said one."""

from __future__ import annotations

import socket

import pytest

from replicator.log.own_address import own_address


@pytest.mark.parametrize(
    "url",
    ["redis://127.0.0.1:1/0", "unix:///tmp/x", "redis+cluster://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/main"],
)
def test_where_only_this_machine_reaches_redis_it_is_loopback(url: str) -> None:
    assert own_address(url) == "127.0.0.1"


def test_elsewhere_it_is_the_address_on_the_way_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Towards(socket.socket):
        def connect(self, address: object) -> None:
            assert address == ("192.0.2.7", 6379)

        def getsockname(self) -> tuple[str, int]:
            return ("192.0.2.99", 1)

    monkeypatch.setattr(socket, "socket", Towards)
    assert own_address("redis://192.0.2.7/0") == "192.0.2.99"


def test_a_host_that_is_not_found_is_passed_over_and_at_last_the_name_of_the_machine_has_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert own_address("redis+cluster://nowhere.invalid:1,127.0.0.1:1") == "127.0.0.1"
    monkeypatch.setattr(socket, "gethostname", lambda: "this-one")
    assert own_address("redis://nowhere.invalid:1") == "this-one"
    # an address of IPv4 is of no use to who listens on those of IPv6
    assert own_address("redis://127.0.0.1:1", ipv6=True) == "this-one"
