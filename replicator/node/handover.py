"""What has to happen before a switchover takes the term from a node: its program stops, and what that wrote is
published.

The switchover command asks for it, the sidecar does it, and the node's heartbeat carries the answer. Only then does the
command promote the other node. No write depends on it: the promotion is what stops the old primary.

Where the node itself runs the program, it also says that nothing of its term goes on any more (`work_over`). That is
for good: in this term it starts none again, and if the switchover does not come, it takes another one. So whoever takes
the next term may go by it, however old it is, and need not wait for the end of the lease (`former_leases.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from .process_asks import ProcessAsks

__all__ = ["Handover"]


class Handover:
    """The handover of one node. Only one thread writes each attribute. `wake` has the next heartbeat sent soon."""

    def __init__(self, wake: Callable[[], None]) -> None:
        #: Whether a sidecar is there to do it, so that the command has to ask.
        self.is_offered = False
        #: The id of the newest request.
        self.asked = ""
        #: That id once all is done; `ID: why` if it cannot be done.
        self.answer = ""
        #: The term in which the program was ended, and is not started again; 0: there is none.
        self.work_over = 0
        #: What the process of this node is asked to do: for whoever is beside the node, too.
        self.process = ProcessAsks()
        self._wake = wake

    def ask(self, id_: str) -> None:
        """The switchover command asks for it."""
        self.asked = id_

    def answered(self, answer: str) -> None:
        """It is done, or cannot be done; empty: the handover is over, one way or the other."""
        self.answer = answer
        self._wake()
