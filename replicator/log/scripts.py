"""The Lua scripts in `lua/`, by name: their text, their hash, and the keys that they get.

Each script is one atomic step in Redis. It is called by its hash (EVALSHA); its text is sent only to a Redis that does
not know it yet. The texts are package resources, read once per process.

A script is its own file and the files that it includes. The fence (`fence.lua`) has what all of them need, so it is put
in front of each script that does not include it elsewhere (`append.lua` takes a shortcut before it). The head of each
file says what KEYS and ARGV are, and what every answer means. All scripts number the keys alike: a script that needs
only the first few gets no more.
"""

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

SCRIPTS = (
    *("append", "part", "promote", "renew", "yield", "pause", "beat", "forget", "look", "probe", "sweep", "ask"),
    "refill",
)


#: The files that scripts include. The fence is put in front of each script that does not say where it wants it.
INCLUDED = ("fence", "rights", "trim", "history")


#: The keys of a group, in the order in which the scripts number them.
KEYS = ("term", "log", "head", "lease", "requests", "nodes", "acks", "history", "probe")


class _Script:
    """A script's text, with what it includes, and the hash by which Redis knows it."""

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


#: The types of these keys, in the same order; the probe has none.
KEY_TYPES = ("string", "stream", "hash", "string", "stream", "hash", "stream", "stream")
