"""What a node says of itself once a beat, and how it is written down."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from replicator.errors import ConfigError

from ..format.ids import ORIGIN, TERM_MAX, ZERO_ID, Position, RecordId

__all__ = [
    "MISSED_BEATS_MAX",
    "Heartbeat",
]

#: A node that missed this many heartbeats in a row is taken for dead. No rule of safety depends on it.
MISSED_BEATS_MAX = 3


class Heartbeat(NamedTuple):
    """A node as it last described itself (its heartbeat), and how long ago that was (`seen` says how that is told).

    `stalled`: why it takes nothing in any more, or cannot lead; `problem`: what is wrong with the log, or beside the
    node, or what it does without. `candidate`: it takes over by itself when the lease is gone. `log_id`: of the log
    that it follows. `synced`: the newest record that is in the state on its disk, and stays there. `snapshot_bytes`: of
    the newest snapshot that it has, as sent; `changes_bytes`: of the changes since; `kept_bytes`: of all changes that
    the log still has. `prepares`: before a switchover it wants to be asked to (`node/handover.py`); `prepared`: the ask
    that it has answered, and why not, if so. `beaten_at`: the stamp of the heartbeat, in unix ms of Redis.
    `left`: it stopped in order, and has nothing that this Redis has not. `goes_on`: it takes over in a new run whoever
    is missing. `applied_min`: as in the head, as far as this node knows, from its own settings, too. `knew`: who took
    part when the log was whole last.
    """

    node: str
    boot: str
    run: str = ""
    term: int = 0
    role: str = "standby"
    position: Position = ORIGIN
    changed: RecordId = ZERO_ID
    cursor: RecordId = ZERO_ID
    in_sync: bool = True
    every_ms: int = 1000
    http: str = ""
    applied_at: int = 0
    stalled: str = ""
    digest: str = ""
    digest_at: RecordId = ZERO_ID
    candidate: bool = False
    log_id: str = ""
    problem: str = ""
    synced: RecordId = ZERO_ID
    snapshot_bytes: int = 0
    changes_bytes: int = 0
    kept_bytes: int = 0
    prepares: bool = False
    prepared: str = ""
    left: bool = False
    goes_on: bool = False
    applied_min: int = 0
    knew: tuple[str, ...] = ()
    age_ms: int = 0
    beaten_at: int = 0

    @property
    def alive(self) -> bool:
        return not self.left and self.age_ms <= MISSED_BEATS_MAX * self.every_ms

    def to_json(self) -> bytes:
        fields = self._asdict()
        del fields["age_ms"], fields["beaten_at"]
        fields.update({name: str(fields[name]) for name in ("position", "changed", "cursor", "digest_at", "synced")})
        return orjson.dumps(fields)

    @classmethod
    def seen(cls, data: bytes, *, beaten_at: int, now_ms: int) -> Heartbeat | None:
        """A heartbeat that was stamped at `beaten_at`, seen at `now_ms`, both by the clock of Redis.

        From a stamp that is ahead by more than a beat nobody can tell how old it is. Whoever lives puts another one in
        its place within a beat, so the node is taken for one that has just died: not for one that lives, and not for
        one that was not heard of for long. Who looks again knows better (`liveness.py`).
        """
        heartbeat = cls.from_json(data, age_ms=0)
        if heartbeat is None:
            return None
        ahead = beaten_at - now_ms
        age_ms = max(0, -ahead) if ahead <= heartbeat.every_ms else MISSED_BEATS_MAX * heartbeat.every_ms + 1
        return heartbeat._replace(beaten_at=beaten_at, age_ms=age_ms)

    @classmethod
    def from_json(cls, data: bytes, *, age_ms: int) -> Heartbeat | None:
        """None for what is not a heartbeat: one bad entry must not hide the other nodes."""
        try:
            fields = orjson.loads(data)
            known = {name: fields[name] for name in cls._fields if name in fields}
            known["position"] = Position.parse(fields["position"])
            known["knew"] = _names(fields.get("knew", []))
            known.update({name: RecordId.parse(fields[name]) for name in ("changed", "cursor", "digest_at", "synced")})
            heartbeat = cls(**known | {"age_ms": age_ms, "beaten_at": 0})
        except (ValueError, TypeError, KeyError, AttributeError, ConfigError):
            return None
        return heartbeat if all(map(_is_like, heartbeat, _SOME_HEARTBEAT)) else None


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError(value)
    return tuple(value)


#: Shows of what type each field is.
_SOME_HEARTBEAT = Heartbeat("a", "a1")


def _is_like(value: object, other: object) -> bool:
    # True is an int, too.
    return type(value) is type(other) and (type(value) is not int or 0 <= value <= TERM_MAX)
