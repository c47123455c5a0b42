"""What is in a Redis: each group with who leads it, how large it is and what is wrong with it: `replicator groups`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import LogUnavailable
from ..log.interface import Log
from .group_status import status

__all__ = ["GroupSummary", "groups"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSummary:
    """One group. `primary`: the node that leads; None: no node does. `node_count`, `live_count`: how many nodes it has,
    and how many of them report. `problem`: what is wrong with it, or why it cannot be looked at; None: nothing.
    """

    group: str
    app: str | None
    primary: str | None
    term: int
    node_count: int
    live_count: int
    record_count: int | None
    log_bytes: int | None
    problem: str | None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        return asdict(self)


def groups(names: Sequence[str], open_log: Callable[[str], Log]) -> list[GroupSummary]:
    """The groups of these names, in their order. `open_log`: the log of one, which is closed again."""
    return [_summary(name, open_log(name)) for name in names]


def _summary(name: str, log: Log) -> GroupSummary:
    try:
        now = status(log)
    except LogUnavailable as unavailable:
        return GroupSummary(
            group=name,
            app=None,
            primary=None,
            term=0,
            node_count=0,
            live_count=0,
            record_count=None,
            log_bytes=None,
            problem=str(unavailable),
        )
    finally:
        log.close()
    known = now.problem or ""
    nodes = [node for node in now.nodes if node.alive and node.problem and node.problem not in known]
    of_nodes = [f"{node.node}: {node.problem}" for node in nodes]
    return GroupSummary(
        group=name,
        app=now.app,
        primary=next((node.node for node in now.nodes if node.leads), None),
        term=now.term,
        node_count=len(now.nodes),
        live_count=sum(node.alive for node in now.nodes),
        record_count=now.record_count,
        log_bytes=now.log_bytes,
        problem="; ".join([*([now.problem] if now.problem else []), *of_nodes]) or None,
    )
