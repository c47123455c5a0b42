"""A number of things in words: `1 record`, `2 records`."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int | None, one: str, many: str = "") -> str:
    """The count and its noun. `one`: the noun for one thing; `many`: for others, if it is not with an `s`.

    None is a number that is not known: `? records`.
    """
    return f"{'?' if count is None else count} {one if count == 1 else many or f'{one}s'}"
