"""A member: its role, what befalls it, what it does; and three of them through any order of events.

The state machine at the end drives three members over a Redis in memory and checks G1, G2, G3, G4 and G6 after every
step, and that a node knows what is in its history. The explorer in tests/model/ goes through all orders of few events,
this one through some orders of many.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from replicator.format.ids import ORIGIN, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import ChangeRecord, Record
from replicator.log.interface import Log
from replicator.protocol.fold import Verdict, View
from replicator.protocol.group import Code, GroupView, Head, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.node_state import NodeState, Snapshot
from replicator.testing import MemoryState
from tests.support.driver import Driver, Node
from tests.support.history import RUN, A, B, change, part, term_record, view_at
from tests.support.worlds import MemoryWorld

HERE = Position(RecordId(3, 10), "a" * 32)
LEADER = NodeState(me=A, view=view_at(HERE), run=RUN)
STANDBY = NodeState(me=B, view=view_at(HERE), run=RUN)

#: Of the terms before that of HERE.
ENDS = (RecordId(1, 4), RecordId(2, 6))


# --- the role --------------------------------------------------------------------------------------------------------


def test_the_holder_in_sync_leads() -> None:
    assert LEADER.is_primary
    assert not STANDBY.is_primary
    assert (LEADER.heartbeat().role, STANDBY.heartbeat().role) == ("primary", "standby")


@pytest.mark.parametrize(
    "node_state",
    [
        LEADER._replace(me=Writer("a", "a2")),
        LEADER._replace(run="run-2"),
        LEADER._replace(run=""),
        LEADER._replace(over=3),
    ],
    ids=["another boot", "another run", "no run", "a term that is over"],
)
def test_it_holds_no_term(node_state: NodeState) -> None:
    assert not node_state.holds_term
    assert not node_state.is_primary
    assert not node_state.must_rebase


def test_a_holder_out_of_sync_rebases_before_it_leads() -> None:
    node_state = LEADER._replace(view=LEADER.view._replace(in_sync=False))
    assert (node_state.holds_term, node_state.is_primary, node_state.must_rebase) == (True, False, True)


def test_a_heartbeat_says_what_the_view_says() -> None:
    heartbeat = LEADER._replace(view=LEADER.view._replace(changed=RecordId(2, 5), in_sync=False)).heartbeat()
    assert (heartbeat.node, heartbeat.boot, heartbeat.run, heartbeat.term, heartbeat.position) == (
        "a",
        "a1",
        RUN,
        3,
        HERE,
    )
    assert (heartbeat.changed, heartbeat.cursor, heartbeat.in_sync, heartbeat.log_id) == (
        RecordId(2, 5),
        HERE.id,
        False,
        "log-1",
    )


# --- what befalls it -------------------------------------------------------------------------------------------------


def test_a_new_run_is_learnt_and_the_beats_count_anew() -> None:
    node_state = LEADER.beaten().beaten()
    assert node_state.beats_in_run == 2
    assert node_state.talks_to(RUN) == node_state
    other = node_state.talks_to("run-2")
    assert (other.run, other.beats_in_run, other.is_primary) == ("run-2", 0, False)


def test_that_the_log_is_lost_or_is_back_is_learnt_and_the_beats_count_anew() -> None:
    lost = LEADER.beaten().talks_to(RUN, log_lost=True)
    assert (lost.log_lost, lost.beats_in_run, lost.beaten().beats_in_run) == (True, 0, 1)
    assert lost.beaten().talks_to(RUN, log_lost=True).beats_in_run == 1
    back = lost.beaten().talks_to(RUN)
    assert (back.log_lost, back.beats_in_run) == (False, 0)


@pytest.mark.parametrize(
    ("code", "leads", "in_sync"),
    [
        (Code.FENCED, False, True),
        (Code.NEW_RUN, False, True),
        (Code.BEHIND, False, False),
        (Code.LOST, False, True),
        (Code.STRAY, True, True),
        (Code.RESTART, True, True),
    ],
)
def test_a_refusal_has_its_consequence_at_once(code: Code, leads: bool, in_sync: bool) -> None:
    node_state = LEADER.refused(Reply(code, term=4, node="b"))
    assert (node_state.is_primary, node_state.view.in_sync) == (leads, in_sync)
    assert node_state.view.term == 3, "the term itself comes with the log"


def test_a_term_that_is_over_does_not_come_back_but_a_new_one_counts() -> None:
    fenced = LEADER.refused(Reply(Code.FENCED, term=4, node="b"))
    assert fenced.refused(Reply(Code.FENCED, term=4, node="b")).over == 3
    verdict, again = fenced.fold(term_record(A, 5, HERE))
    assert (verdict, again.is_primary) == (Verdict.LEAD, True)


def test_an_answer_that_is_no_refusal_leaves_it_as_it_was() -> None:
    for code in (Code.OK, Code.DUPLICATE, Code.RESTART):
        assert LEADER.refused(Reply(code)) is LEADER


def test_it_remembers_where_its_own_newest_snapshot_ends() -> None:
    own = part(A, 3, HERE, (0, 1), as_of=HERE)
    assert LEADER.fold(own)[1].snapshot_end == own.id
    assert STANDBY.fold(own)[1].snapshot_end == ZERO_ID


# --- what it does ----------------------------------------------------------------------------------------------------


def test_a_change_follows_its_position_in_its_term() -> None:
    record = LEADER.change(codec="json", digest="d", count=1, body=b"[1]", at=5)
    assert (record.id, record.prev, record.writer) == (RecordId(3, 11), HERE.chain, A)
    assert LEADER.fold(record)[0] is Verdict.APPLY


def test_only_a_leader_makes_changes_and_only_a_holder_snapshots() -> None:
    for no_leader in (STANDBY, LEADER._replace(view=LEADER.view._replace(in_sync=False)), LEADER._replace(run="run-2")):
        with pytest.raises(AssertionError):
            no_leader.change(codec="json", digest="d", count=1, body=b"[1]", at=5)
    with pytest.raises(AssertionError):
        STANDBY.begin_snapshot()


def test_a_snapshot_is_of_the_place_where_it_began_and_leaves_a_gap_only_in_a_rebase() -> None:
    cursor = Position(RecordId(3, 20), "c" * 32)
    for in_sync, first_n in ((True, 11), (False, 21)):
        node_state = LEADER._replace(view=LEADER.view._replace(in_sync=in_sync, cursor=HERE if in_sync else cursor))
        snapshot = node_state.begin_snapshot()
        assert (snapshot.as_of, snapshot.rebase) == (HERE, not in_sync)
        made = {"codec": "json+zstd", "digest": "d", "body": b"", "at": 0}
        first = node_state.part(snapshot, part=0, parts=0, **made)  # type: ignore[arg-type]
        assert first.id == RecordId(3, first_n)
        node_state = node_state.fold(first)[1]
        last = node_state.part(snapshot, part=1, parts=2, **made)  # type: ignore[arg-type]
        assert (last.id.n, last.as_of) == (first_n + 1, HERE)
        assert node_state.fold(last)[1].is_primary


def rebasing() -> NodeState:
    """It took a term in a run that had lost its newest records."""
    ahead = LEADER._replace(run="run-2", view=LEADER.view._replace(ends=ENDS))
    verdict, node_state = ahead.fold(
        term_record(A, 9, Position(RecordId(3, 5), "b" * 32), run="run-2", ends="1-4 2-6 3-5")
    )
    assert verdict is Verdict.LEAD_AFTER_REBASE
    return node_state


def sends(node_state: NodeState, snapshot: Snapshot, index: int, parts: int) -> NodeState:
    """It sends one part, and folds it."""
    made = {"codec": "json+zstd", "digest": "d", "body": b"", "at": 0}
    record = node_state.part(snapshot, part=index, parts=parts if index + 1 == parts else 0, **made)  # type: ignore[arg-type]
    return node_state.fold(record)[1]


def test_a_snapshot_has_the_ends_of_the_history_and_its_last_part_tells_them() -> None:
    node_state = LEADER._replace(view=LEADER.view._replace(ends=ENDS))
    snapshot = node_state.begin_snapshot()
    made = {"codec": "json+zstd", "digest": "d", "body": b"", "at": 0}
    assert snapshot.ends == ENDS
    assert node_state.part(snapshot, part=0, parts=0, **made).ends == ()  # type: ignore[arg-type]
    assert node_state.part(snapshot, part=0, parts=1, **made).ends == ENDS  # type: ignore[arg-type]


def test_a_rebase_ends_the_last_term_before_it_where_the_node_is_and_not_where_the_log_is() -> None:
    node_state = rebasing()
    snapshot = node_state.begin_snapshot()
    node_state = sends(sends(node_state, snapshot, 0, 2), snapshot, 1, 2)
    assert node_state.is_primary
    assert node_state.view.ends == (*ENDS, HERE.id)


def test_a_rebase_that_begins_anew_still_tells_where_the_last_term_before_it_ended() -> None:
    node_state = rebasing()
    node_state = sends(node_state, node_state.begin_snapshot(), 0, 2)
    snapshot = node_state.begin_snapshot()
    node_state = sends(sends(node_state, snapshot, 0, 2), snapshot, 1, 2)
    assert node_state.is_primary
    assert node_state.view.left_behind(HERE.id) is None, "it is in the history that goes on"
    assert node_state.view.left_behind(RecordId(3, 11)) == HERE.id


def test_a_boot_that_ends_the_rebase_of_the_boot_before_still_tells_where_the_terms_ended() -> None:
    node_state = rebasing()
    node_state = sends(node_state, node_state.begin_snapshot(), 0, 2)
    again = NodeState(me=Writer("a", "a2"), view=node_state.view, run="run-2", previous_boot="a1")
    _, again = again.fold(term_record(again.me, 10, node_state.view.position, run="run-2", ends="1-4 2-6 3-5 9-11"))
    snapshot = again.begin_snapshot()
    again = sends(sends(again, snapshot, 0, 2), snapshot, 1, 2)
    assert again.is_primary
    assert again.view.left_behind(HERE.id) is None, "it is in the history that goes on"
    assert again.view.left_behind(RecordId(3, 11)) == HERE.id


def test_a_snapshot_of_an_earlier_term_does_not_go_on() -> None:
    snapshot = LEADER.begin_snapshot()
    later = LEADER.fold(term_record(A, 4, HERE))[1]
    with pytest.raises(AssertionError):
        later.part(snapshot, part=1, parts=2, codec="json+zstd", digest="d", body=b"", at=0)


def test_only_a_leader_owes_snapshots() -> None:
    waits = STANDBY._replace(view=STANDBY.view._replace(in_sync=False)).heartbeat()
    assert LEADER.owes_snapshot([waits])
    assert not LEADER._replace(run="").owes_snapshot([waits])
    assert not LEADER.owes_snapshot([STANDBY.heartbeat()])


def test_a_change_asks_for_acks_if_somebody_waits_for_them() -> None:
    made = {"codec": "json", "digest": "d", "count": 1, "body": b"[1]", "at": 5}
    assert LEADER.change(**made, wants_acks=True).wants_acks  # type: ignore[arg-type]
    assert not LEADER.change(**made).wants_acks  # type: ignore[arg-type]


def vacant(*heartbeats: Heartbeat) -> GroupView:
    """Nobody's lease runs."""
    head = Head("log-1", RUN, 3, *A, HERE, HERE.id)
    return GroupView(RUN, 3, head, HERE.id, None, {heartbeat.node: heartbeat for heartbeat in heartbeats})


def test_whoever_holds_the_term_does_not_stand_for_election() -> None:
    standby = STANDBY.heartbeat()._replace(candidate=True)
    assert STANDBY.election_rank(standby, vacant(standby)) == 0
    holder = LEADER.heartbeat()._replace(candidate=True)
    assert LEADER.election_rank(holder, vacant(holder)) is None
    fenced = LEADER.refused(Reply(Code.FENCED, term=4, node="c"))
    assert fenced.election_rank(holder, vacant(holder)) is None, "the log has no later term yet: it is this boot's own"


def test_only_a_member_that_counted_beats_without_a_log_founds_it_anew() -> None:
    nothing = vacant()._replace(head=None, last_id=ZERO_ID)
    lost = STANDBY.talks_to(RUN, log_lost=True)
    assert not lost.beaten().refounds(lost.heartbeat(), nothing)
    assert lost.beaten().beaten().refounds(lost.heartbeat(), nothing)
    assert not STANDBY.beaten().beaten().refounds(STANDBY.heartbeat(), nothing), "those were beats with a log"


def test_a_record_of_another_is_no_record_of_its_own() -> None:
    assert STANDBY.fold(change(A, 3, HERE, "x"))[0] is Verdict.APPLY


# --- three of them, through any order of events ----------------------------------------------------------------------


class Watched(Node):
    """A node of the scenarios that keeps G2 in view, and writes down which records lead to a position (`histories`)."""

    highest = 0

    def __init__(self, name: str, log: Log, histories: dict[Position, tuple[Record, ...]]) -> None:
        super().__init__(name, log)
        self.histories = histories

    def read(self, count: int = 1000) -> None:
        for record in self.log.read(self.node_state.view.cursor.id, count=count).records:
            if self.fold(record) is Verdict.RESTORE:
                return

    def fold(self, record: Record) -> Verdict:
        term, before = self.node_state.view.term, self.node_state.view.position
        verdict = super().fold(record)
        if record.prev == before.chain and self.node_state.view.position == record.position:
            self.histories[record.position] = (*self.histories[before], record)
        if verdict in (Verdict.APPLY, Verdict.RESTORE, Verdict.LEAD):
            assert record.id.term >= self.highest, "G2: a record of an earlier term was applied"
        assert self.node_state.view.term >= term, "G3: a term went back"
        self.highest = max(self.highest, self.node_state.view.term)
        return verdict


NAMES = ("a", "b", "c")
names = st.sampled_from(NAMES)


class Group(RuleBasedStateMachine):
    """Three members, one Redis in memory, and everything that may go wrong but a stray record."""

    def __init__(self) -> None:
        super().__init__()
        self.world = MemoryWorld()
        self.driver = Driver(self.world)
        self.nodes: dict[str, Watched] = {}
        self.copy: MemoryState | None = None
        self.value = 0
        #: Who was given a term, in any run.
        self.taken: dict[int, tuple[str, str]] = {}
        #: Which state was seen at which position, by any node at any time.
        self.states: dict[Position, list[str]] = {}
        #: Which records led to a position at which any node was at any time.
        self.histories: dict[Position, tuple[Record, ...]] = {ORIGIN: ()}
        #: Changes whose appends were answered in this run of Redis.
        self.acknowledged: set[str] = set()
        self.late: list[Callable[[], Reply]] = []
        self.failed_over = False

    @initialize()
    def found(self) -> None:
        self.nodes = {name: Watched(name, self.world.log(), self.histories) for name in NAMES}
        for node in self.nodes.values():
            node.look()
        self.driver._nodes = dict(self.nodes)
        self.promote("a")

    # --- what happens ---

    @rule(name=names)
    def promote(self, name: str) -> None:
        """As the tools do: after Redis lost data only one that read what is left, and is in sync with it."""
        node = self.nodes[name]
        if self.failed_over:
            node.pending = None
            self.read_all(name)
            if not node.node_state.view.in_sync:
                return
        self.driver.promote(name)

    @rule(name=names, outcome=st.sampled_from(["answered", "answered", "lost", "held"]))
    def submit(self, name: str, outcome: str) -> None:
        node = self.nodes[name]
        if not node.node_state.is_primary or node.pending is not None:
            return
        self.value += 1
        self.driver._loses_reply = outcome == "lost"
        node.holding = outcome == "held"
        lines = self.driver.submit(node, str(self.value))
        if lines[0].endswith(f"[{self.value}]"):
            self.acknowledged.add(str(self.value))
        if outcome == "held" and node.pending is not None:
            self.late.append(node.pending.send)

    @rule(name=names)
    def retry(self, name: str) -> None:
        node = self.nodes[name]
        if node.pending is not None and not self._has_folded(node):
            self.driver.retry(node)
        node.pending = None

    @rule(name=names, count=st.integers(1, 4))
    def read(self, name: str, count: int) -> None:
        self.nodes[name].read(count)

    @rule(name=names)
    def read_all(self, name: str) -> None:
        for _ in range(20):
            self.nodes[name].read()

    @rule(name=names, parts=st.integers(1, 3), sends=st.integers(1, 3))
    def snapshot(self, name: str, parts: int, sends: int) -> None:
        node = self.nodes[name]
        if node.pending is None and (node.node_state.is_primary or node.node_state.must_rebase):
            self.driver.snapshot(node, "of", str(parts), "sends", str(sends))

    @rule(name=names)
    def go_on_with_the_snapshot(self, name: str) -> None:
        node = self.nodes[name]
        if node.pending is None and node.sending is not None:
            self.driver.goes_on(node, "sends", "1")

    @rule(name=names)
    def load(self, name: str) -> None:
        """A replacing snapshot takes values away on purpose: what it keeps stays acknowledged."""
        node = self.nodes[name]
        if node.pending is None and node.node_state.is_primary:
            kept = node.state[-2:]
            if self.driver.load(node, *kept)[0].endswith("replacing the history"):
                self.acknowledged &= set(kept)

    @rule(name=names, wiped=st.booleans(), standby=st.booleans())
    def restart(self, name: str, wiped: bool, standby: bool) -> None:
        how = [word for word, given in (("wiped", wiped), ("standby", standby)) if given]
        self.nodes[name].highest = 0 if wiped else self.nodes[name].highest
        self.driver.restart(name, *how)

    @rule()
    def heartbeat(self) -> None:
        if not any(node.pending for node in self.nodes.values()):
            self.driver.heartbeat()

    @rule()
    @precondition(lambda self: self.late)
    def deliver(self) -> None:
        self.late.pop(0)()

    @rule()
    @precondition(lambda self: self.world.server.state.head.run == self.world.server.state.run)
    def copy_redis(self) -> None:
        """Of a run in which a term was taken: of one that was lost whole only the nodes know (`floor`)."""
        self.copy = self.world.copy()

    @rule()
    @precondition(lambda self: self.copy is not None)
    def fail_over(self) -> None:
        """A copy of this run; what was on its way, or acknowledged, to the lost one is gone."""
        self.world.fail_over(self.copy)
        self.driver._reconnect()
        self.copy, self.late, self.acknowledged, self.failed_over = None, [], set(), True
        for node in self.nodes.values():
            node.pending, node.holding = None, False

    def _has_folded(self, node: Watched) -> bool:
        return node.pending is not None and node.pending.write.record.id <= node.node_state.view.cursor.id

    # --- what must hold ---

    @invariant()
    def one_boot_writes_in_a_term(self) -> None:
        """G1, over all runs."""
        for record in self._records():
            writer = self.taken.setdefault(record.id.term, (record.node, record.boot))
            assert writer == (record.node, record.boot), f"G1: two writers in term {record.id.term}"

    @invariant()
    def terms_go_up(self) -> None:
        """G3: the newest term record is of the highest term that anybody took, in any run, once there is one."""
        terms = [record.id.term for record in self._records()]
        assert terms == sorted(terms)
        run = self.world.server.state.run
        head = self.world.server.state.head
        if head is not None and head.run == run:
            assert head.term == max(self.taken), "G3: a term of a new run is not above all before it"

    @invariant()
    def equal_positions_are_equal_states(self) -> None:
        """G6."""
        for node in self.nodes.values():
            seen = self.states.setdefault(node.node_state.view.position, list(node.state))
            assert seen == node.state, f"G6 at {node.node_state.view.position}"

    @invariant()
    def a_primary_has_every_acknowledged_change(self) -> None:
        """G4, as long as Redis is intact."""
        head = self.world.server.state.head
        for node in self.nodes.values():
            if head is not None and node.node_state.is_primary and node.node_state.view.term == head.term:
                assert self.acknowledged <= set(node.state), "G4"

    @invariant()
    def at_most_one_holds_the_newest_term(self) -> None:
        """G1: whoever else believes to lead does so in an older term."""
        holders = [node.node_state.view.term for node in self.nodes.values() if node.node_state.holds_term]
        assert len(holders) == len(set(holders))

    @invariant()
    def a_node_in_sync_knows_of_every_change_whether_its_history_has_it(self) -> None:
        """What a failover lost is left behind, and nothing else is."""
        newest = (history[-1] for history in self.histories.values() if history)
        changes = {record.id for record in newest if isinstance(record, ChangeRecord)}
        for node in self.nodes.values():
            view = node.node_state.view
            if view.in_sync and view.position in self.histories:
                history = {record.id for record in self.histories[view.position]}
                for change in changes:
                    if change.term < view.term:
                        behind = view.left_behind(change) is not None
                        assert behind == (change not in history), f"{change}, {node} {view.ends}"

    def _records(self) -> list[Record]:
        return self.world.log().read(ZERO_ID, count=10_000).records


Group.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestThreeMembers = Group.TestCase


def test_a_node_is_in_sync_once_it_has_read_the_log_and_lacks_nothing() -> None:
    new = NodeState(me=A, view=View())
    assert not new.in_sync
    assert not new.heartbeat().in_sync
    alone = new.talks_to(RUN, log_lost=True)
    assert alone.in_sync, "there is no log yet that it could lack"
    assert not alone.talks_to(RUN).in_sync, "there is one"
    assert not alone.talks_to("", log_lost=True).in_sync, "it does not know"
    read = new._replace(view=View(position=Position(RecordId(1, 1), "a" * 32)))
    assert read.in_sync
    assert read.heartbeat().in_sync
    assert not read._replace(view=read.view._replace(in_sync=False)).in_sync
