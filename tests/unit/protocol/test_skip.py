"""Which change a group may go on without, and what a node makes of the log after one at which it stalled."""

from __future__ import annotations

from typing import Any

import pytest

from replicator.format.ids import ORIGIN, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import Record, seal_change, seal_part
from replicator.log.interface import Log
from replicator.protocol.fold import Verdict, View
from replicator.protocol.group import Claim, GroupView
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.node_state import NodeState
from replicator.protocol.skip import Found, LookAhead, obstacle, suggested
from replicator.testing import MemoryLog, MemoryRedis

CHANGE = RecordId(1, 2)
A, B = Writer("a", "a1"), Writer("b", "b1")


class Stall:
    """A log with a term of `a` and one change, and nodes that report of it."""

    def __init__(self) -> None:
        self.server = MemoryRedis()
        self.log: Log = MemoryLog(self.server)
        self.promote(A, new_log_id="L")
        term = self.records[-1]
        self.before = term.position
        record = seal_change(
            writer=A, term=1, after=term.position, at=0, codec="json", digest="0" * 32, count=1, body=b"x"
        )
        self.log.append(record)
        self.beats = {name: self.beat(name) for name in "ab"}

    def promote(self, writer: Writer, **fields: Any) -> Record:
        self.log.promote(Claim(writer=writer, floor=0, lease_ms=60_000, by="test", reason="why", **fields))
        return self.records[-1]

    @property
    def records(self) -> list[Record]:
        return self.log.read(ZERO_ID).records

    def beat(self, name: str, **fields: Any) -> Heartbeat:
        stalled = {"stalled": "the application failed", "stalled_at": CHANGE, "position": self.before}
        of_all = {"run": self.log.look().run, "term": 1, "log_id": "L", "cursor": self.before.id}
        return Heartbeat(name, f"{name}1")._replace(**of_all | stalled | fields)

    @property
    def look(self) -> GroupView:
        return self.log.look()._replace(heartbeats=self.beats)

    def obstacle(self, node: str = "b", change: RecordId = CHANGE, **options: Any) -> str:
        after = [record for record in self.records if record.id >= change]
        return obstacle(change, node, self.look, after, **options)


@pytest.fixture
def stall() -> Stall:
    return Stall()


def test_where_every_node_stalled_at_the_last_change_each_may_go_on(stall: Stall) -> None:
    assert (stall.obstacle("a"), stall.obstacle("b")) == ("", "")
    assert suggested(stall.look) == (CHANGE, "a")


def test_terms_after_the_change_do_not_matter(stall: Stall) -> None:
    stall.promote(B)
    assert stall.obstacle() == ""


def test_what_was_written_after_it_does(stall: Stall) -> None:
    last = stall.records[-1].position
    marker = seal_change(writer=A, term=1, after=last, at=0, codec="json", digest="0" * 32, count=0, body=b"")
    stall.log.append(marker)
    assert stall.obstacle() == "a has applied 1-2: it wrote 1-3 after it"


def test_so_does_a_snapshot_that_has_it(stall: Stall) -> None:
    last = stall.records[-1].position
    part = seal_part(
        writer=A, term=1, after=last, n=3, at=0, codec="raw", digest="0" * 32, part=0, parts=0, as_of=last,
        changed=CHANGE, replaces=False, body=b"x",
    )  # fmt: skip
    stall.log.part(part)
    assert stall.obstacle() == "a has applied 1-2: it wrote 1-3 after it"


def test_a_node_that_has_it_forbids_it_dead_or_alive_but_for_force(stall: Stall) -> None:
    stall.beats["c"] = stall.beat("c", changed=CHANGE, stalled="", stalled_at=ZERO_ID, age_ms=10**6)
    assert stall.obstacle().startswith("c has applied 1-2, or would lead without it")
    assert suggested(stall.look) is None
    assert stall.obstacle(force=True) == ""


def test_a_node_that_has_not_come_to_it_is_waited_for_whatever_force_says(stall: Stall) -> None:
    stall.beats["c"] = stall.beat("c", stalled="", stalled_at=ZERO_ID)
    assert stall.obstacle(force=True) == "c has not come to 1-2 yet"
    assert suggested(stall.look) is None


def test_the_node_has_to_be_stalled_right_there(stall: Stall) -> None:
    stall.beats["b"] = stall.beat("b", stalled_at=RecordId(1, 1))
    assert stall.obstacle() == "b is not stalled at 1-2"
    stall.beats["b"] = stall.beat("b", position=Position(RecordId(1, 1), "0" * 32))
    assert stall.obstacle() == "b stalled at another 1-2, which the log had before: start it again"
    stall.beats["b"] = stall.beat("b", age_ms=10**6)
    assert "has not reported" in stall.obstacle()


def test_a_heartbeat_of_a_program_that_knows_nothing_of_this_is_read(stall: Stall) -> None:
    data = stall.beat("b").to_json()
    assert Heartbeat.from_json(data, age_ms=0) == stall.beat("b")
    old = Heartbeat.from_json(data.replace(b'"stalled_at":"1-2",', b""), age_ms=0)
    assert old is not None
    assert old.stalled_at == ZERO_ID


def test_a_node_leads_by_the_record_of_its_own_term_and_no_other(stall: Stall) -> None:
    ahead = LookAhead(CHANGE)
    found, ahead = ahead.sees(stall.promote(B, skip=CHANGE), A)
    assert (found, ahead.term) == (Found.NOTHING, 2)
    assert ahead.sees(stall.promote(A, skip=CHANGE), A)[0] is Found.LEADS
    assert LookAhead(CHANGE).sees(stall.promote(A), A)[0] is Found.NOTHING, "it was promoted by force"
    assert LookAhead(RecordId(1, 9)).sees(stall.promote(A, skip=CHANGE), A)[0] is Found.NOTHING


def test_it_leads_from_the_place_before_the_change_and_its_snapshot_replaces_the_history(stall: Stall) -> None:
    view = View()
    node_state = NodeState(me=B, view=view, run=stall.look.run)
    _, node_state = node_state.fold(stall.records[0])
    verdict, leads = node_state.fold(stall.promote(B, skip=CHANGE))
    assert (verdict, leads.view.position, leads.view.in_sync) == (Verdict.LEAD_AFTER_REBASE, stall.before, False)
    assert (leads.view.changed, leads.view.skipped) == (CHANGE, CHANGE)
    snapshot = leads.begin_snapshot()
    assert (snapshot.as_of, snapshot.rebase, snapshot.replaces) == (stall.before, True, True)
    part = leads.part(snapshot, part=0, parts=1, codec="raw", digest="0" * 32, body=b"x", at=0)
    verdict, primary = leads.fold(part)
    assert (verdict, primary.view.position, primary.is_primary) == (Verdict.RESTORE, part.position, True)
    assert (primary.view.changed, primary.view.skipped) == (part.id, ZERO_ID)
    assert primary.view.left_behind(CHANGE) == stall.before.id


def test_a_view_of_long_ago_skips_nothing() -> None:
    """Its ends do not go back to its last change any more, so nobody can tell that it is in its history."""
    ends = tuple(RecordId(term, term) for term in range(2, 102))
    view = View(term=102, position=ORIGIN._replace(id=RecordId(102, 102)), changed=RecordId(1, 1), ends=ends)
    assert view.left_behind(view.changed) is not None
    assert view.skipped == ZERO_ID
