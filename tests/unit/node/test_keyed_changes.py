"""G10: a change with a key lands once, whoever sends it how often, and every sender gets what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from replicator import (
    ChangeRejected,
    Commands,
    ConfigError,
    Key,
    KeyReused,
    Node,
    NotAcknowledged,
    OutcomeUnknown,
    ResultNotKept,
    change,
)
from replicator.format.codec import CHANGE_BYTES_MAX, encoded, encoded_keyed
from replicator.format.ids import ZERO_ID
from replicator.format.records import ChangeRecord, PartRecord
from replicator.node.commit_waiters import Sleeper
from replicator.replica.applied_state import changes_of
from tests.support.kv import KV, PATIENCE_S, Group, document, eventually, push, pushed, put
from tests.support.nodes import impatient
from tests.support.opaque import Text

SUBMITS: dict[str, Callable[..., Any]] = {
    "submit": lambda node, change, key: node.submit(change, key=key),
    "asubmit": lambda node, change, key: asyncio.run(node.asubmit(change, key=key)),
    "submit_many": lambda node, change, key: node.submit_many([change], keys=[key])[0],
    "asubmit_many": lambda node, change, key: asyncio.run(node.asubmit_many([change], keys=[key]))[0],
}


@pytest.fixture(params=list(SUBMITS))
def submit(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return SUBMITS[request.param]


def codecs(group: Group) -> list[str]:
    """Of the records in the log that have one."""
    records = group.log().read(ZERO_ID, count=1000).records
    return [record.codec for record in records if isinstance(record, ChangeRecord | PartRecord)]


def ledger_of(node: Node) -> Any:
    return node._running.replica.applied.ledger.image()


class TestOneNode:
    def test_a_repeat_changes_nothing_and_gives_the_first_result(
        self, group: Group, submit: Callable[..., Any]
    ) -> None:
        a = group.primary("a")
        assert [submit(a, push("x"), "k") for _ in range(3)] == [1, 1, 1]
        assert submit(a, push("x"), "another") == 2
        assert pushed(a) == ["x", "x"]

    def test_a_repeat_of_a_rejected_change_is_rejected(self, group: Group, submit: Callable[..., Any]) -> None:
        a = group.primary("a")
        for _ in range(2):
            try:
                result = submit(a, {"reject": "no"}, "k")
            except ChangeRejected as rejected:
                result = rejected
            assert (type(result), str(result)) == (ChangeRejected, "no")

    def test_another_change_with_that_key_is_refused(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"), key="k")
        with pytest.raises(KeyReused, match="'k' is that of another change"):
            a.submit(push("y"), key="k")
        assert pushed(a) == ["x"]

    def test_a_key_may_say_what_makes_two_attempts_the_same(self, group: Group) -> None:
        a = group.primary("a")
        assert [a.submit(push(at), key=Key("k", content=b"order")) for at in range(3)] == [1, 1, 1]
        with pytest.raises(KeyReused):
            a.submit(push(0), key=Key("k", content=b"another order"))
        assert pushed(a) == [0]

    def test_of_a_result_that_was_not_kept_a_repeat_says_so(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(put("k", "x" * 5000))
        assert a.submit(put("k", 1), key="k") == "x" * 5000
        for again in (lambda: a.submit(put("k", 1), key="k"), lambda: asyncio.run(a.asubmit(put("k", 1), key="k"))):
            with pytest.raises(ResultNotKept, match=r"was committed at 1-3"):
                again()
        (told,) = a.submit_many([put("k", 1)], keys=["k"])
        assert isinstance(told, ResultNotKept)

    def test_changes_with_and_without_keys_in_one_record(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"), key="k")
        results = a.submit_many(
            [push("y"), push("x"), push("z"), push("z"), push("w")], keys=[None, "k", "l", "l", "k"]
        )
        assert results[:4] == [2, 1, 3, 3]
        assert isinstance(results[4], KeyReused)
        assert pushed(a) == ["x", "y", "z"]

    def test_without_a_key_a_record_is_what_it_always_was(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        a.submit_many([push("y"), push("z")], keys=[None, None])
        a.publish()
        assert codecs(group) == ["json", "json", "json+zstd"]
        a.submit(push("x"), key="k")
        a.publish()
        assert codecs(group)[-2:] == ["keyed", "json2+zstd"]

    def test_writers_with_and_without_keys_share_a_record(self, group: Group) -> None:
        a = group.primary("a")
        commits = a._running.primary.commits
        waiting = [
            Sleeper(each, None, wants_acks=0, deadline=PATIENCE_S * 1e6)
            for each in (encoded([push("a"), push([", ]"])]), encoded_keyed([push("b")], ["k"]), encoded([push("c")]))
        ]
        with a._running.replica.write_lock:
            for each in waiting:
                commits.enqueue(each)
        commits.commit_all()
        assert [each.outcome[1] for each in waiting] == [[1, 2], [3], [4]]
        assert codecs(group) == ["keyed"]
        assert pushed(a) == ["a", [", ]"], "b", "c"]
        assert a.submit(push("b"), key="k") == 3

    def test_tasks_with_and_without_keys_each_have_their_own_result(self, group: Group) -> None:
        a = group.primary("a")

        async def writes() -> list[Any]:
            keys = [None if number % 3 else f"k{number % 30}" for number in range(300)]
            return await asyncio.gather(*(a.asubmit(push(key), key=key) for key in keys))

        results = asyncio.run(writes())
        assert len(pushed(a)) == 210
        for number, result in enumerate(results):
            assert pushed(a)[result - 1] == (None if number % 3 else f"k{number % 30}")

    @pytest.mark.parametrize("keyed", [0, 1, 998])
    def test_what_does_not_fit_with_its_brackets_goes_into_the_next_record(self, group: Group, keyed: int) -> None:
        # given changes that would just fit into a record, if none of them had a key
        a = group.primary("a")
        changes = [push("x" * 247) for _ in range(1000)]
        assert CHANGE_BYTES_MAX - 7000 < len(encoded(changes).json) < CHANGE_BYTES_MAX - 100
        keys = ["k" if number == keyed else None for number in range(1000)]

        async def writes() -> list[Any]:
            return await asyncio.gather(
                *(a.asubmit(change, key=key) for change, key in zip(changes, keys, strict=True))
            )

        # when tasks or threads write them, then everybody can read what they wrote
        assert asyncio.run(writes()) == list(range(1, 1001))
        waiting = [
            Sleeper(each, None, wants_acks=0, deadline=PATIENCE_S * 1e6)
            for each in (encoded(changes[:999]), encoded_keyed([push("x")], ["l"]))
        ]
        for each in waiting:
            a._running.primary.commits.enqueue(each)
        a._running.primary.commits.commit_all()
        assert [len(each.outcome[1]) for each in waiting] == [999, 1]
        records = group.log().read(ZERO_ID, count=1000).records
        assert sum(len(changes_of(record)) for record in records) == 2000
        assert codecs(group)[-2:] == ["json+zstd", "keyed"]

    @pytest.mark.parametrize("key", ["", "k" * 257, "a\nb", 5, b"k", "\ud800", True])
    def test_what_is_no_key_is_refused(self, group: Group, submit: Callable[..., Any], key: Any) -> None:
        a = group.primary("a")
        with pytest.raises(ConfigError, match="is no key: a key is a text of 1 to 256 characters"):
            submit(a, push("x"), key)
        assert pushed(a) == []

    @pytest.mark.parametrize("keys", [["k"], ["a", "b", "c"], "ab", [], {"a", "b"}, 5])
    def test_there_is_a_key_for_each_change_or_none(self, group: Group, keys: Any) -> None:
        a = group.primary("a")
        with pytest.raises(ConfigError, match="give a key, or None, for each change"):
            a.submit_many([push(1), push(2)], keys=keys)
        with pytest.raises(ConfigError, match="give a key, or None, for each change"):
            asyncio.run(a.asubmit_many([push(1), push(2)], keys=keys))

    def test_a_state_without_apply_takes_no_key(self, group: Group) -> None:
        a = group.primary("a", state=Text())
        with pytest.raises(ConfigError, match="has no apply"):
            a.submit(push("x"), key="k")

    def test_replacing_the_state_keeps_the_keys(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"), key="k")
        before = ledger_of(a)
        a.replace([["pushed", ["new"]]])
        assert ledger_of(a) == before
        assert a.submit(push("x"), key="k") == 1
        assert pushed(a) == ["new"]


@dataclass(frozen=True)
class Flag:
    on: bool
    percent: int = 100


@dataclass
class Flags(Commands):
    flags: dict[str, Flag] = field(default_factory=dict)

    @change
    def set_flag(self, name: str, on: bool) -> Flag:
        flag = self.flags[name] = Flag(on, len(self.flags))
        return flag

    @change
    def names(self) -> set[str]:  # none that can be written down
        return set(self.flags)

    @change
    def count(self):  # type: ignore[no-untyped-def]  # it does not say what it gives
        return len(self.flags)


def test_results_of_commands_are_kept_by_the_type_that_their_methods_give(group: Group) -> None:
    a = group.primary("a", state=Flags())
    for _ in range(2):
        assert a.submit(Flags.set_flag("x", True), key="k") == Flag(True, 0)
        assert a.submit(Flags.count(), key="l") == 1
    assert a.submit(Flags.names(), key="m") == {"x"}
    with pytest.raises(ResultNotKept):
        a.submit(Flags.names(), key="m")


class TestAGroup:
    def test_an_unknown_outcome_is_known_once_it_is_repeated_on_another_node(self, group: Group) -> None:
        # given a change that is in the log, and an answer that never comes
        log = group.faulty_log()
        a = group.primary("a", log=log)
        impatient(a)
        b = group.node("b")
        log.faults.extend([log.lose_the_answer] + [log.lose_the_request] * 1000)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"), key="k", timeout_s=0.2)
        # when b leads, and its writer asks there, then it gets what came of it
        b.promote(force=True, timeout_s=PATIENCE_S)
        assert [b.submit(push("x"), key="k") for _ in range(2)] == [1, 1]
        assert pushed(b) == ["x"]

    def test_one_that_never_came_lands_when_it_is_repeated(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        impatient(a)
        b = group.node("b")
        log.faults.extend([log.lose_the_request] * 1000)
        with pytest.raises(OutcomeUnknown):
            a.submit(push("x"), key="k", timeout_s=0.2)
        b.promote(force=True, timeout_s=PATIENCE_S)
        assert [b.submit(push("x"), key="k") for _ in range(2)] == [1, 1]
        assert pushed(b) == ["x"]

    def test_nodes_at_equal_positions_have_equal_keys_however_they_got_there(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        for number in range(20):
            a.submit(push(number), key=f"k{number}")
        with pytest.raises(ChangeRejected):
            a.submit({"reject": "no"}, key="rejected")
        # one that follows, one that begins with a snapshot, and one that replaces its state
        a.publish()
        a.publish()
        a.submit(push("more"), key="more")
        c = group.node("c")
        for node in (b, c):
            node.wait(position=str(a.position.id), timeout_s=PATIENCE_S)
            assert ledger_of(node) == ledger_of(a)
        a.replace([["pushed", ["new"]]])
        for node in (b, c):
            node.wait(position=str(a.position.id), timeout_s=PATIENCE_S)
            assert ledger_of(node) == ledger_of(a)
            assert document(node) == document(a)
        # and one that was started anew
        a.stop()
        b.promote(timeout_s=PATIENCE_S)
        assert b.submit(push(3), key="k3") == 4
        again = group.node("a")
        eventually(lambda: again.position == b.position)
        assert ledger_of(again) == ledger_of(b)
        assert pushed(again) == ["new"]

    def test_markers_digest_the_keys_too(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(push("x"), key="k")
        b.wait(position=str(a.position.id), timeout_s=PATIENCE_S)
        # given a node whose keys are not those of the others
        b._running.replica.applied.ledger = type(b._running.replica.applied.ledger)()
        a._running.primary.commits.mark()

        def digests() -> list[str]:
            found = [each.digest for each in group.log().look().heartbeats.values() if each.digest]
            return found if len(found) == 2 else []

        group.wake()
        first, second = eventually(digests)
        assert first != second

    def test_a_repeat_waits_for_acknowledgements_like_the_first(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"), key="k")
        with pytest.raises(NotAcknowledged):
            a.submit(push("x"), key="k", ack="applied:1", timeout_s=0.3)
        b = group.node("b")
        assert a.submit(push("x"), key="k", ack="applied:1", timeout_s=PATIENCE_S) == 1
        assert pushed(b) == ["x"]

    def test_a_state_that_stalls_keeps_no_key(self, group: Group) -> None:
        state = KV()
        a = group.primary("a", state=state)

        def fails(change: Any) -> None:
            raise ZeroDivisionError

        state.in_apply = fails
        with pytest.raises(Exception, match="ZeroDivisionError"):
            a.submit(push("x"), key="k")
        assert ledger_of(a).keys == ()
