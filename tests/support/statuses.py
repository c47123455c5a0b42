"""The status of a group that is well: a leads, and b follows."""

from __future__ import annotations

from dataclasses import replace

from replicator.ops import NodeStatus, Status

A = NodeStatus(
    node="a", boot="a1", role="primary", term=3, position="3-9", lag_records=0, lag_ms=0, in_sync=True, alive=True,
    http="http://a", problem=None, diverged_id=None, age_ms=100, version=1, reads_min=1, reads_max=1, leads=True,
    behind_ms=0, ready=True, codes=[], candidate=True, last_error=None, last_error_at=None,
    fork_count=0, fork_id=None, stale_count=0, kept_count=0, has_program=False,
)  # fmt: skip
B = replace(A, node="b", boot="b1", role="standby", leads=False)
WELL = Status(
    group="g", log_id="l", run="r", term=3, holder="a", last_id="3-9", lease_ms=4000, record_count=9, log_bytes=900,
    snapshot_bytes=0, changes_bytes=0, kept_bytes=0, nodes=[A, B], problem=None, warnings=[], app="x", version=1,
    since_at=1000, codes=[], problems=[], era=1,
)  # fmt: skip
