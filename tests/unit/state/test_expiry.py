"""What is over goes from every node: the change that takes it out, and the job of the primary that submits it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import strategies as st

from replicator import (
    Change,
    Commands,
    ConfigError,
    DictState,
    InvalidChange,
    LeadershipLost,
    change,
    delete,
    expiry,
    put,
    put_many,
)
from replicator.state.expiry import BATCH_BYTES, BATCH_KEYS, LOOK_AT, batches
from replicator.state.mapping import expire
from replicator.testing import Cluster, check_state, strategies


@dataclass(frozen=True)
class Coupon:
    until: float | None


@dataclass
class Coupons(Commands):
    coupons: dict[str, Coupon] = field(default_factory=dict)
    uses: dict[int, float] = field(default_factory=dict)
    retired: list[str] = field(default_factory=list)

    expire = expiry("coupons", until="until")
    forget_uses = expiry("uses")

    @change
    def issue(self, code: str, until: float | None) -> None:
        self.coupons[code] = Coupon(until)

    @change
    def issue_many(self, count: int, until: float) -> None:
        self.coupons.update({str(number): Coupon(until) for number in range(count)})

    @change
    def use(self, number: int, until: float) -> None:
        self.uses[number] = until

    @change
    def retire(self, codes: list[str], now: float) -> None:
        for code in codes:
            if code in self.coupons and (self.coupons[code].until or 0.0) <= now:
                del self.coupons[code]
                self.retired.append(code)


class Leader:
    """A leadership over one state, which notes what is done. `meanwhile`: called before each change."""

    def __init__(self, state: Any, meanwhile: Any = lambda: None) -> None:
        self.state = state
        self.changes: list[Any] = []
        self.looks = 0
        self.is_over = False
        self._meanwhile = meanwhile
        self._is_read = False

    def check(self) -> None:
        if self.is_over:
            raise LeadershipLost(node="a", term=1)

    @contextmanager
    def reading(self) -> Iterator[Any]:
        assert not self._is_read
        self._is_read = True
        self.looks += 1
        yield self.state
        self._is_read = False

    def submit(self, change: Any, *, ack: str) -> Any:
        assert not self._is_read, "nothing is written while the state is held"
        self._meanwhile()
        self.changes.append(change)
        return self.state.apply(change)


def given(*changes: Change[Any], state: Any = None) -> Any:
    state = Coupons() if state is None else state
    for each in changes:
        state.apply(each)
    return state


def test_the_change_takes_out_what_is_over_and_nothing_else() -> None:
    state = given(Coupons.issue("a", 10.0), Coupons.issue("b", 10.1), Coupons.issue("c", None), Coupons.issue("d", 1.0))
    assert Coupons.expire(["a", "b", "c", "x"], 10.0) == {"expire": {"keys": ["a", "b", "c", "x"], "now": 10.0}}
    assert state.apply(Coupons.expire(["a", "a", "b", "c", "x"], 10.0)) == 1
    assert list(state.coupons) == ["b", "c", "d"]


def test_an_entry_may_be_its_time_and_a_key_an_integer() -> None:
    state = given(Coupons.use(1, 10.0), Coupons.use(2, 20.0))
    Coupons.forget_uses.job(clock=lambda: 15.0)(Leader(state))
    assert state.uses == {2: 20.0}


def test_a_state_with_such_a_change_can_be_replicated() -> None:
    check_state(Coupons, strategies.commands(Coupons, count=st.integers(0, 5)), examples=20)
    keys = ["a", "b"]
    changes = [put("a", {"until": 5}), expire(keys, "until", 4.0), expire(keys, "until", 5.0), expire(keys, None, 5.0)]
    check_state(DictState, changes)
    check_state(DictState, strategies.dict_changes(), examples=20)


@dataclass
class NoSuchField(Commands):
    coupons: dict[str, Coupon] = field(default_factory=dict)
    expire = expiry("cupons", until="until")


@dataclass
class NoDict(Commands):
    coupons: list[Coupon] = field(default_factory=list)
    expire = expiry("coupons", until="until")


@dataclass
class NoSuchTime(Commands):
    coupons: dict[str, Coupon] = field(default_factory=dict)
    expire = expiry("coupons", until="ends_at")


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (NoSuchField, "NoSuchField.expire: NoSuchField has no field cupons that is a dict"),
        (NoDict, "NoDict.expire: NoDict has no field coupons that is a dict"),
        (NoSuchTime, "NoSuchTime.expire: Coupon has no ends_at"),
    ],
)
def test_a_class_to_which_it_does_not_fit_makes_no_state(kind: type[Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        kind()


# --- the job ---


def test_the_job_looks_at_some_at_a_time_and_takes_out_some_at_a_time() -> None:
    count = 2 * BATCH_KEYS + 1
    state = given(Coupons.issue_many(count, 10.0), Coupons.issue("stays", 11.0))
    leader = Leader(state)
    Coupons.expire.job(clock=lambda: 10.0)(leader)
    assert [len(each["expire"]["keys"]) for each in leader.changes] == [BATCH_KEYS, BATCH_KEYS, 1]
    assert leader.looks == 1 + -(-(count + 1) // LOOK_AT)
    assert list(state.coupons) == ["stays"]


def test_a_run_that_finds_nothing_writes_nothing() -> None:
    leader = Leader(given(Coupons.issue("a", 10.0)))
    Coupons.expire.job(clock=lambda: 9.0)(leader)
    assert leader.changes == []


def test_long_keys_are_fewer_in_a_change() -> None:
    long = "ä" * (BATCH_BYTES // 5)
    assert [len(batch) for batch in batches([long] * 5)] == [2, 2, 1]
    assert list(batches([])) == []


def test_what_was_prolonged_since_the_job_looked_stays() -> None:
    state = given(Coupons.issue("a", 10.0), Coupons.issue("b", 10.0))
    leader = Leader(state, meanwhile=lambda: state.apply(Coupons.issue("a", 99.0)))
    Coupons.expire.job(clock=lambda: 10.0)(leader)
    assert leader.changes == [Coupons.expire(["a", "b"], 10.0)]
    assert list(state.coupons) == ["a"]


def test_so_does_an_entry_of_a_mapping() -> None:
    entries = {"a": {"until": 10}, "b": {"until": 10}, "for-ever": {"until": None}, "without": {}, "text": "x"}
    state = given(put_many(entries), state=DictState())
    leader = Leader(state, meanwhile=lambda: state.apply(put("a", {"until": 99})))
    expiry(until="until").job(clock=lambda: 10.0)(leader)
    assert list(state) == ["a", "for-ever", "without", "text"]


def test_what_goes_meanwhile_is_passed_over() -> None:
    state = given(put_many({str(n): {"until": 1} for n in range(2 * LOOK_AT)}), state=DictState())
    leader = Leader(state)
    reading = leader.reading

    @contextmanager
    def then_all_go() -> Iterator[Any]:
        with reading() as held:
            yield held
        state.apply(delete(*list(state)))

    leader.reading = then_all_go  # type: ignore[method-assign]
    expiry(until="until").job(clock=lambda: 10.0)(leader)
    assert leader.changes == []


def test_a_job_ends_with_its_leadership() -> None:
    leader = Leader(given(Coupons.issue("a", 10.0)))
    leader.is_over = True
    with pytest.raises(LeadershipLost):
        Coupons.expire.job(clock=lambda: 10.0)(leader)
    assert leader.changes == []


def test_an_entry_without_a_time_is_said_after_the_others_are_gone() -> None:
    state = given(put_many({"odd": {"until": "noon"}, "a": {"until": 1}}), state=DictState())
    with pytest.raises(ValueError, match=r"entry\['odd'\]\.until: 'noon' is no time.* the entry stays"):
        expiry(until="until").job(clock=lambda: 10.0)(Leader(state))
    assert list(state) == ["odd"]


def test_a_change_of_ones_own_takes_the_place_of_the_one_that_is_ready() -> None:
    state = given(Coupons.issue("a", 10.0), Coupons.issue("b", 11.0))
    expiry("coupons", until="until", change=Coupons.retire).job(clock=lambda: 10.0)(Leader(state))
    assert (list(state.coupons), state.retired) == (["b"], ["a"])


def test_what_is_no_mapping_is_said() -> None:
    with pytest.raises(ConfigError, match="Coupons is no mapping of keys to entries"):
        expiry(until="until").job()(Leader(Coupons()))


@pytest.mark.parametrize(
    "change",
    [{"keys": "a", "until": "until", "now": 1}, {"keys": [], "until": 1, "now": 1}, {"keys": []}, [], None],
)
def test_a_change_of_a_mapping_that_does_not_fit_is_rejected(change: Any) -> None:
    with pytest.raises(InvalidChange, match="expire must have"):
        DictState().apply({"expire": change})


def test_it_is_called_by_its_name() -> None:
    assert Coupons.expire.job().__qualname__ == "Coupons.expire"
    assert Coupons.forget_uses.name == "forget_uses"


# --- a group ---


def test_whoever_leads_takes_out_what_is_over_and_so_does_its_successor() -> None:
    with Cluster(3, Coupons) as cluster:
        for name in cluster:
            cluster[name].every(60, Coupons.expire.job(clock=lambda: cluster.now))
        begins = cluster.now
        for code, after_s in (("first", 30), ("second", 90), ("last", 10_000)):
            cluster.submit(Coupons.issue(code, begins + after_s))
        cluster.advance(60)
        with cluster.primary.reading() as state:
            assert list(state.coupons) == ["second", "last"]
        cluster.kill("a")
        cluster.settle()
        cluster.advance(120)
        for node in cluster.nodes.values():
            with node.reading() as state:
                assert list(state.coupons) == ["last"]
        cluster.check_equal()
