"""What a test does to a group of nodes in one process: kills, pauses, promotes them, or their Redis.

`cluster.py` is this, and what the group says of itself. Each of these returns when all has happened that follows from
it without time passing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Unpack

from ..errors import ConfigError
from ..log.memory_redis import MemoryRedis, MemoryState
from ..node.node import Node
from ..node.options import HostedNodeKeywords
from ..runtime import checks
from ..runtime.process import Owner
from ..state import ReplicatedState
from .leader_time import LeaderTime
from .lockstep import BEGINNING_S, Lockstep
from .member import Member

__all__ = ["Faults"]

if TYPE_CHECKING:
    import typing_extensions

    StateT = typing_extensions.TypeVar("StateT", bound=ReplicatedState, default=Any)
else:
    StateT = TypeVar("StateT")

#: In real seconds: a promotion takes milliseconds, and a busy machine has time.
PROMOTE_TIMEOUT_S = 60.0


class Faults(Generic[StateT]):
    """Of one group. `Cluster` says what it takes."""

    def __init__(self, count: int, factory: Callable[[], StateT], **options: Unpack[HostedNodeKeywords]) -> None:
        checks.whole("count", count, least=1, most=len(ascii_lowercase))
        if not callable(factory):
            raise ConfigError(setting="factory", problem="give what makes a state: a class, or a function")
        self._owner = Owner("this cluster")
        self._directory = tempfile.TemporaryDirectory(prefix="replicator-cluster-", ignore_cleanup_errors=True)
        self._runs = 1
        # Records have the time of the machine in them, and the lag of a node is counted from that.
        self._epoch_ms = (time.time() - BEGINNING_S) * 1000
        #: The server in memory. Its whole `state` is one value: keep it, and hand it to `restart_redis`.
        self.redis = MemoryRedis(clock_ms=self._clock_ms)
        self._members: dict[str, Member[StateT]] = {}
        leader_time = LeaderTime(lambda: [member.node for member in self._members.values() if member.runs])
        unreachable = lambda name: self._members[name].unreachable  # noqa: E731
        self._lockstep = Lockstep(self.redis, unreachable=unreachable, leader_time=leader_time)
        try:
            self._members = self._made(ascii_lowercase[:count], factory, {"auto_promote": True, **options})
        except BaseException:
            self._end()
            raise

    def _made(
        self, names: str, factory: Callable[[], StateT], options: HostedNodeKeywords
    ) -> dict[str, Member[StateT]]:
        place = Path(self._directory.name)
        return {name: Member(name, self.redis, self._lockstep, place / name, factory, options) for name in names}

    def promote(self, name: str, *, reason: str = "the test", force: bool = False) -> None:
        """`Node.promote`: this node takes the next term, and leads when this returns. Raises what that raises."""
        self._quiet()
        self._running(name, "promote").node.promote(reason=reason, timeout_s=PROMOTE_TIMEOUT_S, force=force)
        self._quiet()

    def kill(self, name: str) -> None:
        """End it as `kill -9` does: nothing is written any more, nobody is told, and its lease runs on in Redis."""
        member = self._running(name, "kill")
        self._quiet()
        self._lockstep.pause(name)
        member.kill()
        self._lockstep.resume(name)
        self._quiet()

    def stop(self, name: str) -> None:
        """End it in order: what it knows is on its disk, the others are told, and the lease is given back."""
        member = self._running(name, "stop")
        if member.paused:
            raise ConfigError(setting=f"stop({name!r})", problem="it is paused: resume() it first, or kill() it")
        self._quiet()
        member.stop()
        self._quiet()

    def restart(
        self, name: str, factory: Callable[[], StateT] | None = None, **options: Unpack[HostedNodeKeywords]
    ) -> Node[StateT]:
        """Start a node that was killed or stopped, on the same disk; one that runs is stopped first. The new one.

        `factory` and `options`: what it has from now on, if that is to be something else.
        """
        member = self._member(name)
        if member.runs:
            self.stop(name)
        member.factory = factory or member.factory
        member.options = {**member.options, **options}
        member.start()
        self._quiet()
        return member.node

    def pause(self, name: str) -> None:
        """Stop it as SIGSTOP does: nothing is done for it, its lease runs on in Redis, and its clock, too.

        Calls that need Redis raise `LogUnavailable` until it goes on, where those of a stopped process would hang.
        """
        self._quiet()
        member = self._running(name, "pause")
        self._lockstep.pause(name)
        member.paused = True
        member.connects()

    def resume(self, name: str) -> None:
        """Let it go on, as SIGCONT does."""
        member = self._running(name, "resume")
        member.paused = False
        member.connects()
        self._lockstep.resume(name)
        self._quiet()

    def cut(self, *names: str) -> None:
        """Cut these nodes off from Redis; without names, all of them: Redis is away."""
        self._quiet()
        for name in names or [each.name for each in self._members.values() if each.runs]:
            self._running(name, "cut").cut = True
            self._members[name].connects()
        self._quiet()

    def heal(self, *names: str) -> None:
        """They reach Redis again; without names, all of them."""
        for name in names or self._members:
            self._member(name).cut = False
            self._members[name].connects()
        self._lockstep.nudge()
        self._quiet()

    def restart_redis(self, state: MemoryState | None = None) -> None:
        """Redis comes back as another run, with all that it had; or with what it had at `state`, kept before.

        An earlier `cluster.redis.state` is what a copy has that lagged, or a disk that lost the newest writes.
        """
        self._quiet()
        self._runs += 1
        self.redis.fail_over(self.redis.state if state is None else state, run=f"run-{self._runs}")
        for member in self._members.values():
            member.log.disconnect()
        self._lockstep.nudge()
        self._quiet()

    def lose_redis(self) -> None:
        """Redis comes back empty. What nodes do then, `on_log_lost` says."""
        self.restart_redis(MemoryState())

    def _clock_ms(self) -> float:
        return self._epoch_ms + self._lockstep.clock() * 1000

    # --- inside ---

    def _member(self, name: str) -> Member[StateT]:
        if name not in self._members:
            raise ConfigError(setting="name", problem=f"there is no node {name!r}, only {', '.join(self._members)}")
        return self._members[name]

    def _running(self, name: str, what: str) -> Member[StateT]:
        member = self._member(name)
        if not member.runs:
            raise ConfigError(setting=f"{what}({name!r})", problem=f"it was {member.ended}: restart() it first")
        return member

    def _quiet(self) -> None:
        self._owner.check()
        self._check_outside("a call of the cluster")
        self._lockstep.quiet()

    def _check_outside(self, call: str) -> None:
        """Whoever reads a node on this thread keeps it from going on, and would wait for it here."""
        for member in self._members.values():
            if member.runs and member.node._running is not None:
                member.node._running.replica.applied.inside.check(call)

    def _end(self) -> None:
        self._lockstep.close()
        self._directory.cleanup()
