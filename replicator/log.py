"""The log in Redis. The only module that imports redis.

Every change of the log is one script of `lua/`, which checks all it has to check before its first write. What this
module adds is what a client can get wrong:

- No command is ever sent twice. redis-py repeats commands on its own if built the plain way; the connections here are
  single `Connection` objects with retries off, and a connection that broke is not opened again behind our back.
- The run (the life of Redis) that an append carries is the one its own connection learnt when it was made. So a
  primary that talks to another Redis than it thinks is refused, without asking INFO at every append.
- A request whose answer was lost raises `OutcomeUnknown`, one that was certainly not sent `LogUnavailable`. Only the
  first needs a second look.

Three connections: one for writes, one for blocking reads, one for everything else, each used under its own lock.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable
from importlib import resources
from typing import Any
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool
from redis.retry import Retry

from replicator.core.ids import ZERO_CHAIN, ZERO_ID, Position, RecordId, Writer
from replicator.core.records import ChangeRecord, PartRecord, Record, last_change_after, parse
from replicator.core.replies import Ask, Batch, Code, Head, Look, Peer, Reply
from replicator.errors import ConfigError, CorruptRecord, LogUnavailable, OutcomeUnknown

__all__ = ["RedisLog", "client_for", "shown"]

SCRIPTS = ("append", "part", "promote", "renew", "yield", "beat", "look")

#: How long Redis may take to answer. A blocking read may take this much longer than it blocks.
TIMEOUT_S = 5.0

#: Asks that nobody read in the meantime are of no use any more.
ASKS_KEPT = 1000


def client_for(url: str) -> redis.Redis:
    """A plain client, for libraries that want one of their own (RQ changes the timeouts of the one it is given)."""
    try:
        return redis.Redis.from_url(url)
    except ValueError as error:
        raise ConfigError(setting="redis", problem=f"{shown(url)!r} is not a Redis URL ({error})") from None


class _Script:
    """A script's text and the hash that Redis knows it by."""

    def __init__(self, name: str) -> None:
        folder = resources.files("replicator") / "lua"
        self.text = (folder / "fence.lua").read_bytes() + (folder / f"{name}.lua").read_bytes()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


class _Link:
    """One connection, made when it is needed, and never remade in the middle of anything."""

    def __init__(self, pool: ConnectionPool, url: str) -> None:
        self._pool = pool
        self._url = url
        # redis' Connection, whose methods carry no types.
        self._connection: Any = None
        self._lock = threading.Lock()
        self._closed = False
        self.run = ""

    def call(self, *command: Any) -> Any:
        """Send one command, give its answer. Raises `LogUnavailable`, `OutcomeUnknown`, or redis' `ResponseError`."""
        with self._lock:
            connection = self._connected()
            return self._answer(connection, connection.pack_command(*command))

    def script(self, script: _Script, keys: list[bytes], *args: Any, in_run: bool = False) -> Any:
        """Run a script; with `in_run` its first argument is the run that this very connection belongs to.

        A script that Redis does not know has done nothing, so sending its text then is no repeat.
        """
        with self._lock:
            connection = self._connected()
            rest = (len(keys), *keys, self.run, *args) if in_run else (len(keys), *keys, *args)
            try:
                return self._answer(connection, connection.pack_command(b"EVALSHA", script.sha, *rest))
            except redis.exceptions.NoScriptError:
                return self._answer(connection, connection.pack_command(b"EVAL", script.text, *rest))

    def close(self) -> None:
        # Without the lock: this is how a read that blocks in another thread is ended.
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.disconnect()

    def _connected(self) -> Any:
        if not self._closed and (self._connection is None or not self._connection.is_connected):
            self._connection = None
            connection: Any = self._pool.make_connection()
            try:
                connection.connect()
                connection.send_command("INFO", "server")
                self.run = _run_of(connection.read_response(disable_decoding=True))
            except (redis.exceptions.RedisError, OSError) as error:
                connection.disconnect()
                raise LogUnavailable(url=self._url, problem=_advice(error)) from None
            self._connection = connection
        # Asked after the connection was made known, so that either `close` sees it or this sees that it is closed.
        if self._closed:
            if self._connection is not None:
                self._connection.disconnect()
            raise LogUnavailable(url=self._url, problem="the connection is closed")
        return self._connection

    def _answer(self, connection: Any, packed: Any) -> Any:
        try:
            connection.send_packed_command(packed, check_health=False)
            return connection.read_response(disable_decoding=True)
        except redis.exceptions.ResponseError:
            raise
        except (redis.exceptions.BusyLoadingError, redis.exceptions.AuthenticationError) as error:
            # Connection errors to redis-py, but the server did answer: it did nothing.
            raise LogUnavailable(url=self._url, problem=_advice(error)) from None
        except (redis.exceptions.RedisError, OSError) as error:
            connection.disconnect()
            self._connection = None
            raise OutcomeUnknown(url=self._url, problem=str(error) or type(error).__name__) from None
        except BaseException:
            # An answer that was not read would be taken for that of the next command.
            connection.disconnect()
            self._connection = None
            raise


class RedisLog:
    """A group's log in the Redis at `url` (`redis://`, `rediss://`, `unix://`). See `replicator.core.replies.Log`."""

    def __init__(self, url: str, group: str, *, timeout_s: float = TIMEOUT_S) -> None:
        if not group or "{" in group or "}" in group:
            raise ConfigError(setting="group", problem=f"{group!r} is not a name: it may not be empty or have braces")
        #: For messages: without a password.
        self.url = shown(url)
        self._url = url
        self.group = group
        self._timeout_s = timeout_s
        self._scripts = {name: _Script(name) for name in SCRIPTS}
        prefix = f"replicator:{{{group}}}:"
        self._keys = [(prefix + key).encode() for key in ("term", "log", "head", "lease", "commands", "nodes")]
        self._write = _Link(self._pool(timeout_s), self.url)
        self._other = _Link(self._pool(timeout_s), self.url)
        self._read = _Link(self._pool(timeout_s), self.url)

    def _pool(self, timeout_s: float) -> ConnectionPool:
        try:
            return ConnectionPool.from_url(
                self._url,
                # Never repeat a command: an append that is sent twice by somebody else's retry is not our retry.
                retry=Retry(NoBackoff(), 0),
                # The shapes of answers must not depend on the server's or the library's defaults.
                protocol=2,
                decode_responses=False,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                # A client's name takes no spaces and nothing but ASCII.
                client_name=f"replicator-{quote(self.group)}",
            )
        except ValueError as error:
            raise ConfigError(setting="redis", problem=f"{self.url!r} is not a Redis URL ({error})") from None

    # --- writes ---

    def append(self, record: ChangeRecord) -> Reply:
        return self._run(self._write, "append", 3, *_append_args(record), int(record.count > 0), in_run=True)

    def part(self, record: PartRecord, *, rebase: bool = False) -> Reply:
        changed = last_change_after(record, rebase=rebase) or ""
        place = (str(record.part), str(record.parts), str(record.as_of.id), "1" if rebase else "0", str(changed))
        return self._run(self._write, "part", 3, *_append_args(record), *place, in_run=True)

    def promote(
        self,
        writer: Writer,
        *,
        floor: int,
        lease_ms: int,
        by: str,
        reason: str,
        expect: int | None = None,
        run: str = "",
        expect_head: RecordId | None = None,
        new_log_id: str = "",
    ) -> Reply:
        expected = "" if expect is None else str(expect)
        at = int(time.time() * 1000)
        args = (
            writer.node,
            writer.boot,
            floor,
            expected,
            run,
            lease_ms,
            new_log_id,
            by,
            reason,
            at,
            str(expect_head or ""),
        )
        return self._run(self._other, "promote", 5, *args)

    def renew(self, writer: Writer, term: int, lease_ms: int) -> Reply:
        return self._run(self._other, "renew", 4, term, writer.boot, writer.node, lease_ms)

    def give_back(self, writer: Writer, term: int) -> None:
        self._run(self._other, "yield", 4, term, writer.boot, writer.node)

    def beat(self, peer: Peer) -> None:
        self._run(self._other, "beat", 6, peer.node, peer.to_json())

    def ask(self, what: str, *, by: str, node: str = "") -> str:
        command = (b"XADD", self._keys[4], "MAXLEN", "~", ASKS_KEPT, "*", "ask", what, "node", node, "by", by)
        answer = self._answered(lambda: self._other.call(*command))
        return str(answer, "ascii")

    # --- reads ---

    def read(
        self, after: RecordId | None, *, asks_after: str = "", count: int = 32, block_ms: int | None = None
    ) -> Batch:
        command: list[Any] = [b"XREAD", b"COUNT", count]
        if block_ms is not None:
            # 0 would block for ever.
            command += [b"BLOCK", max(1, min(block_ms, int(self._timeout_s * 500)))]
        keys, places = [], []
        if after is not None:
            keys.append(self._keys[1])
            places.append(str(after))
        if asks_after:
            keys.append(self._keys[4])
            places.append(asks_after)
        if not keys:
            return Batch([], [])
        answer = self._asked(lambda: self._read.call(*command, b"STREAMS", *keys, *places))
        found = dict(answer or [])
        records, corrupt = _parse_entries(found.get(self._keys[1], []))
        return Batch(records, [_ask_of(entry) for entry in found.get(self._keys[4], [])], corrupt)

    def find(self, id: RecordId) -> Record | None:
        entries = self._asked(lambda: self._other.call(b"XRANGE", self._keys[1], str(id), str(id)))
        records, corrupt = _parse_entries(entries)
        if corrupt is not None:
            raise corrupt
        return records[0] if records else None

    def look(self) -> Look:
        answer = self._asked(lambda: self._other.script(self._scripts["look"], self._keys))
        run, now, term, head, stray, lease_ms, nodes = answer
        now_ms = int(now)
        parsed = _head_of(_pairs(head))
        newest = parsed.position.id if parsed else ZERO_ID
        peers = (_peer_of(value, now_ms) for value in _pairs(nodes).values())
        return Look(
            run=run.decode(),
            term=int(term),
            head=parsed,
            last_id=RecordId.parse(stray.decode()) if stray else newest,
            lease_ms=lease_ms if lease_ms >= 0 else None,
            peers={peer.node: peer for peer in peers if peer is not None},
            now_ms=now_ms,
        )

    def newest_ask(self) -> str:
        entries = self._asked(lambda: self._other.call(b"XREVRANGE", self._keys[4], "+", "-", "COUNT", 1))
        return str(entries[0][0], "ascii") if entries else "0-0"

    def close(self) -> None:
        for link in (self._write, self._other, self._read):
            link.close()

    # --- the edge: redis' answers and errors become ours ---

    def _run(self, link: _Link, name: str, keys: int, *args: Any, in_run: bool = False) -> Reply:
        script = self._scripts[name]
        return _reply_of(self._answered(lambda: link.script(script, self._keys[:keys], *args, in_run=in_run)))

    def _answered(self, send: Callable[[], Any]) -> Any:
        try:
            return send()
        except redis.exceptions.ResponseError as error:
            # The server understood and refused (READONLY, OOM, LOADING, NOAUTH, WRONGTYPE, BUSY ...): every script
            # refuses before its first write, so nothing was written.
            raise LogUnavailable(url=self.url, problem=_advice(error)) from None

    def _asked(self, send: Callable[[], Any]) -> Any:
        # A question that got no answer has changed nothing: there is no outcome to be unknown.
        try:
            return self._answered(send)
        except OutcomeUnknown as error:
            raise LogUnavailable(**error.fields) from None


def shown(url: str) -> str:
    """The URL without its password, which has no place in a message."""
    return re.sub(r"(?<=:)[^:/@]+(?=@)|(?<=[?&]password=)[^&]+", "***", url)


_ADVICE = {
    "READONLY": "it is a replica; point the URL at the master",
    "OOM": "its memory is full; raise maxmemory (and keep maxmemory-policy noeviction)",
    "LOADING": "it is still loading its data; it will answer soon",
    "NOAUTH": "it wants a password; put it into the URL",
    "WRONGPASS": "the password in the URL is wrong",
    "NOPERM": "this user may not do that; see `ACL LOG`",
    "ACL failure": "this user may not do that; see `ACL LOG`",
    "can't run this command": "this user may not do that; see `ACL LOG`",
    "WRONGTYPE": "a key of the group holds something else; is it the right database?",
    "BADTERM": "the key was changed by hand; set it to the term that `replicator status` shows",
    "MISCONF": "it cannot write to its disk",
    "BUSY": "a script keeps it busy",
}


#: redis-py turns the first word of these answers into a class, and takes it out of the text.
_WORDS: dict[type[Exception], str] = {
    redis.exceptions.ReadOnlyError: "READONLY",
    redis.exceptions.OutOfMemoryError: "OOM",
    redis.exceptions.BusyLoadingError: "LOADING",
    redis.exceptions.NoPermissionError: "NOPERM",
}


def _advice(error: Exception) -> str:
    text = " ".join(filter(None, [_word_of(error), str(error)]))
    for word, advice in _ADVICE.items():
        # Redis 6.2 puts the word into the middle of the error of a script.
        if word in text:
            return f"{text} ({advice})"
    return text


def _word_of(error: Exception) -> str:
    if isinstance(error, redis.exceptions.AuthenticationError):
        return "NOAUTH" if "required" in str(error) else "WRONGPASS"
    return _WORDS.get(type(error), "")


def _append_args(record: Record) -> tuple[Any, ...]:
    return (record.id.term, record.boot, record.prev, record.chain, record.id.n, record.header, record.body)


def _reply_of(answer: list[bytes]) -> Reply:
    code = Code(answer[0].decode())
    rest = [item.decode() for item in answer[1:]]
    match code, rest:
        case Code.OK, [term, id_, _run]:
            return Reply(code, term=int(term), id=RecordId.parse(id_))
        case ((Code.FENCED | Code.CONFLICT), [term, node]):
            return Reply(code, term=int(term), node=node)
        case _, [id_]:
            return Reply(code, id=RecordId.parse(id_))
        case _:
            return Reply(code)


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
    pairs = {name.decode(): value.decode("utf-8", "replace") for name, value in _pairs(fields or []).items()}
    return Ask(id_.decode(), pairs.get("ask", ""), pairs.get("node", ""), pairs.get("by", ""))


def _head_of(pairs: dict[bytes, bytes]) -> Head | None:
    if not pairs:
        return None
    texts = {name.decode(): value.decode() for name, value in pairs.items()}
    return Head(
        log_id=texts["log_id"],
        run=texts["run"],
        term=int(texts["term"]),
        node=texts["node"],
        boot=texts["boot"],
        position=Position(RecordId.parse(texts["id"]), texts.get("chain", ZERO_CHAIN)),
        changed=RecordId.parse(texts.get("changed", "0-0")),
        snapshot_at=RecordId.parse(texts.get("snapshot_at", "0-0")),
        previous_snapshot_at=RecordId.parse(texts.get("previous_snapshot_at", "0-0")),
        part_next=int(texts.get("part_next", "0")),
    )


def _peer_of(value: bytes, now_ms: int) -> Peer | None:
    at, _, data = value.partition(b" ")
    return Peer.from_json(data, age_ms=max(0, now_ms - int(at))) if at.isdigit() else None


def _pairs(flat: list[Any]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _run_of(info: bytes) -> str:
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line[7:].strip().decode()
    raise redis.exceptions.ResponseError("its INFO has no run_id: is it a Redis?")
