"""The Lua scripts of `lua/`, by name: their text, their hash, and their keys."""

from __future__ import annotations

import functools
import hashlib
from importlib import resources

__all__ = [
    "INCLUDED",
    "KEYS",
    "KEY_TYPES",
    "SCRIPTS",
]

SCRIPTS = ("append", "part", "promote", "renew", "yield", "pause", "beat", "forget", "look", "probe")


#: What scripts have in common. The fence is put in front of each that does not say where it wants it.
INCLUDED = ("fence", "rights")


#: Of a group, in the order in which the scripts number them.
KEYS = ("term", "log", "head", "lease", "commands", "nodes", "acks", "probe")


class _Script:
    """A script's text and the hash that Redis knows it by."""

    def __init__(self, name: str) -> None:
        folder = resources.files("replicator.log") / "lua"
        text = (folder / f"{name}.lua").read_bytes()
        if _include("fence") not in text:
            text = _include("fence") + text
        for part in INCLUDED:
            text = text.replace(_include(part), (folder / f"{part}.lua").read_bytes())
        self.text = text
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


def _include(name: str) -> bytes:
    return f"-- include {name}.lua\n".encode()


@functools.cache
def load_scripts() -> dict[str, _Script]:
    return {name: _Script(name) for name in SCRIPTS}


#: Of the keys of a group, in the order in which the scripts get them.
KEY_TYPES = ("string", "stream", "hash", "string", "stream", "hash", "stream")
