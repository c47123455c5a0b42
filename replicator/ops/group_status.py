"""What a group and its nodes are doing, and what is wrong with them: `replicator status`.

A status is made from one look at the group (`GroupView`) and the size of the log. It asks no node: what it says about a
node is that node's last heartbeat, and how old that is. Judgements are those of `diagnosis.py`, which `doctor` shows as
well, so the two cannot disagree.

What cannot be known is None, never a guess: the role of a node counts only while it is alive and holds the term; the
sizes of snapshots and changes only a live primary knows; those of the log only a user who may ask Redis. The JSON names
are a contract with programs.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

from ..format.ids import era_of
from ..log.interface import Log, LogSize
from ..node.health import lag_as_reported
from ..protocol.group import GroupView
from ..protocol.heartbeat import Heartbeat
from ..protocol.versions import version_of
from .common import looked
from .diagnosis import PROBLEM, WARNING, checks_of_group, is_known, term_holder
from .findings import findings_of, line_of
from .why import role_of, why_of

__all__ = [
    "NodeStatus",
    "RecentSize",
    "Status",
    "size_of",
    "status",
    "status_at",
    "status_of",
]

#: Redis goes through all of a log to say what it takes, and does nothing else meanwhile: 0.1 s for a million records.
SIZE_EVERY_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeStatus:
    """The node `node`, as it last reported `age_ms` ago. `lag_records` and `lag_ms` (the age of the newest record that
    it has applied): None if not known. `behind_ms`: for how long the log has had what it lacks, as far as it saw.

    `diverged_id`: the marker at which its state was found to differ from the primary's, or None. `version`: that of its
    code, which reads those from `reads_min` to `reads_max`. `leads`: it takes writes; `ready`: it can do its role's
    work; `codes`: those why not (`why.py`). `candidate`: it takes over by itself. `last_error`: the newest
    problem of its boot, which may be over, since `last_error_at` (unix ms by its clock); None: it had none.
    `fork_count`: the forks on its disk; `fork_id`: the last record in the newest, or None. `stale_count`: the
    records of terms that were over which its boot has found in the log, and ignored. `kept_count`: the files
    that were put aside for the one in which its state is kept. `has_program`: a program beside it writes
    the state, or is told its role, so `http` takes no writes.
    """

    node: str
    boot: str
    role: str
    term: int
    position: str
    lag_records: int | None
    lag_ms: int | None
    in_sync: bool
    alive: bool
    http: str | None
    problem: str | None
    diverged_id: str | None
    age_ms: int
    version: int
    reads_min: int
    reads_max: int
    behind_ms: int
    leads: bool
    ready: bool
    codes: list[str]
    candidate: bool
    last_error: str | None
    last_error_at: int | None
    fork_count: int
    fork_id: str | None
    stale_count: int
    kept_count: int
    has_program: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """A group. `holder` is the node that holds the term in the present run of Redis, None if no node does.

    `last_id`: the newest record. `record_count` and `log_bytes`: the size of the log in Redis. `snapshot_bytes`:
    that of the newest snapshot, as it was sent; `changes_bytes`: of the changes since; `kept_bytes`: of all changes in
    the log. None: not known.
    `problems`: what keeps it from writing, or leaves nobody to take over (`findings.py`); `problem`: the same in one
    line, or None; `warnings`: what is worth a look. `codes`: those of what is wrong with the group itself
    (docs/reasons.md). `era`: that of the term, counted from 1.
    `app`: of which application its log is; `version`: the one that it is at. `since_at`: when the term was taken (unix
    ms, by the clock of Redis). None: not known.
    """

    group: str
    log_id: str | None
    run: str
    term: int
    holder: str | None
    last_id: str | None
    lease_ms: int | None
    record_count: int | None
    log_bytes: int | None
    snapshot_bytes: int | None
    changes_bytes: int | None
    kept_bytes: int | None
    nodes: list[NodeStatus]
    problem: str | None
    warnings: list[str]
    app: str | None
    version: int | None
    since_at: int | None
    codes: list[str]
    problems: list[str]
    era: int

    @property
    def well(self) -> bool:
        """Whether neither the group nor a node that reports has a problem."""
        return self.problem is None and not any(node.problem for node in self.nodes if node.alive)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        return asdict(self)


def status(log: Log) -> Status:
    """The group as Redis and the heartbeats show it. Raises `LogUnavailable`."""
    return status_at(log, looked(log))


def status_at(log: Log, look: GroupView) -> Status:
    """The group as of this look, with what only the log itself tells. Raises `LogUnavailable`."""
    return status_of(log.group, look, size_of(log, look))


def size_of(log: Log, look: GroupView) -> LogSize:
    """How large the log is, if there is one."""
    return log.size() if look.head else LogSize(None, None)


class RecentSize:
    """The size of a log for whoever looks again and again: as it was half a minute ago, at the most."""

    def __init__(self) -> None:
        self._size = LogSize(None, None)
        self._log_id, self._asked_at = "", 0.0

    def of(self, log: Log, look: GroupView) -> LogSize:
        """Raises `LogUnavailable`."""
        now, log_id = time.monotonic(), look.head.log_id if look.head else ""
        if log_id != self._log_id or now - self._asked_at >= SIZE_EVERY_S:
            self._size = size_of(log, look)
            self._log_id, self._asked_at = log_id, now
        return self._size


def status_of(group: str, look: GroupView, size: LogSize) -> Status:
    """The status that follows from a look and the size of the log."""
    head = look.head
    of_group, found = checks_of_group(look) if is_known(look) else [], findings_of(look)
    problems = [line_of(check) for check in found if check.level == PROBLEM]
    primary = look.heartbeats.get(term_holder(look) or "")
    primary = primary if primary is not None and primary.alive else None
    return Status(
        group=group,
        log_id=head.log_id if head else None,
        run=look.run,
        term=look.term,
        holder=term_holder(look),
        last_id=str(head.position.id) if head else None,
        lease_ms=look.lease_ms,
        record_count=size.records,
        log_bytes=size.bytes,
        snapshot_bytes=primary.snapshot_bytes if primary else None,
        changes_bytes=primary.changes_bytes if primary else None,
        kept_bytes=_kept_bytes(primary, size) if primary else None,
        nodes=[node_status(heartbeat, look) for _, heartbeat in sorted(look.heartbeats.items())],
        problem="; ".join(problems) or None,
        warnings=[line_of(check) for check in found if check.level == WARNING],
        app=(head.app or None) if head else None,
        version=version_of(look),
        since_at=(head.since or None) if head else None,
        codes=list(dict.fromkeys(check.code.value for check in of_group if check.code is not None)),
        problems=problems,
        era=era_of(look.term) + 1,
    )


def _kept_bytes(primary: Heartbeat, size: LogSize) -> int:
    # After a restart a primary knows only an upper bound, and there cannot be more than the log has.
    return primary.kept_bytes if size.bytes is None else min(primary.kept_bytes, size.bytes)


def node_status(heartbeat: Heartbeat, look: GroupView) -> NodeStatus:
    """One node. It is shown as primary only while it is alive and holds the term: a stale heartbeat may claim more."""
    head = look.head
    ahead = head is not None and heartbeat.position.id > head.position.id
    lag = lag_as_reported(heartbeat, look)
    why = why_of("", heartbeat.node, look)
    return NodeStatus(
        node=heartbeat.node,
        boot=heartbeat.boot,
        role=role_of(heartbeat, look),
        term=heartbeat.term,
        position=str(heartbeat.position.id),
        lag_records=lag.records,
        lag_ms=lag.ms,
        in_sync=heartbeat.in_sync,
        alive=heartbeat.alive,
        http=heartbeat.http or None,
        problem=heartbeat.stalled or heartbeat.problem or _problem_of(heartbeat, is_ahead=ahead),
        diverged_id=heartbeat.diverged or None,
        age_ms=heartbeat.age_ms,
        version=heartbeat.version,
        reads_min=heartbeat.reads_min,
        reads_max=heartbeat.reads_max,
        behind_ms=heartbeat.behind_ms,
        leads=why.leads,
        ready=why.ready,
        codes=[each.code.value for each in why.reasons if each.question == "ready"],
        candidate=heartbeat.candidate,
        last_error=heartbeat.last_error or None,
        last_error_at=heartbeat.last_error_at or None,
        fork_count=heartbeat.fork_count,
        fork_id=str(heartbeat.fork_id) if heartbeat.fork_count else None,
        stale_count=heartbeat.stale_count,
        kept_count=heartbeat.kept_count,
        has_program=heartbeat.prepares,
    )


def _problem_of(heartbeat: Heartbeat, *, is_ahead: bool) -> str | None:
    if heartbeat.diverged:
        return f"its state differs from the primary's at {heartbeat.diverged}"
    return "ahead of the log" if is_ahead and heartbeat.alive else None
