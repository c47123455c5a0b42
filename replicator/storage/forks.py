"""The forks of a node: histories that lost, as files that a person can look at, and take changes from.

A fork is a whole checkpoint (`fork_writer.py`), with the reason and the place where its history parted from the
group's. What it has after that place is its *divergent tail*: changes that some node took, perhaps acknowledged, and
that the group does not have. Nothing here changes a fork, and nothing here sends anything to the group: a person
decides.

**What cannot be listed.** A checkpoint keeps changes only since its newest snapshot. Changes that are *in* the snapshot
have no record any more: if the divergent tail begins in there, it can be had as a whole state, and not change by
change.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ConfigError, ReplicatorError
from ..format.codec import decode_changes
from ..format.ids import ZERO_ID, RecordId
from ..format.keyed import change_in, key_of
from ..format.patch import CODEC, PatchHead, placed
from ..format.records import ACT, ChangeRecord
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from .checkpoint_reader import CheckpointReader, DamagedCheckpoint
from .database_files import moment_of
from .fork_writer import UNFINISHED
from .keyring import Keys
from .published_pages import rebuilt_from

__all__ = [
    "Change",
    "Fork",
    "InSnapshot",
    "Patched",
    "divergent",
    "export",
    "export_state",
    "find",
    "paths",
    "read",
]


class InSnapshot(ReplicatorError):
    """{name}: changes from {parted_id} up to {changed} are in its snapshot and cannot be listed one by one;
    `replicator forks export {name} --state` gives the whole state of the fork"""

    exit_code = 3


class Patched(ReplicatorError):
    """{name}: its state is replicated whole, so there are no changes to take one by one;
    `replicator forks export {name} --state` gives the whole state of the fork"""

    exit_code = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """One fork. `divergent_change_count`: how many changes that the group has not can be listed.

    `has_more_in_snapshot`: there are others, in its snapshot. `position` and `term` are what the node had, and the
    newest term it knew; `parted_id` is the last record that the group's history has, too. `written_at`: unix ms, by the
    node's clock; None if its file was renamed.
    """

    name: str
    path: Path
    group: str
    node: str
    written_at: int | None
    position: RecordId
    term: int
    parted_id: RecordId
    changed: RecordId
    snapshot_changed: RecordId
    divergent_change_count: int
    has_more_in_snapshot: bool
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it. The names are a contract."""
        return {
            "fork": self.name,
            "path": str(self.path),
            "group": self.group,
            "node": self.node,
            "written_at": self.written_at,
            "position": str(self.position),
            "term": self.term,
            "parted_id": str(self.parted_id),
            "divergent_change_count": self.divergent_change_count,
            "has_more_in_snapshot": self.has_more_in_snapshot,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One change of an application: which record it was in, and as which of that record's changes."""

    id: RecordId
    index: int
    at: int
    node: str
    change: Any
    key: str | None = None

    def to_dict(self) -> dict[str, Any]:
        told = {"id": str(self.id), "index": self.index, "change": self.change}
        return told if self.key is None else told | {"key": self.key}


# --- which there are -------------------------------------------------------------------------------------------------


def paths(data_dirs: Sequence[Path]) -> list[Path]:
    """The files of all forks in these data directories, oldest first in each.

    Raises `ConfigError` for what is no data directory, `CheckpointError` for one that cannot be read.
    """
    return [path for data_dir in data_dirs for path in _paths_in(data_dir)]


def _paths_in(data_dir: Path) -> list[Path]:
    forks = data_dir / "forks"
    try:
        # Not glob, which takes a directory that may not be read for an empty one.
        found = sorted(path for path in forks.iterdir() if path.suffix == ".sqlite" and path.name != UNFINISHED)
    except FileNotFoundError:
        if not (data_dir / "lock").exists():
            raise ConfigError(setting="data-dir", problem=f"no node was ever started in {data_dir}") from None
        return []
    except OSError as error:
        raise CheckpointError(path=forks, problem=error.strerror or error) from error
    return found


def find(name: str, data_dirs: Sequence[Path]) -> Path:
    """The file of the fork of that name. Raises `ConfigError` if there is none, or more than one."""
    found = [path for path in paths(data_dirs) if path.stem == name]
    where = ", ".join(map(str, data_dirs))
    if not found:
        raise ConfigError(setting="NAME", problem=f"there is no fork {name!r} in {where}; `replicator forks list`")
    if len(found) > 1:
        raise ConfigError(
            setting="NAME", problem=f"{len(found)} forks in {where} are named {name!r}; give one --data-dir"
        )
    return found[0]


# --- what is in one --------------------------------------------------------------------------------------------------


def read(path: Path) -> Fork:
    """The fork in that file, checked as a whole. Raises `CheckpointError` if it is damaged, or is not a fork."""
    with CheckpointReader(path, is_closed=True) as stored:
        view, parted_id = stored.view, _parted_id(stored)
        in_snapshot = stored.payload.last_change if stored.payload else ZERO_ID
        return Fork(
            name=path.stem,
            path=path,
            group=stored.group,
            node=stored.node,
            written_at=_written_at(path),
            position=view.position.id,
            term=view.term,
            parted_id=parted_id,
            changed=view.changed,
            snapshot_changed=in_snapshot,
            divergent_change_count=sum(record.count for record in stored.changes(parted_id) if record.codec != ACT),
            has_more_in_snapshot=in_snapshot > parted_id,
            reason=stored.note("reason") or "",
        )


def _parted_id(stored: CheckpointReader) -> RecordId:
    told = stored.note("parted_id") or stored.note("parted_at")  # as it was called before there was a release
    if told is None:
        problem = "it is a checkpoint, and not a fork: it does not say where its history parted from the group's"
        raise CheckpointError(path=stored.path, problem=problem)
    try:
        return RecordId.parse(told)
    except ConfigError:
        problem = f"it says that its history parted from the group's at {told!r}"
        raise DamagedCheckpoint(path=stored.path, problem=problem) from None


def _written_at(path: Path) -> int | None:
    return moment_of(path.stem)  # `write_fork` begins the name with it


def divergent(fork: Fork, *, keys: Keys | None = None) -> Iterator[Change]:
    """The changes that the fork has and the group's history has not, in order: those that can be listed.

    `keys`: those of its group, if it has some.
    """
    return _changes(fork, fork.parted_id, keys)


def _changes(fork: Fork, after: RecordId, keys: Keys | None) -> Iterator[Change]:
    with CheckpointReader(fork.path, keys=keys) as stored:
        for record in stored.changes(after):
            changes = _changes_of(record)
            for index, change in enumerate(changes):
                key, bare = key_of(change), change_in(change)
                yield Change(id=record.id, index=index, at=record.at, node=record.node, change=bare, key=key)


def _changes_of(record: ChangeRecord) -> list[Any]:
    if record.codec == ACT:
        return []  # of the group, and not of its application
    if record.codec != CODEC:
        return decode_changes(record.codec, record.payload, record.digest, record.count, id_=str(record.id))
    index, count, data = placed(record)
    told: dict[str, Any] = {"part_index": index, "part_count": count, "part_bytes": len(data)}
    if index == 0:
        head = PatchHead.of(data, id_=str(record.id))
        told |= {"old_digest": head.old_digest, "new_digest": head.new_digest, "new_bytes": head.new_size}
    return [told]


# --- export ----------------------------------------------------------------------------------------------------------


def export(fork: Fork, *, keys: Keys | None = None) -> Iterator[dict[str, Any]]:
    """The divergent tail, one change a line. Raises `InSnapshot` if that would not be all of it, `Patched`."""
    if fork.has_more_in_snapshot:
        raise InSnapshot(name=fork.name, parted_id=fork.parted_id, changed=fork.snapshot_changed)
    with CheckpointReader(fork.path, keys=keys) as stored:
        if _is_patched(stored):
            raise Patched(name=fork.name)
    return (change.to_dict() for change in divergent(fork, keys=keys))


def export_state(
    fork: Fork, *, snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX, keys: Keys | None = None
) -> Iterator[dict[str, Any]]:
    """The whole state: the pieces of its snapshot, then all changes since. Bytes are base64.

    `snapshot_bytes_max`: what the snapshot may weigh when it is unpacked (`format/unpacked_size.py`).
    """
    with CheckpointReader(fork.path, snapshot_bytes_max=snapshot_bytes_max, keys=keys) as stored:
        if _is_patched(stored):
            with rebuilt_from(stored) as whole:
                yield from map(_piece, whole.pieces())
            return
        yield from map(_piece, stored.pieces())
    yield from (change.to_dict() for change in _changes(fork, ZERO_ID, keys))


def _is_patched(stored: CheckpointReader) -> bool:
    return any(record.codec == CODEC for record in stored.changes())


def _piece(piece: Any) -> dict[str, Any]:
    return {"piece_base64": base64.b64encode(piece).decode()} if isinstance(piece, bytes) else {"piece": piece}
