"""What an archive refuses, and why."""

from __future__ import annotations

from ..errors import ReplicatorError

__all__ = [
    "ArchiveDamaged",
    "ArchiveInUse",
    "ArchiveUnavailable",
    "BackupDamaged",
    "NeedsClass",
    "NotInArchive",
    "StoppedBefore",
]


class ArchiveUnavailable(ReplicatorError):
    """the archive at {place} cannot be read or written: {problem}"""


class ArchiveInUse(ReplicatorError):
    """{place}: {who} is archiving there; one archiver at a time: stop it, or give this one a place of its own"""

    exit_code = 3


class ArchiveDamaged(ReplicatorError):
    """{name}: {problem}; what comes before it is whole"""


class NotInArchive(ReplicatorError):
    """{target} is not in the archive: {problem}"""

    exit_code = 3


class NeedsClass(ReplicatorError):
    """{target} is {changes} after the snapshot of {as_of}, and without the application's class only snapshots can be
    restored: give --state MODULE:CLASS, or --at {as_of}
    """

    exit_code = 3


class BackupDamaged(ReplicatorError):
    """{path} is no backup, or is damaged: {problem}"""


class StoppedBefore(ReplicatorError):
    """{problem}; nothing after it is archived"""
