"""What the duties of a node work with, as one value: `Node` makes it, and hands it to those who do the work."""

from __future__ import annotations

from dataclasses import dataclass

from ..log.interface import Log
from ..replica.replica import Replica
from .acks import Acks
from .lease import Lease
from .primary import Primary
from .problems import Problems
from .release import Release
from .vitals import Vitals

__all__ = ["Components"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """Of one node, from its start to its end."""

    log: Log
    replica: Replica
    primary: Primary
    acks: Acks
    lease: Lease
    problems: Problems
    release: Release
    vitals: Vitals
