"""The log in Redis: its scripts, its keys, and what Redis' answers mean. The connections are `connection.py`'s.

Every change of the log is one script of `lua/`, which checks all it has to check before its first write. The run (the
life of Redis) that an append carries is the one its own connection learnt when it was made.

Five connections: one for writes, one for blocking reads, one for confirmations, which wait, one for renewals of the
lease, which nothing else may keep waiting, and one for everything else; each is used by one thread at a time, in the
order in which they came. Those who look at the group at the same time share one look.
"""

from __future__ import annotations

import functools
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import resources
from typing import Any, NamedTuple
from urllib.parse import quote

import redis

from replicator.errors import ConfigError, CorruptRecord, LogUnavailable, OutcomeUnknown
from replicator.format.ids import TERM_MAX, ZERO_CHAIN, ZERO_ID, Position, RecordId, Writer
from replicator.format.records import ChangeRecord, PartRecord, Record, last_change_after, parse
from replicator.format.term_ends import parse_ends, show_ends
from replicator.log.connection import Link, advice, client_for, finder_for, follow, is_forbidden, shown, user_of
from replicator.log.interface import Ack, Ask, Batch, Confirmation, Log, LogSize, Wants
from replicator.log.wire import Limit
from replicator.protocol.group import Claim, Code, Head, Look, Reply, lease_left_ms
from replicator.protocol.heartbeat import Peer
from replicator.runtime import checks
from replicator.runtime.process import Owner
from replicator.runtime.sharing import Flights

__all__ = ["Alarm", "Connections", "RedisLog", "Server", "client_for", "read_together", "shown"]

SCRIPTS = ("append", "part", "promote", "renew", "yield", "pause", "beat", "forget", "look", "probe")

#: What scripts have in common. The fence is put in front of each that does not say where it wants it.
INCLUDED = ("fence", "rights")

#: Of a group, in the order in which the scripts number them.
KEYS = ("term", "log", "head", "lease", "commands", "nodes", "acks", "probe")

#: How long Redis may take to answer, if nothing depends on it that runs out sooner, as a lease does. A blocking read
#: may take this much longer than it blocks.
TIMEOUT_S = 5.0

#: What a request waits for: those before it, a connection, the answer; and the answer to the script's text.
STEPS = 4

#: Asks that nobody read in the meantime are of no use any more.
ASKS_KEPT = 1000

#: An alarm whose process was killed is gone so much later.
ALARM_KEPT_S = 24 * 3600

#: What `server` asks CONFIG for: the rest is in INFO, which more users may see.
SETTINGS = ("appendfsync", "min-replicas-to-write", "min-replicas-max-lag")

#: Acks that the primary has not read yet: each one includes those before it.
ACKS_KEPT = 1000


class _Script:
    """A script's text and the hash that Redis knows it by."""

    def __init__(self, name: str) -> None:
        folder = resources.files("replicator.log") / "lua"
        text = (folder / f"{name}.lua").read_bytes()
        if _include("fence") not in text:
            text = _include("fence") + text
        for part in INCLUDED:
            text = text.replace(_include(part), (folder / f"{part}.lua").read_bytes())
        self.text = text
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


def _include(name: str) -> bytes:
    return f"-- include {name}.lua\n".encode()


@functools.cache
def _scripts() -> dict[str, _Script]:
    return {name: _Script(name) for name in SCRIPTS}


#: Of the keys of a group, in the order in which the scripts get them.
KEY_TYPES = ("string", "stream", "hash", "string", "stream", "hash", "stream")

#: How long the groups are searched for that there are: a Redis may have millions of other keys.
GROUPS_WITHIN_S = 1.0


class Server(NamedTuple):
    """A Redis as it describes itself. `info` is empty, and a setting or the term None, where this user may not ask."""

    info: Mapping[str, str]
    config: Mapping[str, str | None]
    term_key: str | None


class Connections:
    """Five connections to the Redis of a URL, for one group or for many. `key` tells the slot in a cluster.

    `read`: one that it shares with others, which read many groups at once.
    """

    def __init__(
        self, url: str, *, key: bytes, name: str, timeout_s: float = TIMEOUT_S, read: Link | None = None
    ) -> None:
        #: For messages: without a password.
        self.url = shown(url)
        self.timeout_s = timeout_s
        # A client's name takes no spaces and nothing but ASCII.
        self.finder = finder_for(url, key=key, name=f"replicator-{quote(name)}", timeout_s=timeout_s)
        self.write = Link(self.finder, self.url)
        self.other = Link(self.finder, self.url)
        self.read = read or Link(self.finder, self.url)
        self.confirm = Link(self.finder, self.url)
        self.renew = Link(self.finder, self.url)
        self.owner = Owner(f"the log at {self.url}")
        self.links = (self.write, self.other, self.read, self.confirm, self.renew)

    def close(self) -> None:
        """A call that is waiting for its answer, such as a read that blocks, fails."""
        for link in self.links:
            link.close()


class _Rights:
    """Whether this user was seen to have the rights of a node, in the present run of Redis."""

    def __init__(self) -> None:
        self.seen = False
        self._run = b""

    def in_run(self, run: bytes) -> None:
        self.seen = self.seen and run == self._run
        self._run = run


class RedisLog:
    """A group's log in the Redis at `url` (see `replicator.log.connection`). See `replicator.protocol.group.Log`.

    `timeout_s`: how long a request may go without an answer; for a node, a share of its lease (`node/lease.py`).
    `connections`: those that it shares with other groups, and leaves open, if it is not to have its own.
    """

    def __init__(
        self, url: str, group: str, *, timeout_s: float = TIMEOUT_S, connections: Connections | None = None
    ) -> None:
        self.group = checks.name("group", group)
        self._scripts = _scripts()
        prefix = f"replicator:{{{group}}}:"
        self._keys = [(prefix + key).encode() for key in KEYS]
        self._user = user_of(url)
        self._rights = _Rights()
        self._shares = connections is not None
        self.connections = connections or Connections(url, key=self._keys[1], name=group, timeout_s=timeout_s)
        self.connections.timeout_s = min(self.connections.timeout_s, timeout_s)
        self.url = self.connections.url
        #: Of one request; `within` makes a copy with a shorter one.
        self._limit = Limit(timeout_s)
        self._finder = self.connections.finder
        self._links = self.connections.links
        self._write, self._other, self._read, self._confirm, self._renew = self._links
        self._looks = Flights(self._look, late=self._late)

    @property
    def takes_s(self) -> float:
        return STEPS * self._limit.answer_s

    def within(self, until: float) -> Log:
        return self._within(until)

    def _within(self, until: float) -> RedisLog:
        if self._limit.until <= until:
            return self
        # A shallow copy, for which `copy` takes ten times as long: every write of somebody in a hurry makes one.
        hurried = object.__new__(type(self))
        hurried.__dict__ = {**self.__dict__, "_limit": self._limit._replace(until=until)}
        return hurried

    # --- writes ---

    def append(self, record: ChangeRecord, *, meanwhile: Callable[[], None] | None = None) -> Reply:
        carries = b"1" if record.count else b"0"
        args = _append_args(record)
        acks = record.wants_acks
        return self._run(self._write, "append", 3, *args, carries, acks, in_run=True, meanwhile=meanwhile)

    def part(self, record: PartRecord, *, rebase: bool = False) -> Reply:
        changed = last_change_after(record, rebase=rebase) or ""
        place = (str(record.part), str(record.parts), str(record.as_of.id), "1" if rebase else "0", str(changed))
        rest = (show_ends(record.ends), record.wants_acks)
        return self._run(self._write, "part", 3, *_append_args(record), *place, *rest, in_run=True)

    def promote(self, claim: Claim) -> Reply:
        args = (
            claim.writer.node,
            claim.writer.boot,
            claim.floor,
            "" if claim.expect is None else claim.expect,
            claim.run,
            claim.lease_ms,
            claim.new_log_id,
            claim.by,
            claim.reason,
            int(time.time() * 1000),
            str(claim.expect_head or ""),
            int(claim.unleased),
            int(claim.anew),
            claim.applied_min,
            str(claim.unfollowed or ""),
            claim.expired,
        )
        return self._run(self._other, "promote", 8, *args)

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        # One that could not be renewed in time is renewed on a new connection: that, too, has its time.
        hurried = self._within(time.monotonic() + self._limit.answer_s)
        return hurried._run(self._renew, "renew", 4, term, writer.boot, writer.node, lease_ms)

    def give_back(self, writer: Writer, term: int) -> None:
        self._run(self._renew, "yield", 5, term, writer.boot, writer.node)

    def confirm(
        self, writer: Writer, term: int, lease_ms: int, *, replicas: int, fsynced: bool, timeout_ms: int
    ) -> Confirmation:
        # Redis vouches for what was written before the last write of the connection that asks, and for no more. The
        # renewal is that write, and a Redis other than the one in which the term was taken refuses it. A connection
        # of its own, so that nobody else waits behind it.
        # No longer than for any other answer: a connection that leads nowhere is noticed, and made anew.
        waits_s = max(0.001, min(timeout_ms / 1000, self._limit.answer_s))
        wait_ms = int(waits_s * 1000)
        wait = (b"WAITAOF", 1, 0, wait_ms) if fsynced else (b"WAIT", replicas, wait_ms)
        args = (term, writer.boot, writer.node, lease_ms)
        then_limit = self._limit._replace(blocks_s=waits_s)
        try:
            answer, count = self._confirm.script_then(
                self._scripts["renew"], self._keys[:4], *args, then=wait, limit=self._limit, then_limit=then_limit
            )
        except redis.exceptions.ResponseError as error:
            if "WAITAOF" in str(error) or "unknown command" in str(error):
                raise ConfigError(setting="ack", problem=f"fsynced: {error} ({_FSYNCED_NEEDS})") from None
            raise LogUnavailable(url=self.url, problem=advice(error)) from None
        return Confirmation(_reply_of(answer, self.url), int((count[0] if fsynced else count) or 0) if count else 0)

    def pause(self, why: str) -> Reply:
        return self._run(self._other, "pause", 5, why)

    def ack(self, ack: Ack) -> None:
        command = (b"XADD", self._keys[6], "MAXLEN", "~", ACKS_KEPT, "*", "node", ack.node, "at", str(ack.at))
        self._answered(lambda: self._other.call(*command, limit=self._limit))

    def beat(self, peer: Peer) -> None:
        says = "left" if peer.left else "leads" if peer.role == "primary" else ""
        self._run(self._other, "beat", 6, peer.node, peer.to_json(), says, peer.run, peer.term, peer.boot)

    def forget(self, node: str, *, by: str) -> None:
        self._run(self._other, "forget", 6, node, by)

    def ask(self, what: str, *, by: str, node: str = "") -> str:
        command = (b"XADD", self._keys[4], "MAXLEN", "~", ASKS_KEPT, "*", "ask", what, "node", node, "by", by)
        answer = self._answered(lambda: self._other.call(*command, limit=self._limit))
        return str(answer, "ascii")

    def check_rights(self) -> None:
        if self._rights.seen:
            return
        limit = self._limit
        # EVAL is for scripts that Redis does not know yet.
        self._asked(lambda: self._other.call(b"EVAL", b"return 1", 0, limit=limit))
        _, *forbidden = self._asked(lambda: self._other.script(self._scripts["probe"], self._keys, limit=limit))
        if forbidden:
            commands = [name.decode() for name in forbidden]
            rights = " ".join(f"+{name}" for name in commands)
            may_not = f"the Redis user {self._user} may not use {', '.join(commands)}, which a node has to"
            raise LogUnavailable.refuses(self.url, f"{may_not}: `ACL SETUSER {self._user} {rights}`")
        self._rights.seen = True

    # --- reads ---

    def read(
        self,
        after: RecordId | None,
        *,
        asks_after: str = "",
        acks_after: str = "",
        count: int = 32,
        block_ms: int | None = None,
    ) -> Batch:
        wants = Wants(after, asks_after, acks_after, count)
        command = _xread([(self, wants)], block_ms)
        if not command:
            return Batch([], [])
        limit = self._limit._replace(blocks_s=(block_ms or 0) / 1000)
        return self.found(wants, dict(self._asked(lambda: self._read.call(*command, limit=limit)) or []))

    def streams(self, wants: Wants) -> list[tuple[bytes, str]]:
        """The keys of what is wanted, and behind which id."""
        log, asks, acks = self._keys[1], self._keys[4], self._keys[6]
        found = [] if wants.after is None else [(log, str(wants.after))]
        return found + [(key, after) for key, after in ((asks, wants.asks_after), (acks, wants.acks_after)) if after]

    def found(self, wants: Wants, entries: Mapping[bytes, list[Any]]) -> Batch:
        """What an XREAD found of this group, by key."""
        records, corrupt = _parse_entries(entries.get(self._keys[1], []))
        acks = entries.get(self._keys[6], [])
        return Batch(
            records,
            [_ask_of(entry) for entry in entries.get(self._keys[4], [])],
            corrupt,
            [ack for ack in map(_ack_of, acks) if ack is not None],
            str(acks[-1][0], "ascii") if acks else wants.acks_after,
        )

    def find(self, id: RecordId) -> Record | None:
        command = (b"XRANGE", self._keys[1], str(id), str(id))
        entries = self._asked(lambda: self._other.call(*command, limit=self._limit))
        records, corrupt = _parse_entries(entries)
        if corrupt is not None:
            raise corrupt
        return records[0] if records else None

    def look(self) -> Look:
        self.connections.owner.check()  # before a lock is waited for, or a sentinel is asked
        return self._looks.ask(self._limit.until, takes_s=self.takes_s)

    def _late(self) -> LogUnavailable:
        return LogUnavailable(url=self.url, problem="it has not answered a question that was asked before this one")

    def _look(self, until: float) -> Look:
        limit = self._limit._replace(until=until)
        follow(self._finder, self._links, wait_s=max(0.0, limit.left_s))
        answer = self._asked(lambda: self._other.script(self._scripts["look"], self._keys, limit=limit))
        run, now, term, head, stray, lease_ms, nodes, lease, wrong = answer
        self._rights.in_run(run)
        lease = lease.decode("utf-8", "replace")
        for link in self._links:
            link.leave_other_run(run.decode())
        now_ms = int(now)
        try:
            parsed, marred = _head_of(_pairs(head)), ""
        except _Foreign as foreign:
            parsed, marred = None, f"something else than replicator wrote to {self._keys[2].decode()} ({foreign})"
        if wrong and not marred:
            is_of_head = wrong.startswith(b"BADHEAD")
            parsed = None if is_of_head else parsed
            marred = f"{wrong.decode()}; {self._keys[2 if is_of_head else 0].decode()} was changed by hand"
        newest = parsed.position.id if parsed else _id_of(_pairs(head))
        beats = ((name, _peer_of(value, now_ms)) for name, value in _pairs(nodes).items())
        found = Look(
            run=run.decode(),
            term=int(term),
            head=parsed,
            last_id=RecordId.parse(stray.decode()) if stray else newest,
            lease_ms=lease_left_ms(lease, lease_ms),
            lease=lease,
            # A node reports under its own name, and hides no other.
            peers={peer.node: peer for name, peer in beats if peer is not None and peer.node.encode() == name},
            now_ms=now_ms,
            marred=marred,
        )
        if marred:
            raise LogUnavailable.marred(found, url=self.url)
        return found

    def groups(self) -> list[str] | None:
        found: set[str] = set()
        place, deadline = b"0", time.monotonic() + GROUPS_WITHIN_S
        while True:
            answer = self._permitted(b"SCAN", place, b"MATCH", b"replicator:{*}:nodes", b"COUNT", 1000)
            if answer is None:
                return None
            place, keys = answer
            found.update(key.decode("utf-8", "replace").removeprefix("replicator:{").partition("}:")[0] for key in keys)
            if place == b"0" or time.monotonic() > deadline:
                return sorted(found)

    def size(self) -> LogSize:
        records = self._permitted(b"XLEN", self._keys[1])
        # By default Redis looks at the first few entries, and takes the others to be as large: those are parts of a
        # snapshot, and the others mostly changes, a thousandth of their size. It looks at all of 12,000 within 1 ms.
        return LogSize(records, self._permitted(b"MEMORY", b"USAGE", self._keys[1], b"SAMPLES", 0))

    def server(self) -> Server:
        """What its Redis says of itself."""
        info = self._permitted(b"INFO") or b""
        term = self._permitted(b"GET", self._keys[0])
        return Server(
            info=dict(line.split(":", 1) for line in info.decode("utf-8", "replace").splitlines() if ":" in line),
            config={name: self._setting(name) for name in SETTINGS},
            term_key=term.decode("utf-8", "replace") if term is not None else None,
        )

    def _setting(self, name: str) -> str | None:
        found = self._permitted(b"CONFIG", b"GET", name) or []
        return found[1].decode("utf-8", "replace") if len(found) == 2 else None

    def _permitted(self, *command: Any) -> Any:
        """The answer to a question; None if Redis does not answer this user, has no such command, or something else."""
        try:
            return self._other.call(*command, limit=self._limit)
        except redis.exceptions.ResponseError as error:
            if _NOT_KNOWN.search(f"{type(error).__name__} {error}"):
                return None
            raise self._refused(error) from None
        except OutcomeUnknown as error:
            raise LogUnavailable(**error.fields) from None

    def newest_ask(self) -> str:
        command = (b"XREVRANGE", self._keys[4], "+", "-", "COUNT", 1)
        entries = self._asked(lambda: self._other.call(*command, limit=self._limit))
        return str(entries[0][0], "ascii") if entries else "0-0"

    def close(self) -> None:
        if not self._shares:
            self.connections.close()

    # --- the edge: redis' answers and errors become ours ---

    def _run(
        self,
        link: Link,
        name: str,
        keys: int,
        *args: Any,
        in_run: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> Reply:
        try:
            answer = link.script(
                self._scripts[name], self._keys[:keys], *args, in_run=in_run, meanwhile=meanwhile, limit=self._limit
            )
        except redis.exceptions.ResponseError as error:
            if _wrote_nothing(error):
                raise self._refused(error) from None
            raise OutcomeUnknown(url=self.url, problem=advice(error)) from None
        if isinstance(answer, list) and answer[:1] == [b"halfway"]:
            self._rights.seen = False
            why = b" ".join(answer[1:]).decode("utf-8", "replace")
            raise OutcomeUnknown(url=self.url, problem=f"the script {name} was stopped in the middle: {why}")
        return _reply_of(answer, self.url)

    def _answered(self, send: Callable[[], Any]) -> Any:
        try:
            return send()
        except redis.exceptions.ResponseError as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> LogUnavailable:
        # The server understood and refused (READONLY, OOM, LOADING, NOAUTH, WRONGTYPE, BUSY ...): every script refuses
        # before its first write, so nothing was written.
        problem = advice(error)
        if is_forbidden(error):
            self._rights.seen = False
            keys = self._keys[0].decode().removesuffix(KEYS[0]) + "*"
            problem += f". The Redis user {self._user} needs rights: `ACL SETUSER {self._user} {_right(error, keys)}`"
        if "WRONGTYPE" in problem:
            problem = self._foreign_key() or problem
        return LogUnavailable.refuses(self.url, problem)

    def _foreign_key(self) -> str:
        """Which key of the group somebody else wrote to: Redis does not say. Empty: none, or nobody can tell now."""
        for key, wanted in zip(self._keys, KEY_TYPES, strict=False):  # the probe has none
            try:
                found = self._other.call(b"TYPE", key, limit=self._limit).decode()
            except (LogUnavailable, redis.exceptions.ResponseError):
                return ""
            if found not in (wanted, "none"):
                what = f"{key.decode()} holds something else than a {wanted} (a {found})"
                return f"WRONGTYPE {what}: somebody else wrote it; find out who, then DEL it, or RENAME it to keep it"
        return ""

    def _asked(self, send: Callable[[], Any]) -> Any:
        # A question that got no answer has changed nothing: there is no outcome to be unknown.
        try:
            return self._answered(send)
        except OutcomeUnknown as error:
            raise LogUnavailable(**error.fields) from None


class Alarm:
    """Ends a read that waits (`read_together`): a stream of its own, which that read waits for as well."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._key = f"replicator:{{host-{secrets.token_hex(8)}}}:alarm".encode()
        self._after = ""
        self._may = True

    def ring(self) -> None:
        """Without Redis, or the right to that key, it is of no use: a read that waits then ends by itself."""
        if not self._may:
            return
        try:
            self._call(b"XADD", self._key, "MAXLEN", 1, "*", "ring", "")
            self._call(b"EXPIRE", self._key, ALARM_KEPT_S)
        except redis.exceptions.ResponseError:
            self._may, self._after = False, ""
        except LogUnavailable:
            return
        else:
            self._after = self._after or "0-0"

    def place(self) -> list[tuple[bytes, str]]:
        """The key, and behind which id."""
        if not self._after:
            self.ring()
        return [(self._key, self._after)] if self._after else []

    def heard_in(self, found: Mapping[bytes, list[Any]]) -> None:
        """What a read found."""
        if self._key in found:
            self._after = str(found[self._key][-1][0], "ascii")

    def end(self) -> None:
        if self._after:
            with suppress(LogUnavailable, redis.exceptions.ResponseError):
                self._call(b"DEL", self._key)

    def _call(self, *command: Any) -> Any:
        return self._connections.other.call(*command, limit=Limit(self._connections.timeout_s))


#: Why a question has no answer although Redis is there: no permission, a command that was renamed, a foreign key.
_NOT_KNOWN = re.compile("NoPermissionError|unknown command|WRONGTYPE", re.IGNORECASE)


def read_together(
    connections: Connections, reads: Sequence[tuple[RedisLog, Wants]], *, block_s: float, alarm: Alarm
) -> list[Batch | LogUnavailable]:
    """What each of these groups wants, in one read that waits so long (0: not) for the first of anything, or the alarm.

    The groups share `connections`. What Redis refuses because of one of them does not keep the others from reading.
    """
    block_ms = max(1, int(block_s * 1000)) if block_s > 0 else None
    command = _xread(reads, block_ms, alarm.place() if block_ms else [])
    if not command:
        return []
    limit = Limit(connections.timeout_s, blocks_s=max(0.0, block_s))
    try:
        found = dict(connections.read.call(*command, limit=limit) or [])
    except redis.exceptions.ResponseError:
        return [_read_alone(log, wants) for log, wants in reads]
    except OutcomeUnknown as error:
        return [LogUnavailable(**error.fields)] * len(reads)
    except LogUnavailable as error:
        return [error] * len(reads)
    alarm.heard_in(found)
    return [log.found(wants, found) for log, wants in reads]


def _read_alone(log: RedisLog, wants: Wants) -> Batch | LogUnavailable:
    try:
        return log.read(wants.after, asks_after=wants.asks_after, acks_after=wants.acks_after, count=wants.most)
    except LogUnavailable as error:
        return error


def _xread(
    reads: Sequence[tuple[RedisLog, Wants]],
    block_ms: int | None,
    also: Sequence[tuple[bytes, str]] = (),
) -> list[Any]:
    """The command; empty if nothing is wanted."""
    places = [*also, *(place for log, wants in reads for place in log.streams(wants))]
    if not places:
        return []
    # 0 would block for ever.
    waits = [] if block_ms is None else [b"BLOCK", max(1, block_ms)]
    most = min((wants.most for _, wants in reads), default=1)
    return [b"XREAD", b"COUNT", most, *waits, b"STREAMS", *(key for key, _ in places), *(after for _, after in places)]


def _wrote_nothing(error: Exception) -> bool:
    """Whether a script that ended with this error has written nothing.

    What its first write refuses, and what keeps it from running, has a word of its own; the answers of later writes are
    no errors (`also` in fence.lua). What is left is a bug in a script, or a server that is none of those we know.
    """
    return _NOTHING_WRITTEN.search(advice(error)) is not None


#: 6.2 puts the word into the middle of what it says of a script, and has no word for a missing right.
_NOTHING_WRITTEN = re.compile(
    r"\b(READONLY|OOM|NOREPLICAS|LOADING|NOAUTH|WRONGPASS|NOPERM|WRONGTYPE|BADTERM|BADHEAD|BADRECORD|MISCONF|BUSY|"
    r"NOSCRIPT|MOVED|ASK|TRYAGAIN|CROSSSLOT|CLUSTERDOWN|MASTERDOWN|UNKILLABLE)\b|ACL failure|can't run this command|"
    r"can't access|unknown command|not allowed from script|nonlocal key"
)


def _right(error: Exception, keys: str) -> str:
    """What to give the user, as far as Redis says what is missing."""
    text = str(error)
    if "keys" in text or "access a key" in text:
        return f"~{keys}"
    command = re.search(r"run the '([\w|]+)' command", text) or re.search(r"may not use (\w+(?:, \w+)*)", text)
    return " ".join(f"+{name}" for name in command[1].split(", ")) if command else f"~{keys} +..."


_FSYNCED_NEEDS = (
    "it needs Redis 7.2 or Valkey, and an AOF; with `appendfsync always`, appended says the same on every server"
)


def _append_args(record: Record) -> tuple[Any, ...]:
    return (record.id.term, record.boot, record.prev, record.chain, record.id.n, record.header, record.body)


#: The answer of most appends, which say themselves where the record is.
_OK = Reply(Code.OK)


def _reply_of(answer: Any, url: str) -> Reply:
    """What a script answered. What it did is not known if that cannot be understood: it may have written."""
    if answer == [b"ok"]:
        return _OK
    try:
        return _reply_from(Code(answer[0].decode()), [item.decode() for item in answer[1:]])
    except (ValueError, TypeError, IndexError, AttributeError, ConfigError):
        problem = f"it answered {answer!r:.200}, as no script of ours does: is it a Redis, and nothing in between?"
        raise OutcomeUnknown(url=url, problem=problem) from None


def _reply_from(code: Code, rest: list[str]) -> Reply:
    match code, rest:
        case Code.OK, [term, id_, _run]:
            return Reply(code, term=_number(term), id=RecordId.parse(id_))
        case ((Code.FENCED | Code.CONFLICT), [term, node]):
            return Reply(code, term=_number(term), node=node)
        case ((Code.OK | Code.DUPLICATE | Code.BEHIND | Code.STRAY | Code.WHOLE), [id_]):
            return Reply(code, id=RecordId.parse(id_))
        case ((Code.OK | Code.NEW_RUN | Code.RESTART | Code.LOST), []):
            return Reply(code)
    raise ValueError(rest)


def _number(text: str) -> int:
    """Digits and nothing else; `int` takes more."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r:.50} is no number")
    return int(text)


def _count(text: str) -> int:
    """One that a script could have counted up to."""
    if (number := _number(text)) > TERM_MAX:
        raise ValueError(f"{number} is too large")
    return number


def _parse_entries(entries: list[Any]) -> tuple[list[Record], CorruptRecord | None]:
    records: list[Record] = []
    for id_, fields in entries:
        pairs = _pairs(fields or [])
        try:
            records.append(parse(id_.decode(), pairs.get(b"h"), pairs.get(b"b")))
        except CorruptRecord as problem:
            return records, problem
    return records, None


def _ask_of(entry: Any) -> Ask:
    id_, fields = entry
    texts = {name: value.decode("utf-8", "replace") for name, value in _pairs(fields or []).items()}
    return Ask(id_.decode(), texts.get(b"ask", ""), texts.get(b"node", ""), texts.get(b"by", ""))


def _ack_of(entry: Any) -> Ack | None:
    pairs = _pairs(entry[1] or [])
    try:
        return Ack(pairs[b"node"].decode(), RecordId.parse(pairs[b"at"].decode()))
    except (KeyError, ValueError, ConfigError):
        return None


def _id_of(pairs: dict[bytes, bytes]) -> RecordId:
    """What a head that cannot be used says of its newest record."""
    try:
        return RecordId.parse(pairs.get(b"id", b"0-0").decode())
    except (ValueError, ConfigError):
        return ZERO_ID


class _Foreign(Exception):
    """It is no head of ours."""


def _head_of(pairs: dict[bytes, bytes]) -> Head | None:
    if not pairs:
        return None
    try:
        return _head_from({name: pairs[name.encode()].decode() for name in _HEAD_FIELDS if name.encode() in pairs})
    except KeyError as missing:
        raise _Foreign(f"it has no {missing.args[0]}") from None
    except (ValueError, ConfigError) as error:
        raise _Foreign(str(error)) from None


#: In Redis: those of the hash.
_HEAD_FIELDS = (
    *("log_id", "run", "term", "node", "boot", "id", "chain", "changed", "snapshot_at", "previous_snapshot_at"),
    *("part_next", "ends", "taken", "paused", "paused_at", "applied_min", "whole", "whole_at"),
)


def _head_from(texts: dict[str, str]) -> Head:
    position = Position.parse(f"{texts['id']}@{texts.get('chain', ZERO_CHAIN)}")
    term = _count(texts["term"])
    if position.id.term != term or not 0 < position.id.n <= TERM_MAX:
        raise ValueError(f"its newest record is {position.id}, and its term {term}")
    return Head(
        log_id=texts["log_id"],
        run=texts["run"],
        term=term,
        node=texts["node"],
        boot=texts["boot"],
        position=position,
        changed=RecordId.parse(texts.get("changed", "0-0")),
        snapshot_at=RecordId.parse(texts.get("snapshot_at", "0-0")),
        previous_snapshot_at=RecordId.parse(texts.get("previous_snapshot_at", "0-0")),
        part_next=_count(texts.get("part_next", "0")),
        ends=parse_ends(texts.get("ends", "")),
        taken=tuple(taken for taken in map(_taken_of, texts.get("taken", "").split()) if taken is not None),
        paused=texts.get("paused", ""),
        paused_at=_count(texts.get("paused_at", "0")),
        applied_min=_count(texts.get("applied_min", "0")),
        whole=texts.get("whole", ""),
        whole_at=_count(texts.get("whole_at", "0")),
    )


def _taken_of(word: str) -> tuple[int, str] | None:
    # It only holds a node back for a while: a word of it that means nothing must not make the group unreadable.
    at, _, node = word.partition("/")
    try:
        return _count(at), node
    except ValueError:
        return None


def _peer_of(value: bytes, now_ms: int) -> Peer | None:
    at, _, data = value.partition(b" ")
    # Unix ms of Redis: more digits are none.
    return Peer.seen(data, beaten_at=int(at), now_ms=now_ms) if at.isdigit() and len(at) < 17 else None


def _pairs(flat: list[Any]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
