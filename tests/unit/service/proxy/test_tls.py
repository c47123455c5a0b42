"""TLS between two proxies, by a CA that the machine trusts: requests, WebSockets, and the proof of whose URL it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from websockets.sync.client import connect

from replicator.service.proxy.websocket import WebSocketProxy
from replicator.web.certificate import Certificate
from tests.support.certificates import Authority
from tests.support.kv import PATIENCE_S, Group, eventually

from .conftest import FakeNode, Program, Site, ask, lines


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    """Which this machine trusts."""
    authority = Authority(tmp_path / "ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    return authority


def signed(by: Authority, directory: Path) -> Certificate:
    directory.mkdir(exist_ok=True)
    by.certificate("a", directory / "a.pem", directory / "a.key")
    return Certificate(directory / "a.pem", directory / "a.key")


def standby_of(url: str) -> FakeNode:
    standby = FakeNode()
    standby.follows(url)
    return standby


def test_a_standby_passes_requests_over_tls(authority: Authority, site: Site, tmp_path: Path) -> None:
    there = site.proxy(certificate=signed(authority, tmp_path / "files"), trust=("127.0.0.1",))
    assert there.startswith("https://")
    answer = ask(site.proxy(standby_of(there)), "POST", content=b"body")
    assert (answer.text, answer.headers["replicator-position"]) == ("ok", "5-7")
    [asked] = site.target.asked
    assert b"x-forwarded-proto: http" in lines(asked), "of the client, who came without it"
    # one whose certificate nobody knows gets nothing
    strange = site.proxy(certificate=signed(Authority(tmp_path / "other"), tmp_path / "strange"))
    refused = ask(site.proxy(standby_of(strange), wait_s=0.05), "POST", content=b"body")
    assert (refused.status_code, refused.json()["error"]) == (503, "primary_unreachable")
    assert len(site.target.asked) == 1


def test_a_websocket_passes_over_tls(authority: Authority, site: Site, tmp_path: Path) -> None:
    site.target.close()
    with Program(site.target_port).server:
        there = site.proxy(app=WebSocketProxy, certificate=signed(authority, tmp_path / "files"))
        here = site.proxy(standby_of(there), app=WebSocketProxy).replace("http", "ws")
        with connect(f"{here}/socket", proxy=None, open_timeout=6 * PATIENCE_S) as socket:
            socket.send("hello")
            assert socket.recv() == "hello"


def test_a_proxy_proves_itself_over_tls(authority: Authority, site: Site, tmp_path: Path) -> None:
    group = Group(tmp_path / "nodes")
    try:
        a, b = group.new_node("a"), group.node("b")
        site.node.hear = a.hear  # type: ignore[method-assign]
        a.proxy = site.proxy(certificate=signed(authority, tmp_path / "files"))
        a.start()
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: b.primary_proxy and b.has_proven_proxy(b.primary_proxy), patience_s=3 * PATIENCE_S)
        assert b.primary_proxy == a.proxy
    finally:
        group.close()
