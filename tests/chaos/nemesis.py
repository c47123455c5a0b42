"""Carries out a schedule: the faults of a step begin and end at their times, then there is a pause.

Whom a fault hits is decided when its turn comes. A fault that finds its victim dead already does nothing. Promotions
run on threads of their own: they wait for the one who is promoted, and the next fault does not wait for them.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

from replicator import ReplicatorError, ops

from .checker import SAVED_AFTER, SECOND, Event
from .cluster import LEASE_S, Cluster
from .history import Notes
from .redises import OneRedis, Undo
from .schedule import Fault, Step

Say = Callable[[str], None]

#: How long a promotion may wait for the node that it promotes.
PROMOTION_TIMEOUT_S = 3.0

#: How long the primary that had everything alone stays away: long enough for the others to go on.
ALONE_S = 3.0


class Nemesis:
    """Does what a schedule says to a cluster. `say` gets a line per fault."""

    def __init__(self, cluster: Cluster, notes: Notes, say: Say) -> None:
        self.done: Counter[str] = Counter()
        self._cluster = cluster
        self._notes = notes
        self._say = say
        self._promotions: list[threading.Thread] = []
        self._started = time.monotonic()
        self._faults: dict[str, Callable[[Fault, str], Undo]] = {
            "kill-node": self._kill,
            "kill-all": self._kill_all,
            "pause-node": self._pause,
            "slow-disk": self._slow_disk,
            "failing-snapshot": self._fail_snapshots,
            "fork-node": self._fork,
            "promote": self._promote,
            "promote-two": self._promote_two,
            "switchover": self._switch_over,
            "lone-primary": self._leave_alone,
            "full-disk": self._full_disk,
            "silent-names": self._silent_names,
        }

    def run(self, steps: Sequence[Step]) -> None:
        """Carry out all steps, and wait for the promotions under way."""
        for step in steps:
            self._step(step)
            time.sleep(step.rest_s)
        for promotion in self._promotions:
            promotion.join()

    def _step(self, step: Step) -> None:
        started, number = time.monotonic(), count()
        due: list[tuple[float, int, Callable[[], None]]] = []

        def at(seconds: float, act: Callable[[], None]) -> None:
            heapq.heappush(due, (seconds, next(number), act))

        def begin(fault: Fault) -> None:
            undo = self.begin(fault)
            at(time.monotonic() - started + fault.seconds, undo)

        for fault in step.faults:
            at(fault.after, partial(begin, fault))
        while due:
            seconds, _, act = heapq.heappop(due)
            time.sleep(max(0.0, started + seconds - time.monotonic()))
            act()

    def begin(self, fault: Fault) -> Undo:
        """Begin one fault; what ends it."""
        node = self._victim(fault)
        self.done[fault.kind] += 1
        self._note(f"{fault} -> {node}" if node else str(fault))
        if fault.kind in self._faults:
            return self._faults[fault.kind](fault, node)
        undo = self._cluster.redis.begin(fault, node)
        return self._lasting(fault.kind, node, undo) if node else undo

    def _victim(self, fault: Fault) -> str:
        names, primary = self._cluster.names, self._cluster.primary
        if not fault.target:
            return ""
        if fault.target == "primary" and primary is not None:
            return primary
        fit = [name for name in names if fault.target != "standby" or name != primary]
        return fit[fault.pick % len(fit)]

    def _note(self, what: str) -> None:
        at_s = time.monotonic() - self._started
        self._notes.add({"at": time.monotonic_ns(), "at_s": round(at_s, 3), "what": what})
        self._say(f"{at_s:7.2f} s  {what}")

    def _lasting(self, kind: str, node: str, undo: Callable[[], Any]) -> Undo:
        """Note how long it lasted, once it is over."""
        began = time.monotonic_ns()

        def undo_and_note() -> None:
            undo()
            self._cluster.events.append(Event(kind=kind, node=node, began=began, ended=time.monotonic_ns()))

        return undo_and_note

    # --- faults of nodes ---------------------------------------------------------------------------------------------

    def _kill(self, fault: Fault, node: str) -> Undo:
        process = self._cluster.nodes[node]
        undo = self._lasting("kill-node", node, process.start)
        return undo if process.kill() else process.start

    def _kill_all(self, fault: Fault, _: str) -> Undo:
        undos = [self._kill(fault, node) for node in self._cluster.names]

        def undo() -> None:
            for each in undos:
                each()

        return undo

    def _pause(self, fault: Fault, node: str) -> Undo:
        process = self._cluster.nodes[node]
        undo = self._lasting(fault.kind, node, process.resume)
        process.pause()
        return undo

    def _leave_alone(self, fault: Fault, _: str) -> Undo:
        """The primary alone takes writes, Redis loses them, and the primary is away when the others go on."""
        cluster = self._cluster
        primary = cluster.primary
        undos = [self._pause(Fault(kind="pause-node", seconds=0), name) for name in cluster.names if name != primary]
        starts: list[Undo] = []

        def while_down() -> None:
            time.sleep(SAVED_AFTER / SECOND)  # what it acknowledged is on its own disk by then
            if primary is not None:
                starts.append(self._kill(fault, primary))

        assert isinstance(cluster.redis, OneRedis)
        come_back = cluster.redis.roll_back(while_down=while_down)

        def undo() -> None:
            come_back()
            for each in undos:
                each()
            time.sleep(ALONE_S)
            for each in starts:
                each()

        return undo

    def _slow_disk(self, fault: Fault, node: str) -> Undo:
        undo = self._lasting(fault.kind, node, _nothing)  # it ends by itself: nobody needs to be heard
        self._cluster.slow_disk(node, float(fault.option), for_s=fault.seconds)
        return undo

    def _full_disk(self, fault: Fault, node: str) -> Undo:
        undo = self._lasting(fault.kind, node, lambda: self._cluster.free_disk(node))
        self._cluster.fill_disk(node)
        return undo

    def _fail_snapshots(self, fault: Fault, node: str) -> Undo:
        undo = self._lasting(fault.kind, node, lambda: self._cluster.tell(node, op="frail", how=""))
        self._cluster.tell(node, op="frail", how=fault.option)
        return undo

    def _silent_names(self, fault: Fault, node: str) -> Undo:
        undo = self._lasting(fault.kind, node, lambda: self._cluster.tell(node, op="silent-names", on=False))
        self._cluster.tell(node, op="silent-names", on=True)
        return undo

    def _fork(self, fault: Fault, node: str) -> Undo:
        threading.Thread(target=self._cluster.fork, args=(node, fault.seconds), daemon=True).start()
        return self._lasting(fault.kind, node, _nothing)

    # --- promotions --------------------------------------------------------------------------------------------------

    def _promote(self, fault: Fault, node: str) -> Undo:
        self._aside(node, "force" if fault.option == "force" else "promote")
        return _nothing

    def _promote_two(self, fault: Fault, node: str) -> Undo:
        names = self._cluster.names
        other = names[(names.index(node) + 1 + fault.pick % (len(names) - 1)) % len(names)]
        self._aside(node, "promote")
        self._aside(other, "promote")
        return _nothing

    def _switch_over(self, fault: Fault, node: str) -> Undo:
        self._aside(node, "switchover")
        return _nothing

    def _aside(self, node: str, how: str) -> None:
        thread = threading.Thread(target=self._take_over, args=(node, how), daemon=True)
        thread.start()
        self._promotions.append(thread)

    def _take_over(self, node: str, how: str) -> None:
        began = time.monotonic_ns()
        log = self._cluster.redis.open_log()
        options: dict[str, Any] = {
            "by": "chaos", "lease_ms": int(LEASE_S * 1000), "timeout_s": PROMOTION_TIMEOUT_S
        }  # fmt: skip
        try:
            if how == "switchover":
                ops.switchover(log, node, **options)
            else:
                ops.promote(log, node, force=how == "force", **options)
            self._note(f"{how} of {node} done")
        except (ReplicatorError, TimeoutError) as error:
            self._note(f"{how} of {node}: {type(error).__name__}: {error}")
        finally:
            self._cluster.events.append(Event(kind=how, node=node, began=began, ended=time.monotonic_ns()))
            log.close()


def _nothing() -> None:
    pass
