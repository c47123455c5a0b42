"""Many small groups in two processes, each a `Host`: one that leads them and one that follows, with a steady load.

The state of a group is a table of bounded size, whose rows are written again and again with text that does not
compress, so what grows is nothing that the application keeps.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

from bench.harness import heard
from replicator import Node
from replicator.errors import ReplicatorError
from replicator.node.host import Host
from replicator.node.options import NodeKeywords

__all__ = ["BATCH_BYTES", "FILL", "TOLD", "Rows", "be_host"]

#: Rows that a state has at the most.
ROWS = 100

#: Of one row: a change of some 200 bytes.
ROW_BYTES = 170

#: Changes of one call, and about what they weigh.
BATCH = 40
BATCH_BYTES = BATCH * 200

#: Each group is written to, and read, about so often.
EVERY_S = 1.0

#: Threads that start nodes.
STARTERS = 8

#: What such a process can be told: to write so many batches to each group now; to tell what it wrote and was refused.
FILL, TOLD = "fill", "told"


class Rows:
    """A table of rows by their number."""

    def __init__(self) -> None:
        self.rows: dict[int, str] = {}

    def snapshot(self) -> Iterable[Any]:
        return sorted(self.rows.items())

    def restore(self, pieces: Iterable[Any]) -> None:
        self.rows = dict(pieces)

    def apply(self, change: Any) -> None:
        number, text = change
        self.rows[number] = text


class Load:
    """A thread that writes to the groups that its process leads, and reads all, one after the other, at a steady pace.

    A context. Nobody else writes while `pausing` is held.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.written = self.refused = self.read = 0
        self._numbers = count()
        self._nodes = nodes
        self._ending = threading.Event()
        self.pausing = threading.Lock()
        self._thread = threading.Thread(target=self._go_on)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def write(self, node: Node) -> None:
        try:
            node.submit_many([(next(self._numbers) % ROWS, token_urlsafe(ROW_BYTES * 3 // 4)) for _ in range(BATCH)])
            self.written += BATCH
        except ReplicatorError:
            self.refused += BATCH  # it stopped leading, or Redis is away: that is what is played here

    def _go_on(self) -> None:
        while not self._ending.is_set():
            for node in self._nodes:
                with self.pausing:
                    if node.leads:
                        self.write(node)
                    with node.reading() as state:
                        self.read += len(state.rows)
                if self._ending.wait(EVERY_S / len(self._nodes)):
                    return


def be_host(pipe: Connection, url: str, groups: Sequence[str], data_dir: Path, name: str, lease_s: float) -> None:
    """The process of a host with a node of each group. Node `a` leads at first, and when the other one ends."""
    logging.getLogger("replicator").setLevel(logging.CRITICAL)  # Redis goes away, and logs: that is what is played
    with Host(url) as host, ThreadPoolExecutor(STARTERS) as pool:

        def start(group: str) -> Node:
            place = data_dir / group
            options: NodeKeywords = {
                "lease_s": lease_s,
                "auto_promote": True,
                "on_log_lost": "recover",
                "failover_without": "always",
            }
            return host.node(Rows(), group=group, name=name, data_dir=place, **options)

        nodes = list(pool.map(start, groups))
        pool.shutdown()  # its threads are none of a host's
        if name == "a":
            for node in nodes:
                node.promote()
        with Load(nodes) as load:
            pipe.send("ready")
            while (told := heard(pipe)) is not None:
                pipe.send(_answer(told, nodes, load))


def _answer(told: tuple[str, int], nodes: Sequence[Node], load: Load) -> Any:
    what, batches = told
    if what == FILL:
        with load.pausing:
            for node in nodes:
                for _ in range(batches):
                    load.write(node)
    return load.written, load.refused, load.read
