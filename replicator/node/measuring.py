"""What a node tells of itself to Prometheus: the values of `metrics/catalogue.py`, as of now.

It reads what the node has in memory, and asks neither Redis nor the disk: a scrape is answered while they hang.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import (
    CheckpointError,
    CorruptRecord,
    LogLost,
    LogUnavailable,
    NoThread,
    ProgramError,
    ReplicatorError,
    SnapshotFailed,
    Stalled,
    StateError,
)
from ..metrics.catalogue import PROBLEM_KINDS
from ..metrics.counters import Counters
from ..metrics.node_metrics import NodeMetrics, Value
from ..protocol import election
from ..protocol.election import NOBODY
from ..protocol.group import GroupView
from .facts import NodeFacts
from .problems import SNAPSHOT, THREADS, CannotLead, Unhealthy
from .running import NodeSetup, RunningNode

__all__ = ["metrics_of"]

Values = Iterator[tuple[str, Value]]

#: Which kind of problem an error is; the first that fits.
_KINDS: tuple[tuple[type[ReplicatorError], str], ...] = (
    (LogUnavailable, "log_unavailable"),
    (LogLost, "log_lost"),
    (CorruptRecord, "corrupt_record"),
    (CheckpointError, "disk"),
    (Unhealthy, "unhealthy"),
    (CannotLead, "cannot_lead"),
    (SnapshotFailed, "snapshot"),
    (Stalled, "state"),
    (StateError, "state"),
    (NoThread, "threads"),
    (ProgramError, "program"),
)

#: Errors that are there from the beginning: what begins with its first one has no increase by it.
_ERRORS = ("fenced", "lease_lost", "log_unavailable", "not_primary", "outcome_unknown", "stalled")

_BY_PART = {SNAPSHOT: "snapshot", THREADS: "threads", "passed by": "passed_by"}


def metrics_of(facts: NodeFacts, setup: NodeSetup, running: RunningNode | None) -> NodeMetrics:
    """Of one node. From now on it takes times (`metrics/counters.py`)."""
    values = dict(_of_every_node(facts, setup))
    if running is not None:
        running.replica.counters.watch()
        values |= _of_its_place(facts, running)
        values |= _of_the_group(facts, setup, running)
        values |= _counted(running.replica.counters)
        values |= _of_its_disk(running)
        memory = running.ha_loop.memory_watch.seen
        if memory is not None:
            values["replicator_redis_memory_used_bytes"] = memory.used
            if memory.most:
                values["replicator_redis_memory_max_bytes"] = memory.most
    return NodeMetrics(setup.group, setup.name, values)


def _of_every_node(facts: NodeFacts, setup: NodeSetup) -> Values:
    unready, problems = facts.unready, dict.fromkeys(PROBLEM_KINDS, 0.0)
    for part, problem in setup.problems.known.items():
        problems[_kind_of(part, problem)] = 1.0
    yield "replicator_up", float(unready is None or unready.code not in ("not_running", "stopping", "failed"))
    yield "replicator_may_write", float(facts.leads)
    yield "replicator_primary", float(facts.role == "primary")
    yield "replicator_term", facts.term
    yield "replicator_lease_left_seconds", (facts.lease_ms or 0) / 1000
    yield "replicator_lease_length_seconds", setup.lease.length_s
    yield "replicator_candidate", float(setup.options.auto_promote)
    yield "replicator_ready", float(unready is None)
    if unready is not None:
        yield "replicator_unready", {unready.code: 1.0}
    yield "replicator_problem", problems
    yield "replicator_in_sync", float(facts.in_sync)
    yield "replicator_stalled", float(facts.stalled is not None)
    yield "replicator_diverged", float(facts.diverged is not None)
    yield "replicator_group_version", facts.version
    yield "replicator_code_version", setup.release.version


def _kind_of(part: str, problem: ReplicatorError) -> str:
    if part in _BY_PART:
        return _BY_PART[part]
    return next((kind for of, kind in _KINDS if isinstance(problem, of)), "other")


def _of_its_place(facts: NodeFacts, running: RunningNode) -> Values:
    position, observer, lag = facts.position.id, running.ha_loop.observer, facts.lag
    yield "replicator_applied_n", position.n
    yield "replicator_durable_n", running.replica.synced_upto.n
    if lag.records is not None:
        yield "replicator_lag_records", lag.records
    if lag.ms is not None:
        yield "replicator_lag_seconds", lag.ms / 1000
    yield "replicator_behind_seconds", max(0.0, observer.trail.behind_s(position, observer.now()))
    yield "replicator_stale_records_total", running.replica.rejected
    yield "replicator_kept_files", running.replica.applied.kept_count
    yield "replicator_run_changes_total", running.replica.known.run_changes


def _of_the_group(facts: NodeFacts, setup: NodeSetup, running: RunningNode) -> Values:
    seen, now_ms = running.ha_loop.observer.seen, running.ha_loop.observer.now() * 1000
    if seen is None:
        return
    look = seen.look
    yield "replicator_look_age_seconds", max(0.0, now_ms - seen.asked_at_ms) / 1000
    leads = look.same_run and seen.lease_until_ms is not None and now_ms < seen.lease_until_ms
    yield "replicator_leader_seen", float(leads or facts.leads)
    yield "replicator_nodes_alive", sum(each.alive for each in look.heartbeats.values())
    yield "replicator_could_take_over", float(_could_take_over(facts, running, look))
    head = look.head
    yield "replicator_demoted", float(head is not None and head.writer == NOBODY)
    if head is not None:
        yield "replicator_head_n", max(head.position.id.n, facts.position.id.n if facts.leads else 0)
        yield "replicator_failover_paused", float(head.paused != "")
        if head.paused and head.paused_at:
            yield "replicator_failover_paused_timestamp_seconds", head.paused_at / 1000


def _could_take_over(facts: NodeFacts, running: RunningNode, look: GroupView) -> bool:
    if facts.role == "primary" or facts.failed is not None or not facts.in_sync:
        return False
    me = running.ha_loop.reporter.heartbeat()
    look = look._replace(heartbeats={**look.heartbeats, me.node: me})
    return me.run == look.run and election.may_take_over(me, look)


def _counted(counters: Counters) -> Values:
    yield "replicator_appends_total", counters.appends
    yield "replicator_changes_total", counters.changes
    yield "replicator_append_bytes_total", counters.append_bytes
    yield (
        "replicator_fenced_total",
        {place: float(counters.fenced[place]) for place in ("append", "renew", "submit", "lease")},
    )
    yield "replicator_submit_errors_total", dict.fromkeys(_ERRORS, 0.0) | counters.errors
    yield "replicator_snapshots_total", counters.snapshots
    yield "replicator_snapshot_failures_total", counters.snapshot_failures
    phases = ("begin", "draw", "send", "sweep")
    yield "replicator_snapshot_seconds_total", {phase: counters.snapshot_s.get(phase, 0.0) for phase in phases}
    yield "replicator_snapshot_parts_total", counters.parts
    yield "replicator_snapshot_part_bytes_total", counters.part_bytes
    yield "replicator_restores_total", counters.restores
    yield "replicator_restores_passed_by_total", counters.restores_passed_by
    phases = ("fork", "build", "save", "swap")
    yield "replicator_restore_seconds_total", {phase: counters.restore_s.get(phase, 0.0) for phase in phases}
    yield "replicator_load_seconds", counters.load_s
    yield "replicator_checkpoint_bytes", counters.checkpoint_bytes
    yield "replicator_forks", counters.forks.kept
    if counters.forks.newest_at:
        yield "replicator_fork_timestamp_seconds", counters.forks.newest_at
    if counters.timings is not None:
        yield "replicator_batch_changes", counters.timings.batch
        by_stage = counters.timings.by_stage
        # A standby has no queue, and a primary follows nobody: twenty lines less for each.
        yield "replicator_stage_seconds", {stage: found for stage, found in by_stage.items() if found.count}


def _of_its_disk(running: RunningNode) -> Values:
    saved = running.replica.saved
    yield "replicator_snapshot_bytes", saved.snapshot_bytes
    yield "replicator_changes_bytes", saved.changes_bytes
    yield "replicator_log_bytes", saved.kept_bytes + saved.snapshot_bytes
