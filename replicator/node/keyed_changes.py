"""Changes that a caller submits, with or without keys, on their way into a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import ConfigError
from ..format.codec import Encoded, encoded, encoded_keyed
from ..format.keyed import KEY_CHARACTERS_MAX, RequestKey, change_in, is_key

__all__ = ["change_in_json", "changes_in_json"]


def change_in_json(change: Any, key: str | None) -> Encoded:
    """One change. Raises `ConfigError` for what is no key, `KeyReused`, and what `encoded` raises."""
    if key is None:
        return encoded([change])
    _check_key("key", key)
    return _given(encoded_keyed([change], [key]), [key])


def changes_in_json(changes: Sequence[Any], keys: Sequence[str | None] | None) -> Encoded:
    """Several, with a key or None for each; `keys` may be None as a whole. Raises what `change_in_json` raises."""
    if keys is None:
        return encoded(changes)
    # A text is a sequence, too, of one key for each of its letters.
    if isinstance(keys, str | bytes) or not isinstance(keys, Sequence):
        raise ConfigError(setting="keys", problem=f"{keys!a:.80} is no list: give a key, or None, for each change")
    if len(keys) != len(changes):
        problem = f"there are {len(keys)} for {len(changes)} changes: give a key, or None, for each change"
        raise ConfigError(setting="keys", problem=problem)
    for key in keys:
        if key is not None:
            _check_key("keys", key)
    return _given(encoded_keyed(changes, keys), keys)


def _given(changes: Encoded, keys: Sequence[str | None]) -> Encoded:
    for entry, key in zip(changes.changes, keys, strict=True):
        if isinstance(key, RequestKey):
            key.give_to(change_in(entry))
    return changes


def _check_key(setting: str, key: object) -> None:
    if not is_key(key):
        may_be = f"a key is a text of 1 to {KEY_CHARACTERS_MAX} characters, without control characters"
        raise ConfigError(setting=setting, problem=f"{key!a:.80} is no key: {may_be}")
