"""Until when another node may do what only a leader does: by looks that a test makes up, at times that it makes up."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import count

import pytest

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


# --- all of it, step by step, in whichever order ----------------------------------------------------------------------


class Worker:
    """A node that has work of which there may be one at a time, as `sidecar.py` and `role_watch.py` do it."""

    def __init__(self, name: str, boots: Iterator[int]) -> None:
        self.name = name
        self.boots = boots
        self.works = False
        self.lease_until = 0
        self.begin()

    def begin(self) -> None:
        """Another boot. What the one before it had begun goes on: its keeper ends it with the lease."""
        self.boot = f"boot-{next(self.boots)}"
        self.former = FormerLeases(Writer(self.name, self.boot), LENGTH_S)
        #: The term that it holds as far as it knows, since when, that of its work, and that of its word.
        self.term = self.noticed = self.began = self.word = 0


class World:
    """Redis, and three nodes. A step is one thing that happens to one of them; `lies`: a word is said too early."""

    def __init__(self, seed: int, *, lies: bool) -> None:
        self.random = random.Random(seed)
        self.now, self.term, self.granted = 0, 0, 0
        self.believed = 0
        self.lies = lies
        self.holder = ""
        self.lease = ""
        self.expires = 0
        self.beats: dict[str, Heartbeat] = {}
        boots = count()
        self.nodes = [Worker(name, boots) for name in "abc"]

    def step(self) -> None:
        often = [self.look, self.work, self.renew] * 5 + [self.tick, self.tick, self.beat]
        seldom = [self.promote, self.take, self.give_back, self.restart, self.end, self.say]
        does = self.random.choice(often * 2 + seldom)
        does(self.random.choice(self.nodes))

    def tick(self, _: Worker) -> None:
        self.now += 1
        for node in self.nodes:  # also of one that is stopped, cut off or dead
            node.works = node.works and self.now < node.lease_until
        if self.now >= self.expires:
            self.lease = ""

    def look(self, node: Worker) -> None:
        seen = look(self.lease, granted_ms=self.granted)._replace(heartbeats=dict(self.beats), term=self.term)
        node.former.saw(seen, self.now)
        mine = self.holder == f"{self.term} {node.name} {node.boot}"
        if mine and node.term != self.term:
            node.noticed = self.now
        node.term = self.term if mine else 0

    def grant(self, holder: str) -> None:
        self.granted += 1
        self.holder = self.lease = holder
        self.expires = self.now + int(LENGTH_S)

    def renew(self, node: Worker) -> None:
        if self.holder == f"{node.term} {node.name} {node.boot}":
            self.grant(self.holder)
            node.lease_until = self.now + int(LENGTH_S)

    def promote(self, node: Worker) -> None:
        self.term += 1
        self.grant(f"{self.term} {node.name} {node.boot}")

    def take(self, node: Worker) -> None:
        if not self.lease:
            self.look(node)
            self.promote(node)
            node.former.took_vacant(self.term)

    def give_back(self, node: Worker) -> None:
        """It stops in order, and lets its lease run out if that hides another one."""
        is_free = node.former.over_at(node.term, node.noticed) <= self.now
        if self.holder == f"{node.term} {node.name} {node.boot}" and not node.works and is_free:
            self.lease = ""
            node.term = node.lease_until = 0

    def beat(self, node: Worker) -> None:
        self.beats[node.name] = Heartbeat(node.name, node.boot, work_over=node.word)

    def end(self, node: Worker) -> None:
        node.works = False

    def say(self, node: Worker) -> None:
        node.works = node.works and self.lies
        if node.began and node.began == node.term and self.now < node.lease_until:
            node.word = node.began
            self.beat(node)

    def restart(self, node: Worker) -> None:
        node.begin()

    def work(self, node: Worker) -> None:
        if not node.term or node.word == node.term or self.now >= node.lease_until or node.works:
            return
        if node.former.over_at(node.term, node.noticed) <= self.now:
            self.believed += node.former._over == node.term - 1 > 0
            node.former.held(node.term)
            node.began = node.term
            assert not any(other.works for other in self.nodes), "two at once"
            node.works = True


def explored(*, lies: bool) -> int:
    """How often work begins by a word in 500 groups, of 300 steps each."""
    believed = 0
    for seed in range(500):
        world = World(seed, lies=lies)
        for _ in range(300):
            world.step()
        believed += world.believed
    return believed


def test_there_are_never_two_at_work_whatever_happens_in_whichever_order() -> None:
    assert explored(lies=False) > 10, "and a word is believed now and then"


def test_a_lease_that_hides_another_one_is_not_given_back() -> None:
    world = World(0, lies=False)
    a, b, c = world.nodes
    # given one that works and is cut off, and another one that is promoted and stops before it may begin
    for does in (world.promote, world.look, world.renew, world.work):
        does(c)
    for does in (world.promote, world.look, world.renew, world.give_back):
        does(a)
    # then one that saw neither lease takes no term that it could work in
    for does in (world.take, world.look, world.renew, world.work):
        does(b)
    assert (world.holder, c.works, b.works) == (f"2 a {a.boot}", True, False)


def test_a_word_that_comes_too_early_is_found() -> None:
    with pytest.raises(AssertionError, match="two at once"):
        explored(lies=True)
