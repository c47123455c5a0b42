"""Changes with keys, as a record of the codec `keyed` has them: a JSON list of [key or null, change].

A record with a keyed change in it has all of its changes in this form; one without is what it always was. The digest
of a keyed change is over its JSON as it stands in the record, not over anything that was made of it again: all nodes
have the same bytes, whatever encoder they have. A `Key` brings a digest of its own, which comes third in the list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson
import xxhash

from replicator.errors import ConfigError, KeyReused

__all__ = [
    "ENTRY_BYTES",
    "KEY_CHARACTERS_MAX",
    "Key",
    "Keyed",
    "NotKeyed",
    "RequestKey",
    "as_keyed",
    "change_in",
    "entries_of",
    "is_key",
    "key_of",
    "keyed",
    "members",
    "unkeyed",
]

#: Long enough for two UUIDs and a word. A table of keys holds many of them.
KEY_CHARACTERS_MAX = 256

#: What an entry without a key takes besides its change: `[null,` and `]`.
ENTRY_BYTES = 7

#: Control characters, and halves of characters, which no JSON holds.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_DIGEST = re.compile("[0-9a-f]{32}")

#: What opens and closes values, but for what is in a string.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]', re.DOTALL)

#: The same, and what parts values.
_PARTING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)

#: What an entry begins with.
_HEAD = re.compile(rb'\[(?:null|"[^"\\]*(?:\\.[^"\\]*)*"),', re.DOTALL)

_SPACES = "it has spaces where none belong"

_OPENING, _CLOSING = b"[{", b"]}"
_COMMA, _QUOTE = b',"'


def digest_of(json: bytes) -> str:
    """xxh3-128, 32 hex digits."""
    return xxhash.xxh3_128_hexdigest(json)


class Key(str):
    """A key of which the caller says what makes two attempts the same: `content`, and not the change itself.

    For a change that holds what is new with each attempt: a time, a random number.

        node.submit({"order": order, "at": now()}, key=Key("order-4711", content=request_body))
    """

    #: 32 hex digits.
    fingerprint: str

    def __new__(cls, key: str, *, content: bytes | bytearray) -> Key:
        """`content`: bytes: the body of a request, or a text's `encode()`. Raises `ConfigError`."""
        if not isinstance(content, bytes | bytearray):
            raise ConfigError(setting="content", problem=f"{content!a:.80} is not bytes: encode a text, for example")
        self = super().__new__(cls, key)
        self.fingerprint = digest_of(bytes(content))
        return self


class RequestKey(Key):
    """The key of a request, which goes by what was sent. It is for one change.

    Of a second change with the same key and fingerprint the table would say that it is a repeat, and nothing of it
    would be done. So it remembers which change it was given to.
    """

    def __new__(cls, key: str, *, fingerprint: str) -> RequestKey:
        """`fingerprint`: 32 hex digits."""
        self = str.__new__(cls, key)
        self.fingerprint = fingerprint
        self._given_to = None
        return self

    _given_to: tuple[Any] | None

    def give_to(self, change: Any) -> None:
        """Raises `KeyReused` if it was given to another one."""
        given = self._given_to = self._given_to or (change,)
        if given != (change,):
            raise KeyReused(
                "the key {key!r} of this request was given to another change already: nothing was changed; "
                'a request that makes several gives each a key of its own: idempotency_key(headers, part="2")',
                key=str(self),
            )


class Keyed(NamedTuple):
    """A change with its key. `digest`: 32 hex digits, of its JSON as it is in the log, or of what its `Key` says."""

    key: str
    change: Any
    digest: str


class NotKeyed(ValueError):
    """The payload does not have the form above."""


def is_key(key: object) -> bool:
    """Whether a change may have this key."""
    return isinstance(key, str) and 0 < len(key) <= KEY_CHARACTERS_MAX and _ODD.search(key) is None


def change_in(entry: Any) -> Any:
    """The change itself, of one that has a key or none."""
    return entry.change if type(entry) is Keyed else entry


def key_of(entry: Any) -> str | None:
    """Its key, if it has one."""
    return entry.key if type(entry) is Keyed else None


def keyed(key: str, json: bytes, change: Any) -> tuple[bytes, Keyed]:
    """The entry of a change, of which this is the JSON, and what every node will decode of it."""
    in_json = orjson.dumps(key)
    if isinstance(key, Key):
        entry = b'[%b,%b,"%b"]' % (in_json, json, key.fingerprint.encode())
        return entry, Keyed(str(key), change, key.fingerprint)
    return b"[%b,%b]" % (in_json, json), Keyed(key, change, digest_of(json))


def unkeyed(json: bytes) -> bytes:
    """The entry of a change without a key, of which this is the JSON."""
    return b"[null,%b]" % json


def as_keyed(json: bytes, count: int) -> bytes:
    """The entries of `count` changes without keys, of which this is the JSON, joined by commas."""
    if count == 1:
        return unkeyed(json)
    return b",".join(map(unkeyed, members(json)))


def members(json: bytes) -> Iterator[bytes]:
    """The values in what was joined by commas."""
    start, depth = 0, 0
    for token in _PARTING.finditer(json):
        first = json[token.start()]
        if first in _OPENING:
            depth += 1
        elif first in _CLOSING:
            depth -= 1
        elif first == _COMMA and depth == 0:
            yield json[start : token.start()]
            start = token.end()
    yield json[start:]


def entries_of(payload: bytes, decoded: Sequence[Any]) -> list[Any]:
    """The changes of a payload that was decoded: a `Keyed` for each that has a key, the bare change for others.

    Raises `NotKeyed`.
    """
    entries: list[Any] = []
    if decoded and not payload.endswith(b"]]"):
        raise NotKeyed(_SPACES)
    at, last = 1, len(decoded) - 1
    for number, entry in enumerate(decoded):
        if not _is_entry(entry):
            raise NotKeyed("one of its changes is not a list of a key, or null, and a change")
        head = _HEAD.match(payload, at)
        if head is None:
            raise NotKeyed(_SPACES)
        end = len(payload) - 2 if number == last else _end_of(payload, head.end())
        key, change, *said = entry
        if key is not None:
            change = Keyed(key, change, said[0] if said else digest_of(payload[head.end() : end]))
        entries.append(change)
        at = end + 2  # the bracket, and the comma after it
    return entries


def _is_entry(entry: Any) -> bool:
    match entry:
        case [None, _]:
            return True
        case [key, _]:
            return is_key(key)
        case [key, _, str() as fingerprint]:
            return is_key(key) and _DIGEST.fullmatch(fingerprint) is not None
    return False


def _end_of(payload: bytes, start: int) -> int:
    """Where the value ends that begins there: at the bracket that closes the entry around it."""
    depth = 0
    for token in _TOKEN.finditer(payload, start):
        first = payload[token.start()]
        if first in _OPENING:
            depth += 1
        elif first != _QUOTE:
            if depth == 0:
                return token.start()
            depth -= 1
    raise NotKeyed("one of its changes has no end")
