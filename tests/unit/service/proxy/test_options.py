"""What the proxy is told."""

from __future__ import annotations

from typing import Any

import pytest

from replicator import ConfigError
from replicator.service.proxy.options import ProxyOptions


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        ({"listen": "8080"}, "proxy"),
        ({"target": "3000"}, "target"),
        ({"target": "0.0.0.0:3000"}, "target"),
        ({"target": "127.0.0.1:0"}, "target"),
        ({"target": "127.0.0.1:8080"}, "target"),
        ({"listen": "0.0.0.0:3000"}, "target"),
        ({"listen": "[::]:3000", "target": "localhost:3000"}, "target"),
        ({"reads": "both"}, "proxy-reads"),
        ({"wait_s": -1}, "proxy-wait-s"),
        ({"timeout_s": 0}, "proxy-timeout-s"),
        ({"advertise": "http://a:1/below"}, "proxy-advertise"),
        ({"advertise": "http://me@a:1"}, "proxy-advertise"),
        ({"to": ("http://b:1/x",)}, "proxy-to"),
        ({"trust": ("10.0.0.1/24",)}, "proxy-trust"),
        ({"trust": ("lb.example",)}, "proxy-trust"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(wrong: dict[str, Any], setting: str) -> None:
    given: dict[str, Any] = {"listen": "127.0.0.1:8080", "target": "127.0.0.1:3000"} | wrong
    with pytest.raises(ConfigError) as refused:
        ProxyOptions(**given)
    assert refused.value.fields["setting"] == setting


def test_the_program_may_have_an_address_of_either_kind() -> None:
    assert ProxyOptions(listen="[::1]:1", target="[::1]:3000").target_url == "http://[::1]:3000"
    assert ProxyOptions(listen="h:1", target="app:3000").target_url == "http://app:3000"
