"""Turns the answers of Redis into values: replies of scripts, stream entries, the head, heartbeats; and back, for
appends.

Two rules hold. What a node depends on is read strictly: an answer of a script that cannot be understood is an unknown
outcome, because the script may have written, and a head that no script of ours can have written is `Foreign`. What only
informs is skipped if it cannot be read (an ack, a heartbeat, a note of who took terms): anybody can write to Redis, and
one bad entry must not make the group unreadable.

The error of a script needs care: it may mean that nothing was written (`wrote_nothing`) only if Redis raised it before
the script's first write, or at that. Redis 6.2 words errors differently within scripts; the patterns cover both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from replicator.errors import ConfigError, CorruptRecord, OutcomeUnknown
from replicator.format.ids import TERM_MAX, ZERO_CHAIN, ZERO_ID, Position, RecordId
from replicator.format.records import Opens, Record, parse
from replicator.format.seals import SEALED_TEXT, Refused
from replicator.format.term_ends import parse_ends
from replicator.log.interface import Ack, GroupRequest
from replicator.log.redis_errors import advice
from replicator.protocol.group import Claim, Code, GroupView, Head, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.protocol.history import HistoryEntry

if TYPE_CHECKING:
    from replicator.format.sealing import Sealing

#: Errors that mean that a question has no answer although Redis is there: the user has no permission, the command was
#: renamed, or the key holds something else.
NOT_KNOWN = re.compile("NoPermissionError|unknown command|WRONGTYPE", re.IGNORECASE)


def wrote_nothing(error: Exception) -> bool:
    """Whether a script that ended with this error has certainly written nothing.

    An error that keeps a script from running, or that its first write raises, begins with a known word; failures of
    later writes are answers, not errors (`also` in fence.lua). Any other error is a bug in a script, or comes from a
    server of a kind that is not known here.
    """
    return _NOTHING_WRITTEN.search(advice(error)) is not None


#: For an error within a script, Redis 6.2 puts the word into the middle, and it has no word for a missing right.
_NOTHING_WRITTEN = re.compile(
    r"\b(READONLY|OOM|NOREPLICAS|LOADING|NOAUTH|WRONGPASS|NOPERM|WRONGTYPE|BADTERM|BADHEAD|BADRECORD|MISCONF|BUSY|"
    r"NOSCRIPT|MOVED|ASK|TRYAGAIN|CROSSSLOT|CLUSTERDOWN|MASTERDOWN|UNKILLABLE)\b|ACL failure|can't run this command|"
    r"can't access|unknown command|not allowed from script|nonlocal key"
)


FSYNCED_NEEDS = (
    "it needs Redis 7.2 or Valkey, and an AOF; with `appendfsync always`, appended says the same on every server"
)


def append_args(record: Record) -> tuple[Any, ...]:
    return (record.id.term, record.boot, record.prev, record.chain, record.id.n, record.header, record.body)


#: The answer to most appends. It names no id: the caller knows where its record is.
OK = Reply(Code.OK)


def reply_of(answer: Any, url: str) -> Reply:
    """What a script answered. Raises `OutcomeUnknown` if that cannot be understood: the script may have written."""
    if answer == [b"ok"]:
        return OK
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
        case Code.OTHER_APP, [app]:
            return Reply(code, app=app)
        case ((Code.OK | Code.NEW_RUN | Code.RESTART | Code.LOST | Code.SEALED), []):
            return Reply(code)
    raise ValueError(rest)


def _number(text: str) -> int:
    """A number of ASCII digits and nothing else; `int` accepts more."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r:.50} is no number")
    return int(text)


def _count(text: str) -> int:
    """A number that a script could have counted up to."""
    if (number := _number(text)) > TERM_MAX:
        raise ValueError(f"{number} is too large")
    return number


def parse_entries(entries: Sequence[Any], opens: Opens) -> tuple[list[Record], CorruptRecord | None]:
    """The records up to the first entry that is not one, and what is wrong with that. `opens`: see `parse`."""
    records: list[Record] = []
    for id_, fields in entries:
        header, body = _header_and_body(fields or ())
        try:
            records.append(parse(id_.decode(), header, body, opens))
        except CorruptRecord as problem:
            return records, problem
    return records, None


def _header_and_body(fields: Sequence[bytes]) -> Sequence[bytes | None]:
    if fields[::2] == [b"h", b"b"]:  # as our scripts write it
        return fields[1::2]
    pairs = pairs_of(fields)
    return pairs.get(b"h"), pairs.get(b"b")


def request_of(entry: Any) -> GroupRequest:
    id_, fields = entry
    texts = {name: value.decode("utf-8", "replace") for name, value in pairs_of(fields or []).items()}
    return GroupRequest(id_.decode(), texts.get(b"request", ""), texts.get(b"node", ""), texts.get(b"by", ""))


def ack_of(entry: Any) -> Ack | None:
    pairs = pairs_of(entry[1] or [])
    try:
        return Ack(pairs[b"node"].decode(), RecordId.parse(pairs[b"at"].decode()), pairs.get(b"mac", b"").decode())
    except (KeyError, ValueError, ConfigError):
        return None


def signed_ack(ack: Ack, sealing: Sealing) -> Ack:
    """The ack as it goes into a log that has a key."""
    return ack if sealing.sealer is None else ack._replace(mac=sealing.sealer.sign("ack", _ack_text(ack)))


def vouched_acks(found: Iterable[Ack], sealing: Sealing | None) -> tuple[list[Ack], list[str]]:
    """Those that the group's key vouches for, and of whom there are others."""
    if sealing is None:
        return list(found), []
    good: list[Ack] = []
    forged: list[str] = []
    for ack in found:
        if sealing.vouches("ack", _ack_text(ack), ack.mac):
            good.append(ack._replace(mac=""))
        else:
            forged.append(ack.node)
    return good, forged


def _ack_text(ack: Ack) -> bytes:
    return f"{ack.node} {ack.at}".encode()


def history_of(entries: list[Any]) -> list[HistoryEntry]:
    """The entries of the history that our scripts wrote."""
    found = (HistoryEntry.from_fields(_texts_of(fields or [])) for _, fields in entries)
    return [entry for entry in found if entry is not None]


def _texts_of(flat: list[Any]) -> dict[str, str]:
    texts = [each.decode("utf-8", "replace") for each in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def id_of(pairs: dict[bytes, bytes]) -> RecordId:
    """The id of the newest record as named by a head that cannot be used otherwise."""
    try:
        return RecordId.parse(pairs.get(b"id", b"0-0").decode())
    except (ValueError, ConfigError):
        return ZERO_ID


class Foreign(Exception):
    """What the head key holds was not written by our scripts."""


def head_of(pairs: dict[bytes, bytes]) -> Head | None:
    """Read the head; None: there is none. Raises `Foreign`."""
    if not pairs:
        return None
    try:
        return _head_from({name: pairs[name.encode()].decode() for name in _HEAD_FIELDS if name.encode() in pairs})
    except KeyError as missing:
        raise Foreign(f"it has no {missing.args[0]}") from None
    except (ValueError, ConfigError) as error:
        raise Foreign(str(error)) from None


#: The fields of the hash in Redis.
_HEAD_FIELDS = (
    *("log_id", "run", "term", "node", "boot", "id", "chain", "changed", "snapshot_at", "previous_snapshot_at"),
    *("part_next", "ends", "taken", "paused", "paused_at", "applied_min", "whole", "whole_at", "app"),
    *("sealed", "history", "since", "left"),
)


def _head_from(texts: dict[str, str]) -> Head:
    """Read the fields. They must fit together: the newest record is of the newest term."""
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
        app=texts.get("app", ""),
        sealed=texts.get("sealed") == "1",
        history_count=_told(texts.get("history", "")),
        since=_stamp(texts.get("since", ""), texts["term"]),
        left=_stamp(texts.get("left", ""), texts["term"]),
    )


def _told(text: str) -> int:
    # Like what follows it is for people, and must not make the group unreadable.
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def _stamp(note: str, term: str) -> int:
    of, _, at = note.partition(" ")
    return _told(at) if of == term else 0


def _taken_of(word: str) -> tuple[int, str] | None:
    # This only holds a node back for a while: a word that cannot be read must not make the group unreadable.
    at, _, node = word.partition("/")
    try:
        return _count(at), node
    except ValueError:
        return None


#: What a heartbeat says in words, which may be those of the application.
_IN_WORDS = ("stalled", "problem", "last_error", "given_up")

_NOT_SHOWN = "what is the matter is sealed: give the group's key file"


def told_by(heartbeat: Heartbeat, sealing: Sealing | None) -> bytes:
    """What a node says of itself, as it goes into the log of its group."""
    sealer = None if sealing is None else sealing.sealer
    if sealer is None:
        return heartbeat.to_json()
    words: dict[str, Any] = {name: sealer.seal_text(getattr(heartbeat, name)) for name in _IN_WORDS}
    return sealer.sign_json("beat", heartbeat._replace(**words).to_json())


def heartbeat_of(value: bytes, now_ms: int, sealing: Sealing | None) -> Heartbeat | None:
    """The heartbeat; None: it is none, or the group's key does not vouch for it."""
    at, _, data = value.partition(b" ")
    # The stamp is in unix ms of Redis: a number of more digits is none.
    return heard(data, int(at), now_ms, sealing) if at.isdigit() and len(at) < 17 else None


def heard(data: bytes, beaten_at: int, now_ms: int, sealing: Sealing | None) -> Heartbeat | None:
    """The inverse of `told_by`."""
    known = data if sealing is None else sealing.verified_json("beat", data)
    heartbeat = None if known is None else Heartbeat.seen(known, beaten_at=beaten_at, now_ms=now_ms)
    if heartbeat is None or SEALED_TEXT.encode() not in data:
        return heartbeat
    words: dict[str, Any] = {name: _opened(getattr(heartbeat, name), sealing) for name in _IN_WORDS}
    return heartbeat._replace(**words)


def _opened(text: str, sealing: Sealing | None) -> str:
    if not text.startswith(SEALED_TEXT):
        return text
    try:
        return _NOT_SHOWN if sealing is None else sealing.open_text(text)
    except Refused as problem:
        return str(problem)


def forged_in(beats: dict[bytes, bytes], heard: dict[bytes, Heartbeat | None]) -> tuple[str, ...]:
    """The names under which there is a heartbeat that can be read, and was not believed."""
    names = [name for name in beats if heard[name] is None and heartbeat_of(beats[name], 0, None) is not None]
    return tuple(sorted(name.decode("utf-8", "replace") for name in names))


#: How often a claim that does not depend on the term is made anew for another one.
CLAIMS_MAX = 5


def sealed_promotion(
    claim: Claim, sealing: Sealing, look: Callable[[], GroupView], send: Callable[[Claim], Reply]
) -> Reply:
    """Send a claim with what vouches for it. That is for one term: one that takes whichever comes next is made anew
    until it is that one.
    """
    for _ in range(CLAIMS_MAX):
        for_one = claim if claim.expect is not None else replace(claim, expect=look().term)
        reply = send(_sealed_claim(for_one, sealing))
        if claim.expect is not None or reply.code is not Code.CONFLICT:
            break
    return reply


def _sealed_claim(claim: Claim, sealing: Sealing) -> Claim:
    """A dash: the group's keys say that nothing is sealed (any more)."""
    if sealing.sealer is None:
        return replace(claim, seal="-")
    writer = claim.writer
    told: dict[str, Any] = {"node": writer.node, "boot": writer.boot, "by": claim.by, "reason": claim.reason}
    if claim.skip != ZERO_ID:
        told["skip"] = str(claim.skip)
    told["version"] = claim.version
    return replace(claim, seal=sealing.sealer.sign_claim(told, floor=claim.floor, expect=claim.expect or 0))


def pairs_of(flat: Sequence[Any]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
