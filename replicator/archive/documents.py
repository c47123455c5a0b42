"""A state as its application would write it down: a document, a file, or one piece a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from ..registry.state import Registry
from .folding import Folded

__all__ = ["document", "lines"]


def document(folded: Folded) -> Iterator[bytes]:
    """The registry's document, without a term; of bytes those bytes (a file, a database); else a piece a line."""
    if isinstance(folded.state, Registry):
        return folded.state.document(0)
    return lines(folded.pieces())


def lines(pieces: Iterable[Any]) -> Iterator[bytes]:
    for piece in pieces:
        yield piece if isinstance(piece, bytes) else orjson.dumps(piece) + b"\n"
