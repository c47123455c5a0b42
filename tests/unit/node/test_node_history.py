"""A node keeps the newest entries of the history, and puts back what a Redis lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from replicator import ops
from replicator.errors import CheckpointError, LogUnavailable
from replicator.log.interface import HistoryPage
from replicator.node import history_keeper
from replicator.node.history_keeper import KEPT_BYTES_MAX, _parsed, _shown
from replicator.protocol.history import HistoryEntry
from replicator.testing import MemoryLog
from tests.support.kv import BEAT_S, PATIENCE_S, Group, after_beats, eventually, push


def whats(entries: Sequence[HistoryEntry]) -> list[str]:
    return [entry.what for entry in entries]


def in_redis(group: Group) -> list[HistoryEntry]:
    return group.log().history(count=100_000).entries


class CountingLog(MemoryLog):
    """It counts how often the history was asked for."""

    asked = 0

    def history(self, after: str = "", *, count: int = 1000) -> HistoryPage:
        self.asked += 1
        return super().history(after, count=count)


class TestWhatItKeeps:
    def test_before_it_is_started_it_knows_nothing(self, group: Group) -> None:
        node = group.new_node("a")
        assert (node.history().entries, node.history().complete) == ((), False)

    def test_every_node_has_what_redis_has(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        ops.pause(group.log(), by="ann", reason="moving")
        for node in (a, b):
            eventually(lambda node=node: whats(node.history().entries) == ["found", "pause"], "it has read them")  # type: ignore[misc]
            assert node.history() == ops.history(group.log())
            assert node.history().complete

    def test_while_nothing_happens_redis_is_not_asked_for_it(self, group: Group) -> None:
        log = CountingLog(group.server)
        a = group.node("a", log=log, beat_every_s=BEAT_S)
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: whats(a.history().entries) == ["found"], "it has read it")
        asked = log.asked
        for i in range(10):
            a.submit(push(i))
        after_beats(5, a)
        assert log.asked == asked
        group.log().pause("by ann", by="ann")
        eventually(lambda: len(a.history().entries) == 2, "it has read it")
        assert log.asked - asked <= 3, "one page, and that there are no more"

    def test_it_is_on_its_disk(self, group: Group) -> None:
        a = group.primary("a")
        group.log().pause("by ann", by="ann")
        eventually(lambda: len(a.history().entries) == 2, "it has read it")
        known = a.history().entries
        a.stop()
        again = group.new_node("a", data_dir=a.data_dir, log=group.faulty_log())
        again._setup.log.down = "cut off"  # type: ignore[attr-defined]
        again.start()
        assert list(again.history().entries) == list(known)

    def test_it_keeps_the_newest_ones(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(history_keeper, "KEPT", 3)
        a = group.primary("a")
        for i in range(5):
            group.log().pause(f"{i}", by=f"{i}")
        eventually(lambda: [entry.by for entry in a.history().entries] == ["2", "3", "4"], "the newest three")
        assert not a.history().complete
        assert a.history().complete_since_at == a.history().entries[0].at

    def test_its_note_is_bounded_in_bytes(self) -> None:
        entries = [HistoryEntry(what="pause", term=1, number=i, reason="ä" * 500) for i in range(1000)]
        text = _shown("log-1", entries)
        assert len(text.encode()) < KEPT_BYTES_MAX + 10_000
        log_id, found = _parsed(text)
        assert (log_id, found[-1]) == ("log-1", entries[-1])
        assert list(found) == entries[-len(found) :]

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"log_id":"x"}', '{"log_id":"x","entries":[1]}', "null"])
    def test_a_note_that_cannot_be_read_is_none(self, text: str) -> None:
        assert _parsed(text) == ("", ())


class TestWhatItPutsBack:
    def test_after_flushall_and_recover_nothing_is_missing(self, group: Group) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        ops.pause(group.log(), by="ann", reason="moving")
        ops.promote(group.log(), "b", by="ann", timeout_s=PATIENCE_S)
        before = ops.history(group.log()).entries
        assert len(before) == 3
        eventually(lambda: len(a.history().entries) == len(b.history().entries) == 3, "both have read them")
        group.server.flush()
        ops.recover(group.log(), by="ann", timeout_s=PATIENCE_S)
        eventually(lambda: len(in_redis(group)) == 4, "put back")
        found = ops.history(group.log())
        assert found.complete
        assert whats(found.entries) == ["found", "pause", "promote", "recover"]
        assert [entry.restored_by in ("a", "b") for entry in found.entries] == [True, True, True, False]
        last = found.entries[-1]
        assert (last.ended, last.ended_term, last.ended_node) == ("log lost", 2, "b")
        after_beats(4, a, b)
        assert len(in_redis(group)) == 4, "once, though two nodes have it"

    def test_a_redis_that_comes_back_with_less_gets_what_it_lacks(self, group: Group) -> None:
        a = group.primary("a")
        copy = group.server.state
        ops.pause(group.log(), by="ann")
        eventually(lambda: len(a.history().entries) == 2, "it has read it")
        group.fail_over(copy)
        eventually(lambda: len(in_redis(group)) == 3, "put back")
        found = ops.history(group.log())
        assert [(entry.what, entry.restored_by) for entry in found.entries] == [
            ("found", None), ("pause", "a"), ("takeover", None),
        ]  # fmt: skip
        assert found.entries[-1].ended == "run changed"
        assert found.complete

    def test_only_what_is_missing_is_put_back_after_a_restart_of_redis(self, group: Group) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        ops.pause(group.log(), by="ann")
        eventually(lambda: len(a.history().entries) == len(b.history().entries) == 2, "both have read them")
        group.fail_over()
        eventually(lambda: len(in_redis(group)) == 3, "another term")
        after_beats(4, a, b)
        assert [entry.restored_by for entry in in_redis(group)] == [None] * 3

    def test_it_is_put_back_by_a_node_that_starts_when_somebody_deleted_it(self, group: Group) -> None:
        a = group.primary("a")
        eventually(lambda: len(a.history().entries) == 1, "it has read it")
        data_dir = group.crash(a)
        group.server._write(history=group.server.state.history.__class__(count=1))
        group.node("a", data_dir=data_dir)
        eventually(lambda: [entry.restored_by for entry in in_redis(group) if entry.number == 1] == ["a"], "put back")

    def test_entries_of_another_log_are_not(self, group: Group) -> None:
        entry = HistoryEntry(what="found", term=1, number=1, at=5, by="somebody else")
        node = group.node("b", beat_every_s=BEAT_S)
        node._running.ha_loop.history._log_id = "another log"
        node._running.ha_loop.history._entries = (entry,)
        group.primary("a")
        eventually(lambda: whats(node.history().entries) == ["found"], "it has read it")
        after_beats(3, node)
        assert [each.by for each in in_redis(group)] == ["a's application"]
        assert [each.by for each in node.history().entries] == ["a's application"]

    def test_of_many_nothing_is_lost(self, group: Group) -> None:
        a = group.primary("a")
        for i in range(333):
            group.log().pause(f"{i}", by=f"{i}")
        eventually(lambda: len(a.history().entries) == 334, "it has read them")
        group.server.flush()
        ops.recover(group.log(), by="ann", timeout_s=PATIENCE_S)
        eventually(lambda: len(in_redis(group)) == 335, "put back")
        assert ops.history(group.log()).complete


class TestWhatIsInItsWay:
    @pytest.mark.parametrize("error", [LogUnavailable(url="memory:", problem="no"), CheckpointError("full")])
    def test_it_keeps_the_node_from_nothing(
        self, group: Group, error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(*_: Any, **__: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(MemoryLog if isinstance(error, LogUnavailable) else history_keeper.HistoryKeeper,
                          "history" if isinstance(error, LogUnavailable) else "_save", fail)  # fmt: skip
            a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
            ops.promote(group.log(), "b", by="ann", timeout_s=PATIENCE_S)
            b.submit(push("x"))
            after_beats(3, a, b)
            assert (a.problem, b.problem) == ("", "")
        eventually(lambda: len(a.history().entries) == len(b.history().entries) == 2, "it is read once it can be")
        told = [line for line in caplog.messages if line.startswith("the history of the group is not up to date here")]
        assert len(told) == 2, "once a node"
