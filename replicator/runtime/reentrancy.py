"""Code of the application for which a node stands still, and which must not wait for that node: neither would go on.

While somebody reads (`Node.reading`), or while a callback runs (`apply`, `restore`, the call of `snapshot`), nothing
else happens to the node's state. A call from in there that needs the node to go on would never come back, and the lease
would be renewed all the while. So it is refused at once. Two things tell that a call comes from in there:

- The *thread*, for calls that block it: whoever is inside on this thread does not go on before the call returns.
- The *context* (contextvars), for all. It goes along into tasks that are begun in there, into `asyncio.to_thread` and
  `run_coroutine_threadsafe`: whoever is inside waits for those, most likely. But another task of the same event loop
  may await what it likes while one reads: the reader goes on meanwhile, and gives the state back.
"""

from __future__ import annotations

import threading
from contextvars import ContextVar

from ..errors import WouldDeadlock

__all__ = ["READING", "Inside", "Stay"]


class Inside:
    """Who is inside of one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        #: By thread: what it is in.
        self._threads: dict[int, str] = {}

    def of(self, what: str) -> Stay:
        """For the time of a `with`: the code in it is in `what`."""
        return Stay(self, what)

    def on_this_thread(self) -> str | None:
        """What this thread is in."""
        return self._threads.get(threading.get_ident())

    def check(self, call: str, *, blocks: bool = True) -> None:
        """Raises `WouldDeadlock` if `call` comes from in there. `blocks`: it blocks its thread."""
        what = self.on_this_thread() if blocks and self._threads else None
        if what is None and _innermost.get() is not None:
            what = self._of_this_context()
        if what is not None:
            advice = "end the read first" if what == READING else f"do it when `{what}` has returned"
            raise WouldDeadlock(call=call, inside=what, node=self._node, advice=advice)

    def _of_this_context(self) -> str | None:
        stay = _innermost.get()
        while stay is not None and (stay.is_over or stay.inside is not self):
            stay = stay.outer
        return None if stay is None else stay.what


#: What a reader is in.
READING = "reading()"


class Stay:
    """One time that somebody is inside: `Inside.of`. It may end in another context, or thread, than it began in."""

    __slots__ = ("_before", "_thread", "inside", "is_over", "outer", "what")

    def __init__(self, inside: Inside, what: str) -> None:
        self.inside = inside
        self.what = what
        self.is_over = False
        self.outer: Stay | None = None

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        self._before = self.inside._threads.get(self._thread)
        try:
            outer = _innermost.get()
            while outer is not None and outer.is_over:
                outer = outer.outer
            self.outer = outer
            _innermost.set(self)
            self.inside._threads[self._thread] = self.what
        except BaseException:  # a Ctrl-C: nobody is inside, and nobody leaves
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        if self._before is None:
            self.inside._threads.pop(self._thread, None)
        else:
            self.inside._threads[self._thread] = self._before
        if _innermost.get() is self:
            _innermost.set(self.outer)


_innermost: ContextVar[Stay | None] = ContextVar("replicator.runtime.reentrancy", default=None)
