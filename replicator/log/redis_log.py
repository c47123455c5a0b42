"""The log in Redis: its keys and its requests. `connection.py` has the connections, `replies.py` reads the answers.

Every change of the log is one script of `lua/`, which checks all it has to check before its first write. The run of
Redis that an append carries is the one that its own connection learnt when it was made.

A log has five connections: one for writes, one for blocking reads, one for confirmations (they wait), one for renewals
of the lease (they must not wait for anything else), and one for everything else. Each serves one thread at a time, in
the order in which they came. Threads that look at the group at the same time share one look.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import redis

from replicator.errors import ConfigError, LogUnavailable, OutcomeUnknown
from replicator.format.ids import ZERO_ID, RecordId, Writer, new_tuple
from replicator.format.records import ChangeRecord, Closed, Opens, PartRecord, Record, last_change_after
from replicator.format.term_ends import show_ends
from replicator.log.appending import AppendRequest, RedisAppending
from replicator.log.connection import Link, follow, shown
from replicator.log.finders import client_for, finder_for, user_of
from replicator.log.interface import Ack, Appending, Batch, Confirmation, HistoryPage, Log, LogSize, Memory, ReadRequest
from replicator.log.redis_errors import advice, is_forbidden
from replicator.log.wire import Limit
from replicator.protocol.group import Claim, Code, GroupView, Reply, lease_left_ms
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.history import HistoryEntry
from replicator.runtime import checks
from replicator.runtime.process import Owner
from replicator.runtime.sharing import Flights

from .group_streams import GroupStreams, xread
from .replies import (
    FSYNCED_NEEDS,
    NOT_KNOWN,
    OK,
    Foreign,
    append_args,
    forged_in,
    head_of,
    heartbeat_of,
    history_of,
    id_of,
    pairs_of,
    parse_entries,
    reply_of,
    sealed_promotion,
    signed_ack,
    told_by,
    wrote_nothing,
)
from .rights import Rights, is_about_keys, missing_right, missing_to_follow
from .scripts import KEY_TYPES, KEYS, load_scripts
from .server import Server, memory_in, server_by
from .tls import transport_of
from .urls import place_of

if TYPE_CHECKING:
    from replicator.format.sealing import Sealing

__all__ = [
    "Connections",
    "RedisLog",
    "client_for",
    "shown",
]


#: How long Redis may take to answer, unless the answer is needed sooner, as for a lease. A blocking read may take this
#: much longer than it blocks.
TIMEOUT_S = 5.0

#: The waits of one request: for the requests before it, for a connection, for the answer, and for the answer once the
#: script's text had to be sent.
STEPS = 4

#: How many requests to the group the stream keeps. Older ones that nobody has read are of no use any more.
REQUESTS_KEPT = 1000


#: How many acks the stream keeps. The primary may miss older ones: each ack includes those before it.
ACKS_KEPT = 1000


#: How long `groups` searches: a Redis may have millions of other keys.
GROUPS_WITHIN_S = 1.0


@lru_cache(maxsize=16)
def _blocking(limit: Limit, block_ms: int) -> Limit:
    """The limit of a read that waits in Redis for so long. The very same one each time: a wire sets nothing for it."""
    return limit._replace(blocks_s=block_ms / 1000)


class Connections:
    """Five connections to the Redis of a URL, for one group or for many. `key` tells the slot in a cluster.

    `read`: the connection for blocking reads, if it is shared, because one request reads many groups.
    """

    def __init__(
        self, url: str, *, key: bytes, name: str, timeout_s: float = TIMEOUT_S, read: Link | None = None
    ) -> None:
        #: The URL for messages, without its passwords.
        self.url = shown(url)
        self.timeout_s = timeout_s
        # The name of a client must be ASCII without spaces.
        self.finder = finder_for(url, key=key, name=f"replicator-{quote(name)}", timeout_s=timeout_s)
        self.write = Link(self.finder, self.url)
        self.other = Link(self.finder, self.url)
        self.read = read or Link(self.finder, self.url)
        self.confirm = Link(self.finder, self.url)
        self.renew = Link(self.finder, self.url)
        self.owner = Owner(f"the log at {self.url}")
        self.links = (self.write, self.other, self.read, self.confirm, self.renew)

    def close(self) -> None:
        """Close all. A call that is waiting for an answer, such as a blocking read, fails."""
        for link in self.links:
            link.close()


class RedisLog:
    """A group's log in the Redis at `url` (see `replicator.log.urls`). It implements `replicator.log.interface.Log`.

    `timeout_s`: how long a request may go without an answer; for a node, a share of its lease (`node/lease.py`).
    `connections`: those shared with other groups, which `close` leaves open; None: the log has its own. `sealing`: see
    `Log`.
    """

    def __init__(
        self,
        url: str,
        group: str,
        *,
        timeout_s: float = TIMEOUT_S,
        connections: Connections | None = None,
        sealing: Opens = None,
    ) -> None:
        self.group = checks.name("group", group)
        self.sealing = sealing
        self._place = url
        self._scripts = load_scripts()
        prefix = f"replicator:{{{group}}}:"
        self._keys = [(prefix + key).encode() for key in KEYS]
        self._append = AppendRequest(self._scripts["append"], self._keys)
        self._rights = Rights(user_of(url), group)
        #: What protects the connections.
        self.transport = transport_of(place_of(url))
        #: What nodes read of it.
        self.streams = GroupStreams(self._keys[1], self._keys[4], self._keys[6])
        self._shares = connections is not None
        self.connections = connections or Connections(url, key=self._keys[1], name=group, timeout_s=timeout_s)
        self.connections.timeout_s = min(self.connections.timeout_s, timeout_s)
        self.url = self.connections.url
        #: The limit of one request; `within` makes a copy of the log with a shorter one.
        self._limit = Limit(timeout_s)
        self.takes_s = STEPS * timeout_s
        self._finder = self.connections.finder
        self._links = self.connections.links
        self._write, self._other, self._read, self._confirm, self._renew = self._links
        self._looks = Flights(self._look, late=self._late)

    def within(self, until: float) -> Log:
        return self._within(until)

    def _within(self, until: float) -> RedisLog:
        if self._limit.until <= until:
            return self
        # A shallow copy. `copy` would take ten times as long, and every write with a deadline makes one.
        hurried = object.__new__(type(self))
        hurried.__dict__ = {**self.__dict__, "_limit": self._limit._replace(until=until)}
        return hurried

    def apart(self) -> Log:
        return RedisLog(self._place, self.group, sealing=self.sealing)

    # --- writes ---

    def append(self, record: ChangeRecord) -> Reply:
        with self.appending(record) as appending:
            return appending.receive()

    def appending(self, record: ChangeRecord) -> Appending:
        return RedisAppending(self, self._write, self._append, record, self._limit)

    def part(self, record: PartRecord, *, rebase: bool = False) -> Reply:
        changed = last_change_after(record, rebase=rebase) or ""
        place = (str(record.part), str(record.parts), str(record.as_of.id), "1" if rebase else "0", str(changed))
        rest = (show_ends(record.ends), record.wants_acks)
        return self._run(self._write, "part", self._keys[:3], *append_args(record), *place, *rest, in_run=True)

    def sweep(self) -> bool:
        script = self._scripts["sweep"]
        code, more = self._asked(lambda: self._other.script(script, self._keys[:3], limit=self._limit))
        if code != b"ok":
            raise LogUnavailable.refuses(self.url, str(more, "utf-8", "replace"))
        return bool(more == b"1")

    @property
    def _vouching(self) -> Sealing | None:
        """What vouches for all that is no record, in a group that has a key."""
        return None if isinstance(self.sealing, Closed) else self.sealing

    def promote(self, claim: Claim) -> Reply:
        if (sealing := self._vouching) is not None:
            return sealed_promotion(claim, sealing, self.look, self._promote)
        return self._promote(claim)

    def _promote(self, claim: Claim) -> Reply:
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
            claim.app,
            claim.version,
            claim.what,
            int(claim.forced),
            claim.ended,
            "" if claim.skip == ZERO_ID else str(claim.skip),
            claim.seal,
            claim.misnamed,
        )
        return self._run(self._other, "promote", self._keys, *args)

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        # All steps together get the time of one: a lease that is not renewed in time is renewed on a new connection.
        hurried = self._within(time.monotonic() + self._limit.answer_s)
        return hurried._run(self._renew, "renew", self._keys[:4], term, writer.boot, writer.node, lease_ms)

    def give_back(self, writer: Writer, term: int, *, by: str = "") -> None:
        self._run(self._renew, "yield", self._keys[:8], term, writer.boot, writer.node, by or writer.node)

    def confirm(
        self, writer: Writer, term: int, lease_ms: int, *, replicas: int, fsynced: bool, timeout_ms: int
    ) -> Confirmation:
        # WAIT covers what was written up to the last write of the connection that asks, and no more. The renewal is
        # that write, and a Redis other than the one in which the term was taken refuses it. It has a connection of its
        # own, so that no other request has to wait for it.
        # It waits no longer than for any other answer, so that a dead connection is noticed and made anew.
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
                raise ConfigError(setting="ack", problem=f"fsynced: {error} ({FSYNCED_NEEDS})") from None
            raise LogUnavailable(url=self.url, problem=advice(error)) from None
        return Confirmation(reply_of(answer, self.url), int((count[0] if fsynced else count) or 0) if count else 0)

    def pause(self, why: str, *, by: str = "", reason: str = "") -> Reply:
        return self._run(self._other, "pause", self._keys[:8], why, by, reason)

    def ack(self, ack: Ack) -> None:
        command: tuple[Any, ...]
        command = (b"XADD", self._keys[6], "MAXLEN", "~", ACKS_KEPT, "*", "node", ack.node, "at", str(ack.at))
        if (sealing := self._vouching) is not None:
            command += ("mac", signed_ack(ack, sealing).mac)
        self._answered(lambda: self._other.call(*command, limit=self._limit))

    def beat(self, heartbeat: Heartbeat) -> None:
        if (sealing := self._vouching) is not None:
            sealing.refresh()  # once a beat: whoever changed the keys need not tell anybody
        says = "left" if heartbeat.left else "leads" if heartbeat.role == "primary" else ""
        nodes, head = self._keys[5], self._keys[2]
        self._run(
            self._other,
            "beat",
            [nodes, head] if says == "leads" else [nodes],
            heartbeat.node,
            told_by(heartbeat, sealing),
            says,
            heartbeat.run,
            heartbeat.term,
            heartbeat.boot,
        )

    def forget(self, node: str, *, by: str, reason: str = "") -> None:
        self._run(self._other, "forget", self._keys[:8], node, by, reason)

    def history(self, after: str = "", *, count: int = 1000) -> HistoryPage:
        command = (b"XRANGE", self._keys[7], f"({after}" if after else "-", "+", b"COUNT", count)
        entries = self._asked(lambda: self._other.call(*command, limit=self._limit))
        return HistoryPage(history_of(entries), str(entries[-1][0], "ascii") if entries else after)

    def refill_history(self, entries: Sequence[HistoryEntry], *, end: str, node: str) -> str | None:
        texts = [orjson.dumps(replace(entry, restored_by=None).to_fields()) for entry in entries]
        reply = self._run(self._other, "refill", self._keys[:8], end or "0-0", node, *texts)
        return str(reply.id) if reply.code is Code.OK else None

    def request(self, what: str, *, by: str, node: str = "") -> str:
        command = (b"XADD", self._keys[4], "MAXLEN", "~", REQUESTS_KEPT, "*", "request", what, "node", node, "by", by)
        answer = self._answered(lambda: self._other.call(*command, limit=self._limit))
        return str(answer, "ascii")

    def reinit(self, node: str, *, by: str) -> str:
        return str(self._run(self._other, "ask", self._keys[:8], "reinit", node, by).id)

    def check_rights(self) -> str:
        if self._rights.are_known:
            return self._rights.follows_only
        # EVAL is needed for scripts that Redis does not know yet. Every node writes to these keys.
        own = [self._keys[4], self._keys[5], self._keys[6]]
        self._asked(lambda: self._other.call(b"EVAL", b"return 1", len(own), *own, limit=self._limit))
        forbidden = self._forbidden()
        if forbidden is not None and (missing := missing_to_follow(forbidden)):
            raise LogUnavailable.refuses(self.url, self._rights.lacks(missing, "a node"))
        return self._rights.found(forbidden)

    def against_promoting(self) -> str:
        """Why this user of Redis may not take a term for a node; empty: he may."""
        return self._rights.against_promoting(self._forbidden())

    def _forbidden(self) -> list[str] | None:
        """The commands that the user may not use, of those that a node that leads needs; None: not all keys are his."""

        def probe() -> list[str] | None:
            try:
                _, *names = self._other.script(self._scripts["probe"], self._keys, limit=self._limit)
            except redis.exceptions.NoPermissionError as error:
                if not is_about_keys(error):
                    raise
                return None
            return [name.decode() for name in names]

        found: list[str] | None = self._asked(probe)
        return found

    # --- reads ---

    def read(
        self,
        after: RecordId | None,
        *,
        requests_after: str = "",
        acks_after: str = "",
        count: int = 32,
        block_ms: int | None = None,
    ) -> Batch:
        wants = new_tuple(ReadRequest, (after, requests_after, acks_after, count))
        command = xread(self.streams.places(wants), most=count, block_ms=block_ms)
        if not command:
            return Batch([], [])
        limit = _blocking(self._limit, block_ms or 0)
        answer = self._asked(lambda: self._read.call(*command, limit=limit))
        return self.streams.found(wants, dict(answer or ()), self.sealing)

    def find(self, id: RecordId) -> Record | None:
        command = (b"XRANGE", self._keys[1], str(id), str(id))
        entries = self._asked(lambda: self._other.call(*command, limit=self._limit))
        records, corrupt = parse_entries(entries, self.sealing)
        if corrupt is not None:
            raise corrupt
        return records[0] if records else None

    def look(self) -> GroupView:
        self.connections.owner.check()  # before it waits for a lock, or asks a sentinel
        return self._looks.ask(self._limit.until, takes_s=self.takes_s)

    def _late(self) -> LogUnavailable:
        return LogUnavailable(url=self.url, problem="it has not answered a question that was asked before this one")

    def _look(self, until: float) -> GroupView:
        """Look, and take note of what follows for the connections: another master, or another run."""
        limit = self._limit._replace(until=until)
        follow(self._finder, self._links, wait_s=max(0.0, limit.left_s))
        answer = self._asked(lambda: self._other.script(self._scripts["look"], self._keys[:6], reads=True, limit=limit))
        run, now, term, head, stray, lease_ms, nodes, lease, wrong = answer
        self._rights.in_run(run)
        lease = lease.decode("utf-8", "replace")
        for link in self._links:
            link.leave_other_run(run.decode())
        now_ms = int(now)
        try:
            parsed, marred = head_of(pairs_of(head)), ""
        except Foreign as foreign:
            parsed, marred = None, f"something else than replicator wrote to {self._keys[2].decode()} ({foreign})"
        if wrong and not marred:
            is_of_head = wrong.startswith(b"BADHEAD")
            parsed = None if is_of_head else parsed
            marred = f"{wrong.decode()}; {self._keys[2 if is_of_head else 0].decode()} was changed by hand"
        newest = parsed.position.id if parsed else id_of(pairs_of(head))
        sealing, beats = self._vouching, pairs_of(nodes)
        heard = {name: heartbeat_of(value, now_ms, sealing) for name, value in beats.items()}
        found = GroupView(
            run=run.decode(),
            term=int(term),
            head=parsed,
            last_id=RecordId.parse(stray.decode()) if stray else newest,
            lease_ms=lease_left_ms(lease, lease_ms, parsed),
            lease=lease,
            # An entry under another name than its own is ignored: it must not hide that node.
            heartbeats={
                heartbeat.node: heartbeat
                for name, heartbeat in heard.items()
                if heartbeat is not None and heartbeat.node.encode() == name
            },
            now_ms=now_ms,
            marred=marred,
            forged=() if sealing is None else forged_in(beats, heard),
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
        # By default Redis looks at the first few entries, and assumes that the others are as large. But the first are
        # parts of a snapshot, and the others mostly changes, a thousandth of their size. Looking at all of 12,000
        # entries takes it 1 ms.
        return LogSize(records, self._permitted(b"MEMORY", b"USAGE", self._keys[1], b"SAMPLES", 0))

    def memory(self) -> Memory | None:
        return memory_in(self._permitted(b"INFO", b"memory"))

    def server(self) -> Server:
        """What its Redis says of itself."""
        return server_by(self._permitted, self._keys[0])

    def _permitted(self, *command: Any) -> Any:
        """The answer to a question; None if the user may not ask, or the command or the type of the key is wrong."""
        try:
            return self._other.call(*command, limit=self._limit)
        except redis.exceptions.ResponseError as error:
            if NOT_KNOWN.search(f"{type(error).__name__} {error}"):
                return None
            raise self._refused(error) from None
        except OutcomeUnknown as error:
            raise LogUnavailable(**error.fields) from None

    def newest_request(self) -> str:
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
        keys: list[bytes],
        *args: Any,
        in_run: bool = False,
    ) -> Reply:
        """Run a script that writes."""
        try:
            answer = link.script(self._scripts[name], keys, *args, in_run=in_run, limit=self._limit)
        except redis.exceptions.ResponseError as error:
            raise self.failed(error) from None
        return self.reply(name, answer)

    def failed(self, error: Exception) -> LogUnavailable:
        """What a script that writes ended with is an unknown outcome unless it certainly did nothing."""
        return self._refused(error) if wrote_nothing(error) else OutcomeUnknown(url=self.url, problem=advice(error))

    def reply(self, name: str, answer: Any) -> Reply:
        """What the script of that name answered."""
        if answer == [b"ok"]:  # as nearly always
            return OK
        if isinstance(answer, list) and answer[:1] == [b"halfway"]:
            self._rights.doubt()
            why = b" ".join(answer[1:]).decode("utf-8", "replace")
            raise OutcomeUnknown(url=self.url, problem=f"the script {name} was stopped in the middle: {why}")
        return reply_of(answer, self.url)

    def _answered(self, send: Callable[[], Any]) -> Any:
        try:
            return send()
        except redis.exceptions.ResponseError as error:
            raise self._refused(error) from None

    def _refused(self, error: Exception) -> LogUnavailable:
        # The server understood and refused (READONLY, OOM, LOADING, NOAUTH, WRONGTYPE, BUSY ...). Every script is
        # refused before its first write or at it, so nothing was written.
        problem = advice(error)
        if is_forbidden(error):
            keys = self._keys[0].decode().removesuffix(KEYS[0]) + "*"
            problem += f". {self._rights.refused(missing_right(error, keys))}"
        if "WRONGTYPE" in problem:
            problem = self._foreign_key() or problem
        return LogUnavailable.refuses(self.url, problem)

    def _foreign_key(self) -> str:
        """The message about the key that something else wrote to, as Redis does not name it; empty: none is known."""
        for key, wanted in zip(self._keys, KEY_TYPES, strict=False):  # the probe has no type
            try:
                found = self._other.call(b"TYPE", key, limit=self._limit).decode()
            except (LogUnavailable, redis.exceptions.ResponseError):
                return ""
            if found not in (wanted, "none"):
                what = f"{key.decode()} holds something else than a {wanted} (a {found})"
                return f"WRONGTYPE {what}: somebody else wrote it; find out who, then DEL it, or RENAME it to keep it"
        return ""

    def _asked(self, send: Callable[[], Any]) -> Any:
        # A question changes nothing: without an answer there is no outcome that could be unknown.
        try:
            return send()
        except redis.exceptions.ResponseError as error:
            raise self._refused(error) from None
        except OutcomeUnknown as error:
            raise LogUnavailable(**error.fields) from None
