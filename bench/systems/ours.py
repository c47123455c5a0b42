"""A primary of this package, and a standby in another process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.harness import Setting
from bench.inbox import Inbox
from bench.loads import Pace, a_change, by_tasks, by_threads, in_batches, paced
from bench.systems.base import Running, Sender, System, running
from replicator import Node

__all__ = ["OURS", "NodeSender", "receive_applied"]

#: The record of the first term: who has that, has joined.
FIRST = 1


class NodeSender(Sender):
    """The primary. Those who submit at the same time are asyncio tasks; threads, where the node has no `asubmit`."""

    def __init__(self, url: str, group: str, data_dir: Path) -> None:
        self._node = Node(Inbox(), group=group, name="a", data_dir=data_dir, redis=url)
        self._node.start()
        self._node.promote()

    def send(self, number: int) -> None:
        self._node.submit(a_change(number))

    def one_at_a_time(self, seconds: float) -> Pace:
        change = a_change()
        return paced(lambda: self._node.submit(change), seconds)

    def concurrent(self, submitters: int, seconds: float) -> Pace:
        change, node = a_change(), self._node
        if not hasattr(node, "asubmit"):
            return by_threads(lambda: node.submit(change), submitters, seconds)
        return asyncio.run(by_tasks(lambda: node.asubmit(change), submitters, seconds))

    def batches(self, size: int, seconds: float) -> Pace | None:
        changes, node = [a_change()] * size, self._node
        if not hasattr(node, "submit_many"):
            return None
        return in_batches(lambda: node.submit_many(changes), size, seconds)

    def close(self) -> None:
        self._node.stop()


@contextmanager
def receive_applied(inbox: Inbox, url: str, group: str, data_dir: Path, name: str = "b") -> Iterator[None]:
    """The standby: what it applies goes into the inbox, which is its state."""
    with Node(inbox, group=group, name=name, data_dir=data_dir, redis=url) as node:
        node.wait(n=FIRST)
        yield


@contextmanager
def run(setting: Setting) -> Iterator[Running]:
    group = setting.group("ours")
    place: tuple[Any, ...] = setting.url, group
    sender = NodeSender, *place, setting.fresh("primary")
    with running(sender, (receive_applied, *place, setting.fresh("standby"))) as both:
        yield both


OURS = System(
    name="replicator",
    means="in the server's memory and its AOF, whose fsync is the server's; fenced by terms; applied on the primary. A "
    "standby applies it, and has it in its own checkpoint, synced, within 0.1 s",
    run=run,
)
