"""A group that has stalled at a change which its application cannot apply."""

from __future__ import annotations

from typing import Any

import pytest

from replicator import Node, Stalled, ops
from replicator.format.ids import RecordId
from tests.support.kv import KV, PATIENCE_S, Group, eventually, push

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
    return nodes, eventually(lambda: at_one_change(group, *"abc"))


def skip(group: Group, change: RecordId, node: str, **options: Any) -> ops.Skip:
    return ops.skip(group.log(), change, node, by="test", reason="it is poison", timeout_s=PATIENCE_S, **options)


def at_one_change(group: Group, *names: str) -> RecordId | None:
    """The last change, if all of them have reported that they stalled there."""
    look = group.server.look()
    assert look.head is not None
    beats = [beat for name, beat in look.heartbeats.items() if not names or name in names]
    if len(beats) < len(names) or any(beat.left for beat in beats):
        return None  # one has not reported yet, or not since it was started again
    return look.head.changed if {beat.stalled_at for beat in beats} == {look.head.changed} else None
