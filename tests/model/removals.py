"""The rules switched off, one by one: each has to be missed.

A removal is a Redis or a few functions without the rule, and the smallest world in which its absence shows. The product
has no switch for any of this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import orjson

import replicator.log.memory_redis
from replicator.format.ids import ORIGIN, ZERO_ID, Position, RecordId, Writer, era_of
from replicator.format.keyed import Keyed
from replicator.format.records import FORMAT_SEALED, ChangeRecord, PartRecord, Record, TermRecord, parse
from replicator.format.snapshot_parts import Progress
from replicator.log.memory_redis import Entry
from replicator.protocol import election, fold, missing_nodes, node_state, saving, skip, write_outcome
from replicator.protocol.fold import View
from replicator.protocol.group import Code, GroupView, Head, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.replica.ledger import Ledger
from replicator.testing import MemoryRedis

from .keys import KeyedMachine
from .parts import Bounds, Disk, Node
from .world import Machine

__all__ = ["HARMLESS", "REMOVALS", "Removal"]


class NoRebase(MemoryRedis):
    """A part never leaves the head behind."""

    def part(self, run: str, record: PartRecord, *, rebase: bool = False) -> Reply:
        return super().part(run, record)


class NoRunCheck(MemoryRedis):
    """The fence knows no runs."""

    def _fence(self, run: str, term: int, boot: str) -> Reply | None:
        return super()._fence(self._head().run if self.state.head else run, term, boot)


class KnowsItsRun(MemoryRedis):
    """The fence compares the run of the head with its own, too: nothing is written in a run before a term is taken."""

    def _fence(self, run: str, term: int, boot: str) -> Reply | None:
        refused = super()._fence(run, term, boot)
        return refused or (Reply(Code.NEW_RUN) if self._head().run != self.state.run else None)


class NoBootCheck(MemoryRedis):
    """Whoever claims the term may write in it."""

    def _fence(self, run: str, term: int, boot: str) -> Reply | None:
        return super()._fence(run, term, self._head().boot if self.state.head else boot)


class NoChainCheck(MemoryRedis):
    """An append is no compare-and-append: the head is wherever the writer thinks it is."""

    def append(self, run: str, record: ChangeRecord) -> Reply:
        head = self._head()
        if head.position.chain == record.chain:
            return super().append(run, record)
        self._write(head=head._replace(position=head.position._replace(chain=record.prev)))
        reply = super().append(run, record)
        if reply.code is not Code.OK:
            self._write(head=head)
        return reply


class LogKeepsItsEnds(MemoryRedis):
    """After a rebase the log goes on with the ends of the history that was left behind."""

    def part(self, run: str, record: PartRecord, *, rebase: bool = False) -> Reply:
        before = self._head() if self.state.head else None
        reply = super().part(run, record, rebase=rebase)
        if before and reply.code is Code.OK:
            self._write(head=self._head()._replace(ends=before.ends))
        return reply


class CutsBehindItself(MemoryRedis):
    """A snapshot that begins cuts the log behind its own `as_of`."""

    def part(self, run: str, record: PartRecord, *, rebase: bool = False) -> Reply:
        reply = super().part(run, record, rebase=rebase)
        if reply.code is Code.OK and record.part == 0:
            self._trim(record.as_of.id)
        return reply


class CutsAndDoesNotSay(MemoryRedis):
    """The head keeps nothing of where the log was cut."""

    def part(self, run: str, record: PartRecord, *, rebase: bool = False) -> Reply:
        reply = super().part(run, record, rebase=rebase)
        if reply.code is Code.OK:
            self._write(head=self._head()._replace(previous_snapshot_at=ZERO_ID))
        return reply


_takes_term = node_state.NodeState.takes_term


def takes_term_with_what_it_has(me: node_state.NodeState, look: GroupView, *, gave_up: bool) -> bool:
    return _takes_term(me, look)


def same_era(effective: int, *, new_run: bool) -> int:
    return effective + 1


def holds_in_any_run(view: View, me: Writer, run: str) -> bool:
    return view.holder[:2] == me


def holds_in_any_boot(view: View, me: Writer, run: str) -> bool:
    return (view.holder.node, view.holder.run) == (me.node, run)


def owes_nothing(view: View, heartbeats: Any, last_snapshot_end: RecordId) -> bool:
    return False


def most_advanced_by_position(heartbeats: Iterable[Heartbeat]) -> Heartbeat | None:
    return max(heartbeats, key=lambda heartbeat: heartbeat.position.id, default=None)


def compared_with_the_head(changed: RecordId, head: Head, best: Heartbeat | None) -> bool:
    return best is not None and best.changed > max(head.position.id, changed)


def in_sync_and_met(node: View | Heartbeat, head: Head) -> bool:
    return era_of(node.term) >= era_of(head.term) and node.in_sync


def whole_if_it_met_or_not(node: View | Heartbeat, head: Head) -> bool:
    return node.in_sync or (node.position != ORIGIN and node.changed >= head.changed)


def found_by_place(record: Record, there: Record | None, look: GroupView, run: str) -> write_outcome.Lookup:
    return write_outcome.Lookup.NOT_THERE if there is None else write_outcome.Lookup.THERE


def resumes_before_the_first_part(progress: Progress) -> Position:
    return progress.before if progress.before.chain == progress.as_of.chain else progress.as_of


def _keeps_its_ends(row: fold.Row) -> fold.Row:
    return row._replace(become=lambda view, record: row.become(view, record)._replace(ends=view.ends))


def takes_along_nothing(machine: Machine, node: Node) -> Node:
    """A save of the newest term alone, without what was applied before."""
    newest = node.live.view
    return node._replace(disk=node.disk._replace(view=node.disk.view._replace(term=newest.term, holder=newest.holder)))


def opens_whatever_follows(self: Machine, entry: Entry) -> Record | None:
    """As a reader would that has no key, or does not ask it."""
    told = orjson.loads(entry.header)
    unsealed = {"digest": "", **told, "v": 1} if told["v"] == FORMAT_SEALED else told
    return parse(str(entry.id), orjson.dumps(unsealed), entry.body)


def vouches_for_what_it_applied(machine: Machine, node: Node) -> str:
    return node.state if node.node_state else node.disk.state


def forks_its_disk_as_it_is(machine: Machine, node: Node) -> Disk:
    return node.disk


def applies_whatever_is_known(
    ledger: Ledger, keyed: Keyed, id_: RecordId, index: int, apply: Any, typed: Any = None
) -> Any:
    return apply(keyed.change)


class Removal(NamedTuple):
    """`patches`: (module, name, what stands there instead). `breaks`: what the explorer says.

    `after`: the steps with which a way to it begins, where there are too many worlds to try all others as well. The
    explorer takes just these steps first; `--without` tries every order.
    """

    about: str
    bounds: Bounds
    redis: type[MemoryRedis] = MemoryRedis
    patches: tuple[tuple[Any, str, Any], ...] = ()
    breaks: str = ""
    after: tuple[str, ...] = ()

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for where, name, instead in self.patches:
                stack.enter_context(mock.patch.object(where, name, instead))
            yield


def _holds(instead: Any) -> tuple[tuple[Any, str, Any], ...]:
    return tuple((module, "holds", instead) for module in (fold, election, node_state))


def _table_without(*numbers: int) -> tuple[fold.Row, ...]:
    return tuple(row for row in fold.TABLE if row.number not in numbers)


def _no_ends_from(*numbers: int) -> tuple[tuple[Any, str, Any], ...]:
    """These rows leave the ends of a view as they are."""
    table = tuple(_keeps_its_ends(row) if row.number in numbers else row for row in fold.TABLE)
    return ((fold, "TABLE", table),)


def leads_at_once(view: View, record: Record) -> View:
    """Who goes on without a change takes its term record for one that follows."""
    assert isinstance(record, TermRecord)
    return fold._led(view, record) if record.skip != ZERO_ID else fold._led_after_rebase(view, record)


def takes_the_term_alone(view: View, record: Record) -> View:
    return fold._led_after_rebase(view, record)._replace(changed=view.changed)


def _with_row_4(become: Any) -> tuple[tuple[Any, str, Any], ...]:
    table = tuple(row._replace(become=become) if row.number == 4 else row for row in fold.TABLE)
    return ((fold, "TABLE", table),)


_begin_snapshot = node_state.NodeState.begin_snapshot


def begins_as_of_its_position(me: node_state.NodeState) -> node_state.Snapshot:
    return _begin_snapshot(me)._replace(replaces=False)


FAILOVER = Bounds(changes=1, promotions=1, failovers=1)
CRASH = Bounds(changes=1, promotions=1, crashes=1)
THREE = Bounds(changes=1, promotions=1, failovers=1, resends=0, nodes=3)
SKIP = Bounds(changes=1, promotions=1, crashes=1, resends=0, poison=3, skips=1)
FORCED_SKIP = Bounds(changes=2, promotions=0, resends=0, poison=2, skips=1, forced=True)

#: A change is written and acknowledged. Redis forgets it, and everybody knows that.
WRITTEN = ("a sends append 1-2 ", "Redis executes append 1-2 ")
ACKNOWLEDGED = (*WRITTEN, "a learns of 1-2 ")
APPLIED = (*ACKNOWLEDGED, "b reads 1-2 ")
FORGOTTEN = ("Redis fails over to a copy that lacks 1 ", "a notices run-2", "b notices run-2")

REMOVALS = {
    "rebase": Removal(
        "a primary ahead of a log that lost records goes on at its own place",
        FAILOVER,
        NoRebase,
        breaks="it goes round",
    ),
    "era": Removal(
        "the first term of a new run is above every term of earlier runs",
        Bounds(changes=1, promotions=2, failovers=1),
        patches=((replicator.log.memory_redis, "next_term", same_era),),
        breaks="G3",
    ),
    "holder": Removal(
        "a term that was taken in another run is held by nobody",
        FAILOVER,
        NoRunCheck,
        patches=_holds(holds_in_any_run),
        breaks="at rest",
    ),
    "answer": Removal(
        "the primary answers a node out of sync with a snapshot",
        FAILOVER,
        patches=((election, "owes_snapshot", owes_nothing),),
        breaks="at rest",
    ),
    "most-advanced": Removal(
        "the most advanced is the one with the newest change",
        Bounds(changes=1, promotions=2, crashes=1, failovers=1, resends=0),
        patches=((election, "most_advanced", most_advanced_by_position),),
        breaks="G5",
        after=(*ACKNOWLEDGED, "a crashes", "a restarts", "b reads 1-2 ", *FORGOTTEN),
    ),
    "boot": Removal(
        "a boot stamps only the term that it took itself", CRASH, patches=_holds(holds_in_any_boot), breaks="G4"
    ),
    "boots": Removal(
        "the same, and an append is compared with the holder's boot",
        CRASH,
        NoBootCheck,
        patches=_holds(holds_in_any_boot),
        breaks="G1",
    ),
    "log-lacks": Removal(
        "nobody leads who lacks changes that the log lost and a live node has",
        Bounds(changes=1, promotions=1, crashes=1, failovers=1, resends=0),
        patches=((election, "_lacks_what_the_log_lost", lambda *_: False),),
        breaks="G5",
    ),
    "log-changed": Removal(
        "what the log lost is told by its last change: the record of a new term is above everything",
        Bounds(changes=1, promotions=2, crashes=1, failovers=1, resends=0),
        patches=((election, "_lacks_what_the_log_lost", compared_with_the_head),),
        breaks="G5",
        after=(*APPLIED, *FORGOTTEN),
    ),
    "out-of-sync": Removal(
        "who has all the changes may lead out of sync, if the log lost what everybody has",
        Bounds(changes=1, promotions=1, crashes=1, failovers=1, resends=0),
        patches=((election, "_met_and_whole", in_sync_and_met),),
        breaks="at rest, nobody leads",
    ),
    "met": Removal(
        "nobody leads who has not read into the log's present era",
        Bounds(changes=2, promotions=2, failovers=1, resends=0),
        patches=((election, "_met_and_whole", whole_if_it_met_or_not),),
        breaks="G4",
        after=(*WRITTEN, *FORGOTTEN, "the tool sends promote b/b1 "),
    ),
    "expected-head": Removal(
        "one that is out of sync is promoted over the newest record that was seen, or not at all",
        Bounds(changes=2, promotions=2, failovers=1, resends=0),
        patches=((election, "expected_head", lambda *_: None),),
        breaks="G4",
        after=(*WRITTEN, *FORGOTTEN, "the tool sends promote b/b1 "),
    ),
    "denial": Removal(
        "the log of another run does not deny that a record was there",
        Bounds(changes=1, promotions=1, failovers=1),
        patches=((write_outcome, "find_out", found_by_place),),
        breaks="outcome",
    ),
    "connection": Removal(
        "a connection ends with the run that it was made in",
        Bounds(changes=1, promotions=1, failovers=1, late=True),
        breaks="outcome",
    ),
    "cut-complete": Removal(
        "the log is cut behind a snapshot that is complete, and not behind one that begins",
        Bounds(changes=1, promotions=0, snapshots=1, parts=2, resends=0),
        CutsBehindItself,
        breaks="G8",
    ),
    "cut-told": Removal(
        "the log says where it was cut: what was there before it does not deny",
        Bounds(changes=1, promotions=1, snapshots=2),
        CutsAndDoesNotSay,
        breaks="outcome",
    ),
    "resume": Removal(
        "who restored reads on behind what the snapshot contains, also where the log was cut behind that",
        Bounds(changes=1, promotions=0, failovers=1, snapshots=2, parts=2, resends=0),
        patches=((Progress, "resume", property(resumes_before_the_first_part)),),
        breaks="G7",
    ),
    "enough": Removal(
        "nobody leads in a new run while the nodes that are missing could be all that hold an acknowledged change",
        THREE,
        patches=((missing_nodes, "are_enough", lambda *_: True),),
        breaks="G5",
    ),
    "vouches": Removal(
        "who has reported in another run does not acknowledge any more what was written before",
        THREE,
        patches=((node_state.NodeState, "vouches", lambda *_: True),),
        breaks="G5",
    ),
    "term-first": Removal(
        "a term is on the disk of a node before the node goes by it",
        Bounds(changes=0, promotions=1, crashes=1),
        patches=((saving, "may_be_forgotten", lambda *_: True),),
        breaks="G2",
    ),
    "takes-along": Removal(
        "a term goes to the disk with all that was applied before it",
        Bounds(changes=1, promotions=1, crashes=1, failovers=1, resends=0),
        patches=((Machine, "saved_first", takes_along_nothing),),
        breaks="G4",
    ),
    "acks-of-disks": Removal(
        "a node acknowledges what is on its disk, and not what it applied",
        Bounds(changes=1, promotions=1, crashes=1, failovers=1, resends=0, nodes=3),
        patches=((Machine, "vouched", vouches_for_what_it_applied),),
        breaks="G5",
        after=(*APPLIED, "a crashes", "a restarts"),
    ),
    "numbers": Removal(
        "nobody takes a record whose numbers cannot follow",
        Bounds(changes=1, promotions=1, forgeries=1, resends=0),
        patches=((node_state, "is_beyond", lambda *_: False),),
        breaks="ends: b has 9007199254740990-2",
    ),
    "sealed": Removal(
        "nobody takes a record for which the group's key does not vouch",
        Bounds(changes=1, promotions=1, forgeries=1, resends=0),
        patches=((Machine, "opened", opens_whatever_follows),),
        breaks="numbers",
    ),
    "numbers-at-the-log": Removal(
        "a promotion does not count from a term key that cannot be right",
        Bounds(changes=1, promotions=1, forgeries=1, resends=0),
        patches=((replicator.log.memory_redis.MemoryState, "wrong_key", ""),),
        breaks="it goes round",
    ),
    "sound": Removal(
        "nobody leads whose state is given up for a snapshot, though it lacks no change",
        Bounds(changes=1, promotions=1, drifts=1, resends=0),
        patches=(
            (Heartbeat, "is_sound", property(lambda _: True)),
            (election, "_refusal_of_state", lambda *_: None),
        ),
        breaks="G6",
    ),
    "sound-again": Removal(
        "neither does it go on in the term of its boot before",
        Bounds(changes=0, promotions=1, crashes=1, drifts=1, resends=0),
        patches=((node_state.NodeState, "takes_term", takes_term_with_what_it_has),),
        breaks="G6",
    ),
    "ends-term": Removal(
        "the record of a new term brings the ends of those before it",
        Bounds(changes=0, promotions=1),
        patches=_no_ends_from(3, 5, 6),
        breaks="ends: a has 2-2",
    ),
    "ends-snapshot": Removal(
        "a rebase tells where the last term before it ended",
        FAILOVER,
        patches=((node_state, "ends_before", lambda view, term: view.ends),),
        breaks="ends: a has 1048577-3",
    ),
    "ends-rebase": Removal(
        "the holder that rebased takes the ends from its snapshot",
        FAILOVER,
        patches=_no_ends_from(10),
        breaks="ends: a has 1048577-3",
    ),
    "ends-anew": Removal(
        "a rebase that begins anew still tells where the last term before it ended",
        Bounds(changes=1, promotions=2, failovers=1, parts=2, resends=0),
        patches=_no_ends_from(11),
        breaks="ends: a has 1048577-3 1048578-6, its history 1-2",
        after=(*ACKNOWLEDGED, *FORGOTTEN),
    ),
    "ends-restore": Removal(
        "a node that restores takes the ends from the snapshot",
        FAILOVER,
        patches=_no_ends_from(8, 12),
        breaks="ends: b has 1-1 1-2",
    ),
    "ends-log": Removal(
        "the log takes the ends of a rebase: the next term record tells them",
        Bounds(changes=1, promotions=2, failovers=1, resends=0),
        LogKeepsItsEnds,
        breaks="ends: a has 1-1",
        after=(*ACKNOWLEDGED, *FORGOTTEN),
    ),
    "keys-in-apply": Removal(
        "whether a key is known is decided where its change is applied, and not only before it is written",
        Bounds(changes=2, promotions=1, resends=0, keyed=True),
        patches=((KeyedMachine, "looks_first", True), (Ledger, "once", applies_whatever_is_known)),
        breaks="G10",
    ),
    "skip-publishes-first": Removal(
        "who goes on without a change leads once the log has its state, and not at its term record",
        FORCED_SKIP,
        patches=_with_row_4(leads_at_once),
        breaks="G6",
    ),
    "skip-replaces": Removal(
        "what it publishes takes the place of the history, and is not the state at a place in that",
        SKIP,
        patches=((node_state.NodeState, "begin_snapshot", begins_as_of_its_position),),
        breaks="G6",
    ),
    "skip-is-decided": Removal(
        "it lacks nothing up to that change, once its term says so: its next boot goes on",
        SKIP._replace(nodes=1, poison=1),
        patches=_with_row_4(takes_the_term_alone),
        breaks="at rest, nobody leads",
    ),
    "skip-newest": Removal(
        "a group goes on without a change over the newest record that was seen, or not at all",
        FORCED_SKIP,
        patches=((skip, "expected_head", lambda _: None),),
        breaks="G4",
    ),
    "left-behind": Removal(
        "a change that is not in a history whose term for it is over is left behind",
        FAILOVER,
        patches=((fold, "left_behind", lambda *_: None),),
        breaks="ends: b has '' and takes 'x' for there",
    ),
}

#: One of two that guard the same thing: the other one holds alone.
HARMLESS = {
    "boot-at-the-log": Removal("an append is compared with the holder's boot", CRASH, NoBootCheck),
    "chain-at-the-log": Removal("an append is compared with the chain: ids are in order, too", CRASH, NoChainCheck),
    "connection-but-fence": Removal(
        "a connection ends with its run, but Redis compares its own run with the head's",
        Bounds(changes=1, promotions=1, failovers=1, late=True),
        KnowsItsRun,
    ),
    "fork-of-all": Removal(
        "a node saves what it applied before it copies its disk as a fork: the term that parts it from the group did",
        Bounds(changes=1, promotions=1, crashes=1, failovers=1, resends=0),
        patches=((Machine, "forked", forks_its_disk_as_it_is),),
    ),
    "stale": Removal("the reader ignores what is stale", CRASH, patches=((fold, "TABLE", _table_without(1)),)),
}
