"""A node as the protocol sees it: one frozen value, and what it does next. No socket, file, clock or thread.

`NodeState` combines the fold (`fold.py`) and the decisions (`election.py`) with the little that a node remembers
besides its view: its boot, the run of Redis that it talks to, which of its terms are over. The shells hold one under a
lock, feed it what happened, and carry out what it says. The explorer in `tests/model/` drives the same class through
every order of events.

Who leads is derived, never stored, in three levels, each of which takes the one before:

- It *holds the term* (`holds_term`): it took the newest term that it knows, in the run of Redis that it talks to, and
  has heard of no newer one. It may write its snapshot.
- It *is the primary* (`is_primary`): and it is in sync, so the log ends with what it has.
- It *leads*: and it can take writes, because its lease runs, and nothing stopped it. Only the node itself knows that
  (`node/health.py`, `Standing`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ..format.ids import ORIGIN, ZERO_ID, Position, RecordId, Writer, new_tuple
from ..format.records import ChangeRecord, PartRecord, Record, seal_change, seal_part
from . import election
from .fold import Verdict, View, ends_before, holds, is_beyond, step
from .group import Code, GroupView, Reply
from .heartbeat import Heartbeat

if TYPE_CHECKING:
    from ..format.sealing import Sealer

__all__ = ["NodeState", "Snapshot", "role_of"]


def role_of(is_primary: bool) -> str:
    """What a role is called, for others and for people."""
    return "primary" if is_primary else "standby"


class Snapshot(NamedTuple):
    """A snapshot under way, as its writer began it: what all of its parts have in common."""

    term: int
    as_of: Position
    changed: RecordId
    ends: tuple[RecordId, ...]
    rebase: bool
    replaces: bool
    version: int = 1


class NodeState(NamedTuple):
    """One boot of one node. Every method that changes something returns the state after it."""

    me: Writer
    view: View
    #: The run of Redis that it talks to; empty: not known, so it holds nothing.
    run: str = ""
    #: Whether that Redis has no log any more.
    log_lost: bool = False
    #: The newest term that this boot knows to be over although no record that it read has said so yet.
    over: int = 0
    #: The boot before this one, if the checkpoint tells: a term which that one held may be taken.
    previous_boot: str = ""
    #: Heartbeats sent since `run` or `log_lost` last changed.
    beats_in_run: int = 0
    #: The last part of the newest snapshot that this boot completed.
    snapshot_end: RecordId = ZERO_ID

    # --- what it is ---

    @property
    def holds_term(self) -> bool:
        """Whether it may write to the log: its snapshot if it is out of sync, everything otherwise."""
        me, view, run, _, over, _, _, _ = self
        return run != "" and view.term > over and holds(view, me, run)

    def vouches(self, term: int) -> bool:
        """Whether acknowledgements by standbys of its writes in `term` still count: in a later run they do not."""
        return self.run != "" and (term, self.run) == (self.view.term, self.view.holder.run)

    @property
    def in_sync(self) -> bool:
        """Whether it lacks nothing up to its position, and has read from the log, or knows that there is none yet.

        The view of a node that has read nothing says that it is in sync (every log begins there), but it is not known
        whether the log still has its beginning.
        """
        if self.view.position == ORIGIN:
            return self.run != "" and self.log_lost and self.view.log_id == ""
        return self.view.in_sync

    @property
    def is_primary(self) -> bool:
        """Whether it holds the term and lacks nothing."""
        return self.holds_term and self.view.in_sync

    @property
    def role(self) -> str:
        """`"primary"` or `"standby"`."""
        return role_of(self.is_primary)

    @property
    def must_rebase(self) -> bool:
        """Whether it holds the term but the log does not end with what it has: its snapshot has to go first."""
        return self.holds_term and not self.view.in_sync and election.may_rebase(self.view)

    def heartbeat(self) -> Heartbeat:
        """Its heartbeat, without what only the shell knows."""
        view = self.view
        return Heartbeat(
            node=self.me.node,
            boot=self.me.boot,
            run=self.run,
            term=view.term,
            role=self.role,
            position=view.position,
            changed=view.changed,
            cursor=view.cursor.id,
            in_sync=self.in_sync,
            log_id=view.log_id,
            group_version=view.version,
        )

    # --- what happens to it ---

    def takes(self, record: Record) -> bool:
        """Whether the record can belong to the log. If so, `fold` it; if not, stay at the place before it."""
        return not is_beyond(self.view, record)

    def fold(self, record: Record) -> tuple[Verdict, NodeState]:
        """Take the next record of the log, or its own that was just appended."""
        me, before, run, log_lost, over, previous_boot, beats_in_run, snapshot_end = self
        verdict, view = step(before, record, me)
        after = new_tuple(NodeState, (me, view, run, log_lost, over, previous_boot, beats_in_run, snapshot_end))
        if isinstance(record, PartRecord) and record.is_last and record.writer == self.me:
            after = after._replace(snapshot_end=record.id)
        return verdict, after

    def talks_to(self, run: str, *, log_lost: bool = False) -> NodeState:
        """It looked at Redis, which is in this run, and has the log or has lost it."""
        if (run, log_lost) == (self.run, self.log_lost):
            return self
        return self._replace(run=run, log_lost=log_lost, beats_in_run=0)

    def beaten(self) -> NodeState:
        """It has sent a heartbeat."""
        return self._replace(beats_in_run=self.beats_in_run + 1)

    def without_state(self) -> NodeState:
        """Its state is not what it should be: it waits for a snapshot, as after a gap."""
        return self._replace(view=self.view._replace(in_sync=False))

    def knows_over(self, term: int) -> NodeState:
        """It knows from elsewhere that this term, and all before it, are over: their records may be still to come."""
        return self._replace(over=max(self.over, term))

    def refused(self, reply: Reply) -> NodeState:
        """A write or a renewal was refused. This may end its role before the log tells why."""
        if reply.code in (Code.FENCED, Code.LOST):
            return self._replace(over=max(self.over, self.view.term))
        if reply.code is Code.NEW_RUN:
            return self._replace(run="", beats_in_run=0)
        if reply.code is Code.BEHIND:
            return self._behind(reply.id)
        return self

    def _behind(self, newest: RecordId) -> NodeState:
        """The log ends elsewhere: it lost what this node has, or another process wrote to it in this node's name."""
        view = self.view
        if newest > max(view.position.id, view.cursor.id):
            # A copy of this process, or of its memory, wrote it. The next primary reads all that is there.
            return self._replace(over=max(self.over, view.term))
        return self._replace(view=view._replace(in_sync=False))

    # --- what it does ---

    def takes_term(
        self, look: GroupView, *, restart_as_primary: bool = True, goes_on: bool = False, gave_up: bool = False
    ) -> bool:
        """Whether it promotes itself now. Promote with `expect=look.term`, `run=look.run`, `floor=view.term`."""
        return election.takes_term(
            self.view,
            self.me,
            look,
            previous_boot=self.previous_boot,
            beats_in_run=self.beats_in_run,
            restart_as_primary=restart_as_primary,
            goes_on=goes_on,
            gave_up=gave_up,
        )

    def election_rank(self, me: Heartbeat, look: GroupView) -> int | None:
        """Its rank if it stands for election now (see `election.election_rank`); `me`: its heartbeat."""
        return None if self.holds_term else election.election_rank(me, look, beats_in_run=self.beats_in_run)

    def refounds(self, me: Heartbeat, look: GroupView) -> bool:
        """Whether it is the one to found a lost log anew; `me`: its heartbeat."""
        return election.refounds(me, look, beats_without_log=self.beats_in_run if self.log_lost else 0)

    def needs_what_is_gone(self, look: GroupView) -> bool:
        """Whether a log exists, but the node has found no record in it for some heartbeats: they are gone (an XTRIM).

        The next record would show that it lacks something. Until there is one, nobody knows that it needs a snapshot.
        """
        return look.head is not None and self.view.cursor == ORIGIN and self.beats_in_run >= election.BEATS_BEFORE_CLAIM

    def owes_snapshot(self, heartbeats: Iterable[Heartbeat]) -> bool:
        """Whether it has to send a snapshot because another node needs one."""
        return self.is_primary and election.owes_snapshot(self.view, heartbeats, self.snapshot_end)

    def change(
        self,
        *,
        codec: str,
        digest: str,
        count: int,
        body: bytes,
        at: int,
        wants_acks: int = 0,
        version: int = 0,
        trace: str = "",
        sealer: Sealer | None = None,
    ) -> ChangeRecord:
        """Make the record that carries these changes, right after its position. Only of a primary.

        `version`: the one to which it raises the group; 0: it does not. `trace`: see `ChangeRecord`. `sealer`: seals
        it; None: the group has no key.
        """
        view = self.view
        assert self.holds_term  # and what follows: `is_primary`
        assert view.in_sync
        return seal_change(
            writer=self.me,
            term=view.term,
            after=view.position,
            at=at,
            codec=codec,
            digest=digest,
            count=count,
            body=body,
            wants_acks=wants_acks,
            version=version,
            trace=trace,
            sealer=sealer,
        )

    def begin_snapshot(self, *, replaces: bool = False) -> Snapshot:
        """Begin a snapshot of the state as it is now. Only while it holds the term.

        Where the group goes on without a change (`skip.py`) it is one that `replaces` the history: nothing in that has
        this state.
        """
        assert self.holds_term
        view = self.view
        ends = ends_before(view, view.term)
        return Snapshot(
            view.term,
            view.position,
            view.changed,
            ends,
            rebase=not view.in_sync,
            replaces=replaces or view.skipped != ZERO_ID,
            version=view.version,
        )

    def part(
        self,
        snapshot: Snapshot,
        *,
        part: int,
        parts: int,
        codec: str,
        digest: str,
        body: bytes,
        at: int,
        wants_acks: int = 0,
        sealer: Sealer | None = None,
    ) -> PartRecord:
        """Make the next part of its snapshot, right after its position. Only while it holds the snapshot's term."""
        assert self.holds_term
        assert self.view.term == snapshot.term
        after = self.view.position
        n = election.rebase_n(self.view) if snapshot.rebase and part == 0 else after.id.n + 1
        return seal_part(
            writer=self.me,
            term=self.view.term,
            after=after,
            n=n,
            at=at,
            codec=codec,
            digest=digest,
            part=part,
            parts=parts,
            as_of=snapshot.as_of,
            changed=snapshot.changed,
            replaces=snapshot.replaces,
            ends=snapshot.ends if parts else (),
            wants_acks=wants_acks,
            version=snapshot.version,
            body=body,
            sealer=sealer,
        )
