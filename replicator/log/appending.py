"""Appending a change: the request that a service sends for each of its writes, so it is packed by hand.

It is one script with the same arguments each time, of which only the last few differ from one record to the next. The
others are packed once for a term and a connection, and all the rest with one format: `hiredis.pack_command`, which
looks at the type of each argument, takes three times as long. What goes over the wire is the same to the byte.

Whatever is not a plain `ok` goes the way that the answers of all scripts go (`connection.py`, `replies.py`).
"""

from __future__ import annotations

from typing import Any, Protocol

import hiredis
import redis

from replicator.format.acts import decode_act
from replicator.format.records import ACT, ChangeRecord
from replicator.log.connection import Exchange, Link, Script
from replicator.log.wire import Limit
from replicator.protocol.group import Reply

from .replies import append_args

__all__ = ["AppendRequest", "RedisAppending"]

#: After the start: prev and chain, which have 32 digits; n, header, body; carries, which has one; acks.
_REST = b"%b" + b"$32\r\n%b\r\n" * 2 + b"$%d\r\n%b\r\n" * 3 + b"$1\r\n%b\r\n" + b"$%d\r\n%b\r\n"


class AppendRequest:
    """The request of a group: `append.lua` with its arguments. Only who has the connection for writes packs one."""

    def __init__(self, script: Script, keys: list[bytes]) -> None:
        self.script = script
        self._keys = keys
        self._start = b""
        #: Whose records begin so: the run, the term, the boot.
        self._start_of: tuple[str, int, str] = ("", 0, "")

    def command(self, run: str, record: ChangeRecord) -> tuple[Any, ...]:
        """What follows EVALSHA and the hash of the script, or EVAL and its text."""
        keys = self._keys[:3]
        args = (*append_args(record), b"1" if record.count else b"0", record.wants_acks)
        if record.codec == ACT:
            act = decode_act(record.payload, record.digest, record.version, id_=str(record.id))
            args, keys = (*args, record.version, act["by"]), self._keys[:8]
        return (len(keys), *keys, run, *args)

    def packed(self, run: str, record: ChangeRecord) -> bytes:
        """All of it, as it goes over the wire."""
        if record.codec == ACT:
            return bytes(hiredis.pack_command((b"EVALSHA", self.script.sha, *self.command(run, record))))
        term, number = record.id
        start_of = (run, term, record.boot)
        if start_of != self._start_of:
            self._start, self._start_of = self._packed_start(*start_of), start_of
        prev, chain, n = record.prev.encode(), record.chain.encode(), b"%d" % number
        header, body, acks = record.header, record.body, b"%d" % record.wants_acks
        return _REST % (
            self._start,
            prev,
            chain,
            len(n),
            n,
            len(header),
            header,
            len(body),
            body,
            b"1" if record.count else b"0",
            len(acks),
            acks,
        )

    def _packed_start(self, run: str, term: int, boot: str) -> bytes:
        start: Any = (b"EVALSHA", self.script.sha, 3, *self._keys[:3], run, term, boot)
        _, _, packed = bytes(hiredis.pack_command(start)).partition(b"\r\n")
        return b"*%d\r\n%b" % (len(start) + 7, packed)


class Judge(Protocol):
    """What a log makes of the answers of its scripts."""

    def reply(self, name: str, answer: Any) -> Reply: ...

    def failed(self, error: Exception) -> Exception: ...


class RedisAppending(Exchange):
    """See `Appending`: the script, and what the log makes of its answer."""

    __slots__ = ("_log", "_record", "_request")

    def __init__(self, log: Judge, link: Link, request: AppendRequest, record: ChangeRecord, limit: Limit) -> None:
        super().__init__(link, limit)
        self._log = log
        self._request = request
        self._record = record

    def _sent(self) -> Limit:
        run, record = self._opened.run, self._record
        return self._opened.wire.send_packed(self._request.packed(run, record), self._limit)

    def _asked_otherwise(self, refused: redis.exceptions.ResponseError) -> Any:
        if not isinstance(refused, redis.exceptions.NoScriptError):
            raise self._link._failed(refused) from None
        command = self._request.command(self._opened.run, self._record)
        return self.ask_too(b"EVAL", self._request.script.text, *command, limit=self._limit)

    def receive(self) -> Reply:
        try:
            answer = super().receive()
        except redis.exceptions.ResponseError as error:
            raise self._log.failed(error) from None
        return self._log.reply("append", answer)
