"""The proxy beside a node: what others are told of it, what of that they believe, and what it needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from replicator import ConfigError
from replicator.cli import cli
from replicator.service.proxy import Proxy, ProxyOptions
from replicator.service.sidecar import Sidecar
from tests.support.kv import PATIENCE_S, Group, eventually

from .conftest import Site, ok

REDIS = "redis://127.0.0.1:1/0"


def test_the_others_are_told_and_believe_only_what_has_proven_itself(group: Group, site: Site) -> None:
    # given a primary that tells of a proxy, of which another server has the port
    there = f"http://127.0.0.1:{site.target_port}"
    site.target.does = lambda asked: ok(b"")
    a, b = group.new_node("a"), group.node("b")
    a.proxy = there
    a.start()
    assert (b.primary_proxy, b.has_proven_proxy(there), b.has_proven_proxy("")) == (None, False, False)
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: b.primary_proxy == there)
    assert a.primary_proxy is None
    # then it is asked, and gets nothing else
    eventually(lambda: b.has_proven_proxy(there) or site.target.asked)
    [head, *_] = site.target.asked
    assert head.startswith(b"HEAD /live ")
    assert not b.has_proven_proxy(there)
    # when it is the node that hears it
    nonces = []

    def heard(asked: bytes) -> bytes:
        nonce = asked.lower().partition(b"replicator-nonce: ")[2][:32].decode()
        nonces.append(nonce)
        a.hear(nonce)
        return ok(b"")

    site.target.does = heard
    eventually(lambda: b.has_proven_proxy(there), patience_s=3 * PATIENCE_S)
    assert nonces
    assert not b.has_proven_proxy(there + "/else")


def test_a_proxy_tells_its_node_where_it_listens_before_that_starts(group: Group, site: Site) -> None:
    def told(**options: str) -> str:
        node = group.new_node("a", data_dir=group.directory / str(len(options)))
        given = ProxyOptions(**{"listen": "127.0.0.1:0", "target": "127.0.0.1:1"} | options)
        proxy = Proxy(node, Sidecar(node), given, redis=REDIS)
        proxy.listen()
        proxy.__exit__(None, None, None)
        assert node.metrics()[0].values["replicator_proxy_waiting"] == 0, "and what it counts"
        return node.proxy

    assert told().startswith("http://127.0.0.1:")
    assert told(advertise="https://notes.example/") == "https://notes.example"
    with pytest.raises(ConfigError, match=r"proxy 127\.0\.0\.1:\d+: cannot listen there"):
        told(listen=f"127.0.0.1:{site.target_port}", target="127.0.0.1:2")


def test_without_its_extra_it_says_what_to_install(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "replicator.service.proxy.websocket", raising=False)
    monkeypatch.setitem(sys.modules, "websockets.asyncio.client", None)
    node = group.new_node("a")
    with pytest.raises(ConfigError, match=r'pip install "replicator\[proxy\]"'):
        Proxy(node, Sidecar(node), ProxyOptions(listen="127.0.0.1:0", target="127.0.0.1:1"), redis=REDIS)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--proxy", "127.0.0.1:0"], "target: "),
        (["--target", "127.0.0.1:1"], "proxy: "),
        (["--proxy", "127.0.0.1:0", "--target", "nowhere"], "target: "),
        (["--proxy", "127.0.0.1:0", "--target", "127.0.0.1:1"], "--file"),
    ],
)
def test_the_command_says_what_is_missing(tmp_path: Path, options: list[str], says: str) -> None:
    given = ["--redis", REDIS, "--group", "g", "node", "--name", "a", "--data-dir", str(tmp_path / "a"), *options]
    result = CliRunner().invoke(cli, given)
    assert result.exit_code == 2, result.output
    assert says in result.output
    assert not (tmp_path / "a").exists()
