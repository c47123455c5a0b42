"""What a node finds in its data directory when it starts: its checkpoint, a damaged one, another one's, or none."""

from __future__ import annotations

from pathlib import Path

from replicator.errors import CheckpointError
from replicator.storage import disk
from replicator.storage.checkpoint_file import Damaged, Leavings, Saved, inspect
from replicator.storage.database_files import NEW, begin, check_writable, discard, exists, put_aside
from replicator.storage.directory_lock import DirectoryLock, Mark

from ..runtime.event_log import EventLogger

__all__ = ["mark_of", "opened_or_begun"]

_logger = EventLogger(__name__)


def opened_or_begun(path: Path, lock: DirectoryLock, group: str, node: str) -> tuple[Saved, Leavings, Path | None]:
    """What the file holds, what is given up in it, and where a damaged one was set aside. Begins one if none is left.

    Raises `CheckpointError` for another group's or node's, another program's or a newer version's.
    """
    discard(path.with_name(NEW))  # of a process that was killed while it began a file
    if not exists(path):
        return _begun(path, lock, group, node), Leavings(), None
    try:
        check_writable(path)
        saved, left = inspect(path)
        if (has := mark_of(saved)) < (marked := lock.marked):
            what = f"save {has.save} with {has.changes} changes, and not {marked.save} with {marked.changes}"
            raise Damaged(f"its newest saves are missing: it has {what}")
    except Damaged as problem:
        aside = put_aside(path)
        hint = "The node rebuilds itself from the log."
        _logger.error(
            "checkpoint.damaged",
            "%s is damaged (%s) and was set aside as %s. %s",
            path,
            problem,
            aside,
            hint,
            path=str(path),
        )
        return _begun(path, lock, group, node), Leavings(), aside
    _check_owner(path, saved, group, node)
    return saved, left, None


def mark_of(saved: Saved) -> Mark:
    """The mark of a file that has this: saves of changes alone have no number, they have more changes."""
    return Mark(saved.save, saved.changes.rows)


def _begun(path: Path, lock: DirectoryLock, group: str, node: str) -> Saved:
    saved = Saved(group=group, node=node)
    if lock.marked.save:  # by a file that is gone: come back after a power cut, it would make this one damaged
        lock.mark(Mark())
        disk.sync(path.with_name("lock"))
    draft = path.with_name(NEW)
    begin(draft, saved)
    disk.publish(draft, path)
    return saved


def _check_owner(path: Path, saved: Saved, group: str, node: str) -> None:
    hint = "every node needs a data directory of its own"
    if saved.group != group:
        raise CheckpointError(path=path, problem=f"it belongs to group {saved.group}, this is group {group}; {hint}")
    if saved.node != node:
        raise CheckpointError(path=path, problem=f"it belongs to node {saved.node}, this is node {node}; {hint}")
