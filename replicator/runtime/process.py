"""What belongs to a process stays with it when the process forks.

A forked child has a copy of every object, none of the threads, and a share of what the system has behind the objects:
sockets, on which two that write get each other's answers; the lock on a directory; a database of which SQLite, closing
it in the child, would remove the log under the parent. `os.fork`, multiprocessing where it forks, gunicorn with
--preload and uwsgi all come to that. So:

1. An object with something of that kind has an `Owner` as well, and asks it before anything else. In a child it raises
   `WrongProcess`: before a lock is taken, for whichever thread had that lock is not there to give it back.
2. A child closes its own copies of descriptors before anything else runs in it (`let_go_in_child`), without a word to
   the other end. Otherwise a child that outlives its parent, or a connection that the parent closed, would keep what
   is behind it: the lock, the port.
3. What must not be closed in a child either is never freed there (`keep_for_ever`).
4. A fork waits for a moment until nobody is inside SQLite (`quiet_before_fork`): its own locks stay as they were at the
   fork, and a node that the child makes for itself would wait for them for ever.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from ..errors import WrongProcess
from .event_log import EventLogger

__all__ = ["Owner", "begin_anew", "keep_for_ever", "let_go_in_child", "quiet_before_fork"]

logger = EventLogger(__name__)

T = TypeVar("T")

#: How long a fork waits for those who are inside SQLite, all in all. A save takes milliseconds; a disk that hangs is
#: not to hang a fork.
QUIET_WITHIN_S = 0.5


class Owner:
    """The process that made something, and is the only one that may use it. `what`: for messages."""

    __slots__ = ("_pid", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._pid = os.getpid()

    @property
    def is_here(self) -> bool:
        return os.getpid() == self._pid

    def check(self) -> None:
        """Raises `WrongProcess` in any other process."""
        if os.getpid() != self._pid:
            raise WrongProcess(what=self._what, owner=self._pid, here=os.getpid())


_inherited: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_locks: weakref.WeakSet[Any] = weakref.WeakSet()
#: Held while locks are registered, and from before a fork until after it, in parent and child.
_registering = threading.Lock()
#: What was taken for the fork that is under way.
_taken: list[Any] = []


def begin_anew() -> NoReturn:
    """Replace this process by one that was started in the same way: the same id, so whoever watches it sees no end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def let_go_in_child(thing: T, let_go: Callable[[T], None]) -> None:
    """Call `let_go(thing)` in every child that is forked, before anything else runs there, while `thing` exists.

    It may close descriptors: the parent has its own. It may take no lock.
    """
    _inherited[thing] = let_go


def keep_for_ever(thing: object) -> None:
    """Never free this object in this process, not even at its end."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def quiet_before_fork(lock: Any) -> None:
    """Have a fork take this lock first: its holder is in the middle of something that a child could not end."""
    with _registering:
        _locks.add(lock)


def _before() -> None:
    _registering.acquire()
    deadline = time.monotonic() + QUIET_WITHIN_S
    for lock in _locks:
        if lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            _taken.append(lock)


def _after_in_parent() -> None:
    while _taken:
        _taken.pop().release()
    _registering.release()


def _after_in_child() -> None:
    # Those of the parent are of no use here: some were not given back, and nobody will do that.
    _taken.clear()
    _locks.clear()
    for thing, let_go in list(_inherited.items()):
        try:
            let_go(thing)
        except Exception:  # the others are to be let go, too
            logger.exception("bug", "a bug in replicator")
    _inherited.clear()
    _registering.release()


os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
