"""A state that is rebuilt from a snapshot while the parts of it still arrive, and swapped in once all of it is right.

`run` is one restore, on the thread that calls it. `Restoring` is one on a thread of its own, which is fed as parts are
saved: when the last part comes, most of the work is done. Nobody waits for either: both run without the node's lock,
and take it for the swap alone. What is agreed with the application:

 1. `restore(pieces)` builds aside while it draws. The state and its readers do not notice.
 2. The end of the pieces is the moment of truth: the last `next()` returns (with `StopIteration`) once the digest was
    right and the `ending` was entered, which saves and takes the lock. So what follows the loop, the swap, happens
    under the lock, with all of the new state on disk. The ending is left when `restore` has returned.
 3. If `pieces` raise, `restore` must let that pass, and the state is what it was: the snapshot was damaged, or broke
    off, the disk refused, or the node stops.

A `restore` that raises at pieces whose digest turns out right has failed (`Failed`), and one that fails at damaged
ones has not: so the rest is drawn before anybody is blamed. One that returns before the end, or after its pieces
failed, has put something into the state that nobody vouches for (`Spoilt`).

The collector is held while much is built (`HeldCollector`): it would look at every new object again and again, and all
of them are there to stay.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from ..format.codec import SnapshotDecoder
from ..format.records import PartRecord
from ..format.unpacked_size import SNAPSHOT_BYTES_MAX
from ..runtime.event_log import in_this_context
from ..runtime.gc_pause import HOLD_COLLECTOR_FOR_S, HeldCollector
from ..runtime.gil import Turns
from ..runtime.threads import started
from ..state import ReplicatedState
from ..state.callbacks import asked_to_end, said

__all__ = [
    "Dropped",
    "Failed",
    "Restoring",
    "Spoilt",
    "never",
    "run",
]

#: Bodies that wait in memory for the restoring thread (8 MiB at most). What has no room is read from the disk again.
HELD_BODIES_MAX = 32


#: Saves, takes the lock; once the state was swapped, moves the position and gives the lock back.
Ending = Callable[[], AbstractContextManager[None]]


class Dropped(Exception):
    """The snapshot broke off, or the node stops: there will be no more pieces."""


class Failed(Exception):
    """`restore()` raised, although its pieces were right."""


class Spoilt(Failed):
    """`restore()` returned when it must not: what the state is now, nobody knows."""


# --- one restore ------------------------------------------------------------------------------------------------------


def never() -> bool:
    """What is to be restored is wanted to the end."""
    return False


def run(state: ReplicatedState, pieces: Iterable[Any], ending: Ending, *, given_up: Callable[[], bool] = never) -> None:
    """Restore the state, and leave the ending. See above for the order of things.

    `given_up`: asked before each piece whether nobody wants the new state any more. Behind the ending it is swapped in.
    Raises what `pieces` or the ending raise (the state is what it was), `Dropped` (likewise), or `Failed`.
    """
    with ExitStack() as held:
        drawn = _Drawn(pieces, lambda: held.enter_context(ending()), given_up)
        try:
            state.restore(drawn)
        except BaseException as error:
            if asked_to_end(error):
                raise
            if drawn.problem is None and not drawn.ended:
                drawn.draw_the_rest()
            if drawn.problem is not None:
                raise drawn.problem from None
            raise Failed(said(error)) from error
        if drawn.problem is not None:
            raise Spoilt(f"restore() went on although its pieces had failed: {drawn.problem!r}") from drawn.problem
        if not drawn.ended:
            raise Spoilt("restore() returned before it had drawn all pieces: draw them to the end, and swap after that")


class _Drawn:
    """The pieces as `restore` sees them: their end enters the ending, and what they raise is not forgotten."""

    def __init__(self, pieces: Iterable[Any], enter_ending: Callable[[], None], given_up: Callable[[], bool]) -> None:
        self._pieces = iter(pieces)
        self._enter_ending = enter_ending
        self._given_up = given_up
        self._turns = Turns()
        #: What the pieces or the ending raised.
        self.problem: Exception | None = None
        #: The ending was entered.
        self.ended = False

    def __iter__(self) -> _Drawn:
        return self

    def __next__(self) -> Any:
        if self.problem is not None:
            raise self.problem
        if self.ended:
            raise StopIteration
        self._turns.pause()
        try:
            self._check_wanted()
            return next(self._pieces)
        except StopIteration:
            self._end()
            raise
        except Exception as problem:
            self.problem = problem
            raise

    def _end(self) -> None:
        try:
            self._enter_ending()
        except Exception as problem:
            self.problem = problem
            raise
        self.ended = True

    def _check_wanted(self) -> None:
        # However few the bytes are that they came from, pieces may be many.
        if self._given_up():
            raise Dropped

    def draw_the_rest(self) -> None:
        """See whether the pieces were right, without an ending."""
        try:
            for _ in self._pieces:
                self._check_wanted()
        except Exception as problem:
            self.problem = problem


# --- on a thread of its own -------------------------------------------------------------------------------------------


class Restoring:
    """The restore of one snapshot, from the parts that were saved so far and those to come.

    `read` gives the body of a saved part; `spoilt` is called if the state is not what it was and not the new one.
    `after` is the restore before this one, if there was: it was dropped, and may not have noticed yet.
    Raises `NoThread`.
    """

    def __init__(
        self,
        state: ReplicatedState,
        first: PartRecord,
        *,
        read: Callable[[int], bytes],
        spoilt: Callable[[Spoilt], None],
        after: Restoring | None = None,
        snapshot_bytes_max: int = SNAPSHOT_BYTES_MAX,
    ) -> None:
        self._state = state
        self._read = read
        self._spoilt = spoilt
        self._after = after
        self.decoder = SnapshotDecoder(first.codec, id_=str(first.id), most=snapshot_bytes_max)
        self._changed = threading.Condition()
        self._saved = 0
        self._held: dict[int, bytes] = {}
        self._last: PartRecord | None = None
        self._ending: Ending | None = None
        self._dropped = False
        self._error: BaseException | None = None
        self._thread = started(in_this_context(self._work), name=f"restore-{first.as_of.id}")

    def feed(self, part: PartRecord) -> None:
        """A part, and all before it, are saved."""
        with self._changed:
            self._saved = part.part + 1
            if len(self._held) < HELD_BODIES_MAX:
                self._held[part.part] = part.payload
            self._changed.notify_all()

    def complete(self, last: PartRecord, ending: Ending) -> None:
        """Here is the last part, which is not saved: that is up to the ending. Returns when the state was swapped.

        Raises as `run` does, or `Dropped`.
        """
        with self._changed:
            self._saved = last.part
            self._last, self._ending = last, ending
            self._changed.notify_all()
        self.join()
        if self._error is not None:
            raise self._error

    def drop(self) -> None:
        """Give it up, unless it is about to be swapped in. Does not wait."""
        with self._changed:
            self._dropped = True
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until `restore` has returned."""
        self._thread.join()

    # --- on the thread ---

    def _work(self) -> None:
        if self._after is not None:
            self._after.join()
            self._after = None
        try:
            with HeldCollector() as collector:
                pieces = self.decoder.pieces(collector.watching(self._bodies(collector)))
                run(self._state, pieces, self._enter_ending, given_up=lambda: self._dropped)
        except BaseException as error:  # whatever it is: somebody may wait for it
            self._error = error
            traceback.clear_frames(error.__traceback__)  # they have what was built
            if isinstance(error, Spoilt):
                self._spoilt(error)
        finally:
            self._held.clear()

    def _bodies(self, collector: HeldCollector) -> Iterator[bytes]:
        at = 0
        while (known := self._wait_for(at, collector)) is not None:
            yield self._read(at) if known == b"" else known
            at += 1
        assert self._last is not None
        self.decoder.digest = self._last.digest
        yield self._last.payload

    def _wait_for(self, at: int, collector: HeldCollector) -> bytes | None:
        """The body of a part; empty if it is to be read; None if this is the last one."""

        def comes() -> bool:
            return self._dropped or at < self._saved or self._last is not None

        with self._changed:
            if not self._changed.wait_for(comes, HOLD_COLLECTOR_FOR_S):
                collector.release()
                self._changed.wait_for(comes)
            if self._dropped:
                raise Dropped
            return self._held.pop(at, b"") if at < self._saved else None

    def _enter_ending(self) -> AbstractContextManager[None]:
        assert self._ending is not None  # the pieces do not end before the last part came
        return self._ending()
