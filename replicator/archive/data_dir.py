"""A data directory with a state of the past, from which a node starts: for when Redis and all nodes are gone.

The records of the archive are saved as a node saves what it read: it is a node's checkpoint, and that node is at that
position.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError
from ..protocol.fold import View
from ..storage.checkpoint import Checkpoint, Step
from .folding import steps_to
from .target import Target

__all__ = ["write_data_dir"]

#: Records per transaction.
_STEPS_AT_ONCE = 256

#: Where it is made, in the data directory, which may be a mount of its own.
_DRAFT = ".restoring"

#: The boot that the checkpoint names as its writer.
_BOOT = "archive"


def write_data_dir(target: Target, data_dir: Path, *, node: str, state: str, rejects_errors: bool) -> View:
    """Make the data directory of a node, which is empty or does not exist. Needs no class of the state.

    Raises `ConfigError`, `CheckpointError`, `NotInArchive`, `ArchiveDamaged`.
    """
    if data_dir.exists() and any(data_dir.iterdir()):
        raise ConfigError(
            setting="data-dir", problem=f"{data_dir} is not empty: nothing that a node has is overwritten"
        )
    footer = target.lineage.footer(target.segment)
    view, held = View(), list[Step]()
    # No node starts from half of it: it is a checkpoint there once it is whole.
    draft = data_dir / _DRAFT
    with Checkpoint(draft, footer.group, node=node) as checkpoint:
        for record, verdict, after, _ in steps_to(target):
            view = after._replace(log_id=footer.log_id)
            held.append(Step(record, verdict, view))
            if len(held) >= _STEPS_AT_ONCE:
                checkpoint.save(view, held, boot=_BOOT)
                held = []
        checkpoint.save(view, held, boot=_BOOT)
        checkpoint.note("app", footer.app)
        if state:
            checkpoint.note("state", state)
        checkpoint.note("on_apply_error", "reject" if rejects_errors else "stall")
    for path in sorted(draft.iterdir(), key=lambda path: path.name == "checkpoint.sqlite"):
        path.rename(data_dir / path.name)
    draft.rmdir()
    return view
