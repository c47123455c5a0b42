"""Explores every order of events in a small world, breadth first, and says how it came to what must not be.

    python -m tests.model.explore [--large] [--without RULE] [changes=2 promotions=3 ...]

What may happen is in `world.py`, and so is what is checked in every world (G1 to G8, that nobody is told wrongly that a
change is not in, and that a node knows what its history has); `ending.py` completes every world without further faults
and checks how it ends. Nothing is decided here: the nodes, the fold and the scripts are the real ones, but for the rule
that is taken away (`removals.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import time
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from replicator.testing import MemoryRedis

from .ending import Ending
from .keys import KeyedMachine
from .parts import Bounds, Breach, World
from .removals import HARMLESS, REMOVALS, Removal
from .world import Machine

__all__ = ["LARGE", "SMALL", "Explored", "Violation", "explore", "explore_without"]

#: Bounds that take seconds, and how many worlds there are at the least.
SMALL = (
    (Bounds(changes=2, promotions=2), 10_000),
    (Bounds(changes=2, promotions=1, crashes=1), 10_000),
    (Bounds(changes=1, promotions=1, crashes=1, failovers=1), 30_000),
    (Bounds(changes=1, promotions=2, failovers=1, parts=2, resends=0), 40_000),
    (Bounds(changes=1, promotions=1, snapshots=1, parts=2, resends=0), 1_500),
    (Bounds(changes=1, promotions=0, crashes=1, snapshots=2, parts=2, resends=0), 5_000),
    (Bounds(changes=1, promotions=0, failovers=1, snapshots=2, parts=2, resends=0), 10_000),
    (Bounds(changes=1, promotions=1, failovers=1, resends=0, nodes=3), 40_000),
    (Bounds(changes=1, promotions=1, crashes=1, forgeries=1, resends=0), 5_000),
    (Bounds(changes=2, promotions=1, crashes=1, keyed=True), 5_000),
    (Bounds(changes=2, promotions=2, resends=0, keyed=True), 3_000),
    (Bounds(changes=1, promotions=1, crashes=1, drifts=1, resends=0), 10_000),
    (Bounds(changes=2, promotions=1, crashes=1, resends=0, poison=3, skips=1, cures=1), 20_000),
    (Bounds(changes=1, promotions=1, failovers=1, resends=0, parts=2, poison=3, skips=1), 40_000),
    (Bounds(changes=2, promotions=0, crashes=2, resends=0, parts=2, poison=3, skips=1), 8_000),
    (Bounds(changes=2, promotions=1, crashes=1, resends=0, poison=2, skips=1, forced=True), 15_000),
    (Bounds(changes=2, promotions=1, crashes=1, resends=0, poison=3, skips=1, nodes=3), 25_000),
)

#: The full bounds. The term that the log was founded with is one more promotion.
LARGE = (
    Bounds(changes=2, promotions=3),
    Bounds(changes=1, promotions=3, failovers=1),
    Bounds(changes=1, promotions=2, crashes=1, failovers=1),
    Bounds(changes=1, promotions=1, crashes=1, snapshots=2, parts=2, resends=0),
    Bounds(changes=1, promotions=1, failovers=1, snapshots=2, parts=2, resends=0),
    Bounds(changes=1, promotions=2, crashes=1, failovers=1, parts=2, resends=0),
    Bounds(changes=2, promotions=2, crashes=1, failovers=1),
    Bounds(changes=1, promotions=2, failovers=1, resends=0, nodes=3),
    Bounds(changes=1, promotions=1, crashes=1, failovers=1, resends=0, nodes=3),
    Bounds(changes=1, promotions=1, failovers=1, forgeries=1, resends=0),
    Bounds(changes=1, promotions=2, crashes=1, forgeries=1, resends=0),
    Bounds(changes=1, promotions=1, crashes=1, failovers=1, resends=0, poison=3, skips=1),
    Bounds(changes=1, promotions=1, failovers=1, resends=0, poison=3, skips=2, cures=1),
    Bounds(changes=2, promotions=1, crashes=1, resends=0, parts=2, poison=3, skips=2, cures=1),
    Bounds(changes=1, promotions=1, crashes=1, snapshots=1, parts=2, resends=0, poison=3, skips=1, cures=1),
    Bounds(changes=2, promotions=1, crashes=1, resends=0, poison=6, skips=1, nodes=3),
)


class Explored(NamedTuple):
    """How much there was. `depth`: the most steps that any world is away from the start."""

    worlds: int
    transitions: int
    depth: int
    seconds: float

    def __str__(self) -> str:
        rate = self.worlds / max(self.seconds, 0.001)
        return (
            f"{self.worlds:,} worlds, {self.transitions:,} transitions, at most {self.depth} steps deep, "
            f"{self.seconds:.1f} s, {rate:,.0f} worlds/s"
        )


class Violation(Exception):
    """Something that must not be was reached. `path`: the steps to it."""

    def __init__(self, breach: str, path: list[str], explored: Explored) -> None:
        super().__init__(breach, path)
        self.breach = breach
        self.path = path
        self.explored = explored

    def __str__(self) -> str:
        return "\n".join([self.breach, *(f"  {i}. {text}" for i, text in enumerate(self.path, 1))])


class _Exploration:
    """The worlds so far, in the order in which they were found, and from which one each was."""

    def __init__(self, machine: Machine, *, progress: bool) -> None:
        self.machine = machine
        self.ending = Ending(machine)
        self.worlds = [machine.start().packed()]
        self.numbers = {self.worlds[0]: 0}
        self.parents = array("L", [0])
        self.transitions = 0
        self.depth = 0
        self.started_at = time.monotonic()
        self.progress = progress

    def run(self, after: tuple[str, ...] = ()) -> Explored:
        """All worlds, or those that there are `after` these steps: of each, how its text begins."""
        for begins in after:
            self._go(begins)
        begin, end = len(self.worlds) - 1, len(self.worlds)
        while begin < end:
            for number in range(begin, end):
                self._expand(number)
            begin, end = end, len(self.worlds)
            self.depth += begin < end
            if self.progress:
                print(f"  {self.depth}: {self.explored()}", file=sys.stderr, flush=True)
        return self.explored()

    def explored(self) -> Explored:
        return Explored(len(self.worlds), self.transitions, self.depth, time.monotonic() - self.started_at)

    def _go(self, begins: str) -> None:
        number = len(self.worlds) - 1
        steps = self.machine.steps(World.unpacked(self.worlds[number]))
        self._add(next(after.packed() for text, after in steps if text.startswith(begins)), number)

    def _expand(self, number: int) -> None:
        text = ""
        world = World.unpacked(self.worlds[number])
        try:
            self.ending.check(world)
            for text, after in self.machine.steps(world):
                self.transitions += 1
                key = after.packed()
                if key not in self.numbers:
                    self.machine.check(after.ghost, after.nodes)
                    self._add(key, number)
                text = ""
        except Breach as breach:
            path = [*self._path(number), *([text] if text else []), *breach.steps]
            raise Violation(str(breach), path, self.explored()) from None

    def _add(self, world: bytes, parent: int) -> None:
        self.numbers[world] = len(self.worlds)
        self.worlds.append(world)
        self.parents.append(parent)

    def _path(self, number: int) -> list[str]:
        texts = []
        while number:
            parent = self.parents[number]
            steps = self.machine.steps(World.unpacked(self.worlds[parent]))
            texts.append(next(text for text, after in steps if after.packed() == self.worlds[number]))
            number = parent
        return texts[::-1]


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    # Millions of tuples and no cycle among them: the collector would go through them again and again.
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def explore(
    bounds: Bounds,
    *,
    redis: type[MemoryRedis] = MemoryRedis,
    progress: bool = False,
    after: tuple[str, ...] = (),
) -> Explored:
    """Go through every world within `bounds`, or those `after` some steps. Raises `Violation`."""
    with _without_collector():
        machine = KeyedMachine if bounds.keyed else Machine
        return _Exploration(machine(bounds, redis=redis), progress=progress).run(after)


def explore_without(removal: Removal, *, progress: bool = False, from_start: bool = False) -> Explored:
    """Go through the worlds in which a rule is missed, all of them or those after its first steps.

    Raises `Violation`: it ought to.
    """
    with removal.applied():
        after = () if from_start else removal.after
        return explore(removal.bounds, redis=removal.redis, progress=progress, after=after)


def main() -> int:
    known = REMOVALS | HARMLESS
    parser = argparse.ArgumentParser(prog="python -m tests.model.explore", description=__doc__.partition("\n")[0])
    parser.add_argument("--large", action="store_true", help="the full bounds: takes minutes, and some GB")
    parser.add_argument("--without", choices=sorted(known), help="take a rule away")
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("bound", nargs="*", help="bounds of one's own: changes=2 promotions=3 ...")
    options = parser.parse_args()
    try:
        if options.without:
            print(known[options.without].about)
            print(explore_without(known[options.without], progress=options.progress, from_start=True))
            return 0
        own = {name: int(value) for name, _, value in (bound.partition("=") for bound in options.bound)}
        for bounds in [Bounds(**own)] if own else LARGE if options.large else [bounds for bounds, _ in SMALL]:
            print(bounds, flush=True)
            print(explore(bounds, progress=options.progress), flush=True)
    except Violation as violation:
        print(violation)
        print(violation.explored)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
