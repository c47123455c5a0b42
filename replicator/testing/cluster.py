"""A group of nodes in one process, without Redis and without waiting: for the tests of an application.

    with Cluster(3, FlagState) as cluster:          # a, b and c; a leads
        cluster.submit(FlagState.set_flag("dark-mode", on=True))
        cluster.kill("a")
        primary = cluster.settle()                  # a lease later by the cluster's clock, milliseconds by yours
        with primary.reading() as state:
            assert state.flags["dark-mode"].on
        cluster.restart("a")
        cluster.settle()
        cluster.check_equal()

The nodes are real ones: `Node`, with leases, elections, checkpoints on disk. Redis is its twin in memory
(`memory_log.py`), and one clock for all of them is moved by the test (`lockstep.py`). When a call of the cluster
returns, all has happened that takes no time: what was submitted is applied by every standby that is not paused or cut
off. So a test is the same each time it runs, whatever else the machine does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import ascii_lowercase
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, Unpack, overload

from ..errors import ConfigError, ReplicatorError
from ..log.memory_redis import MemoryRedis, MemoryState
from ..node.node import Node
from ..node.options import NodeKeywords
from ..runtime import checks
from ..runtime.process import Owner
from ..state import ReplicatedState
from ..state.changes import Change
from .failures import CheckFailed, difference
from .lockstep import Lockstep
from .member import Member

__all__ = ["Cluster"]

if TYPE_CHECKING:
    import typing_extensions

    StateT = typing_extensions.TypeVar("StateT", bound=ReplicatedState, default=Any)
else:
    StateT = TypeVar("StateT")

ResultT = TypeVar("ResultT")

#: How long `settle` lets the group take, by the cluster's clock: after Redis lost something, nodes wait for others.
SETTLE_WITHIN_S = 60.0

#: In real seconds: a promotion takes milliseconds, and a busy machine has time.
PROMOTE_TIMEOUT_S = 60.0


class Cluster(Generic[StateT]):
    """`count` nodes, called a, b, c and so on, each with a state that `factory` makes. See this module.

    `options`: as for `Node` (`lease_s`, `ack` and so on), the same for all; `auto_promote` is on unless they say
    otherwise. Raises `ConfigError`.
    """

    def __init__(self, count: int, factory: Callable[[], StateT], **options: Unpack[NodeKeywords]) -> None:
        checks.whole("count", count, least=1, most=len(ascii_lowercase))
        if not callable(factory):
            raise ConfigError(setting="factory", problem="give what makes a state: a class, or a function")
        self._owner = Owner("this cluster")
        self._directory = tempfile.TemporaryDirectory(prefix="replicator-cluster-", ignore_cleanup_errors=True)
        self._runs = 1
        #: The server in memory. Its whole `state` is one value: keep it, and hand it to `restart_redis`.
        self.redis = MemoryRedis(clock_ms=self._clock_ms)
        self._lockstep = Lockstep(self.redis, unreachable=lambda name: self._members[name].unreachable)
        try:
            self._members = self._made(ascii_lowercase[:count], factory, {"auto_promote": True, **options})
        except BaseException:
            self._end()
            raise

    def _made(self, names: str, factory: Callable[[], StateT], options: NodeKeywords) -> dict[str, Member[StateT]]:
        place = Path(self._directory.name)
        return {name: Member(name, self.redis, self._lockstep, place / name, factory, options) for name in names}

    # --- life --------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._owner.is_here:
            self.close()

    def start(self) -> None:
        """Start all nodes, promote the first one, and let them know each other: two beats.

        Raises what `Node.start` raises, and `CheckFailed`.
        """
        try:
            self._lockstep.begin()
            for member in self._members.values():
                member.start()
            self.promote(next(iter(self._members)))
            self.advance(2 * self.settle()._setup.options.policy.beat_every_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Stop all nodes and delete what they kept. Safe to call twice."""
        for member in self._members.values():
            member.paused = False
            self._lockstep.resume(member.name)
            if member.runs:
                member.stop()
        self._end()

    def _end(self) -> None:
        self._lockstep.close()
        self._directory.cleanup()

    # --- who is there ------------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Node[StateT]:
        """The node of that name, as it was started last. One that was killed or stopped is over: it answers nothing."""
        return self._member(name).node

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    @property
    def names(self) -> list[str]:
        """Of all nodes, whatever has become of them."""
        return list(self._members)

    @property
    def nodes(self) -> Mapping[str, Node[StateT]]:
        """Those that run: also one that is paused or cut off."""
        return {member.name: member.node for member in self._members.values() if member.runs}

    @property
    def primary(self) -> Node[StateT]:
        """The node that leads: of two that think so (one is cut off), that of the newer term. Raises `CheckFailed`."""
        self._quiet()
        leading = [member.node for member in self._members.values() if _leads(member)]
        if not leading:
            raise CheckFailed(f"no node leads; settle() lets the group elect one. {self._told()}")
        return max(leading, key=lambda node: node.term)

    @property
    def standbys(self) -> list[Node[StateT]]:
        """The nodes that run and do not lead, by name."""
        return [member.node for member in self._members.values() if member.runs and not _leads(member)]

    def _member(self, name: str) -> Member[StateT]:
        if name not in self._members:
            raise ConfigError(setting="name", problem=f"there is no node {name!r}, only {', '.join(self._members)}")
        return self._members[name]

    def _running(self, name: str, what: str) -> Member[StateT]:
        member = self._member(name)
        if not member.runs:
            raise ConfigError(setting=f"{what}({name!r})", problem=f"it was {member.ended}: restart() it first")
        return member

    # --- what it has -------------------------------------------------------------------------------------------------

    @overload
    def submit(self, change: Change[ResultT], *, term: int | None = None, ack: str | None = None) -> ResultT: ...
    @overload
    def submit(self, change: Any, *, term: int | None = None, ack: str | None = None) -> Any: ...
    def submit(self, change: Any, *, term: int | None = None, ack: str | None = None) -> Any:
        """`Node.submit` on the primary. When it returns, every standby that can has applied it, too."""
        try:
            return self.primary.submit(change, term=term, ack=ack)
        finally:
            self._quiet()

    def states(self) -> dict[str, list[Any]]:
        """What the state of each node that runs holds: the pieces of a snapshot, by the node's name."""
        self._quiet()
        return {name: _pieces_of(node) for name, node in self.nodes.items()}

    def check_equal(self) -> None:
        """Raises `CheckFailed` unless all nodes that can take part are at one position, and have equal states.

        It does not wait: `settle()` first.
        """
        self._quiet()
        able = [member.node for member in self._members.values() if member.takes_part]
        for node in able[1:]:
            first, names = able[0], (able[0].name, node.name)
            if node.position != first.position:
                where = f"{names[0]} is at {first.position.id}, and {names[1]} at {node.position.id}"
                raise CheckFailed(f"the nodes are not at one position: {where}; settle() first. {self._told()}")
            if found := difference(_pieces_of(first), _pieces_of(node), names=names, place="snapshot"):
                problem = f"{names[0]} and {names[1]} have applied the same changes, up to {node.position.id}"
                raise CheckFailed(f"{problem}, and differ: {found}. apply() is not deterministic: see check_state")

    # --- time --------------------------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The cluster's clock, in seconds. It stands still unless `advance` or `settle` moves it."""
        return self._lockstep.clock()

    def advance(self, seconds: float) -> None:
        """Let so much time pass for all nodes and for Redis; it takes milliseconds. Timeouts of calls are not in it."""
        checks.seconds("seconds", seconds, least=0.0)
        self._check_outside("advance()")
        self._lockstep.advance(seconds)

    def settle(self, *, within_s: float = SETTLE_WITHIN_S) -> Node[StateT]:
        """Let time pass until one node leads and all others follow it, at its position; the one that leads.

        Nodes that the test ended, paused or cut off are not looked at. If nothing is in the way, no time passes. Raises
        `CheckFailed`, which says what is in whose way, if that takes longer than `within_s` by the cluster's clock.
        """
        checks.seconds("within_s", within_s, least=0.0)
        self._quiet()
        until = self.now + within_s
        while why := self._in_the_way():
            if not self._lockstep.step(until):
                raise CheckFailed(f"the group did not settle in {within_s:.3g} s by its clock: {'; '.join(why)}")
        return self.primary

    def _quiet(self) -> None:
        self._owner.check()
        self._check_outside("a call of the cluster")
        self._lockstep.quiet()

    def _check_outside(self, call: str) -> None:
        """Whoever reads a node on this thread keeps it from going on, and would wait for it here."""
        for node in self.nodes.values():
            if node._running is not None:
                node._running.replica.applied.inside.check(call)

    def _in_the_way(self) -> list[str]:
        able = [member.node for member in self._members.values() if member.takes_part]
        leading = [node for node in able if node.leads]
        if not leading:
            return [f"no node leads. {self._told()}"]
        primary = max(leading, key=lambda node: node.term)
        return [why for node in able if (why := _differs(node, primary))]

    def _told(self) -> str:
        return "; ".join(map(_told, self._members.values()))

    # --- what befalls it ---------------------------------------------------------------------------------------------

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
        self, name: str, factory: Callable[[], StateT] | None = None, **options: Unpack[NodeKeywords]
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
        for name in names or self.nodes:
            self._running(name, "cut").cut = True
            self._members[name].connects()
        self._quiet()

    def heal(self, *names: str) -> None:
        """They reach Redis again; without names, all of them."""
        for name in names or self.names:
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
        return EPOCH_MS + self._lockstep.clock() * 1000


#: Where the clock of Redis begins. It is some time in 2027, and the same in each test.
EPOCH_MS = 1_800_000_000_000.0


def _leads(member: Member[Any]) -> bool:
    return member.runs and not member.paused and member.node.leads


def _pieces_of(node: Node[Any]) -> list[Any]:
    with node.reading() as state:
        pieces = state.snapshot()
    return list(pieces)


def _differs(node: Node[Any], primary: Node[Any]) -> str:
    """What keeps a node from following, or from leading; empty: nothing does."""
    if (unready := node.unready) is not None:
        return f"{node.name}: {unready.message}"
    if node is primary or (node.term == primary.term and node.position == primary.position):
        return ""
    where = f"at {node.position.id} in term {node.term}"
    return f"{node.name} is {where}, and {primary.name} leads at {primary.position.id} in term {primary.term}"


def _told(member: Member[Any]) -> str:
    """A node in a few words."""
    if not member.runs:
        return f"{member.name} was {member.ended}"
    node = member.node
    kept = "".join(f", {word}" for word, on in (("paused", member.paused), ("cut off", member.cut)) if on)
    try:
        problem = f" ({node.problem})" if node.problem else ""
        return f"{member.name} is {node.role} at {node.position.id} in term {node.term}{kept}{problem}"
    except ReplicatorError as error:
        return f"{member.name}: {error}"
