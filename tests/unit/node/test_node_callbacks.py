"""What an application's callbacks do to a node: it keeps its place, says what happened, and never waits for itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import replicator.node.snapshot_publisher
from replicator import (
    ChangeRejected,
    Node,
    NoThread,
    NotJSON,
    ReplicatorError,
    SnapshotFailed,
    Stalled,
    WouldDeadlock,
    ops,
)
from replicator.format.ids import RecordId
from replicator.format.records import PartRecord
from tests.support.kv import (
    BEAT_S,
    KV,
    PATIENCE_S,
    Group,
    after_beats,
    document,
    eventually,
    in_step,
    in_thread,
    push,
    pushed,
    put,
)


class Frail(KV):
    """A state of which `snapshot` can be made to fail: at the call, at a later piece, or by what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.breaks = ""
        self.calls = 0

    def snapshot(self) -> Any:
        self.calls += 1
        if self.breaks == "call":
            raise RuntimeError("dictionary changed size during iteration")
        if self.breaks == "end":
            raise SystemExit(1)
        if self.breaks == "nothing":
            return None
        return self._pieces(list(super().snapshot()), self.breaks)

    def _pieces(self, pieces: list[Any], breaks: str) -> Iterator[Any]:
        yield from pieces
        if breaks == "piece":
            raise KeyError("a piece")
        if breaks == "kind":
            yield {1, 2}


WAYS = ["call", "piece", "nothing", "kind", "end"]


def said_by(group: Group, name: str) -> str:
    return group.server.look().heartbeats[name].problem


def digests(group: Group) -> ops.DigestReport:
    return ops.verify(group.log(), by="test", timeout_s=PATIENCE_S)


class TestSnapshotThatFails:
    @pytest.mark.parametrize("how", WAYS)
    def test_a_marker_ends_nobody_and_everybody_says_so(self, group: Group, how: str) -> None:
        states = [Frail(), Frail()]
        a = group.primary("a", state=states[0], beat_every_s=BEAT_S)
        b = group.node("b", state=states[1], beat_every_s=BEAT_S)
        a.submit(push("x"))
        in_step(a, b)
        for state in states:
            state.breaks = how
        report = digests(group)
        assert (report.digests, report.equal) == ({"a": "none", "b": "none"}, False)
        a.submit(push("y"))
        in_step(a, b)
        assert [(node.failed, node.stalled) for node in (a, b)] == [(None, None)] * 2
        assert pushed(b) == ["x", "y"]
        for node in (a, b):
            eventually(lambda node=node: "snapshot" in said_by(group, node.name), "what the application did")
            assert group.server.look().heartbeats[node.name].stalled == ""
            assert node.problem == said_by(group, node.name) != ""
        for state in states:
            state.breaks = ""
        assert digests(group).equal
        eventually(lambda: (said_by(group, "a"), said_by(group, "b")) == ("", ""))

    @pytest.mark.parametrize("how", WAYS)
    def test_it_starts_again_with_a_marker_behind_it(self, group: Group, how: str) -> None:
        state = Frail()
        a = group.primary("a", state=state)
        a.submit(push("x"))
        digests(group)
        a.stop()
        again = Frail()
        again.breaks = how
        a = in_thread(lambda: group.node("a", state=again))()  # on the main thread a SystemExit is one
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert a.submit(push("y")) == 2

    @pytest.mark.parametrize("how", WAYS)
    def test_one_that_is_asked_for_is_done_without_and_sent_once_it_can_be(
        self, group: Group, monkeypatch: pytest.MonkeyPatch, how: str
    ) -> None:
        monkeypatch.setattr(replicator.node.snapshot_publisher, "PUBLISH_AGAIN_S", 0.05)
        state = Frail()
        a = group.primary("a", state=state, beat_every_s=BEAT_S)
        a.submit(push("x"))
        state.breaks = how
        group.log().request("snapshot", by="test")
        eventually(lambda: "snapshot" in a.problem)
        eventually(lambda: "snapshot" in said_by(group, "a"))
        assert a.submit(push("y")) == 2
        assert (a.role, a.failed, a.stalled) == ("primary", None, None)
        state.breaks = ""
        # That it was asked for is over: who still needs one asks again, or reports that it is out of sync.
        group.log().request("snapshot", by="test")
        eventually(lambda: group.server.look().head.snapshot_at != RecordId(0, 0), "a snapshot")  # type: ignore[union-attr]
        eventually(lambda: a.problem == "")

    def test_it_is_not_called_again_and_again(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicator.node.snapshot_publisher, "DRAW_AGAIN_S", 1000.0)
        monkeypatch.setattr(replicator.node.snapshot_publisher, "DRAW_AGAIN_S_MAX", 1000.0)
        state = Frail()
        a = group.primary("a", state=state, beat_every_s=BEAT_S)
        state.breaks, before = "piece", state.calls
        group.log().request("snapshot", by="test")
        eventually(lambda: "snapshot" in a.problem)
        for _ in range(3):
            group.log().request("snapshot", by="test")
            after_beats(2, a)
        assert state.calls == before + 1

    def test_one_that_fails_late_does_not_fill_the_log(self, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicator.node.snapshot_publisher, "DRAW_AGAIN_S", 0.01)
        monkeypatch.setattr(replicator.node.snapshot_publisher, "DRAW_AGAIN_S_MAX", 0.05)
        state, log = Frail(), group.faulty_log()
        a = group.primary("a", state=state, log=log, beat_every_s=BEAT_S)
        for number in range(40):
            a.submit(put(str(number), random.Random(number).randbytes(12 * 1024).hex()))
        state.breaks = "piece"

        def asked_again() -> int:
            group.log().request("snapshot", by="test")
            return state.calls

        eventually(lambda: asked_again() >= 1)
        eventually(lambda: "snapshot" in a.problem)
        sent = len(log.sent)
        assert sum(isinstance(record, PartRecord) for record in log.sent) > 1
        eventually(lambda: asked_again() >= 4, "some more attempts")
        assert len(log.sent) == sent
        state.breaks = ""
        eventually(lambda: asked_again() and group.server.look().head.snapshot_at != RecordId(0, 0))  # type: ignore[union-attr]

    def test_who_publishes_hears_it(self, group: Group) -> None:
        state = Frail()
        a = group.primary("a", state=state)
        state.breaks = "piece"
        with pytest.raises(SnapshotFailed, match=r"snapshot\(\) failed, .* \(KeyError\('a piece'\)\)"):
            a.publish()
        state.breaks = "kind"
        with pytest.raises(NotJSON, match="a piece of the snapshot is not JSON"):
            a.publish()
        assert a.submit(push("x")) == 1

    def test_a_node_that_has_to_rebase_says_why_it_does_not_lead_and_leads_once_it_can(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(replicator.node.snapshot_publisher, "PUBLISH_AGAIN_S_MAX", 0.05)
        state = Frail()
        a = group.primary("a", state=state, beat_every_s=BEAT_S)
        a.submit(push("x"))
        copy = group.server.state
        a.submit(push("lost by Redis"))
        state.breaks = "piece"
        group.fail_over(copy)
        eventually(lambda: "snapshot" in a.problem)
        assert (a.failed, a.stalled) == (None, None)
        state.breaks = ""
        eventually(lambda: a.role == "primary")
        assert pushed(a) == ["x", "lost by Redis"]

    def test_of_a_state_without_apply_too(self, group: Group) -> None:
        class Whole:
            def __init__(self) -> None:
                self.text, self.breaks = "", False

            def snapshot(self) -> Iterator[Any]:
                yield self.text
                if self.breaks:
                    raise ValueError("no")

            def restore(self, pieces: Iterable[Any]) -> None:
                (self.text,) = pieces

        state, copy = Whole(), Whole()
        a, b = group.primary("a", state=state), group.node("b", state=copy)
        state.text = "one"
        a.publish()
        state.text, state.breaks, copy.breaks = "two", True, True
        with pytest.raises(SnapshotFailed, match="ValueError"):
            a.publish()
        assert digests(group).digests["b"] == "none"
        state.breaks = copy.breaks = False
        a.publish()
        in_step(a, b)
        assert (copy.text, a.failed, b.failed) == ("two", None, None)


class TestEnds:
    """A SystemExit out of a callback ends no thread of a node's, and nothing else but the callback."""

    def test_of_apply_on_a_standby(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b", beat_every_s=BEAT_S)
        b._setup.state.in_apply = raise_(SystemExit(1))  # type: ignore[union-attr]
        a.submit(push("x"))
        eventually(lambda: b.stalled)
        eventually(lambda: group.server.look().heartbeats["b"].stalled)
        assert "SystemExit" in (b.stalled or "")
        assert b.failed is None
        assert {f"b-{name}" for name in ("reader", "ha-loop", "saver")} <= names_of_threads()

    def test_of_apply_for_a_task(self, group: Group) -> None:
        a = group.primary("a")
        a._setup.state.in_apply = raise_(SystemExit(1))  # type: ignore[union-attr]

        async def write() -> list[type]:
            return [type(each) for each in await asyncio.gather(*map(a.asubmit, [push("x")]), return_exceptions=True)]

        assert asyncio.run(write()) == [Stalled]
        assert asyncio.run(write()) == [Stalled]
        assert "a-committer" in names_of_threads()

    def test_of_restore(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        a.publish()
        a.publish()  # what is behind the first one is cut off, so that b has to take a snapshot
        state = KV()
        state.in_restore = raise_(SystemExit(1))
        with contextlib.suppress(Stalled):
            group.node("b", state=state)
        b = group.nodes[-1]
        eventually(lambda: b.stalled)
        assert b.failed is None
        assert "b-reader" in names_of_threads()

    def test_but_on_the_main_thread_it_may_be_a_signal(self, group: Group) -> None:
        a = group.primary("a")
        a._setup.state.in_apply = raise_(SystemExit(3))  # type: ignore[union-attr]
        with pytest.raises(SystemExit):
            a.submit(push("x"))
        assert a.stalled


def test_an_apply_that_gives_a_coroutine_has_done_nothing_and_stalls(group: Group) -> None:
    async def later(change: Any) -> None: ...

    class Later(KV):
        def apply(self, change: Any) -> Any:
            return later(change)

    a = group.primary("a", state=Later())
    with pytest.raises(Stalled, match="gave a coroutine, and did nothing"):
        a.submit(push("x"))
    assert "coroutine" in (a.stalled or "")


@pytest.mark.parametrize(
    "result",
    [object(), lambda: 1, float("nan"), {1, 2}, iter([]), ValueError("given")],
    ids=lambda result: type(result).__name__,
)
def test_whatever_else_apply_gives_is_given_to_the_submitter(group: Group, result: Any) -> None:
    class Gives(KV):
        def apply(self, change: Any) -> Any:
            return result

    a = group.primary("a", state=Gives())
    assert a.submit(push("x")) is result
    assert asyncio.run(a.asubmit(push("x"))) is result


def raise_(error: BaseException) -> Callable[..., None]:
    def raising(*_: object) -> None:
        raise error

    return raising


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


class TestNoThreads:
    @pytest.fixture
    def refused(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        """From now on no thread is started, until this is called."""
        start = threading.Thread.start
        refuses = [True]

        def refusing(thread: threading.Thread) -> None:
            if refuses and not thread.name.startswith("Thread-"):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refusing)
        return refuses.clear

    def test_a_node_says_so_and_digests_when_it_can(self, group: Group, request: pytest.FixtureRequest) -> None:
        a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
        allow = request.getfixturevalue("refused")
        a._running.primary.commits.mark()
        for node in (a, b):
            eventually(lambda node=node: "the system starts no thread" in said_by(group, node.name))
            assert (node.failed, node.stalled) == (None, None)
        assert a.submit(push("x")) == 1
        in_step(a, b)
        allow()
        eventually(lambda: group.server.look().heartbeats["b"].digest)
        eventually(lambda: (a.problem, b.problem) == ("", ""))

    def test_a_snapshot_is_restored_on_the_reader_then(
        self, group: Group, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
    ) -> None:
        a = group.primary("a")
        for number in range(40):
            a.submit(put(str(number), random.Random(number).randbytes(12 * 1024).hex()))
        a.publish()
        a.submit(push("after"))
        group.server._trim(group.server.state.head.snapshot_at)  # type: ignore[union-attr]
        b = group.new_node("b")
        threads = _OnlyOwn(request)
        b.start()
        in_step(a, b)
        threads.end()
        assert "not decoded while it arrives" in caplog.text
        assert document(b) == document(a)
        assert (b.failed, b.stalled) == (None, None)

    def test_a_task_hears_it_and_the_next_one_is_served(self, group: Group, request: pytest.FixtureRequest) -> None:
        a = group.primary("a")
        allow = request.getfixturevalue("refused")
        with pytest.raises(NoThread, match="a-committer"):
            asyncio.run(a.asubmit(push("x")))
        allow()
        assert asyncio.run(a.asubmit(push("y"))) == 1

    def test_a_start_leaves_nothing_behind(self, group: Group, request: pytest.FixtureRequest) -> None:
        a = group.new_node("a")
        allow = request.getfixturevalue("refused")
        with pytest.raises(NoThread, match="a-reader"):
            a.start()
        allow()
        again = group.node("a", data_dir=a.data_dir)
        assert again.role == "standby"


class _OnlyOwn:
    """No thread is started but those that a node starts with."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._patch = pytest.MonkeyPatch()
        request.addfinalizer(self._patch.undo)
        start = threading.Thread.start

        def refusing(thread: threading.Thread) -> None:
            if thread.name.startswith("restore-"):
                raise RuntimeError("can't start new thread")
            start(thread)

        self._patch.setattr(threading.Thread, "start", refusing)

    def end(self) -> None:
        self._patch.undo()


def calls(node: Node) -> dict[str, Callable[[], Any]]:
    def read(**options: Any) -> None:
        with node.reading(**options):
            pass

    return {
        "submit": lambda: node.submit(push("inner")),
        "submit_many": lambda: node.submit_many([push("inner")]),
        "asubmit": lambda: asyncio.run(node.asubmit(push("inner"))),
        "asubmit_many": lambda: asyncio.run(node.asubmit_many([push("inner")])),
        "replace": lambda: node.replace([["pushed", []]]),
        "publish": node.publish,
        "promote": node.promote,
        "wait": lambda: node.wait(n=1000),
        "reading": read,
        "a fresh read": lambda: read(fresh=True),
        "stop": node.stop,
    }


class Caller:
    """Makes every call that a node has from where it stands, once, and remembers what came of each."""

    def __init__(self) -> None:
        self.node: Node | None = None
        self.outcomes: dict[str, object] = {}

    def __call__(self, *_: object) -> None:
        if self.node is None:
            return
        every, self.node = calls(self.node), None
        for name, call in every.items():
            try:
                self.outcomes[name] = call()
            except ReplicatorError as error:
                self.outcomes[name] = type(error)


class TestWaitingForItself:
    """Every one of these hung, for ten seconds or for ever, while the lease went on."""

    def check(self, caller: Caller, *nodes: Node) -> None:
        assert set(caller.outcomes) == set(calls(nodes[0]))
        assert set(caller.outcomes.values()) == {WouldDeadlock}
        primary = nodes[0]
        in_thread(lambda: primary.submit(push("next")))()
        in_step(*nodes)
        assert all(node.failed is None and node.stalled is None for node in nodes)

    @pytest.mark.parametrize("on", ["primary", "standby"])
    def test_inside_apply(self, group: Group, on: str) -> None:
        a, b = group.primary("a"), group.node("b")
        node, caller = (a, Caller()) if on == "primary" else (b, Caller())
        node._setup.state.in_apply = caller  # type: ignore[union-attr]
        caller.node = node
        assert a.submit(push("outer")) == 1
        eventually(lambda: caller.outcomes.get("stop"))
        self.check(caller, a, b)

    def test_inside_apply_for_a_task(self, group: Group) -> None:
        a, caller = group.primary("a"), Caller()
        a._setup.state.in_apply = caller  # type: ignore[union-attr]
        caller.node = a
        assert asyncio.run(a.asubmit(push("outer"))) == 1
        self.check(caller, a)

    @pytest.mark.parametrize("on", ["primary", "standby"])
    def test_inside_restore(self, group: Group, on: str) -> None:
        a, b = group.primary("a"), group.node("b")
        node, caller = (a, Caller()) if on == "primary" else (b, Caller())
        node._setup.state.in_restore = caller  # type: ignore[union-attr]
        caller.node = node
        a.replace([["pushed", ["new"]]])
        eventually(lambda: caller.outcomes.get("stop"))
        self.check(caller, a, b)
        assert pushed(b) == ["new", "next"]

    def test_inside_the_call_of_snapshot(self, group: Group) -> None:
        caller = Caller()

        class Calling(KV):
            def snapshot(self) -> Iterator[Any]:
                caller()
                return super().snapshot()

        a = group.primary("a", state=Calling())
        caller.node = a
        a.publish()
        self.check(caller, a)

    def test_inside_a_read(self, group: Group) -> None:
        a, caller = group.primary("a"), Caller()
        caller.node = a
        with a.reading():
            caller()
        self.check(caller, a)

    def test_on_the_way_through_another_node(self, tmp_path: Path) -> None:
        here, there = Group(tmp_path / "here"), Group(tmp_path / "there")
        try:
            a, b, caller = here.primary("a"), there.primary("b"), Caller()
            a._setup.state.in_apply = lambda change: b.submit(push("on")) if change == push("outer") else None  # type: ignore[union-attr]
            b._setup.state.in_apply = caller  # type: ignore[union-attr]
            caller.node = a
            assert a.submit(push("outer")) == 1
            self.check(caller, a)
            assert pushed(b) == ["on"]
        finally:
            here.close()
            there.close()

    def test_a_task_that_reads_must_not_await_a_write_and_others_may(self, group: Group) -> None:
        a = group.primary("a")

        async def tasks() -> list[Any]:
            reads, enough = asyncio.Event(), asyncio.Event()

            async def reader() -> Any:
                with a.reading():
                    reads.set()
                    try:
                        return await a.asubmit(push("mine"))
                    except WouldDeadlock as error:
                        await enough.wait()
                        return type(error)

            async def writer() -> Any:
                await reads.wait()
                write = asyncio.ensure_future(a.asubmit(push("another's")))
                await asyncio.sleep(0)
                enough.set()
                return await write

            return await asyncio.gather(reader(), writer())

        assert asyncio.run(tasks()) == [WouldDeadlock, 1]

    def test_what_a_reader_has_another_thread_do_for_it_is_refused_as_well(self, group: Group) -> None:
        a = group.primary("a")

        async def reader() -> Any:
            with a.reading():
                return await asyncio.to_thread(a.submit, push("mine"))

        with pytest.raises(WouldDeadlock, match="inside `reading"):
            asyncio.run(reader())

    def test_facts_may_be_asked_for_anywhere(self, group: Group) -> None:
        a = group.primary("a")
        seen: list[Any] = []
        a._setup.state.in_apply = lambda change: seen.append((a.role, a.term, a.problem, a.stalled, a.in_sync))  # type: ignore[union-attr]
        a.submit(push("x"))
        with a.reading():
            assert (a.role, str(a.position.id)) == ("primary", "1-2")
        assert seen == [("primary", 1, "", None, True)]

    def test_what_other_threads_do_waits_for_the_reader_as_ever(self, group: Group) -> None:
        a = group.primary("a")
        with a.reading():
            write = in_thread(lambda: a.submit(push("x")))
            time.sleep(0.05)
        assert write() == 1


def test_a_rejection_inside_of_a_record_goes_on_being_one(group: Group) -> None:
    a = group.primary("a")
    first, second = a.submit_many([{"reject": "no"}, push("x")])
    assert isinstance(first, ChangeRejected)
    assert second == 1
