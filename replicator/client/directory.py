"""Where the nodes of a group are: by what they report to Redis, or a list that somebody gave."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Protocol

from ..errors import ConfigError, LogUnavailable, UnknownGroup
from ..log.redis_log import RedisLog
from ..protocol.group import GroupView
from ..runtime import checks
from .known import Nodes

__all__ = ["Directory", "RedisDirectory", "StaticDirectory", "nodes_of"]

#: How long Redis may take to say who is there. A client that knows some nodes goes on with those.
ANSWER_WITHIN_S = 2.0


class Directory(Protocol):
    """May block, and be asked by several threads at once."""

    def look(self, until: float) -> Nodes:
        """The nodes, by `until` (of `time.monotonic`). Raises `LogUnavailable`, `UnknownGroup`."""
        ...

    def close(self) -> None: ...


class StaticDirectory:
    """A list of URLs. Which of them leads, they say themselves."""

    def __init__(self, urls: Sequence[str]) -> None:
        if isinstance(urls, str) or not urls:
            raise ConfigError(setting="urls", problem="give a list of at least one URL: ['http://HOST:PORT', ...]")
        self._nodes = Nodes(None, tuple(dict.fromkeys(map(_base, urls))), has_roles=False)

    def look(self, until: float) -> Nodes:
        return self._nodes

    def close(self) -> None:
        pass


class RedisDirectory:
    """The group's heartbeats in Redis. They have the URL of each node that serves HTTP."""

    def __init__(self, url: str, group: str) -> None:
        self._log = RedisLog(url, group, timeout_s=ANSWER_WITHIN_S)
        self._groups: list[str] | None = None
        self._asked_for_groups = False
        self._lock = threading.Lock()

    def look(self, until: float) -> Nodes:
        try:
            view = self._log.within(min(until, time.monotonic() + ANSWER_WITHIN_S)).look()
        except LogUnavailable as error:
            if error.look is None:
                raise
            view = error.look  # the log cannot be written, but the nodes are there to be read from
        if not view.heartbeats and view.head is None:
            raise UnknownGroup(self._log.group, self._log.url, self._others())
        return nodes_of(view)

    def _others(self) -> list[str] | None:
        with self._lock:
            if not self._asked_for_groups:
                self._groups, self._asked_for_groups = self._log.groups(), True
            return self._groups

    def close(self) -> None:
        self._log.close()


def nodes_of(view: GroupView) -> Nodes:
    """Who leads, and who can be read from: standbys that live, lack nothing, and whose state is sound."""
    head = view.head
    holder = view.heartbeats.get(head.node) if head else None
    leads = holder is not None and head is not None and holder.boot == head.boot and holder.alive and view.same_run
    others = [
        heartbeat.http.rstrip("/")
        for heartbeat in view.heartbeats.values()
        if heartbeat is not holder and heartbeat.http and heartbeat.alive and heartbeat.in_sync and heartbeat.is_sound
    ]
    primary = holder.http.rstrip("/") if holder is not None and leads else ""
    return Nodes(primary or None, tuple(sorted(set(others))))


def _base(value: object) -> str:
    url = checks.url("urls", value)
    if not url or set(url) & set("?#"):
        raise ConfigError(setting="urls", problem=f"{value!r} is not the address of a node: http://HOST:PORT")
    return url.rstrip("/")
