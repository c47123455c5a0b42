"""What an archiver says of itself, in `archiver.json` beside the segments: where it is, and how far behind.

    status = read_status(place_of("/backups/registry"))
    status.lag_ms()     # None: nobody archives

It is a file, and not a heartbeat in Redis: an archiver is no node, and whoever restores from an archive may have no
Redis to ask.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from ..ops.diagnosis import Check, ok, problem, warning
from ..runtime.counted import counted
from .places import STATUS, Place

__all__ = ["Status", "check_of", "read_status", "write_status"]

#: A status that is older than so many periods is of an archiver that was killed, or hangs.
SILENT_PERIODS = 5

#: An archive that is further behind is worth a look. One whose segments are a minute long is up to two minutes behind.
LAG_MS_MAX = 300_000


@dataclass(kw_only=True, slots=True)
class Status:
    """`position`: the newest record in the archive; `head_id`: in the log. `complete_at`: all that the log had at that
    moment (unix ms, by the clock of Redis) is in the archive; 0: not known. `at`: when this was written, by the clock
    of the archiver's machine. `ended`: it stopped in order. `every_ms`: how often it is written, at least.
    """

    group: str
    host: str = ""
    pid: int = 0
    timeline: int = 0
    segment_count: int = 0
    position: str = "0-0"
    head_id: str = "0-0"
    lag_records: int = 0
    complete_at: int = 0
    at: int = 0
    every_ms: int = 1000
    problem: str = ""
    ended: bool = False

    def alive(self, now_ms: int | None = None) -> bool:
        """Whether the archiver is at work, by the clock of this machine."""
        now = _now_ms() if now_ms is None else now_ms
        return not self.ended and now - self.at <= SILENT_PERIODS * self.every_ms

    def lag_ms(self, now_ms: int | None = None) -> int | None:
        """How long ago the archive had all of the log; None: not known."""
        now = _now_ms() if now_ms is None else now_ms
        return max(0, now - self.complete_at) if self.complete_at else None

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        told = asdict(self)
        return told | {"written_at": told.pop("at"), "stopped": told.pop("ended"), "problem": self.problem or None}


def read_status(place: Place) -> Status | None:
    """What the archiver there said last; None: nothing that can be read. Raises `ArchiveUnavailable`."""
    try:
        told = orjson.loads(place.read(STATUS))
        return Status(**{name: told[name] for name in Status.__dataclass_fields__ if name in told})
    except (ValueError, TypeError):
        return None


def check_of(status: Status | None, group: str, *, now_ms: int | None = None) -> Check:
    """Whether the archive of a group keeps up, as `doctor` says it. `status`: None: nothing is known of an archiver."""
    start = "start it (`replicator archive`): what it has not archived is lost with Redis and all nodes"
    if status is None:
        return problem("archive", "nothing is known of an archiver there", start)
    if status.group != group:
        return problem("archive", f"the archive is of group {status.group}", f"name the archive of group {group}")
    if not status.alive(now_ms):
        says = "has ended" if status.ended else "does not report"
        return problem("archive", f"the archiver on {status.host} {says}", start)
    if status.problem:
        return problem("archive", f"the archiver on {status.host} reports: {status.problem}", "see its log")
    lag_ms = status.lag_ms(now_ms)
    if lag_ms is None:
        return warning("archive", "the archiver has not yet had all of the log", "look again in a moment")
    behind = f"it had all of the log {lag_ms / 1000:.1f} s ago"
    if lag_ms > LAG_MS_MAX:
        records = counted(status.lag_records, "record")
        return warning("archive", f"{behind} ({records})", "see its log, and how busy its disk is")
    return ok("archive", behind)


def write_status(place: Place, status: Status) -> None:
    """Raises `ArchiveUnavailable`."""
    status.at = _now_ms()
    place.write_status(orjson.dumps(asdict(status)))


def _now_ms() -> int:
    return int(time.time() * 1000)
