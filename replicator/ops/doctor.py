"""Finds what may go wrong with a group before it does, in one look at its Redis, its log and its nodes.

`Facts` are gathered from Redis. Every check is a plain function of them and yields one sentence: what it found and, if
that is not well, what to do about it. Nothing is changed. What Redis does not tell this user is reported as not known,
which is no problem by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from ..errors import LogUnavailable
from ..log.interface import LogSize
from ..log.redis_log import RedisLog
from ..log.server import Server
from ..log.tls import Transport
from ..protocol.group import GroupView
from .connection_checks import checks_of_connection
from .diagnosis import PROBLEM, WARNING, Check, checks_of_group, checks_of_nodes, ok, problem, warning
from .group_status import Status, status_of

__all__ = ["Check", "Facts", "Report", "checks", "doctor"]

NOT_KNOWN = "not known"

VERSION_MIN = (6, 2)

#: How much more than its entries a stream takes in memory: measured up to 1.25 times on jemalloc, and a fixed amount.
OVERHEAD = 1.25
OVERHEAD_BYTES = 1024 * 1024

#: The share of the machine's memory above which a Redis without maxmemory is in danger.
MACHINE_SHARE_MAX = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """All checks, in the order in which an operator would look at them."""

    group: str
    checks: list[Check]

    @property
    def problem_count(self) -> int:
        return sum(check.level == PROBLEM for check in self.checks)

    @property
    def warning_count(self) -> int:
        return sum(check.level == WARNING for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form. Its names are a contract."""
        return {
            "group": self.group,
            "problem_count": self.problem_count,
            "warning_count": self.warning_count,
            "checks": [asdict(check) for check in self.checks],
        }


class Facts(NamedTuple):
    """What was found. `look` is None if the keys of the group could not be read; `unreadable` says why."""

    group: str
    server: Server
    look: GroupView | None = None
    size: LogSize = LogSize(None, None)
    unreadable: str = ""
    transport: Transport = Transport()

    @property
    def status(self) -> Status | None:
        return status_of(self.group, self.look, self.size) if self.look else None

    def number(self, name: str) -> int | None:
        """A number in INFO; None if it is not there."""
        return _number(self.server.info.get(name))


def doctor(log: RedisLog) -> Report:
    """Look at the group and its Redis. Raises `LogUnavailable` if Redis does not answer."""
    server = log.server()
    try:
        facts = Facts(log.group, server, log.look(), log.size(), transport=log.transport)
    except LogUnavailable as error:
        unreadable = str(error.fields["problem"])
        facts = Facts(log.group, server, error.look, unreadable=unreadable, transport=log.transport)
    return Report(group=log.group, checks=checks(facts))


def checks(facts: Facts) -> list[Check]:
    """All checks of these facts."""
    found = [check for each in _OF_REDIS for check in each(facts)]
    if facts.look is None:
        return [*found, *_unreadable(facts)]
    log, *leading = checks_of_group(facts.look)
    of_the_log = [check for each in _OF_THE_LOG for check in each(facts)]
    return [*found, log, *of_the_log, *leading, *checks_of_nodes(facts.look)]


# --- Redis -----------------------------------------------------------------------------------------------------------


def _reachable(facts: Facts) -> Iterator[Check]:
    info = facts.server.info
    text = info.get("redis_version", "")
    what = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {text}"
    version = tuple(int(word) for word in text.split(".") if word.isdigit())
    if not version:
        yield _not_known("redis", "it answers, and its version is not known", "allow this user INFO")
    elif version < VERSION_MIN:
        yield problem("redis", f"{what} is too old", "replicator needs Redis 6.2, or Valkey")
    else:
        yield ok("redis", f"{what} answers")


def _connection(facts: Facts) -> Iterator[Check]:
    return checks_of_connection(facts.transport)


def _role(facts: Facts) -> Iterator[Check]:
    if facts.server.info.get("role") == "slave":
        yield problem(
            "role", "this is a replica, which takes no writes", "name the master, or its Sentinels, in the URL"
        )


def _eviction(facts: Facts) -> Iterator[Check]:
    """Whether a full Redis may evict keys of the group: the lease (volatile policies), or any of them."""
    policy, limit = facts.server.info.get("maxmemory_policy"), facts.number("maxmemory")
    what = f"maxmemory-policy is {policy}"
    if policy is None or limit is None:
        yield _not_known("eviction", "maxmemory-policy is not known", "it has to be noeviction")
    elif policy == "noeviction":
        yield ok("eviction", what)
    elif not limit:
        yield warning("eviction", f"{what}, and there is no maxmemory yet", "set noeviction")
    elif policy.startswith("volatile"):
        yield warning("eviction", f"{what}: it may evict the lease, and then the primary is replaced", "set noeviction")
    else:
        yield problem("eviction", f"{what}: Redis may throw the log away", "set noeviction")


def _memory(facts: Facts) -> Iterator[Check]:
    """Whether Redis runs out of memory: against maxmemory, or without one against the machine's."""
    used, limit, machine = (facts.number(name) for name in ("used_memory", "maxmemory", "total_system_memory"))
    if used is None or limit is None:
        yield _not_known("memory", "how much memory Redis uses is not known", "allow this user INFO")
    elif limit and used >= limit:
        yield problem("memory", f"all of maxmemory, {_mb(limit)}, is used, and no write is taken", "raise it")
    elif limit:
        yield ok("memory", f"{_mb(used)} of {_mb(limit)} (maxmemory) are used")
    elif machine and used > MACHINE_SHARE_MAX * machine:
        what = f"{_mb(used)} of the machine's {_mb(machine)} are used, and there is no maxmemory"
        yield warning("memory", what, "set one, so that Redis refuses writes instead of being killed")
    else:
        yield ok("memory", f"{_mb(used)} are used, and there is no maxmemory")


def _durability(facts: Facts) -> Iterator[Check]:
    """What a restart or a power cut would take of what was acknowledged."""
    aof, fsync = facts.server.info.get("aof_enabled"), facts.server.config.get("appendfsync")
    what = f"appendonly is on, appendfsync is {fsync}"
    if aof is None:
        yield _not_known("durability", "whether there is an append-only file is not known", "allow this user INFO")
    elif aof == "0":
        what = "appendonly is off: a restart of Redis loses what was written since its last dump, or all of it"
        yield warning("durability", what, "set `appendonly yes`, or have writes wait for standbys (`ack applied:N`)")
    elif fsync is None:
        what = "appendonly is on, and appendfsync, which says what a power cut takes, is not known"
        yield _not_known("durability", what, "allow this user CONFIG GET")
    elif fsync == "always":
        yield ok("durability", f"{what}: a power cut takes nothing that was acknowledged")
    elif fsync == "everysec":
        loses = "a power cut, or a kill -9 beside a busy disk, may take the last second or two of what was acknowledged"
        yield ok("durability", f"{what}: {loses}, but for `ack fsynced` and `applied:N`")
    else:
        loses = "a power cut may take all that the system had not written by itself, half a minute or so"
        yield warning("durability", f"{what}: {loses}", "set everysec or always")


def _disk(facts: Facts) -> Iterator[Check]:
    info = facts.server.info
    if info.get("aof_enabled") == "1" and info.get("aof_last_write_status", "ok") != "ok":
        yield problem("disk", "Redis cannot write its append-only file, and takes no writes", "see to its disk")
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        yield warning("disk", "Redis could not rewrite its append-only file, which grows on", "look at Redis' log")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        what = "the last dump of Redis failed, after which it takes no writes (stop-writes-on-bgsave-error)"
        yield warning("disk", what, "see to its disk")


def _replicas(facts: Facts) -> Iterator[Check]:
    """Whether replicas are online, and whether a master that is cut off from them would stop acknowledging."""
    count = facts.number("connected_slaves")
    if count is None or facts.server.info.get("role") == "slave":
        return
    if not count:
        yield ok("replicas", "this Redis has none: if its machine is lost, so is the log, and `recover` founds it anew")
        return
    needed = _number(facts.server.config.get("min-replicas-to-write"))
    lag = facts.server.config.get("min-replicas-max-lag")
    slaves = [_slave(facts.server.info.get(f"slave{number}", "")) for number in range(count)]
    late = sum(slave.get("state", "online") != "online" for slave in slaves)
    there = f"{count} are connected"
    if late:
        yield warning("replicas", f"{there}, and {late} of them not online", "look at their logs")
    if needed is None:
        yield _not_known("replicas", f"{there}; min-replicas-to-write is not known", "allow this user CONFIG GET")
    elif not needed:
        what = "min-replicas-to-write is 0: a master that was cut off acknowledges what nobody keeps"
        yield warning("replicas", f"{there}, and {what}", "set it to 1")
    elif needed > count - late:
        yield problem("replicas", f"{there}, min-replicas-to-write is {needed}: no write is taken", "start the others")
    elif not late:
        yield ok("replicas", f"{there}; min-replicas-to-write is {needed}, min-replicas-max-lag {lag}")


def _slave(text: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)


# --- the log ---------------------------------------------------------------------------------------------------------


def _unreadable(facts: Facts) -> Iterator[Check]:
    yield problem("log", "the keys of the group cannot be read", facts.unreadable)


def _term_key(facts: Facts) -> Iterator[Check]:
    """Whether the term key agrees with the head. A key that is ahead fences every node."""
    look, key = _looked(facts), _number(facts.server.term_key)
    if look.head is None:
        return
    term = look.head.term
    if look.term > term:
        what = f"the key has {look.term}, the log {term}: somebody moved the key, and no node can write"
        yield problem("term", what, "`replicator promote NODE`")
    elif key != term:
        what = f"the key {'is gone' if key is None else f'has {key}'}, the log has {term}, which counts"
        yield warning("term", what, "the next promotion sets it; find out who changed it")
    else:
        yield ok("term", f"the key and the log have {term}")


def _size(facts: Facts) -> Iterator[Check]:
    """Whether the log is larger than its rules allow (docs/snapshots.md, *What the log weighs*)."""
    status = facts.status
    if status is None or status.last_id is None:
        return
    if status.log_bytes is None:
        yield _not_known("size", "what the log takes is not known", "allow this user MEMORY USAGE")
    elif status.snapshot_bytes is None or status.kept_bytes is None:
        what = f"the log takes {_mb(status.log_bytes)}; only a primary knows how much it should take"
        yield _not_known("size", what, "see below why nobody leads")
    else:
        most = log_bytes_max(status.snapshot_bytes, status.kept_bytes + _unreported(status))
        parts = (
            f"two snapshots of {_mb(status.snapshot_bytes)}, {_mb(status.kept_bytes)} of changes since the older one"
        )
        what = f"the log takes {_mb(status.log_bytes)}, and should take at most {_mb(most)} ({parts})"
        if status.log_bytes <= most:
            yield ok("size", what)
        else:
            why = "a snapshot was broken off, or the state was larger before"
            yield warning("size", f"{what}: {why}", "`replicator snapshot` cuts the log")


def log_bytes_max(snapshot_bytes: int, kept_bytes: int) -> int:
    """The memory of Redis that a log may take: two snapshots, the changes since the older one, and the overhead."""
    return int(OVERHEAD * (2 * snapshot_bytes + kept_bytes)) + OVERHEAD_BYTES


def _unreported(status: Status) -> int:
    """Roughly by how many bytes the log has grown since the primary's heartbeat."""
    records = max((node.lag_records or 0 for node in status.nodes if node.node == status.holder), default=0)
    return records * (status.log_bytes or 0) // max(1, status.record_count or 0)


def _room(facts: Facts) -> Iterator[Check]:
    """Whether the next snapshot fits under maxmemory."""
    status, used, limit = facts.status, facts.number("used_memory"), facts.number("maxmemory")
    if not limit or used is None or status is None or status.snapshot_bytes is None:
        return
    left, needed = max(0, limit - used), int(OVERHEAD * status.snapshot_bytes) + OVERHEAD_BYTES
    what = f"{_mb(left)} are left under maxmemory, and the next snapshot takes up to {_mb(needed)}"
    if left < needed:
        yield warning("room", what, "raise maxmemory, or writes will be refused")
    else:
        yield ok("room", what)


# --- inside ----------------------------------------------------------------------------------------------------------


def _not_known(check: str, what: str, do: str) -> Check:
    return replace(warning(check, what, do), level=NOT_KNOWN)


def _looked(facts: Facts) -> GroupView:
    assert facts.look is not None
    return facts.look


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _mb(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1000:.1f} kB"


_OF_REDIS = (_reachable, _connection, _role, _eviction, _memory, _durability, _disk, _replicas)
_OF_THE_LOG = (_term_key, _size, _room)
