"""What a node tells Prometheus, beside what happened to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from replicator import CheckpointError, Node, ops
from replicator.errors import Fenced, LeaseLost, LogUnavailable, NotPrimary, ReplicatorError
from replicator.log.interface import Memory
from replicator.metrics.catalogue import METRICS, PROBLEM_KINDS
from replicator.node.memory_watch import MemoryWatch
from replicator.storage import forks as fork_files
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.forking import in_child
from tests.support.kv import BEAT_S, PATIENCE_S, SHORT_LEASE_S, Group, eventually, forks, in_step, push, put
from tests.support.nodes import lease_runs_out, replace_holder
from tests.support.worlds import promote


def values(node: Node) -> dict[str, Any]:
    (found,) = node.metrics()
    assert (found.group, found.node) == (node.group, node.name)
    return {name.removeprefix("replicator_"): value for name, value in found.values.items()}


def test_every_value_is_of_a_metric_that_the_catalogue_has_and_of_its_kind(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    for node in (a, b):
        values(node)
    a.submit(push("x"))
    in_step(a, b)
    found = [each for node in (a, b) for each in node.metrics()[0].values.items()]
    for name, value in found:
        metric = METRICS[name]
        assert (metric.kind == "histogram") == ("histogram" in repr(value).lower()), name
        assert bool(metric.label) == isinstance(value, dict), name
    of_others = ("replicator_redis_", "replicator_archive_", "replicator_proxy_")
    others = {name for name in METRICS if name.startswith(of_others)}
    sometimes = {
        "replicator_unready",
        "replicator_failover_paused_timestamp_seconds",
        "replicator_fork_timestamp_seconds",
    }
    assert {name for name, _ in found} == set(METRICS) - others - sometimes


def test_before_its_start_and_after_its_stop_it_is_not_up(group: Group) -> None:
    a = group.new_node("a")
    assert (values(a)["up"], values(a)["unready"]) == (0, {"not_running": 1.0})
    a.start()
    assert values(a)["up"] == 1
    a.stop()
    assert (values(a)["up"], values(a)["may_write"]) == (0, 0)


def test_who_may_write_and_who_could_take_over(group: Group) -> None:
    a, b = group.primary("a"), group.node("b", auto_promote=True)
    a.submit(push("x"))
    in_step(a, b)
    eventually(lambda: values(b).get("could_take_over"), "b knows of the run and of the head")
    ours, theirs = values(a), values(b)
    assert [ours[name] for name in ("may_write", "primary", "could_take_over", "candidate")] == [1, 1, 0, 0]
    assert [theirs[name] for name in ("may_write", "primary", "could_take_over", "candidate")] == [0, 0, 1, 1]
    assert 0 < ours["lease_left_seconds"] <= ours["lease_length_seconds"]
    assert theirs["lease_left_seconds"] == 0
    assert ours["term"] == theirs["term"] == 1
    eventually(lambda: values(b)["leader_seen"] and values(b)["nodes_alive"] == 2)


def test_a_standby_that_is_not_sound_could_not_take_over(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    in_step(a, b)
    eventually(lambda: values(b).get("could_take_over"))
    b._running.replica.divergence.at = b.position.id
    assert (values(b)["could_take_over"], values(b)["diverged"]) == (0, 1)


def test_records_changes_and_bytes_are_counted_from_the_beginning_and_times_from_the_first_scrape(group: Group) -> None:
    a = group.primary("a")
    a.submit(push("x"))
    a.submit_many([push("y"), push("z")])
    first = values(a)
    assert (first["appends_total"], first["changes_total"]) == (2, 3)
    assert first["append_bytes_total"] > 100
    assert first["batch_changes"].count == 0
    a.submit_many([push("y"), push("z")])
    second = values(a)
    assert (second["appends_total"], second["changes_total"]) == (3, 5)
    assert (second["batch_changes"].count, second["batch_changes"].sum) == (1, 2)
    assert {stage: second["stage_seconds"][stage].count for stage in ("queue", "append", "apply")} == {
        "queue": 1, "append": 1, "apply": 1,
    }  # fmt: skip
    eventually(lambda: "sync" in values(a)["stage_seconds"])


def test_tasks_are_counted_as_threads_are(group: Group) -> None:
    a = group.primary("a")
    values(a)

    async def work() -> None:
        await asyncio.gather(*(a.asubmit(push(number)) for number in range(5)))

    asyncio.run(work())
    found = values(a)
    assert found["changes_total"] == 5
    assert found["appends_total"] == found["batch_changes"].count == found["stage_seconds"]["queue"].count


def test_a_standby_says_how_old_what_it_applies_is(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    values(b)
    a.submit(push("x"))
    in_step(a, b)
    eventually(lambda: "standby" in values(b)["stage_seconds"])
    stages = values(b)["stage_seconds"]
    assert stages["apply"].count == stages["standby"].count == 1
    assert "append" not in stages


def test_lag_is_told_where_it_is_known(group: Group) -> None:
    log = group.faulty_log()
    a, b = group.primary("a"), group.node("b", log=log)
    a.submit(put("k", "v"))
    in_step(a, b)
    log.deaf = True
    for number in range(3):
        a.submit(put("k", number))
    eventually(lambda: values(b)["lag_records"] == 3)
    assert values(b)["lag_seconds"] >= 0
    eventually(lambda: values(b)["behind_seconds"] > 0)
    assert values(b)["head_n"] == values(b)["applied_n"] + 3
    log.deaf = False
    eventually(lambda: values(b)["lag_records"] == 0 and values(b)["behind_seconds"] == 0)
    log.down = "cut off"  # it sees nothing any more
    eventually(lambda: values(b)["problem"]["log_unavailable"] == 1)
    b._running.ha_loop.observer.seen = None
    assert "lag_records" not in values(b), "unknown is not 0"


def test_it_answers_while_redis_does_not_and_says_so(group: Group) -> None:
    log = group.log()
    a = group.primary("a", log=log, lease_s=SHORT_LEASE_S)
    log.down = "it hangs"
    eventually(lambda: values(a)["problem"]["log_unavailable"] == 1 and values(a)["may_write"] == 0)
    eventually(lambda: values(a)["look_age_seconds"] > 0.5)
    eventually(lambda: values(a)["leader_seen"] == 0)
    log.down = ""
    eventually(lambda: values(a)["problem"]["log_unavailable"] == 0 and values(a)["may_write"] == 1)


def test_a_lease_that_was_seen_counts_for_as_long_as_it_can_have_run(group: Group) -> None:
    log = group.log()
    a, b = group.primary("a", lease_s=SHORT_LEASE_S), group.node("b", log=log, beat_every_s=BEAT_S)
    in_step(a, b)
    eventually(lambda: values(b)["leader_seen"] == 1)
    log.down = "it hangs"
    eventually(lambda: values(b)["leader_seen"] == 0, "its newest look says that a lease runs, and is too old")
    log.down = ""
    eventually(lambda: values(b)["leader_seen"] == 1)


class TestFenced:
    def test_by_redis_at_a_record(self, group: Group) -> None:
        a = group.primary("a", lease_s=60.0)
        replace_holder(group)
        with pytest.raises((Fenced, NotPrimary)):
            a.submit(push("late"))
        found = values(a)["fenced_total"]
        assert found["append"] + found["renew"] >= 1

    def test_by_redis_at_a_record_alone(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, lease_s=60.0)
        log.deaf = True
        renew, log.renew = log.renew, _hangs  # type: ignore[method-assign]
        replace_holder(group)
        with pytest.raises(Fenced):
            a.submit(push("late"))
        assert values(a)["fenced_total"] == {"append": 1, "renew": 0, "submit": 0, "lease": 0}
        log.renew = renew  # type: ignore[method-assign]

    def test_by_the_node_because_another_term_was_meant(self, group: Group) -> None:
        a = group.primary("a")
        with pytest.raises(Fenced):
            a.submit(push("x"), term=7)
        assert values(a)["fenced_total"]["submit"] == 1
        assert values(a)["submit_errors_total"]["fenced"] == 0, "that call had not been committed by anybody"

    def test_by_the_node_because_its_lease_is_over(self, group: Group) -> None:
        log = group.faulty_log()
        a = group.primary("a", log=log, beat_every_s=BEAT_S)
        log.renewals_fail = True
        lease_runs_out(a)
        eventually(lambda: not a.leads)
        with pytest.raises(LeaseLost):
            a.submit(push("x"))
        found = values(a)
        assert found["fenced_total"]["lease"] >= 1
        assert found["submit_errors_total"]["lease_lost"] == 1


def _hangs(*_: Any) -> Any:
    raise LogUnavailable(url="memory", problem="renewals hang")


def test_an_error_counts_for_each_call_that_was_told(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    in_step(a, b)
    for _ in range(2):
        with pytest.raises(NotPrimary):
            b.submit(push("x"))
    assert values(b)["submit_errors_total"]["not_primary"] == 2
    assert sum(values(a)["submit_errors_total"].values()) == 0


def test_a_stale_record_that_is_read_is_counted(group: Group) -> None:
    a = group.primary("a")
    assert values(a)["stale_records_total"] == 0
    a._running.replica.rejected += 1
    assert values(a)["stale_records_total"] == 1


def test_snapshots_have_phases(group: Group) -> None:
    a = group.primary("a")
    for number in range(50):
        a.submit(put(f"k{number}", "v" * 100))
    a.publish()
    found = values(a)
    assert (found["snapshots_total"], found["snapshot_failures_total"]) == (1, 0)
    assert found["snapshot_parts_total"] >= 1
    assert found["snapshot_part_bytes_total"] > 0
    assert all(found["snapshot_seconds_total"][phase] > 0 for phase in ("begin", "draw", "send", "sweep"))
    eventually(lambda: values(a)["snapshot_bytes"] > 0)


def test_a_snapshot_that_fails_is_counted(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    a = group.primary("a")
    with a.reading() as state:
        monkeypatch.setattr(state, "snapshot", lambda: iter([object()]))
    with pytest.raises(ReplicatorError):
        a.publish()
    assert (values(a)["snapshots_total"], values(a)["snapshot_failures_total"]) == (0, 1)


def test_a_restore_has_phases(group: Group) -> None:
    a = group.primary("a")
    a.submit(push("x"))
    a.publish()
    a.publish()  # the log is cut at the first one
    b = group.node("b")
    in_step(a, b)
    found = values(b)
    assert found["restores_total"] == 1
    assert found["restore_seconds_total"]["build"] > 0
    assert found["restore_seconds_total"]["save"] > 0


def test_a_fork_is_counted_and_found_again_at_the_next_start(group: Group) -> None:
    a = group.primary("a")
    a.submit(push("kept"))
    copy = group.server.state
    a.submit(push("lost"))
    a.stop()
    group.fail_over(copy)
    b = group.node("b")
    eventually(lambda: b.position.id.n >= 2)
    b.promote(force=True, timeout_s=PATIENCE_S)
    b.submit(push("other"))
    b.publish()
    again = group.node("a", on_restart="standby")
    eventually(lambda: forks(again), "a keeps what the group has not")
    eventually(lambda: values(again)["forks"] == 1)
    # Only who has the group's state has no reason to keep the same once more.
    in_step(b, again)
    at = values(again)["fork_timestamp_seconds"]
    again.stop()
    third = group.node("a", on_restart="standby")
    assert values(third)["forks"] == 1
    assert values(third)["fork_timestamp_seconds"] == pytest.approx(at, abs=60)
    # and the others are told of it
    (kept,) = forks(third)
    told = eventually(
        lambda: [each for each in ops.status(group.log()).nodes if each.boot == third.boot and each.fork_count]
    )
    assert (told[0].fork_count, told[0].fork_id) == (1, str(fork_files.read(kept).position))


def test_in_a_forked_child_there_are_none(group: Group) -> None:
    a = group.primary("a")
    with pytest.raises(AssertionError, match="WrongProcess"):
        in_child(lambda: len(a.metrics()))


def test_another_run_of_redis_is_counted(group: Group) -> None:
    a = group.primary("a")
    a.submit(push("x"))
    assert values(a)["run_changes_total"] == 0
    group.fail_over()
    eventually(lambda: values(a)["run_changes_total"] == 1)
    eventually(lambda: a.leads)
    assert values(a)["run_changes_total"] == 1


def test_a_pause_and_a_demotion_are_told(group: Group) -> None:
    a = group.primary("a")
    log = group.log()
    assert (values(a).get("failover_paused", 0), values(a)["demoted"]) == (0, 0)
    ops.pause(log, by="test")
    eventually(lambda: values(a).get("failover_paused") == 1)
    assert values(a)["failover_paused_timestamp_seconds"] > 0
    ops.resume(log)
    eventually(lambda: values(a)["failover_paused"] == 0)
    assert "failover_paused_timestamp_seconds" not in values(a)
    ops.demote(log, by="test")
    eventually(lambda: values(a)["demoted"] == 1 and values(a)["leader_seen"] == 0)
    promote(log, "z")
    eventually(lambda: values(a)["demoted"] == 0)


@pytest.mark.parametrize(
    ("part", "problem", "kind"),
    [
        ("saver", CheckpointError(path="p", problem="full"), "disk"),
        ("snapshot", CheckpointError(path="p", problem="full"), "snapshot"),
        ("passed by", ReplicatorError("x"), "passed_by"),
        ("mine", ReplicatorError("x"), "other"),
    ],
)
def test_a_problem_is_of_a_kind(group: Group, part: str, problem: ReplicatorError, kind: str) -> None:
    a = group.node("a")
    a._setup.problems.quiet = True
    a.report(part, problem)
    assert {name for name, there in values(a)["problem"].items() if there} >= {kind}
    assert set(values(a)["problem"]) == set(PROBLEM_KINDS)


class Asked(MemoryLog):
    """A Redis that says how full it is."""

    asked = 0
    answer: Memory | Exception | None = Memory(10, 100)

    def memory(self) -> Memory | None:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_redis_is_asked_how_full_it_is_only_once_somebody_scrapes(group: Group) -> None:
    log = Asked(group.server)
    a = group.primary("a", log=log, beat_every_s=BEAT_S)
    group.wake()
    assert log.asked == 0
    assert "redis_memory_used_bytes" not in values(a)
    eventually(lambda: values(a).get("redis_memory_used_bytes") == 10)
    assert values(a)["redis_memory_max_bytes"] == 100
    assert log.asked == 1, "and not again soon"


def test_a_redis_that_does_not_say_is_not_known() -> None:
    now = [0.0]
    log = Asked(MemoryRedis())
    watch = MemoryWatch(log, is_wanted=lambda: True, now=lambda: now[0])
    for answer, seen in ((Memory(1, 0), Memory(1, 0)), (None, None), (LogUnavailable(url="u", problem="p"), None)):
        log.answer = answer
        now[0] += 60.0
        watch.keep()
        assert watch.seen == seen
    now[0] += 1.0
    log.answer = Memory(2, 0)
    watch.keep()
    assert watch.seen is None, "it was asked a moment ago"
