"""Until when another node may do what only a leader does: by looks that a test makes up, at times that it makes up."""

from __future__ import annotations

import math

from replicator.format.ids import ORIGIN, ZERO_ID, Writer
from replicator.node.former_leases import FormerLeases
from replicator.protocol.group import GroupView, Head
from replicator.protocol.heartbeat import Heartbeat

LENGTH_S = 5.0

NEVER = -math.inf


def leases() -> FormerLeases:
    return FormerLeases(Writer("a", "boot-a"), LENGTH_S)


def look(holder: str, *, length_ms: int = 5000, granted_ms: int = 1) -> GroupView:
    lease = f"{holder} {length_ms} {granted_ms}" if holder else ""
    return GroupView("run-1", 1, None, ZERO_ID, length_ms if holder else None, {}, lease=lease)


def test_nobody_was_before_the_first_term() -> None:
    assert leases().over_at(1, noticed_at=100.0) == NEVER


def test_who_was_promoted_while_a_lease_may_run_waits_for_a_whole_one() -> None:
    former = leases()
    assert former.over_at(7, noticed_at=100.0) == 105.0
    former.saw(look("6 b boot-b"), 99.0)
    assert former.over_at(7, noticed_at=100.0) == 105.0, "it may have been renewed since"


def test_the_longest_lease_that_was_seen_counts() -> None:
    former = leases()
    former.saw(look("6 b boot-b", length_ms=60_000), 10.0)
    assert former.over_at(7, noticed_at=100.0) == 160.0
    former.saw(look("7 c boot-c", length_ms=2_000), 101.0)
    assert former.over_at(8, noticed_at=200.0) == 260.0


def test_who_took_the_term_when_no_lease_ran_waits_for_what_it_saw_last() -> None:
    former = leases()
    former.saw(look("6 b boot-b", granted_ms=1), 96.0)
    former.saw(look("6 b boot-b", granted_ms=2), 97.0)
    former.took_vacant(7)
    assert former.over_at(7, noticed_at=101.0) == 102.0, "whatever Redis says of the time that is left"


def test_a_lease_that_was_not_renewed_ends_no_later_for_being_seen_again() -> None:
    former = leases()
    for now in (96.0, 97.0, 98.0):
        former.saw(look("6 b boot-b"), now)
    former.took_vacant(7)
    assert former.over_at(7, noticed_at=101.0) == 101.0


def test_that_no_lease_ran_is_true_of_that_term_alone() -> None:
    former = leases()
    former.took_vacant(7)
    assert former.over_at(9, noticed_at=100.0) == 105.0


def said(look: GroupView, node: str, boot: str, *, work_over: int) -> GroupView:
    return look._replace(heartbeats={node: Heartbeat(node, boot, work_over=work_over)})


def test_who_follows_a_holder_that_says_its_work_is_over_waits_for_nobody() -> None:
    former, told = leases(), []
    former.changed = lambda: told.append(True)
    former.saw(look("6 b boot-b"), 99.0)
    # what another boot says, or of another term, counts for nothing
    for boot, term in (("boot-before", 6), ("boot-b", 5), ("boot-b", 7), ("boot-b", 0)):
        former.saw(said(look("7 a boot-a"), "b", boot, work_over=term), 100.0)
    former.saw(said(look("7 a boot-a"), "c", "boot-b", work_over=6), 100.0)
    assert (former.over_at(7, noticed_at=100.0), told) == (105.0, [])
    for _ in range(2):
        former.saw(said(look("7 a boot-a"), "b", "boot-b", work_over=6), 100.0)
    assert (former.over_at(7, noticed_at=100.0), told) == (NEVER, [True])
    # nor does it for the term after the next one, which somebody else may have had, but not if that was this boot
    assert former.over_at(8, noticed_at=100.0) == 105.0
    former.saw(look("6 b boot-b", granted_ms=9), 100.0)
    former.held(7)
    assert former.over_at(8, noticed_at=100.0) == NEVER


def test_the_text_of_anybody_is_no_lease_to_go_by() -> None:
    former = leases()
    for holder in ("6", "6 b", "six b boot-b", "6 b boot-b more"):
        former.saw(said(look(holder), "b", "boot-b", work_over=6), 100.0)
    assert former.over_at(7, noticed_at=100.0) == 105.0


def test_who_never_saw_the_lease_of_the_term_before_believes_nobody() -> None:
    former = leases()
    former.saw(said(look("7 a boot-a"), "b", "boot-b", work_over=6), 100.0)
    assert former.over_at(7, noticed_at=100.0) == 105.0


def test_ones_own_lease_is_in_nobodys_way() -> None:
    former = leases()
    former.saw(look("7 a boot-a", length_ms=60_000), 100.0)
    former.took_vacant(7)
    assert former.over_at(7, noticed_at=100.0) == NEVER
    former.saw(look("7 a boot-before"), 100.0)
    assert former.over_at(7, noticed_at=100.0) == 105.0, "another boot is another node"


def test_who_led_in_the_term_before_waits_for_nobody() -> None:
    former = leases()
    former.held(7)
    assert former.over_at(7, noticed_at=100.0) == NEVER
    assert former.over_at(8, noticed_at=100.0) == NEVER
    assert former.over_at(9, noticed_at=100.0) == 105.0, "another one may have had term 8"


def test_a_holder_that_was_replaced_may_have_renewed_its_lease_since_it_was_seen() -> None:
    """It led for 30 s at a time, its successor for 5 s: when that one is gone, the first may still be at work."""
    former = leases()
    former.saw(look("6 b boot-b", length_ms=30_000), 90.0)
    former.saw(look("7 c boot-c", length_ms=5_000), 100.0)
    former.took_vacant(8)
    assert former.over_at(8, noticed_at=106.0) == 130.0


def test_a_look_without_a_lease_says_nothing() -> None:
    former = leases()
    former.saw(look(""), 100.0)
    former.took_vacant(7)
    assert former.over_at(7, noticed_at=100.0) == NEVER


def test_a_lease_that_nobody_can_have_is_waited_for_by_nobody() -> None:
    former = leases()
    head = Head("log-1", "run-1", 6, "b", "boot-b", ORIGIN)
    for forged in (look("6 z boot-z"), look("5 b boot-b"), look("6 b boot-b", length_ms=10**15)):
        former.saw(forged._replace(head=head), 99.0)
    assert former.over_at(7, noticed_at=100.0) == 105.0
    former.took_vacant(7)
    assert former.over_at(7, noticed_at=100.0) == NEVER
