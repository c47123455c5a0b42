"""Decisions in the life of a node that the log alone cannot settle. Pure: values in, a decision out.

The fold (`fold.py`) says what a record does to a node. This module says what a node does by itself: when it takes a
term, when it owes the others a snapshot, what it makes of an answer to a write, and whom one should promote. The
shells ask here and carry the answer out; the explorer asks here too, so what it explores is what runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from .fold import View, holds
from .ids import ORIGIN, RecordId, Writer
from .replies import Code, Look, Peer, Reply

__all__ = [
    "Fate",
    "Refusal",
    "fate_of_write",
    "may_found",
    "may_rebase",
    "most_advanced",
    "owes_snapshot",
    "rebase_n",
    "refusal",
    "takes_term",
]

#: After Redis came back as another run, every node must have had the time to report before anybody is chosen.
BEATS_BEFORE_CLAIM = 2


def most_advanced(peers: Iterable[Peer]) -> Peer | None:
    """The one whose last *change* is the newest: the higher term of it, then the higher n.

    Not the highest position: a node that merely followed the terms of a log which had lost changes has a high position
    and lacks those changes.
    """
    return max(peers, key=advance, default=None)


def advance(peer: Peer) -> RecordId:
    """What `most_advanced` compares."""
    return peer.changed


# --- taking a term ---------------------------------------------------------------------------------------------------


def takes_term(
    view: View, me: Writer, look: Look, *, previous_boot: str, beats_in_run: int, restart_as_primary: bool = True
) -> bool:
    """Whether this node promotes itself now (with `expect=look.term` and `run=look.run`, so that it cannot race).

    Two cases. Its previous boot held the current term, and nobody else can write in it: go on, in a term of this boot.
    Or Redis came back as another run: nobody holds anything, every node had time to say what it has, and the former
    holder, which has read all there is, is the most advanced.
    """
    if look.head is None or not view.in_sync or holds(view, me, look.run):
        return False
    if look.head.run == look.run:
        return restart_as_primary and previous_boot != "" and look.head.writer == (me.node, previous_boot)
    if view.holder.node != me.node or beats_in_run < BEATS_BEFORE_CLAIM:
        return False
    if view.holder.boot != me.boot and not restart_as_primary:
        return False
    if view.cursor.id < look.last_id:
        return False
    others = [peer for peer in look.peers.values() if peer.alive and peer.in_sync and peer.node != me.node]
    best = most_advanced(others)
    return best is None or advance(best) <= view.changed


def may_found(look: Look) -> bool:
    """A log is founded only where nobody ever had one: else Redis lost it, and that wants a decision."""
    return look.head is None and look.term == 0 and all(peer.term == 0 for peer in look.peers.values())


def may_rebase(view: View) -> bool:
    """A node that holds nothing (a new one, or one whose checkpoint was damaged) must not replace a history by that."""
    return view.position != ORIGIN


def rebase_n(view: View) -> int:
    """The n of the first part of a rebase: above the node's own records and above what the log has now."""
    return max(view.position.id.n, view.cursor.id.n) + 1


# --- what the primary owes -------------------------------------------------------------------------------------------


def owes_snapshot(view: View, peers: Iterable[Peer], last_snapshot_end: RecordId) -> bool:
    """Whether a live node is out of sync and nothing that is in the log will help it.

    One that has not yet read into the present term, or not past the newest snapshot, may still find what it needs.
    """
    return any(
        peer.alive and not peer.in_sync and peer.cursor.term == view.term and peer.cursor >= last_snapshot_end
        for peer in peers
    )


# --- what became of a write ------------------------------------------------------------------------------------------


class Fate(Enum):
    """What a writer makes of an answer to its append or part."""

    COMMITTED = "in the log"
    LOOK = "not known: read the log"
    REFUSED = "not in the log, and this node does not hold the term any more"
    UNKNOWN = "cannot be known: another node may have it"
    AGAIN = "the snapshot starts anew"
    REBASE = "the log lost records that this node has"
    LOST = "there is no log any more"
    STRAY = "something that is not a record is in the way"


def fate_of_write(reply: Reply, *, uncertain: bool, found: bool | None = None) -> Fate:
    """`uncertain`: an earlier attempt at the same record got no answer. `found`: whether the log has it, if looked up.

    Compare-and-append makes repeating harmless: the same record lands once, whichever attempt it was. A refusal of a
    repeat does not say what became of the first attempt; the log does, as long as it is the same Redis.
    """
    if reply.code in (Code.OK, Code.DUPLICATE):
        return Fate.COMMITTED
    if reply.code is Code.RESTART:
        return Fate.AGAIN
    if reply.code in (Code.BEHIND, Code.LOST, Code.STRAY) and not uncertain:
        return {Code.BEHIND: Fate.REBASE, Code.LOST: Fate.LOST, Code.STRAY: Fate.STRAY}[reply.code]
    if not uncertain:
        return Fate.REFUSED
    if found is None:
        return Fate.LOOK
    if found:
        return Fate.COMMITTED
    # The same run and the term over: the first attempt can only have been refused as well. Another run may have lost
    # it after somebody read it.
    return Fate.REFUSED if reply.code is Code.FENCED else Fate.UNKNOWN


# --- whom to promote -------------------------------------------------------------------------------------------------


class Refusal(NamedTuple):
    """Why a node should not be promoted, and which one should, if any."""

    reason: str
    better: str | None = None


def refusal(target: str, look: Look) -> Refusal | None:
    """None if promoting `target` loses nothing that is known of. Promote with `run=look.run`: it holds for that run.

    While the log is whole, lag is no reason: the target reads all of it before it leads.
    """
    live = [peer for peer in look.peers.values() if peer.alive]
    candidate = look.peers.get(target)
    reported = [peer for peer in live if peer.run == look.run]
    best = most_advanced(peer for peer in reported if peer.in_sync and not peer.stalled)
    better = best.node if best is not None and best.node != target else None
    if candidate is None:
        return Refusal("no node of that name has reported; `replicator status` lists them", better)
    if not candidate.alive:
        return Refusal(f"it has not reported for {candidate.age_ms / 1000:.1f} s", better)
    if len(reported) < len(live):
        missing = sorted(peer.node for peer in live if peer.run != look.run)
        return Refusal(f"Redis came back as another run, and {', '.join(missing)} has not reported since: try again")
    if candidate.stalled:
        return Refusal(f"it stalled: {candidate.stalled}", better)
    if not candidate.in_sync:
        return Refusal("it is out of sync and waits for a snapshot", better)
    if best is not None and look.head is not None:
        log_lacks_it = advance(best) > look.head.position.id
        if log_lacks_it and advance(best) > advance(candidate):
            return Refusal(f"it lacks changes up to {best.changed}, which the log lost and {best.node} has", better)
    return None
