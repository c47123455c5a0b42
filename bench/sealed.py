"""Sealed bodies: what a key costs a submit, alone and in a crowd."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.harness import Report, Setting, Table, in_rounds
from bench.loads import CHANGE_BYTES, Pace, a_change, figures_of, paced, ratios_of
from bench.states import Nothing
from replicator import Node
from replicator.storage.keyring import Entry, new_key, write_entries

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

PLAIN, SEALED = "submit", "submit, sealed"
MANY, MANY_SEALED = "submit_many of 100", "submit_many of 100, sealed"

AT_ONCE = 100


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    seconds: float


#: Many short ones: what a machine does besides falls on both alike, and the ratio is that of neighbours.
FULL = Sizes(rounds=80, seconds=0.15)
QUICK = Sizes(rounds=3, seconds=0.2)

PROSE = f"""\
One thread submits changes of {CHANGE_BYTES} bytes, each after the answer to the one before, to a node without a key
(the *baseline*) and to one with a key file; then {AT_ONCE} of them in one record. The nodes are of two groups in one
Redis and take turns in each round. Neither has a standby, and the state does nothing. *CPU* is the processor time of
the process for one call: the median of the rounds, and the least of them, which what else runs on the machine disturbed
least.

Encrypting itself takes 0.6 us for such a change, and all of sealing 1.5 us, if nothing else runs in between. Between
two answers of Redis it finds nothing of itself in the caches of the processor, and takes 6 us. A batch is sealed once.
"""


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Measure all ways, interleaved."""
    change = a_change()
    changes = [change] * AT_ONCE
    keys = Path(setting.fresh("keys-of")) / "keys"
    keys.parent.mkdir(parents=True, exist_ok=True)
    write_entries(keys, [Entry(True, new_key())], new=True)
    plain, sealed = (
        Node(
            Nothing(),
            group=setting.group(name),
            name="a",
            data_dir=setting.fresh(name),
            redis=setting.url,
            key_file=key_file,
        )
        for name, key_file in (("plain", ""), ("sealed", keys))
    )
    with plain, sealed:
        plain.promote()
        sealed.promote()
        cases: dict[str, Callable[[], Pace]] = {
            PLAIN: lambda: paced(lambda: plain.submit(change), sizes.seconds),
            SEALED: lambda: paced(lambda: sealed.submit(change), sizes.seconds),
            MANY: lambda: paced(lambda: plain.submit_many(changes), sizes.seconds),
            MANY_SEALED: lambda: paced(lambda: sealed.submit_many(changes), sizes.seconds),
        }
        paces = in_rounds(cases, sizes.rounds)
    return _report(paces)


def _report(paces: dict[str, list[Pace]]) -> Report:
    figures: dict[str, float] = {}
    rows: list[list[str]] = []
    for name, rounds in paces.items():
        base = PLAIN if name in (PLAIN, SEALED) else MANY
        found, (rates, _) = figures_of(rounds), ratios_of(rounds, paces[base])
        figures |= {f"{name} {what}": figure for what, figure in found.items()}
        figures[f"{name} ratio"] = rates.of_medians
        least = figures[f"{name} least cpu us"] = min(pace.cpu_us for pace in rounds)
        rate, *others = found.values()
        ratio = "1" if name == base else str(rates)
        rows.append([name, f"{rate:,.0f}", ratio, *(f"{other:,.0f}" for other in [*others, least])])
    head = ["one at a time", "a second", "x without a key", "p50 us", "p99 us", "CPU us", "at the least"]
    return Report(title="Sealed bodies", prose=PROSE, tables=[Table(head=head, rows=rows)], notes=[], figures=figures)
