"""Settings from a TOML file, for the command line. Options and the environment take precedence.

    redis = "redis://localhost:6379/0"
    group = "registry"

    [node]
    name = "a"
    data-dir = "data/a"

Top-level settings are for every command, a table for the command of that name (`[forks]`: for all commands in it).
Names are those of the options, with dashes or underscores. Values are passed on as texts, so a number where a path is
expected is treated just as on the command line.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from ..errors import ConfigError

__all__ = ["load_settings"]

#: A settings file is a few lines; a larger one is something else.
FILE_BYTES_MAX = 1024 * 1024

#: The limit of TOML. tomllib reads larger integers, and Python refuses to print those of very many digits.
INTEGER_MAX = 2**63 - 1


def load_settings(path: Path) -> dict[str, Any]:
    """Read the settings in `path`: names with underscores, and as values texts or tables of texts.

    Raises `ConfigError`, which names the file, and the setting if one is wrong.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(setting=str(path), problem=error.strerror or str(error)) from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigError(setting=str(path), problem=f"it has {len(data)} bytes; is it a settings file?")
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        # ValueError: no TOML, no UTF-8, or an integer of more digits than Python reads.
        raise ConfigError(setting=str(path), problem=f"it is not TOML: {error}") from None
    return {
        name: _texts(value, path) if isinstance(value, dict) else _text(name, value, path)
        for name, value in _renamed(document, path).items()
    }


def _texts(table: dict[str, Any], path: Path) -> dict[str, str]:
    return {name: _text(name, value, path) for name, value in _renamed(table, path).items()}


def _renamed(table: dict[str, Any], path: Path) -> dict[str, Any]:
    renamed = {name.replace("-", "_"): value for name, value in table.items()}
    if len(renamed) < len(table):
        twice = next(name for name in table if "-" in name and name.replace("-", "_") in table)
        raise ConfigError(setting=str(path), problem=f"{twice} is there twice, with a dash and an underscore")
    return renamed


def _text(name: str, value: Any, path: Path) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float) or (isinstance(value, int) and abs(value) > INTEGER_MAX):
        problem = f"{name} must be a text, a number of at most 64 bits, or true or false"
        raise ConfigError(setting=str(path), problem=problem)
    text = str(value)
    if "\0" in text:
        # No name of a file or of a node has one, and system calls accept none.
        raise ConfigError(setting=str(path), problem=f"{name} has a null character in it")
    return text
