"""A small world for the explorer: two nodes or three, a Redis, requests on their way, and all that can happen next.

Nothing is decided here. The nodes are real `NodeState`s, which fold and decide; the Redis is the real `MemoryRedis`,
whose scripts refuse and accept. This module only schedules: it says which of them could be asked to move, asks, and
writes down what became of it. What the shells do without deciding is spelled out here, and these are the rules they
keep:

 1. one write of a node is under way at a time; a record is appended first, and folded and applied after;
 2. who holds the term does not read: it folds what it wrote. Who has a write under way does not read either, before
    the fate of that write is known. Everybody else reads record by record;
 3. a reader applies what may be forgotten (`protocol/saving.py`) and saves it later, whenever it comes to it, as who
    folds its own records does. Everything else it saves in one step with the record, and with all before it. A crash
    is a kill or a power cut: it leaves what was saved;
 4. a write that has no answer may be given up once the term is lost: its client is told that nobody knows;
 5. an unanswered write is sent again, the very same record, over a new connection, which knows the run of its own time;
 6. a refused repeat is looked up in the log; the log of another run cannot deny it, nor one that was cut behind it.

A request is executed at any later time, once or never: after its sender crashed, lost its term or gave up, and after
Redis became another. An answer may be lost. A Redis that fails over becomes any of its own earlier states.

With three nodes every change waits for one standby (`applied:1`), and a node that is down, or has not noticed the
present run, is taken for dead by the others, although it may be behind a partition and live on: what it does there is
what it does before the run changes. The records do not say that somebody waits, so that readers may lag with them, too:
only what is on a disk is acknowledged, however late it gets there.

A world is a row of small integers. Servers, nodes, requests and the rest are kept once each, in an `Interned`, and
every step of one of them is computed once: worlds are many, but they are made of few parts.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import orjson

from replicator.errors import CorruptRecord, LogUnavailable
from replicator.format.ids import ORIGIN, TERM_MAX, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import FORMAT_SEALED, ChangeRecord, PartRecord, Record, TermRecord, parse, seal_change
from replicator.log.memory_redis import Entry
from replicator.protocol import election, missing_nodes, saving, skip
from replicator.protocol.fold import Verdict, View
from replicator.protocol.group import Claim, Code, GroupView, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.node_state import NodeState
from replicator.protocol.write_outcome import Next, PendingWrite, WriteOutcome
from replicator.testing import MemoryRedis, MemoryState

from .parts import (
    FORGED,
    LETTERS,
    NAMES,
    Ack,
    Bounds,
    Breach,
    Budget,
    Disk,
    Ghost,
    Interned,
    Node,
    Option,
    Promote,
    Request,
    Send,
    Sending,
    World,
    Write,
    say,
    say_ids,
    say_record,
    say_reply,
)

#: What a state has that is another one than it should be.
DRIFTED = "~"

#: What a state has in which the first change is rejected: its key, if it had one.
REJECTED = "0"

_LEADS = (Verdict.LEAD, Verdict.LEAD_AFTER_REBASE)

#: After these a state is not the one that was given up, or counts all the same.
_SETTLES = (Verdict.RESTORE, Verdict.LEAD, Verdict.LEAD_AFTER_REBASE)

#: Dead, and not for long.
SILENT_MS = 60_000


class Machine:
    """Every step of every part of a world, each computed once. One machine per exploration."""

    def __init__(
        self, bounds: Bounds, *, node_state: type[NodeState] = NodeState, redis: type[MemoryRedis] = MemoryRedis
    ) -> None:
        self.bounds = bounds
        self.node_state = node_state
        self.redis = redis(clock_ms=lambda: 0)
        self.servers: Interned[MemoryState] = Interned()
        self.nodes: Interned[Node] = Interned()
        self.requests: Interned[Request] = Interned()
        self.ghosts: Interned[Ghost] = Interned()
        self.budgets: Interned[Budget] = Interned()
        #: The servers that a server was before, in order; the chain of its head says which.
        self.history: dict[int, tuple[int, ...]] = {}
        #: What is the state at a position: a function, if G6 holds.
        self.state_at: dict[str, str] = {}
        #: The last record of each term in the history that leads to a position, counted record by record.
        self.ends_at: dict[Position, tuple[RecordId, ...]] = {ORIGIN: (ZERO_ID,)}
        for name in _COMPUTED_ONCE:
            setattr(self, name, functools.cache(getattr(self, name)))

    # --- the first world ---

    def start(self) -> World:
        """`a` took the first term, in a log that it founded, and both have read that."""
        bounds = self.bounds
        self.redis.state = MemoryState()
        writer = Writer("a", "a1")
        claim = Claim(writer=writer, floor=0, lease_ms=1, by="", reason="", new_log_id="L", applied_min=bounds.waits)
        self.redis.promote(claim)
        server = self._keep_server(self.redis.state, ())
        nodes = [self._settle(self._read(self._born(name), server)[1]) for name in bounds.names]
        ghost = Ghost((None,) * bounds.changes, frozenset(), frozenset({(1, "a1", "run-1")}))
        budget = Budget(*(getattr(bounds, name) for name in Budget._fields))
        world = World(server, tuple(map(self.nodes, nodes)), (), self.ghosts(ghost), self.budgets(budget))
        return self.tidied(world)

    def _born(self, name: str) -> Node:
        node_state = self.node_state(me=Writer(name, f"{name}1"), view=View(), run="run-1")
        fails_at = LETTERS[0] if self.bounds.poison & 1 << NAMES.index(name) else ""
        return Node(name, 1, node_state, "", (), Disk(node_state.view, "", (), f"{name}1"), fails_at=fails_at)

    # --- all steps of a world ---

    def steps(self, world: World) -> Iterator[tuple[str, World]]:
        """Everything that can happen next, and what it leads to. Raises `Breach` with the step that broke something."""
        for i, node in enumerate(world.nodes):
            for option in self.own_options(node, world.server, world.budget):
                yield option.text, self.taken(world, i, option)
            for option in self.group_options(i, world.nodes, world.server, world.budget):
                yield option.text, self.taken(world, i, option)
        for text, request, budget in self.tool_options(world.nodes, world.server, world.budget):
            yield text, world._replace(bag=_with(world.bag, request), budget=budget)
        yield from self._deliveries(world)
        if self.budgets[world.budget].drifts:
            yield from self._drifts(world, self.budgets[world.budget])
        budget_left = self.budgets[world.budget]
        if budget_left.failovers:
            yield from self._failovers(world, budget_left)
        if budget_left.forgeries:
            yield from self._forgeries(world, budget_left)

    def taken(self, world: World, i: int, option: Option) -> World:
        """The world once node `i` did that."""
        bag = world.bag if option.sends < 0 else _with(world.bag, option.sends)
        budget = world.budget if option.budget < 0 else option.budget
        ghost = world.ghost
        if option.event:
            ghost = self.observe(ghost, world.server, i, option.event)
        nodes = (*world.nodes[:i], option.node, *world.nodes[i + 1 :])
        return self.tidied(World(world.server, nodes, bag, ghost, budget))

    def tidied(self, world: World) -> World:
        """The same world without what makes no difference any more, and with what is seen in passing written down."""
        server, nodes, bag, ghost, budget = world
        if not self.budgets[budget].crashes:
            nodes = tuple(map(self.settled, nodes))
        if self.bounds.waits and (leading := tuple(filter(self.leads, nodes))):
            server = self.told(server, leading)
        if bag and not self.bounds.late:
            bag = tuple(r for r in bag if self.requests[r].run == self.servers[server].run)
        if bag and not self.budgets[budget].failovers:
            bag = tuple(r for r in bag if not self.hopeless(r, server, nodes))
        return World(server, nodes, bag, self.mark(ghost, nodes), budget)

    def leads(self, node: int) -> bool:
        node_state = self.nodes[node].node_state
        return node_state is not None and node_state.is_primary

    def told(self, server: int, leading: tuple[int, ...]) -> int:
        """Whoever leads beats: from then on the log is whole in this run. The sooner, the more is allowed."""
        self.redis.state = self.servers[server]
        for node in leading:
            self.redis.beat(self.nodes[node].live.heartbeat())
        return self._keep_server(self.redis.state, self.history[server])

    def settled(self, node: int) -> int:
        """Once nobody crashes any more, when a node saves does not matter."""
        value = self.nodes[node]
        return node if value.node_state is None else self.nodes(self._settle(value))

    def hopeless(self, request: int, server: int, nodes: tuple[int, ...]) -> bool:
        """It will be refused whenever it comes, and nobody waits for the answer: without a failover terms only grow."""
        value, state = self.requests[request], self.servers[server]
        if isinstance(value, Promote):
            late = value.expect is not None and value.expect < state.effective_term
            return late or value.run != state.run
        assert state.head is not None
        term, holder = value.record.id.term, state.head.writer
        if (term, value.record.writer, value.run) == (state.effective_term, holder, state.head.run):
            return False
        return not any(_awaits(self.nodes[node], value) for node in nodes)

    # --- requests arrive ---

    def _deliveries(self, world: World) -> Iterator[tuple[str, World]]:
        for i, request in enumerate(world.bag):
            if i and world.bag[i - 1] == request:
                continue
            yield self.delivery(world, request)

    def delivery(self, world: World, request: int) -> tuple[str, World]:
        """Redis executes the request, and the answer reaches whoever waits for it."""
        value = self.requests[request]
        server, reply, text = self.deliver(world.server, request)
        ghost = world.ghost
        if reply.code is Code.OK:
            try:
                ghost = self._written(ghost, value, reply, self.servers[server].run)
            except Breach as breach:
                raise Breach(str(breach), text) from None
        nodes = world.nodes
        if isinstance(value, Send):
            nodes = tuple(self.arrive(node, request, reply) for node in nodes)
        return text, self.tidied(World(server, nodes, _without(world.bag, request), ghost, world.budget))

    def deliver(self, server: int, request: int) -> tuple[int, Reply, str]:
        value = self.requests[request]
        self.redis.state = self.servers[server]
        if isinstance(value, Promote):
            claim = Claim(
                writer=value.writer,
                floor=value.floor,
                lease_ms=1,
                by="",
                reason=self._broken() if value.anew else "",
                expect=value.expect,
                run=value.run,
                expect_head=value.head,
                new_log_id="L" if value.anew else "",
                anew=value.anew,
                skip=value.skip,
            )
            reply = self._promoted(claim)
        elif self.redis.state.wrong_key:
            reply = Reply(Code.FENCED, term=TERM_MAX, node="")
        elif isinstance(value.record, PartRecord):
            reply = self.redis.part(value.run, value.record, rebase=value.rebase)
        else:
            reply = self.redis.append(value.run, value.record)
        after = self._keep_server(self.redis.state, (*self.history[server], self._as_copy(server)))
        return after, reply, f"Redis executes {say(value)}: {say_reply(reply)}"

    def _broken(self) -> str:
        """Of a log that is founded anew, its first record says what was there: no two histories lead to one log."""
        state = self.redis.state
        assert state.head is not None
        return f"{state.head.position} {state.last_id} {state.term}"

    def _promoted(self, claim: Claim) -> Reply:
        try:
            return self.redis.promote(claim)
        except LogUnavailable:  # the term key cannot be right
            return Reply(Code.CONFLICT)

    def arrive(self, node: int, request: int, reply: Reply) -> int:
        value, sent = self.nodes[node], self.requests[request]
        assert isinstance(sent, Send)
        if not _awaits(value, sent):
            return node
        assert value.write is not None
        return self.nodes(value._replace(write=value.write._replace(reply=reply)))

    def _written(self, ghost: int, request: Request, reply: Reply, run: str) -> int:
        """Who may write: one boot in a term (G1). Which term may be taken: one above all of earlier runs (G3)."""
        known = self.ghosts[ghost]
        if isinstance(request, Send):
            owners = {boot for term, boot, _ in known.taken if term == request.record.id.term}
            if owners != {request.record.boot}:
                raise Breach(f"G1: {request.record.boot} wrote in term {request.record.id.term} of {', '.join(owners)}")
            return ghost
        taken = (reply.term, request.writer.boot, run)
        for term, boot, in_run in known.taken:
            if reply.term == term:
                raise Breach(f"G3: term {term} was taken twice, by {boot} and {taken[1]}")
            if in_run != run and reply.term <= term:
                raise Breach(f"G3: term {reply.term} of {run} is not above term {term} of {in_run}")
        skipped = known.skipped or request.skip != ZERO_ID
        return self.ghosts(known._replace(taken=known.taken | {taken}, skipped=skipped))

    def _keep_server(self, state: MemoryState, history: tuple[int, ...]) -> int:
        _check_log(state)
        server = self.servers(replace(state, requests=(), lease=None, beats=()))
        if history and history[-1] == self._as_copy(server):
            return server
        # What a skip replaced and two snapshots cut off is not told by the log any more.
        assert self.history.setdefault(server, history) == history or self.bounds.skips
        return server

    def _as_copy(self, server: int) -> int:
        """What a copy of it has: everything but the run."""
        state = self.servers[server]
        return self.servers(replace(state, run="", head=state.head and state.head._replace(whole="")))

    # --- Redis becomes another ---

    def _failovers(self, world: World, budget: Budget) -> Iterator[tuple[str, World]]:
        left = self.budgets(budget._replace(failovers=budget.failovers - 1))
        run = f"run-{self.bounds.failovers - budget.failovers + 2}"
        history = (*self.history[world.server], self._as_copy(world.server))
        for i, copy in enumerate(history):
            lost = self.servers[world.server].last_id.n - self.servers[copy].last_id.n
            self.redis.fail_over(self.servers[copy], run=run)
            server = self._keep_server(self.redis.state, history[:i])
            known = self.ghosts[world.ghost]
            acks = tuple(
                ack and ack._replace(logged=ack.logged and self.has(server, letter) is not None)
                for letter, ack in zip(LETTERS, known.acks, strict=False)
            )
            ghost = self.ghosts(known._replace(acks=acks))
            after = World(server, world.nodes, world.bag, ghost, left)
            yield f"Redis fails over to a copy that lacks {lost} records: {run}", self.tidied(after)

    # --- somebody else writes numbers ---

    def _forgeries(self, world: World, budget: Budget) -> Iterator[tuple[str, World]]:
        left = self.budgets(budget._replace(forgeries=budget.forgeries - 1))
        history = (*self.history[world.server], self._as_copy(world.server))
        for text, state in self._forged(self.servers[world.server]):
            self.redis.state = state
            after = world._replace(server=self._keep_server(state, history), budget=left)
            yield f"somebody writes {text}", self.tidied(after)

    def _forged(self, state: MemoryState) -> Iterator[tuple[str, MemoryState]]:
        yield f"{TERM_MAX - 1} into the term key", replace(state, term=TERM_MAX - 1)
        head = state.head
        assert head is not None
        place = head.position
        for id_ in (RecordId(TERM_MAX - 1, place.id.n + 1), RecordId(place.id.term, TERM_MAX - 1)):
            before = Position(RecordId(id_.term, id_.n - 1), place.chain)
            record = seal_change(
                writer=head.writer, term=id_.term, after=before, at=0, codec="raw", digest="", count=1, body=FORGED
            )
            entry = Entry(id_, record.header, record.body)
            if id_ > state.last_id:
                yield f"record {id_}", replace(state, entries=(*state.entries, entry), last_id=id_)
        follows = RecordId(place.id.term, place.id.n + 1)
        if follows > state.last_id:
            entry = Entry(follows, sealed_by_nobody(head.writer, place), FORGED)
            yield (
                f"record {follows}, not sealed by the group's key",
                replace(state, entries=(*state.entries, entry), last_id=follows),
            )

    # --- a state turns out to be another one ---

    def _drifts(self, world: World, budget: Budget) -> Iterator[tuple[str, World]]:
        """It is found and given up in one step. A node that is promoted before it is found leads with what it has."""
        left = self.budgets(budget._replace(drifts=budget.drifts - 1))
        head = self.servers[world.server].head
        asked = {sent.writer.node for sent in map(self.requests.__getitem__, world.bag) if isinstance(sent, Promote)}
        for i, number in enumerate(world.nodes):
            node = self.nodes[number]
            if node.node_state is None or node.node_state.holds_term or node.name in asked or node.gave_up:
                continue
            if head is not None and head.writer == node.node_state.me:
                continue
            drifted = self._settle(
                node._replace(node_state=node.live.without_state(), state=node.state + DRIFTED, gave_up=True)
            )
            after = world.with_node(i, self.nodes(drifted))._replace(budget=left)
            yield f"{node.name} finds that its state is another one, and gives it up", self.tidied(after)

    # --- what a node can do by itself ---

    def own_options(self, node: int, server: int, budget: int) -> tuple[Option, ...]:
        value, left = self.nodes[node], self.budgets[budget]
        if value.node_state is None:
            restarted = self.restarted(value)
            again = Option(f"{value.name} restarts", self.nodes(restarted))
            if not value.fails_at or not left.cures:
                return (again,)
            spent = self.budgets(left._replace(cures=left.cures - 1))
            cured = self.nodes(restarted._replace(fails_at=""))
            return again, Option(f"{value.name} restarts with other code", cured, budget=spent)
        return tuple(self._own_options(value, value.node_state, server, left))

    def _own_options(self, node: Node, node_state: NodeState, server: int, left: Budget) -> Iterator[Option]:
        state = self.servers[server]
        name = node.name
        if node_state.run != state.run:
            noticed = self._tidy(node._replace(node_state=node_state.talks_to(state.run)))
            yield Option(f"{name} notices {state.run}", self.nodes(noticed))
        if node_state.holds_term:
            renewed = self.renewed(node, server)
            if renewed is not node:
                yield Option(f"{name} is refused a renewal", self.nodes(renewed))
        record = self.next_record(server, node_state.view.cursor.id)
        if node.stalled_at != ZERO_ID:
            yield from self._looks_ahead(node, server)
        elif record is not None and node_state.takes(record) and _reads(node):
            text, read = self._read(node, server)
            yield Option(text, self.nodes(read))
        if left.crashes:
            spent = self.budgets(left._replace(crashes=left.crashes - 1))
            yield Option(f"{name} crashes", self.nodes(_crashed(node)), budget=spent)
            saved = self._settle(node)
            if saved != node:
                yield Option(f"{name} saves", self.nodes(saved))
        yield from self._writes(node, node_state, state, left)

    def _writes(self, node: Node, node_state: NodeState, state: MemoryState, left: Budget) -> Iterator[Option]:
        if node.write is not None:
            if node.write.reply is not None:
                yield self._answered(node, node.write, node.write.reply, state)
            if node.write.attempt <= self.bounds.resends or node.write.last_run != state.run:
                yield self._sent_again(node, node.write, state.run)
            if not node_state.holds_term:
                yield Option(f"{node.name} gives its write up", self.nodes(node._replace(write=None, sending=None)))
            return
        if node.stalled_at != ZERO_ID:
            return
        runs = sorted({node_state.run, state.run}) if self.bounds.late else [state.run]
        if node_state.is_primary:
            yield from self._changes(node, runs, left)
        if node.live.must_rebase and node.sending is None:
            node = self._begun(node, node_state)
        if node.sending is not None:
            for run in runs:
                yield self._sent(node, *self._part(node.sending, node_state), run)
        elif node_state.is_primary and left.snapshots:
            spent = self.budgets(left._replace(snapshots=left.snapshots - 1))
            begun = self._begun(node, node_state)
            yield Option(f"{node.name} begins a snapshot because somebody asked", self.nodes(begun), budget=spent)

    def _changes(self, node: Node, runs: list[str], left: Budget) -> Iterator[Option]:
        """A primary writes one more change."""
        if left.changes:
            letter = LETTERS[self.bounds.changes - left.changes]
            spent = self.budgets(left._replace(changes=left.changes - 1))
            for run in runs:
                yield self._submitted(node, letter, run, spent)

    def submitted(self, node: int, server: int, letter: str) -> Option:
        """A client asks for one more change."""
        return self._submitted(self.nodes[node], letter, self.servers[server].run, -1)

    def _submitted(self, node: Node, letter: str, run: str, budget: int) -> Option:
        record = node.live.change(codec="raw", digest="", count=1, body=letter.encode(), at=0)
        return self._sent(node, record, False, run, budget)

    def _part(self, sending: Sending, node_state: NodeState) -> tuple[PartRecord, bool]:
        parts = len(sending.bodies)
        record = node_state.part(
            sending.snapshot,
            part=sending.part,
            parts=parts if sending.part + 1 == parts else 0,
            codec="raw",
            digest="",
            body=sending.bodies[sending.part],
            at=0,
        )
        return record, sending.snapshot.rebase

    def _looks_ahead(self, node: Node, server: int) -> Iterator[Option]:
        """A node that stalled, and what it finds in the log after the change at which it did."""
        if node.write is not None or node.live.holds_term or node.live.view.cursor.id > node.stalled_at:
            return
        ahead = skip.LookAhead(node.stalled_at)
        for entry in self.servers[server].entries:
            if entry.id <= node.stalled_at:
                continue
            record = _opened(entry)
            if record is None:
                return
            found, ahead = ahead.sees(record, node.live.me)
            if found is skip.Found.LEADS and node.live.fold(record)[0] is Verdict.LEAD_AFTER_REBASE:
                verdict, leads = self._folded(node._replace(stalled_at=ZERO_ID), record)
                text = f"{node.name} goes on without {node.stalled_at}: {verdict.value}"
                yield Option(text, self.nodes(self.saved_first(self._tidy(leads))))
                return
            if found is skip.Found.GIVES_UP:
                gives_way = node._replace(node_state=node.live.knows_over(ahead.term - 1))
                text = f"{node.name} gives its state up for {record.id}"
                yield Option(text, self.nodes(self.given_up(gives_way)))
                return

    def given_up(self, node: Node) -> Node:
        """It waits for a snapshot. One that stalled lacks some of what its view says that it has, perhaps."""
        unfit = node.unfit or node.stalled_at != ZERO_ID
        after = node._replace(node_state=node.live.without_state(), gave_up=True, stalled_at=ZERO_ID, unfit=unfit)
        return self._settle(after)

    def begun(self, node: int) -> Node:
        """A snapshot that somebody asks for."""
        value = self.nodes[node]
        return self._begun(value, value.live)

    def _begun(self, node: Node, node_state: NodeState) -> Node:
        state = node.state
        if node_state.view.skipped != ZERO_ID:
            state += REJECTED
        cuts = [i * len(state) // self.bounds.parts for i in range(self.bounds.parts + 1)]
        bodies = tuple(state[i:j].encode() for i, j in itertools.pairwise(cuts))
        return node._replace(sending=Sending(node_state.begin_snapshot(), bodies, 0))

    def _sent(self, node: Node, record: Record, rebase: bool, run: str, budget: int = -1) -> Option:
        request = Send(run, record, rebase, 1)
        pending = PendingWrite(record, node.live.view.holder.run)
        sent = node._replace(write=Write(pending, rebase, run, 1, None, run))
        return Option(f"{node.name} sends {say(request)}", self.nodes(sent), self.requests(request), budget)

    def sent_again(self, node: int, server: int) -> Option:
        """It hears nothing, however often it may have sent before."""
        value = self.nodes[node]
        assert value.write is not None
        return self._sent_again(value, value.write, self.servers[server].run)

    def _sent_again(self, node: Node, write: Write, run: str) -> Option:
        request = Send(run, write.record, write.rebase, write.attempt + 1)
        again = Write(write.pending.unanswered(), write.rebase, write.run, write.attempt + 1, None, run)
        sent = node._replace(write=again)
        text = f"{node.name} hears nothing, connects again and sends {say(request)}"
        return Option(text, self.nodes(sent), self.requests(request))

    def _answered(self, node: Node, write: Write, reply: Reply, state: MemoryState) -> Option:
        """The answer has come: what it means, the pending write says; what is in the log is folded and applied."""
        pending = self._settled(write.pending.answered(reply), state)
        outcome = pending.outcome
        assert outcome is not None
        text = f"{node.name} learns of {say_record(write.record)}: {outcome.value}"
        is_change = isinstance(write.record, ChangeRecord)
        sending = node.sending if is_change else _next_part(node.sending, outcome)
        letter = write.record.body.decode()
        told = self.outcome(node.state, letter)[1] if is_change and outcome is WriteOutcome.COMMITTED else letter
        node = node._replace(node_state=node.live.refused(reply), write=None, sending=sending)
        if pending.next is Next.FOLD:
            verdict, node = self._folded(node, write.record)
            text += f", {verdict.value}" if node.stalled_at == ZERO_ID else ", and stalls"
        event = _EVENTS.get(outcome) if is_change else None
        stalls = node.stalled_at != ZERO_ID
        known = (event, told, write.record.id) if event and letter in LETTERS and not stalls else None
        return Option(text, self.nodes(self._tidy(node)), event=known)

    def _settled(self, pending: PendingWrite, state: MemoryState) -> PendingWrite:
        if pending.next is not Next.LOOK:
            return pending
        self.redis.state = state
        entry = _entry(state, pending.record.id)
        there = self.opened(entry) if entry else None
        return pending.looked(there, self._looked())

    def entry(self, server: int, id: RecordId) -> Entry | None:
        return _entry(self.servers[server], id)

    def renewed(self, node: Node, server: int) -> Node:
        """After it tried to renew its lease."""
        self.redis.state = self.servers[server]
        if self.redis.state.wrong_key:
            return node  # it does not try
        reply = self.redis.renew(node.live.me, node.live.view.term, 1)
        return node if reply.code is Code.OK else self._tidy(node._replace(node_state=node.live.refused(reply)))

    # --- what it does because of others ---

    def group_options(self, i: int, nodes: tuple[int, ...], server: int, budget: int) -> tuple[Option, ...]:
        value, left = self.nodes[nodes[i]], self.budgets[budget]
        if value.node_state is None:
            return ()
        return tuple(self._group_options(value, value.node_state, i, nodes, server, left))

    def _group_options(
        self, node: Node, node_state: NodeState, i: int, nodes: tuple[int, ...], server: int, left: Budget
    ) -> Iterator[Option]:
        if node.stalled_at != ZERO_ID:
            return
        look = self.look(server, nodes)
        if node.write is None and node.sending is None and node_state.owes_snapshot(look.heartbeats.values()):
            begun = self._begun(node, node_state)
            yield Option(f"{node.name} begins a snapshot because it owes one", self.nodes(begun))
        if left.promotions and node_state.run == look.run:
            promote = self.own_promotion(node_state, look)
            if promote:
                spent = self.budgets(left._replace(promotions=left.promotions - 1))
                yield Option(f"{node.name} sends {say(promote)}", nodes[i], self.requests(promote), spent)

    def own_promotion(self, node_state: NodeState, look: GroupView) -> Promote | None:
        """Whether it promotes itself, after it has beaten long enough: when exactly it beats makes no difference."""
        me = look.heartbeats.get(node_state.me.node)
        if not node_state._replace(beats_in_run=2).takes_term(look, gave_up=me is not None and me.given_up != ""):
            return None
        return Promote(
            node_state.me,
            max(node_state.view.term, election.newest_term(look)),
            look.run,
            look.term,
            election.expected_head(node_state.view, look),
        )

    def tool_options(self, nodes: tuple[int, ...], server: int, budget: int) -> tuple[tuple[str, int, int], ...]:
        left = self.budgets[budget]
        return (*self._promotions(nodes, server, left), *self._skips(nodes, server, left))

    def _skips(self, nodes: tuple[int, ...], server: int, left: Budget) -> tuple[tuple[str, int, int], ...]:
        if not left.skips:
            return ()
        spent = self.budgets(left._replace(skips=left.skips - 1))
        skips = [self.tool_skip(server, nodes, name) for name in self.bounds.names]
        return tuple((f"the tool sends {say(each)}", self.requests(each), spent) for each in skips if each)

    def tool_skip(self, server: int, nodes: tuple[int, ...], target: str) -> Promote | None:
        """What the tool sends to have the group go on without its last change, if it does not refuse."""
        look = self.look(server, nodes)
        if look.head is None:
            return None
        change = look.head.changed
        records = _records(self.servers[server])
        after = [record for record in records if record.id >= change]
        if skip.obstacle(change, target, look, after, force=self.bounds.forced):
            return None
        heartbeat = look.heartbeats[target]
        return Promote(
            Writer(heartbeat.node, heartbeat.boot),
            election.newest_term(look),
            look.run,
            look.term,
            skip.expected_head(look),
            skip=change,
        )

    def _promotions(self, nodes: tuple[int, ...], server: int, left: Budget) -> tuple[tuple[str, int, int], ...]:
        if not left.promotions:
            return ()
        spent = self.budgets(left._replace(promotions=left.promotions - 1))
        promotes = [self.tool_promotion(self.look(server, nodes), name) for name in self.bounds.names]
        return tuple((f"the tool sends {say(p)}", self.requests(p), spent) for p in promotes if p)

    def tool_promotion(self, look: GroupView, target: str) -> Promote | None:
        """What the tool sends to promote `target`, if it does not refuse."""
        if target not in look.heartbeats or election.refusal(target, look) is not None:
            return None
        heartbeat = look.heartbeats[target]
        expect = look.term if self.bounds.expects else None
        return Promote(
            Writer(heartbeat.node, heartbeat.boot),
            election.newest_term(look),
            look.run,
            expect,
            election.expected_head(heartbeat, look),
        )

    def look(self, server: int, nodes: tuple[int, ...]) -> GroupView:
        self.redis.state = self.servers[server]
        heartbeats = [self.heartbeat(node, self.redis.state.run) for node in nodes]
        return self._looked()._replace(heartbeats={heartbeat.node: heartbeat for heartbeat in heartbeats if heartbeat})

    def _looked(self) -> GroupView:
        try:
            return self.redis.look()
        except LogUnavailable as marred:
            return cast(GroupView, marred.look)

    def recovery(self, look: GroupView) -> Promote | None:
        """What the tool sends to mend a log that is broken."""
        name = election.most_advanced_holder(look.heartbeats.values(), "L") if election.broken(look) else None
        if name is None or not missing_nodes.are_enough(look.heartbeats[name], look):
            return None
        heartbeat = look.heartbeats[name]
        return Promote(Writer(*heartbeat[:2]), election.floor_of(heartbeat, look), look.run, look.term, None, anew=True)

    def heartbeat(self, node: int, run: str) -> Heartbeat | None:
        """Its last heartbeat."""
        value = self.nodes[node]
        if self.bounds.waits and (value.node_state is None or value.node_state.run != run):
            return Heartbeat(value.name, "", age_ms=SILENT_MS)
        if value.node_state is None:
            return None
        given_up, stalled_at = "it drifted" if value.gave_up else "", value.stalled_at
        stalled = f"at {stalled_at}" if stalled_at != ZERO_ID else ""
        return value.node_state.heartbeat()._replace(given_up=given_up, stalled=stalled, stalled_at=stalled_at)

    # --- a node and a record ---

    def next_record(self, server: int, after: RecordId) -> Record | None:
        for entry in self.servers[server].entries:
            if entry.id > after:
                return self.opened(entry)
        return None

    def opened(self, entry: Entry) -> Record | None:
        """None: the group's key does not vouch for it. For readers the log ends there, until it is founded anew."""
        return _opened(entry)

    def _read(self, node: Node, server: int) -> tuple[str, Node]:
        record = self.next_record(server, node.live.view.cursor.id)
        assert record is not None
        verdict, after = self._folded(node, record)
        after = self._tidy(after)
        if not saving.may_be_forgotten(record, verdict, node.live.view, after.live.view):
            after = self.saved_first(after)
        return f"{node.name} reads {say_record(record)}: {verdict.value}", after

    def _folded(self, node: Node, record: Record) -> tuple[Verdict, Node]:
        """Fold one record and carry the verdict out. Here G2 is checked: nothing of a lower term, and never back."""
        before = node.live
        verdict, node_state = before.fold(record)
        if node_state.view.term < before.view.term:
            raise Breach(f"G2: {node.name} goes back from term {before.view.term} to {node_state.view.term}")
        if verdict is Verdict.APPLY and node.fails_at and record.body.decode() == node.fails_at:
            return verdict, node._replace(stalled_at=record.id, sending=None)
        if node.unfit and verdict in _LEADS and node_state.view.term > node_state.over:
            return verdict, node._replace(stalled_at=record.id, sending=None)
        if node_state.view.position == record.position:
            if before.view.position == record.position:
                raise Breach(f"G7: {node.name} reads {record.id} once more, which is in its state")
            self._keep_ends(before.view.position, record)
        parts = _collected(node, node_state.view, record)
        state = node.state
        if verdict is Verdict.APPLY:
            if record.id.term < before.view.term:
                raise Breach(f"G2: {node.name} applies {record} in term {before.view.term}")
            state, _ = self.outcome(state, record.body.decode())
        if verdict is Verdict.RESTORE:
            self._check_fork(node, node_state.view)
            state = b"".join(parts).decode()
        view = node_state.view
        parts = () if view.snapshot and view.snapshot.complete else parts
        # What leads counts, whatever it was; and a snapshot took the place of what was restored.
        gave_up = node.gave_up and verdict not in _SETTLES
        unfit = node.unfit and verdict is not Verdict.RESTORE
        return verdict, node._replace(node_state=node_state, state=state, parts=parts, gave_up=gave_up, unfit=unfit)

    def outcome(self, state: str, letter: str) -> tuple[str, str]:
        """What a change makes of a state, and what its client is told."""
        return state + letter, letter

    def _check_fork(self, node: Node, after: View) -> None:
        """G9: before another history takes the place of its own, a node copies its disk, which has all of that."""
        before = node.live.view
        parted = before.changed != ZERO_ID and after.left_behind(before.changed) is not None
        if parted and (fork := self.forked(node).state) != node.state:
            raise Breach(f"G9: {node.name} had {node.state!r}, and keeps {fork!r} in its fork")

    def saved_first(self, node: Node) -> Node:
        """What must not be forgotten takes along to the disk all that was applied before."""
        return self._settle(node)

    def forked(self, node: Node) -> Disk:
        """What it keeps: it saves what it applied before."""
        return self._settle(node).disk

    def _settle(self, node: Node) -> Node:
        """Its checkpoint has all that it has."""
        node_state = node.live
        return node._replace(disk=Disk(node_state.view, node.state, node.parts, node_state.me.boot))

    def restarted(self, node: Node) -> Node:
        boots = node.boots + 1
        disk = node.disk
        node_state = self.node_state(
            me=Writer(node.name, f"{node.name}{boots}"), view=disk.view, previous_boot=disk.boot
        )
        fails_at, gave_up, unfit = node.fails_at, node.gave_up, node.unfit
        return Node(
            node.name, boots, node_state, disk.state, disk.parts, disk, gave_up=gave_up, fails_at=fails_at, unfit=unfit
        )

    def _tidy(self, node: Node) -> Node:
        """Without what makes no difference any more."""
        node_state = node.live
        if node_state.over and node_state.over < node_state.view.term:
            node = node._replace(node_state=node_state._replace(over=0))
        if node.sending and (not node_state.holds_term or node.sending.snapshot.term != node_state.view.term):
            node = node._replace(sending=None)
        return node

    # --- what must hold ---

    def newcomer(self, server: int, fails_at: str) -> Node:
        """G8: what a node that has nothing makes of the log alone."""
        node_state = self.node_state(me=Writer("z", "z1"), view=View())
        node = Node("z", 1, node_state, "", (), Disk(View(), "", (), "z1"), fails_at=fails_at)
        while self.next_record(server, node.live.view.cursor.id) is not None:
            if node.stalled_at == ZERO_ID:
                node = self._read(node, server)[1]
                continue
            ahead = next(self._looks_ahead(node, server), None)
            node = self.nodes[ahead.node] if ahead else self.given_up(node)  # somebody rebuilds it
        return node

    def has(self, server: int, letter: str) -> RecordId | None:
        """The first record by which its log has, or had before it was trimmed, this change."""
        known = (*self.history[server], server)
        entries = (entry for number in known for entry in self.servers[number].entries)
        return next((entry.id for entry in entries if entry.body == letter.encode()), None)

    def observe(self, ghost: int, server: int, i: int, event: tuple[str, str, RecordId]) -> int:
        """A client got an answer."""
        what, letter, id_ = event
        known = self.ghosts[ghost]
        if what == "denied":
            return self.ghosts(known._replace(denied=known.denied | {letter}))
        acks = list(known.acks)
        since = self.has(server, letter)
        acks[LETTERS.index(letter)] = Ack(i, self.servers[server].run, id_, since or id_, since is not None, False)
        return self.ghosts(known._replace(acks=tuple(acks)))

    def mark(self, ghost: int, nodes: tuple[int, ...]) -> int:
        """Which acknowledged changes are on the disks of as many nodes now as their clients wait for."""
        known = self.ghosts[ghost]
        disks = [self.vouched(self.nodes[node]) for node in nodes]

        def is_held(ack: Ack, letter: str) -> bool:
            others = any(letter in disk for i, disk in enumerate(disks) if i != ack.by)
            if not self.bounds.waits:
                return others
            writer = self.nodes[nodes[ack.by]].node_state
            return others and letter in disks[ack.by] and writer is not None and writer.vouches(ack.id.term)

        acks = tuple(
            ack and (ack if ack.held or not is_held(ack, letter) else ack._replace(held=True))
            for letter, ack in zip(LETTERS, known.acks, strict=False)
        )
        return ghost if acks == known.acks else self.ghosts(known._replace(acks=acks))

    def vouched(self, node: Node) -> str:
        """What a node acknowledges to those that wait for its disk."""
        return node.disk.state

    def check(self, ghost: int, nodes: tuple[int, ...]) -> None:
        """What must hold in every world, besides what every step checks for itself."""
        for node in nodes:
            self.check_states(node)
            self.check_ends(node)
            self.check_acknowledged(ghost, node)
            self.check_leader(ghost, node)
            self.check_survives(ghost, nodes, node)

    def check_survives(self, ghost: int, nodes: tuple[int, ...], leader: int) -> None:
        """G5: what was acknowledged as `applied:1` is there while a node that holds it lives."""
        value = self.nodes[leader]
        if not self.bounds.waits or value.node_state is None or not value.node_state.is_primary:
            return
        for letter, ack in zip(LETTERS, self.ghosts[ghost].acks, strict=False):
            if letter == LETTERS[0] and self.ghosts[ghost].skipped:
                continue
            lacks = ack and ack.held and letter not in value.state and _is_later(value.node_state.view, ack)
            having = [
                node.name
                for node in map(self.nodes.__getitem__, nodes)
                if node.node_state and letter in node.disk.state
            ]
            if lacks and having:
                raise Breach(f"G5: {value.name} leads without {letter!r}, which {having[0]} has on its disk")

    def check_states(self, node: int) -> None:
        """G6, over everything that was ever reached: what the state is, is a function of the position."""
        value = self.nodes[node]
        if value.gave_up:
            return  # and it says so
        views = [(value.disk.view, value.disk.state)]
        if value.node_state:
            views.append((value.node_state.view, value.state))
        for view, state in views:
            known = self.state_at.setdefault(view.position.chain, state)
            if known != state:
                raise Breach(f"G6: {value.name} has {state!r} at {view.position.id}, another node {known!r}")

    def check_ends(self, node: int) -> None:
        """What a node in sync takes for the ends of the terms in its history are those."""
        for view in self._views(node):
            if view.in_sync:
                told, true = (*view.ends, view.position.id), self.ends_at[view.position]
                if tuple(dict.fromkeys(told)) != true:
                    raise Breach(f"ends: {self.nodes[node].name} has {say_ids(told)}, its history {say_ids(true)}")

    def check_acknowledged(self, ghost: int, node: int) -> None:
        """A node in sync knows of a change that was acknowledged whether its history has it, or may still get it."""
        for view in self._views(node):
            if not view.in_sync or view.position == ORIGIN:
                continue
            state = self.state_at[view.position.chain]
            for letter, ack in zip(LETTERS, self.ghosts[ghost].acks, strict=False):
                if ack and ack.id.term < view.term:
                    behind = view.left_behind(ack.id) is not None
                    if behind == (letter in state):
                        says = "left behind" if behind else "there"
                        raise Breach(f"ends: {self.nodes[node].name} has {state!r} and takes {letter!r} for {says}")

    def _views(self, node: int) -> list[View]:
        """On its disk, and in its memory if it is up."""
        value = self.nodes[node]
        return [value.disk.view, *([value.node_state.view] if value.node_state else [])]

    def _keep_ends(self, before: Position, record: Record) -> None:
        if record.prev != before.chain:  # it restores what replaced the history; its author counts
            assert isinstance(record, PartRecord | TermRecord)
            ends = record.ends
            assert self.ends_at.setdefault(record.position, (*ends, record.id)) == (*ends, record.id)
            return
        ends = tuple(end for end in self.ends_at[before] if 0 < end.term < record.id.term)
        assert self.ends_at.setdefault(record.position, (*ends, record.id)) == (*ends, record.id)

    def check_leader(self, ghost: int, node: int) -> None:
        """G4 and G5: a primary has what was acknowledged in its term or before; it has nothing that was denied."""
        value, known = self.nodes[node], self.ghosts[ghost]
        if value.node_state is None or not value.node_state.is_primary:
            return
        for letter, ack in zip(LETTERS, known.acks, strict=False):
            if letter == LETTERS[0] and known.skipped:
                continue  # an operator has had the group go on without it
            must = ack and (ack.logged or (ack.held and not self.bounds.waits))
            if ack and must and letter not in value.state and _is_later(value.node_state.view, ack):
                which = "G4" if ack.logged else "G5"
                raise Breach(f"{which}: {value.name} leads without {letter!r}, which was acknowledged")
        if FORGED.decode() in value.state:
            raise Breach(f"numbers: {value.name} leads with what somebody else wrote")
        for letter in known.denied:
            if letter in value.state:
                raise Breach(f"outcome: {value.name} leads with {letter!r}, of which the client was told it is not in")


_COMPUTED_ONCE = (
    "next_record", "heartbeat", "look", "deliver", "arrive", "own_options", "group_options", "tool_options",
    "newcomer", "hopeless", "settled", "has", "observe", "mark", "check", "check_states", "check_ends",
    "check_acknowledged", "check_leader", "check_survives", "leads", "told",
)  # fmt: skip

_EVENTS = {WriteOutcome.COMMITTED: "acknowledged", WriteOutcome.REFUSED: "denied", WriteOutcome.REBASE: "denied"}

_parsed = functools.cache(parse)


def sealed_by_nobody(writer: Writer, after: Position) -> bytes:
    """The header of a change that follows in all that the log and the fold look at. Its body no key opens."""
    change = seal_change(
        writer=writer, term=after.id.term, after=after, at=0, codec="raw", digest="", count=1, body=FORGED
    )
    told = orjson.loads(change.header)
    del told["digest"]
    return orjson.dumps(told | {"v": FORMAT_SEALED})


def _opened(entry: Entry) -> Record | None:
    try:
        return _parsed(str(entry.id), entry.header, entry.body)
    except CorruptRecord:
        return None


def _records(state: MemoryState) -> list[Record]:
    """All that are ours."""
    return [record for record in map(_opened, state.entries) if record is not None]


def _check_log(state: MemoryState) -> None:
    """G8: a complete snapshot and all that came after it, or everything since the beginning, at every moment."""
    records = _records(state)
    parts = [record for record in records if isinstance(record, PartRecord)]
    complete = [last.as_of for last in parts if last.is_last and _have_first(parts, last)]
    first = records[0].id
    if first.n > 1 and not any(as_of.id.n + 1 >= first.n for as_of in complete):
        raise Breach(f"G8: the log begins at {first}, and has all since {say_ids(at.id for at in complete) or 'none'}")


def _entry(state: MemoryState, id: RecordId) -> Entry | None:
    return next((entry for entry in state.entries if entry.id == id), None)


def _have_first(parts: list[PartRecord], last: PartRecord) -> bool:
    """A trim cuts a prefix: if the first part of its snapshot is there, so are the others."""
    return any(part.part == 0 and part.as_of == last.as_of and part.writer == last.writer for part in parts)


def _reads(node: Node) -> bool:
    return node.write is None and not node.live.holds_term


def _awaits(node: Node, sent: Send) -> bool:
    write = node.write
    if node.node_state is None or write is None or write.reply is not None:
        return False
    return write.attempt == sent.attempt and write.record.chain == sent.record.chain


def _is_later(view: View, ack: Ack) -> bool:
    """The term was taken after the change that was acknowledged was in the log, or is that very one.

    The answer may come late: Redis lost the change, somebody took a term without it, and another node put it back. Who
    took the term in between was no later primary.
    """
    return view.holder.run >= ack.run and view.term >= ack.since.term


def _crashed(node: Node) -> Node:
    if node.disk.view.term < node.live.view.term:
        raise Breach(f"G2: the disk of {node.name} has term {node.disk.view.term}, it has seen {node.live.view.term}")
    # What had stalled is made anew from the disk at the next start: but for what it says, that is as good as before.
    fails_at, unfit = node.fails_at, node.unfit and node.gave_up
    return Node(node.name, node.boots, None, "", (), node.disk, gave_up=node.gave_up, fails_at=fails_at, unfit=unfit)


def _next_part(sending: Sending | None, outcome: WriteOutcome) -> Sending | None:
    if sending is None or outcome is not WriteOutcome.COMMITTED or sending.part + 1 == len(sending.bodies):
        return None
    return sending._replace(part=sending.part + 1)


def _collected(node: Node, view: View, record: Record) -> tuple[bytes, ...]:
    """The bodies of the snapshot that passes by, as far as it has no gap."""
    if view.snapshot is None:
        return ()
    if not isinstance(record, PartRecord) or record.id.term < view.term:
        return node.parts
    parts = (record.body,) if record.part == 0 else (*node.parts, record.body)
    assert len(parts) == view.snapshot.next_part
    return parts


def _with(bag: tuple[int, ...], request: int) -> tuple[int, ...]:
    return tuple(sorted((*bag, request)))


def _without(bag: tuple[int, ...], request: int) -> tuple[int, ...]:
    at = bag.index(request)
    return bag[:at] + bag[at + 1 :]
