"""Sealed bodies: what stands in Redis, checkpoints, forks and archives in the place of a payload, if a group has a key.

    "S1" | key id (4) | salt (16) | nonce (12) | ciphertext | tag (16)

AES-256-GCM under a subkey of the key, which the salt gives: a process draws a salt when it begins, and a nonce for each
record. What is sealed is the digest of the payload (16 bytes; zeros: it has none), then the payload, compressed where
it would be without a key. The chain is over the sealed body, so scripts, chains and disks see bytes, as ever.

**A sealed body belongs to one place.** Sealed with it, though readable, are the group, the id and the header: its
kind, who wrote it, what it counts, and `prev`, which stands for all that came before. Opened anywhere else, or beside
another header, it is refused. So there is nothing to compare afterwards: what opens is what was written there.

**What has no body has a MAC** (HMAC-SHA256): the claim to a term, heartbeats, acks. What anybody may read and nobody
may guess from, the digest of a state, is told *blinded*.

This is the one place where bodies are sealed and opened. `Sealing` is of one group, and knows which key writes, which
open, and whether what is not sealed is taken too (while a group gets its first key, or gives up its last). Values in,
values out: chance is given to it. It needs the package `cryptography`, so only `storage/keyring.py` imports it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .ids import ZERO_ID, RecordId, next_term
from .seals import SEAL_BYTES, SEALED_TEXT, Refused

__all__ = ["KEY_BYTES", "Key", "Keyring", "Sealer", "Sealing"]

KEY_BYTES = 32

_MAGIC = b"S1"
_ID_BYTES, _SALT_BYTES, _NONCE_BYTES, _DIGEST_BYTES = 4, 16, 12, 16

#: Where the salt ends, and where the ciphertext begins.
_SALT_END = len(_MAGIC) + _ID_BYTES + _SALT_BYTES
_BEGINS = _SALT_END + _NONCE_BYTES

#: So many records under one subkey: then two equal nonces among them are as unlikely as 2^-37.
_RECORDS_PER_SALT = 2**30

#: How many nonces are drawn in one go.
_NONCES_AT_ONCE = 256

#: How many subkeys are kept at hand. Each boot that wrote something that is read has one.
_SUBKEYS_MAX = 256

#: In the place of the header of a record.
_TEXT = b"text"

_NO_DIGEST = bytes(_DIGEST_BYTES)

#: A heartbeat ends with its MAC, the last name in its JSON.
_SIGNED = re.compile(rb'(.*),"mac":"([0-9a-f]{8}:[0-9a-f]{64})"\}', re.DOTALL)

_NOT_OURS = "the group's key did not seal this, not for this place: it was forged, changed, moved here or replayed"
_UNSEALED = "it is not sealed, and the key file does not have `open unsealed`: whoever wrote it has not the group's key"
_TERM = "whoever took this term had not the group's key, or the claim was changed or replayed"


class Key(NamedTuple):
    """A key: 32 random bytes. Its id follows from them, so it tells nothing and cannot be mistaken."""

    secret: bytes

    @property
    def id(self) -> bytes:
        return hashlib.sha256(b"replicator key\0" + self.secret).digest()[:_ID_BYTES]

    @property
    def name(self) -> str:
        """Its id as people see it: 8 hex digits."""
        return self.id.hex()

    def subkey(self, use: bytes) -> bytes:
        """A key for this use alone."""
        return hmac.digest(self.secret, b"replicator 1\0" + use, "sha256")


class Keyring(NamedTuple):
    """The keys of a group. `writes`: the one that seals; None: nothing is sealed yet, or any more. `opens`: all that
    open, by their ids, with that one. `takes_unsealed`: what is not sealed is taken, too. `source`: whence it is.
    """

    writes: Key | None
    opens: Mapping[bytes, Key]
    takes_unsealed: bool = False
    source: str = "the key file"


class Sealer:
    """Seals for one group, with one key. `random`: gives so many random bytes. Any number of threads may seal."""

    def __init__(self, key: Key, group: str, random: Callable[[int], bytes]) -> None:
        self.key = key
        self._group = group
        self._place = _place_in(group)
        self._random = random
        self._salt_left = 0
        #: Drawn ahead: asking for each takes as long as to encrypt. Taking one is one step, so no two threads get it.
        self._nonces: deque[bytes] = deque()
        #: What a body begins with, and what encrypts under the subkey of the salt in that: read in one step.
        self._now: tuple[bytes, Callable[[bytes, bytes, bytes], bytes]]

    def seal(self, id_: RecordId, header: bytes, payload: bytes, digest: str) -> bytes:
        """The body of the record with this id and header. `digest`: of the payload, 32 hex digits; empty: none."""
        try:
            nonce = self._nonces.popleft()
        except IndexError:
            nonce = self._draw()
        told = bytes.fromhex(digest) if digest else _NO_DIGEST
        begins, encrypt = self._now
        return begins + nonce + encrypt(nonce, told + payload, self._place + b"%d-%d\0" % id_ + header)

    def _draw(self) -> bytes:
        if self._salt_left <= 0:
            # Two threads that come here at once draw two salts, and one of them is used: either is right.
            salt = self._random(_SALT_BYTES)
            aead = AESGCM(self.key.subkey(b"seal\0" + salt))
            self._now = _MAGIC + self.key.id + salt, aead.encrypt
            self._salt_left = _RECORDS_PER_SALT
        self._salt_left -= _NONCES_AT_ONCE
        drawn = self._random(_NONCE_BYTES * _NONCES_AT_ONCE)
        nonce, *more = (drawn[at : at + _NONCE_BYTES] for at in range(0, len(drawn), _NONCE_BYTES))
        self._nonces.extend(more)
        return nonce

    def seal_text(self, text: str) -> str:
        """A text that others are told, for those who have the key."""
        return SEALED_TEXT + base64.b64encode(self.seal(ZERO_ID, _TEXT, text.encode(), "")).decode() if text else ""

    def sign(self, what: str, text: bytes) -> str:
        """The MAC of this text, as what it is meant: the name of the key, and 64 hex digits."""
        return f"{self.key.name}:{_mac(self.key, self._group, what, text).hex()}"

    def sign_json(self, what: str, encoded: bytes) -> bytes:
        """The same in a JSON object that was encoded: as its last member."""
        return encoded[:-1] + b',"mac":"' + self.sign(what, encoded).encode() + b'"}'

    def sign_claim(self, fields: Mapping[str, Any], *, floor: int, expect: int) -> str:
        """What vouches for a claim to a term, whose record will have these fields, for whoever reads that record.

        `floor`, `expect`: what the claimant knows of terms. They decide, with Redis, which one it gets.
        """
        after = f"{floor}:{expect}:{fields.get('version', 1)}"
        return f"{after}:{self.sign('term', _claim(fields, after))}"


class Sealing:
    """Opens for one group, with any key of the ring; `sealer` seals with the one that writes (None: none does).

    `reload`: gives the ring anew, if there may be another one; called where a key is missing.
    """

    def __init__(
        self,
        keyring: Keyring,
        group: str,
        *,
        random: Callable[[int], bytes],
        reload: Callable[[], Keyring | None] = lambda: None,
    ) -> None:
        self._group = group
        self._place = _place_in(group)
        self._random = random
        self._reload = reload
        self._subkeys: dict[bytes, AESGCM] = {}
        self.sealer: Sealer | None = None
        self._use(keyring)

    def _use(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self._subkeys = {}
        key = keyring.writes
        if key is None or self.sealer is None or self.sealer.key != key:
            self.sealer = None if key is None else Sealer(key, self._group, self._random)

    def refresh(self) -> None:
        """Take another ring, if there is one."""
        keyring = self._reload()
        if keyring is not None and keyring != self.keyring:
            self._use(keyring)

    # --- records ---

    def open(self, id_: RecordId, header: bytes, body: bytes) -> tuple[bytes, str]:
        """The payload that was sealed for this place, and its digest (empty: it has none). Raises `Refused`."""
        if len(body) < SEAL_BYTES or not body.startswith(_MAGIC):
            raise Refused("its body is not a sealed one")
        subkey = self._subkeys.get(body[len(_MAGIC) : _SALT_END]) or self._subkey(body)
        try:
            place = self._place + b"%d-%d\0" % id_ + header
            opened = subkey.decrypt(body[_SALT_END:_BEGINS], memoryview(body)[_BEGINS:], place)
        except InvalidTag:
            raise Refused(_NOT_OURS) from None
        digest = opened[:_DIGEST_BYTES]
        return opened[_DIGEST_BYTES:], "" if digest == _NO_DIGEST else digest.hex()

    def _subkey(self, body: bytes) -> AESGCM:
        key = self.key_of(body)
        if len(self._subkeys) >= _SUBKEYS_MAX:
            self._subkeys = {}
        salted = body[len(_MAGIC) : _SALT_END]
        subkey = self._subkeys[salted] = AESGCM(key.subkey(b"seal\0" + salted[_ID_BYTES:]))
        return subkey

    def key_of(self, body: bytes) -> Key:
        """The key with which this body says that it is sealed. Raises `Refused`."""
        return self._key(body[len(_MAGIC) :][:_ID_BYTES])

    def _key(self, id_: bytes) -> Key:
        if id_ not in self.keyring.opens:
            self.refresh()
        if id_ not in self.keyring.opens:
            raise Refused(f"it is sealed with key {id_.hex()}, which {self.keyring.source} does not have: add that one")
        return self.keyring.opens[id_]

    def check_unsealed(self) -> None:
        """Whether a record may be unsealed. Raises `Refused`."""
        if not self.keyring.takes_unsealed:
            self.refresh()
        if not self.keyring.takes_unsealed:
            raise Refused(_UNSEALED)

    def check_term(self, id_: RecordId, fields: Mapping[str, Any]) -> None:
        """Whether the group's key vouches for this term record: for who takes which term. Raises `Refused`."""
        seal = fields.get("seal")
        if seal is None:
            self.check_unsealed()
            return
        if not all(isinstance(fields.get(name, ""), str) for name in _CLAIMED):
            raise Refused(_TERM)
        floor, expect, version, key, mac = _claim_parts(seal)
        after = f"{floor}:{expect}:{version}"
        self.verify("term", _claim(fields, after), f"{key}:{mac}", _TERM)
        if fields.get("version", 1) not in (1, int(version)) or not _may_get(id_.term, int(floor), int(expect)):
            raise Refused(_TERM)

    def open_text(self, text: str) -> str:
        """The inverse of `seal_text`; what is not sealed stays as it is. Raises `Refused`."""
        if not text.startswith(SEALED_TEXT):
            return text
        try:
            body = base64.b64decode(text.removeprefix(SEALED_TEXT), validate=True)
            return self.open(ZERO_ID, _TEXT, body)[0].decode()
        except ValueError:
            raise Refused(_NOT_OURS) from None

    # --- what has no body ---

    def verify(self, what: str, text: bytes, mac: str, problem: str = _NOT_OURS) -> None:
        """Whether that is the MAC of this text, as this. Raises `Refused`."""
        name, _, told = mac.partition(":")
        try:
            key, given = self._key(bytes.fromhex(name)), bytes.fromhex(told)
        except ValueError:
            raise Refused(problem) from None
        if not hmac.compare_digest(_mac(key, self._group, what, text), given):
            raise Refused(problem)

    def vouches(self, what: str, text: bytes, mac: str) -> bool:
        """The same as an answer. What has no MAC is as good as what is not sealed."""
        try:
            if not mac:
                self.check_unsealed()
            else:
                self.verify(what, text, mac)
        except Refused:
            return False
        return True

    def verified_json(self, what: str, signed: bytes) -> bytes | None:
        """The inverse of `sign_json`; None: the group's key does not vouch for it."""
        found = _SIGNED.fullmatch(signed)
        encoded, mac = (signed, "") if found is None else (found[1] + b"}", found[2].decode())
        return encoded if self.vouches(what, encoded, mac) else None

    def blinded(self, digest: str, body: bytes) -> str:
        """A digest as others may see it: equal for equal states, and of no use for guessing what they are.

        By the key of the record at which it was taken (its `body`), so that all nodes come to the same while keys
        change. At one that is not sealed it stays what it is. Raises `Refused`.
        """
        if not body.startswith(_MAGIC):
            return digest
        return _mac(self.key_of(body), self._group, "digest", digest.encode())[:16].hex()


def _place_in(group: str) -> bytes:
    """What a place begins with: then come the id and the header. No name of a group has a zero byte in it."""
    return b"replicator\0%b\0" % group.encode()


def _mac(key: Key, group: str, what: str, text: bytes) -> bytes:
    told = b"\0".join((group.encode(), what.encode(), text))
    return hmac.digest(key.subkey(b"mac"), told, "sha256")


#: What of a term record its claimant decided. The rest is decided in Redis, and the next record's `prev` stands for it.
_CLAIMED = ("node", "boot", "by", "reason", "skip")


def _claim(fields: Mapping[str, Any], after: str) -> bytes:
    return orjson.dumps([after, *(fields.get(name) for name in _CLAIMED)])


def _claim_parts(seal: object) -> list[str]:
    parts = seal.split(":") if isinstance(seal, str) else []
    known = len(parts) == 5 and all(map(_is_number, parts[:3]))
    if not known:
        raise Refused(_TERM)
    return parts


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 17


def _may_get(term: int, floor: int, expect: int) -> bool:
    """Whether the script may have given this term to a claim: the next one above what was known, or that of a new era.

    So a claim that is sent again later, by somebody else, leads to a term that is over already.
    """
    known = {floor, max(floor, expect)}
    return any(term == next_term(each, new_run=new_run) for each in known for new_run in (False, True))
