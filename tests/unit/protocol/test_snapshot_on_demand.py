"""A snapshot for those who need one: at once, and to the same nodes not again and again."""

from __future__ import annotations

import itertools

from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.snapshot_on_demand import PAUSE_S, PAUSE_S_MAX, Need

B, C = Heartbeat("b", "b1", in_sync=False), Heartbeat("c", "c1", in_sync=False)


def sent_at(need: Need, heartbeats: list[Heartbeat], until_s: int) -> list[int]:
    """At which seconds one is sent, if all of these need one all the time."""
    found = []
    for now_s in range(until_s):
        if need.is_due(heartbeats, heartbeats, float(now_s)):
            need.sent(heartbeats, float(now_s))
            found.append(now_s)
    return found


def test_the_first_is_sent_at_once_and_those_behind_it_after_longer_and_longer_pauses() -> None:
    found = sent_at(Need(), [B], 400)
    pauses = [after - before for before, after in itertools.pairwise(found)]
    assert found[:2] == [0, int(PAUSE_S)]
    assert pauses[:5] == [1, 2, 4, 8, 16]
    assert max(pauses) == pauses[-1] == PAUSE_S_MAX


def test_another_node_does_not_wait_for_that() -> None:
    need = Need()
    sent_at(need, [B], 100)
    assert not need.is_due([B], [B, C], 100.0)
    assert need.is_due([B, C], [B, C], 100.0)
    # Nor does the same one once it is another boot.
    need.sent([B, C], 100.0)
    assert need.is_due([B._replace(boot="b2")], [B._replace(boot="b2"), C], 100.5)


def test_one_that_was_in_sync_meanwhile_is_sent_one_at_once() -> None:
    need = Need()
    sent_at(need, [B], 100)
    assert not need.is_due([], [B._replace(in_sync=True)], 100.0)
    assert need.is_due([B], [B], 100.0)
    need.sent([B], 100.0)
    assert need.is_due([B], [B], 100.0 + PAUSE_S)


def test_where_nobody_needs_one_none_is_sent() -> None:
    assert not Need().is_due([], [B], 0.0)
