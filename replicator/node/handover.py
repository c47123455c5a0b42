"""What is to be done before a switchover takes the term from a node: a program stops, and what it wrote is published.

A tool asks for it, somebody beside the node does it, and the heartbeat has the answer. The tool promotes the other node
only then. Nothing of safety depends on it: the promotion is what stops the old primary.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Handover"]


class Handover:
    """Of one node. Each attribute is written by one thread. `wake`: have the next heartbeat sent soon."""

    def __init__(self, wake: Callable[[], None]) -> None:
        #: Somebody is there who does it: a tool is to ask.
        self.is_offered = False
        #: The id of the newest ask.
        self.asked = ""
        #: That id, if all is done; `ID: why`, if it cannot be.
        self.answer = ""
        self._wake = wake

    def ask(self, id_: str) -> None:
        """A tool wants it done."""
        self.asked = id_

    def answered(self, answer: str) -> None:
        """It is done, or cannot be; empty: it is over, one way or the other."""
        self.answer = answer
        self._wake()
