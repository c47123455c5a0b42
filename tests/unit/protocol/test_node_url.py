"""Which URLs of nodes are believed: what a node may give as its own, and nothing else that somebody wrote."""

from __future__ import annotations

import pytest

from replicator.protocol.node_url import URL_CHARACTERS_MAX, believed
from replicator.runtime import checks

OF_NODES = (
    "http://a", "http://a:8001", "https://db-1.example:443", "http://10.0.0.7:65535", "http://[::1]:7001",
    "http://[fe80::1%25eth0]:7001", "http://a:8001/", "https://b.example/api", "http://registry_a:80/api/v2.1/",
)  # fmt: skip

OF_OTHERS = (
    "", "a:8001", "ftp://a", "javascript:alert(1)", "http://", "http://:8001", "http://a:", "http://a:0",
    "http://a:65536", "http://a:123456", "http://u@a", "http://u:p@a:1", "http://a@b", "http://a?x", "http://a/?x",
    "http://a#x", "http://a/x#", "http://a/../x", "http://a/.", "http://a//x", "http://a/%2e%2e", "http://a\\@b",
    "http://a/x y", "http://a\n", "\nhttp://a", "http://a\r\nHost: b", "http://a\x1b[2J", "http://a\u202e", "HTTP://A",
    "http://\u0430", "http://-a", "http://a" + "x" * URL_CHARACTERS_MAX, "http://a/" + "x" * URL_CHARACTERS_MAX,
)  # fmt: skip


@pytest.mark.parametrize("url", OF_NODES)
def test_what_a_node_may_give_as_its_url_the_others_believe(url: str) -> None:
    assert checks.public_url("http", url) == url
    assert believed(url) == url


@pytest.mark.parametrize("url", OF_OTHERS)
def test_anything_else_is_no_url_of_a_node(url: str) -> None:
    assert believed(url) == ""
