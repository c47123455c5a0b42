"""The command: `python -m tests.chaos [--seed N] [--faults N] [--servers NAME ...] [--keep DIR] [--report FILE]`.

Ends with 1 if a promise was broken. The notes of such a run stay where the last lines say.
"""

from __future__ import annotations

import argparse
import fnmatch
import signal
import sys
import tempfile
from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path

from .broken import VARIANTS
from .report import Outcome, as_text, write_into
from .runs import World, cleared, run, worlds


def main() -> int:
    options = _options()
    chosen = _chosen(options.servers)
    directory = options.keep or Path(tempfile.mkdtemp(prefix="replicator-chaos-"))
    # Like a Ctrl-C: everything that was started is ended first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    outcomes = []
    try:
        for world in chosen:
            outcomes.append(_one(world, options, directory))
            print(as_text(outcomes[-1]), flush=True)
    except KeyboardInterrupt:
        print(f"interrupted; the notes are in {directory}", file=sys.stderr)
        return 130
    broken = [outcome for outcome in outcomes if not outcome.verdict.ok]
    for outcome in broken:
        print(f"\n{outcome.name}: a promise was broken. Its notes: {outcome.directory}\nAgain: {outcome.replay}")
    if options.report:
        write_into(options.report, outcomes)
    if not broken and not options.keep:
        directory.rmdir()
    return 1 if broken else 0


def _one(world: World, options: argparse.Namespace, directory: Path) -> Outcome:
    say = print if options.verbose else _silent
    place = _unused(directory / f"{world.name.replace(':', '-')}-seed-{options.seed}")
    nodes = [chr(ord("a") + number) for number in range(options.nodes or world.nodes)]
    outcome = run(
        world, seed=options.seed, faults=options.faults, directory=place, say=say, nodes=nodes, breaks=options.breaks
    )
    return cleared(outcome, lambda outcome: bool(options.keep) or not outcome.verdict.ok)


def _unused(place: Path) -> Path:
    """That place, or one beside it: what an earlier run left there is not of this one."""
    others = (place.with_name(f"{place.name}-{number}") for number in count(2))
    return next(each for each in chain([place], others) if not each.exists())


def _silent(_: str) -> None:
    pass


def _chosen(patterns: Sequence[str]) -> list[World]:
    known = worlds()
    chosen = [world for world in known if any(fnmatch.fnmatch(world.name, pattern) for pattern in patterns)]
    if not chosen:
        sys.exit(f"no such server; there are {', '.join(world.name for world in known)}")
    return chosen


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break everything, check every promise.")
    parser.add_argument("--seed", type=int, default=1, help="decides the schedule of faults")
    parser.add_argument("--faults", type=int, default=100, help="how many, for each server")
    parser.add_argument(
        "--servers", nargs="+", default=["*"], metavar="NAME", help="such as redis-8.2.3:always, or sentinel:*"
    )
    parser.add_argument("--nodes", type=int, choices=range(3, 6), help="3, or 5 where there are hosts")
    parser.add_argument(
        "--break", dest="breaks", default="", choices=list(VARIANTS), help="take this rule out: chaos should notice"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the notes of every run there")
    parser.add_argument("--report", type=Path, metavar="FILE", help="replace the figures in this document")
    parser.add_argument("--verbose", action="store_true", help="a line per fault")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
