"""Starting and stopping a node with the application that it serves: one node, one process, one worker.

What was running before is left running: somebody else started it, and will stop it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol

from ..errors import ConfigError, DirectoryInUse, WrongProcess
from ..runtime.event_log import EventLogger
from .served_node import ServedNode

__all__ = ["Life", "LivingNode"]

log = EventLogger(__name__)

ONE_WORKER = (
    "a node is one process. If this server was told to start several workers, or to reload: one worker for each node "
    "(uvicorn --workers 1; gunicorn --workers 1 --threads N, without --preload), and a service of its own, with its "
    "own name and data directory, for each further node"
)

ONE_LIFE = (
    "no node starts twice: make another one, and an application around it (in tests, and for servers with --factory, "
    "by a function that makes both)"
)


class LivingNode(ServedNode[Any], Protocol):
    """A node that can be started and stopped. `Node` is one."""

    @property
    def boot(self) -> str:
        """Empty before it is started."""
        ...

    def start(self) -> None: ...
    def stop(self) -> None: ...
    async def __aenter__(self) -> object:
        """`start` for a task; from now on its event loop is watched. Cancelled, it leaves no node that runs."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Life:
    """That of one node, as far as it is ours. Either `start` and `stop`, which block, or `enter` and `leave`."""

    def __init__(self, node: LivingNode, *, is_sent_writes: bool) -> None:
        self._node = node
        self._is_sent_writes = is_sent_writes
        self._is_ours = False

    def start(self) -> None:
        """Start it, unless it runs. Raises what `Node.start` raises, with what to do about several workers, and
        `ConfigError` if it was stopped.
        """
        with _several_workers_explained():
            if self._runs():
                return
            self._node.start()
        self._is_ours = True
        self._mention_url()

    def stop(self) -> None:
        """Stop it, if it was started here, and by this process. Raises what `Node.stop` raises."""
        if self._is_ours:
            self._is_ours = False
            self._node.stop()

    async def enter(self) -> None:
        """`start` on the running event loop, which does not wait."""
        with _several_workers_explained():
            if self._runs():
                return
            await self._node.__aenter__()
        self._is_ours = True
        self._mention_url()

    async def leave(self) -> None:
        """`stop` on the running event loop, to its end."""
        if self._is_ours:
            self._is_ours = False
            await self._node.__aexit__(None, None, None)

    def _runs(self) -> bool:
        """Whether somebody else started it. Raises `ConfigError`: what was stopped would serve what it had then."""
        if not self._node.boot:
            return False
        unready = self._node.unready
        if unready is not None and unready.code == "stopping":
            raise ConfigError(setting="node", problem=f"{self._node.name} was stopped, and {ONE_LIFE}")
        return True

    def _mention_url(self) -> None:
        if self._is_sent_writes and getattr(self._node, "http", None) == "":
            name = self._node.name
            log.warning(
                "http.no_url",
                "%s tells no URL of its own, so no other node can send it writes: give Node http=..., or set "
                "REPLICATOR_HTTP for Node.from_env",
                name,
            )


@contextmanager
def _several_workers_explained() -> Iterator[None]:
    try:
        yield
    except (DirectoryInUse, WrongProcess) as error:
        raise ConfigError(setting="workers", problem=f"{error}; {ONE_WORKER}") from error
