"""A Redis as it describes itself, for whoever asks how it is set up (`doctor`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .interface import Memory

__all__ = ["Server", "memory_in", "server_by"]

#: The settings that CONFIG is asked for. The rest is in INFO, which more users may see.
SETTINGS = ("appendfsync", "min-replicas-to-write", "min-replicas-max-lag")


class Server(NamedTuple):
    """A Redis as it describes itself. What the user may not ask is missing: `info` is empty, a setting or term None."""

    info: Mapping[str, str]
    config: Mapping[str, str | None]
    term_key: str | None


def server_by(permitted: Callable[..., Any], term_key: bytes) -> Server:
    """`permitted`: ask Redis; None if the user may not. `term_key`: that of the group."""
    term = permitted(b"GET", term_key)
    return Server(
        info=_fields(permitted(b"INFO")),
        config={name: _setting(permitted, name) for name in SETTINGS},
        term_key=term.decode("utf-8", "replace") if term is not None else None,
    )


def memory_in(info: bytes | None) -> Memory | None:
    """What an answer to INFO says of memory; None: nothing."""
    fields = _fields(info)
    used, most = fields.get("used_memory", ""), fields.get("maxmemory", "0")
    return Memory(int(used), int(most)) if used.isdigit() and most.isdigit() else None


def _fields(info: bytes | None) -> dict[str, str]:
    text = (info or b"").decode("utf-8", "replace")
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def _setting(permitted: Callable[..., Any], name: str) -> str | None:
    found = permitted(b"CONFIG", b"GET", name) or []
    return found[1].decode("utf-8", "replace") if len(found) == 2 else None
