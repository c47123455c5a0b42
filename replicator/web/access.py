"""Reads and writes of a node for requests: with what their headers ask for, in the pool of their kind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

from starlette.requests import Request

from ..errors import LeaseLost, NotPrimary
from .answers import Refusal
from .envelope import FACTS
from .requests import SENT_KEY, drop_body, sent_ack, sent_term, wants_fresh
from .served_node import Facts, ServedNode
from .thread_pools import Pools

__all__ = ["Access"]

StateT = TypeVar("StateT")
T = TypeVar("T")


class Access(Generic[StateT]):
    """To a node, as far as requests need it whatever its state is."""

    def __init__(self, node: ServedNode[StateT], *, wait_timeout_s: float, pools: Pools) -> None:
        self._node = node
        self._wait_timeout_s = wait_timeout_s
        self._pools = pools

    async def read(self, request: Request, look: Callable[[StateT], T], *, is_quick: bool = False) -> T:
        """What `look` finds in the state; with it go the facts that belong to exactly that state.

        `is_quick`: `look` takes microseconds. Then it runs on the event loop, unless somebody has the state right now:
        a thread costs more than such a read, and has to wait for the interpreter twice.
        """
        fresh = wants_fresh(request)
        if is_quick and not fresh:
            with suppress(BlockingIOError):
                found, request.scope[FACTS] = self._look(look, fresh=False, blocks=False)
                return found
        pool = self._pools.waits if fresh else self._pools.reads
        try:
            with pool.place():
                found, request.scope[FACTS] = await pool.on_thread(partial(self._look, look, fresh=fresh, blocks=True))
        except TimeoutError as error:
            raise Refusal(504, "wait_timeout", str(error), field="Replicator-Fresh") from None
        return found

    def _look(self, look: Callable[[StateT], T], *, fresh: bool, blocks: bool) -> tuple[T, Facts]:
        with self._node.reading(fresh=fresh, timeout_s=self._wait_timeout_s, blocks=blocks) as state:
            return look(state), Facts.of(self._node)

    async def commit(self, request: Request, change: Any) -> Any:
        """What `apply` gave for a change; with the key of the request, what it gave for the first that had it."""
        key = request.scope.get(SENT_KEY)
        try:
            return await self._node.asubmit(change, term=sent_term(request), ack=sent_ack(request), key=key)
        except TimeoutError:
            message = "no answer in time: the change may or may not be in the log; read before you repeat it"
            raise Refusal(504, "outcome_unknown", message) from None

    async def refuse_unless_primary(self, request: Request) -> None:
        """Raise unless this node may take the write, by its role and by the term that the sender knows."""
        try:
            sent, current = sent_term(request), self._node.term
            if sent is not None and sent < current:
                message = f"term {sent} is over, the current one is {current}; look at the state before you write"
                raise Refusal(409, "stale_term", message, field="Replicator-Term", term=current)
            if self._node.role != "primary":
                raise NotPrimary(node=self._node.name, primary=self._node.primary_http)
            if not self._node.leads and not self._node.state_problem:
                raise LeaseLost(node=self._node.name)
            if sent is not None and sent > current:
                message = f"term {sent} was never issued, the current one is {current}"
                raise Refusal(409, "unknown_term", message, field="Replicator-Term", term=current)
        except (Refusal, NotPrimary):
            await drop_body(request)
            raise
