"""The decisions of a node that the log alone cannot settle: leader election above all. Pure: values in, a decision out.

The fold (`fold.py`) says what a record does to a node. This module says what a node does by itself: when it takes a
term, and when it owes the others a snapshot. It also says which node an operator should promote. The shells ask here
and carry the answer out. So does the explorer in `tests/model/`: what it explores is what runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ..format.ids import ORIGIN, TERM_LEAP, ZERO_ID, RecordId, Writer, era_of, is_beyond
from . import missing_nodes, versions
from .fold import View, holds
from .group import Code, GroupView, Head, Reply
from .heartbeat import Heartbeat
from .missing_nodes import RECENT_MS
from .reasons import Facts, ReasonCode, reason

__all__ = [
    "NOBODY",
    "RECENT_MS",
    "Refusal",
    "broken",
    "cool_down_ms",
    "election_rank",
    "expected_head",
    "floor_of",
    "has_claimed",
    "held_back",
    "is_settled",
    "may_found",
    "may_rebase",
    "may_take_over",
    "misnamed",
    "missed",
    "most_advanced",
    "most_advanced_holder",
    "newest_term",
    "owes_snapshot",
    "rebase_n",
    "refounds",
    "refusal",
    "takes_term",
    "time_to_report_ms",
    "unfollowed",
]

#: A node sends a heartbeat at least this often, however long its lease is; or the heartbeat says how rarely it comes.
BEAT_EVERY_MS_MAX = 1000

#: How many heartbeats a candidate waits after Redis came back as another run: every node must have had the time to
#: report before one is chosen.
BEATS_BEFORE_CLAIM = 2

#: The holder of the term after a demotion. No boot has this name, and while it holds the term no node takes over by
#: itself.
NOBODY = Writer("nobody", "nobody")

#: A node that was alive a moment ago and has not reported in the new run may have what the log lost. Unless more than
#: half of the nodes have reported, candidates wait this many heartbeats for the others. They do not wait for ever: by
#: default a write promises no more than that Redis has it. Where more was asked for, `missing_nodes.py` says which
#: nodes must be there.
BEATS_WITHOUT_MAJORITY = 30

#: A node that took the term by itself this often within this time flaps: others go first.
FLAPS_MAX = 3
FLAP_WINDOW_MS = 60_000

#: How many eras a heartbeat may be ahead: Redis may have come back this often without its data. A node that claims more
#: is not believed.
ERAS_MISSED_MAX = 1000


def most_advanced(heartbeats: Iterable[Heartbeat]) -> Heartbeat | None:
    """The node whose last *change* is the newest: by its term, then by its n.

    Not the one with the highest position: a node that merely followed the terms of a log which had lost changes has a
    high position and lacks those changes.
    """
    return max(heartbeats, key=lambda heartbeat: heartbeat.changed, default=None)


# --- taking a term ---------------------------------------------------------------------------------------------------


def takes_term(
    view: View,
    me: Writer,
    look: GroupView,
    *,
    previous_boot: str,
    beats_in_run: int,
    restart_as_primary: bool = True,
    goes_on: bool = False,
    gave_up: bool = False,
) -> bool:
    """Whether this node promotes itself now. `gave_up`: its state is not to become that of the group.

    Promote with `expect=look.term`, `run=look.run` and `expected_head`, so that there is no race. There are two cases.
    Its previous boot holds the current term, in which no other node can write: it goes on, in a term of this boot. Or
    Redis came back as another run, in which nobody holds anything: the former holder goes on, once every live node has
    had time to say what it has, and this one has read all there is. In both cases no live node may have changes that
    the log lost and this node lacks; nor may a missing node, unless `goes_on`.
    """
    head = look.head
    if head is None or gave_up or holds(view, me, look.run) or not _met_and_whole(view, head):
        return False
    if held_back(me.node, look) is not None:
        return False
    others = [heartbeat for heartbeat in look.heartbeats.values() if heartbeat.alive and heartbeat.node != me.node]
    if any(heartbeat.run != look.run for heartbeat in others):
        return False  # one has not reported since Redis came back; if it is dead, its heartbeat will soon be too old
    if look.same_run:
        was_mine = previous_boot != "" and head.writer == (me.node, previous_boot)
        allowed = was_mine and restart_as_primary
    else:
        was_mine = view.holder.node == me.node and (view.holder.boot == me.boot or restart_as_primary)
        allowed = was_mine and beats_in_run >= BEATS_BEFORE_CLAIM and view.cursor.id >= look.last_id
    if not allowed or _lacks_what_the_log_lost(view.changed, head, most_advanced(others)):
        return False
    return goes_on or missing_nodes.are_enough(_as_heartbeat(me, view, look), look)


def _as_heartbeat(me: Writer, view: View, look: GroupView) -> Heartbeat:
    known = look.heartbeats.get(me.node) or Heartbeat(*me)
    return known._replace(changed=view.changed)


def election_rank(me: Heartbeat, look: GroupView, *, beats_in_run: int) -> int | None:
    """The rank of this candidate among those that would take over now; 0: first; None: it does not take over now.

    A node is to take over when the holder's lease is gone, when Redis came back as another run in which nobody holds
    anything, or when the group never had a log. In a new run the former holder comes first; otherwise the more advanced
    node goes before the less advanced one. A node that `refusal` refuses is no candidate. Two nodes that both think
    they are first do no harm: a claim depends on all that was looked at, so one of them wins.
    """
    if not _is_vacant(me, look, beats_in_run):
        return None
    look = look._replace(heartbeats={**look.heartbeats, me.node: me})
    able = [
        heartbeat for heartbeat in look.heartbeats.values() if heartbeat.candidate and may_take_over(heartbeat, look)
    ]

    def order(heartbeat: Heartbeat) -> tuple[bool, RecordId, RecordId]:
        comes_back = look.head is not None and not look.same_run and heartbeat.node == look.head.node
        return comes_back, heartbeat.changed, heartbeat.position.id

    ranked = [heartbeat.node for heartbeat in sorted(_by_name(able), key=order, reverse=True)]
    return ranked.index(me.node) if me.node in ranked else None


def may_take_over(heartbeat: Heartbeat, look: GroupView) -> bool:
    """Whether this node may take over by itself, once a takeover is due: nothing would be lost by it."""
    return _refusal(heartbeat.node, look) is None and (heartbeat.goes_on or missing_nodes.are_enough(heartbeat, look))


def _by_name(heartbeats: Iterable[Heartbeat]) -> list[Heartbeat]:
    """Sorted by name: all nodes have to arrive at the same order, also among equals."""
    return sorted(heartbeats, key=lambda heartbeat: heartbeat.node)


def _is_vacant(me: Heartbeat, look: GroupView, beats_in_run: int) -> bool:
    """Whether no node leads, and this one has waited long enough to stand for election."""
    head = look.head
    if head is not None and (head.paused or head.writer == NOBODY):
        return False
    if head is not None and look.same_run:
        return look.lease_ms is None and head.writer != (me.node, me.boot)
    if head is None and not may_found(look):
        return False
    patient = beats_in_run >= (BEATS_BEFORE_CLAIM if _most_reported(me, look) else BEATS_WITHOUT_MAJORITY)
    return patient and me.cursor >= look.last_id


def _most_reported(me: Heartbeat, look: GroupView) -> bool:
    """Whether more than half of the nodes have reported in the present run."""
    others = [look.heartbeats[name] for name in missing_nodes.heard_of(look) if name != me.node]
    reported = 1 + sum(heartbeat.run == look.run for heartbeat in others)
    return 2 * reported > len(others) + 1


def cool_down_ms(node: str, look: GroupView) -> int:
    """How long this node still counts as flapping, by the clock of Redis; 0: it does not.

    Stamps ahead of that clock are not counted: the clock was set back since, nobody knows by how much.
    """
    taken = sorted(at for at, name in look.head.taken if name == node and at <= look.now_ms) if look.head else []
    if len(taken) < FLAPS_MAX:
        return 0
    return max(0, taken[-FLAPS_MAX] + FLAP_WINDOW_MS - look.now_ms)


def held_back(node: str, look: GroupView) -> Refusal | None:
    """Why this node, if it flaps, has to let another one go first; None: it need not.

    Without another node that could lead there is nothing to wait for. The present holder does not count as one: the
    caller wants to replace it. While automatic failover is paused no node goes first, so a node that held the term and
    restarts does not wait, and neither does an operator who promotes it (`refusal` asks here, too): this is about whose
    turn it is among the nodes that take over by themselves. No change is lost by that, and a refusal would leave the
    operator only `--force`, which overrides the checks that guard changes as well.
    """
    left_ms = cool_down_ms(node, look)
    if not left_ms or look.head is None or look.head.paused:
        return None
    holder = look.head.node if look.same_run else ""
    others = [
        heartbeat
        for name, heartbeat in look.heartbeats.items()
        if name not in (node, holder) and heartbeat.alive and heartbeat.candidate
    ]
    able = [
        heartbeat for heartbeat in others if cool_down_ms(heartbeat.node, look) == 0 and _loses_nothing(heartbeat, look)
    ]
    best = most_advanced(able)
    if best is None:
        return None
    flaps = f"it took the term {FLAPS_MAX} times in {FLAP_WINDOW_MS // 1000} s and lost it again; it may in"
    facts: Facts = {"node": node, "taken_count": FLAPS_MAX, "window_ms": FLAP_WINDOW_MS, "left_ms": left_ms}
    return _refusal_of(ReasonCode.FLAPPING, f"{flaps} {left_ms / 1000:.0f} s", best.node, facts)


def _loses_nothing(heartbeat: Heartbeat, look: GroupView) -> bool:
    """Whether this node could lead, and lacks nothing that the log lost and another live node has."""
    ahead = most_advanced(other for other in look.heartbeats.values() if other.alive and not other.stalled)
    lacks = look.head is not None and _lacks_what_the_log_lost(heartbeat.changed, look.head, ahead)
    return _could_lead(heartbeat, look) and not lacks


def _met_and_whole(node: View | Heartbeat, head: Head) -> bool:
    """Whether the node has met the log's present history, and either follows it or has every change in it.

    A node that has read no term of the head's era may have a history that ends elsewhere, and not know it yet. A node
    that is out of sync but lacks nothing may lead all the same: it rebases.
    """
    if era_of(node.term) < era_of(head.term):
        return False
    return _reads_everything(node) or (node.position != ORIGIN and node.changed >= head.changed)


def _reads_everything(node: View | Heartbeat) -> bool:
    """Whether it will read all that is in the log before its own term record. A node that has read nothing yet will."""
    has_read_nothing = isinstance(node, Heartbeat) and (node.term, node.position, node.cursor) == (0, ORIGIN, ZERO_ID)
    return node.in_sync or has_read_nothing


def _lacks_what_the_log_lost(changed: RecordId, head: Head, best: Heartbeat | None) -> bool:
    return best is not None and best.changed > max(head.changed, changed)


def expected_head(node: View | Heartbeat, look: GroupView) -> RecordId | None:
    """The newest record that a promotion of `node` has to depend on, besides term and run; None: on none.

    A node in sync reads everything before its own term record. A node out of sync may lead because it lacks nothing
    that is in the log *now*: if the holder writes once more, that is not true any more.
    """
    return None if _reads_everything(node) or look.head is None else look.head.position.id


def has_claimed(node: str, reply: Reply, look: GroupView) -> bool:
    """Whether a promotion of `node`, decided at `look`, gave it a term, or was forestalled by a claim of its own.

    A candidate claims a term by itself, perhaps at the very moment at which an operator promotes it.
    """
    return reply.code is Code.OK or (reply.code is Code.CONFLICT and reply.node == node and reply.term > look.term)


def newest_term(look: GroupView) -> int:
    """The highest term that any node is known to have seen: the floor of the next one.

    The effective term alone is not enough if Redis came back twice, each time without its data of the time before. In a
    run in which a term was taken no node can have seen a higher one. A heartbeat that claims a term many eras ahead was
    not written by a node, and must not use up the terms that are left.
    """
    if look.same_run:
        return look.term
    terms = (heartbeat.term for heartbeat in look.heartbeats.values())
    honest = (term for term in terms if era_of(term) - era_of(look.term) <= ERAS_MISSED_MAX)
    return max([look.term, *honest])


def may_found(look: GroupView) -> bool:
    """Whether a log may be founded: only where no node ever had one. Else Redis lost it, and that needs a decision."""
    nothing = look.head is None and look.term == 0 and not look.marred
    return nothing and all(heartbeat.term == 0 for heartbeat in look.heartbeats.values())


def time_to_report_ms(heartbeats: Iterable[Heartbeat]) -> int:
    """How long to wait until all nodes have reported what they have, where nobody knows which are still to come."""
    return BEATS_BEFORE_CLAIM * max([BEAT_EVERY_MS_MAX, *(heartbeat.every_ms for heartbeat in heartbeats)])


def refounds(me: Heartbeat, look: GroupView, *, beats_without_log: int) -> bool:
    """Whether this node founds the lost log anew by itself: the most advanced one does, once all had time to report.

    Where `applied:N` was asked for, it does so only if it is known which nodes took part, and enough of them are there.
    """
    if look.head is not None or look.marred or beats_without_log < BEATS_BEFORE_CLAIM:
        return False
    look = look._replace(heartbeats={**look.heartbeats, me.node: me})
    if most_advanced_holder(look.heartbeats.values(), me.log_id) != me.node:
        return False
    known = not missing_nodes.applied_min(look) or any(heartbeat.knew for heartbeat in look.heartbeats.values())
    return me.goes_on or (known and missing_nodes.are_enough(me, look))


def most_advanced_holder(heartbeats: Iterable[Heartbeat], log_id: str) -> str | None:
    """The live node that has most of the log with this identity."""
    able = [
        heartbeat for heartbeat in heartbeats if heartbeat.alive and heartbeat.is_sound and heartbeat.log_id == log_id
    ]

    def order(heartbeat: Heartbeat) -> tuple[RecordId, bool, RecordId]:
        return heartbeat.changed, not heartbeat.follows_only, heartbeat.position.id

    best = max(_by_name(able), key=order, default=None)
    return best.node if best is not None else None


def broken(look: GroupView) -> str:
    """Why no node can write to the log as it is: it has to be founded anew or set right. Empty: it is whole."""
    if look.marred:
        return look.marred
    if look.head is None:
        return "Redis lost it"
    if look.last_id != look.head.position.id:
        return f"something that is not a record is in it, at {look.last_id}"
    if unfollowed(look) is not None:
        return f"it is at {look.last_id}, which is beyond every record that can have been written: no node takes that"
    return ""


def misnamed(look: GroupView) -> str:
    """Which log this is by the nodes that have all of it, if its head says that it is another one; empty: it does not.

    The chain of the newest record is over all records, and those say which log they are of. So a node at that very
    place knows better than the head, which somebody changed by hand. For tools: a node goes by what it has itself
    (`node/identity.py`).
    """
    head = look.head
    if head is None:
        return ""
    there = [each for each in look.heartbeats.values() if each.alive and each.log_id and each.position == head.position]
    names = {each.log_id for each in there}
    return there[0].log_id if len(names) == 1 and head.log_id not in names else ""


def floor_of(node: Heartbeat, look: GroupView) -> int:
    """The floor of the next term where the log is broken: the highest possible term that anybody has seen."""
    terms = (look.term, *(heartbeat.term for heartbeat in look.heartbeats.values()))
    return max(term for term in (node.term, *terms) if term <= node.term + TERM_LEAP)


def unfollowed(look: GroupView) -> RecordId | None:
    """The newest record of the log, if no live node accepts its number, or if the head cannot be read."""
    if look.head is None:
        return look.last_id if look.marred else None
    newest = look.head.position.id
    live = [
        heartbeat for heartbeat in look.heartbeats.values() if heartbeat.alive and heartbeat.log_id == look.head.log_id
    ]
    follows = any(
        not is_beyond(newest, heartbeat.term, max(heartbeat.cursor.n, heartbeat.position.id.n)) for heartbeat in live
    )
    return newest if live and not follows else None


def may_rebase(view: View) -> bool:
    """Whether the node has a state to rebase from.

    A new node, or one whose checkpoint was damaged, must not replace a history by nothing.
    """
    return view.position != ORIGIN


def rebase_n(view: View) -> int:
    """The n of the first part of a rebase: above that of the node's own records and of those that the log has now."""
    return max(view.position.id.n, view.cursor.id.n) + 1


def is_settled(look: GroupView) -> bool:
    """Whether the head tells what is committed. That takes three things:

    - The holder of the term leads, in this run. In a run in which no term was taken, and while the holder rebases,
      committed changes may be missing from the log.
    - Its lease runs. On a master that accepts no more writes (it was cut off) the heartbeats do not change any more.
    - The head is at the newest entry. A script that was stopped after its XADD left an entry that readers apply and
      that the head does not know of yet.
    """
    head = look.head
    holder = look.heartbeats.get(head.node) if head is not None else None
    if head is None or holder is None or not look.same_run or head.term != look.term or look.lease_ms is None:
        return False
    leads = (holder.boot, holder.term, holder.role) == (head.boot, head.term, "primary")
    return leads and look.last_id == head.position.id


# --- what the primary owes -------------------------------------------------------------------------------------------


def owes_snapshot(view: View, heartbeats: Iterable[Heartbeat], last_snapshot_end: RecordId) -> bool:
    """Whether a live node is out of sync and nothing in the log will help it.

    A node that has not yet read into the present term, or past the newest snapshot, may still find what it needs.
    """
    return any(
        heartbeat.alive
        and not heartbeat.in_sync
        and heartbeat.cursor.term == view.term
        and heartbeat.cursor >= last_snapshot_end
        for heartbeat in heartbeats
    )


# --- whom to promote -------------------------------------------------------------------------------------------------


class Refusal(NamedTuple):
    """Why a node should not be promoted, in words, as a code and with its facts; and which one should, if any."""

    reason: str
    better: str | None
    code: ReasonCode
    facts: Facts


def _refusal_of(code: ReasonCode, words: str, better: str | None = None, facts: Facts | None = None) -> Refusal:
    told = reason(code, words, facts)
    return Refusal(told.message, better, told.code, told.facts)


def refusal(target: str, look: GroupView) -> Refusal | None:
    """Why `target` should not be promoted; None if that loses nothing known, nor what a missing node may have.

    Promote with `expect=look.term`, `run=look.run` and `expected_head`: the answer holds for those only.

    Lag is no reason: while the log is whole, the target reads all of it before it leads.
    """
    refused = _refusal(target, look)
    if refused is not None or look.head is None or missing_nodes.are_enough(look.heartbeats[target], look):
        return refused
    node = look.heartbeats[target]
    facts: Facts = {
        "nodes": tuple(missing_nodes.missing(node.changed, look)),
        "applied_min": missing_nodes.applied_min(look),
    }
    return _refusal_of(ReasonCode.MISSING_NODES, missed(node, look), None, facts)


def missed(node: Heartbeat, look: GroupView) -> str:
    """The message that names the missing nodes, and says what may be lost if `node` leads without them."""
    names = missing_nodes.missing(node.changed, look)
    count = missing_nodes.applied_min(look)
    are = "is" if len(names) == 1 else "are"
    return (
        f"{missing_nodes.named(names)} {are} missing since Redis came back, and may have changes that were "
        f"acknowledged (applied:{count}) and that nobody else has: start them, `replicator forget` one that will not "
        "come back, or use force, and what only they have is lost"
    )


def _refusal(target: str, look: GroupView) -> Refusal | None:
    """`refusal`, but for nodes that are missing."""
    live = [heartbeat for heartbeat in look.heartbeats.values() if heartbeat.alive]
    candidate = look.heartbeats.get(target)
    best = most_advanced(heartbeat for heartbeat in live if _could_lead(heartbeat, look))
    better = best.node if best is not None and best.node != target else None
    if candidate is None:
        words = "no node of that name has reported; `replicator status` lists them"
        return _refusal_of(ReasonCode.NEVER_REPORTED, words, better)
    if not candidate.alive:
        return _absent(candidate, better)
    missing = sorted(heartbeat.node for heartbeat in live if heartbeat.run != look.run)
    if missing:
        have = "has" if len(missing) == 1 else "have"
        words = (
            f"Redis came back as another run, and {missing_nodes.named(missing)} {have} not reported since: try again"
        )
        return _refusal_of(ReasonCode.NOT_ALL_REPORTED, words, None, {"nodes": tuple(missing)})
    return _refusal_of_state(candidate, look, better) or _refusal_of_history(candidate, look, live, better)


def _absent(candidate: Heartbeat, better: str | None) -> Refusal:
    told: Facts = {"node": candidate.node, "age_ms": candidate.age_ms}
    words = f"it has not reported for {candidate.age_ms / 1000:.1f} s"
    if candidate.left:
        return _refusal_of(ReasonCode.STOPPED, f"it stopped in order, and {words.removeprefix('it ')}", better, told)
    return _refusal_of(ReasonCode.NOT_REPORTING, words, better, {**told, "beat_ms": candidate.every_ms})


def _refusal_of_state(candidate: Heartbeat, look: GroupView, better: str | None) -> Refusal | None:
    """Why what the node has, or runs, may not become what the group has."""
    if candidate.follows_only:
        return _refusal_of(ReasonCode.MAY_NOT_LEAD, f"it may not lead: {candidate.follows_only}", better)
    if candidate.stalled:
        return _refusal_of(ReasonCode.STALLED, f"it stalled: {candidate.stalled}", better)
    if candidate.given_up:
        words = f"it waits for a snapshot in the place of its state: {candidate.given_up}"
        return _refusal_of(ReasonCode.GIVEN_UP, words, better)
    if candidate.diverged:
        words = f"its state differs from the primary's at {candidate.diverged}"
        return _refusal_of(ReasonCode.DIVERGED, words, better, {"diverged_id": candidate.diverged})
    if look.head is None:
        return None
    if candidate.app and look.head.app not in ("", candidate.app):
        words = f"the log is of `{look.head.app}`, and it is of `{candidate.app}`"
        return _refusal_of(ReasonCode.OTHER_APP, words, better, {"app": candidate.app, "log_app": look.head.app})
    if (current := versions.too_old_for(candidate, look)) is not None:
        reads = versions.in_words(candidate.reads_min, candidate.reads_max)
        words = f"the group is at version {current}, and its code reads {reads}: start it with code that reads both"
        facts: Facts = {"version": current, "reads_min": candidate.reads_min, "reads_max": candidate.reads_max}
        return _refusal_of(ReasonCode.OTHER_VERSION, words, better, facts)
    return None


def _refusal_of_history(
    candidate: Heartbeat, look: GroupView, live: Iterable[Heartbeat], better: str | None
) -> Refusal | None:
    """Why others have more of the group's history, or why it is not this node's turn."""
    head = look.head
    if head is None:
        return None
    ahead = most_advanced(heartbeat for heartbeat in live if not heartbeat.stalled)
    if _lacks_what_the_log_lost(candidate.changed, head, ahead):
        assert ahead is not None
        words = f"it lacks changes up to {ahead.changed}, which the log lost and {ahead.node} has"
        changed = {"changed_id": str(candidate.changed), "other_changed_id": str(ahead.changed)}
        return _refusal_of(ReasonCode.LACKS_CHANGES, words, ahead.node, {"node": ahead.node} | changed)
    if not _could_lead(candidate, look):
        words = "it is out of sync, or has not read into the present era of the log yet: try again"
        facts: Facts = {"position": str(candidate.position.id), "term": candidate.term, "log_term": head.term}
        return _refusal_of(ReasonCode.NOT_YET, words, better, facts)
    return held_back(candidate.node, look)


def _could_lead(heartbeat: Heartbeat, look: GroupView) -> bool:
    able = heartbeat.run == look.run and heartbeat.is_sound and not heartbeat.follows_only
    return able and (look.head is None or _met_and_whole(heartbeat, look.head))
