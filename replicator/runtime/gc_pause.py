"""Python's cyclic garbage collector, held while something large is built. Nothing else of ours switches it."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterable, Iterator
from typing import ClassVar, TypeVar

__all__ = [
    "HOLD_COLLECTOR_FOR_S",
    "HOLD_COLLECTOR_FROM_BYTES",
    "HOLD_WHILE_DRAWN_S",
    "JOIN_HOLDERS_FOR_S",
    "HeldCollector",
    "leave_alone",
]

T = TypeVar("T")

#: Below so many bytes of bodies (4 MB of JSON or so) a collection costs less than is worth a thought. At four times as
#: many, one takes 20 ms.
HOLD_COLLECTOR_FROM_BYTES = 1024 * 1024


#: A restore that waits so long for the next part holds the collector no longer: the part may never come.
HOLD_COLLECTOR_FOR_S = 1.0


#: A state that takes longer to be drawn has the collector look at it after all: somebody else may need it.
HOLD_WHILE_DRAWN_S = 5.0


#: A holder that builds nothing does not join others that have held it for longer, one after the other.
JOIN_HOLDERS_FOR_S = 5.0


def leave_alone() -> None:
    """Move all that there is out of the collector's sight: modules, classes, what a process has made at its start.

    That stays for as long as the process, and each full collection would look at all of it: with what a node imports
    that takes 70 ms, in which no thread runs. For who owns the process, once, when it has started.
    """
    gc.collect()
    gc.freeze()


class HeldCollector:
    """Switches Python's cyclic collector off once much is being built, and on again at the end.

    A loading program makes nothing but objects that stay, and the collector looks at all of them again and again: that
    makes `orjson.loads` of 80 MB 2.6 times slower, and each full collection stops every thread. At the end, all that is
    there is moved out of its sight (`gc.freeze`), or the first collection after it would be the one that was saved.
    What is frozen is freed as ever when its last reference goes; only cycles among it stay for good, unless the
    application calls `gc.unfreeze`.

    One that draws a snapshot builds nothing that stays: with `freezes=False` nothing is moved. It has a copy of an
    index, and a young container of 100,000 entries is all looked at by the next collection, however small that is.

    Several may hold it at once, in several threads: the first switches it off, the last one on. If it was off before
    the first, it is left alone. Snapshots of many groups, each sent while another one is, do not keep it off for ever:
    the drawing of one leaves it alone while others have held it for long.
    """

    _lock = threading.Lock()
    _holders: ClassVar[set[HeldCollector]] = set()
    _held_since = 0.0
    _was_on = False
    _built = False

    @classmethod
    def forget(cls) -> None:
        """None of those who hold it is in this process: it was forked."""
        if cls._holders and cls._was_on:
            gc.enable()
        cls._lock = threading.Lock()
        cls._holders.clear()

    def __init__(self, *, freezes: bool = True) -> None:
        self._freezes = freezes

    def __enter__(self) -> HeldCollector:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def watching(self, bodies: Iterable[bytes]) -> Iterator[bytes]:
        """Pass these on, and hold the collector from where they are many."""
        size = 0
        for body in bodies:
            size += len(body)
            if size >= HOLD_COLLECTOR_FROM_BYTES:
                self.hold()
            yield body

    def drawing(self, pieces: Iterable[T]) -> Iterator[T]:
        """Pass on the pieces of a state, which has copied its indexes for them; hold the collector, but not for ever.

        It is released by whoever has this holder, not by the end of the pieces: they may never be drawn to their end.
        """
        self.hold()
        until = time.monotonic() + HOLD_WHILE_DRAWN_S
        for piece in pieces:
            yield piece
            if time.monotonic() > until:
                self.release()

    def hold(self) -> None:
        if self in HeldCollector._holders:
            return
        cls, now = HeldCollector, time.monotonic()
        with cls._lock:
            if cls._holders and not self._freezes and now - cls._held_since > JOIN_HOLDERS_FOR_S:
                return
            cls._holders.add(self)
            if len(cls._holders) == 1:
                cls._was_on, cls._built, cls._held_since = gc.isenabled(), False, now
                gc.disable()
            cls._built |= self._freezes

    def join(self) -> None:
        """Hold it if somebody does, who may release it before this one is done."""
        if HeldCollector._holders:
            self.hold()

    def release(self) -> None:
        cls = HeldCollector
        if self not in cls._holders:
            return
        with cls._lock:
            cls._holders.discard(self)
            if not cls._holders and cls._was_on:
                if cls._built:
                    gc.freeze()
                gc.enable()


os.register_at_fork(after_in_child=HeldCollector.forget)
