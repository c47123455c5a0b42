"""Names of hosts, with a name server that may be silent."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from replicator.log import host_names
from replicator.log.host_names import Names
from tests.support.kv import PATIENCE_S, eventually


class NameServer:
    def __init__(self) -> None:
        self.known: dict[str, Any] = {}
        self.speaks = threading.Event()
        self.speaks.set()
        self.asked: list[str] = []

    def getaddrinfo(self, name: str, *_: object) -> list[Any]:
        self.asked.append(name)
        assert self.speaks.wait(PATIENCE_S)
        found = self.known[name]
        if isinstance(found, Exception):
            raise found
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in found]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.speaks.set()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%eth0"])
def test_an_address_is_none_to_ask_for(server: NameServer, address: str) -> None:
    assert Names().addresses(address, 0.0) == (address,)
    assert server.asked == []


def test_a_name_has_its_addresses_once_each_and_the_one_that_answered_comes_first(server: NameServer) -> None:
    server.known["h"] = ["10.0.0.1", "10.0.0.2", "10.0.0.1"]
    names = Names()
    assert names.addresses("h", PATIENCE_S) == ("10.0.0.1", "10.0.0.2")
    names.answered("h", "10.0.0.2")
    assert names.addresses("h", PATIENCE_S) == ("10.0.0.2", "10.0.0.1")


def test_a_silent_name_server_holds_nobody_up_longer_than_it_may(server: NameServer) -> None:
    server.speaks.clear()
    names = Names()
    for _ in range(3):
        with pytest.raises(TimeoutError, match="no name server says what 'h' is"):
            names.addresses("h", 0.02)
    eventually(lambda: server.asked)
    assert server.asked == ["h"], "one question hangs, however many want to know"


def test_what_was_known_is_used_while_the_name_server_is_silent(server: NameServer) -> None:
    server.known["h"] = ["10.0.0.1"]
    names = Names()
    names.addresses("h", PATIENCE_S)
    server.speaks.clear()
    began = time.monotonic()
    for _ in range(20):
        assert names.addresses("h", PATIENCE_S) == ("10.0.0.1",)
    assert time.monotonic() - began < PATIENCE_S / 2, "it is waited for once, and shortly"
    server.known["h"] = ["10.0.0.9"]
    server.speaks.set()
    eventually(lambda: names.addresses("h", PATIENCE_S) == ("10.0.0.9",))


def test_what_was_known_is_used_while_the_name_server_is_in_trouble_and_not_when_it_knows_better(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_names, "KNOWN_WAIT_S", PATIENCE_S)  # it answers, however late
    server.known["h"] = ["10.0.0.1"]
    names = Names()
    names.addresses("h", PATIENCE_S)
    server.known["h"] = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    assert names.addresses("h", PATIENCE_S) == ("10.0.0.1",)
    server.known["h"] = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    with pytest.raises(OSError, match=r"the name 'h' was not found: .*Name or service not known"):
        names.addresses("h", PATIENCE_S)
