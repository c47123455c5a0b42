"""One run from its beginning to its verdict, and the worlds that there are to run in."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from replicator.sandbox.redis_server import ServerBinary
from tests.support.servers import servers_at_hand
from tests.support.small_disk import can_mount

from .checker import check
from .cluster import SETTLE_S, Cluster
from .hosts import HostsRedis, has_hosts
from .nemesis import Nemesis, Say
from .redises import ClusterRedis, OneRedis, Redis, SentinelRedis
from .report import Outcome
from .schedule import Step, draw

#: The first server with WAITAOF, by flavour.
FSYNCS_SINCE = {"redis": (7, 2, 0), "valkey": (7, 2, 0)}

#: Before the first fault, somebody leads and clients write.
CALM_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A Redis to run over. `name` is how the command line says it: `redis-8.2.3:always`, `sentinel:valkey-9.1.2`."""

    name: str
    binary: ServerBinary
    aof: str = ""
    nodes: int = 3
    many: Callable[[Path, ServerBinary], Redis] | None = None

    def redis(self, directory: Path) -> Redis:
        if self.many is not None:
            return self.many(directory, self.binary)
        return OneRedis(directory, self.binary, aof=self.aof)

    @property
    def fsyncs(self) -> bool:
        return self.binary.version >= FSYNCS_SINCE[self.binary.flavour]


def worlds() -> list[World]:
    """Every server at hand with either way of writing its AOF, each under Sentinel, and as a cluster."""
    return list(_worlds())


def _worlds() -> Iterator[World]:
    for binary in servers_at_hand():
        for aof in ("always", "everysec"):
            yield World(name=f"{binary.id}:{aof}", binary=binary, aof=aof)
    for kind, many in (("sentinel", SentinelRedis), ("cluster", ClusterRedis)):
        for binary in servers_at_hand():
            yield World(name=f"{kind}:{binary.id}", binary=binary, many=many)
    if has_hosts():
        for binary in servers_at_hand():
            yield World(name=f"hosts:{binary.id}", binary=binary, nodes=5, many=HostsRedis)


def run(
    world: World,
    *,
    seed: int,
    faults: int,
    directory: Path,
    say: Say,
    nodes: Sequence[str] = ("a", "b", "c"),
    clients: int = 2,
    breaks: str = "",
) -> Outcome:
    """Draw a schedule, carry it out, heal everything, and check what was noted.

    `breaks`: takes that rule out of replicator in every node (`broken.py`).
    """
    redis = world.redis(directory)
    kinds = redis.kinds(disks=can_mount())
    steps = draw(f"{seed} {world.name}", faults, kinds)
    directory.mkdir(parents=True)
    _write_schedule(steps, directory / "schedule.txt")
    acks = _levels(len(nodes), redis.setting.replicas, fsyncs=world.fsyncs)
    with Cluster(directory, redis, nodes=nodes, breaks=breaks) as cluster:
        nemesis = Nemesis(cluster, cluster.notes("faults"), say)
        cluster.start_clients(clients, acks=acks, seed=seed)
        problems = [] if _somebody_leads(cluster) else [f"nobody led within {SETTLE_S:g} s of the start"]
        time.sleep(CALM_S)
        began = time.monotonic_ns()
        nemesis.run(steps)
        ended = time.monotonic_ns()
        cluster.heal()
        noted = cluster.collect([*problems, *cluster.settle()])
    return Outcome(
        name=world.name,
        seed=seed,
        run=noted,
        verdict=check(noted),
        faults=dict(nemesis.done),
        began=began,
        ended=ended,
        directory=directory,
        replay=_command(world, seed, faults, nodes, breaks),
    )


def _levels(nodes: int, replicas: int, *, fsyncs: bool) -> list[str]:
    """The ack levels that clients use. Half of the promises are about the weakest."""
    levels = ["appended", "appended", "applied:1", f"applied:{nodes - 1}"]
    if fsyncs:
        levels.append("fsynced")
    if replicas:
        levels += ["replicated:1", f"replicated:{replicas}"]
    return levels


def _command(world: World, seed: int, faults: int, nodes: Sequence[str], breaks: str) -> str:
    options = f"--seed {seed} --faults {faults} --servers {world.name} --nodes {len(nodes)}"
    return f"python -m tests.chaos {options}" + (f" --break {breaks}" if breaks else "")


def _somebody_leads(cluster: Cluster) -> bool:
    return cluster.wait_for(lambda: cluster.primary is not None)


def _write_schedule(steps: Sequence[Step], path: Path) -> None:
    lines = (f"{' + '.join(map(str, step.faults))}; then {step.rest_s} s of rest\n" for step in steps)
    path.write_text("".join(lines))


def cleared(outcome: Outcome, keep: Callable[[Outcome], bool]) -> Outcome:
    """Remove the notes of a run, unless somebody wants them."""
    if not keep(outcome):
        shutil.rmtree(outcome.directory, ignore_errors=True)
    return outcome
