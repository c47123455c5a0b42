"""The faults of a run, drawn from a seed before the run begins. Pure: equal seeds give equal schedules.

A schedule says what happens to whom for how long, and not to which process: "the primary" is who leads when its turn
comes. Most steps are one fault, some are two or three at the same time, each beginning a little later than the one
before. Durations are short, and there is a pause behind each step, in which the group may recover or not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Fault", "Kind", "Step", "draw", "kinds_for"]

#: Whom a fault on a node hits. The primary is where it matters most.
TARGETS = {"primary": 5, "standby": 3, "any": 2}

#: How many faults a step has.
TOGETHER = {1: 6, 2: 4, 3: 2}


class Kind(NamedTuple):
    """A kind of fault: how often, for how many seconds, in which variants."""

    weight: int
    seconds: tuple[float, float]
    options: Sequence[str] = ("",)
    on_node: bool = True


#: Durations are set against a lease of 0.6 s: about half of the pauses outlast it.
_ON_NODES = {
    "kill-node": Kind(12, (0.05, 1.2)),
    "kill-all": Kind(2, (0.05, 0.5), on_node=False),
    "pause-node": Kind(12, (0.3, 1.8)),
    "slow-disk": Kind(5, (0.5, 1.5), ("0.05", "0.3")),
    "failing-snapshot": Kind(4, (0.5, 1.5), ("call", "piece")),
    "fork-node": Kind(4, (0.1, 0.8)),
    "promote": Kind(8, (0.0, 0.0), ("", "", "", "force")),
    "promote-two": Kind(4, (0.0, 0.0)),
    "switchover": Kind(5, (0.0, 0.0)),
}

#: Where the node's data is on a file system that can be filled.
_ON_SMALL_DISKS = {
    "full-disk": Kind(5, (0.3, 2.0)),
}

_ON_LINKS = {
    "cut": Kind(8, (0.05, 1.5)),
    "stall": Kind(8, (0.2, 1.5), ("requests", "replies")),
    "lose-reply": Kind(8, (0.3, 0.8), ("1", "3", "9")),
    "hold": Kind(7, (0.2, 1.5), ("", "cut")),
    "delay": Kind(4, (0.3, 1.0), ("0.02", "0.1")),
}

_ON_ONE_REDIS = {
    "kill-redis": Kind(6, (0.05, 0.8), on_node=False),
    "pause-redis": Kind(5, (0.1, 1.2), on_node=False),
    "full-memory": Kind(5, (0.3, 1.5), on_node=False),
    "acl": Kind(5, (0.3, 1.5), ("-xadd", "-hset", "-hmget", "-evalsha", "-xread", "-set"), on_node=False),
}

#: Seconds by which the clock of Redis steps, and back again.
_ON_CLOCKS = {
    "clock-step": Kind(6, (0.5, 2.5), ("-3600", "-5", "5", "3600"), on_node=False),
}

#: What was written in the meantime is gone afterwards, `fsynced` or not: harder than a real one.
_POWER_CUTS = {
    "power-cut": Kind(14, (0.05, 1.0), on_node=False),
    # Nobody but the primary has what Redis loses, and it is gone when the others go on: something has to be lost.
    "lone-primary": Kind(4, (0.4, 1.2), on_node=False),
}

#: A failover takes Sentinel about two seconds, so what provokes one lasts longer.
_ON_REPLICATED_REDIS = {
    "pause-master": Kind(5, (2.5, 3.5), on_node=False),
    "kill-master": Kind(5, (2.5, 3.5), on_node=False),
    "lagging-failover": Kind(5, (2.5, 3.5), ("0.2", "0.5"), on_node=False),
    "pause-replica": Kind(4, (0.2, 1.0), on_node=False),
}

_ON_SENTINELS = {
    # One that wakes up tells of the master that it knew.
    "pause-sentinel": Kind(5, (0.5, 4.0), on_node=False),
    "kill-sentinel": Kind(3, (0.5, 3.0), on_node=False),
}

#: Nodes that find servers by name: the resolver does not answer.
_ON_NAMES = {
    "silent-names": Kind(4, (0.5, 3.0)),
}

#: Between hosts: who is cut off from the others is drawn. The first option is the way in which packets get through.
_ON_HOSTS = {
    "partition": Kind(14, (1.0, 5.0), ("", "", "in", "out"), on_node=False),
    # The master of Redis, a node (mostly the primary) and another one are cut off from the rest.
    "minority": Kind(8, (3.0, 7.0)),
}


def kinds_for(
    *,
    aof: str,
    replicas: int = 0,
    sentinels: bool = True,
    hosts: bool = False,
    clock: bool = False,
    disks: bool = False,
) -> dict[str, Kind]:
    """What can be done to this kind of Redis. Where it has replicas the nodes' links are their own, and not touched.

    With `always` nothing is ever lost, and reads are held to that. With `everysec` a power cut takes something.
    `clock`, `disks`: the clock of Redis can be set, the disks of nodes can be filled.
    """
    kinds = {**_ON_NODES, **(_ON_SMALL_DISKS if disks else {})}
    if replicas:
        kinds |= {**_ON_REPLICATED_REDIS, **_ON_NAMES, **(_ON_SENTINELS if sentinels else {})}
        return kinds | (_ON_HOSTS if hosts else {})
    kinds |= {**_ON_LINKS, **_ON_ONE_REDIS, **(_ON_CLOCKS if clock else {})}
    return kinds | (_POWER_CUTS if aof == "everysec" else {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault: `after` seconds into its step, for `seconds`. `pick` decides between nodes that fit the target."""

    kind: str
    seconds: float
    target: str = ""
    option: str = ""
    after: float = 0.0
    pick: int = 0

    def __str__(self) -> str:
        words = [self.kind, self.target, self.option, f"{self.seconds:.2f} s" if self.seconds else ""]
        return " ".join(filter(None, words))


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Faults at the same time, and the pause behind them."""

    faults: tuple[Fault, ...]
    rest_s: float


def draw(seed: int | str, faults: int, kinds: dict[str, Kind]) -> list[Step]:
    """Steps with so many faults in all."""
    chance = random.Random(seed)
    steps: list[Step] = []
    while faults > 0:
        (count,) = chance.choices(list(TOGETHER), list(TOGETHER.values()))
        together = tuple(_fault(chance, kinds, number) for number in range(min(count, faults)))
        steps.append(Step(faults=together, rest_s=_rounded(chance.uniform(0.1, 1.0))))
        faults -= len(together)
    return steps


def _fault(chance: random.Random, kinds: dict[str, Kind], number: int) -> Fault:
    (name,) = chance.choices(list(kinds), [kind.weight for kind in kinds.values()])
    kind = kinds[name]
    (target,) = chance.choices(list(TARGETS), list(TARGETS.values()))
    return Fault(
        kind=name,
        seconds=_rounded(chance.uniform(*kind.seconds)),
        target=target if kind.on_node else "",
        option=chance.choice(kind.options),
        after=_rounded(chance.uniform(0.0, 0.4)) if number else 0.0,
        pick=chance.randrange(60),
    )


def _rounded(seconds: float) -> float:
    # A schedule is read by people, and written to a file.
    return round(seconds, 2)
