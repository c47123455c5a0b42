"""What is wrong with a group, as its head and its heartbeats show it, and what to do about it.

Every check is a plain function of one look at the group and yields sentences: what it found and, if that is not well,
what helps *now*. `status` and `doctor` both show these checks, so they cannot disagree. Nothing here asks Redis for
more, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ..node.health import lag_as_reported
from ..protocol import election, skip, versions
from ..protocol.divergence import compared
from ..protocol.group import GroupView
from ..protocol.heartbeat import Heartbeat
from ..protocol.missing_nodes import named
from ..protocol.reasons import Facts, ReasonCode, reason
from ..runtime.counted import counted

__all__ = [
    "OK",
    "PROBLEM",
    "WARNING",
    "Check",
    "checks_of_group",
    "checks_of_node",
    "checks_of_nodes",
    "coded",
    "is_known",
    "next_step",
    "ok",
    "pause_of",
    "problem",
    "term_holder",
    "warning",
]

OK, WARNING, PROBLEM = "ok", "warning", "problem"

#: For how long a standby may lack what the log has before a warning is due: a takeover would take at least as long. Not
#: how old its newest record is: after an hour without a write that is an hour, for a moment, at the first one.
BEHIND_MS_MAX = 5000

#: How far the clock of a writer may be ahead of that of Redis before a warning is due.
CLOCK_AHEAD_MS_MAX = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at. `level`: ok, warning, problem or not known.

    `code` and `facts`: where what was found is a reason why a node does not do its work; None: it is none.
    """

    check: str
    level: str
    message: str
    code: ReasonCode | None = None
    facts: Facts = field(default_factory=dict)


def ok(check: str, message: str) -> Check:
    return Check(check=check, level=OK, message=message)


def warning(check: str, what: str, do: str) -> Check:
    return Check(check=check, level=WARNING, message=f"{what}: {do}" if ":" not in what else f"{what}; {do}")


def problem(check: str, what: str, do: str) -> Check:
    return replace(warning(check, what, do), level=PROBLEM)


def coded(check: Check, code: ReasonCode, facts: Facts | None = None) -> Check:
    """The check, with the reason that it is."""
    told = reason(code, check.message, facts)
    return replace(check, code=told.code, facts=told.facts)


def is_known(look: GroupView) -> bool:
    """Whether this Redis knows anything of such a group."""
    return look.head is not None or look.term > 0 or bool(look.heartbeats)


def term_holder(look: GroupView) -> str | None:
    """The node that holds the newest term in the present run of Redis; None if no node does."""
    head = look.head
    if head is None or not look.same_run or head.term != look.term or head.writer == election.NOBODY:
        return None
    return head.node


def checks_of_group(look: GroupView) -> list[Check]:
    """Those of the log, the primary, automatic failover, the standbys, states, settings, keys, versions and clocks."""
    rules = (_log, _primary, _failover, _standbys, _states, _settings, _keys, _versions, _clocks)
    return [check for each in rules for check in each(look)]


def checks_of_nodes(look: GroupView) -> list[Check]:
    """The checks of each node, by name."""
    return [check for _, heartbeat in sorted(look.heartbeats.items()) for check in checks_of_node(heartbeat, look)]


#: Where the head names another log than that of the records.
SET_RIGHT = "`replicator recover` sets it right, and nothing is lost; find out who writes there"


# --- the log ---------------------------------------------------------------------------------------------------------


def _log(look: GroupView) -> Iterator[Check]:
    """Whether there is a log, and nodes can write to it."""
    head, last_id = look.head, str(look.last_id)
    if look.marred:
        found = problem("log", look.marred, "`replicator recover` mends it, if this is the right database")
        yield coded(found, ReasonCode.LOG_BROKEN, {"last_id": last_id})
    elif head is None and (look.term > 0 or any(heartbeat.log_id for heartbeat in look.heartbeats.values())):
        found = problem("log", "Redis lost the log", "`replicator recover` founds it anew")
        yield coded(found, ReasonCode.LOG_LOST, {"term": look.term})
    elif head is None:
        found = warning("log", "there is none yet", "`replicator promote NODE` founds it, or a candidate does")
        yield coded(found, ReasonCode.NO_LOG)
    elif look.last_id != head.position.id:
        what = f"something that is not a record is in the log, at {look.last_id}"
        found = problem("log", what, "`replicator recover` founds it anew; find out who writes there")
        yield coded(found, ReasonCode.LOG_BROKEN, {"last_id": last_id})
    elif why := election.broken(look):
        found = problem("log", f"the log cannot be right: {why}", "`replicator recover` founds it anew")
        yield coded(found, ReasonCode.LOG_BROKEN, {"last_id": last_id})
    elif name := election.misnamed(look):
        what = (
            f"its head says that it is log {head.log_id}, and by its records it is log {name}: it was changed by hand"
        )
        yield coded(problem("log", what, SET_RIGHT), ReasonCode.LOG_BROKEN, {"last_id": last_id})
    else:
        yield ok("log", f"it goes up to {head.position.id}; `replicator certify` reads all of it")


# --- who leads -------------------------------------------------------------------------------------------------------


def _primary(look: GroupView) -> Iterator[Check]:
    """Whether a node holds the term; if not, what happens next."""
    head = look.head
    if head is None or election.broken(look):
        return  # the cause is the log, and nobody takes a term in it
    if (stuck := skip.suggested(look)) is not None:
        change, node = stuck
        do = (
            f"start them with code that can apply it, or `replicator skip {change} --on {node} --reason TEXT` has the "
            "group go on without it"
        )
        found = problem("primary", f"nobody leads, because every live node stalled at the change {change}", do)
        yield coded(found, ReasonCode.ALL_STALLED, {"change_id": str(change), "node": node})
    elif not look.same_run:
        what = "Redis came back as another run, in which no node leads until one takes a term"
        found = problem("primary", what, _who_goes_on(look))
        yield coded(found, ReasonCode.NEW_RUN, {"run": look.run, "log_run": head.run})
    elif head.writer == election.NOBODY:
        what = "nobody holds the term: the primary was demoted, and no node takes over by itself until one is promoted"
        yield coded(problem("primary", what, _by_hand(look)), ReasonCode.DEMOTED, {"term": look.term})
    elif head.term != look.term:
        yield coded(problem("primary", "nobody holds the term", _by_hand(look)), ReasonCode.UNHELD, {"term": look.term})
    else:
        yield _holder(look, look.heartbeats.get(head.node), head.node, head.boot)


def _holder(look: GroupView, heartbeat: Heartbeat | None, node: str, boot: str) -> Check:
    """Whether the holder of the term leads. A node that was promoted a moment ago does not lead yet: no problem."""
    holds = f"{node} holds term {look.term}"
    held: Facts = {"holder": node, "term": look.term}
    if heartbeat is None:
        found = problem("primary", f"{holds}, and has no heartbeat", _who_takes_over(look))
        return coded(found, ReasonCode.DOES_NOT_LEAD, held)
    if not heartbeat.alive:
        what = f"{holds}, and has not reported for {_seconds(heartbeat)}"
        return _silent(problem("primary", what, _who_takes_over(look)), heartbeat)
    same = heartbeat.boot == boot
    if same and heartbeat.term < look.term and look.lease_ms is not None and not heartbeat.stalled:
        what, then = f"{node} was given term {look.term} a moment ago", "leads once it has read the log"
        if _has_not_reported_since_it_took_the_term(heartbeat, look):
            return ok("primary", f"{what}, and {then}")
        found = warning("primary", what, f"it {then}")
        places = {"position": str(heartbeat.position.id), "last_id": str(look.last_id)}
        return coded(found, ReasonCode.READS_FIRST, {**held, **places})
    if not same or heartbeat.role != "primary":
        what = f"{holds}, and does not lead{'' if same else ': it was restarted'}"
        found = problem("primary", what, heartbeat.stalled or _who_takes_over(look))
        return coded(found, ReasonCode.DOES_NOT_LEAD if same else ReasonCode.RESTARTED, held)
    if look.lease_ms is None:
        what = f"{node} leads in term {look.term}, and its lease has run out"
        found = warning("primary", what, "see whether it reaches Redis, and may write to it")
        return coded(found, ReasonCode.LEASE_EXPIRED, held)
    return ok("primary", f"{node} leads in term {look.term}")


def _silent(check: Check, heartbeat: Heartbeat) -> Check:
    told: Facts = {"node": heartbeat.node, "age_ms": heartbeat.age_ms}
    if heartbeat.left:
        return coded(check, ReasonCode.STOPPED, told)
    return coded(check, ReasonCode.NOT_REPORTING, {**told, "beat_ms": heartbeat.every_ms})


def _has_not_reported_since_it_took_the_term(heartbeat: Heartbeat, look: GroupView) -> bool:
    """Whether it took the term by itself, and had no time yet to say that it leads. Both stamps are of Redis' clock."""
    taken = look.head.taken if look.head is not None else ()
    return any(name == heartbeat.node and heartbeat.beaten_at <= at <= look.now_ms for at, name in taken)


def _who_goes_on(look: GroupView) -> str:
    """The same in a new run of Redis, in which the node that led comes first, whether it is a candidate or not."""
    former = look.heartbeats.get(look.head.node) if look.head is not None else None
    if former is None or not former.alive or not former.is_sound:
        return _who_takes_over(look)
    goes_on = f"{former.node}, which led, goes on by itself"
    if look.head is not None and former.boot != look.head.boot:
        goes_on = f"{former.node}, which led and was restarted, goes on by itself (not with --on-restart standby)"
    live = (heartbeat for _, heartbeat in sorted(look.heartbeats.items()) if heartbeat.alive)
    if waited_for := [heartbeat.node for heartbeat in live if heartbeat.run != look.run]:
        have = "has" if len(waited_for) == 1 else "have"
        return f"{goes_on} once {named(waited_for)} {have} reported"
    if election.refusal(former.node, look) is None:
        return f"{goes_on} in a moment; if that lasts, {_by_hand(look)}"
    return _who_takes_over(look)


def _who_takes_over(look: GroupView) -> str:
    """What will happen by itself, or what an operator has to do, now that no node leads."""
    if look.head is not None and look.head.paused:
        return f"automatic failover is paused, so {_by_hand(look)}"
    live = [heartbeat for _, heartbeat in sorted(look.heartbeats.items()) if heartbeat.alive]
    if not live:
        return "no node reports, so none takes over"
    candidates = [heartbeat for heartbeat in live if heartbeat.candidate]
    able = [heartbeat.node for heartbeat in candidates if election.may_take_over(heartbeat, look)]
    if able:
        return f"{' or '.join(able)} takes over by itself in a moment; if that lasts, {_by_hand(look)}"
    for heartbeat in candidates:
        refused = election.refusal(heartbeat.node, look)
        assert refused is not None
        if refused.code is ReasonCode.NOT_ALL_REPORTED:
            return f"{heartbeat.node} takes over by itself once the others have reported, or are taken for dead"
        return f"{heartbeat.node} would take over by itself, but {refused.reason}"
    return f"no live node takes over by itself (--auto-promote), so {_by_hand(look)}"


def _by_hand(look: GroupView) -> str:
    able = [heartbeat for heartbeat in look.heartbeats.values() if election.refusal(heartbeat.node, look) is None]
    best = election.most_advanced(able)
    if best is not None:
        return f"`replicator promote {best.node}`"
    if not any(heartbeat.alive for heartbeat in look.heartbeats.values()):
        return "start a node first: none reports"
    return "`replicator promote NODE --dry-run` tells for each node what speaks against it"


def pause_of(look: GroupView) -> Check | None:
    """A warning that automatic failover is paused, since when and by whom: on purpose, but easily forgotten."""
    head = look.head
    if head is None or not head.paused:
        return None
    since = f" since {_utc(head.paused_at)}" if head.paused_at else ""
    what = f"automatic failover is paused ({head.paused}){since}"
    found = warning("failover", what, "`replicator resume` ends that")
    return coded(found, ReasonCode.PAUSED, {"paused_at": head.paused_at or None})


def _failover(look: GroupView) -> Iterator[Check]:
    """Whether failover is automatic, and what may make it dangerous or slow."""
    candidates = sorted(
        heartbeat.node for heartbeat in look.heartbeats.values() if heartbeat.alive and heartbeat.candidate
    )
    if pause := pause_of(look):
        yield pause
    elif candidates:
        yield ok("failover", f"it is automatic, for {', '.join(candidates)}")
    elif look.heartbeats:
        yield ok("failover", "it is not automatic: after a crash somebody has to promote a node")
    without = sorted(heartbeat.node for heartbeat in look.heartbeats.values() if heartbeat.alive and heartbeat.goes_on)
    if without:
        what = f"{', '.join(without)} would lead whoever is missing (failover-without always)"
        loses = "after Redis lost something, what was acknowledged as applied:N can be lost although its holders live"
        yield warning("failover", what, loses)
    for name in sorted(look.heartbeats):
        if left_ms := election.cool_down_ms(name, look):
            times, wait_s = election.FLAPS_MAX, left_ms / 1000
            what = f"{name} took the term {times} times within a minute, and waits {wait_s:.0f} s more"
            facts: Facts = {
                "node": name,
                "taken_count": times,
                "window_ms": election.FLAP_WINDOW_MS,
                "left_ms": left_ms,
            }
            found = warning("failover", what, "find out why it loses it, unless you restarted it")
            yield coded(found, ReasonCode.FLAPPING, facts)


def _standbys(look: GroupView) -> Iterator[Check]:
    """Whether a standby could take over."""
    holder = term_holder(look)
    live = [heartbeat for _, heartbeat in sorted(look.heartbeats.items()) if heartbeat.alive]
    others = [heartbeat for heartbeat in look.heartbeats.values() if heartbeat.node != holder]
    able = [p.node for p in live if p.node != holder and p.in_sync and p.run == look.run and _may_lead(p)]
    if not look.heartbeats:
        yield warning("standbys", "no node has reported yet", "start one")
    elif not live:
        do = (
            "start them; if they run, they do not reach this Redis, or it takes no writes (maxmemory, "
            "min-replicas-to-write): `replicator doctor` says whether"
        )
        yield problem("standbys", "no node reports", do)
    elif able:
        yield ok("standbys", f"{', '.join(able)} could take over")
    elif not look.same_run and any(p.node != holder and p.run != look.run for p in live):
        yield warning("standbys", "no standby has reported since Redis came back", "they do so once a heartbeat")
    elif others:
        yield problem("standbys", "no standby is left that could take over", "see what is wrong with the others")
    else:
        yield warning("standbys", f"{holder} is the only node, and none could take over", "start another one")


def _may_lead(heartbeat: Heartbeat) -> bool:
    return heartbeat.is_sound and not heartbeat.follows_only


def _states(look: GroupView) -> Iterator[Check]:
    """Whether the nodes had equal states at the newest marker. What they do about it, each node says (`_of_node`)."""
    found = compared(look)
    if found is None:
        return
    if found.primary_is_odd:
        what = (
            f"the state of the primary, {found.primary}, differs at {found.at} from that of {', '.join(found.others)}"
        )
        do = (
            "they agree, so nobody acts by himself: find out which state is right. `replicator switchover` to one of "
            f"them has {found.primary} rebuilt, `replicator reinit` of each has them rebuilt"
        )
        yield problem("states", what, do)
    elif told := [name for name in found.others if not look.heartbeats[name].diverged]:
        what = f"the state of {', '.join(told)} differs at {found.at} from that of the primary, {found.primary}"
        yield warning("states", what, "more is known once all nodes have reported there")
    elif found.alike:
        yield ok("states", f"{', '.join([found.primary, *found.alike])} had equal states at {found.at}")


def _settings(look: GroupView) -> Iterator[Check]:
    """Whether what has to be the same on all nodes is. Told of nodes that report: others may come back with another."""
    live = [heartbeat for _, heartbeat in sorted(look.heartbeats.items()) if heartbeat.alive]
    rejects = [heartbeat.node for heartbeat in live if heartbeat.rejects_errors]
    stalls = [heartbeat.node for heartbeat in live if not heartbeat.rejects_errors]
    if rejects and stalls:
        what = f"on_apply_error is reject on {', '.join(rejects)}, and stall on {', '.join(stalls)}"
        yield warning("settings", what, "make it the same, or they go apart at the next error of apply()")


def _keys(look: GroupView) -> Iterator[Check]:
    """Whether there are heartbeats that do not count, in a group that has a key."""
    if look.forged:
        what = f"the group's key does not vouch for what {', '.join(look.forged)} says, so it counts for nothing"
        do = "give that node the group's key file; if it has that, somebody else wrote this (`replicator certify`)"
        yield problem("keys", what, do)


# --- versions --------------------------------------------------------------------------------------------------------


def next_step(look: GroupView) -> str:
    """What an operator does next to bring the group to the newest version that a node writes."""
    current, reporting = versions.version_of(look), versions.reporting(look)
    if current is None:
        return "there is nothing to go on from: no node has anything of the log yet"
    coming = versions.next_version(current, reporting)
    if behind := versions.unreading(coming, reporting):
        told = [f"{each.node} reads {versions.in_words(each.reads_min, each.reads_max)}" for each in behind]
        upgrade = "upgrade it" if len(told) == 1 else "upgrade them"
        return f"version {coming} is not read by all: {', '.join(told)}: {upgrade}"
    if coming > current:
        return f"all nodes read {coming}: `replicator finalize {coming}`, and there is no way back"
    return f"nothing: all nodes read version {current}"


def _versions(look: GroupView) -> Iterator[Check]:
    """Whether every node reads the version that the group is at, and what is next in an upgrade."""
    current = versions.version_of(look)
    if current is None:
        return
    live = [heartbeat for heartbeat in versions.reporting(look) if heartbeat.alive]
    if cannot := versions.unreading(current, live):
        names = ", ".join(each.node for each in cannot)
        yield problem("versions", f"the group is at version {current}, which {names} cannot read", next_step(look))
    else:
        yield ok("versions", f"the group is at version {current}; next: {next_step(look)}")


def _clocks(look: GroupView) -> Iterator[Check]:
    """Whether the clock of Redis was set back, or that of a writer is ahead. No rule depends on clocks, but lags do."""
    stamped = [
        heartbeat.applied_at for heartbeat in look.heartbeats.values() if heartbeat.alive and heartbeat.applied_at
    ]
    ahead_ms = max(stamped, default=0) - look.now_ms
    beaten = [
        (heartbeat.beaten_at - look.now_ms - heartbeat.every_ms, name) for name, heartbeat in look.heartbeats.items()
    ]
    back_ms, node = max(beaten, default=(0, ""))
    if back_ms > 0:
        what = f"the heartbeat of {node} is stamped {back_ms / 1000:.1f} s ahead of Redis' clock, which was set back"
        yield warning("clocks", what, "nodes go by their own clocks; if this goes on, mend that of Redis")
    elif ahead_ms > CLOCK_AHEAD_MS_MAX:
        what = f"the newest record is stamped {ahead_ms / 1000:.1f} s ahead of Redis' clock, and lags are wrong by that"
        yield warning("clocks", what, "set the clock of its writer, or of Redis; no rule depends on it")
    elif stamped:
        yield ok("clocks", "no record is stamped ahead of Redis' clock")


# --- each node -------------------------------------------------------------------------------------------------------


def checks_of_node(heartbeat: Heartbeat, look: GroupView) -> list[Check]:
    """The checks of one node."""
    found = list(_of_node(f"node {heartbeat.node}", heartbeat, look))
    return found or [ok(f"node {heartbeat.node}", f"a {heartbeat.role}, at {heartbeat.position.id}")]


def _of_node(name: str, heartbeat: Heartbeat, look: GroupView) -> Iterator[Check]:
    """What is wrong with a node. If it does not report, nothing else of its last heartbeat matters."""
    if not heartbeat.alive:
        why = "start it again" if heartbeat.left else "it is down, or cannot reach this Redis or write to it"
        do = f"{why}; if it is gone for good, `replicator forget {heartbeat.node}`"
        of_log = look.head.app if look.head is not None else ""
        if heartbeat.app and of_log not in ("", heartbeat.app):
            what = f"it is of another application (`{heartbeat.app}`) than the log (`{of_log}`), and was refused"
            found = warning(name, what, f"`replicator forget {heartbeat.node}`, and give that one a group of its own")
            yield coded(found, ReasonCode.OTHER_APP, {"app": heartbeat.app, "log_app": of_log})
            return
        stopped = "it stopped in order, and " if heartbeat.left else "it "
        yield _silent(warning(name, f"{stopped}has not reported for {_seconds(heartbeat)}", do), heartbeat)
        return
    yield from _of_its_state(name, heartbeat)
    if heartbeat.run != look.run:
        found = warning(name, "it has not reported in the present run of Redis", "if that lasts, restart it")
        yield coded(found, ReasonCode.OTHER_RUN, {"run": look.run, "log_run": heartbeat.run})
    yield from _of_its_place(name, heartbeat, look)


def _of_its_state(name: str, heartbeat: Heartbeat) -> Iterator[Check]:
    if heartbeat.stalled:
        yield coded(Check(check=name, level=PROBLEM, message=heartbeat.stalled), ReasonCode.STALLED)
    if heartbeat.problem:
        yield coded(Check(check=name, level=PROBLEM, message=heartbeat.problem), ReasonCode.PROBLEM)
    if heartbeat.diverged:
        what = f"its state differs from the primary's at {heartbeat.diverged}"
        by_hand = f"by `replicator reinit {heartbeat.node}`"
        do = f"it keeps that as a fork and is rebuilt, by itself once an hour, or {by_hand}"
        yield coded(problem(name, what, do), ReasonCode.DIVERGED, {"diverged_id": heartbeat.diverged})
    elif heartbeat.given_up:
        found = warning(name, "the next snapshot takes the place of its state", heartbeat.given_up)
        yield coded(found, ReasonCode.GIVEN_UP)


def _of_its_place(name: str, heartbeat: Heartbeat, look: GroupView) -> Iterator[Check]:
    if look.head is None:
        return
    places = {"position": str(heartbeat.position.id), "last_id": str(look.head.position.id)}
    if not heartbeat.in_sync:
        found = warning(name, "it is out of sync, and waits for a snapshot", "if that lasts, see whether anybody leads")
        yield coded(found, ReasonCode.OUT_OF_SYNC, places)
    if heartbeat.position.id > look.head.position.id:
        what = "it is ahead of the log, which lost something"
        found = warning(name, what, "promote it, or what only it has becomes a fork")
        yield coded(found, ReasonCode.AHEAD_OF_LOG, places)
    lag = lag_as_reported(heartbeat, look)
    if lag.records and heartbeat.behind_ms > BEHIND_MS_MAX:
        what = f"it is {counted(lag.records, 'record')} behind, and has been for {heartbeat.behind_ms / 1000:.0f} s"
        found = warning(name, what, "see to its machine, its disk and its network")
        yield coded(found, ReasonCode.BEHIND, {"lag_records": lag.records, "behind_ms": heartbeat.behind_ms})


def _seconds(heartbeat: Heartbeat) -> str:
    seconds = heartbeat.age_ms / 1000
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def _utc(unix_ms: int) -> str:
    try:
        return datetime.fromtimestamp(unix_ms / 1000, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):  # the head was edited by hand
        return f"{unix_ms} ms, which is no time"
