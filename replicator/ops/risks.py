"""What an operation may lose that was written, in words, before it is done: none of it means that nothing can be lost.

The command line shows these and asks, or wants `--yes` (`cli/confirm.py`). Each is judged from one look at the group,
by the rules that refuse the same operation without force.
"""

from __future__ import annotations

from ..format.ids import ZERO_ID, RecordId
from ..log.interface import Log
from ..protocol import missing_nodes
from ..protocol.group import GroupView
from ..protocol.skip import applied_by
from .common import looked
from .promotion import preview

__all__ = ["of_forget", "of_load", "of_promotion", "of_recovery", "of_skip"]


def of_promotion(log: Log, node: str) -> list[str]:
    """Of a promotion that is forced."""
    told = preview(log, node)
    refused = [f"{node} would be refused: {told.refusal}"] if told.refusal else []
    return [*refused, *(f"lost, and kept as a fork: {each}" for each in told.losses), *told.unknowns]


def of_recovery(log: Log, node: str | None) -> list[str]:
    """Of a recovery that is forced, from this node or the most advanced one."""
    look = looked(log)
    live = [each for name, each in look.heartbeats.items() if each.alive and node in (None, name)]
    changed = max((each.changed for each in live), default=ZERO_ID)
    return [f"what only {name} has is lost" for name in missing_nodes.missing(changed, look)]


def of_skip(log: Log, change: RecordId) -> list[str]:
    """Of going on without a change although a node has applied it. What no node has applied nobody was told of."""
    return [f"{name} has applied {change}, and may have acknowledged it" for name in applied_by(change, looked(log))]


def of_load(log: Log) -> list[str]:
    """Of a document that takes the place of whatever state there is."""
    head = looked(log).head
    if head is None or head.changed == ZERO_ID:
        return []
    return [f"the whole state of the group, with its changes up to {head.changed}, is replaced"]


def of_forget(log: Log, node: str) -> list[str]:
    """Of giving up a node. While the log is whole, it has all that was acknowledged."""
    look = looked(log)
    if look.is_whole or not _may_have_more(node, look):
        return []
    return [f"Redis may have lost changes that were acknowledged, and that only {node} has: they are given up"]


def _may_have_more(node: str, look: GroupView) -> bool:
    live = [each for each in look.heartbeats.values() if each.alive]
    return node in missing_nodes.missing(max((each.changed for each in live), default=ZERO_ID), look)
