"""Passwords in files: a URL without a secret in it, and a password that can be changed while nodes run.

The file has the password as it is, on one line. It is read whenever a connection is made, so a new password counts from
the next connection on: also after Redis refused the old one. It is read once when the URL is, so that a file that is
missing is told at once.
"""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path

import redis
from redis.credentials import CredentialProvider

from ..errors import ConfigError
from ..runtime.event_log import EventLogger

__all__ = ["FilePassword", "is_exposed", "password_of", "read_password"]

logger = EventLogger(__name__)

#: A password is a line. A larger file is something else.
PASSWORD_BYTES_MAX = 4096


def read_password(path: str) -> str:
    """The password in the file. Raises `ValueError`, which names the file and what is wrong with it."""
    try:
        with open(path, "rb") as file:
            data = file.read(PASSWORD_BYTES_MAX + 1)
        password = data.decode().removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path!a}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    if not password or "\n" in password or len(data) > PASSWORD_BYTES_MAX:
        raise ValueError(f"{path!a} is to have the password on one line, and nothing else")
    if is_exposed(path):
        _tell_that_it_is_exposed(path)
    return password


def password_of(setting: str, path: str | os.PathLike[str]) -> str:
    """The same, for the setting of that name. Raises `ConfigError`."""
    try:
        return read_password(os.fspath(path))
    except ValueError as error:
        raise ConfigError(setting=setting, problem=str(error)) from None


def is_exposed(path: str) -> bool:
    """Whether others than its owner may read the file."""
    try:
        return bool(Path(path).stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    except OSError:
        return False


@functools.cache
def _tell_that_it_is_exposed(path: str) -> None:
    logger.warning(
        "redis.password_readable", "others than its owner may read the password in %s: `chmod 600` it", ascii(path)
    )


class FilePassword(CredentialProvider):
    """The user and the password of connections, for redis-py, which asks for them when it makes one."""

    def __init__(self, path: str, user: str = "") -> None:
        self.path = path
        self.user = user
        read_password(path)

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        try:
            password = read_password(self.path)
        except ValueError as error:
            raise redis.exceptions.ConnectionError(f"the file of the password cannot be used: {error}") from None
        return (self.user, password) if self.user else (password,)
