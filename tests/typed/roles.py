"""What is registered with a node is a function of a role, or of a leadership, and is still one afterwards."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, assert_type

from replicator import Leadership, Node, RoleEvent
from tests.support.flags import Flag, FlagState


def a_node_of_flags(node: Node[FlagState]) -> None:
    @node.on_role
    def show(event: RoleEvent) -> int:
        assert_type(event.leads, bool)
        return event.term

    assert_type(show(RoleEvent("primary", 1, True)), int)
    show.unregister()

    @node.every(60)
    def job(leadership: Leadership) -> None:
        assert_type(leadership.submit(FlagState.set_flag("x", on=True), ack="applied:1"), Flag)
        leadership.submit(FlagState.set_flag("x", on=True), term=5)  # type: ignore[call-overload]
        assert_type(leadership.submit_many([FlagState.set_flag("x", on=True)]), list[Any])

    @node.while_leading
    async def work(leadership: Leadership) -> str:
        assert_type(await leadership.asubmit(FlagState.set_flag("x", on=True)), Flag)
        return "done"

    def run(leadership: Leadership) -> None:
        given: Coroutine[Any, Any, str] = work(leadership)
        given.close()

    node.every(60, run)
    node.every(60, work)
    node.every("60", run)  # type: ignore[call-overload]
    node.while_leading(show)  # type: ignore[arg-type]
    node.on_role(run)  # type: ignore[arg-type]
