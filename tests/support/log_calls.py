"""Calls of a log that write and calls that read, and what a server was asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from replicator.errors import LogUnavailable
from replicator.format.ids import ZERO_ID, RecordId
from replicator.format.records import ChangeRecord
from replicator.log.interface import Log
from replicator.protocol.group import Reply
from replicator.protocol.heartbeat import Heartbeat
from tests.support.worlds import LEASE_MS, Author, RedisWorld, promote

from .kv import PATIENCE_S


def calls(world: RedisWorld, command: str = "evalsha") -> int:
    """How often the server was sent this command."""
    stats = world.admin.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def in_thread(call: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def in_two_steps(log: Log, record: ChangeRecord) -> Reply:
    with log.appending(record) as appending:
        return appending.receive()


WRITES: dict[str, Callable[[Log, Author], Any]] = {
    "append": lambda log, author: log.append(author.change("again")),
    "appending": lambda log, author: in_two_steps(log, author.change("again")),
    "part": lambda log, author: log.part(author.part(0, 1, as_of=author.position)),
    "promote": lambda log, author: promote(log, "b"),
    "renew": lambda log, author: log.renew(author.writer, 1, LEASE_MS),
    "give_back": lambda log, author: log.give_back(author.writer, 1),
    "beat": lambda log, author: log.beat(Heartbeat("a", "1")),
    "request": lambda log, author: log.request("snapshot", by="ann"),
    "reinit": lambda log, author: log.reinit("b", by="ann"),
}
READS: dict[str, Callable[[Log, Author], Any]] = {
    "look": lambda log, author: log.look(),
    "read": lambda log, author: log.read(ZERO_ID, requests_after="0-0"),
    "find": lambda log, author: log.find(RecordId(1, 1)),
    "history": lambda log, author: log.history(),
    # It deletes what counts no more, and may be done again: no outcome is unknown.
    "sweep": lambda log, author: log.sweep(),
}
CALLS = WRITES | READS


def refused(world: RedisWorld, calls: dict[str, Any], log: Log, author: Author, advice: str) -> None:
    """Every one of these calls says what to do, and none of them changes anything."""
    before = world.contents()
    for name, call in calls.items():
        with pytest.raises(LogUnavailable, match=advice) as caught:
            call(log, author)
        assert type(caught.value) is LogUnavailable, name
    assert world.contents() == before
