"""Resolving host names with `getaddrinfo`, which has no timeout when a name server is silent.

Names are resolved in other threads (`runtime/hanging_calls.py`), and a caller for whom an address is known does not
wait long for another one: while the name server is silent or in trouble, the known addresses are used. The address that
answered last is tried first.
"""

from __future__ import annotations

import socket
import threading
import time
from functools import partial

from ..runtime.hanging_calls import Aside

__all__ = ["Names"]

#: How long to wait for the name server if an address is known already. It answers within some ms, or is in trouble.
KNOWN_WAIT_S = 0.1


class Names:
    """The addresses of host names. Thread-safe."""

    def __init__(self) -> None:
        self._aside: Aside[tuple[str, ...]] = Aside("names")
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, ...]] = {}
        self._good: dict[str, str] = {}

    def addresses(self, name: str, timeout_s: float) -> tuple[str, ...]:
        """The addresses to connect to, the most promising first. Raises `OSError`."""
        if _is_address(name):
            return (name,)
        asked = self._aside.ask(name, partial(self._ask, name))
        known = self._known.get(name)
        asked.wait(timeout_s if known is None else min(timeout_s, asked.began + KNOWN_WAIT_S - time.monotonic()))
        found = asked.answer or (known if not asked.done or _passes(asked.error) else None)
        if found is not None:
            good = self._good.get(name)
            return tuple(sorted(found, key=lambda address: address != good))
        if asked.error is not None:
            raise OSError(f"the name {name!r} was not found: {asked.error}")
        raise TimeoutError(f"no name server says what {name!r} is")

    def answered(self, name: str, address: str) -> None:
        """A server answered at this address."""
        with self._lock:
            self._good[name] = address

    def _ask(self, name: str) -> tuple[str, ...]:
        found = socket.getaddrinfo(name, None, 0, socket.SOCK_STREAM)
        addresses = tuple(dict.fromkeys(str(each[4][0]) for each in found))
        with self._lock:
            self._known[name] = addresses
        return addresses


def _is_address(name: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name.partition("%")[0])
        except OSError:
            continue
        return True
    return False


def _passes(error: Exception | None) -> bool:
    """Whether the error is a passing one: it says nothing about the name itself."""
    return not isinstance(error, socket.gaierror) or error.errno in (socket.EAI_AGAIN, socket.EAI_FAIL)
