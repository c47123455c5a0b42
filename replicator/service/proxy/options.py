"""What the proxy is told: where it listens, where the program is, and how long a request may wait."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from ...errors import ConfigError
from ...node.environment import address_of
from ...runtime import checks

__all__ = ["READS", "Address", "ProxyOptions"]

READS = ("primary", "local")

Address = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, kw_only=True, slots=True)
class ProxyOptions:
    """`listen`: HOST:PORT. `target`: that of the program on this machine. `advertise`: the URL that the other nodes are
    told, where it is not that. `wait_s`: how long a request waits for a program that can take it. `timeout_s`: how long
    the program may take to begin its answer. `reads`: whose program answers them, the primary's or that beside this
    node. `publish`: whether a write is answered only once what the program wrote is in the log. `settle_s`: so long
    after its answer that is looked at, for a program that answers before it writes. `to`: the proxies that
    requests are passed to, and no other one; empty: to the one that proves to be the primary's, without tokens.
    `trust`: addresses and networks whose `X-Forwarded-*` are believed. Raises `ConfigError`.
    """

    listen: str
    target: str
    advertise: str = ""
    wait_s: float = 20.0
    timeout_s: float = 60.0
    reads: str = "primary"
    publish: bool = True
    settle_s: float = 0.0
    to: tuple[str, ...] = ()
    trust: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        host, port = address_of(self.target, setting="target")
        if not host or not port or checks.is_anywhere(host):
            raise ConfigError(setting="target", problem=f"{self.target!r} is not where a program listens: HOST:PORT")
        at, at_port = address_of(self.listen, setting="proxy")
        if port == at_port and (host == at or (checks.is_anywhere(at) and _is_loopback(host))):
            raise ConfigError(setting="target", problem=f"{self.target} is where the proxy itself listens")
        checks.seconds("proxy-wait-s", self.wait_s)
        checks.seconds("proxy-timeout-s", self.timeout_s, least=0.1)
        checks.seconds("proxy-settle-s", self.settle_s)
        checks.choice("proxy-reads", self.reads, READS)
        for setting, url in (("proxy-advertise", self.advertise), *(("proxy-to", url) for url in self.to)):
            if urlsplit(checks.public_url(setting, url)).path not in ("", "/"):
                raise ConfigError(setting=setting, problem=f"{url} has a path: give http://HOST:PORT")
        for each in self.trust:
            _network(each)

    @property
    def target_url(self) -> str:
        host, port = address_of(self.target, setting="target")
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    @property
    def trusted(self) -> tuple[Address, ...]:
        return tuple(map(_network, self.trust))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _network(text: str) -> Address:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        problem = f"{text!r} is neither an address nor a network: 10.0.0.7, or 10.0.0.0/24"
        raise ConfigError(setting="proxy-trust", problem=problem) from None
