"""The page in an application's own server: `Replicated(app, node=node, page=Page(node, tokens="/etc/app/tokens"))`.

Whoever watches asks for a picture once a second, and gets the newest; `web/page.py` says who gets it.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..node.node import Node
from ..web.failures import Answer
from ..web.guard.rules import EVENTS, PAGE
from ..web.guard.token_file import TokenFile, Tokens
from .feed import Feed
from .files import BEGINS, FILES, POLICY, event, read_file
from .picture import Picture

__all__ = ["Page"]


class Page:
    """`node`: whose group it shows. `tokens`: the file with the tokens of those who may look, as it is for `replicator
    node --http-tokens`. Raises `ConfigError`. It ends by itself: nobody has to close it.
    """

    paths: Collection[str] = PAGE | {EVENTS}

    def __init__(self, node: Node[Any], *, tokens: str | Path) -> None:
        self.tokens: Tokens = _SharedTokens(Path(tokens))
        self._feed = Feed(node.looking, told_by=f"node {node.name}", metrics=node.own_metrics)
        self._made: tuple[Picture | None, bytes] = (None, b"")
        self._files = {f"/ui{path}": (read_file(name), media_type) for path, (name, media_type) in FILES.items()}

    def answer(self, path: str) -> Answer | None:
        """What is there, at once; None: nothing was seen yet. Raises `NoThread`."""
        if path == EVENTS:
            picture = self._feed.asked()
            return None if picture is None else _answer(self._event_of(picture), "text/event-stream")
        if path not in self._files:
            return Answer(308, [("Location", "../ui"), ("Content-Length", "0")], b"")
        return _answer(*self._files[path])

    def _event_of(self, picture: Picture) -> bytes:
        """It is made once for all who ask for it."""
        made_of, made = self._made
        if made_of is not picture:
            made = BEGINS + event(picture)
            self._made = (picture, made)
        return made


class _SharedTokens(TokenFile):
    """For many threads."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        super().__init__(path, setting="tokens")

    def right_of(self, sent: str) -> str | None:
        with self._lock:
            return super().right_of(sent)


def _answer(body: bytes, media_type: str) -> Answer:
    return Answer(200, [("Content-Type", media_type), ("Content-Length", str(len(body))), *POLICY.items()], body)
