"""Which settings file is read where none is named, and which file is not to be trusted.

The first of these that is there: `replicator.toml` in the current directory, then `replicator/replicator.toml` in the
user's directory for settings ($XDG_CONFIG_HOME, or ~/.config). `REPLICATOR_CONFIG` and `--config` name another one.

A settings file can send a password to another Redis, and run commands (`on-primary`). So one that is only *found* is
refused if somebody else could have put it there: in a shared directory that may be anybody. One that the user *names*
is refused if others may write it and it has a password in it, which they could have sent elsewhere by another host.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from replicator.errors import ConfigError
from replicator.log.urls import shown

__all__ = ["check_trusted", "found_settings", "has_password", "masked"]

NAME = "replicator.toml"

#: The password in a URL: `//user:PASSWORD@host`, and `password=PASSWORD` after the question mark.
_IN_URL = re.compile(r"(://[^/?#@\s]*:)[^/?#@\s]+(?=@)|((?:^|[?&])[a-z_]*password=)[^&\s]+")
#: Nothing but a URL. (Of a command only what is certainly a password is hidden.)
_URL = re.compile(r"[a-z0-9+.]+://\S+\Z", re.IGNORECASE)

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def found_settings(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The settings file that is read if none is named; None: there is none. Raises `ConfigError` for one of others."""
    home = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    for path in (Path(NAME), Path(home) / "replicator" / NAME):
        try:
            facts = path.stat()
        except OSError:
            continue
        if facts.st_uid not in (os.geteuid(), 0) or facts.st_mode & stat.S_IWOTH:
            who = "anybody may write it" if facts.st_mode & stat.S_IWOTH else "it belongs to another user"
            hint = "make it yours, or name it with --config if it is meant"
            raise ConfigError(setting=str(path), problem=f"it was found, and {who}: {hint}")
        return path
    return None


def check_trusted(path: Path, settings: Mapping[str, Any]) -> None:
    """Raises `ConfigError` for a file that others may write, if there is a password in it."""
    mode = path.stat().st_mode
    if not mode & _WRITABLE_BY_OTHERS:
        return
    for name, text in _texts(settings):
        if has_password(name, text):
            problem = f"{name} has a password in it, and others may write the file: `chmod go-w {path}`"
            raise ConfigError(setting=str(path), problem=problem)


def _texts(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _texts(value, f"{name}.")
        else:
            yield prefix + name, str(value)


def has_password(name: str, text: str) -> bool:
    """Whether this is a secret, or a URL with one."""
    return masked(name, text) != text


def masked(name: str, text: str) -> str:
    """The same, to be shown: without a secret."""
    if "password" in name and not name.endswith("password_file"):
        return "***"
    if name == "redis" or _URL.match(text):
        text = shown(text)  # also what is secret in a URL that is malformed
    return _IN_URL.sub(lambda found: f"{found.group(1) or found.group(2)}***", text)
