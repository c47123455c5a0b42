"""What one look after another tells: who lives, and whether the lease runs, whatever the clock of Redis does."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from replicator.format.ids import ORIGIN, ZERO_ID
from replicator.protocol.group import GroupView, Head, LeaseText, lease_left_ms
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.liveness import SILENT_MS_MIN, Sight, Sightings

EVERY_MS = 1000
LENGTH_MS = 5000

#: What the clock of Redis is set by.
HOUR_MS = 3_600_000


@dataclass
class Watcher:
    """One who looks, and a Redis whose clock `redis_ms` can be set. `now_ms`: the clock of the one who looks."""

    now_ms: float = 1_000.0
    redis_ms: int = 1_700_000_000_000
    run: str = "run-1"
    beats: dict[str, int] = field(default_factory=dict)
    head: Head | None = None
    lease: LeaseText | None = None
    expires_at: int = 0
    sightings: Sightings = field(default_factory=Sightings)

    def passes(self, ms: int) -> None:
        self.now_ms += ms
        self.redis_ms += ms

    def beat(self, *names: str) -> None:
        self.beats.update(dict.fromkeys(names, self.redis_ms))

    def renew(self) -> None:
        self.lease = LeaseText("1 a a1", LENGTH_MS, self.redis_ms)
        self.expires_at = self.redis_ms + LENGTH_MS

    def look(self, *, took_ms: int = 0) -> Sight:
        asked_at_ms = self.now_ms
        left = self.expires_at - self.redis_ms
        text = str(self.lease) if self.lease is not None and left > 0 else ""
        seen = {
            name: Heartbeat.seen(
                Heartbeat(name, name + "1", every_ms=EVERY_MS).to_json(), beaten_at=at, now_ms=self.redis_ms
            )
            for name, at in self.beats.items()
        }
        heartbeats = {name: heartbeat for name, heartbeat in seen.items() if heartbeat is not None}
        look = GroupView(
            self.run,
            1,
            self.head,
            ZERO_ID,
            lease_left_ms(text, left) if text else None,
            heartbeats,
            self.redis_ms,
            text,
        )
        self.passes(took_ms)
        self.sightings, sight = self.sightings.after(look, asked_at_ms=asked_at_ms, now_ms=self.now_ms)
        return sight

    def ages(self) -> dict[str, int]:
        return {name: heartbeat.age_ms for name, heartbeat in self.look().look.heartbeats.items()}

    def alive(self) -> set[str]:
        return {name for name, heartbeat in self.look().look.heartbeats.items() if heartbeat.alive}


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


class TestWhoLives:
    def test_at_the_first_look_the_clock_of_redis_says_it(self, watcher: Watcher) -> None:
        watcher.beat("a", "b")
        watcher.passes(2000)
        watcher.beat("b")
        watcher.passes(1500)
        assert watcher.ages() == {"a": 3500, "b": 1500}

    def test_then_a_node_is_as_old_as_its_last_stamp_by_the_clock_of_the_one_who_looks(self, watcher: Watcher) -> None:
        watcher.beat("a")
        watcher.look()
        for _ in range(3):
            watcher.passes(900)
            watcher.look()
        assert watcher.ages() == {"a": 2700}

    @pytest.mark.parametrize("step_ms", [-HOUR_MS, HOUR_MS, -5000, 5000])
    def test_a_clock_that_is_set_makes_nobody_alive_or_dead(self, watcher: Watcher, step_ms: int) -> None:
        # given one that beats, and one that beat for the last time 2 s ago
        watcher.beat("lives", "dies")
        watcher.look()
        watcher.passes(1000)
        watcher.beat("lives")
        watcher.look()
        # when
        watcher.redis_ms += step_ms
        watcher.passes(1000)
        # then
        assert watcher.ages() == {"lives": 1000, "dies": 2000}
        watcher.beat("lives")
        assert watcher.alive() == {"lives", "dies"}
        watcher.passes(1001)
        watcher.beat("lives")
        assert watcher.alive() == {"lives"}, "after three beats, by the clock of the one who looks"

    def test_one_who_starts_after_the_clock_was_set_back_waits_until_it_sees_who_beats(self, watcher: Watcher) -> None:
        watcher.beat("lives", "died")
        watcher.redis_ms -= HOUR_MS
        assert watcher.alive() == {"lives", "died"}, "nobody can tell yet"
        for _ in range(4):
            watcher.passes(1000)
            watcher.beat("lives")
            watcher.look()
        assert watcher.alive() == {"lives"}

    @pytest.mark.parametrize("skew_ms", [-HOUR_MS, HOUR_MS])
    def test_another_server_with_another_clock_makes_nobody_older_or_younger(
        self, watcher: Watcher, skew_ms: int
    ) -> None:
        watcher.beat("a", "b")
        watcher.look()
        watcher.passes(500)
        watcher.run = "run-2"
        watcher.redis_ms += skew_ms
        watcher.passes(500)
        assert watcher.ages() == {"a": 1000, "b": 1000}

    def test_an_older_copy_makes_nobody_older_than_it_was_seen_to_be(self, watcher: Watcher) -> None:
        watcher.beat("a")
        older = dict(watcher.beats)
        watcher.passes(60_000)
        watcher.beat("a")
        watcher.look()
        watcher.passes(1000)
        watcher.run, watcher.beats = "run-2", older
        assert watcher.ages() == {"a": 1000}

    def test_one_heartbeat_is_not_yet_a_life(self, watcher: Watcher) -> None:
        watcher.beat("lives", "forged")
        assert watcher.look().beating == set()
        watcher.passes(1000)
        watcher.beat("lives")
        sight = watcher.look()
        assert sight.beating == {"lives"}
        assert (sight.is_live("lives"), sight.is_live("forged"), sight.is_live("nobody")) == (True, False, False)
        watcher.passes(3001)
        assert not watcher.look().is_live("lives")

    def test_a_node_that_is_gone_from_redis_is_forgotten(self, watcher: Watcher) -> None:
        watcher.beat("a")
        watcher.look()
        watcher.beats.clear()
        assert watcher.ages() == {}
        assert watcher.sightings.beats == {}


class TestTheLease:
    def test_it_runs_for_as_long_as_redis_says(self, watcher: Watcher) -> None:
        watcher.renew()
        watcher.passes(1000)
        assert watcher.look().look.lease_ms == 4000
        watcher.passes(1000)
        assert watcher.look().look.lease_ms == 3000
        watcher.passes(3001)
        assert watcher.look().look.lease_ms is None

    def test_one_that_is_renewed_runs_on(self, watcher: Watcher) -> None:
        for _ in range(8):
            watcher.renew()
            watcher.passes(1500)
            assert watcher.look().look.lease_ms == 3500

    def test_one_that_outlives_its_holder_because_the_clock_was_set_back_ends_when_it_should(
        self, watcher: Watcher
    ) -> None:
        watcher.renew()
        watcher.look()
        watcher.passes(1000)
        watcher.redis_ms -= HOUR_MS
        assert watcher.look().look.lease_ms == 4000, "it is the very lease that was seen a second ago"
        watcher.passes(4001)
        sight = watcher.look()
        assert (sight.look.lease_ms, sight.lease_until_ms) == (None, None)
        assert sight.look.lease == str(watcher.lease), "Redis has it for another hour: this is what a claim names"

    def test_one_who_starts_after_the_clock_was_set_back_waits_for_its_length(self, watcher: Watcher) -> None:
        watcher.renew()
        watcher.redis_ms -= HOUR_MS
        assert watcher.look().look.lease_ms == LENGTH_MS
        watcher.passes(LENGTH_MS)
        assert watcher.look().look.lease_ms is None

    def test_a_holder_that_goes_on_renewing_keeps_it_whatever_the_clock_does(self, watcher: Watcher) -> None:
        for step_ms in (0, -HOUR_MS, 0, HOUR_MS, 0, -5000):
            watcher.redis_ms += step_ms
            watcher.renew()
            watcher.passes(1500)
            assert watcher.look().look.lease_ms == 3500

    def test_it_is_trusted_for_what_was_left_counted_from_before_redis_was_asked(self, watcher: Watcher) -> None:
        watcher.renew()
        asked_at_ms = watcher.now_ms
        sight = watcher.look(took_ms=1500)
        assert sight.asked_at_ms == asked_at_ms
        assert sight.lease_until_ms == asked_at_ms + LENGTH_MS
        assert sight.look.lease_ms == LENGTH_MS, "a candidate counts from when it heard of it"
        watcher.renew()
        assert watcher.look(took_ms=LENGTH_MS).lease_until_ms is None, "the answer took longer than it runs"

    def test_one_that_is_renewed_for_a_holder_that_reports_no_more_ends_all_the_same(self, watcher: Watcher) -> None:
        """Somebody renews it by hand: the group would wait for ever."""
        watcher.head = Head("log-1", "run-1", 1, "a", "a1", ORIGIN)
        watcher.beat("a")
        for _ in range(SILENT_MS_MIN // 1000 + 1):
            watcher.renew()
            look = watcher.look().look
            assert (look.lease_ms, look.lease_is_void) == (LENGTH_MS, False)
            watcher.passes(1000)
        for _ in range(3):
            watcher.renew()
            sight = watcher.look()
            assert (sight.look.lease_ms, sight.lease_until_ms, sight.look.lease_is_void) == (None, None, True)
            watcher.passes(1000)
        watcher.beat("a")
        assert watcher.look().look.lease_ms is not None, "it reports again"

    @pytest.mark.parametrize("step_ms", [-HOUR_MS, HOUR_MS])
    def test_how_long_a_holder_is_silent_no_clock_but_the_own_one_says(self, watcher: Watcher, step_ms: int) -> None:
        watcher.head = Head("log-1", "run-1", 1, "a", "a1", ORIGIN)
        watcher.beat("a")
        watcher.redis_ms += step_ms
        for _ in range(3):
            watcher.renew()
            assert not watcher.look().look.lease_is_void, "it was never seen before"
            watcher.passes(1000)

    def test_a_heartbeat_that_was_deleted_is_none(self, watcher: Watcher) -> None:
        watcher.head = Head("log-1", "run-1", 1, "a", "a1", ORIGIN)
        watcher.beat("a")
        watcher.look()
        watcher.beats.clear()
        watcher.passes(SILENT_MS_MIN + 1)
        watcher.renew()
        assert watcher.look().look.lease_is_void

    def test_who_takes_the_next_term_is_not_silent_because_the_one_before_was(self, watcher: Watcher) -> None:
        watcher.head = Head("log-1", "run-1", 1, "a", "a1", ORIGIN)
        watcher.look()
        watcher.passes(SILENT_MS_MIN + 1)
        watcher.head = Head("log-1", "run-1", 2, "b", "b1", ORIGIN)
        watcher.renew()
        assert not watcher.look().look.lease_is_void

    def test_without_one_there_is_none(self, watcher: Watcher) -> None:
        sight = watcher.look()
        assert (sight.look.lease_ms, sight.lease_until_ms) == (None, None)
