"""What an operator does to a group, as plain functions over its log. The command line and the jobs call them.

None of them needs a node of its own. They look, ask, and look again; only `records` with `follow` blocks in Redis.
"""

from .common import Progress, Step, check_is_known, looked
from .group_status import NodeStatus, RecentSize, Status, size_of, status, status_at, status_of
from .groups import GroupSummary, groups
from .log_history import history, records
from .process import Restart, Shutdown, restart, shutdown
from .promotion import (
    Promotion,
    PromotionPreview,
    Switchover,
    demote,
    forget,
    pause,
    preview,
    promote,
    resume,
    switchover,
)
from .recovery import recover
from .reinit import Reinit, reinit
from .release import Released, release
from .skip import Skip, SkipPreview, preview_skip, skip
from .verification import DigestReport, snapshot, verify
from .versions import Finalized, NodeVersions, Versions, finalize, versions, versions_of
from .why import Answer, Why, why

__all__ = [
    "Answer",
    "DigestReport",
    "Finalized",
    "GroupSummary",
    "NodeStatus",
    "NodeVersions",
    "Progress",
    "Promotion",
    "PromotionPreview",
    "RecentSize",
    "Reinit",
    "Released",
    "Restart",
    "Shutdown",
    "Skip",
    "SkipPreview",
    "Status",
    "Step",
    "Switchover",
    "Versions",
    "Why",
    "check_is_known",
    "demote",
    "finalize",
    "forget",
    "groups",
    "history",
    "looked",
    "pause",
    "preview",
    "preview_skip",
    "promote",
    "records",
    "recover",
    "reinit",
    "release",
    "restart",
    "resume",
    "shutdown",
    "size_of",
    "skip",
    "snapshot",
    "status",
    "status_at",
    "status_of",
    "switchover",
    "verify",
    "versions",
    "versions_of",
    "why",
]
