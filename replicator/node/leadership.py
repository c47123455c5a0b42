"""What work that only the leader does has of its leadership: the term, whether it is over, and writes that it fences.

A leadership is one unbroken time in which a node leads, and may do more than write. It is over `MARGIN` of a lease
before the lease ends (`lease.py`), by the clock of this machine, whether anybody notices or not: `check` looks at the
clock. What is over stays over: if the node renews its lease a moment later, that is another leadership.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypedDict, TypeVar, Unpack, overload

from ..errors import LeadershipLost
from ..runtime.process import Owner
from ..state.changes import Change

__all__ = ["ChangeOptions", "ChangesOptions", "Leadership", "Tenure", "Writes"]

ResultT = TypeVar("ResultT")


class WriteOptions(TypedDict, total=False):
    """What `Node.submit` takes besides the change and the term."""

    timeout_s: float
    ack: str | None


class ChangeOptions(WriteOptions, total=False):
    """Of one change."""

    key: str | None


class ChangesOptions(WriteOptions, total=False):
    """Of several."""

    keys: Sequence[str | None] | None


class Writes(Protocol):
    """What a leadership needs of its node."""

    name: str

    def reading(self) -> AbstractContextManager[Any]: ...

    def submit(self, change: Any, *, term: int | None, **options: Unpack[ChangeOptions]) -> Any: ...

    def submit_many(
        self, changes: Sequence[Any], *, term: int | None, **options: Unpack[ChangesOptions]
    ) -> list[Any]: ...

    def asubmit(
        self, change: Any, *, term: int | None, **options: Unpack[ChangeOptions]
    ) -> Coroutine[Any, Any, Any]: ...

    def asubmit_many(
        self, changes: Sequence[Any], *, term: int | None, **options: Unpack[ChangesOptions]
    ) -> Coroutine[Any, Any, list[Any]]: ...


class Tenure:
    """One leadership of a node, which all of its work has in common. `goes_on`: by what the node knows, and its clock.

    `ended` is called when this finds that it is over.
    """

    def __init__(self, term: int, goes_on: Callable[[int], bool], ended: Callable[[], None]) -> None:
        self.term = term
        self._goes_on = goes_on
        self._ended = ended
        self._over = False

    @property
    def is_over(self) -> bool:
        if not self._over and not self._goes_on(self.term):
            self.end()
            self._ended()
        return self._over

    def end(self) -> None:
        self._over = True


class Leadership:
    """One leadership, as one piece of work has it. Any number of threads and tasks may use it."""

    def __init__(self, tenure: Tenure, writes: Writes, owner: Owner) -> None:
        #: The term: a fencing token for whatever the work touches outside of the log.
        self.term = tenure.term
        #: Set once it is over, by itself, before anybody else may lead. For threads; a task is cancelled.
        self.lost = threading.Event()
        self._tenure = tenure
        self._writes = writes
        self._owner = owner

    @property
    def is_over(self) -> bool:
        """Whether it is over, or may be, by the clock of this machine."""
        self._owner.check()
        if not self.lost.is_set() and self._tenure.is_over:
            self.lost.set()
        return self.lost.is_set()

    def check(self) -> None:
        """Call it before each effect outside of the log. Raises `LeadershipLost` once it is over, or may be.

        It asks nobody, and takes microseconds.
        """
        if self.is_over:
            raise LeadershipLost(node=self._writes.name, term=self.term)

    def reading(self) -> AbstractContextManager[Any]:
        """`Node.reading` of its node: work need not know it otherwise."""
        return self._writes.reading()

    @overload
    def submit(self, change: Change[ResultT], **options: Unpack[ChangeOptions]) -> ResultT: ...
    @overload
    def submit(self, change: Any, **options: Unpack[ChangeOptions]) -> Any: ...
    def submit(self, change: Any, **options: Unpack[ChangeOptions]) -> Any:
        """`Node.submit`, in this term and in no other one. Raises what that raises, and `LeadershipLost`."""
        self.check()
        return self._writes.submit(change, term=self.term, **options)

    def submit_many(self, changes: Sequence[Any], **options: Unpack[ChangesOptions]) -> list[Any]:
        """`Node.submit_many`, likewise."""
        self.check()
        return self._writes.submit_many(changes, term=self.term, **options)

    @overload
    async def asubmit(self, change: Change[ResultT], **options: Unpack[ChangeOptions]) -> ResultT: ...
    @overload
    async def asubmit(self, change: Any, **options: Unpack[ChangeOptions]) -> Any: ...
    async def asubmit(self, change: Any, **options: Unpack[ChangeOptions]) -> Any:
        """`Node.asubmit`, likewise."""
        self.check()
        return await self._writes.asubmit(change, term=self.term, **options)

    async def asubmit_many(self, changes: Sequence[Any], **options: Unpack[ChangesOptions]) -> list[Any]:
        """`Node.asubmit_many`, likewise."""
        self.check()
        return await self._writes.asubmit_many(changes, term=self.term, **options)
