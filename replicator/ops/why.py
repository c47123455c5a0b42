"""Why a node does not lead, does not follow, would not be promoted, or is not ready: `replicator why NODE`.

Four questions are answered from one look at the group, with the reasons of `protocol/reasons.py`. They come from the
very rules that `status` and `doctor` show (`diagnosis.py`) and by which a promotion is refused (`election.refusal`), so
that none of them can say another thing than the others.

A node that is asked about is not asked itself: what is known is its last heartbeat. So "ready" is what its own
`/ready` says as far as that shows: a problem that it does not report lasts no longer than a heartbeat.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ReplicatorError
from ..log.interface import Log
from ..node.health import BEHIND_RECORDS_MAX, lag_as_reported
from ..protocol import election
from ..protocol.group import GroupView
from ..protocol.heartbeat import Heartbeat
from ..protocol.reasons import Facts, Reason, ReasonCode, reason
from ..runtime.counted import counted
from .common import check_call, check_is_known, looked
from .diagnosis import OK, Check, checks_of_group, checks_of_node, pause_of, term_holder

__all__ = ["QUESTIONS", "Answer", "UnknownNode", "Why", "leader_of", "leads", "role_of", "why", "why_of"]

#: In the order in which they are answered.
QUESTIONS = ("leads", "follows", "promotable", "ready")


class UnknownNode(ReplicatorError):
    """no node {node} has ever reported to group {group}; the nodes there are: {names}"""

    exit_code = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """One reason why the answer to `question` is no: its code, in words, and the facts behind it."""

    question: str
    code: ReasonCode
    message: str
    facts: Facts


@dataclass(frozen=True, kw_only=True, slots=True)
class Why:
    """The answers about the node `node`, which last reported `age_ms` ago; `reasons`: of those that are no."""

    group: str
    node: str
    role: str
    term: int
    position: str
    age_ms: int
    leads: bool
    follows: bool
    promotable: bool
    ready: bool
    reasons: list[Answer]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        return asdict(self)


def why(log: Log, node: str) -> Why:
    """The answers about this node. Raises `UnknownGroup`, `UnknownNode`, `LogUnavailable`. Changes nothing."""
    check_call(by="why", node=node)
    look = looked(log)
    check_is_known(log, look)
    if node not in look.heartbeats:
        raise UnknownNode(node=node, group=log.group, names=", ".join(sorted(look.heartbeats)) or "none")
    return why_of(log.group, node, look)


def why_of(group: str, node: str, look: GroupView) -> Why:
    """The answers that follow from a look at the group, in which this node has a heartbeat."""
    heartbeat = look.heartbeats[node]
    reasons = {
        "leads": _not_leading(heartbeat, look),
        "follows": _not_following(heartbeat, look),
        "promotable": _not_promotable(heartbeat, look),
        "ready": _not_ready(heartbeat, look),
    }
    return Why(
        group=group,
        node=node,
        role=role_of(heartbeat, look),
        term=heartbeat.term,
        position=str(heartbeat.position.id),
        age_ms=heartbeat.age_ms,
        leads=not reasons["leads"],
        follows=not reasons["follows"],
        promotable=not reasons["promotable"],
        ready=not reasons["ready"],
        reasons=[
            Answer(question=question, code=each.code, message=each.message, facts=each.facts)
            for question in QUESTIONS
            for each in reasons[question]
        ],
    )


def leads(heartbeat: Heartbeat, look: GroupView) -> bool:
    """Whether this node takes writes, as far as the group shows: it holds the term, says so, and its lease runs.

    None does while something in the log keeps Redis from taking a record, whatever its last heartbeat says.
    """
    head = look.head
    if head is None or election.broken(look):
        return False
    holds = (heartbeat.node, heartbeat.boot) == (term_holder(look), head.boot)
    may = heartbeat.alive and not heartbeat.stalled and look.lease_ms is not None
    return holds and may and (heartbeat.role, heartbeat.term) == ("primary", look.term)


def role_of(heartbeat: Heartbeat, look: GroupView) -> str:
    """What it is, as far as the group shows: primary only while it is alive and holds the term, whatever it says."""
    head = look.head
    holds = head is not None and (heartbeat.node, heartbeat.boot) == (term_holder(look), head.boot)
    return heartbeat.role if heartbeat.alive and holds else "standby"


def leader_of(look: GroupView) -> Heartbeat | None:
    """The node that leads; None: no node does."""
    holder = look.heartbeats.get(term_holder(look) or "")
    return holder if holder is not None and leads(holder, look) else None


# --- does it lead? ---------------------------------------------------------------------------------------------------


def _not_leading(heartbeat: Heartbeat, look: GroupView) -> list[Reason]:
    leader = leader_of(look)
    if leader is heartbeat:
        return []
    absent = _absence(heartbeat, look)
    if leader is not None:
        words = f"{leader.node} leads in term {look.term}; its lease runs for {(look.lease_ms or 0) / 1000:.1f} s more"
        facts: Facts = {"primary": leader.node, "term": look.term, "lease_ms": look.lease_ms}
        return [*absent, reason(ReasonCode.OTHER_LEADS, words, facts)]
    of_group = _nobody_leads(look)
    if absent:
        return absent + [each for each in of_group if each.code not in {known.code for known in absent}]
    if term_holder(look) == heartbeat.node:
        return of_group + _of_node(heartbeat, look, _STATE)
    return of_group + _why_it_does_not_take_over(heartbeat, look)


def _nobody_leads(look: GroupView) -> list[Reason]:
    """Why no node of the group leads."""
    found = map(_as_reason, checks_of_group(look))
    told = [each for each in found if each is not None and each.code in _NOBODY_LEADS]
    return told or _was_given_the_term(look)


def _was_given_the_term(look: GroupView) -> list[Reason]:
    """Nothing is wrong, and the holder has not said yet that it leads: it had no time to."""
    holder = look.heartbeats.get(term_holder(look) or "")
    if holder is None:
        return []
    words = f"{holder.node} was given term {look.term} a moment ago, and leads once it has read the log"
    facts: Facts = {
        "holder": holder.node,
        "term": look.term,
        "position": str(holder.position.id),
        "last_id": str(look.last_id),
    }
    return [reason(ReasonCode.READS_FIRST, words, facts)]


#: The reasons of the group (not of one of its nodes) for which no node leads.
_NOBODY_LEADS = frozenset(
    {
        ReasonCode.NO_LOG,
        ReasonCode.LOG_LOST,
        ReasonCode.LOG_BROKEN,
        ReasonCode.ALL_STALLED,
        ReasonCode.NEW_RUN,
        ReasonCode.DEMOTED,
        ReasonCode.UNHELD,
        ReasonCode.NOT_REPORTING,
        ReasonCode.STOPPED,
        ReasonCode.READS_FIRST,
        ReasonCode.RESTARTED,
        ReasonCode.DOES_NOT_LEAD,
        ReasonCode.LEASE_EXPIRED,
    }
)

#: The reasons in the state of a node.
_STATE = frozenset({ReasonCode.STALLED, ReasonCode.PROBLEM, ReasonCode.DIVERGED, ReasonCode.GIVEN_UP})


def _why_it_does_not_take_over(heartbeat: Heartbeat, look: GroupView) -> list[Reason]:
    """Why this live standby does not take the term that no node leads in."""
    found = []
    if (paused := pause_of(look)) is not None and (told := _as_reason(paused)) is not None:
        found.append(told)
    if not heartbeat.candidate and not heartbeat.follows_only:
        words = "it does not take over by itself (--auto-promote is off): `replicator promote` has it lead"
        found.append(reason(ReasonCode.NOT_CANDIDATE, words))
    if (refused := election.refusal(heartbeat.node, look)) is not None:
        found.append(_as_told(refused))
    elif not found and look.lease_ms is not None and term_holder(look) is not None:
        words = f"the lease of {term_holder(look)} runs for {look.lease_ms / 1000:.1f} s more"
        facts: Facts = {"holder": term_holder(look), "term": look.term, "lease_ms": look.lease_ms}
        found.append(reason(ReasonCode.LEASE_RUNS, words, facts))
    elif not found and (other := _first(heartbeat, look)) is not None:
        words = (
            f"{other.node} goes first: it has changes up to {other.changed}, and this node up to {heartbeat.changed}"
        )
        changed = {"changed_id": str(heartbeat.changed), "other_changed_id": str(other.changed)}
        found.append(reason(ReasonCode.OTHER_FIRST, words, {"node": other.node} | changed))
    return found


def _first(heartbeat: Heartbeat, look: GroupView) -> Heartbeat | None:
    """Another candidate that takes over before this one."""
    able = [each for each in look.heartbeats.values() if each.candidate and election.may_take_over(each, look)]
    best = max(able, key=lambda each: (each.changed, each.position.id, each is heartbeat), default=None)
    return best if best is not None and best is not heartbeat else None


# --- does it follow? -------------------------------------------------------------------------------------------------


def _not_following(heartbeat: Heartbeat, look: GroupView) -> list[Reason]:
    if leads(heartbeat, look):
        return [_leads_itself(look)]
    found = _absence(heartbeat, look) or _of_node(heartbeat, look, _PLACE | _STATE)
    if leader_of(look) is None:
        words = f"no node leads, so nothing new comes into the log (the term is {look.term})"
        found.append(reason(ReasonCode.NOBODY_LEADS, words, {"term": look.term}))
    return found


#: The reasons in where a node is.
_PLACE = frozenset({ReasonCode.OTHER_RUN, ReasonCode.OUT_OF_SYNC, ReasonCode.AHEAD_OF_LOG, ReasonCode.BEHIND})


def _leads_itself(look: GroupView) -> Reason:
    return reason(ReasonCode.LEADS, f"it leads, in term {look.term}", {"term": look.term})


# --- would it be promoted, and is it ready? --------------------------------------------------------------------------


def _not_promotable(heartbeat: Heartbeat, look: GroupView) -> list[Reason]:
    if leads(heartbeat, look):
        return [_leads_itself(look)]
    found = [each for each in map(_as_reason, checks_of_group(look)) if each is not None]
    broken = [each for each in found if each.code in (ReasonCode.LOG_LOST, ReasonCode.LOG_BROKEN)]
    refused = election.refusal(heartbeat.node, look)
    return broken + ([_as_told(refused)] if refused is not None else [])


def _not_ready(heartbeat: Heartbeat, look: GroupView) -> list[Reason]:
    if absent := _absence(heartbeat, look):
        return absent
    state = _of_node(heartbeat, look, _STATE - {ReasonCode.GIVEN_UP})
    if term_holder(look) == heartbeat.node and heartbeat.role == "primary":
        if leads(heartbeat, look):
            return []  # what is in the way of its own disk keeps a primary from no write
        return state or _nobody_leads(look)
    return state + (_of_node(heartbeat, look, _PLACE) or _lag(heartbeat, look))


def _lag(heartbeat: Heartbeat, look: GroupView) -> list[Reason]:
    # As its own /ready: while nobody leads there is nothing else to follow.
    lag = lag_as_reported(heartbeat, look, of_what_there_is=True)
    if lag.records is None:
        words = "it sees no log to follow, so nobody knows how far behind it is"
        return [reason(ReasonCode.LAG_UNKNOWN, words)]
    if lag.records > BEHIND_RECORDS_MAX:
        words = f"it is {counted(lag.records, 'record')} behind"
        return [reason(ReasonCode.BEHIND, words, {"lag_records": lag.records, "behind_ms": heartbeat.behind_ms})]
    return []


# --- from checks and refusals ----------------------------------------------------------------------------------------


def _absence(heartbeat: Heartbeat, look: GroupView) -> list[Reason]:
    """Why the node is not there at all; none: it is."""
    return [] if heartbeat.alive else _of_node(heartbeat, look, frozenset(ReasonCode))


def _of_node(heartbeat: Heartbeat, look: GroupView, codes: frozenset[ReasonCode]) -> list[Reason]:
    found = map(_as_reason, checks_of_node(heartbeat, look))
    return [each for each in found if each is not None and each.code in codes]


def _as_reason(check: Check) -> Reason | None:
    if check.code is None or check.level == OK:
        return None
    return Reason(check.code, check.message, check.facts)


def _as_told(refused: election.Refusal) -> Reason:
    hint = f"; {refused.better} is the better one" if refused.better else ""
    return Reason(refused.code, refused.reason + hint, refused.facts)
