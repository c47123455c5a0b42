"""What a log makes of the answers of its Redis, by short ways and by long ones. Its connections are of paper."""

from __future__ import annotations

import math
from typing import Any

import pytest
import redis

from replicator.errors import LogUnavailable, OutcomeUnknown
from replicator.format.ids import RecordId
from replicator.log.redis_log import RedisLog
from replicator.log.wire import Limit
from replicator.protocol.group import Code, Reply


@pytest.fixture
def log() -> RedisLog:
    return RedisLog("redis://127.0.0.1:1", "g", timeout_s=2.0)


def answering(log: RedisLog, monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Limit]:
    """What reads are answered or end with; the limits that they had."""
    limits: list[Limit] = []

    def call(*command: Any, limit: Limit) -> Any:
        limits.append(limit)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(log._read, "call", call)
    return limits


def test_a_read_may_take_as_long_as_it_waits_besides_and_the_next_one_sets_no_other_limit(
    log: RedisLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = answering(log, monkeypatch, None)
    for block_ms in (1000, 1000, None, 250):
        assert log.read(RecordId(1, 1), block_ms=block_ms).is_empty
    log.within(7.0).read(RecordId(1, 1), block_ms=1000)
    assert limits == [Limit(2.0, until, s) for until, s in [*[(math.inf, s) for s in (1, 1, 0, 0.25)], (7.0, 1)]]
    assert limits[0] is limits[1], "a wire compares no numbers for that"


@pytest.mark.parametrize(
    "error",
    [OutcomeUnknown(url="redis://x", problem="it was cut"), redis.exceptions.ResponseError("LOADING")],
    ids=["without an answer", "refused"],
)
def test_a_read_that_came_to_nothing_leaves_nothing_unknown(
    log: RedisLog, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    answering(log, monkeypatch, error)
    with pytest.raises(LogUnavailable) as raised:
        log.read(RecordId(1, 1))
    assert not isinstance(raised.value, OutcomeUnknown)


def test_what_more_a_script_says_than_ok_is_not_passed_over(log: RedisLog) -> None:
    assert log.reply("append", [b"ok"]) == Reply(Code.OK)
    assert log.reply("promote", [b"ok", b"3", b"3-9", b"run"]) == Reply(Code.OK, term=3, id=RecordId(3, 9))
    assert log.reply("ask", [b"ok", b"5-0"]) == Reply(Code.OK, id=RecordId(5, 0))
    assert log.reply("append", [b"behind", b"3-9"]) == Reply(Code.BEHIND, id=RecordId(3, 9))
    for answer in ([b"halfway", b"OOM"], [b"okay"], [], b"ok", "ok", None, [["ok"]]):
        with pytest.raises(OutcomeUnknown):
            log.reply("append", answer)
