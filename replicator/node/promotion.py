"""A promotion that somebody asks for, the application of a node or an operator: the same steps, and the same refusals.

Look at the group, see that nothing forbids it, take the next term. Each claim depends on what was looked at; if that
changed meanwhile (Redis restarted, somebody else took a term), nothing was done, and it is looked at again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ..errors import CorruptRecord, LogLost, PromotionRefused, ReplicatorError
from ..log.interface import Log
from ..protocol import promotion
from ..protocol.group import Code, GroupView, Reply
from ..protocol.reasons import ReasonCode, reason

__all__ = ["not_promoted", "replaced", "take_term"]


def take_term(
    log: Log,
    node: str,
    look: Callable[[], GroupView],
    claim: Callable[[GroupView], Reply],
    *,
    until: float,
    force: bool = False,
    expect: int | None = None,
) -> tuple[GroupView, Reply]:
    """The next term for `node`: the look by which it was claimed, and the answer, which is OK.

    `look`: at the group. `claim`: send the claim that a look leads to. `until` (`time.monotonic`): no further attempt.
    `expect`: only if that is the term. Raises `PromotionRefused` (`promotion.check`; `force` goes past it), `LogLost`,
    `CorruptRecord`, `TimeoutError`, and what `look` and `claim` raise.
    """
    while True:
        seen = look()
        if expect not in (None, seen.term):
            conflict = Reply(Code.CONFLICT, term=seen.term, node=seen.head.node if seen.head else "")
            raise not_promoted(node, conflict, log)
        promotion.check(node, seen, force=force)
        reply = claim(seen)
        if reply.code is Code.OK:
            return seen, reply
        if reply.code not in (Code.NEW_RUN, Code.CONFLICT):
            raise not_promoted(node, reply, log)
        if time.monotonic() > until:
            raise TimeoutError(f"the group changed whenever {node} was to be promoted; nothing was done")


def not_promoted(node: str, reply: Reply, log: Log) -> ReplicatorError:
    """Why that answer to its claim is none that another attempt could help."""
    if reply.code is Code.CONFLICT:
        holder = reply.node or "nobody"
        words = f"the term is {reply.term}, held by {holder}, and not the expected one"
        return _term_changed(node, words, holder=holder, term=reply.term)
    if reply.code is Code.STRAY:
        return CorruptRecord.stray(reply.id)
    if reply.code is Code.LOST:
        return LogLost(what=f"the log of group {log.group} is gone from {log.url}")
    if reply.code is Code.SEALED:
        return PromotionRefused(node, "the records of its group are sealed, and no key was given: give --key-file")
    if reply.code is Code.OTHER_APP:
        return PromotionRefused(
            node, f"the log is of `{reply.app}`, and that node of another application", code=ReasonCode.OTHER_APP.value
        )
    if reply.code is Code.WHOLE:
        return PromotionRefused(node, "the log is whole, there is nothing to recover; `replicator promote` is for this")
    return PromotionRefused(node, reply.code.value)


def replaced(node: str, *, by: str, term: int) -> PromotionRefused:
    """It got a term, and another one has taken `term` since, before it led."""
    return _term_changed(node, f"{by or 'another'} took term {term} meanwhile", holder=by or None, term=term)


def _term_changed(node: str, words: str, *, holder: str | None, term: int) -> PromotionRefused:
    told = reason(ReasonCode.TERM_CHANGED, words, {"holder": holder, "term": term})
    return PromotionRefused(node, words, code=told.code.value, facts=told.facts)
