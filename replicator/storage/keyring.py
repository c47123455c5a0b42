"""The keys of a group, in a file that every node has: which key seals, and which ones open.

    # comment
    write 3f2a91c0 <base64 of 32 bytes>      seals, and opens
    open  91bd0c11 <base64 of 32 bytes>      opens
    open  unsealed                           what is not sealed is taken, too

One line begins with `write`; it may be `write unsealed`, and then nothing is sealed. A key's name follows from its
bytes, so one that was copied wrong is found. The file is for its owner alone. A node looks at it again once a beat, and
where it lacks a key: keys change without a restart. One that cannot be read any more leaves the node with those it has.
"""

from __future__ import annotations

import base64
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from replicator.errors import ConfigError
from replicator.runtime.event_log import EventLogger
from replicator.runtime.log_once import Lasting, LogOnce
from replicator.storage import disk

if TYPE_CHECKING:
    from replicator.format.sealing import Keyring, Sealing

__all__ = [
    "Entry",
    "KeyFile",
    "Keys",
    "changed",
    "cloak",
    "dropped",
    "new_key",
    "read_entries",
    "sealing_of",
    "write_entries",
]

logger = EventLogger(__name__)

SETTING = "key_file"

#: In the place of a key.
UNSEALED = "unsealed"

_KEY_BYTES = 32

_UNREADABLE = Lasting("keys.unreadable", "keys.read", "the key file can be read again")

_HEAD = "# The keys of a group (replicator key). Whoever has this file can read and write its state: keep it private.\n"


class Keys(Protocol):
    """Where the keys of groups are."""

    def of(self, group: str) -> Sealing:
        """What seals and opens for this group."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """One line: whether it writes, and the key; None: what is not sealed."""

    writes: bool
    secret: bytes | None

    @property
    def name(self) -> str:
        return UNSEALED if self.secret is None else _name_of(self.secret)

    def __str__(self) -> str:
        word = "write" if self.writes else "open "
        return f"{word} {self.name}" + (f" {base64.b64encode(self.secret).decode()}" if self.secret else "")


def _name_of(secret: bytes) -> str:
    from replicator.format.sealing import Key

    return Key(secret).name


def _needs_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError:
        problem = 'sealing needs the package cryptography: pip install "replicator[sealed]"'
        raise ConfigError(setting=SETTING, problem=problem) from None


class KeyFile:
    """The keys in a file. Raises `ConfigError`, which says what is wrong with it."""

    def __init__(self, path: Path) -> None:
        _needs_cryptography()
        self.path = path
        self._log_once = LogOnce(logger)
        self._stamp = _stamp(path)
        self._keyring = _keyring(path)

    def of(self, group: str) -> Sealing:
        """What seals and opens for this group, by the keys that the file has at the time."""
        from replicator.format.sealing import Sealing

        return Sealing(self._keyring, group, random=os.urandom, reload=self.again)

    def again(self) -> Keyring | None:
        """The keys as they are now; None: the file has not changed, or cannot be read now."""
        try:
            stamp = _stamp(self.path)
            if stamp != self._stamp:
                self._keyring = _keyring(self.path)
                self._stamp = stamp
            self._log_once.over("keys")
        except ConfigError as problem:
            self._log_once.tell("keys", _UNREADABLE, f"{problem}; going on with the keys that it had")
        return self._keyring


def sealing_of(path: str | Path | None, group: str) -> Sealing | None:
    """What seals and opens for a group whose keys are in this file; None: there is none. Raises `ConfigError`."""
    return None if not path else KeyFile(Path(path)).of(group)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise ConfigError(setting=SETTING, problem=f"{path} cannot be read: {error.strerror}") from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _keyring(path: Path) -> Keyring:
    from replicator.format.sealing import Key, Keyring

    entries = read_entries(path)
    writes = next((Key(each.secret) for each in entries if each.writes and each.secret is not None), None)
    keys = [Key(each.secret) for each in entries if each.secret is not None]
    takes_unsealed = any(each.secret is None for each in entries)
    return Keyring(writes, {key.id: key for key in keys}, takes_unsealed, source=str(path))


def cloak() -> Callable[[int, bytes], bytes]:
    """For a file of this process alone, which no other reads: makes bytes at an offset unreadable, and readable again.

    AES-256 in counter mode by a key that is nowhere else. Each offset is written once.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES256
    from cryptography.hazmat.primitives.ciphers.modes import CTR

    key = AES256(os.urandom(_KEY_BYTES))

    def cloaked(offset: int, data: bytes) -> bytes:
        block, within = divmod(offset, 16)
        cipher = Cipher(key, CTR(block.to_bytes(16, "big"))).encryptor()
        cipher.update(bytes(within))
        return cipher.update(data)

    return cloaked


# --- the file --------------------------------------------------------------------------------------------------------


def read_entries(path: Path) -> list[Entry]:
    """What the file says. Raises `ConfigError`."""
    _needs_cryptography()
    try:
        text, mode = path.read_text("utf-8"), path.stat().st_mode
    except OSError as error:
        raise ConfigError(setting=SETTING, problem=f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(setting=SETTING, problem=f"{path} is not a key file: it is not UTF-8") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        problem = f"others than its owner may read or write {path}: `chmod 600 {path}`"
        raise ConfigError(setting=SETTING, problem=problem)
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    entries = [_entry(path, number, words) for number, words in lines if words and not words[0].startswith("#")]
    _check(path, entries)
    return entries


def _entry(path: Path, number: int, words: Sequence[str]) -> Entry:
    where = f"line {number} of {path}"
    match words:
        case ["write" | "open" as word, "unsealed"]:
            return Entry(word == "write", None)
        case ["write" | "open" as word, name, encoded]:
            try:
                secret = base64.b64decode(encoded, validate=True)
            except ValueError:  # it is no base64, or no ASCII
                secret = b""
            if len(secret) != _KEY_BYTES or _name_of(secret) != name:
                raise ConfigError(setting=SETTING, problem=f"{where}: key {name!a:.20} was copied wrong")
            return Entry(word == "write", secret)
    raise ConfigError(setting=SETTING, problem=f"{where} is not `write NAME KEY` or `open NAME KEY`")


def _check(path: Path, entries: Sequence[Entry]) -> None:
    writing = sum(each.writes for each in entries)
    if writing != 1:
        problem = f"{path} has {writing} lines that begin with `write`, and one key writes: `replicator key use`"
        raise ConfigError(setting=SETTING, problem=problem)
    if len({each.name for each in entries}) != len(entries):
        raise ConfigError(setting=SETTING, problem=f"{path} has a key twice")


def write_entries(path: Path, entries: Sequence[Entry], *, new: bool = False) -> None:
    """Write the file, whole or not at all, for its owner alone. `new`: only if it is not there."""
    _check(path, entries)
    if new and path.exists():
        raise ConfigError(setting=SETTING, problem=f"{path} is there already: `replicator key add` puts a key into it")
    text = _HEAD + "".join(f"{each}\n" for each in entries)
    try:
        disk.write_private(path, text.encode())
    except OSError as error:
        raise ConfigError(setting=SETTING, problem=f"{path} cannot be written: {error.strerror}") from None


def new_key() -> bytes:
    """A new key."""
    return os.urandom(_KEY_BYTES)


def changed(entries: Sequence[Entry], name: str) -> list[Entry]:
    """The same, with the key of that name as the one that writes. Raises `ConfigError`."""
    _of(entries, name)
    return [Entry(each.name == name, each.secret) for each in entries]


def dropped(entries: Sequence[Entry], name: str) -> list[Entry]:
    """The same without the key of that name. Raises `ConfigError`."""
    if _of(entries, name).writes:
        raise ConfigError(setting="NAME", problem=f"{name} is the one that writes: `replicator key use` another first")
    return [each for each in entries if each.name != name]


def _of(entries: Sequence[Entry], name: str) -> Entry:
    for each in entries:
        if each.name == name:
            return each
    known = ", ".join(each.name for each in entries)
    raise ConfigError(setting="NAME", problem=f"there is no key {name!a:.20} in the file; it has {known}")
