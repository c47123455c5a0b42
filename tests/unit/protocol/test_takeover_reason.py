"""What the history says of a term that was taken unasked: an end in order, a crash and a restart of Redis differ."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.format.ids import ORIGIN, ZERO_ID
from replicator.protocol.group import GroupView, Head
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.takeover_reason import reason_to_go_on, reason_to_take_over

HEAD = Head("log-1", "run-1", 3, "a", "boot-a", ORIGIN)


def look(*, run: str = "run-1", head: Head | None = HEAD, **a: Any) -> GroupView:
    heartbeat = Heartbeat("a", **{"boot": "boot-a", "run": "run-1", "age_ms": 500} | a)
    return GroupView(run=run, term=3, head=head, last_id=ZERO_ID, lease_ms=None, heartbeats={"a": heartbeat})


@pytest.mark.parametrize(
    ("seen", "gave_back", "reason"),
    [
        (look(), "a", "a stopped in order"),
        (look(age_ms=6000), "a", "a stopped in order"),
        (look(left=True), "", "a stopped in order"),
        (look(left=True, boot="boot-2"), "", "the lease of a ran out: it ended, and reports as another boot"),
        (look(age_ms=6400), "", "the lease of a ran out: it has not reported for 6.4 s"),
        (look(age_ms=6400), "b", "the lease of a ran out: it has not reported for 6.4 s"),
        (look(age_ms=900, every_ms=300), "", "the lease of a ran out: it has not reported for 0.9 s"),
        (look(boot="boot-2"), "", "the lease of a ran out: it ended, and reports as another boot"),
        (look(), "", "the lease of a ran out: it reports, and did not renew it"),
        (look(stalled="why"), "", "the lease of a ran out: it stalled (why)"),
        (look()._replace(heartbeats={}), "", "the lease of a ran out, and nothing is known of it"),
        (look(run="run-2"), "a", "Redis came back as another run, in which nobody leads; a held the term before"),
        (look(head=None), "", "the group has no log yet"),
    ],
)
def test_it_says_what_became_of_the_holder(seen: GroupView, gave_back: str, reason: str) -> None:
    assert reason_to_take_over(seen, gave_back=gave_back) == reason


def test_a_former_holder_says_whether_it_or_redis_was_restarted() -> None:
    assert reason_to_go_on(look()) == "it was restarted, and held the term before"
    assert reason_to_go_on(look(run="run-2")) == "Redis came back as another run, and it held the term before"
