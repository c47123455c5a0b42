"""What is wrong with a group, for whoever is on call: the lines above the table of `status`, and those of the page.

They are the checks of `diagnosis.py` that are not well, each said once:

- What keeps the group from writing, or leaves nobody to take over, is a problem; so is automatic failover that is
  paused, which is on purpose but easily forgotten. Problems come first.
- What is wrong with a node is a problem only then. While another node writes and one could take over it is a warning:
  the group goes on.
- A cause hides what follows from it: while the log is lost or broken every node reports just that.
"""

from __future__ import annotations

from dataclasses import replace

from ..format.ids import ZERO_ID
from ..protocol.group import GroupView
from ..protocol.reasons import ReasonCode
from .diagnosis import OK, PROBLEM, WARNING, Check, checks_of_group, checks_of_node, is_known, pause_of
from .why import leader_of

__all__ = ["NODE", "findings_of", "line_of"]

#: How the checks of single nodes are named: `node a`.
NODE = "node "

_OF_THE_LOG = frozenset({ReasonCode.LOG_LOST, ReasonCode.LOG_BROKEN})

#: What a node says of a log that is lost or broken.
_FOLLOWS = frozenset({ReasonCode.PROBLEM, ReasonCode.STALLED})


def findings_of(look: GroupView) -> list[Check]:
    """What is not well, problems first, and those of the group before those of its nodes."""
    if not is_known(look):
        return []
    paused, checks = pause_of(look), checks_of_group(look)
    of_group = [replace(check, level=PROBLEM) if check == paused else check for check in checks if check.level != OK]
    of_nodes = _of_nodes(look, is_log_broken=any(check.code in _OF_THE_LOG for check in of_group))
    if not _is_in_danger(look, of_group):
        of_nodes = [replace(check, level=WARNING) for check in of_nodes]
    return sorted([*of_group, *of_nodes], key=lambda check: check.level != PROBLEM)


def line_of(finding: Check) -> str:
    """A finding as one line; that of a node begins with its name."""
    return f"{finding.check}: {finding.message}" if finding.check.startswith(NODE) else finding.message


def _of_nodes(look: GroupView, *, is_log_broken: bool) -> list[Check]:
    found = []
    for _, heartbeat in sorted(look.heartbeats.items()):
        hidden = _FOLLOWS if is_log_broken and heartbeat.stalled_at == ZERO_ID else frozenset()
        checks = checks_of_node(heartbeat, look)
        found += [check for check in checks if check.level != OK and check.code not in hidden]
    return found


def _is_in_danger(look: GroupView, of_group: list[Check]) -> bool:
    """Whether nobody writes, or nobody could take over."""
    alone = any(check.check == "standbys" and check.level == PROBLEM for check in of_group)
    return alone or leader_of(look) is None
