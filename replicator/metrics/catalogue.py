"""Every metric: its name, what kind it is, what it means, and the label that it has besides `group` and `node`.

Names follow Prometheus' conventions: base units, `_total` for what only grows, `_timestamp_seconds` for moments (unix).
docs/metrics.md has this table (`as_markdown`), and a test holds rules and dashboard to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

__all__ = ["METRICS", "PROBLEM_KINDS", "Metric", "as_markdown"]

#: What may be in a node's way, as `replicator_problem` tells it apart.
PROBLEM_KINDS = (
    "cannot_lead", "corrupt_record", "disk", "log_lost", "log_unavailable", "other", "passed_by", "program", "snapshot",
    "state", "threads", "unhealthy",
)  # fmt: skip


class Metric(NamedTuple):
    """`kind`: `gauge`, `counter` or `histogram`. `label`: besides `group` and `node`; empty: none."""

    name: str
    kind: str
    help: str
    label: str = ""
    section: str = ""


#: A section, its metrics (name, kind, and the label besides), and what each means.
_TABLE = """
== Who may write
replicator_may_write gauge
    1 if this node takes writes now: it holds the term, is in sync, and has a lease that runs.
replicator_primary gauge
    1 if it is the primary by what it has read, with a lease or without.
replicator_term gauge
    The newest term that it knows.
replicator_lease_left_seconds gauge
    What is left of its lease, if it has one.
replicator_lease_length_seconds gauge
    How long a lease of it is.
replicator_leader_seen gauge
    1 if a lease ran at its newest look at Redis, whoever holds it.
replicator_candidate gauge
    1 if it takes over by itself (auto_promote).
replicator_could_take_over gauge
    1 for a standby to which nothing would be lost by a promotion, as of its newest look.
replicator_demoted gauge
    1 if an operator took the term for nobody, and nobody was promoted since.
replicator_failover_paused gauge
    1 if automatic failover is paused for the group.
replicator_failover_paused_timestamp_seconds gauge
    Since when, by the clock of Redis, if it is.
replicator_fenced_total counter place
    Refused because a term or a lease was over: a record by Redis (append), the renewal of a lease by Redis (renew), a
    call by this node, because it was meant for another term (submit) or the lease had run out (lease).
replicator_run_changes_total counter
    How often Redis was found to be in another run: a restart, or a failover.

== Whether it is well
replicator_up gauge
    1 if the node runs; 0: not started yet, or stopped.
replicator_ready gauge
    1 if it can do its role's work, as /ready says.
replicator_unready gauge reason
    1 with the reason why it cannot, while it cannot.
replicator_problem gauge kind
    1 while something of that kind is in its way.
replicator_in_sync gauge
    1 if its state lacks nothing of the log up to its position.
replicator_stalled gauge
    1 if apply() or restore() failed, so that it applies nothing more.
replicator_diverged gauge
    1 if its state was found to differ from the primary's.
replicator_look_age_seconds gauge
    How long ago it last had an answer about the group from Redis.
replicator_nodes_alive gauge
    Nodes of the group that reported, as of its newest look, itself included.
replicator_group_version gauge
    The version of the group at its position.
replicator_code_version gauge
    The version of its code.
replicator_load_seconds gauge
    How long its state took to be rebuilt from its disk at the start.

== How far it has got
replicator_head_n gauge
    The number of the newest record of the log, as of its newest look.
replicator_applied_n gauge
    The number of the last record in its state.
replicator_durable_n gauge
    The number of the last record that is on its disk for good.
replicator_lag_records gauge
    How many records it is behind the head, where that is known: not while nobody leads.
replicator_lag_seconds gauge
    The age of its newest record if it is behind, else 0; where that is known.
replicator_behind_seconds gauge
    How long ago the log had what it lacks; 0: it has all that it saw there.
replicator_stale_records_total counter
    Records of a term that was over, found in the log and ignored.

== Writes
replicator_appends_total counter
    Records of changes that it appended.
replicator_changes_total counter
    Changes in them.
replicator_append_bytes_total counter
    Bytes of them, headers included.
replicator_submit_errors_total counter error
    Calls that ended in an error of this package, by its class; what apply() or check() rejected is none.
replicator_batch_changes histogram
    Changes in a record. Since the first scrape.
replicator_stage_seconds histogram stage
    What the stages of a change take: from the call until its record is sent (queue), until Redis answers (append),
    apply() of a record (apply), from its writer's clock until a standby applied it by its own clock (standby), a
    transaction of the checkpoint (save), a synced one or an fsync (sync). Since the first scrape.

== Snapshots, forks and the disk
replicator_snapshots_total counter
    Snapshots that it published.
replicator_snapshot_failures_total counter
    Snapshots that failed, or broke off.
replicator_snapshot_seconds_total counter phase
    Time of publishing, by phase: taking the state under its lock (begin), drawing and packing (draw), sending (send),
    trimming the log (sweep).
replicator_snapshot_parts_total counter
    Parts of snapshots that it appended.
replicator_snapshot_part_bytes_total counter
    Bytes of them.
replicator_restores_total counter
    Snapshots from the log that took the place of its state.
replicator_restores_passed_by_total counter
    Snapshots and patches that it could not use.
replicator_restore_seconds_total counter phase
    Time of restoring, by phase: keeping a fork (fork), building (build), saving (save), swapping under the lock of
    the state (swap).
replicator_snapshot_bytes gauge
    The newest snapshot that it has, as it was sent.
replicator_changes_bytes gauge
    The changes since, as they weigh in the log.
replicator_log_bytes gauge
    All changes that the log has, and the newest snapshot, as far as this node knows.
replicator_checkpoint_bytes gauge
    Its checkpoint on its disk, with the WAL, as of the newest sync.
replicator_forks gauge
    Forks on its disk, as of its start and of the newest fork since.
replicator_kept_files gauge
    Files that were put aside for the one in which its state is kept (PATH.replaced-...).
replicator_fork_timestamp_seconds gauge
    When the newest was kept, if there is one.

== Redis
replicator_redis_memory_used_bytes gauge
    Memory that Redis uses (used_memory), asked for twice a minute once somebody scrapes; missing: not known.
replicator_redis_memory_max_bytes gauge
    Its maxmemory; missing: there is none, or it is not known.

== Proxy
replicator_proxy_requests_total counter outcome
    Requests that came to its proxy (`--proxy`) and are over, or whose answer has begun: answered by the program of this
    node as the primary (here) or as a standby (standby), by the primary's proxy (forwarded); waited for longer than
    --proxy-wait-s (gave_up), refused at once (refused), sent and without an answer, of a write (unknown) and of what is
    safe (no_answer); their client left (client_left); an error of the proxy (failed). WebSockets count as they open or
    are denied.
replicator_proxy_wait_seconds histogram
    How long requests waited that found no program to take them, as through a failover, until one took them or they gave
    up.
replicator_proxy_waiting gauge
    Requests that wait for a program now.
replicator_proxy_body_bytes gauge
    Bodies of requests under way that it keeps, so that they can be sent once more.
replicator_proxy_websockets gauge
    WebSockets that are open through it.

== Archive
replicator_archive_up gauge
    1 if the archiver runs. These are served by `replicator archive --metrics`; their label node is its host.
replicator_archive_behind_seconds gauge
    How long ago the archive had all of the log; missing: it has not had it yet.
replicator_archive_lag_records gauge
    How many records of the log it lacks.
replicator_archive_archived_n gauge
    The number of the newest record in it.
replicator_archive_segments gauge
    The segments in it.
replicator_archive_timeline gauge
    The timeline that it is in. It grows where the log was cut before it was archived, or has lost what was.
replicator_archive_problem gauge
    1 while something is in its way: its log and archiver.json say what.
"""


def _metrics_in(table: str) -> Iterator[Metric]:
    for section in table.split("== ")[1:]:
        title, _, rest = section.partition("\n")
        for entry in re.split(r"\n(?=\w)", rest.strip()):
            head, _, text = entry.partition("\n")
            name, kind, label = (*head.split(), "")[:3]
            yield Metric(name, kind, " ".join(text.split()), label, title)


#: By name, in the order of the table.
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _metrics_in(_TABLE)}


def as_markdown() -> str:
    """The table of the documentation."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    for section in dict.fromkeys(metric.section for metric in METRICS.values()):
        yield f"### {section}\n"
        yield "| metric | kind | labels besides | meaning |"
        yield "| --- | --- | --- | --- |"
        for metric in METRICS.values():
            if metric.section == section:
                yield f"| `{metric.name}` | {metric.kind} | {metric.label} | {metric.help} |"
        yield ""
