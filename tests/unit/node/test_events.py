"""What becomes of a node, as events: what is new between two looks, and a queue for each who listens."""

from __future__ import annotations

import asyncio
from typing import Any

from replicator.node.events import EVENTS_MAX, EventQueue, Outlook, events_between, now

STANDBY = Outlook(role="standby", leads=False, term=1, primary="b", in_sync=True, problems={})


def differences(before: Outlook, **changed: Any) -> list[Any]:
    return list(events_between(before, before._replace(**changed)))


def test_nothing_new_is_no_event() -> None:
    assert differences(STANDBY) == []


def test_a_promotion_is_a_term_a_role_and_then_a_lease() -> None:
    events = differences(STANDBY, role="primary", leads=True, term=2, primary="a")
    assert [event.what for event in events] == ["term", "role", "lease_gained"]
    assert {(event.role, event.leads, event.term, event.primary) for event in events} == {("primary", True, 2, "a")}
    primary = STANDBY._replace(role="primary", leads=True)
    assert [event.what for event in differences(primary, leads=False)] == ["lease_lost"]


def test_sync_is_lost_and_found() -> None:
    assert [event.what for event in differences(STANDBY, in_sync=False)] == ["out_of_sync"]
    assert [event.what for event in differences(STANDBY._replace(in_sync=False), in_sync=True)] == ["in_sync"]


def test_problems_begin_and_end_and_other_words_for_one_are_no_news() -> None:
    troubled = STANDBY._replace(problems={"disk": "full", "redis": "away"})
    assert [(e.what, e.problem) for e in differences(STANDBY, problems={"disk": "full"})] == [("problem", "full")]
    assert differences(troubled, problems={"disk": "still full", "redis": "away"}) == []
    assert [(e.what, e.problem) for e in differences(troubled, problems={"disk": "full"})] == [("solved", "away")]


def test_a_listener_that_is_slow_hears_how_many_it_missed_and_how_things_are() -> None:
    async def main() -> None:
        queue = EventQueue()
        for term in range(EVENTS_MAX + 10):
            queue.put(now(STANDBY._replace(term=term), "term"))
        first = await queue.get()
        assert first is not None
        assert (first.what, first.missed, first.term) == ("missed", EVENTS_MAX + 10, EVENTS_MAX + 9)
        queue.put(now(STANDBY, "role"))
        second = await queue.get()
        assert second is not None
        assert (second.what, second.missed) == ("role", 0)
        queue.put(None)
        assert await queue.get() is None
        assert await queue.get() is None

    asyncio.run(main())


def test_a_listener_whose_loop_was_closed_is_in_nobody_s_way() -> None:
    async def main() -> EventQueue:
        return EventQueue()

    asyncio.run(main()).put(now(STANDBY))
