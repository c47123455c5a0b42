"""How a node goes about it: what may be the same for all nodes of a group, whatever they replicate.

The options are spelt here, once. `Node` and `Host.node` take them as keywords, `replicator node` as options of the
command line; whatever lies between hands a `NodeOptions` on.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict, cast

from ..errors import ConfigError
from ..format.ids import TERM_MAX
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..log.interface import Log
from ..protocol import election
from ..runtime import checks
from .ha_policy import HaPolicy
from .lease import LEASE_S, renew_every_s
from .release import ReleaseKeywords
from .scheduler import Scheduler
from .vitals import Watchdog
from .waiters import Level

__all__ = [
    "BEAT_EVERY_S_MAX",
    "FAILOVER_WITHOUT",
    "LEASE_S_MIN",
    "ON_APPLY_ERROR",
    "ON_LOG_LOST",
    "ON_RESTART",
    "HostedNodeKeywords",
    "NodeArguments",
    "NodeKeywords",
    "NodeOptions",
    "NodeSettings",
]

#: The time of a few round trips.
LEASE_S_MIN = 0.1

#: More heartbeats are of no use to anybody, and each of them is a few round trips.
BEAT_EVERY_S_MIN = 0.001

#: A heartbeat at least this often, however long the lease is.
BEAT_EVERY_S_MAX = election.BEAT_EVERY_MS_MAX / 1000

#: A digest of 80 MB takes a node about a second: a thousandth of its time.
VERIFY_EVERY_S = 600.0
VERIFY_EVERY_S_MIN = 0.001

ON_RESTART = ("primary", "standby")
ON_LOG_LOST = ("wait", "recover")
FAILOVER_WITHOUT = ("safe", "always")
ON_APPLY_ERROR = ("stall", "reject")


class NodeKeywords(TypedDict, total=False):
    """The fields of `NodeOptions`, as keywords of a call."""

    ack: str
    lease_s: float
    auto_promote: bool
    on_restart: str
    on_log_lost: str
    failover_without: str
    on_apply_error: str
    verify_every_s: float
    beat_every_s: float | None
    snapshot_bytes_max: int
    watchdog_s: float | None
    key_file: str | Path | None


class HostedNodeKeywords(NodeKeywords, ReleaseKeywords, total=False):
    """And what the application is, which versions of it, and whether it is well."""

    watchdog: Watchdog | None


class NodeArguments(HostedNodeKeywords, total=False):
    """And what a node finds around it, if not a Redis at a URL and threads of its own: a `Host` brings both."""

    log: Log | None
    scheduler: Scheduler | None


class NodeSettings(NodeArguments, total=False):
    """And what else `Node` takes, where all of it may come from elsewhere: see `environment.py`."""

    group: str
    name: str
    redis: str
    data_dir: str | Path
    http: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeOptions:
    """`ack`: what `submit` waits for (see `acks.py`). `lease_s`: how long the primary may go on without hearing from
    Redis. `auto_promote`: whether this node takes over by itself when the primary's lease is gone. `on_restart`:
    `"primary"` takes the term again that this node held when it ended, `"standby"` does not. `on_log_lost`: what it
    does when Redis has no log any more: `"wait"` for `replicator recover`, serving reads; `"recover"` founds it anew,
    from the most advanced node that does so. `failover_without`: when it leads by itself after Redis may have lost
    something; `"safe"`: only if the nodes that are missing cannot be all that hold a change acknowledged as
    `applied:N` (`protocol/missing_nodes.py`); `"always"`: whoever is missing. `on_apply_error`: what an exception of
    `apply` means that is no `ChangeRejected`: `"stall"`, the node applies nothing more; `"reject"`, it is a rejection
    like any other, for states that move nothing before they raise; the same on all nodes. `verify_every_s`: how often
    the primary, if it wrote, has all nodes digest their states, so that those that differ are found; 0: never.
    `beat_every_s`: how often it reports, if not once a second or a third of the lease, whichever is shorter; after
    three times that without a report others take it for dead. `snapshot_bytes_max`: what a snapshot may weigh when it
    is unpacked, its bytes and what JSON makes of them (`format/unpacked_size.py`); the same on all nodes. `watchdog_s`:
    for how long the event loop of `async with node` may not turn, and a `watchdog` not return, before the node leads no
    more (`vitals.py`); None: for as long as the lease is; 0: the loop may do as it likes. `key_file`: the keys of the
    group, if its records are sealed (`storage/keyring.py`); the same on all nodes; None: they are not.

    Raises `ConfigError`.
    """

    ack: str = "appended"
    lease_s: float = LEASE_S
    auto_promote: bool = False
    on_restart: str = "primary"
    on_log_lost: str = "wait"
    failover_without: str = "safe"
    on_apply_error: str = "stall"
    verify_every_s: float = VERIFY_EVERY_S
    beat_every_s: float | None = None
    snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX
    watchdog_s: float | None = None
    key_file: str | Path | None = None

    def __post_init__(self) -> None:
        Level.parse(self.ack)
        checks.seconds("lease_s", self.lease_s, least=LEASE_S_MIN)
        if self.beat_every_s is not None:
            most = renew_every_s(self.lease_s)
            checks.seconds("beat_every_s", self.beat_every_s, least=BEAT_EVERY_S_MIN, most=most)
        if self.watchdog_s is not None:
            checks.seconds("watchdog_s", self.watchdog_s)
        if self.verify_every_s != 0:
            checks.seconds("verify_every_s", self.verify_every_s, least=VERIFY_EVERY_S_MIN)
        checks.flag("auto_promote", self.auto_promote)
        checks.choice("on_restart", self.on_restart, ON_RESTART)
        checks.choice("on_log_lost", self.on_log_lost, ON_LOG_LOST)
        checks.choice("failover_without", self.failover_without, FAILOVER_WITHOUT)
        checks.choice("on_apply_error", self.on_apply_error, ON_APPLY_ERROR)
        if not isinstance(self.key_file, str | Path | None):
            raise ConfigError(setting="key_file", problem=f"{self.key_file!a:.80} is not the path of a file")
        checks.whole("snapshot_bytes_max", self.snapshot_bytes_max, least=1, most=TERM_MAX)

    @property
    def keywords(self) -> NodeKeywords:
        """For a call that takes them one by one."""
        return cast(NodeKeywords, asdict(self))

    @property
    def level(self) -> Level:
        """What writes wait for."""
        return Level.parse(self.ack)

    @property
    def policy(self) -> HaPolicy:
        """What the node does unasked."""
        beat_every_s = self.beat_every_s
        if beat_every_s is None:
            beat_every_s = min(renew_every_s(self.lease_s), BEAT_EVERY_S_MAX)
        return HaPolicy(
            beat_every_s=beat_every_s,
            auto_promote=self.auto_promote,
            takes_term_again=self.on_restart == "primary",
            recovers=self.on_log_lost == "recover",
            goes_on=self.failover_without == "always",
            applied_min=self.level.standbys,
            verify_every_s=self.verify_every_s,
        )
