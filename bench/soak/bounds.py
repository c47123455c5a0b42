"""What bounds each series of a soak, in words and, where it is a number, as one."""

from __future__ import annotations

from dataclasses import dataclass

from bench.soak.slopes import Bound

__all__ = ["Weights", "bound_of"]

MIB = 1024 * 1024

#: A snapshot is due once the changes outweigh the one before, and this (`protocol/snapshot_due.py`).
CHANGES_BYTES_MIN = MIB

#: What Redis and SQLite have around what is written.
OVERHEAD = 1.5

#: Of a WAL once it was written back (`storage/database_files.py`).
WAL_MIB = 8

#: A stream of requests or acks keeps about 1,000 entries (`log/redis_log.py`), of some hundred bytes.
TWO_STREAMS_MIB = 0.5

#: A server without keys, with its buffers.
SERVER_MIB = 32

#: What supervisord keeps of each program in docker/supervisord.conf, and of itself.
LOGS_MIB = 5 * 3 * 10 + 2 * 5

#: An AOF is written anew once it has doubled, and has 64 MB; meanwhile the old one and the new one are there.
AOF_MIB_MIN = 64


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The newest snapshots of the groups at the end of a soak, in bytes, and what else the bounds go by."""

    registry: int
    small: list[int]
    #: How often a host was started.
    hosts: int = 2

    @property
    def log_mib(self) -> float:
        """Two snapshots and the changes since the older one, of each group."""
        return sum(map(_log_mib, (self.registry, *self.small)))

    @property
    def streams_mib(self) -> float:
        """Requests and acks, of each group."""
        return TWO_STREAMS_MIB * (1 + len(self.small))


def _log_mib(snapshot_bytes: int) -> float:
    # Of the changes: those before the newest snapshot, those since, and what comes until the next one is sent.
    return OVERHEAD * (2 * snapshot_bytes + 3 * max(snapshot_bytes, CHANGES_BYTES_MIN)) / MIB


def bound_of(series: str, first: float, weights: Weights) -> Bound:
    """`series`: WHOSE: WHAT, as `Scene.sampled` names them. `first`: its value after the warm-up."""
    whose, _, what = series.partition(": ")
    if series == "redis: memory MiB":
        most = 2 * (weights.log_mib + weights.streams_mib) + SERVER_MIB
        return Bound(why="the keys, and what its allocator keeps", slack=3, most=most)
    if what == "memory MiB":
        slack = max(2.0, first * 0.03)
        return Bound(
            why="the state, 256 KiB of pages a checkpoint, 100 ends of terms a group, what malloc keeps", slack=slack
        )
    if what == "descriptors":
        return Bound(why="files of the checkpoints, and connections", slack=2)
    if what == "threads":
        return Bound(why="the duties of a node or host, and pools of HTTP", slack=2)
    if whose.endswith("disk"):
        return _of_disk(whose, what, weights)
    if whose == "log files":
        return Bound(
            why="supervisord keeps three files of 10 MB a program", slack=2, most=LOGS_MIB if what == "MiB" else 30
        )
    return _of_redis(what, weights)


def _of_disk(whose: str, what: str, weights: Weights) -> Bound:
    if what == "files" and not whose.startswith("redis"):
        return Bound(why="a checkpoint, its WAL and a lock a group; forks, which the soak deletes", slack=2)
    if whose.startswith("redis"):
        least = max(AOF_MIB_MIN, weights.log_mib)
        most = 6.0 if what == "files" else 4 * least
        return Bound(why="Redis writes its AOF anew once it has doubled, and has 64 MB", slack=1, most=most)
    each = [weights.registry] if whose.startswith("node") else weights.small
    why = "for each group two snapshots, the changes since the older one, free pages, and a WAL of 8 MiB"
    return Bound(why=why, slack=1, most=sum(2 * _log_mib(size) + WAL_MIB for size in each))


def _of_redis(what: str, weights: Weights) -> Bound:
    if what == "keys":
        return Bound(why="7 for each group, and those of RQ", slack=3)
    if what == "alarms":
        return Bound(
            why="one of each host; that of one that was killed is gone after a day", slack=1, most=weights.hosts
        )
    if what == "connections":
        return Bound(why="five for each node and host, and ours", slack=3)
    if what == "scripts":
        return Bound(why="the scripts in log/lua, and none for each call", slack=0.5)
    if what == "logs MiB":
        why = "for each group two snapshots, and the changes since the older one"
        return Bound(why=why, slack=0.5, most=weights.log_mib)
    if what == "requests and acks MiB":
        return Bound(why="1,000 entries in each of two streams a group", slack=0.05, most=weights.streams_mib)
    return Bound(why="buffers of connections, heads and heartbeats", slack=3)
