"""Settings from a TOML file, for the command line. Options and the environment go before it.

    redis = "redis://localhost:6379/0"
    group = "registry"

    [node]
    name = "a"
    data-dir = "data/a"

Top-level settings are those of every command, a table those of the command of that name. Names are those of the
options, with dashes or underscores.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from .errors import ConfigError

__all__ = ["load_settings"]

#: A settings file is a few lines; a larger one is something else.
FILE_BYTES_MAX = 1024 * 1024


def load_settings(path: Path) -> dict[str, Any]:
    """The settings in `path`, names with underscores. Raises `ConfigError`, which names the file and the place."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(setting=str(path), problem=error.strerror or str(error)) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(setting=str(path), problem=f"it has {len(data)} bytes; is it a settings file?")
    try:
        return _renamed(tomllib.loads(data.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(setting=str(path), problem=f"it is not TOML: {error}") from None


def _renamed(table: dict[str, Any]) -> dict[str, Any]:
    return {
        name.replace("-", "_"): _renamed(value) if isinstance(value, dict) else value for name, value in table.items()
    }
