"""Tells a story to a group of nodes, command by command, and writes down what they do.

A node here is a `NodeState`, the log of a `World`, and a list of values as its state: nothing decides but the real fold
and the real decisions, and nothing waits. After every command each node that is up, not paused and not waiting for an
answer reads all there is, and one line tells the verdicts. `help(Driver)` lists the commands; in a command line the
first word that is the name of a node may stand before the verb.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from replicator.format.codec import SnapshotDecoder, SnapshotEncoder, decode_changes, encode_change, encode_changes
from replicator.format.ids import ZERO_ID, Position, RecordId, Writer
from replicator.format.records import ChangeRecord, PartRecord, Record, TermRecord, seal_change
from replicator.log.interface import Log
from replicator.protocol import election
from replicator.protocol.fold import Verdict, View
from replicator.protocol.group import Claim, Code, GroupView, Reply
from replicator.protocol.node_state import NodeState, Snapshot
from replicator.protocol.write_outcome import Next, PendingWrite
from tests.support.worlds import CLOCK_ID, LEASE_MS, LOG_ID, World

#: Older than any node that lives.
DEAD_MS = 1_000_000


@dataclasses.dataclass
class Pending:
    """A write whose answer did not come."""

    write: PendingWrite
    send: Callable[[], Reply]


@dataclasses.dataclass
class Sending:
    """A snapshot under way."""

    snapshot: Snapshot
    bodies: list[bytes]
    digest: str
    sent: int = 0


class Node:
    """One node: what it has in memory, and what it has on disk."""

    def __init__(self, name: str, log: Log) -> None:
        self.name = name
        self.log = log
        self.boots = 1
        self.node_state = NodeState(me=Writer(name, f"{name}1"), view=View())
        self.state: list[Any] = []
        self.parts: list[bytes] = []
        self.up = True
        self.paused = False
        self.holding = False
        self.pending: Pending | None = None
        self.sending: Sending | None = None
        self.verdicts: list[str] = []
        self.named: set[str] = set()

    @property
    def reads(self) -> bool:
        return self.up and not self.paused and self.pending is None

    def read(self) -> None:
        """Fold everything that the log has for it."""
        while True:
            batch = self.log.read(self.node_state.view.cursor.id, count=1000)
            for record in batch.records:
                if self.fold(record) is Verdict.RESTORE:
                    break  # reading goes on from another place
            else:
                if batch.corrupt is not None and batch.corrupt.fields["id"] not in self.named:
                    self.named.add(batch.corrupt.fields["id"])
                    self.verdicts.append(f"CorruptRecord({batch.corrupt.fields['id']})")
                return

    def fold(self, record: Record) -> Verdict:
        verdict, self.node_state = self.node_state.fold(record)
        self.verdicts.append(verdict.name.title().replace("_", ""))
        if isinstance(record, PartRecord):
            self._keep(record)
        if verdict is Verdict.APPLY and isinstance(record, ChangeRecord):
            self.state = self.state + decode_changes(
                record.codec, record.body, record.digest, record.count, id_=str(record.id)
            )
        if verdict is Verdict.RESTORE and isinstance(record, PartRecord):
            decoder = SnapshotDecoder(record.codec, record.digest, id_=str(record.id))
            self.state = list(decoder.pieces(self.parts))
        return verdict

    def _keep(self, record: PartRecord) -> None:
        if self.node_state.view.snapshot is None:
            self.parts = []
        elif record.part == 0:
            self.parts = [record.body]
        else:
            self.parts = [*self.parts, record.body]

    def restart(self, *, wiped: bool) -> None:
        """A new boot, with the checkpoint of the one before."""
        self.boots += 1
        before = "" if wiped else self.node_state.me.boot
        if wiped:
            self.state, self.parts = [], []
        view = View() if wiped else self.node_state.view
        self.node_state = NodeState(me=Writer(self.name, f"{self.name}{self.boots}"), view=view, previous_boot=before)
        self.up, self.paused, self.pending, self.sending = True, False, None, None

    def look(self) -> GroupView:
        look = self.log.look()
        self.node_state = self.node_state.talks_to(look.run)
        return look

    def __str__(self) -> str:
        if not self.up:
            return f"{self.name} is down"
        node_state, view = self.node_state, self.node_state.view
        words = [
            self.name,
            "primary" if node_state.is_primary else "standby",
            f"term={view.term}",
            str(view.position.id),
        ]
        words.append(f"[{' '.join(map(str, self.state))}]")
        words += [word for word, holds in (("out of sync", not view.in_sync),) if holds]
        return " ".join(words)


class Driver:
    """Each public method is a command; its name with spaces, and what follows it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._tool = world.log()
        self._nodes: dict[str, Node] = {}
        self._copy: object = None
        self._loses_reply = False
        self._late: list[Pending] = []
        self._runs: list[str] = []

    def do(self, command: str) -> list[str]:
        """Carry out one line; the lines that it says."""
        words = command.split()
        node = self._nodes.get(words[0])
        rest = words[1:] if node else words
        for length in range(len(rest), 0, -1):
            name = "_".join(rest[:length])
            method = None if name.startswith("_") or name == "do" else getattr(self, name, None)
            if method is not None:
                lines = list(method(*([node] if node else []), *rest[length:]) or [])
                return lines + self._verdicts()
        raise ValueError(f"there is no command {command!r}")

    def _verdicts(self) -> list[str]:
        told = []
        for node in self._nodes.values():
            if node.reads:
                node.read()
            if node.verdicts:
                told.append(f"{node.name} {' '.join(node.verdicts)}")
                node.verdicts = []
        return ["   ".join(told)] if told else []

    # --- the group ---

    def nodes(self, *names: str) -> list[str]:
        """nodes a b: they start for the first time."""
        for name in names:
            self._nodes[name] = Node(name, self._world.log())
            self._nodes[name].look()
        return self.status()

    def status(self) -> list[str]:
        return [str(node) for node in self._nodes.values()]

    def log(self) -> list[str]:
        """What the log has."""
        batch = self._tool.read(ZERO_ID, count=1000)
        lines = [_told(record) for record in batch.records]
        return lines + ([f"{batch.corrupt.fields['id']} is not a record"] if batch.corrupt else [])

    def pause(self, name: str) -> None:
        """pause a: it reads nothing by itself; what it is told to do it does with what it knows."""
        self._nodes[name].paused = True

    def resume(self, name: str) -> None:
        self._nodes[name].paused = False

    def crash(self, name: str) -> None:
        self._nodes[name].up = False

    def restart(self, name: str, *how: str) -> list[str]:
        """restart a [as standby] [wiped]: a new boot; it takes a new term if the boot before held the present one."""
        node = self._nodes[name]
        node.restart(wiped="wiped" in how)
        look = self._seen(node)
        if node.node_state.takes_term(look, restart_as_primary="standby" not in how):
            return self._takes_term(node, look)
        return []

    def heartbeat(self) -> list[str]:
        """Every node looks, reports, and does what it owes."""
        up = [node for node in self._nodes.values() if node.up and not node.paused]
        for node in up:
            node.look()
            node.log.beat(node.node_state.heartbeat())
            node.node_state = node.node_state.beaten()
        lines = []
        for node in up:
            look = self._seen(node)
            if node.node_state.takes_term(look):
                lines += self._takes_term(node, look)
            elif node.node_state.must_rebase or node.node_state.owes_snapshot(look.heartbeats.values()):
                lines += self.snapshot(node)
        return lines

    def _seen(self, node: Node) -> GroupView:
        """What it sees, with a clock of our own: the dead are dead at once."""
        look = node.look()
        ages = {name: 0 if self._nodes[name].up else DEAD_MS for name in look.heartbeats}
        return look._replace(
            heartbeats={name: heartbeat._replace(age_ms=ages[name]) for name, heartbeat in look.heartbeats.items()}
        )

    def _takes_term(self, node: Node, look: GroupView) -> list[str]:
        claim = Claim(
            writer=node.node_state.me,
            floor=election.newest_term(look),
            expect=look.term,
            run=look.run,
            expect_head=election.expected_head(node.node_state.view, look),
            lease_ms=LEASE_MS,
            by=node.name,
            reason="by itself",
        )
        reply = node.log.promote(claim)
        return [f"{node.name} takes a term: {self._answer(reply)}"]

    # --- promotions ---

    def promote(self, name: str, *how: str) -> list[str]:
        """promote b [expect N]: whatever it loses."""
        node = self._nodes[name]
        node.look()
        claim = Claim(
            writer=node.node_state.me,
            floor=node.node_state.view.term,
            expect=int(how[1]) if how else None,
            lease_ms=LEASE_MS,
            by="tool",
            reason="story",
            new_log_id="" if any(each.node_state.view.log_id for each in self._nodes.values()) else LOG_ID,
        )
        reply = self._tool.promote(claim)
        return [self._answer(reply)]

    def tool_promote(self, name: str) -> list[str]:
        """tool promote b: as the tools do it, which refuse what would lose something."""
        refusal = election.refusal(name, self._seen(self._nodes[name]))
        if refusal is None:
            return self.promote(name)
        return [f"refused: {refusal.reason}"] + ([f"better: {refusal.better}"] if refusal.better else [])

    def _answer(self, reply: Reply) -> str:
        if reply.code is Code.OK and reply.term:
            record = self._tool.find(reply.id)
            return f"{reply.id} term {record.node if record else '?'}"
        match reply.code:
            case Code.OK:
                return f"ok {reply.id}"
            case Code.FENCED:
                return f"fenced: {reply.node} holds term {reply.term}"
            case Code.CONFLICT:
                return f"conflict: {reply.node} holds term {reply.term}"
            case Code.DUPLICATE | Code.BEHIND | Code.STRAY:
                return f"{reply.code.value} {reply.id}"
            case _:
                return reply.code.value

    # --- writes ---

    def submit(self, node: Node, *values: str) -> list[str]:
        """a submit x y: one record with these changes."""
        if not node.node_state.is_primary:
            return ["not the primary"]
        codec, body, digest = encode_changes(map(encode_change, values))
        record = node.node_state.change(codec=codec, digest=digest, count=len(values), body=body, at=0)
        return self._write(node, record, lambda: node.log.append(record))

    def snapshot(self, node: Node, *how: str) -> list[str]:
        """a snapshot [of 3 parts] [sends 2]: the parts that are left go with `a goes on`."""
        return self._snapshot(node, how, node.state, replaces=False)

    def load(self, node: Node, *values: str) -> list[str]:
        """a load x y: a snapshot that takes the place of the history."""
        return self._snapshot(node, (), list(values), replaces=True)

    def _snapshot(self, node: Node, how: tuple[str, ...], pieces: list[Any], *, replaces: bool) -> list[str]:
        if not node.node_state.holds_term:
            return ["it does not hold the term"]
        parts = _number(how, "of", 1)
        encoder = SnapshotEncoder()
        data = b"".join([*map(encoder.feed, pieces), encoder.finish()])
        bodies = [data[i * len(data) // parts : (i + 1) * len(data) // parts] for i in range(parts)]
        node.sending = Sending(node.node_state.begin_snapshot(replaces=replaces), bodies, encoder.digest)
        return self.goes_on(node, *how)

    def goes_on(self, node: Node, *how: str) -> list[str]:
        """a goes on [sends 2]: with the snapshot that it began."""
        sending = node.sending
        assert sending is not None
        lines: list[str] = []
        for _ in range(min(_number(how, "sends", len(sending.bodies)), len(sending.bodies) - sending.sent)):
            if not node.node_state.holds_term or node.node_state.view.term != sending.snapshot.term:
                return [*lines, "the snapshot is broken off"]
            lines += self._part(node, sending)
            sending.sent += 1
        return lines

    def _part(self, node: Node, sending: Sending) -> list[str]:
        parts = len(sending.bodies)
        record = node.node_state.part(
            sending.snapshot,
            part=sending.sent,
            parts=parts if sending.sent + 1 == parts else 0,
            codec="json+zstd",
            digest=sending.digest,
            body=sending.bodies[sending.sent],
            at=0,
        )
        return self._write(node, record, lambda: node.log.part(record, rebase=sending.snapshot.rebase))

    def _write(self, node: Node, record: ChangeRecord | PartRecord, send: Callable[[], Reply]) -> list[str]:
        write = PendingWrite(record, node.node_state.view.holder.run)
        if node.holding:
            node.holding = False
            node.pending = Pending(write.unanswered(), send)
            self._late.append(node.pending)
            return ["no answer"]
        reply = send()
        if self._loses_reply:
            self._loses_reply = False
            node.pending = Pending(write.unanswered(), send)
            return ["no answer"]
        return self._took(node, write.answered(reply))

    def _took(self, node: Node, write: PendingWrite) -> list[str]:
        reply, record = write.reply, write.record
        assert reply is not None
        node.node_state = node.node_state.refused(reply)
        if write.next is Next.LOOK:
            there = node.log.find(record.id)
            write = write.looked(there, node.log.look())
        if write.next is Next.FOLD and reply.code in (Code.OK, Code.DUPLICATE):
            node.fold(record)
            return [_told(record)] if reply.code is Code.OK else [self._answer(reply)]
        assert write.outcome is not None
        return [self._answer(reply), write.outcome.value]

    def retry(self, node: Node) -> list[str]:
        """a retry: the very record whose answer did not come."""
        assert node.pending is not None
        pending, node.pending = node.pending, None
        return self._took(node, pending.write.answered(pending.send()))

    def read(self, node: Node) -> list[str]:
        """a read: although it is paused, or waits for an answer; it may find its record."""
        node.read()
        pending = node.pending
        if pending is None:
            return []
        node.pending = None
        there = node.log.find(pending.write.record.id)
        return [
            "its record is in the log"
            if there is not None and there.chain == pending.write.record.chain
            else "not there"
        ]

    # --- faults ---

    def lose_the_reply(self) -> None:
        """The answer to the next write does not arrive."""
        self._loses_reply = True

    def hold(self, node: Node) -> None:
        """a hold: its next request stays on the way."""
        node.holding = True

    def deliver(self) -> list[str]:
        """What was held arrives."""
        late, self._late = self._late, []
        return [f"late: {self._answer(pending.send())}" for pending in late]

    def redis_copy(self) -> None:
        """A replica stops following here."""
        self._copy = self._world.copy()

    def redis_fails_over(self) -> None:
        """To that replica."""
        self._world.fail_over(self._copy)
        self._reconnect()

    def redis_restarts(self) -> None:
        """With all its data."""
        self._world.fail_over(self._world.copy())
        self._reconnect()

    def _reconnect(self) -> None:
        self._tool = self._world.log()
        for node in self._nodes.values():
            node.log = self._world.log()

    def flush(self) -> None:
        """FLUSHALL."""
        self._world.flush()

    def raw_xadd(self, id_: str) -> list[str]:
        """raw xadd 1-9 or *: somebody who asks nobody."""
        wanted = CLOCK_ID if id_ == "*" else RecordId.parse(id_)
        return ["added" if self._world.write_raw(wanted) else "refused by Redis"]

    def forge(self, id_: str, name: str, value: str) -> list[str]:
        """forge 1-3 b x: a well-formed change of b, by a raw XADD; where there is a gap, behind what nobody has."""
        head = self._tool.look().head
        assert head is not None
        wanted = RecordId.parse(id_)
        codec, body, digest = encode_changes([encode_change(value)])
        follows = wanted.n == head.position.id.n + 1
        after = Position(RecordId(wanted.term, wanted.n - 1), head.position.chain if follows else "f" * 32)
        me = self._nodes[name].node_state.me
        record = seal_change(
            writer=me, term=wanted.term, after=after, at=0, codec=codec, digest=digest, count=1, body=body
        )
        return ["added" if self._world.write_raw(wanted, record.header, record.body) else "refused by Redis"]

    def is_handed(self, node: Node, id_: str) -> None:
        """b is handed 1-2: a record comes to it that it should not get any more."""
        record = self._tool.find(RecordId.parse(id_))
        assert record is not None
        node.fold(record)


def _number(how: tuple[str, ...], word: str, otherwise: int) -> int:
    return int(how[how.index(word) + 1]) if word in how else otherwise


def _told(record: Record) -> str:
    match record:
        case TermRecord():
            return f"{record.id} term {record.node}"
        case ChangeRecord():
            values = decode_changes(record.codec, record.body, record.digest, record.count, id_=str(record.id))
            return f"{record.id} change {record.node} [{' '.join(map(str, values))}]"
        case PartRecord():
            place = f"{record.part + 1} of {record.parts}" if record.parts else f"{record.part + 1}"
            replaces = ", replacing the history" if record.replaces else f" as of {record.as_of.id}"
            return f"{record.id} part {place} {record.node}{replaces}"
    raise AssertionError(record)
