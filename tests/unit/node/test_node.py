"""A node through its life, over a log in memory: what it promises to the application that embeds it."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest

from replicator import (
    CheckpointError,
    ConfigError,
    LeaseLost,
    LogLost,
    LogUnavailable,
    Node,
    NotPrimary,
    NotRunning,
    PromotionRefused,
)
from replicator.format.ids import ORIGIN
from replicator.node.health import Lag
from replicator.node.identity import Name
from replicator.protocol.group import Claim, Code, GroupView, Reply
from tests.support.kv import (
    BEAT_S,
    KV,
    PATIENCE_S,
    SHORT_LEASE_S,
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
from tests.support.nodes import is_missed_late, lease_runs_out, replace_holder
from tests.support.worlds import lead


class TestSettings:
    @pytest.mark.parametrize(
        ("options", "setting"),
        [
            ({"name": ""}, "name"),
            ({"name": "a b"}, "name"),
            ({"name": "{a}"}, "name"),
            ({"name": "a\tb"}, "name"),
            ({"name": 7}, "name"),
            ({"group": "a/b"}, "group"),
            ({"data_dir": ""}, "data_dir"),
            ({"data_dir": "a\0b"}, "data_dir"),
            ({"data_dir": None}, "data_dir"),
            ({"http": "http://0.0.0.0:8000"}, "http"),
            ({"http": "nonsense"}, "http"),
            ({"ack": None}, "ack"),
            ({"lease_s": "5"}, "lease_s"),
            ({"lease_s": True}, "lease_s"),
            ({"lease_s": float("inf")}, "lease_s"),
            ({"lease_s": float("nan")}, "lease_s"),
            ({"lease_s": 1e12}, "lease_s"),
            ({"beat_every_s": 0}, "beat_every_s"),
            ({"beat_every_s": float("nan")}, "beat_every_s"),
            ({"beat_every_s": 3.0}, "beat_every_s"),
            ({"auto_promote": "no"}, "auto_promote"),
            ({"auto_promote": 1}, "auto_promote"),
            ({"on_restart": None}, "on_restart"),
            ({"redis": None, "log": None}, "redis"),
            ({"lease_s": 0.0}, "lease_s"),
            ({"on_restart": "perhaps"}, "on_restart"),
            ({"on_log_lost": "ignore"}, "on_log_lost"),
            ({"snapshot_bytes_max": 0}, "snapshot_bytes_max"),
            ({"redis": "redis://localhost"}, "redis"),
            ({"log": None}, "redis"),
            ({"log": None, "redis": "http://localhost"}, "redis"),
            ({"log": None, "redis": "redis://localhost", "group": "{g}"}, "group"),
        ],
    )
    def test_a_setting_that_makes_no_sense_is_named(
        self, group: Group, tmp_path: Path, options: dict[str, Any], setting: str
    ) -> None:
        settings = {"group": "g", "name": "a", "data_dir": tmp_path / "a", "log": group.log()} | options
        with pytest.raises(ConfigError) as raised:
            Node(KV(), **settings)
        assert raised.value.fields["setting"] == setting


class TestOutsideOfItsLife:
    """Before `start` and after `stop`: facts are facts, and what needs a node that runs says so."""

    CALLS: ClassVar[dict[str, Callable[[Node], Any]]] = {
        "submit": lambda node: node.submit(push("x")),
        "submit_many": lambda node: node.submit_many([push("x")]),
        "asubmit": lambda node: asyncio.run(node.asubmit(push("x"))),
        "asubmit_many": lambda node: asyncio.run(node.asubmit_many([push("x")])),
        "replace": lambda node: node.replace([["pushed", []]]),
        "publish": lambda node: node.publish(),
        "promote": lambda node: node.promote(timeout_s=PATIENCE_S),
        "wait": lambda node: node.wait(role="standby"),
    }

    def test_before_its_start_a_node_is_a_standby_that_has_nothing(self, group: Group) -> None:
        a = group.new_node("a")
        assert (a.role, a.boot, a.term, a.position, a.in_sync) == ("standby", "", 0, ORIGIN, False)
        assert (a.lag, a.lease_ms, a.rejected, a.primary_http) == (Lag(None, None), None, 0, None)
        assert (a.problem, a.stalled, a.failed) == ("not started", None, None)

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    def test_before_its_start_a_call_says_what_to_do(self, group: Group, call: Callable[[Node], Any]) -> None:
        with pytest.raises(NotRunning, match=r"^a was not started: call start\(\)"):
            call(group.new_node("a"))

    def test_before_its_start_it_has_no_state_to_read(self, group: Group) -> None:
        with pytest.raises(NotRunning, match="was not started"), group.new_node("a").reading():
            pass

    def test_what_others_are_told_may_be_said_before_its_start(self, group: Group) -> None:
        a = group.new_node("a")
        a.announce("http://a")
        a.start()
        eventually(lambda: group.server.look().heartbeats["a"].http == "http://a")

    def test_a_node_whose_start_failed_was_not_started(self, group: Group) -> None:
        first = group.node("a")
        second = group.new_node("a", data_dir=first.data_dir)
        with pytest.raises(CheckpointError):
            second.start()
        assert (second.problem, second.role) == ("not started", "standby")
        first.stop()
        second.start()
        assert second.problem == ""

    def test_a_node_that_was_stopped_says_so(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        a.stop()
        assert (a.role, a.term, str(a.position.id), a.lease_ms, a.problem) == ("standby", 1, "1-2", None, "stopped")
        assert pushed(a) == ["x"]

    @pytest.mark.parametrize("call", [*CALLS.values(), Node.start], ids=[*CALLS, "start"])
    def test_after_its_end_a_call_says_what_to_do(self, group: Group, call: Callable[[Node], Any]) -> None:
        a = group.primary("a")
        a.stop()
        with pytest.raises(NotRunning, match="a was stopped: make another one"):
            call(a)

    def test_one_that_never_started_can_be_stopped_and_is_not_started_then(self, group: Group) -> None:
        a = group.new_node("a")
        a.stop()
        assert a.problem == "not started"
        with pytest.raises(NotRunning, match="was stopped"):
            a.start()

    def test_one_that_is_stopped_while_it_starts_leaves_its_directory_to_the_next(self, group: Group) -> None:
        # given a node that looks at the group for the first time
        log = group.log()
        looks, go_on, look = threading.Event(), threading.Event(), log.look

        def late_look() -> GroupView:
            looks.set()
            assert go_on.wait(PATIENCE_S)
            return look()

        log.look = late_look  # type: ignore[method-assign]
        a = group.new_node("a", log=log)
        started = in_thread(a.start)
        assert looks.wait(PATIENCE_S)
        # when it is stopped
        a.stop()
        go_on.set()
        # then it does not start, and nothing of it is left
        with pytest.raises(NotRunning, match="was stopped"):
            started()
        eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("a-")])
        group.node("a")


class TestPromotion:
    def test_a_new_node_is_a_standby_that_knows_no_term(self, group: Group) -> None:
        a = group.node("a")
        assert (a.role, a.term, str(a.position.id), a.in_sync, a.lease_ms) == ("standby", 0, "0-0", True, None)
        with pytest.raises(NotPrimary, match="replicator promote"):
            a.submit(put("x", 1))

    def test_the_first_promotion_founds_the_log_and_the_node_leads(self, group: Group) -> None:
        a = group.node("a")
        assert a.promote(timeout_s=PATIENCE_S) == 1
        assert (a.role, a.term, str(a.position.id)) == ("primary", 1, "1-1")
        assert a.submit(put("x", 1)) is None
        assert str(a.position.id) == "1-2"

    def test_the_old_primary_follows_the_new_one(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        a.submit(put("x", 1))
        assert b.promote(timeout_s=PATIENCE_S) == 2
        b.submit(put("x", 2))
        a.wait(role="standby", position=str(b.position.id), timeout_s=PATIENCE_S)
        assert document(a) == document(b)
        with pytest.raises(NotPrimary) as raised:
            a.submit(put("x", 3))
        assert raised.value.primary == "b"

    def test_a_leader_that_is_promoted_leads_in_the_new_term_when_promote_returns(self, group: Group) -> None:
        a = group.primary("a")
        assert a.promote(timeout_s=PATIENCE_S) == 2
        assert (a.role, a.term) == ("primary", 2)
        a.submit(put("x", 1))
        assert str(a.position.id) == "2-3"

    def test_a_candidate_that_claims_a_term_by_itself_at_that_moment_is_promoted(
        self, group: Group, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        a = group.node("a")
        take_term = a._running.ha_loop.candidate.take_term

        def second(reason: str, look: GroupView, *, until: float, guarded: bool = False) -> Reply:
            lead(a._setup.log, "a", boot=a.boot)
            return take_term(reason, look, until=until, guarded=guarded)

        monkeypatch.setattr(a._running.ha_loop.candidate, "take_term", second)
        assert a.promote(timeout_s=PATIENCE_S) == 1
        assert (a.role, a.term) == ("primary", 1)

    def test_a_promotion_that_another_one_forestalled_is_tried_again(self, group: Group) -> None:
        a, log = group.primary("a"), group.log()
        b = group.node("b", log=log)
        in_step(a, b)
        promote = log.promote

        def forestalled(claim: Claim) -> Reply:
            log.promote = promote  # type: ignore[method-assign]
            lead(group.log(), "a", boot=a.boot)
            return promote(claim)

        log.promote = forestalled  # type: ignore[method-assign]
        assert b.promote(timeout_s=PATIENCE_S) == 3
        assert (b.role, b.term) == ("primary", 3)

    def test_a_promotion_that_is_forestalled_again_and_again_is_given_up(self, group: Group) -> None:
        a, log = group.primary("a"), group.log()
        b = group.node("b", log=log)
        in_step(a, b)
        promote = log.promote

        def forestalled(claim: Claim) -> Reply:
            lead(group.log(), "a", boot=a.boot)
            return promote(claim)

        log.promote = forestalled  # type: ignore[method-assign]
        with pytest.raises(TimeoutError, match="the group changed whenever b was to be promoted; nothing was done"):
            b.promote(timeout_s=0.2)

    def test_one_that_is_replaced_before_it_leads_says_by_whom(self, group: Group) -> None:
        # given a standby that reads its own term record only when that of another one is there
        a, log = group.primary("a"), group.faulty_log()
        b = group.node("b", log=log)
        in_step(a, b)
        log.deaf, promote = True, log.promote

        def replaced(claim: Claim) -> Reply:
            reply = promote(claim)
            lead(group.log(), "a", boot=a.boot)
            log.deaf = False
            return reply

        log.promote = replaced  # type: ignore[method-assign]
        with pytest.raises(PromotionRefused, match="a took term 3 meanwhile"):
            b.promote(timeout_s=PATIENCE_S)

    @pytest.mark.parametrize("force", [False, True])
    def test_a_log_that_is_gone_is_said_to_be(self, group: Group, force: bool) -> None:
        a, log = group.primary("a", auto_promote=False), group.log()
        b = group.node("b", log=log)
        in_step(a, b)
        promote = log.promote

        def lost(claim: Claim) -> Reply:
            group.server.flush()
            return promote(claim)

        log.promote = lost  # type: ignore[method-assign]
        with pytest.raises(LogLost, match="the log of group memory is gone"):
            b.promote(force=force, timeout_s=PATIENCE_S)

    def test_the_new_primary_has_read_everything_before_it_leads(self, group: Group) -> None:
        a, b = group.primary("a"), group.node("b")
        for i in range(100):
            a.submit(push(i))
        b.promote(timeout_s=PATIENCE_S)
        assert pushed(b) == list(range(100))

    def test_the_primary_of_the_others_is_known_by_its_url(self, group: Group) -> None:
        a = group.primary("a", http="http://a", beat_every_s=BEAT_S)
        b = group.node("b", beat_every_s=BEAT_S)
        assert a.primary_http == "http://a"
        eventually(lambda: b.primary_http == "http://a")
        a.announce("http://elsewhere")
        eventually(lambda: b.primary_http == "http://elsewhere")
        a.stop()
        eventually(lambda: b.primary_http is None)


class TestLease:
    def test_without_its_lease_the_primary_refuses_writes_until_it_is_renewed(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, beat_every_s=BEAT_S)
        log.renewals_fail = True
        lease_runs_out(a)
        eventually(lambda: a.lease_ms is None)
        with pytest.raises(LeaseLost):
            a.submit(put("x", 1))
        assert a.role == "primary"
        log.renewals_fail = False
        a.wait(role="primary", timeout_s=PATIENCE_S)
        a.submit(put("x", 2))
        assert str(a.position.id) == "1-2"

    def test_the_lease_counts_from_before_the_request(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)
        # Each answer takes longer than the lease.
        log.before_renewal = lambda: time.sleep(1.2 * SHORT_LEASE_S)
        eventually(lambda: a.lease_ms is None)
        asked = threading.Event()
        answered = threading.Event()

        def slow() -> None:
            if asked.is_set():
                answered.set()
            asked.set()
            time.sleep(1.2 * SHORT_LEASE_S)

        log.before_renewal = slow
        assert answered.wait(PATIENCE_S)
        with pytest.raises(LeaseLost):
            a.submit(put("x", 1))

    def test_a_renewal_that_is_refused_ends_the_lease_at_once(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        replace_holder(group)
        a.wait(role="standby", timeout_s=PATIENCE_S)
        assert a.lease_ms is None

    def test_a_node_that_stops_in_the_middle_of_a_renewal_leaves_no_lease_behind(self, group: Group) -> None:
        # given a log that stays open, for it shares its connections
        log = group.faulty_log()
        log.close = lambda: None  # type: ignore[method-assign]
        a = group.primary("a", log=log, lease_s=60.0, beat_every_s=0.05)
        renews, goes_on = threading.Event(), threading.Event()

        def hang() -> None:
            renews.set()
            goes_on.wait(PATIENCE_S)

        log.before_renewal = hang
        assert renews.wait(PATIENCE_S)
        # when it is stopped meanwhile, and the renewal gets its way after that, as far as it can
        stopped = in_thread(a.stop)
        assert a._setup.stopping.wait(PATIENCE_S)
        time.sleep(0.05)  # so that it most likely waits for the renewal; if not, that has its way before
        goes_on.set()
        stopped()
        # then others need not wait for the end of a lease
        assert group.log().look().lease_ms is None
        a._running.ha_loop.keep()
        a._running.ha_loop.hold()
        assert group.log().look().lease_ms is None

    @pytest.mark.parametrize("code", [Code.FENCED, Code.LOST])
    def test_a_refusal_that_a_look_denies_does_not_end_the_term(
        self, group: Group, code: Code, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Somebody damaged the head for a moment: the fence refuses everybody meanwhile."""
        log = group.faulty_log()
        a = group.primary("a", log=log, beat_every_s=BEAT_S)
        renew, refusals = log.renew, [Reply(code, term=1, node="a")] * 3
        monkeypatch.setattr(log, "renew", lambda *args: refusals.pop() if refusals else renew(*args))
        eventually(lambda: not refusals)
        a.wait(role="primary", timeout_s=PATIENCE_S)
        assert a.submit(push("x")) == 1
        assert a.term == 1


class TestNames:
    def test_another_live_boot_of_the_name_is_refused(self, group: Group, tmp_path: Path) -> None:
        is_missed_late(group, group.node("a", http="http://first", beat_every_s=BEAT_S))
        with pytest.raises(ConfigError, match=r"'a' is taken in group .*http://first"):
            group.node("a", data_dir=tmp_path / "elsewhere", beat_every_s=BEAT_S)

    def test_a_live_boot_is_found_even_if_it_reported_just_now(self, group: Group, tmp_path: Path) -> None:
        first = group.node("a", beat_every_s=BEAT_S)
        is_missed_late(group, first)
        for i in range(5):
            first._running.ha_loop.reporter.beat()
            with pytest.raises(ConfigError, match="is taken"):
                group.node("a", data_dir=tmp_path / str(i), beat_every_s=BEAT_S)

    def test_a_boot_that_died_a_moment_ago_elsewhere_is_in_nobodys_way(self, group: Group, tmp_path: Path) -> None:
        group.node("a", beat_every_s=BEAT_S).stop()
        again = group.node("a", data_dir=tmp_path / "elsewhere", beat_every_s=BEAT_S)
        assert again.failed is None

    def test_a_live_boot_is_found_when_redis_comes_up_later(self, group: Group, tmp_path: Path) -> None:
        is_missed_late(group, group.node("a", beat_every_s=BEAT_S))
        log = group.log()
        log.down = "not yet"
        second = group.node("a", data_dir=tmp_path / "elsewhere", log=log, beat_every_s=BEAT_S)
        log.down = ""
        assert isinstance(eventually(lambda: second.failed), ConfigError)
        with pytest.raises(ConfigError):
            second.submit(put("x", 1))

    def test_of_two_that_started_at_the_same_moment_one_yields(
        self, group: Group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Name, "_check_is_free", lambda self, look: None)
        first = group.node("a", beat_every_s=BEAT_S)
        second = group.node("a", data_dir=tmp_path / "elsewhere", beat_every_s=BEAT_S)
        lower, higher = sorted((first, second), key=lambda node: node.boot)
        assert isinstance(eventually(lambda: lower.failed), ConfigError)
        assert higher.failed is None

    def test_a_copy_of_a_running_nodes_directory_is_refused_and_displaces_nobody(
        self, group: Group, tmp_path: Path
    ) -> None:
        # given a primary whose checkpoint names its boot, so that a copy takes that for its own previous one
        first = group.primary("a", beat_every_s=BEAT_S)
        first.submit(push("x"))
        eventually(lambda: (loaded := first._running.checkpoint.load()) and loaded.boot == first.boot)
        is_missed_late(group, first)
        copy = tmp_path / "copy"
        with first._running.checkpoint._mutex:
            shutil.copytree(first.data_dir, copy)
        # when, then
        with pytest.raises(ConfigError, match=r"is taken .* is a copy of its data directory"):
            group.node("a", data_dir=copy, beat_every_s=BEAT_S)
        after_beats(2, first)
        assert (first.role, first.term, first.failed) == ("primary", 1, None)
        first.wait(role="primary", timeout_s=PATIENCE_S)
        assert first.submit(push("y")) == 2

    def test_a_copy_of_a_directory_starts_once_the_original_beats_no_more(self, group: Group, tmp_path: Path) -> None:
        first = group.primary("a", beat_every_s=BEAT_S)
        first.submit(push("x"))
        copy = tmp_path / "copy"
        shutil.copytree(group.crash(first), copy)
        again = group.node("a", data_dir=copy, beat_every_s=BEAT_S)
        again.wait(role="primary", timeout_s=PATIENCE_S)
        assert pushed(again) == ["x"]

    def test_a_killed_node_starts_again_in_its_own_directory_without_waiting(
        self, group: Group, caplog: pytest.LogCaptureFixture
    ) -> None:
        # given a heartbeat that is young for longer than any test takes
        first = group.node("a", lease_s=60 * PATIENCE_S, beat_every_s=PATIENCE_S)
        eventually(lambda: group.log().look().heartbeats)
        directory = group.crash(first)
        # when
        again = group.node("a", data_dir=directory, beat_every_s=BEAT_S)
        # then
        assert again.failed is None
        assert "waiting to see if it lives" not in caplog.text

    def test_a_node_that_lost_redis_while_it_looked_for_another_one_looks_again(
        self, group: Group, tmp_path: Path
    ) -> None:
        is_missed_late(group, group.node("a", beat_every_s=BEAT_S))
        log = group.faulty_log()
        look, looks = log.look, count(1)

        def fails_the_second_time() -> GroupView:
            if next(looks) == 2:
                raise LogUnavailable(url=log.url, problem="for a moment")
            return look()

        log.look = fails_the_second_time  # type: ignore[method-assign]
        second = group.node("a", data_dir=tmp_path / "elsewhere", log=log, beat_every_s=BEAT_S)
        assert isinstance(eventually(lambda: second.failed), ConfigError)

    def test_a_second_node_on_the_directory_is_refused(self, group: Group) -> None:
        group.node("a")
        with pytest.raises(CheckpointError, match="process"):
            group.node("a")


class TestStop:
    def test_it_writes_the_checkpoint_and_gives_the_lease_back(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        a.submit(push("x"))
        assert group.server.look().lease_ms is not None
        a.stop()
        assert group.server.look().lease_ms is None
        log = group.log()
        log.down = "off"
        again = group.node("a", log=log)
        assert str(again.position.id) == "1-2"

    def test_it_can_be_called_twice_and_nothing_is_written_after_it(self, group: Group) -> None:
        a = group.primary("a")
        a.submit(push("x"))
        a.stop()
        a.stop()
        with pytest.raises(NotPrimary):
            a.submit(push("y"))
        assert pushed(a) == ["x"]
        assert a.role == "standby"

    def test_it_may_be_called_on_a_node_that_was_never_started(self, group: Group) -> None:
        group.new_node("a").stop()

    def test_it_finishes_the_record_under_way(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log)
        under_way, go_on = threading.Event(), threading.Event()

        def wait(record: Any) -> Reply:
            under_way.set()
            assert go_on.wait(PATIENCE_S)
            return log.execute(record)

        log.faults.append(wait)
        written = in_thread(lambda: a.submit(push("x")))
        assert under_way.wait(PATIENCE_S)
        stopped = in_thread(a.stop)
        assert a._setup.stopping.wait(PATIENCE_S)
        go_on.set()
        assert written() == 1
        stopped()
        again = group.node("a")
        assert pushed(again) == ["x"]

    def test_writers_that_wait_meanwhile_are_refused(self, group: Group) -> None:
        a = group.primary("a")
        refused = threading.Event()

        def write() -> list[Any]:
            done = []
            try:
                while True:
                    done.append(a.submit(push("x")))
            except NotPrimary:
                refused.set()
            return done

        writers = [in_thread(write) for _ in range(4)]
        eventually(lambda: a.position.id.n > 10)
        a.stop()
        done = sorted(place for writer in writers for place in writer())
        assert done == list(range(1, len(done) + 1))
        assert len(pushed(a)) == len(done)

    def test_it_ends_a_restore_wherever_that_runs(self, group: Group) -> None:
        a = group.primary("a")
        for number in range(500):
            a.submit(put(f"{number:03}", number))
        a.publish()
        a.submit(push("since"))
        a.publish()  # the log is cut: whoever comes needs the snapshot

        class Slow(KV):
            drawn = 0

            def restore(self, pieces: Any) -> None:
                def slowly() -> Iterator[Any]:
                    for piece in pieces:
                        self.drawn += 1
                        assert b._setup.stopping.wait(PATIENCE_S)
                        time.sleep(0.05)
                        yield piece

                super().restore(slowly())

        state = Slow()
        b = group.new_node("b", state=state)
        b.start()
        eventually(lambda: state.drawn, "the restore")
        b.stop()
        assert state.drawn < 500
        assert not [thread for thread in threading.enumerate() if thread.name.startswith(("b-", "restore-"))]
        again = group.node("b")
        again.wait(position=str(a.position.id), timeout_s=PATIENCE_S)
        assert document(again) == document(a)

    def test_a_node_that_is_stopped_leaves_no_thread(self, group: Group) -> None:
        a = group.primary("a")
        a.stop()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("a-")]


class TestLag:
    def test_lag_is_unknown_where_nobody_can_know_it(self, group: Group) -> None:
        a, log = group.primary("a", beat_every_s=BEAT_S), group.log()
        b = group.node("b", log=log, beat_every_s=BEAT_S)
        in_step(a, b)
        eventually(lambda: b.lag == (0, 0.0))
        log.down = "cut off"
        eventually(lambda: b.lag == (None, None))


def test_a_beat_under_way_does_not_take_a_goodbye_back(group: Group) -> None:
    # given a standby that stops while its keeper is about to report
    a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", beat_every_s=BEAT_S)
    in_step(a, b)
    ha_loop, beat, end = b._running.ha_loop, b._running.ha_loop.reporter.beat, b._running.ha_loop.end
    about_to, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def late_beat() -> None:
        about_to.set()
        go_on.wait(PATIENCE_S)
        beat()
        done.set()

    def ended(**options: Any) -> None:
        end(**options)
        go_on.set()
        done.wait(PATIENCE_S)

    ha_loop.reporter.beat, ha_loop.end = late_beat, ended  # type: ignore[method-assign]
    assert about_to.wait(PATIENCE_S)
    # when it has stopped
    b.stop()
    # then the group knows that it left
    assert group.server.look().heartbeats["b"].left
