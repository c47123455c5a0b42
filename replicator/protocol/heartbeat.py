"""The heartbeat: what a node says of itself, how that is written down, and how it is read.

A node writes its heartbeat as JSON under its own name; a new one replaces the one before. Redis stamps it with its
clock (`log/lua/beat.lua`), so the clocks of nodes do not decide which node is alive.

Heartbeats only inform. They tell the others whom to elect, whom to wait for, and which node needs a snapshot; what may
be written is decided by terms and the fence. (One thing is believed: that a program was ended for a switchover,
`work_over`.) Anybody who can write to Redis can forge one, so reading is strict: an entry whose fields do not have the
types and ranges of a heartbeat is ignored, and hides no other node. A URL that is not that of a node (`node_url.py`) is
left out, and the node is there all the same (docs/trust.md).

Nodes of different versions understand each other: unknown fields are ignored, and missing ones have their defaults (but
for the name, the boot and the places in the log, which every version writes).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import orjson

from replicator.errors import ConfigError

from ..format.ids import ORIGIN, TERM_MAX, ZERO_ID, Position, RecordId
from . import node_url

__all__ = [
    "MISSED_BEATS_MAX",
    "NONCES_MAX",
    "Heartbeat",
    "is_nonce",
]

_IDS = ("changed", "cursor", "digest_at", "synced")

#: Those that older versions do not write.
_LATER_IDS = ("stalled_at", "fork_id")

#: How many nonces a heartbeat has at the most.
NONCES_MAX = 16

#: A heartbeat comes at least three times a lease, and no lease is longer than a day. One that says otherwise would
#: count as alive for years.
EVERY_MS_MAX = 86_400_000 // 3

#: A node that missed this many heartbeats in a row counts as dead. No rule of safety depends on it.
MISSED_BEATS_MAX = 3


class Heartbeat(NamedTuple):
    """A node as it last described itself, and how long ago that was (see `seen`).

    `every_ms`: how often it sends one. `stalled`: why it applies nothing any more, or cannot lead; `stalled_at`: the
    change at which `apply` failed, if that is why, and it has all before it; 0-0: it is not. `problem`: what is
    wrong with the log or around the node, or what the node does without. `candidate`: it takes over by itself when the
    lease is gone. `log_id`: the log that it follows. `synced`: the newest record whose effect is on its disk for good.

    `snapshot_bytes`: the size of the newest snapshot that it has, as sent; `changes_bytes`: of the changes since;
    `kept_bytes`: of all changes that the log still has.

    `prepares`: it wants to be asked before a switchover (`node/handover.py`); `prepared`: the request that it has
    answered, and why it refused, if it did. `work_over`: a term that it held and in which nothing of what only a
    leader does goes on beside it, or will; 0: it says so of none. `left`: it stopped in order, and has nothing that
    this Redis lacks.
    `goes_on`: in a new run it takes over whichever nodes are missing. `applied_min`: as in the head, as far as this
    node knows, its own settings included. `knew`: the nodes that took part when the log was last whole.

    `app`: its application; empty: its program knows of none. `version`: that of its code; `reads_min` and `reads_max`:
    the versions of the group that it reads; `group_version`: the one at its position.
    `last_error`: the newest problem that it had, whether it still has it or not, since `last_error_at` (unix ms of its
    own clock); empty: this boot had none.
    `process`: what runs the process of this node and would start it again, if that can be asked to end
    (`node/process_asks.py`); empty: it cannot.
    `rejects_errors`: an exception of `apply` is a rejection there (`on_apply_error="reject"`). `diverged`: the marker
    at which its state was found to differ from the primary's; empty: it was not. `given_up`: why the next snapshot is
    to take the place of its state; empty: it is not. `reinitialised`: the newest request for that which it has met.
    `behind_ms`: for how long the log has had what the node lacks, as far as it saw; 0: it lacked nothing.
    `fork_count`: the forks on its disk; `fork_id`: up to where the history goes that is in the newest. `stale_count`:
    how many records of terms that were over this boot has found in the log and ignored. `kept_count`: the files
    that were put aside for the one in which its state is kept.

    `heard`: the nonces that it was sent over HTTP lately, which prove that its URLs are its own (`node/url_proof.py`).
    `proxy`: the URL of the proxy of the program beside it (`service/proxy/`); empty: it has none.
    `follows_only`: why its Redis user lets it follow and not lead; empty: it may lead.

    `age_ms` and `beaten_at` are the reader's: the age of the heartbeat, and its stamp in unix ms of Redis.
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
    stalled_at: RecordId = ZERO_ID
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
    work_over: int = 0
    left: bool = False
    goes_on: bool = False
    applied_min: int = 0
    knew: tuple[str, ...] = ()
    app: str = ""
    version: int = 1
    reads_min: int = 1
    reads_max: int = 1
    group_version: int = 1
    rejects_errors: bool = False
    diverged: str = ""
    given_up: str = ""
    reinitialised: str = ""
    behind_ms: int = 0
    process: str = ""
    last_error: str = ""
    last_error_at: int = 0
    fork_count: int = 0
    fork_id: RecordId = ZERO_ID
    stale_count: int = 0
    kept_count: int = 0
    follows_only: str = ""
    heard: tuple[str, ...] = ()
    proxy: str = ""
    age_ms: int = 0
    beaten_at: int = 0

    @property
    def alive(self) -> bool:
        return not self.left and self.age_ms <= MISSED_BEATS_MAX * self.every_ms

    @property
    def is_sound(self) -> bool:
        """Whether its state may become that of the group."""
        return not (self.stalled or self.diverged or self.given_up)

    def to_json(self) -> bytes:
        fields = self._asdict()
        del fields["age_ms"], fields["beaten_at"]
        fields.update({name: str(fields[name]) for name in ("position", *_IDS, *_LATER_IDS)})
        return orjson.dumps(fields)

    @classmethod
    def seen(cls, data: bytes, *, beaten_at: int, now_ms: int) -> Heartbeat | None:
        """Read a heartbeat that was stamped at `beaten_at` and is seen at `now_ms`, both by the clock of Redis.

        The age of a heartbeat whose stamp is ahead by more than one interval cannot be told. A live node replaces such
        a heartbeat within one interval, so the node counts as one that has just died: neither alive, nor silent for
        long. A reader that looks again knows better (`liveness.py`).
        """
        heartbeat = cls.from_json(data, age_ms=0)
        if heartbeat is None:
            return None
        ahead = beaten_at - now_ms
        age_ms = max(0, -ahead) if ahead <= heartbeat.every_ms else MISSED_BEATS_MAX * heartbeat.every_ms + 1
        return heartbeat._replace(beaten_at=beaten_at, age_ms=age_ms)

    @classmethod
    def from_json(cls, data: bytes, *, age_ms: int) -> Heartbeat | None:
        """The inverse of `to_json`; None for what is not a heartbeat: a bad entry must not hide other nodes."""
        heartbeat = _read(data)
        return None if heartbeat is None else heartbeat._replace(age_ms=age_ms)


#: Whoever waits for something looks far more often than nodes beat, and each time at the same bytes.
@lru_cache(maxsize=256)
def _read(data: bytes) -> Heartbeat | None:
    try:
        fields = orjson.loads(data)
        known = {name: fields[name] for name in Heartbeat._fields if name in fields}
        known["position"] = Position.parse(fields["position"])
        known["knew"] = _names(fields.get("knew", []))
        known["heard"] = tuple(nonce for nonce in _names(fields.get("heard", []))[:NONCES_MAX] if is_nonce(nonce))
        known.update({name: RecordId.parse(fields[name]) for name in _IDS})
        known.update({name: RecordId.parse(fields.get(name, "0-0")) for name in _LATER_IDS})
        heartbeat = Heartbeat(**known | {"age_ms": 0, "beaten_at": 0})
    except (ValueError, TypeError, KeyError, AttributeError, ConfigError):
        return None
    if not all(map(_is_like, heartbeat, _SOME_HEARTBEAT)) or heartbeat.every_ms > EVERY_MS_MAX:
        return None
    return heartbeat._replace(http=node_url.believed(heartbeat.http), proxy=node_url.believed(heartbeat.proxy))


def is_nonce(text: str) -> bool:
    """Whether it is 32 hexadecimal digits."""
    return len(text) == 32 and set(text) <= _HEX


_HEX = frozenset("0123456789abcdef")


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TypeError(value)
    return tuple(value)


#: An example, from which the type of each field is taken.
_SOME_HEARTBEAT = Heartbeat("a", "a1")


def _is_like(value: object, other: object) -> bool:
    # Exact types: True would pass for an int.
    return type(value) is type(other) and (type(value) is not int or 0 <= value <= TERM_MAX)
