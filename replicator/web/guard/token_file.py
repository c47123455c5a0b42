"""Files with tokens: those that a node takes, each with its right, and the one that a client sends.

    # the deployment
    write  9hkq3zPW1sJ0v2m8b4Xr7TtYc5LdNfGe

No token is ever in a message, and in memory a node has digests alone. A file is judged as ssh judges a private key:
what is mine and open to others is refused, and so is what others may write. One of another owner (root; a mounted
secret) is theirs to close.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import ConfigError
from ...runtime.event_log import EventLogger
from ...runtime.log_once import Lasting, LogOnce

__all__ = ["RIGHTS", "TokenFile", "Tokens", "check_private", "checked_token", "new_token", "read_token"]

log = EventLogger(__name__)

#: Each has those before it.
RIGHTS = ("read", "write", "admin")

#: What a header can carry as a token (RFC 6750, 2.1). Shorter ones can be guessed: 22 of base64 are 128 bits.
TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
CHARACTERS_MIN = 22
CHARACTERS_MAX = 512

#: A file of tokens that is larger is some other file.
BYTES_MAX = 256 * 1024

#: How soon a file that changed is read. It is as small as that it costs less than one request.
READ_EVERY_S = 1.0

_AS_THEY_WERE = Lasting("http.tokens_kept", "http.tokens_read", "the file of tokens can be used again")

_OPEN_TO_GROUP_OR_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class Tokens:
    """Tokens and their rights. What is kept of a token is its digest."""

    def __init__(self, rights: Sequence[tuple[str, str]]) -> None:
        """`rights`: a right and a token, for each token."""
        self._rights = [(_digest(token), right) for right, token in rights]

    def right_of(self, sent: str) -> str | None:
        """The right of a token that was sent; None: nobody's. It takes as long whichever of them it is like."""
        digest, found = _digest(sent), None
        for known, right in self._rights:
            if hmac.compare_digest(digest, known):
                found = right
        return found


class TokenFile(Tokens):
    """The tokens in a file, as it is now: what changes counts a second later. For one thread.

    A file that cannot be used any more leaves the tokens as they were, and is told in the log: half of a file that is
    being written is no reason to let nobody in.
    """

    def __init__(
        self, path: Path, *, setting: str = "http-tokens", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`setting`: who named the file. Raises `ConfigError`."""
        self._path = path
        self._setting = setting
        self._clock = clock
        self._log_once = LogOnce(log)
        self._content = _private_content(setting, path)
        self._read_at = clock()
        super().__init__(_tokens_in(setting, self._content))

    def right_of(self, sent: str) -> str | None:
        if self._clock() - self._read_at >= READ_EVERY_S:
            self._read_again()
        return super().right_of(sent)

    def _read_again(self) -> None:
        self._read_at = self._clock()
        try:
            content = _private_content(self._setting, self._path)
            if content != self._content:
                super().__init__(_tokens_in(self._setting, content))
                self._content = content
                log.info("http.tokens_changed", "the tokens in %s were read again", self._path)
        except ConfigError as error:
            self._log_once.tell("tokens", _AS_THEY_WERE, f"the tokens stay as they were: {error}")
        else:
            self._log_once.over("tokens")


def read_token(setting: str, path: Path) -> str:
    """The token in the file of a client: it alone, on a line. Raises `ConfigError`."""
    return checked_token(setting, _private_content(setting, path).decode("latin-1").strip())


def checked_token(setting: str, token: object) -> str:
    """A token that can be sent. Raises `ConfigError`, which does not show it."""
    if not isinstance(token, str) or not TOKEN.fullmatch(token) or len(token) > CHARACTERS_MAX:
        problem = "is no token: one word of letters, digits and . _ ~ + / - = (`replicator token` makes one)"
        raise ConfigError(setting=setting, problem=problem)
    return token


def new_token() -> str:
    """256 bits of the system's own chance."""
    return os.urandom(32).hex()


def check_private(setting: str, path: Path, found: os.stat_result) -> None:
    """Raises `ConfigError` for a file with a secret in it that others can get at."""
    mode = stat.S_IMODE(found.st_mode)
    if found.st_uid == os.geteuid() and mode & _OPEN_TO_GROUP_OR_OTHERS:
        problem = f"{path} has a secret in it, and others may use it (its mode is {mode:o}): `chmod 600 {path}`"
        raise ConfigError(setting=setting, problem=problem)
    if mode & _WRITABLE_BY_OTHERS:
        problem = f"{path} has a secret in it, and others may write it (its mode is {mode:o}): `chmod go-w {path}`"
        raise ConfigError(setting=setting, problem=problem)


def _private_content(setting: str, path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            check_private(setting, path, os.fstat(file.fileno()))
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(setting=setting, problem=f"{path} cannot be read: {error.strerror}") from None
    if len(content) > BYTES_MAX:
        raise ConfigError(setting=setting, problem=f"{path} is larger than a file of tokens ({BYTES_MAX} bytes)")
    return content


def _tokens_in(setting: str, content: bytes) -> list[tuple[str, str]]:
    """Raises `ConfigError`, which names the line and shows nothing of it."""
    found: list[tuple[str, str]] = []
    for number, line in enumerate(content.decode("latin-1").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        problem = _problem_of(words, [token for _, token in found])
        if problem:
            raise ConfigError(setting=setting, problem=f"line {number} {problem}")
        found.append((words[0], words[1]))
    if not found:
        raise ConfigError(setting=setting, problem="there is no token in it: give lines like `read TOKEN`")
    return found


def _problem_of(words: list[str], known: list[str]) -> str:
    if len(words) != 2 or words[0] not in RIGHTS:
        return f"is not a right and a token: `read TOKEN`, and the rights are {', '.join(RIGHTS)}"
    if not TOKEN.fullmatch(words[1]) or not CHARACTERS_MIN <= len(words[1]) <= CHARACTERS_MAX:
        return (
            f"has no token of {CHARACTERS_MIN} to {CHARACTERS_MAX} letters, digits and . _ ~ + / - =: "
            "`replicator token` makes one"
        )
    return "has the token of a line before it: a token has one right" if words[1] in known else ""


def _digest(token: str) -> bytes:
    # Of one length, so that the comparison tells nothing of the token's.
    return hashlib.sha256(token.encode("latin-1", "replace")).digest()
