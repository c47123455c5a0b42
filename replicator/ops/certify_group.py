"""All that `certify` checks of a group: its log, the checkpoints on this machine, and the states of its live nodes.

A violation is a result here and no exception, so that what was found before it can be told as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import NotPrimary
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..log.interface import Log
from ..state import ReplicatedState
from ..storage.keyring import Keys
from .certify import Certificate, certify
from .common import Progress, silent
from .log_check import Violation
from .verification import DigestReport, verify

__all__ = ["GroupCertificate", "certify_group"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupCertificate:
    """What was found, up to the first violation. `log`: of the log and the checkpoints; None: it is there that a rule
    does not hold. `live`: of the live nodes; None: they were not compared.
    """

    log: Certificate | None = None
    live: DigestReport | None = None
    violation: Violation | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        found = self.log
        return {
            "certified": self.violation is None,
            "violation": self.violation.to_dict() if self.violation else None,
            "log": asdict(found.log) if found else None,
            "nodes": [asdict(node) for node in found.nodes] if found else None,
            "equal_nodes": found.equal_nodes if found else None,
            "live": self.live.to_dict() if self.live else None,
        }


def certify_group(
    log: Log,
    data_dirs: Sequence[Path] = (),
    *,
    make_state: Callable[[], ReplicatedState],
    assumed: bool = False,
    by: str,
    compare_live: bool = True,
    timeout_s: float = 60.0,
    progress: Progress = silent,
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
    keys: Keys | None = None,
) -> GroupCertificate:
    """`certify`, and then, if `compare_live`, `verify`. `keys`: those of the group, if it has some.

    Raises what they do, but for `Violation`.
    """
    found: Certificate | None = None
    live: DigestReport | None = None
    try:
        found = certify(
            log,
            data_dirs,
            make_state=make_state,
            progress=progress,
            assumed=assumed,
            snapshot_bytes_max=snapshot_bytes_max,
            keys=keys,
        )
        live = _compared(log, by, timeout_s, progress) if compare_live else None
    except Violation as violation:
        return GroupCertificate(log=found, violation=violation)
    return GroupCertificate(log=found, live=live)


def _compared(log: Log, by: str, timeout_s: float, progress: Progress) -> DigestReport | None:
    """Compare the live nodes' states. Nodes that do not report are named, but are no violation."""
    try:
        report = verify(log, by=by, timeout_s=timeout_s, progress=progress)
    except NotPrimary:
        progress("no node leads, so the states of the live nodes were not compared")
        return None
    if report.differ or report.late_nodes or report.undrawn:
        raise Violation("state", report.verdict)
    if report.silent_nodes:
        progress(f"{', '.join(report.silent_nodes)} does not report, so its state was not compared")
    return report
