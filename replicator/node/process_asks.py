"""What an operator asks of the process of a node: to end, or to begin anew (`replicator shutdown`, `restart`).

The ask comes through Redis, as all requests to a group do, and whoever runs the node carries it out in order
(`service/serve.py`). A node in an application of its own offers nothing: its process is not the node's to end.

It is carried out once. An ask names the boot that it is for, so the boot after a restart does not heed it, however
often it reads it; and it says until when it holds, by the clock of Redis, so a node that was cut off does not end for
what somebody wanted long ago.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["ASKS", "Ask", "ProcessAsks"]

ASKS = ("restart", "shutdown")

#: An ask is a short line; these are the digits of a time in milliseconds.
_DIGITS_MAX = 16


class Ask(NamedTuple):
    """`what`: one of `ASKS`. `boot`: for which boot. `until_ms`: until when it holds, unix ms of Redis."""

    what: str
    boot: str
    until_ms: int

    def __str__(self) -> str:
        return f"{self.what} {self.boot} {self.until_ms}"

    @classmethod
    def parse(cls, text: str) -> Ask | None:
        """The inverse of `str`; None for what is no such ask."""
        words = text.split(" ")
        if len(words) != 3 or words[0] not in ASKS:
            return None
        digits = words[2]
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
            return None
        return cls(words[0], words[1], int(digits))


class ProcessAsks:
    """Of one node. Only its HA loop calls `heard`."""

    def __init__(self) -> None:
        #: What runs the process, and would start it again; empty: it cannot be asked.
        self.run_by = ""
        #: What is to be done now; empty: nothing. The first ask counts.
        self.asked = ""

    def heard(self, ask: Ask, *, boot: str, now_ms: int) -> str:
        """Somebody asks. Why it is not heeded; empty: it is."""
        if not self.run_by:
            return "this process is not run by `replicator node`"
        if ask.boot != boot:
            return "it is for another boot"
        if now_ms > ask.until_ms:
            return "it is too old"
        self.asked = self.asked or ask.what
        return ""
