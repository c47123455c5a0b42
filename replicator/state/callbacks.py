"""The callbacks of the application, as the node calls them: whatever comes out of one is contained.

- `snapshot`: what it raises, at the call or at any piece, is a `SnapshotFailed`, and so is what is no snapshot at all.
  The state is as good as before, so the node goes on without that snapshot.
- `apply` and `restore` move the state: whoever calls them stalls the node when they raise (`Replica`, `restore.run`).
- `check` says no before anything is written. What else it raises is a `CheckFailed`, for the caller of that change.
- `check_pieces` changes nothing, on nobody's node but that of its caller: what it raises passes.
- `published` is told what has happened already: that it raises changes nothing, and is logged.

A `StateError` is no failure of the application but one of what its state is kept in, and passes.

A `SystemExit` or `KeyboardInterrupt` is a failure like any other, unless it comes up on the main thread: there it may
be somebody's Ctrl-C, or the `sys.exit` of a signal handler, which comes up wherever the program happens to be.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from types import CoroutineType
from typing import Any

from replicator.errors import ChangeRejected, CheckFailed, SnapshotFailed, StateError
from replicator.runtime.reentrancy import Inside

from ..runtime.event_log import EventLogger
from . import CheckedState, KeptState, ReplicatedState
from .contract import at_version

__all__ = ["Application", "asked_to_end", "said"]

logger = EventLogger(__name__)

#: What can be iterated over and is one piece: a `return` where a list was meant.
_ONE_PIECE = (str, bytes, bytearray, memoryview, dict)


def asked_to_end(error: BaseException) -> bool:
    """Whether the program is asked to end, and this is not a failure of a callback."""
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()


def said(error: BaseException) -> str:
    """What an error of the application says of itself, in one line, whatever becomes of asking it."""
    try:
        return " ".join(repr(error).split())
    except Exception:
        return type(error).__name__


class Application:
    """A state behind its callbacks. While one runs, its thread is `inside`.

    `version`: the one that the group is at where a snapshot is drawn or a change checked, or was where the pieces were
    drawn that are restored.
    """

    def __init__(self, state: ReplicatedState, inside: Inside, version: int = 1) -> None:
        self._state = state
        self._inside = inside
        self._version = version
        self._kept = state if isinstance(state, KeptState) else None
        #: The state's own `check`; None: it has none, and every change is written.
        check: Callable[[Any], Any] | None = getattr(state, "check", None)
        self._check = None if check is None else at_version(check, version)

    def at(self, version: int) -> Application:
        """The same, for snapshots and changes of that version."""
        return Application(self._state, self._inside, version)

    @property
    def checks(self) -> bool:
        """Whether changes are to be checked before they are written."""
        return self._check is not None

    def check(self, change: Any) -> ChangeRejected | CheckFailed | None:
        """Why the change is not to be written, if it is not. The caller holds the lock of the state."""
        assert self._check is not None
        with self._inside.of("check()"):
            try:
                given = self._check(change)
                if type(given) is CoroutineType:  # of a function that only returns one: it was not seen before
                    given.close()
                    raise TypeError("check() gave a coroutine, and did nothing")
            except ChangeRejected as rejected:
                return rejected
            except BaseException as error:
                if asked_to_end(error):
                    raise
                logger.exception("check.failed", "check() failed at the change %.200r; it was not written", change)
                failed = CheckFailed(change=f"{change!r:.200}", problem=said(error))
                failed.__cause__ = error
                return failed
        return None

    def snapshot(self) -> Iterator[Any]:
        """The pieces. Raises `SnapshotFailed` or `StateError`, now or with a piece."""
        with self._inside.of("snapshot()"):
            try:
                return _contained(_iterator_of(at_version(self._state.snapshot, self._version)()))
            except (StateError, SnapshotFailed):
                raise
            except BaseException as error:
                if asked_to_end(error):
                    raise
                raise SnapshotFailed(problem=said(error)) from error

    def restore(self, pieces: Iterable[Any]) -> None:
        with self._inside.of("restore()"):
            at_version(self._state.restore, self._version)(pieces)

    def check_pieces(self, pieces: Iterable[Any]) -> None:
        """Raises what the state says of these pieces, if it says anything."""
        if isinstance(self._state, CheckedState):
            with self._inside.of("check_pieces()"):
                at_version(self._state.check_pieces, self._version)(pieces)

    def survived(self) -> bool:
        with self._inside.of("survived()"):
            return self._kept is not None and self._kept.survived()

    def published(self) -> None:
        if self._kept is None:
            return
        with self._inside.of("published()"):
            try:
                self._kept.published()
            except BaseException as error:
                if asked_to_end(error):
                    raise
                logger.exception(
                    "published.failed", "the application's published() failed, which is a bug in it; it is published"
                )


def _iterator_of(pieces: Any) -> Iterator[Any]:
    if isinstance(pieces, _ONE_PIECE):
        raise SnapshotFailed(problem=f"it gave one {type(pieces).__name__}, and not an iterable of pieces")
    try:
        return iter(pieces)
    except TypeError:
        raise SnapshotFailed(problem=f"it gave {pieces!r:.100}, and not an iterable of pieces") from None


def _contained(pieces: Iterator[Any]) -> Iterator[Any]:
    while True:
        try:
            piece = next(pieces)
        except StopIteration:
            return
        except StateError:
            raise
        except BaseException as error:
            if asked_to_end(error):
                raise
            raise SnapshotFailed(problem=said(error)) from error
        yield piece
