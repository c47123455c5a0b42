"""Which segments may go: those that no state is made of any more that is to be kept.

To be kept is every state of the last `keep_s` seconds, and every one since the newest `keep_snapshots` snapshots,
whichever reaches further back. A state needs a snapshot before it and everything since. Timelines that are older than
that go as a whole, unless a later one continues them.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..format.ids import RecordId
from .catalog import Catalog, Lineage
from .segment import Footer, Snapshot

__all__ = ["removable"]


def removable(catalog: Catalog, *, now_ms: int, keep_s: float | None, keep_snapshots: int | None) -> list[Footer]:
    """The segments that may go, oldest first. Nothing goes if neither bound is given."""
    if keep_s is None and keep_snapshots is None:
        return []
    since = None if keep_s is None else now_ms - int(keep_s * 1000)
    kept: set[str] = set()
    newest = max(catalog.timelines, default=0)
    for timeline in catalog.timelines:
        lineage = catalog.lineage(timeline)
        # Who asks for snapshots alone asks for those of the history that goes on.
        is_kept = timeline == newest or (since is not None and lineage.footer(len(lineage) - 1).max_at >= since)
        if is_kept:
            kept |= {
                lineage.footer(index).name
                for index in range(_needed_from(lineage, since, keep_snapshots), len(lineage))
            }
    every = [footer for timeline in sorted(catalog.timelines) for footer in catalog.footers(timeline)]
    return list(_prefixes(every, kept))


def _needed_from(lineage: Lineage, since: int | None, keep_snapshots: int | None) -> int:
    """The first segment of this history that is needed."""
    snapshots = [each for index in range(len(lineage)) for each in lineage.snapshots(index)]
    base = min(
        (_by_age(snapshots, since), _by_count(snapshots, keep_snapshots)),
        key=lambda one: RecordId(0, 0) if one is None else one.position.id,
    )
    if base is None:
        return 0
    # Its parts come after the state that they are of; if they replace the history, that state is where they end.
    after = RecordId(base.position.id.term, base.position.id.n + 1)
    return lineage.index_of(min(after, RecordId.parse(base.first)))


def _by_age(snapshots: list[Snapshot], since: int | None) -> Snapshot | None:
    """The newest snapshot that is as old as the oldest state to be kept; None: none is, so all is needed."""
    if since is None:
        return snapshots[-1] if snapshots else None
    return next((each for each in reversed(snapshots) if each.at <= since), None)


def _by_count(snapshots: list[Snapshot], count: int | None) -> Snapshot | None:
    if count is None:
        return snapshots[-1] if snapshots else None
    return snapshots[-count] if len(snapshots) >= count else None


def _prefixes(every: list[Footer], kept: set[str]) -> Iterator[Footer]:
    """Those before the first kept one of each timeline: what is left of one is always its end."""
    over: set[int] = set()
    for footer in every:
        if footer.name in kept:
            over.add(footer.timeline)
        elif footer.timeline not in over:
            yield footer
