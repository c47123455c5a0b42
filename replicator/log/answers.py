"""What Redis answers, as values: replies of scripts, entries of streams, the head, heartbeats."""

from __future__ import annotations

import re
from typing import Any

from replicator.errors import ConfigError, CorruptRecord, OutcomeUnknown
from replicator.format.ids import TERM_MAX, ZERO_CHAIN, ZERO_ID, Position, RecordId
from replicator.format.records import Record, parse
from replicator.format.term_ends import parse_ends
from replicator.log.advice import advice
from replicator.log.interface import Ack, GroupRequest
from replicator.protocol.group import Code, Head, Reply
from replicator.protocol.heartbeat import Heartbeat

#: Why a question has no answer although Redis is there: no permission, a command that was renamed, a foreign key.
NOT_KNOWN = re.compile("NoPermissionError|unknown command|WRONGTYPE", re.IGNORECASE)


def wrote_nothing(error: Exception) -> bool:
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


def missing_right(error: Exception, keys: str) -> str:
    """What to give the user, as far as Redis says what is missing."""
    text = str(error)
    if "keys" in text or "access a key" in text:
        return f"~{keys}"
    command = re.search(r"run the '([\w|]+)' command", text) or re.search(r"may not use (\w+(?:, \w+)*)", text)
    return " ".join(f"+{name}" for name in command[1].split(", ")) if command else f"~{keys} +..."


FSYNCED_NEEDS = (
    "it needs Redis 7.2 or Valkey, and an AOF; with `appendfsync always`, appended says the same on every server"
)


def append_args(record: Record) -> tuple[Any, ...]:
    return (record.id.term, record.boot, record.prev, record.chain, record.id.n, record.header, record.body)


#: The answer of most appends, which say themselves where the record is.
_OK = Reply(Code.OK)


def reply_of(answer: Any, url: str) -> Reply:
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


def parse_entries(entries: list[Any]) -> tuple[list[Record], CorruptRecord | None]:
    records: list[Record] = []
    for id_, fields in entries:
        pairs = pairs_of(fields or [])
        try:
            records.append(parse(id_.decode(), pairs.get(b"h"), pairs.get(b"b")))
        except CorruptRecord as problem:
            return records, problem
    return records, None


def ask_of(entry: Any) -> GroupRequest:
    id_, fields = entry
    texts = {name: value.decode("utf-8", "replace") for name, value in pairs_of(fields or []).items()}
    return GroupRequest(id_.decode(), texts.get(b"ask", ""), texts.get(b"node", ""), texts.get(b"by", ""))


def ack_of(entry: Any) -> Ack | None:
    pairs = pairs_of(entry[1] or [])
    try:
        return Ack(pairs[b"node"].decode(), RecordId.parse(pairs[b"at"].decode()))
    except (KeyError, ValueError, ConfigError):
        return None


def id_of(pairs: dict[bytes, bytes]) -> RecordId:
    """What a head that cannot be used says of its newest record."""
    try:
        return RecordId.parse(pairs.get(b"id", b"0-0").decode())
    except (ValueError, ConfigError):
        return ZERO_ID


class Foreign(Exception):
    """It is no head of ours."""


def head_of(pairs: dict[bytes, bytes]) -> Head | None:
    if not pairs:
        return None
    try:
        return _head_from({name: pairs[name.encode()].decode() for name in _HEAD_FIELDS if name.encode() in pairs})
    except KeyError as missing:
        raise Foreign(f"it has no {missing.args[0]}") from None
    except (ValueError, ConfigError) as error:
        raise Foreign(str(error)) from None


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


def heartbeat_of(value: bytes, now_ms: int) -> Heartbeat | None:
    at, _, data = value.partition(b" ")
    # Unix ms of Redis: more digits are none.
    return Heartbeat.seen(data, beaten_at=int(at), now_ms=now_ms) if at.isdigit() and len(at) < 17 else None


def pairs_of(flat: list[Any]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
