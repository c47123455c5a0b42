"""What forbids a promotion, and what one asks for, whoever wants it: a tool, the application, the node by itself."""

from __future__ import annotations

from ..errors import PromotionRefused
from ..format.ids import Writer
from . import election, versions
from .fold import View
from .group import Claim, GroupView
from .heartbeat import Heartbeat
from .takeover_reason import how_it_ended

__all__ = ["check", "next_claim"]


def check(node: str, look: GroupView, *, force: bool = False) -> None:
    """Raises `PromotionRefused` if another node should lead (see `election.refusal`).

    `force` goes past it, but not past a node that has never reported, that may not write the log, or that reads no
    version as old as the group's.
    """
    refusal = election.refusal(node, look)
    heartbeat = look.heartbeats.get(node)
    able = heartbeat is not None and not heartbeat.follows_only and versions.too_old_for(heartbeat, look) is None
    forced = force and able
    if refusal is not None and not forced:
        raise PromotionRefused(
            node, refusal.reason, better=refusal.better, code=refusal.code.value, facts=refusal.facts
        )


def next_claim(
    writer: Writer,
    node: View | Heartbeat,
    look: GroupView,
    *,
    by: str,
    reason: str,
    lease_ms: int,
    applied_min: int,
    fresh_log_id: str,
    app: str,
    version: int,
    seen_term: int = 0,
    guarded: bool = True,
) -> Claim:
    """The next term for `writer`, if nobody took one since `look`.

    `node`: what is known of it. `guarded`: only if it loses nothing that is in the log, either. `seen_term`: what it
    knows by itself of terms. `fresh_log_id`: of the log that is founded where nobody ever had one. `app`: its
    application. `version`: the one at which a log begins that it founds.
    """
    return Claim(
        writer=writer,
        floor=max(seen_term, election.newest_term(look)),
        lease_ms=lease_ms,
        by=by,
        reason=reason,
        expect=look.term,
        run=look.run,
        expect_head=election.expected_head(node, look) if guarded else None,
        new_log_id=fresh_log_id if election.may_found(look) else "",
        applied_min=applied_min,
        app=app,
        version=version,
        forced=not guarded,
        ended=how_it_ended(look),
    )
