"""Checks that a node may use its name (no other process may report under it), and that a log is that of the node.

A recent heartbeat of this name may be from three: the boot before, which was killed a moment ago; another process,
elsewhere, that was given the same name; or the process of whose data directory this one's is a copy. In the second case
and in the third this node must not start. A copy knows the boot of the original as its own previous one, so that proves
nothing. What does is where that boot ran: the lock of a data directory is held for as long as a node runs there, and
records the boot and where the lock was then (`storage/file_identity.py`). A node that holds the very same lock knows
that this boot has ended, and starts at once. Any other node waits to see whether the other one sends a heartbeat again.
"""

from __future__ import annotations

import threading
import time

from ..errors import ConfigError, CorruptRecord, LogLost
from ..format.ids import ORIGIN, Position, RecordId, Writer
from ..log.interface import Log
from ..protocol.fold import View
from ..protocol.group import GroupView
from ..protocol.heartbeat import MISSED_BEATS_MAX, Heartbeat
from ..runtime.event_log import EventLogger
from ..storage.checkpoint import Checkpoint

__all__ = ["Name", "check_data_is_mine", "check_log_is_mine", "with_misnamed_head"]

logger = EventLogger(__name__)

#: How often it looks whether the other one has sent a heartbeat.
LOOK_EVERY_S = 0.1

#: Under which name a checkpoint remembers the application whose log it follows.
APP = "app"


class Name:
    """The name of one node. `previous_boot`: the one that its checkpoint names. `stopping`: set when the node ends."""

    def __init__(
        self, log: Log, me: Writer, checkpoint: Checkpoint, *, previous_boot: str, stopping: threading.Event
    ) -> None:
        self._log = log
        self._me = me
        self._checkpoint = checkpoint
        self._previous_boot = previous_boot
        self._stopping = stopping
        self._free = False
        #: Another boot of this name that was seen, and the stamp of its heartbeat.
        self._rival: tuple[str, int] | None = None

    def check(self, look: GroupView, *, has_beaten: bool) -> None:
        """Raises `ConfigError` if another process has the name. `has_beaten`: this boot has sent a heartbeat."""
        if self._free:
            if has_beaten:
                self._check_is_mine(look)
            return
        self._check_is_free(look)
        # Before the first heartbeat of this boot: any boot that was ever heard of from here must be in the lock.
        self._checkpoint.lock.runs(self._me.boot)
        self._free = True

    def _check_is_free(self, look: GroupView) -> None:
        """Refuse if another boot of this name still sends heartbeats, unless it is known to have ended here."""
        other = look.heartbeats.get(self._me.node)
        if other is None or not other.alive or other.boot == self._checkpoint.lock.ended:
            return
        wait_s = MISSED_BEATS_MAX * other.every_ms / 1000 - other.age_ms / 1000
        logger.info(
            "name.contested",
            "another boot of %s reported %d ms ago: waiting for %.1f s to see if it lives",
            other.node,
            other.age_ms,
            wait_s,
        )
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not self._stopping.wait(LOOK_EVERY_S):
            again = self._log.look().heartbeats.get(self._me.node)
            if again is not None and again.beaten_at != other.beaten_at:
                raise self._taken(again)
        if not self._stopping.is_set():
            logger.info("name.free", "the other boot of %s is silent: this one goes by the name", other.node)

    def _check_is_mine(self, look: GroupView) -> None:
        """Two nodes that started at the same moment did not see each other then. The one with the lower boot yields."""
        other = look.heartbeats.get(self._me.node)
        if other is None or other.boot <= self._me.boot:
            return
        # Only to one that goes on sending heartbeats: Redis may have come back with old ones.
        known, self._rival = self._rival, (other.boot, other.beaten_at)
        if known is not None and known[0] == other.boot and known != self._rival:
            raise self._taken(other)

    def _taken(self, other: Heartbeat) -> ConfigError:
        where = other.http or "another process"
        hint = "give this node a name, and a data directory, of its own"
        if other.boot == self._previous_boot:
            hint = f"{self._checkpoint.data_dir} is a copy of its data directory: {hint}"
        problem = (
            f"{other.node!r} is taken in group {self._log.group}: {where} (boot {other.boot}) reports by that name"
        )
        return ConfigError(setting="name", problem=f"{problem}; {hint}")


def with_misnamed_head(log: Log, view: View, look: GroupView) -> GroupView:
    """The look; or, if the head names another log than that which this node has and which is there, one that says so.

    Somebody changed the head by hand. What a node has is in the log if the log has a record with its chain: that is a
    hash over all records up to there, and the records say which log they are of. Such a head is as good as none: nobody
    writes, nobody takes over, and nobody ends, until `replicator recover` sets it right.

    Raises `LogUnavailable`.
    """
    head = look.head
    if head is None or not view.log_id or head.log_id == view.log_id or not _has(log, head.position, view):
        return look
    marred = (
        f"the head of group {log.group} at {log.url} was changed by hand: it says that this is log {head.log_id}, and "
        f"by its records it is log {view.log_id}; `replicator recover` sets it right"
    )
    return look._replace(head=None, marred=marred)


def _has(log: Log, newest: Position, view: View) -> bool:
    """Whether the log has the record at which this node is, or up to which it has read."""
    places = {view.position, view.cursor} - {ORIGIN}
    return newest in places or any(_chain_at(log, place.id) == place.chain for place in places)


def _chain_at(log: Log, id: RecordId) -> str:
    try:
        record = log.find(id)
    except CorruptRecord:
        return ""
    return record.chain if record is not None else ""


def check_log_is_mine(log: Log, view: View, look: GroupView, app: str) -> None:
    """Another log is somebody else's Redis, or database. Nothing is written there, and nothing taken from there.

    Raises `LogLost` if the log of this look is not the one that `view` is of, and `ConfigError` if it is that of
    another application than `app`.
    """
    if view.log_id and look.head is not None and look.head.log_id != view.log_id:
        raise LogLost(
            f"group {log.group} had log {view.log_id}, and at {log.url} there is log "
            f"{look.head.log_id}: the URL leads to another Redis, or the data directory is another group's. Give "
            f"this node the right --redis, or an empty --data-dir"
        )
    if look.head is not None and look.head.sealed and log.sealing is None:
        problem = f"the records of group {log.group} are sealed, and this node has no key: give it the group's key file"
        raise ConfigError(setting="key_file", problem=problem)
    if look.head is not None and look.head.app not in ("", app):
        raise _other_app(f"the log of group {log.group} at {log.url}", look.head.app, app, "group")


def check_data_is_mine(checkpoint: Checkpoint, app: str) -> None:
    """What another application left in this directory is not to be given to this one.

    Raises `ConfigError`; otherwise the checkpoint remembers the application.
    """
    loaded, of = checkpoint.load(), checkpoint.noted(APP)
    if loaded is not None and loaded.view.log_id and of not in ("", app):
        raise _other_app(f"the checkpoint in {checkpoint.data_dir}", str(of), app, "data directory")
    checkpoint.note(APP, app)


def _other_app(what: str, of: str, app: str, place: str) -> ConfigError:
    hint = f'if it was renamed, go on by the old name (app="{of}"); if it is another one, give it a {place} of its own'
    return ConfigError(setting="app", problem=f"{what} is of `{of}`, and this node is of `{app}`: {hint}")
