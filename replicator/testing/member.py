"""One node of a group in a test, and what befalls it: it is killed and started again, paused, cut off."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import ReplicatorError
from ..log.memory_redis import MemoryRedis
from ..node.node import Node
from ..node.options import HostedNodeKeywords
from ..node.scheduler import Scheduler
from ..state import ReplicatedState
from .memory_log import MemoryLog

__all__ = ["GROUP", "Member"]

if TYPE_CHECKING:
    import typing_extensions

    StateT = typing_extensions.TypeVar("StateT", bound=ReplicatedState, default=Any)
else:
    StateT = TypeVar("StateT")

GROUP = "test"


class Member(Generic[StateT]):
    """`factory` makes its state at each start. `data_dir` stays."""

    def __init__(
        self,
        name: str,
        server: MemoryRedis,
        scheduler: Scheduler,
        data_dir: Path,
        factory: Callable[[], StateT],
        options: HostedNodeKeywords,
    ) -> None:
        self.name = name
        self.factory = factory
        self.options = options
        self.paused = False
        self.cut = False
        #: Why it does not run; empty: it does.
        self.ended = "not started"
        self._server = server
        self._scheduler = scheduler
        self._data_dir = data_dir
        self.log = MemoryLog(server, GROUP)
        self.node: Node[StateT] = self._new_node()

    def _new_node(self) -> Node[StateT]:
        options = self.options
        return Node(
            self.factory(),
            group=GROUP,
            name=self.name,
            data_dir=self._data_dir,
            log=self.log,
            scheduler=self._scheduler,
            **options,
        )

    @property
    def runs(self) -> bool:
        return not self.ended

    @property
    def takes_part(self) -> bool:
        """Whether nothing keeps it from its part in the group that the test did to it."""
        return self.runs and not self.paused and not self.cut

    @property
    def unreachable(self) -> str:
        """Why it does not reach Redis; empty: it does."""
        if self.ended:
            return f"the node was {self.ended}"
        if self.paused:
            return f"the test paused node {self.name}: resume() it first"
        return f"the test cut node {self.name} off from Redis" if self.cut else ""

    def connects(self) -> None:
        """To be called whenever that has changed. A connection that comes back is a new one."""
        self.log.down = self.unreachable
        self.log.disconnect()

    def start(self) -> None:
        """Start it, again if need be, with a new state: what it knows is what its disk has."""
        if self.ended != "not started":
            self.log = MemoryLog(self._server, GROUP)
            self.node = self._new_node()
        self.ended = ""
        self.connects()
        try:
            self.node.start()
        except BaseException:
            self.ended = "not started"
            raise

    def stop(self) -> None:
        self.ended = "stopped"
        self.node.stop()

    def kill(self) -> None:
        """End it as `kill -9` does: its disk has what it had at that instant, and nobody hears of it."""
        self.ended, self.paused = "killed", False
        self.connects()
        running = self.node._running
        assert running is not None
        as_left = self._data_dir.with_name(f"{self._data_dir.name}-as-left")
        running.checkpoint.copy_to(as_left)
        with suppress(ReplicatorError):
            self.node.stop()
        for path in self._data_dir.iterdir():
            if path.name != "lock":  # it stays the same file: a copy of a directory is another one
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(as_left, self._data_dir, dirs_exist_ok=True)
        shutil.rmtree(as_left)
