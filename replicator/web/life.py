"""Starting and stopping a node with the application that it serves: one node, one process, one worker.

What was running before is left running: somebody else started it, and will stop it.
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

from ..errors import ConfigError, DirectoryInUse, WrongProcess
from .served_node import ServedNode

__all__ = ["Life", "LivingNode"]

log = logging.getLogger(__name__)

ONE_WORKER = (
    "a node is one process. If this server was told to start several workers, or to reload: one worker for each node "
    "(uvicorn --workers 1; gunicorn --workers 1 --threads N, without --preload), and a service of its own, with its "
    "own name and data directory, for each further node"
)


class LivingNode(ServedNode[Any], Protocol):
    """A node that can be started and stopped. `Node` is one."""

    @property
    def boot(self) -> str:
        """Empty before it is started."""
        ...

    def start(self) -> None: ...
    def stop(self) -> None: ...


class Life:
    """That of one node, as far as it is ours. The calls block."""

    def __init__(self, node: LivingNode, *, is_sent_writes: bool) -> None:
        self._node = node
        self._is_sent_writes = is_sent_writes
        self._is_ours = False

    def start(self) -> None:
        """Start it, unless it runs. Raises what `Node.start` raises, with what to do about several workers."""
        try:
            if self._node.boot:
                return
            self._node.start()
        except (DirectoryInUse, WrongProcess) as error:
            raise ConfigError(setting="workers", problem=f"{error}; {ONE_WORKER}") from error
        self._is_ours = True
        if self._is_sent_writes and getattr(self._node, "http", None) == "":
            name = self._node.name
            log.warning("%s tells no URL of its own (give Node http=...): no other node can send it writes", name)

    def stop(self) -> None:
        """Stop it, if it was started here, and by this process. Raises what `Node.stop` raises."""
        if self._is_ours:
            self._is_ours = False
            self._node.stop()
