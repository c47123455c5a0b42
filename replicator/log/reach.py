"""At which address others reach this machine, if nobody said it: the one that it has on the way to Redis.

All nodes of a group are on a network from which they reach the same Redis, so that is the likeliest. It is a guess all
the same: behind a port that is mapped, or with several networks, somebody has to say it.
"""

from __future__ import annotations

import socket

from .urls import place_of

__all__ = ["own_address"]


def own_address(url: str, *, ipv6: bool = False) -> str:
    """This machine's address towards the Redis of `url`; its name where that cannot be told. Nothing is sent."""
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
        if "%" not in own and not own.startswith("fe80:"):  # which means something on one wire only
            return own
    return socket.gethostname()
