"""What a node does unasked, and how often."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["HaPolicy"]


class HaPolicy(NamedTuple):
    """See `Node`."""

    beat_every_s: float
    auto_promote: bool = False
    takes_term_again: bool = True
    recovers: bool = False
    #: It leads in a new run whoever is missing (protocol/missing_nodes.py).
    goes_on: bool = False
    #: The N of `applied:N` that writes wait for; 0: they do not.
    applied_min: int = 0
    #: How often the primary marks the log, so that states are compared; 0: never.
    verify_every_s: float = 0.0
