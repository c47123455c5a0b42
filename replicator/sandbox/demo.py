"""`make demo`: a group under load whose primary hangs, and is killed later, and in plain words what that cost.

A short drill (`replicator.sandbox.drill` says how it counts) with a longer account of what was found, for readers who
have not read the documents yet.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

from replicator.errors import ReplicatorError
from replicator.ops.common import LEASE_MS
from replicator.sandbox import drill
from replicator.sandbox.drill import FaultReport, Report

__all__ = ["in_words", "main"]

#: From both a standby takes over for certain: each primary is away for longer than its lease.
FAULTS = ("pause", "crash")

#: Short, so that the demo is: nobody takes over before the lease has run out.
LEASE_S = 1.0

SECONDS_PER_FAULT = 5.0

OPENING = f"""\
A Redis and three nodes of a registry on this machine; four writers register machines, one after the other.
First the primary is made to hang, then the next one is killed. Nobody helps: once a primary was silent for its
lease, a standby takes over by itself. The lease is {LEASE_S:g} s here; the default is {LEASE_MS / 1000:g} s.
"""

TITLES = {"pause": "The primary hung, and woke up later", "crash": "The next primary was killed, and started later"}


def main() -> int:
    """Play it, and tell. The exit code: 0 if nothing was lost and nothing is wrong."""
    print(OPENING)
    started = time.monotonic()
    try:
        report = drill.run(
            FAULTS,
            lease_s=LEASE_S,
            seconds_per_fault=SECONDS_PER_FAULT,
            log_level="WARNING",
            say=lambda text: print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True),
        )
    except ReplicatorError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    if report is None:
        print("\ninterrupted; nothing runs any more", file=sys.stderr)
        return 1
    print("", *in_words(report), sep="\n")
    return 0 if report.passed else 1


def in_words(report: Report) -> Iterator[str]:
    """What a drill found, for somebody who sees one for the first time."""
    yield from map(_cost, report.faults)
    yield ""
    yield f"{_writes(report.acknowledged_count)} acknowledged: {len(report.lost_tags)} of them are missing."
    during = sum(fault.acknowledged_count for fault in report.faults)
    yield f"  ({during:,} of them while a fault was played, the others before, between and after.)"
    appeared = len(report.appeared_tags)
    yield f"{_writes(report.refused_count)} refused, or reached nobody: {appeared} of them are in the state."
    yield f"{_writes(report.unknown_count)} not answered in time: {report.landed_count} of them are in the state."
    yield "  (Any number is right here: nobody was told what became of them.)"
    yield f"In the state twice: {len(report.doubled_tags)}."
    refused = sum(fault.stale_refused_count for fault in report.faults)
    yield (
        f"{_writes(refused + report.stale_accepted_count)} sent in the name of a primary that had been replaced: "
        f"Redis took {report.stale_accepted_count} of them."
    )
    equal = "have the same state" if report.equal else "are NOT shown to have the same state"
    yield f"All three nodes, the old primaries among them, {equal}."
    yield from (f"Problem: {problem}" for problem in report.problems)
    yield ""
    yield "All is as it should be." if report.passed else "NOT as it should be: see above."


def _cost(fault: FaultReport) -> str:
    led = f"{fault.primary} led in term {fault.term}" if fault.primary is not None else "nobody led"
    return f"{TITLES[fault.fault]}: nobody could write for {fault.gap_ms / 1000:.1f} s, then {led}."


def _writes(number: int) -> str:
    return f"{number:,} write was" if number == 1 else f"{number:,} writes were"


if __name__ == "__main__":
    sys.exit(main())
