"""Why a node does not lead, does not follow, would not be promoted, or is not ready: a closed set of codes.

Each code comes with the facts that it rests on (`FACTS`), so that a program need not read the sentence beside it, and
with the same ones wherever it is told: by `why`, `status`, `doctor`, and a promotion that is refused. docs/reasons.md
has this table with what helps; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

__all__ = ["FACTS", "Fact", "Facts", "Reason", "ReasonCode", "reason"]

Fact = str | int | bool | tuple[str, ...] | None
Facts = Mapping[str, Fact]


class ReasonCode(StrEnum):
    # The node is not there.
    NEVER_REPORTED = "never_reported"
    NOT_REPORTING = "not_reporting"
    STOPPED = "stopped"
    OTHER_APP = "other_app"
    OTHER_RUN = "other_run"
    # Its state, or what it does.
    STALLED = "stalled"
    PROBLEM = "problem"
    DIVERGED = "diverged"
    GIVEN_UP = "given_up"
    OUT_OF_SYNC = "out_of_sync"
    AHEAD_OF_LOG = "ahead_of_log"
    BEHIND = "behind"
    LAG_UNKNOWN = "lag_unknown"
    OTHER_VERSION = "other_version"
    # Who leads.
    LEADS = "leads"
    OTHER_LEADS = "other_leads"
    LEASE_RUNS = "lease_runs"
    LEASE_EXPIRED = "lease_expired"
    READS_FIRST = "reads_first"
    RESTARTED = "restarted"
    DOES_NOT_LEAD = "does_not_lead"
    # Nobody leads.
    NOBODY_LEADS = "nobody_leads"
    DEMOTED = "demoted"
    UNHELD = "unheld"
    ALL_STALLED = "all_stalled"
    NEW_RUN = "new_run"
    NO_LOG = "no_log"
    LOG_LOST = "log_lost"
    LOG_BROKEN = "log_broken"
    # What keeps it from taking over.
    PAUSED = "paused"
    NOT_CANDIDATE = "not_candidate"
    MAY_NOT_LEAD = "may_not_lead"
    FLAPPING = "flapping"
    OTHER_FIRST = "other_first"
    LACKS_CHANGES = "lacks_changes"
    MISSING_NODES = "missing_nodes"
    NOT_ALL_REPORTED = "not_all_reported"
    NOT_YET = "not_yet"
    TERM_CHANGED = "term_changed"


#: The names of the facts that come with each code, in the order in which they are shown.
FACTS: Mapping[ReasonCode, tuple[str, ...]] = {
    ReasonCode.NEVER_REPORTED: (),
    ReasonCode.NOT_REPORTING: ("node", "age_ms", "beat_ms"),
    ReasonCode.STOPPED: ("node", "age_ms"),
    ReasonCode.OTHER_APP: ("app", "log_app"),
    ReasonCode.OTHER_RUN: ("run", "log_run"),
    ReasonCode.STALLED: (),
    ReasonCode.PROBLEM: (),
    ReasonCode.DIVERGED: ("diverged_id",),
    ReasonCode.GIVEN_UP: (),
    ReasonCode.OUT_OF_SYNC: ("position", "last_id"),
    ReasonCode.AHEAD_OF_LOG: ("position", "last_id"),
    ReasonCode.BEHIND: ("lag_records", "behind_ms"),
    ReasonCode.LAG_UNKNOWN: (),
    ReasonCode.OTHER_VERSION: ("version", "reads_min", "reads_max"),
    ReasonCode.LEADS: ("term",),
    ReasonCode.OTHER_LEADS: ("primary", "term", "lease_ms"),
    ReasonCode.LEASE_RUNS: ("holder", "term", "lease_ms"),
    ReasonCode.LEASE_EXPIRED: ("holder", "term"),
    ReasonCode.READS_FIRST: ("holder", "term", "position", "last_id"),
    ReasonCode.RESTARTED: ("holder", "term"),
    ReasonCode.DOES_NOT_LEAD: ("holder", "term"),
    ReasonCode.NOBODY_LEADS: ("term",),
    ReasonCode.DEMOTED: ("term",),
    ReasonCode.UNHELD: ("term",),
    ReasonCode.ALL_STALLED: ("change_id", "node"),
    ReasonCode.NEW_RUN: ("run", "log_run"),
    ReasonCode.NO_LOG: (),
    ReasonCode.LOG_LOST: ("term",),
    ReasonCode.LOG_BROKEN: ("last_id",),
    ReasonCode.PAUSED: ("paused_at",),
    ReasonCode.NOT_CANDIDATE: (),
    ReasonCode.MAY_NOT_LEAD: (),
    ReasonCode.FLAPPING: ("node", "taken_count", "window_ms", "left_ms"),
    ReasonCode.OTHER_FIRST: ("node", "changed_id", "other_changed_id"),
    ReasonCode.LACKS_CHANGES: ("node", "changed_id", "other_changed_id"),
    ReasonCode.MISSING_NODES: ("nodes", "applied_min"),
    ReasonCode.NOT_ALL_REPORTED: ("nodes",),
    ReasonCode.NOT_YET: ("position", "term", "log_term"),
    ReasonCode.TERM_CHANGED: ("holder", "term"),
}


class Reason(NamedTuple):
    """One reason: its code, what it says in words, and the facts behind it, by name."""

    code: ReasonCode
    message: str
    facts: Facts


def reason(code: ReasonCode, message: str, facts: Facts | None = None) -> Reason:
    """Raises `ValueError` if these are not the facts of that code: they are part of a contract."""
    given = facts or {}
    if set(given) != set(FACTS[code]):
        raise ValueError(f"{code} comes with {FACTS[code]}, not with {tuple(given)}")
    return Reason(code, message, {name: given[name] for name in FACTS[code]})
