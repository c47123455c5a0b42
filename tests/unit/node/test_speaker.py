"""Many nodes of one process: what all of them say is told once, and summed up."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.errors import LogUnavailable
from replicator.node.speaker import (
    CROWD_MIN,
    CROWDED_FOR_S,
    QUIET_S,
    STRAGGLERS_S,
    SUM_UP_AFTER_S,
    Crowd,
    NodeSpeaker,
    Outage,
    Shared,
)
from replicator.runtime.event_log import EventLogger, speaking
from tests.support.kv import Group, eventually

logger = EventLogger("replicator.test")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What replicator logs, and nothing else: lines of others in this process are no events.

    Such as those of asyncio on what tests before this one left to the collector, or of a server that still ends.
    """
    caplog.set_level(logging.INFO)
    with caplog.filtering(logging.Filter("replicator")):
        yield


def say(crowd: Crowd, group: str, text: str, event: str = "term.began") -> None:
    with speaking(NodeSpeaker(group, "a", crowd)):
        logger.info(event, text)


def test_the_first_one_is_told_and_the_others_are_summed_up_once_nobody_says_so_any_more(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    crowd = Crowd(lambda: 1000, clock=clock)
    for n in range(1000):
        say(crowd, f"tenant-{n}", f"term {n}: a leads in tenant-{n}")
    crowd.sum_up()
    assert caplog.messages == ["term 0: a leads in tenant-0"]
    clock.now += QUIET_S
    crowd.sum_up()
    crowd.sum_up()
    named = "tenant-1, tenant-2, tenant-3, tenant-4, tenant-5, ..."
    assert caplog.messages[1:] == [f"the same in 999 more groups ({named}): term 0: a leads in tenant-0"]
    assert (vars(caplog.records[1])["event"], vars(caplog.records[1])["groups"]) == ("term.began", 999)


def test_what_goes_on_for_long_is_summed_up_now_and_then(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    crowd = Crowd(lambda: 1000, clock=clock)
    for n in range(100):
        say(crowd, f"g{n}", "x")
        clock.now += SUM_UP_AFTER_S / 50
        crowd.sum_up()
    clock.now += QUIET_S
    crowd.sum_up()
    summed = [vars(record)["groups"] for record in caplog.records[1:]]
    assert (len(summed), sum(summed)) == (2, 99)


def test_different_things_are_told_each(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    crowd = Crowd(lambda: 1000, clock=clock)
    say(crowd, "g1", "the disk is full", "disk.failed")
    say(crowd, "g2", "the disk is gone", "disk.failed")
    say(crowd, "g3", "the disk is full", "disk.works")
    assert len(caplog.records) == 3


def test_a_few_nodes_all_have_their_say(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    crowd = Crowd(lambda: CROWD_MIN, clock=clock)
    for n in range(CROWD_MIN):
        say(crowd, f"g{n}", "x")
    clock.now += QUIET_S
    crowd.sum_up()
    assert len(caplog.records) == CROWD_MIN


def test_what_was_summed_up_is_only_summed_up_until_it_is_quiet_for_long(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    crowd = Crowd(lambda: 1000, clock=clock)
    for n in range(3):
        say(crowd, f"g{n}", "x")
    clock.now += QUIET_S
    crowd.sum_up()
    say(crowd, "g7", "x")
    clock.now += QUIET_S
    crowd.sum_up()
    assert caplog.messages == ["x", "the same in 2 more groups (g1, g2): x", "the same in 1 more group (g7): x"]
    clock.now += CROWDED_FOR_S
    crowd.sum_up()
    say(crowd, "g8", "x")
    assert caplog.messages[3:] == ["x"]


def test_what_is_said_again_later_is_told_again(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    crowd = Crowd(lambda: 1000, clock=clock)
    for _ in range(2):
        say(crowd, "g1", "x")
        clock.now += QUIET_S
        crowd.sum_up()
    assert caplog.messages == ["x", "x"]


def test_every_line_of_a_node_says_whose_it_is(caplog: pytest.LogCaptureFixture) -> None:
    say(Crowd(lambda: 1000), "g1", "x")
    assert (vars(caplog.records[0])["group"], vars(caplog.records[0])["node"]) == ("g1", "a")


def away(problem: str = "refused") -> LogUnavailable:
    return LogUnavailable(url="url", problem=problem)


def test_that_a_shared_redis_is_away_is_two_lines_however_many_miss_it(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    shared, nodes = Shared(lambda: 1000, clock=clock), [object() for _ in range(1000)]
    for problem in ("refused", "reset", "timed out"):
        for node in nodes:
            assert shared.outage.missed(node, away(problem))
    for node in nodes:
        assert len(caplog.records) == 1, "it is back once nobody misses it"
        shared.outage.found(node)
    # one whose turn comes late finds a connection that broke
    clock.now += STRAGGLERS_S / 2
    shared.outage.missed(nodes[7], away("broken pipe"))
    shared.outage.found(nodes[7])
    clock.now += STRAGGLERS_S
    shared.outage.found(nodes[7])
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert [vars(record)["groups"] for record in caplog.records] == [1000, 1000]
    assert caplog.messages[1] == "Redis is back after 1.5 s", "the time for stragglers is none of it"


def test_a_node_that_ends_while_redis_is_away_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    outage, a, b = Outage(), object(), object()
    outage.missed(a, away())
    outage.missed(b, away())
    outage.forget(a)
    outage.found(b)
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("problem", "event"),
    [
        ("LOADING Redis is loading the dataset in memory", "redis.unavailable"),
        ("READONLY You can't write against a read only replica.", "redis.busy"),
        ("CLUSTERDOWN Hash slot not served", "redis.busy"),
    ],
)
def test_a_redis_that_will_answer_by_itself_is_no_error(
    problem: str, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert Outage().missed(object(), LogUnavailable.refuses("url", problem))
    assert [(vars(record)["event"], record.levelname) for record in caplog.records] == [(event, "WARNING")]


def test_what_redis_refuses_for_good_is_not_that_it_is_away(caplog: pytest.LogCaptureFixture) -> None:
    assert not Outage().missed(object(), LogUnavailable.refuses("url", "WRONGTYPE commands is a string"))
    assert caplog.records == []


def test_a_redis_that_loads_after_it_was_away_is_the_same_story(caplog: pytest.LogCaptureFixture) -> None:
    outage, node = Outage(), object()
    outage.missed(node, away())
    outage.missed(node, LogUnavailable.refuses("url", "LOADING Redis is loading the dataset in memory"))
    outage.found(node)
    assert len(caplog.records) == 2


def test_what_fails_for_a_node_is_told_as_its_own_whoever_registered_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ValueError("seven")

    group = Group(tmp_path)
    logging.getLogger("asyncio").error("Task was destroyed but it is pending!")
    try:
        a = group.primary("a")
        a.on_role(fail)
        eventually(lambda: "a callback of on_role failed" in caplog.text)
    finally:
        group.close()
    told = [vars(record) for record in caplog.records if vars(record)["event"] == "callback.failed"]
    assert {(record["node"], record["term"]) for record in told} == {("a", 1)}
    assert all("boot" in vars(record) for record in caplog.records)
