"""What a call of a node asks for before it does anything: that the node runs, may write, is not waited for from within.

The bases of `Node` that bring calls of one kind have this one in common (`async_calls.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from .. import tracing
from ..errors import ChangeRejected, ChangeTooLarge, CheckFailed, ConfigError, NotRunning, ResultNotKept
from ..log.interface import Log
from ..metrics.node_metrics import NodeMetrics, Value
from ..runtime.request_writes import NOTED
from ..state import ReplicatedState
from .acks import Level
from .commit_queue import BATCH_CHANGES_MAX
from .facts import NodeFacts
from .measuring import metrics_of
from .running import NodeSetup, RunningNode

__all__ = ["NodeCalls", "ResultT", "StateT", "are_rejected", "check_fits", "checked", "noting", "result_of"]

#: What `apply` gives for a change that says so (`state/changes.py`).
ResultT = TypeVar("ResultT")

if TYPE_CHECKING:
    import typing_extensions

    #: The application's own class. A `Node` of which nobody says more is one of `Any`.
    StateT = typing_extensions.TypeVar("StateT", bound=ReplicatedState, default=Any)
else:  # without the default, which Python has from 3.13 on
    StateT = TypeVar("StateT")


class NodeCalls(NodeFacts):
    """A node as its calls see it."""

    def __init__(self, setup: NodeSetup, *, http: str) -> None:
        super().__init__(setup, http=http)
        self._ack = setup.options.level
        #: What is measured beside it, by the names of `metrics/catalogue.py`.
        self.measured_beside: Callable[[], Mapping[str, Value]] = dict

    def metrics(self) -> list[NodeMetrics]:
        """What it tells Prometheus (`replicator.metrics`), and what the other nodes of its host do."""
        host = getattr(self._setup.scheduler, "metrics", None)
        return host() if host is not None and self._begun is not None else [self.own_metrics()]

    def own_metrics(self) -> NodeMetrics:
        """Of this node alone."""
        own = metrics_of(self, self._setup, self._begun)
        return own._replace(values={**own.values, **self.measured_beside()})

    def looking(self) -> Log:
        """Another log of its group, for who only looks on beside it, and closes it."""
        return self._setup.log.apart()

    def _started(self) -> RunningNode:
        running = self._begun
        if running is None:
            raise NotRunning(self.name)
        return running

    def _working(self) -> RunningNode:
        running = self._started()
        if self._setup.stopping.is_set():
            raise NotRunning(self.name, stopped=True)
        return running

    def _serving(self, call: str, *, blocks: bool = True) -> RunningNode:
        self._owner.check()
        running = self._running
        if running is None or self._setup.stopping.is_set():
            running = self._working()  # which says why not
        if running.duties.failed is not None:
            raise running.duties.failed
        running.replica.applied.inside.check(call, blocks=blocks)
        return running

    def _writing(self, *, blocks: bool = True) -> RunningNode:
        running = self._serving("a write", blocks=blocks)
        lost = self._setup.problems.get("log")
        # A node that leads since its last beat, because the log was founded anew, has a log again.
        if lost is not None and not self.leads:
            raise lost
        return running

    def _changing(self, *, blocks: bool = True) -> RunningNode:
        running = self._writing(blocks=blocks)
        if running.replica.whole is not None:
            problem = "the state has no apply(): let its program change it, and call publish()"
            raise ConfigError(setting="submit", problem=problem)
        return running

    def _level(self, ack: str | None) -> Level:
        return self._ack if ack is None else Level.parse(ack)

    def _wake(self) -> None:
        if self._running is not None:
            self._running.wake()

    def _has_role(self, role: str) -> bool:
        """As `wait` means it: a primary takes writes."""
        return self.leads if role == "primary" else self.role == role

    def _wait_for(self, running: RunningNode, reached: Callable[[], bool], timeout_s: float) -> None:
        if not running.replica.known.wait_for(reached, timeout_s):
            raise self._too_late(timeout_s)

    def _too_late(self, timeout_s: float) -> TimeoutError:
        problem = f": {problem}" if (problem := self.problem) else ""
        return TimeoutError(f"{self.name} is {self.role} at {self.position.id} after {timeout_s:.3g} s{problem}")


#: What becomes of a change that is no result of it.
_NO_RESULT = (ChangeRejected, CheckFailed, ResultNotKept)


def result_of(result: Any) -> Any:
    if isinstance(result, _NO_RESULT):
        raise result
    return result


def are_rejected(results: Sequence[Any]) -> bool:
    """Whether nothing came of the changes: then nobody has to have them."""
    return all(isinstance(result, ChangeRejected | CheckFailed) for result in results)


def checked(results: list[Any]) -> list[Any]:
    """They are the results of one call: where `check` failed, nothing of it was written."""
    if results and isinstance(results[0], CheckFailed):
        raise results[0]
    return results


def check_fits(changes: Sequence[Any]) -> None:
    if len(changes) > BATCH_CHANGES_MAX:
        raise ChangeTooLarge(problem=f"there are {len(changes)}, a record takes {BATCH_CHANGES_MAX}")


def noting(running: RunningNode) -> AbstractContextManager[object]:
    """What changes are submitted in while tracing is on: they are traced, and the request that is under way knows them.

    Without tracing that is `NOTED`, which callers take by themselves: that saves a call for each change.
    """
    active = tracing.active
    if active is None:
        return NOTED
    return active.submitting(running.replica.group, running.replica.node_state.me.node, NOTED)
