"""What a node costs that has nothing to do: processor time and memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import NamedTuple

from bench.harness import Child, Report, Setting, Table, heard, in_rounds, memory, now_ns
from bench.states import Nothing
from replicator import Node

__all__ = ["FULL", "QUICK", "Sizes", "measure"]

ROLES = ("primary", "standby")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    rounds: int
    #: Of one window, in which both nodes are watched.
    seconds: float


FULL = Sizes(rounds=5, seconds=4.0)
QUICK = Sizes(rounds=2, seconds=1.0)

PROSE = """\
A primary and a standby of one group with the lease that nodes have by default, in processes of their own, with an empty
state and nobody who submits anything: what is left is heartbeats, the renewal of the lease and waiting. *CPU* is the
processor time of the process, all of its threads, user and system, as a share of one core; *resident* is what the
process has in memory, Python and its libraries included. What Redis does for it is not in it. A goal is held against
the worse of the two nodes.
"""


class Window(NamedTuple):
    cpu_share: float
    resident_mb: float


def measure(setting: Setting, sizes: Sizes) -> Report:
    """Watch both nodes for so many windows."""
    group = setting.group("idle")
    with ExitStack() as stack:
        children = {
            role: stack.enter_context(Child(be_idle, setting.url, group, setting.fresh("idle"), role)) for role in ROLES
        }
        for child in children.values():
            child.hear()
        # At the same time: they share a group, and do nothing that would disturb the other.
        watched = partial(_watched, children, sizes.seconds)
        rounds: list[dict[str, Window]] = in_rounds({"idle": watched}, sizes.rounds)["idle"]
    return _report(rounds)


def _watched(children: Mapping[str, Child], seconds: float) -> dict[str, Window]:
    for child in children.values():
        child.tell("begin")
    time.sleep(seconds)
    return {role: child.ask("end") for role, child in children.items()}


def be_idle(pipe: Connection, url: str, group: str, data_dir: Path, role: str) -> None:
    """The process of a node that does nothing. It looks at itself only when it is told to."""
    with Node(Nothing(), group=group, name=role, data_dir=data_dir, redis=url) as node:
        if role == "primary":
            node.promote()
        node.wait(n=1)
        pipe.send("ready")
        began_ns = cpu_ns = 0
        while (told := heard(pipe)) is not None:
            if told == "begin":
                began_ns, cpu_ns = now_ns(), time.process_time_ns()
            else:
                cpu_share = (time.process_time_ns() - cpu_ns) / (now_ns() - began_ns)
                pipe.send(Window(cpu_share, memory().resident_mb))


def _report(rounds: Sequence[Mapping[str, Window]]) -> Report:
    rows: list[list[str]] = []
    figures: dict[str, float] = {}
    for role in ROLES:
        shares = [windows[role].cpu_share for windows in rounds]
        resident_mb = median(windows[role].resident_mb for windows in rounds)
        figures |= {f"{role} cpu share": median(shares), f"{role} resident MB": resident_mb}
        rows.append([role, f"{median(shares):.2%}", f"{min(shares):.2%} to {max(shares):.2%}", f"{resident_mb:.1f}"])
    figures |= {what: max(figures[f"{role} {what}"] for role in ROLES) for what in ("cpu share", "resident MB")}
    table = Table(head=["idle node", "CPU", "range", "resident MB"], rows=rows)
    return Report(title="An idle node", prose=PROSE, tables=[table], figures=figures)
