"""A group that stalled at one change goes on without it: `replicator skip`."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from replicator import ChangeRejected, Node, SkipRefused, Stalled, ops
from replicator.format.ids import RecordId
from replicator.ops.certify import certify
from tests.support.kv import KV, PATIENCE_S, Group, eventually, in_step, push, pushed, put

POISON = push("poison")


class Failing(KV):
    """Its `apply` raises at the poison, when it has moved half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.in_apply = self._fail

    def _fail(self, change: Any) -> None:
        if change == POISON:
            raise ZeroDivisionError("division by zero")


def stalled_group(group: Group, *, key: str | None = None, **ack: Any) -> tuple[list[Node], RecordId]:
    """Three nodes at one change, and its id."""
    a = group.primary("a", state=Failing())
    nodes = [a, *(group.node(name, state=Failing()) for name in "bc")]
    a.submit(push("x"), ack="applied:2", timeout_s=PATIENCE_S)
    with pytest.raises(Stalled):
        a.submit(POISON, key=key, **ack)
    eventually(lambda: all(node.stalled for node in nodes), "all stall")
    eventually(lambda: {each.stalled_at for each in group.server.look().heartbeats.values()} != {RecordId(0, 0)})
    head = group.server.look().head
    assert head is not None
    eventually(lambda: all(each.stalled_at == head.changed for each in group.server.look().heartbeats.values()))
    return nodes, head.changed


def skip(group: Group, change: RecordId, node: str, **options: Any) -> ops.Skip:
    return ops.skip(group.log(), change, node, by="test", reason="it is poison", timeout_s=PATIENCE_S, **options)


@pytest.mark.parametrize("on", ["a", "b"])
@pytest.mark.parametrize("ack", [{}, {"ack": "applied:2", "timeout_s": PATIENCE_S}])
@pytest.mark.parametrize("snapshot", [False, True])
def test_all_go_on_without_it(group: Group, on: str, ack: dict[str, Any], snapshot: bool, tmp_path: Path) -> None:
    """Whoever leads, whether the change was on disks already, whether there was a snapshot to begin from."""
    if snapshot:
        first = group.primary("a", state=Failing())
        first.submit(push("w"))
        ops.snapshot(group.log(), by="test", timeout_s=PATIENCE_S)
        first.stop()
    nodes, change = stalled_group(group, **ack)
    done = skip(group, change, on)
    assert (done.skipped, done.primary, done.change_count) == (str(change), on, 1)
    leader = next(node for node in nodes if node.name == on)
    leader.submit(push("y"), ack="applied:2", timeout_s=PATIENCE_S)
    in_step(*nodes)
    expected = (["w"] if snapshot else []) + ["x", "y"]
    assert [pushed(node) for node in nodes] == [expected] * 3, "nothing is left of half a change either"
    assert [node.stalled for node in nodes] == [None] * 3
    assert ops.verify(group.log(), by="test", timeout_s=PATIENCE_S).equal
    term = next(each for each in ops.history(group.log()) if each.term == done.term)
    assert (term.reason, term.by) == ("it is poison", "test")
