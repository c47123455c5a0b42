"""What befalls a group of nodes: another holder, a full disk, a vacant term; and states that are large."""

from __future__ import annotations

import errno
import random
import threading
from collections import Counter
from typing import Any

import pytest

from replicator import CheckpointError, LogUnavailable, Node
from replicator.format.ids import Writer
from replicator.log.interface import Batch
from replicator.protocol.group import Claim, GroupView, Reply
from replicator.testing import MemoryLog
from tests.support.kv import LEASE_S, Group, eventually
from tests.support.worlds import promote


def replace_holder(group: Group, name: str = "b") -> int:
    """Somebody else, of whom there is no process here, takes the next term."""
    look = group.server.look()
    claim = Claim(writer=Writer(name, "boot"), floor=0, lease_ms=60_000, by="test", reason="")
    reply = group.log().promote(claim)
    assert reply.term == look.term + 1
    return reply.term


def large(n: int = 40) -> dict[str, Any]:
    """`put`s of 16 KiB each that do not compress."""
    rng = random.Random(n)
    return {f"k{i}": rng.randbytes(12 * 1024).hex() for i in range(n)}


def failing_disk(monkeypatch: pytest.MonkeyPatch, node: Node) -> threading.Event:
    """From now on the disk is full, until the event is set."""
    mended = threading.Event()
    save = node._running.checkpoint.save

    def refuse(*args: Any, **options: Any) -> None:
        if not mended.is_set():
            raise CheckpointError(path=node.data_dir, problem=errno.errorcode[errno.ENOSPC])
        save(*args, **options)

    monkeypatch.setattr(node._running.checkpoint, "save", refuse)
    return mended


def vacant_group(group: Group, *names: str, lease_s: float = LEASE_S, **options: Any) -> list[Node]:
    """Candidates that have read everything, in a group whose holder `z` has no process. Its lease runs on."""
    promote(group.log(), "z")
    nodes = [group.node(name, auto_promote=True, lease_s=lease_s, **options) for name in names]
    eventually(lambda: all(node.term == 1 for node in nodes), "the term of z")
    reported(group, *nodes)
    return nodes


def reported(group: Group, *nodes: Node) -> None:
    """Wait until the others can see where each of these nodes is."""

    def all_told() -> bool:
        group.wake()
        heartbeats = group.server.look().heartbeats
        return all(node.name in heartbeats and heartbeats[node.name].position == node.position for node in nodes)

    eventually(all_told, "the heartbeats")


def lease_runs_out(node: Node, in_s: float = 0.3) -> None:
    """The node's lease ends so soon, as its last renewal had been asked for long ago. It fails to renew it meanwhile.

    So its lease may be so long that no busy machine costs it before. What Redis has of it stays: see `Group.end_lease`.
    """
    lease = node._setup.lease
    with node._running.ha_loop.lease_keeper._leasing:  # no renewal is under way
        lease.renewed(lease.now() - lease.length_s + in_s)


def is_missed_late(group: Group, node: Node) -> None:
    """The others would wait for a minute for its next heartbeat before they take it for dead. It comes as ever."""
    reporter = node._running.ha_loop.reporter
    heartbeat, every_ms = reporter.heartbeat, 20_000
    reporter.heartbeat = lambda: heartbeat()._replace(every_ms=every_ms)  # type: ignore[method-assign]

    def is_told() -> bool:
        group.wake()
        told = group.server.look().heartbeats.get(node.name)
        return told is not None and told.every_ms == every_ms

    eventually(is_told, "the heartbeat")


def impatient(node: Node) -> None:
    """What becomes of a write whose answer is lost, it gives up soon to find out."""
    node._running.primary.writer._patience_s = 0.2


def sleeps(group: Group, node: Node) -> None:
    """Wait until nothing but the end of the holder's lease, or being woken, has the node look at the group again."""
    policy = node._running.ha_loop._policy._replace(beat_every_s=3600.0)
    node._running.ha_loop._policy = node._running.ha_loop.reporter._policy = node._running.ha_loop.candidate._policy = (
        policy
    )
    looked_at = node._running.ha_loop.observer.looked_at
    group.wake()
    eventually(lambda: node._running.ha_loop.observer.looked_at > looked_at)


class Counting(MemoryLog):
    """Counts what it is asked, and can refuse snapshots."""

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self.asked: Counter[str] = Counter()
        self.full = False

    def look(self) -> GroupView:
        self.asked["look"] += 1
        return super().look()

    def read(self, after: Any, **options: Any) -> Batch:
        self.asked["read"] += 1
        return super().read(after, **options)

    def append(self, record: Any, **options: Any) -> Reply:
        self.asked["append"] += 1
        return super().append(record, **options)

    def part(self, record: Any, *, rebase: bool = False) -> Reply:
        self.asked["part"] += 1
        if self.full:
            raise LogUnavailable(url=self.url, problem="OOM")
        return super().part(record, rebase=rebase)


def saves_nothing_unasked(node: Node) -> None:
    """What this node may forget waits in its memory from now on. What must not be forgotten takes it along, as ever."""
    saved = node._running.replica.saved
    save = saved._save
    saved._save = lambda steps, **how: save(steps, **how) if steps else None  # type: ignore[method-assign]
    with saved._disk:  # a save that is under way is over
        pass
