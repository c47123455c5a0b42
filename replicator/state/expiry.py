"""What of a state is over goes: the change that takes it out, and the primary's job that submits it.

    @dataclass
    class Coupons(Commands):
        coupons: dict[str, Coupon] = field(default_factory=dict)
        expire = expiry("coupons", until="until")       # a change, as if it were a method

    node.every(60, Coupons.expire.job())

- **The primary looks, the change decides.** The job names the entries that are over, and puts its time into the change.
  `apply` asks of each once more, by that time: what was prolonged since stays, and no node looks at a clock.
- **Nothing is held for long.** The job looks at some entries at a time, and a change takes out some at a time; others
  read and write in between.
- **A run is of one leadership.** It ends when that is over. The next primary begins with its own time.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any, Protocol, Self, TypeAlias, overload

from ..errors import ConfigError
from . import mapping
from .changes import Change
from .commands import ChangeMethod
from .conversion import converter_of, hints_of
from .converters import Dict
from .until import NotATime, is_over, is_surely_over

__all__ = ["EntryKey", "Expiry", "ExpiryChange", "Leader", "expiry"]

EntryKey: TypeAlias = str | int

#: So many entries are looked at before others may have the state: some 0.1 ms, or a few ms of large ones.
LOOK_AT = 256

#: A change takes out so many at the most, which takes `apply` about a millisecond, and has so many bytes of keys: a
#: record takes 256 KiB.
BATCH_KEYS = 1000
BATCH_BYTES = 64 * 1024


class Leader(Protocol):
    """What the job needs of a `Leadership`."""

    def check(self) -> None: ...

    def reading(self) -> AbstractContextManager[Any]: ...

    def submit(self, change: Any, *, ack: str) -> Any: ...


class Expiry:
    """Which entries of a state are over, and which change takes them out.

    `of`: the attribute of the state that has the entries; None: the state is a mapping itself. `until`: as in
    `expiry`. `change(keys, now)`: the change that takes out those of the keys that are over at `now`.
    """

    def __init__(self, of: str | None, until: str | None, change: Callable[[list[Any], float], Any], name: str) -> None:
        self._of = of
        self._until = until
        self._change = change
        self._name = name

    def job(self, *, clock: Callable[[], float] = time.time) -> Callable[[Leader], None]:
        """What `node.every(60, ...)` is given. `clock`: Unix time, in seconds: a test has one of its own.

        It raises what a submit raises, and at its end `NotATime` if there is an entry whose time cannot be compared: a
        problem of the node until a run goes well.
        """

        def run(leadership: Leader) -> None:
            Run(self, leadership, clock()).go()

        run.__qualname__ = self._name  # it is called so in log lines and problems
        return run

    def entries(self, state: Any) -> Any:
        """The mapping in which they are. Raises `ConfigError`."""
        entries = state if self._of is None else getattr(state, self._of, None)
        if not hasattr(entries, "keys"):
            problem = f"{type(state).__name__}{f'.{self._of}' if self._of else ''} is no mapping of keys to entries"
            raise ConfigError(setting=self._name, problem=problem)
        return entries

    def is_over(self, entry: Any, now: float) -> bool:
        return is_over(entry, self._until, now)

    def change(self, keys: list[EntryKey], now: float) -> Any:
        return self._change(keys, now)

    def what(self, key: EntryKey) -> str:
        """An entry, for people."""
        member = f".{self._until}" if self._until else ""
        return f"{self._of or 'entry'}[{key!r:.80}]{member}"


class Run:
    """One run of the job."""

    def __init__(self, expiry: Expiry, leadership: Leader, now: float) -> None:
        self._expiry = expiry
        self._leadership = leadership
        self._now = now
        #: What is wrong with the first entry that has no time.
        self._odd: NotATime | None = None

    def go(self) -> None:
        for keys in batches(self._over()):
            # Nobody waits for it: what a failover loses, the next run takes out again.
            self._leadership.submit(self._expiry.change(keys, self._now), ack="appended")
        if self._odd is not None:
            raise self._odd

    def _over(self) -> Iterator[EntryKey]:
        """Their keys. The state is held for a moment only, again and again."""
        with self._leadership.reading() as state:
            keys = iter(list(self._expiry.entries(state)))
        while some := list(islice(keys, LOOK_AT)):
            self._leadership.check()
            yield from self._over_of(some)

    def _over_of(self, keys: list[EntryKey]) -> list[EntryKey]:
        with self._leadership.reading() as state:
            entries = self._expiry.entries(state)
            there = [key for key in keys if key in entries]
            try:
                return [key for key in there if self._expiry.is_over(entries[key], self._now)]
            except NotATime:
                return [key for key in there if self._is_over(key, entries[key])]

    def _is_over(self, key: EntryKey, entry: Any) -> bool:
        try:
            return self._expiry.is_over(entry, self._now)
        except NotATime as error:
            self._odd = self._odd or NotATime(f"{self._expiry.what(key)}: {error}; the entry stays")
            return False


def batches(keys: Iterable[EntryKey]) -> Iterator[list[EntryKey]]:
    """They in lists that a change can have."""
    batch: list[EntryKey] = []
    weight = 0
    for key in keys:
        weighs = len(key.encode()) if isinstance(key, str) else 8
        if batch and (len(batch) == BATCH_KEYS or weight + weighs > BATCH_BYTES):
            yield batch
            batch, weight = [], 0
        batch.append(key)
        weight += weighs
    if batch:
        yield batch


class ExpiryChange(ChangeMethod[[list[EntryKey], float], int]):
    """The change of a `Commands` class that takes entries out of one of its fields: of those that `keys` names, the
    ones that are over at `now`. Submitting it gives how many. Its name is that of the attribute.
    """

    def __init__(self, of: str, until: str | None) -> None:
        self._of = of
        self._until = until
        self._kind: type[Any] | None = None

        def expire(self: Any, keys: list[str | int], now: float) -> int:
            entries = getattr(self, of)
            over = [key for key in dict.fromkeys(keys) if key in entries and is_surely_over(entries[key], until, now)]
            for key in over:
                del entries[key]
            return len(over)

        super().__init__(expire)

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = self.__name__ = name
        self._owner = owner.__name__
        self._kind = owner

    @overload
    def __get__(self, instance: None, owner: type[Any]) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type[Any]) -> Callable[[list[EntryKey], float], int]: ...
    def __get__(self, instance: object, owner: type[Any]) -> Any:
        return super().__get__(instance, owner)

    def job(self, *, clock: Callable[[], float] = time.time) -> Callable[[Leader], None]:
        """What `node.every(60, ...)` is given: see `Expiry.job`."""
        return Expiry(self._of, self._until, self, f"{self._owner}.{self.name}").job(clock=clock)

    def check(self) -> None:
        """Raises `ConfigError` unless the class has such a field, whose entries have such an attribute."""
        super().check()
        setting = f"{self._owner}.{self.name}"
        hints = hints_of(self._kind, setting)
        converter = converter_of(hints[self._of], setting) if self._of in hints else None
        if not isinstance(converter, Dict):
            raise ConfigError(setting=setting, problem=f"{self._owner} has no field {self._of} that is a dict")
        entry = getattr(hints[self._of], "__args__", (None, None))[1]
        if self._until is not None and inspect.isclass(entry) and not _has(entry, self._until, setting):
            raise ConfigError(setting=setting, problem=f"{entry.__name__} has no {self._until}, the time until which")


def _has(kind: type[Any], name: str, setting: str) -> bool:
    return hasattr(kind, name) or name in hints_of(kind, setting)


@overload
def expiry(of: str, *, until: str | None = None) -> ExpiryChange: ...
@overload
def expiry(of: None = None, *, until: str | None = None) -> Expiry: ...
@overload
def expiry(of: str | None = None, *, until: str | None = None, change: Callable[[list[Any], float], Any]) -> Expiry: ...
def expiry(
    of: str | None = None,
    *,
    until: str | None = None,
    change: Callable[[list[Any], float], Any] | None = None,
) -> ExpiryChange | Expiry:
    """Which entries of a state go, and when. `.job()` of it is for `node.every`.

    In a `Commands` class, `expire = expiry("coupons", until="until")` is a change: `of` is a field that is a dict.
    For a `DictState` it is `expiry(until="until")`, of the state itself. `until`: the attribute of an entry (the member
    of one that is a JSON object) that says until when it is good: Unix time in seconds, a `datetime` with its offset,
    None for ever; without `until` the entry itself is that.

    `change(keys, now)`: a change of your own in place of the one that is ready, as a `Commands` method gives it; it has
    to ask again which of the keys are over at `now`.
    """
    if change is not None:
        return Expiry(of, until, change, f"expiry of {of or 'entries'}")
    if of is not None:
        return ExpiryChange(of, until)

    def expired(keys: list[str], now: float) -> Change[int]:
        return mapping.expire(keys, until, now)

    return Expiry(None, until, expired, "expiry of entries")
