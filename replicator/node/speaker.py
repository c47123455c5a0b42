"""Who a log line of a node is of, and what many nodes of one process say at the same time, said once.

A thousand groups of a host share one Redis, and one disk: what happens to that happens to all of them within a second.
`Crowd` lets the first one say so, and counts the others; one more line sums them up. Every single line is there at
DEBUG. That Redis is away is not even said once more: `Outage` is one for all who share it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import LogUnavailable
from ..replica.node_state_cell import NodeStateCell
from ..runtime.event_log import SPEAKER, EventLogger, Speaker, speaking
from ..runtime.log_once import Lasting, LogOnce

__all__ = ["Crowd", "NodeSpeaker", "Outage", "Shared"]

logger = EventLogger(__name__)

#: So many nodes of a process all have their say.
CROWD_MIN = 10

#: What nobody has said for so long is summed up, and at the latest after so long.
QUIET_S = 1.0
SUM_UP_AFTER_S = 10.0

#: What was summed up once is only summed up, until nobody has said it for so long.
CROWDED_FOR_S = 60.0

#: A node whose turn comes late finds only then that its connection broke: that is no second time that Redis was away.
STRAGGLERS_S = 3.0

#: Groups that a summary names.
NAMED_MAX = 5

_REDIS_AWAY = Lasting("redis.unavailable", "redis.back", "Redis is back")
_REDIS_BUSY = Lasting("redis.busy", "redis.ready", "Redis does what it is asked again")

#: What a Redis answers that is about to answer as it should: part of the same story as that it was away.
_COMES_BACK = re.compile(r"\b(LOADING|MASTERDOWN)\b")

#: What a Redis answers that may do what it is asked a little later, by itself: a failover is under way, or a script.
_PASSES = re.compile(r"\b(READONLY|MOVED|ASK|TRYAGAIN|CLUSTERDOWN|BUSY)\b")


class NodeSpeaker:
    """A node. `crowd`: who else is in this process."""

    def __init__(self, group: str, node: str, crowd: Crowd | None = None) -> None:
        self.group = group
        self.node = node
        #: Drawn when it starts.
        self.boot = ""
        #: What it knows, once its checkpoint is loaded.
        self.known: NodeStateCell | None = None
        self._crowd = crowd

    def fields(self) -> dict[str, Any]:
        who = {"group": self.group, "node": self.node, "boot": self.boot}
        if self.known is None:
            return who
        view = self.known.node_state.view
        return {**who, "term": view.term, "position": str(view.position.id)}

    def admits(self, level: int, event: str, text: str) -> bool:
        return self._crowd is None or self._crowd.admits(level, event, text, self.group)


@dataclass(slots=True)
class _Said:
    level: int
    event: str
    text: str
    since: float
    last: float
    #: How many more groups said so, and some of them.
    more: int = 0
    groups: list[str] = field(default_factory=list)
    crowded: bool = False


class _Host:
    """Speaks for a process with many groups."""

    def __init__(self, size: Callable[[], int]) -> None:
        self._size = size

    def fields(self) -> dict[str, Any]:
        return {"groups": self._size()}

    def admits(self, level: int, event: str, text: str) -> bool:
        return True


class Crowd:
    """Lines of many nodes in one process, of which `size` says how many there are. Thread-safe."""

    def __init__(self, size: Callable[[], int], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._said: dict[tuple[str, str], _Said] = {}
        self.speaker: Speaker = _Host(size)

    def admits(self, level: int, event: str, text: str, group: str) -> bool:
        """Whether this group is the first one to say so, for a while."""
        if level <= logging.DEBUG or self._size() <= CROWD_MIN:
            return True
        now, key = self._clock(), (event, re.sub(r"\d+", "0", text.replace(group, "")))
        with self._lock:
            said = self._said.get(key)
            if said is None:
                self._said[key] = _Said(level, event, text, now, now)
                return True
            if not said.more:
                said.since = now
            said.more += 1
            said.last = now
            if len(said.groups) < NAMED_MAX:
                said.groups.append(group)
            return False

    def sum_up(self, *, at_once: bool = False) -> None:
        """Tell of what nobody says any more, or has been said for long. To be called now and then."""
        if not self._said:
            return
        now, due = self._clock(), []
        with self._lock:
            for key, said in list(self._said.items()):
                quiet_s = now - said.last
                if said.more and (at_once or quiet_s >= QUIET_S or now - said.since >= SUM_UP_AFTER_S):
                    self._said[key] = replace(said, since=now, more=0, groups=[], crowded=True)
                    due.append(said)
                elif not said.more and quiet_s >= (CROWDED_FOR_S if said.crowded else QUIET_S):
                    del self._said[key]
        for said in due:
            self._tell(said)

    def _tell(self, said: _Said) -> None:
        with speaking(self.speaker):
            such_as = ", ".join(said.groups)
            text = "the same in %d more " + ("group" if said.more == 1 else "groups") + " (%s%s): %s"
            dots = ", ..." if said.more > len(said.groups) else ""
            logger.at(said.level, said.event, text, said.more, such_as, dots, said.text, groups=said.more)


class Outage:
    """That Redis is away: told once for all who share a connection to it, and once when nobody misses it any more."""

    def __init__(
        self,
        speaker: Speaker | None = None,
        *,
        patience_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._speaker = speaker
        self._lock = threading.Lock()
        self._without: set[int] = set()
        self._log_once = LogOnce(logger, patience_s=patience_s, clock=clock)

    def missed(self, by: object, problem: LogUnavailable) -> bool:
        """That one has no Redis for now. False: Redis is there, and refuses for good."""
        text = str(problem)
        away = not problem.refused or _COMES_BACK.search(text) is not None
        if not away and _PASSES.search(text) is None:
            return False
        with self._lock:
            self._without.add(id(by))
        with speaking(self._speaker or SPEAKER.get()):
            self._log_once.tell("redis", _REDIS_AWAY if away else _REDIS_BUSY, text, kind="away" if away else "busy")
        return True

    @property
    def is_over(self) -> bool:
        """Whether nobody was told of one, or all were told that it is over."""
        return self._log_once.is_silent

    def found(self, by: object) -> None:
        """It answers that one again."""
        if self.is_over:  # as almost always
            return
        with self._lock:
            self._without.discard(id(by))
            if self._without:
                return
        with speaking(self._speaker or SPEAKER.get()):
            self._log_once.over("redis")

    def forget(self, by: object) -> None:
        """That one ends, and misses nothing any more."""
        with self._lock:
            self._without.discard(id(by))


class Shared:
    """What the nodes of one process share, of which `size` says how many there are."""

    def __init__(self, size: Callable[[], int], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.crowd = Crowd(size, clock=clock)
        self.outage = Outage(self.crowd.speaker, patience_s=STRAGGLERS_S, clock=clock)
