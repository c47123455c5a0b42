"""The rules that give a Redis user what one role of replicator needs, and nothing else: `replicator acl`.

A rule is a word of `ACL SETUSER`. The commands are those that the calls of a log, the connections and the scripts make
(`redis_log.py`, `finders.py`, `lua/`), and those of RQ for jobs. A test gives each role its rules, has it do all that
it is for, and finds none that was not used.

- Redis 6.2 knows keys that a user may use, and not which of them he may only read. There a user who reports
  (HSET, XADD) may write the log as well, so a standby is kept from it by the commands alone: no SET, INCR, DEL, XTRIM.
- From 7.0 on a key may be for reading only (`%R~`), and scripts that only read have commands of their own, which ask
  for no more. A standby then writes three keys: the heartbeats, the acknowledgements and the requests.
- A rule may not name what the server does not know. So each server has its own list.

What no rule can tell apart is in docs/redis-security.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from ..runtime import checks
from .scripts import KEYS
from .urls import place_of

__all__ = ["ROLES", "SERVERS", "User", "user_for"]

#: The servers for which there are rules, by the oldest version for which they are right.
SERVERS = ("6.2", "7", "7.2", "8", "valkey")

#: What a user can be for. `sentinel` is a user of the sentinels, and not of Redis.
ROLES = ("node", "standby", "operator", "monitor", "jobs", "jobs-operator", "sentinel")

#: To connect: the run and the role of the server, and the name of the connection.
_CONNECT = ("client|setname", "info")

#: To look at a group, and to read its log.
_LOOK = ("exists", "get", "hget", "hgetall", "hmget", "pttl", "time", "xinfo|stream")
_READ = ("xread", "xrange")

#: What is known of the size of a log.
_SIZE = ("memory|usage", "xlen")

#: To report: a heartbeat, acknowledgements, requests, and where these begin.
_REPORT = ("hset", "xadd", "xrevrange")

#: To take a term, and to write.
_LEAD = ("del", "incr", "set", "type")

#: Of RQ: to put a job into a queue or a schedule, follow, list and cancel it, and to work.
_RQ = (
    *("blmove", "client|info", "client|list", "del", "eval", "evalsha", "exec", "exists", "expire", "get", "hget"),
    *("hgetall", "hincrby", "hincrbyfloat", "hmget", "hset", "lrange", "lrem", "multi", "persist", "ping", "publish"),
    *("rpush", "sadd", "script|load", "set", "smembers", "srem", "subscribe", "ttl", "unsubscribe", "unwatch"),
    *("watch", "xadd", "xrevrange", "zadd", "zrange", "zrangebyscore", "zrem", "zremrangebyscore", "zscore"),
)


class User(NamedTuple):
    """A Redis user and his rules, in the order in which they are to be set."""

    name: str
    rules: tuple[str, ...]

    def as_command(self) -> str:
        """For `redis-cli`. The user has these rules then, and no others."""
        return f"ACL SETUSER {self.name} reset {' '.join(self.rules)}"

    def as_line(self) -> str:
        """For the file of `aclfile`, or the configuration."""
        return f"user {self.name} {' '.join(self.rules)}"


def user_for(role: str, group: str, *, server: str, url: str, name: str = "", password: str = "") -> User:
    """The user with what `role` (one of `ROLES`) needs of `group` on `server` (one of `SERVERS`).

    `url`: of Redis, which says whether it is a cluster and which database it is. `name`: his, by default GROUP-ROLE.
    `password`: the rules have its hash; empty: he has none, and cannot log in. Raises `ConfigError`.
    """
    checks.name("group", group)
    hashed = [f"#{hashlib.sha256(password.encode()).hexdigest()}"] if password else []
    commands = sorted({f"+{name}" for name in _commands(role, server, url)})
    rules = ("on", *hashed, "resetchannels", *_keys(role, group, server), "-@all", *commands)
    return User(name or f"{group}-{role}", rules)


def _has_reading_apart(server: str) -> bool:
    return server != "6.2"


def _commands(role: str, server: str, url: str) -> Iterable[str]:
    place = place_of(url)
    if role == "sentinel":
        return [*_named(server), "sentinel|get-master-addr-by-name", "sentinel|master"]
    common = [*_named(server), "info", *_LOOK]
    common += ["cluster|slots"] if place.kind == "cluster" else []
    common += ["select"] if place.options.get("db") else []
    return common + _of_role(role, server)


def _named(server: str) -> list[str]:
    return ["client|setname", *(["client|setinfo"] if server in ("7.2", "8", "valkey") else [])]


def _of_role(role: str, server: str) -> list[str]:
    looks = ["eval_ro", "evalsha_ro"] if _has_reading_apart(server) else ["eval", "evalsha"]
    scripts = ["eval", "evalsha"]
    waits = ["wait", *(["waitaof"] if server in ("7.2", "8", "valkey") else [])]
    operator = [*looks, *scripts, *_READ, *_SIZE, "hdel", "hset", "xadd", *_LEAD]
    return {
        "node": [*looks, *scripts, *_READ, *_REPORT, *_LEAD, "xtrim", *waits],
        "standby": [*looks, *scripts, *_READ, *_REPORT],
        "operator": operator,
        "monitor": [*looks, *_READ, *_SIZE],
        "jobs": [*looks, *_READ, *_SIZE, *_RQ],
        "jobs-operator": [*operator, *_RQ],
    }[role]


def _keys(role: str, group: str, server: str) -> list[str]:
    if role == "sentinel":
        return []
    prefix = f"replicator:{{{group}}}:"
    if role in ("jobs", "jobs-operator"):
        own = ["~rq:*", "&rq:*"]
        separate = role == "jobs" and _has_reading_apart(server)
        return own + ([f"%R~{prefix}*", f"~{prefix}requests"] if separate else [f"~{prefix}*"])
    if role in ("node", "operator") or not _has_reading_apart(server):
        return [f"~{prefix}*"]
    written = [f"~{prefix}{key}" for key in KEYS if key in _REPORTED] if role == "standby" else []
    return [f"%R~{prefix}*", *written]


#: The keys that a standby writes.
_REPORTED = ("requests", "nodes", "acks")
