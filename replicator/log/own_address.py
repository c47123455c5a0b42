"""The address at which others reach this machine, unless it is configured: the one that it has towards Redis.

All nodes of a group are on a network from which they reach the same Redis, so that address is the likeliest. It is a
guess all the same: behind a mapped port, or with several networks, the address has to be configured.
"""

from __future__ import annotations

import socket

from .urls import place_of

__all__ = ["own_address"]


def own_address(url: str, *, ipv6: bool = False) -> str:
    """This machine's address towards the Redis of `url`, or its host name if that is not known. Nothing is sent."""
    place = place_of(url)
    family = socket.AF_INET6 if ipv6 else socket.AF_INET
    if "path" in place.options:  # only this machine reaches that Redis
        return "::1" if ipv6 else "127.0.0.1"
    for host, port in place.hosts or [(place.options["host"], place.options["port"])]:
        try:
            *_, address = socket.getaddrinfo(host, port, family, socket.SOCK_DGRAM)[0]
            with socket.socket(family, socket.SOCK_DGRAM) as towards:
                towards.connect(address)
                own: str = towards.getsockname()[0]
        except OSError:
            continue
        if "%" not in own and not own.startswith("fe80:"):  # link-local addresses mean nothing elsewhere
            return own
    return socket.gethostname()
