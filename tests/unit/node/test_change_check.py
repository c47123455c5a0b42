"""`check` of the application: what it refuses is not written, and what it does wrong concerns its caller alone."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from replicator import ChangeRejected, CheckFailed, CheckingState, ConfigError, DictState, NotAcknowledged, ops, put
from replicator.errors import LogUnavailable, WouldDeadlock
from replicator.format.codec import encoded
from replicator.format.ids import RecordId
from replicator.format.records import ChangeRecord
from replicator.node.change_check import ChangeCheck
from replicator.node.commit_waiters import Sleeper, finish
from replicator.state.contract import check_state
from tests.support.kv import KV, PATIENCE_S, Group, eventually, in_step, in_thread, push, pushed
from tests.support.versions import APP, TWO, Two


class Checked(KV):
    """No more than `most` may be pushed; what is checked is kept."""

    def __init__(self, most: int = 100) -> None:
        super().__init__()
        self.most = most
        self.checked: list[Any] = []
        self.in_check: Callable[[Any], Any] = lambda change: None

    def check(self, change: Any) -> Any:
        self.checked.append(change)
        if len(self.pushed) >= self.most:
            raise ChangeRejected("there are {most}", field="push", most=self.most)
        return self.in_check(change)


def changes_in_log(group: Group) -> int:
    return sum(record.count for record in ops.records(group.log()) if isinstance(record, ChangeRecord))


def is_bad(change: Any) -> None:
    if change == push("bad"):
        raise ChangeRejected("bad")


def is_buggy(change: Any) -> None:
    if change == push("bad"):
        raise ZeroDivisionError("of the application")


def test_what_is_refused_is_raised_and_not_written(group: Group) -> None:
    a = group.primary("a", state=Checked(most=1))
    a.submit(push("x"))
    before = a.position
    with pytest.raises(ChangeRejected, match="there are 1") as refused:
        a.submit(push("y"))
    assert refused.value.field == "push"
    assert a.position == before
    assert changes_in_log(group) == 1
    assert not a.stalled


def test_it_sees_all_that_was_committed_before_and_not_its_own_record(group: Group) -> None:
    a = group.primary("a", state=Checked(most=2))
    a.submit(push("x"))
    assert a.submit_many([push("y"), push("z")]) == [2, 3], "both were checked against the state before their record"
    assert a.submit_many([]) == []
    with pytest.raises(ChangeRejected):
        a.submit(push("w"))


def test_a_standby_does_not_ask(group: Group) -> None:
    a = group.primary("a", state=Checked())
    state = Checked(most=0)
    b = group.node("b", state=state)
    a.submit(push("x"))
    in_step(a, b)
    assert (pushed(b), state.checked) == (["x"], [])


def test_of_many_what_is_refused_has_its_rejection_in_its_place_and_the_others_are_written(group: Group) -> None:
    state = Checked()
    state.in_check = is_bad
    a, b = group.primary("a", state=state), group.node("b")
    first, refused, last = a.submit_many([push("x"), push("bad"), push("y")])
    assert (first, last) == (1, 2)
    assert isinstance(refused, ChangeRejected)
    in_step(a, b)
    assert pushed(b) == ["x", "y"]
    only, rejected = a.submit_many([push("bad"), {"reject": "by apply"}])
    assert (str(only), str(rejected)) == ("bad", "by apply")


def test_where_check_fails_its_caller_is_told_nothing_is_written_and_the_node_goes_on(group: Group) -> None:
    state = Checked()
    state.in_check = is_buggy
    a = group.primary("a", state=state)
    with pytest.raises(CheckFailed, match="ZeroDivisionError") as failed:
        a.submit(push("bad"))
    assert isinstance(failed.value.__cause__, ZeroDivisionError)
    with pytest.raises(CheckFailed):
        a.submit_many([push("x"), push("bad")])
    assert changes_in_log(group) == 0
    assert a.submit(push("y")) == 1
    assert not a.stalled


@pytest.mark.parametrize("raised", [SystemExit(1), KeyboardInterrupt(), RecursionError()])
def test_whatever_it_raises_is_contained(group: Group, raised: BaseException) -> None:
    state = Checked()

    def fails(change: Any) -> None:
        raise raised

    state.in_check = fails
    a = group.primary("a", state=state)
    with pytest.raises(CheckFailed):
        in_thread(lambda: a.submit(push("x")))()
    state.in_check = lambda change: None
    assert a.submit(push("y")) == 1


def test_a_coroutine_is_no_answer(group: Group) -> None:
    async def later() -> None:
        pass

    state = Checked()
    state.in_check = lambda change: later()
    with pytest.raises(CheckFailed, match="gave a coroutine"):
        group.primary("a", state=state).submit(push("x"))


def test_a_call_that_waits_for_the_node_is_refused_in_it(group: Group) -> None:
    state = Checked()
    a = group.primary("a", state=state)

    def submits(change: Any) -> None:
        with pytest.raises(WouldDeadlock, match=r"check\(\)"):
            a.submit(push("inside"))

    state.in_check = submits
    assert a.submit(push("x")) == 1


def test_tasks_that_share_a_record_are_each_told_of_their_own(group: Group) -> None:
    state = Checked()
    a = group.primary("a", state=state)

    def decides(change: Any) -> None:
        is_bad(change)
        if change == push("buggy"):
            raise ZeroDivisionError

    state.in_check = decides

    async def work() -> list[Any]:
        one = [a.asubmit(push(what)) for what in ("x", "bad", "buggy", "y")]
        return await asyncio.gather(*one, a.asubmit_many([push("z"), push("bad")]), return_exceptions=True)

    x, bad, buggy, y, (z, also_bad) = asyncio.run(work())
    assert isinstance(bad, ChangeRejected)
    assert isinstance(buggy, CheckFailed)
    assert isinstance(also_bad, ChangeRejected)
    assert sorted([x, y, z]) == [1, 2, 3]
    assert sorted(pushed(a)) == ["x", "y", "z"]
    assert changes_in_log(group) == 3


def test_callers_that_share_a_record_have_each_their_own_results(group: Group) -> None:
    state = Checked()
    state.in_check = is_bad
    a = group.primary("a", state=state)
    commits = a._running.primary.commits
    with a._running.replica.write_lock:
        first = in_thread(lambda: a.submit_many([push("bad"), push("x")]))
        eventually(lambda: len(commits._queue) == 1, "the first waits")
        second = in_thread(lambda: a.submit(push("y")))
        eventually(lambda: len(commits._queue) == 2, "both wait")
    refused, of_x = first()
    assert isinstance(refused, ChangeRejected)
    assert (of_x, second()) == (1, 2)
    assert [record.count for record in ops.records(group.log()) if isinstance(record, ChangeRecord)] == [2]


def test_what_waits_on_is_looked_at_again(group: Group) -> None:
    """What was refused against one state may be right for the next, and the other way round."""
    state = Checked(most=0)
    a = group.primary("a", state=state)
    check = ChangeCheck(a._running.primary.writer, a._running.replica.applied)
    waiting = Sleeper(encoded([push("x"), push("y")]), None, wants_acks=0, deadline=math.inf)
    check.look_through([waiting], math.inf)
    assert (sorted(waiting.withheld), waiting.count) == ([0, 1], 0)
    state.most, state.in_check = 1, lambda change: is_bad(push("bad") if change == push("y") else change)
    check.look_through([waiting], math.inf)
    assert (sorted(waiting.withheld), waiting.count) == ([1], 1)


def test_whose_changes_were_all_refused_has_the_answer_whatever_becomes_of_the_others() -> None:
    refused, written = (Sleeper(encoded([push("x")]), None, wants_acks=0, deadline=math.inf) for _ in range(2))
    rejected = ChangeRejected("no")
    refused.withheld = {0: rejected}
    finish([refused, written], RecordId(1, 2), [], LogUnavailable("gone"))
    assert refused.outcome == (RecordId(1, 2), [rejected])
    with pytest.raises(LogUnavailable):
        _ = written.outcome


def test_nobody_is_waited_for_if_nothing_was_written(group: Group) -> None:
    state = Checked()
    state.in_check = is_bad
    a = group.primary("a", state=state)
    with pytest.raises(ChangeRejected):
        a.submit(push("bad"), ack="applied:1")
    with pytest.raises(NotAcknowledged):
        a.submit(push("x"), ack="applied:1", timeout_s=0.2)


def test_what_is_refused_stays_refused_while_the_answer_to_the_rest_is_looked_for(group: Group) -> None:
    log = group.faulty_log()
    state = Checked()
    state.in_check = is_bad
    a = group.primary("a", state=state, log=log)
    log.faults.append(log.lose_the_answer)
    first, refused, last = a.submit_many([push("x"), push("bad"), push("y")], timeout_s=PATIENCE_S)
    assert (first, last) == (1, 2)
    assert isinstance(refused, ChangeRejected)
    assert pushed(a) == ["x", "y"]


def test_a_subclass_of_a_state_that_is_ready_may_have_one(group: Group) -> None:
    class Small(DictState):
        def check(self, change: Any) -> None:
            if "put" in change and len(self) >= 1:
                raise ChangeRejected("it is full")

    a = group.primary("a", state=Small())
    a.submit(put("x", 1))
    with pytest.raises(ChangeRejected, match="it is full"):
        a.submit(put("y", 2))
    assert isinstance(Small(), CheckingState)
    assert not isinstance(DictState(), CheckingState)


def test_one_that_cannot_be_called_like_that_is_refused_at_once() -> None:
    class Async(KV):
        async def check(self, change: Any) -> None:
            pass

    class Other(KV):
        def check(self, change: Any, also: Any) -> None:
            pass

    with pytest.raises(ConfigError, match=r"check\(\) of Async is async"):
        check_state(Async())
    with pytest.raises(ConfigError, match=r"check\(\) of Other is called with one argument"):
        check_state(Other())


def test_a_state_without_apply_may_call_anything_so() -> None:
    class Whole:
        def snapshot(self) -> Any: ...
        def restore(self, pieces: Any) -> None: ...
        def check(self) -> None: ...

    check_state(Whole())


# --- with keys --------------------------------------------------------------------------------------------------------


def test_a_repeat_has_its_first_answer_whatever_check_says_of_it_by_now(group: Group) -> None:
    a = group.primary("a", state=Checked(most=1))
    first = a.submit(push("x"), key="order-1")
    assert a.submit(push("x"), key="order-1") == first
    with pytest.raises(ChangeRejected, match="there are 1"):
        a.submit(push("y"), key="order-2")
    assert pushed(a) == ["x"]
    assert a._running.replica.applied.state.checked == [push("x"), push("y")], "and is told the change, not its entry"


@pytest.mark.parametrize("keys", [["1", "2", "3"], ["1", None, "3"], [None, "2", None]])
def test_what_is_left_of_a_record_keeps_its_keys(group: Group, keys: list[str | None]) -> None:
    state = Checked()
    state.in_check = is_bad
    a, b = group.primary("a", state=state), group.node("b", state=KV())
    changes = [push("x"), push("bad"), push("y")]
    first = a.submit_many(changes, keys=keys)
    assert (first[0], type(first[1]), first[2]) == (1, ChangeRejected, 2)
    if None not in keys:
        again = a.submit_many(changes, keys=keys)
        assert (again[0], type(again[1]), again[2]) == (1, ChangeRejected, 2)
    in_step(a, b)
    assert pushed(a) == pushed(b) == ["x", "y"]
    assert ops.verify(group.log(), by="test", timeout_s=PATIENCE_S).equal


class Versioned(Two):
    def check(self, change: Any, version: int = 1) -> None:
        if change[0] == "note" and version < 2:
            raise ChangeRejected("not before version 2")

    def check_pieces(self, pieces: Iterable[Any], *, version: int) -> None:
        for piece in pieces:
            if len(piece) != version + 1:
                raise ChangeRejected(f"not of version {version}")


def test_it_is_told_the_version_as_apply_is(group: Group) -> None:
    a = group.node("a", state=Versioned(), app=APP, version=1, reads=range(1, 3))
    a.promote(timeout_s=PATIENCE_S)
    with pytest.raises(ChangeRejected, match="not before version 2"):
        a.submit(["note", "k", "seven"])
    with pytest.raises(ChangeRejected, match="not of version 1"):
        a.replace([["k", 1, None]])
    a.stop()
    a = group.node("a", **{**TWO, "state": Versioned()})
    eventually(lambda: a.leads, "that it goes on")
    group.wake()
    ops.finalize(group.log(), 2, by="ann", timeout_s=PATIENCE_S)
    a.submit(["note", "k", "seven"])
    a.replace([["k", 1, None]])
    with pytest.raises(ChangeRejected, match="not of version 2"):
        a.replace([["k", 1]])
