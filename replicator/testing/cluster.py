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

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from ..errors import ReplicatorError
from ..node.node import Node
from ..runtime import checks
from ..state import ReplicatedState
from ..state.changes import Change
from .failures import CheckFailed, difference
from .faults import Faults
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


class Cluster(Faults[StateT]):
    """`count` nodes, called a, b, c and so on, each with a state that `factory` makes. See this module.

    `options`: as for `Node` (`lease_s`, `ack` and so on), the same for all; `auto_promote` is on unless they say
    otherwise. Raises `ConfigError`.
    """

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
        with ExitStack() as ends:
            ends.callback(self._end)
            for member in self._members.values():
                if member.runs:
                    member.paused = False
                    member.connects()
                    ends.callback(member.stop)

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

    # --- what it has -------------------------------------------------------------------------------------------------

    @overload
    def submit(
        self, change: Change[ResultT], *, term: int | None = None, ack: str | None = None, key: str | None = None
    ) -> ResultT: ...
    @overload
    def submit(
        self, change: Any, *, term: int | None = None, ack: str | None = None, key: str | None = None
    ) -> Any: ...
    def submit(self, change: Any, *, term: int | None = None, ack: str | None = None, key: str | None = None) -> Any:
        """`Node.submit` on the primary. When it returns, every standby that can has applied it, too."""
        try:
            return self.primary.submit(change, term=term, ack=ack, key=key)
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

    def _in_the_way(self) -> list[str]:
        able = [member.node for member in self._members.values() if member.takes_part]
        leading = [node for node in able if node.leads]
        if not leading:
            return [f"no node leads. {self._told()}"]
        primary = max(leading, key=lambda node: node.term)
        return [why for node in able if (why := _differs(node, primary))]

    def _told(self) -> str:
        return "; ".join(map(_told, self._members.values()))


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
