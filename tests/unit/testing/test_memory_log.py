"""What the log in memory has beyond the contract that it shares with Redis (tests/integration/test_log_contract.py)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from replicator.errors import LogUnavailable
from replicator.format.ids import ERA, ZERO_ID, RecordId, Writer
from replicator.log.interface import Log
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Code
from replicator.protocol.heartbeat import Heartbeat
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.worlds import LEASE_MS, lead, promote


@pytest.fixture
def server() -> MemoryRedis:
    return MemoryRedis()


@pytest.fixture
def log(server: MemoryRedis) -> MemoryLog:
    return MemoryLog(server)


@pytest.mark.parametrize("kind", [MemoryLog, RedisLog])
def test_every_log_has_every_method_of_the_interface_with_the_same_arguments(kind: type) -> None:
    for name, method in inspect.getmembers(Log, inspect.isfunction):
        if not name.startswith("_"):
            assert inspect.signature(getattr(kind, name)) == inspect.signature(method), name


def test_a_state_can_be_kept_and_put_back(server: MemoryRedis, log: MemoryLog) -> None:
    author = lead(log)
    kept = server.state
    author.append("x")
    server.state = kept
    assert log.look().last_id == RecordId(1, 1)


def test_a_log_that_is_down_says_what_it_was_told_to_say(log: MemoryLog) -> None:
    author = lead(log)
    log.down = "the cable is out"
    calls: list[Callable[[], Any]] = [
        log.look,
        log.newest_request,
        author.append,
        lambda: author.append_part(0),
        lambda: promote(log),
        lambda: log.renew(author.writer, 1, LEASE_MS),
        lambda: log.give_back(author.writer, 1),
        lambda: log.read(ZERO_ID),
        lambda: log.find(RecordId(1, 1)),
        lambda: log.beat(Heartbeat("a", "1")),
        lambda: log.request("snapshot", by="x"),
    ]
    for call in calls:
        with pytest.raises(LogUnavailable, match="the cable is out"):
            call()
    log.down = ""
    assert author.append().code is Code.OK


def test_a_connection_learns_the_run_when_it_is_made(server: MemoryRedis, log: MemoryLog) -> None:
    author = lead(log)
    server.fail_over(server.state, run="run-2")
    log.disconnect()
    assert author.append().code is Code.NEW_RUN
    assert promote(log, "b").term == ERA + 1


def test_the_clock_can_be_given_so_that_no_test_has_to_wait() -> None:
    now = [1000.0]
    log = MemoryLog(MemoryRedis(clock_ms=lambda: now[0]))
    promote(log, lease_ms=500)
    log.beat(Heartbeat("a", "1", every_ms=100))
    now[0] += 400
    assert log.look().lease_ms == 100
    assert (log.look().heartbeats["a"].age_ms, log.look().heartbeats["a"].alive) == (400, False)
    now[0] += 200
    assert log.look().lease_ms is None


def test_a_flushed_server_is_in_the_same_run(server: MemoryRedis, log: MemoryLog) -> None:
    author = lead(log)
    run = log.look().run
    server.flush()
    assert log.look().run == run
    assert author.append().code is Code.LOST


def test_a_stray_record_below_the_newest_is_refused(server: MemoryRedis, log: MemoryLog) -> None:
    lead(log)
    server.stray(RecordId(1, 1))
    assert log.read(ZERO_ID).corrupt is None
    server.stray(RecordId(1, 2))
    assert log.read(ZERO_ID).corrupt is not None


def test_writers_of_the_same_name_are_told_apart_by_their_boot(log: MemoryLog) -> None:
    lead(log, "a", boot="1")
    assert log.renew(Writer("a", "2"), 1, LEASE_MS).code is Code.FENCED
