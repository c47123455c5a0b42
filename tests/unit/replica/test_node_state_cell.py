"""What a node knows, for many threads: what one of them learns while another one folds is not lost."""

from __future__ import annotations

import threading

import pytest

from replicator.format.ids import Position, RecordId, Writer
from replicator.protocol.fold import Holder, View
from replicator.protocol.group import Code, Reply
from replicator.protocol.node_state import NodeState
from replicator.replica.node_state_cell import NodeStateCell

ME = Writer("a", "boot-a")


def view(n: int, *, in_sync: bool = True) -> View:
    position = Position(RecordId(1, n), f"chain-{n}")
    return View(term=1, holder=Holder(*ME, "run-1"), position=position, cursor=position, in_sync=in_sync)


@pytest.fixture
def cell() -> NodeStateCell:
    cell = NodeStateCell(NodeState(me=ME, view=view(5), run="run-1"))
    assert cell.node_state.is_primary
    return cell


def test_a_refusal_while_somebody_folds_is_not_lost(cell: NodeStateCell) -> None:
    # given records that are folded
    after = cell.to_fold()._replace(view=view(6))
    # when the log turns out to end elsewhere
    cell.refused(Reply(Code.BEHIND, id=RecordId(1, 4)))
    # then the node is out of sync, whatever else comes of the records
    cell.adopt(after)
    assert cell.node_state.view == view(6, in_sync=False)
    cell.adopt(after._replace(view=view(7)))
    assert cell.node_state.view == view(7, in_sync=False)


def test_what_is_folded_after_a_refusal_may_bring_it_into_sync_again(cell: NodeStateCell) -> None:
    cell.refused(Reply(Code.BEHIND, id=RecordId(1, 4)))
    snapshot = cell.to_fold()
    assert not snapshot.view.in_sync
    cell.adopt(snapshot._replace(view=view(9)))
    assert cell.node_state.view == view(9)


def test_what_is_folded_bit_by_bit_may_lose_sync_and_bring_it_back(cell: NodeStateCell) -> None:
    before = cell.to_fold()
    cell.adopt(before._replace(view=view(6, in_sync=False)))  # a gap
    cell.adopt(before._replace(view=view(9)))  # and a snapshot
    assert cell.node_state.view == view(9)


def test_what_moves_while_somebody_folds_stays(cell: NodeStateCell) -> None:
    after = cell.to_fold()._replace(view=view(6), snapshot_end=RecordId(1, 6))
    cell.talks_to("run-2")
    cell.beaten()
    cell.adopt(after)
    found = cell.node_state
    assert (found.view, found.snapshot_end, found.run, found.beats_in_run) == (view(6), RecordId(1, 6), "run-2", 1)


def test_who_wants_to_hear_of_the_role_hears_of_what_it_depends_on_and_of_no_other_change(cell: NodeStateCell) -> None:
    turned: list[NodeState] = []
    cell.turned.append(lambda: turned.append(cell.node_state))
    cell.adopt(cell.to_fold()._replace(view=view(6)))
    cell.beaten()
    assert turned == []
    cell.talks_to("run-2")
    cell.refused(Reply(Code.FENCED, term=2))
    cell.adopt(cell.to_fold()._replace(view=view(7, in_sync=False)))
    cell.adopt(cell.to_fold()._replace(view=view(7, in_sync=False)._replace(term=2)))
    assert [(found.run, found.over, found.view.in_sync, found.view.term) for found in turned] == [
        ("run-2", 0, True, 1),
        ("run-2", 1, True, 1),
        ("run-2", 1, False, 1),
        ("run-2", 1, False, 2),
    ]


def test_whoever_waits_is_told_and_nobody_else(cell: NodeStateCell, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    notify = cell.moved.notify_all
    monkeypatch.setattr(cell.moved, "notify_all", lambda: (told.append(True), notify()))
    # given nobody who waits
    cell.adopt(cell.to_fold()._replace(view=view(6)))
    assert not told
    assert cell.wait_for(lambda: cell.node_state.view == view(6), 0)
    # when somebody does
    waits = threading.Event()

    def reached() -> bool:
        waits.set()
        return cell.node_state.view == view(7)

    found: list[bool] = []
    waiter = threading.Thread(target=lambda: found.append(cell.wait_for(reached, 60)))
    waiter.start()
    assert waits.wait(60)
    with cell.moved:  # it sleeps by now, or has not looked under the lock yet
        cell.adopt(cell.to_fold()._replace(view=view(7)))
    waiter.join(60)
    assert found == [True]
    # then nobody is told any more
    told.clear()
    cell.adopt(cell.to_fold()._replace(view=view(8)))
    assert not told
