"""Ports for servers that are started, ended and started again."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from replicator.sandbox import free_ports as module
from replicator.sandbox.free_ports import free_port, free_ports


def test_a_free_port_can_be_listened_on() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass


def test_several_are_different_and_no_port_of_the_kernels_clients() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(module.LOWEST <= port < module._first_client_port() for port in ports)


def test_one_that_is_taken_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = free_ports(2)
    monkeypatch.setattr(module, "_given", set())
    monkeypatch.setattr(module.random, "sample", lambda *_: [taken, free])
    with socket.create_server(("127.0.0.1", taken)):
        assert free_port() == free


@pytest.mark.parametrize("text", ["1024\t65535\n", "nonsense", "", None])
def test_a_machine_that_gives_every_port_to_clients_or_does_not_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    path = tmp_path / "range"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(module, "CLIENT_PORTS", path)
    assert module.LOWEST <= free_port() < 65_536


def test_where_all_are_taken_the_kernel_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = free_port()
    monkeypatch.setattr(module.random, "sample", lambda *_: [taken])
    with socket.create_server(("127.0.0.1", taken)):
        assert free_port() not in (0, taken)


def test_none_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = free_ports(2)
    monkeypatch.setattr(module, "_given", {first})
    monkeypatch.setattr(module.random, "sample", lambda *_: [first, second])
    assert free_port() == second
