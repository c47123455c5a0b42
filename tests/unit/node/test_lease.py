"""The lease of a primary, on a clock that only the test moves."""

from __future__ import annotations

from replicator.node.lease import Lease


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_lease_that_was_never_renewed_is_not_held() -> None:
    lease = Lease(5.0, clock=Clock())
    assert not lease.held
    assert lease.left_ms is None


def test_a_renewed_lease_is_held_until_its_length_is_over() -> None:
    clock = Clock()
    lease = Lease(5.0, clock=clock)
    lease.renewed(lease.now())
    clock.now += 4.999
    assert lease.held
    assert lease.left_ms in (0, 1)
    clock.now += 0.001
    assert not lease.held
    assert lease.left_ms is None


def test_it_counts_from_before_the_request_and_not_from_the_answer() -> None:
    clock = Clock()
    lease = Lease(5.0, clock=clock)
    asked_at = lease.now()
    clock.now += 3.0  # the answer takes its time
    lease.renewed(asked_at)
    assert lease.left_ms == 2000
    clock.now += 2.0
    assert not lease.held


def test_an_answer_that_comes_after_the_length_renews_nothing() -> None:
    clock = Clock()
    lease = Lease(5.0, clock=clock)
    asked_at = lease.now()
    clock.now += 5.0
    lease.renewed(asked_at)
    assert not lease.held


def test_a_lease_that_was_lost_is_not_held_and_can_be_renewed() -> None:
    lease = Lease(5.0, clock=Clock())
    lease.renewed(lease.now())
    lease.lost()
    assert not lease.held
    lease.renewed(lease.now())
    assert lease.held


def test_two_renewals_may_fail_before_it_runs_out() -> None:
    lease = Lease(6.0, clock=Clock())
    assert lease.length_ms == 6000
    assert 3 * lease.renew_every_s <= lease.length_s


def test_work_ends_a_tenth_of_the_lease_before_the_lease_does() -> None:
    lease = Lease(5.0, clock=Clock())
    assert lease.work_until < lease.now()
    lease.renewed(lease.now())
    assert lease.until == lease.now() + 5.0
    assert lease.work_until == lease.until - 0.5
    lease.lost()
    assert lease.work_until < lease.now()


def test_each_change_of_it_is_told() -> None:
    lease, told = Lease(5.0, clock=Clock()), []
    lease.changed = lambda: told.append(lease.held)
    lease.renewed(lease.now())
    lease.lost()
    assert told == [True, False]
