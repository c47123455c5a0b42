"""The long form: many inputs for each decoder, a table, and exit code 1 at the first finding.

python -m tests.fuzz [--examples 100000] [--seed N] [NAME ...]
"""

from __future__ import annotations

import argparse
import random
import sys

from .engine import LONG, Finding, Ran, heading, limit_memory, line, run
from .targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the decoders.")
    parser.add_argument("--examples", type=int, default=LONG, help="inputs for each decoder (slow ones get a share)")
    parser.add_argument("--seed", type=int, help="of an earlier run, to have its inputs again")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(TARGETS)}; all, if none is given")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in TARGETS]:
        parser.error(f"there is no decoder {unknown[0]!r}, only {', '.join(TARGETS)}")
    seed = random.randrange(2**32) if given.seed is None else given.seed
    limit_memory()
    print(f"seed {seed}\n{heading()}", flush=True)
    return _run_all(given.names or list(TARGETS), given.examples, seed)


def _run_all(names: list[str], examples: int, seed: int) -> int:
    for name in names:
        try:
            ran: Ran = run(TARGETS[name], examples, seed_=seed, told=_tell)
        except Finding as finding:
            print(f"\n{finding}", flush=True)
            return 1
        print(line(ran), flush=True)
    return 0


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}", end="\r", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
