"""Runs a decoder over many inputs, counts what it does with them, and keeps the first that it did not handle.

A `Target` says what goes in and what must come of it. Its `decode` gives True for what was accepted, False for what was
refused in the way that the decoder documents, and raises whatever else there is: that is a finding. So is more memory
than the target's bound, of one input, as tracemalloc counts it; what zstd and SQLite take for themselves is in
`test_bombs.py`, and bounded for the whole process by `limit_memory`.
"""

from __future__ import annotations

import contextlib
import logging
import random
import resource
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from .mutate import Choices

__all__ = ["LONG", "SHORT", "Finding", "Ran", "Target", "heading", "limit_memory", "line", "run"]

#: Inputs for each decoder in `make test`, and in `python -m tests.fuzz`.
SHORT = 250
LONG = 100_000

#: Hypothesis remembers what it has tried; begun anew, it does not fill the memory.
_BATCH = 5_000

#: Hypothesis takes longer for its bytes than most decoders for an input. So the same bytes make several: begun at
#: another place they make quite another input, which can be made smaller just as well.
_ROTATIONS = (0, 7, 19, 31)

#: Address space of a long run. The threads' stacks count, although they are not used.
ADDRESS_SPACE_BYTES_MAX = 6 * 1024**3

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Target:
    """A decoder. `build`: makes an input. `opened`: makes `decode` ready for as many inputs as one likes.

    `size`: bytes of choices for an input. `bytes_max`: what one may take. `share`: of the inputs that others get, for
    a decoder that is slow.
    """

    name: str
    build: Callable[[Choices], Any]
    opened: Callable[[], contextlib.AbstractContextManager[Callable[[Any], bool]]]
    size: int = 48
    bytes_max: int = 4 * MIB
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What came of one target's inputs."""

    name: str
    inputs: int
    accepted: int
    seconds: float
    peak: int

    @property
    def refused(self) -> int:
        return self.inputs - self.accepted


class Finding(Exception):
    """An input that a decoder handled in a way that it must not."""

    def __init__(self, target: str, value: Any, error: BaseException) -> None:
        super().__init__(f"{target}: {type(error).__name__}: {error}\n  input: {_shown(value)}")


class TooMuchMemory(AssertionError):
    """One input took more memory than its decoder may."""


class _Run:
    """One target's run: counts until something is found, then only lets Hypothesis make it smaller."""

    def __init__(self, target: Target, decode: Callable[[Any], bool]) -> None:
        self.target = target
        self.decode = decode
        self.inputs = 0
        self.accepted = 0
        self.peak = 0
        self.worst: tuple[Any, BaseException] | None = None

    def check(self, data: bytes) -> None:
        for place in _ROTATIONS:
            self._check_one(self.target.build(Choices(data[place:] + data[:place])))

    def _check_one(self, value: Any) -> None:
        try:
            accepted, peak = _measured(self.decode, value)
            if peak > self.target.bytes_max:
                raise TooMuchMemory(f"{peak:,} bytes, at most {self.target.bytes_max:,} are allowed")
        except Exception as error:
            self.worst = value, error
            raise
        self.inputs += 1
        self.accepted += accepted
        self.peak = max(self.peak, peak)


def run(target: Target, examples: int, *, seed_: int | None = None, told: Callable[[str], None] | None = None) -> Ran:
    """Give the target that many inputs, times its share. Raises `Finding`, with the least input that shows it."""
    first = random.randrange(2**32) if seed_ is None else seed_
    wanted = max(1, int(examples * target.share))
    started_at = time.monotonic()
    with quiet(), target.opened() as decode:
        state = _Run(target, decode)
        for batch, done in enumerate(range(0, wanted, _BATCH)):
            _run_batch(state, min(_BATCH, wanted - done), first + batch)
            if told is not None:
                told(f"{target.name}: {state.inputs:,} of {wanted:,}, {time.monotonic() - started_at:.0f} s")
    seconds = time.monotonic() - started_at
    return Ran(name=target.name, inputs=state.inputs, accepted=state.accepted, seconds=seconds, peak=state.peak)


def _run_batch(state: _Run, examples: int, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=-(-examples // len(_ROTATIONS)),
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(st.binary(min_size=state.target.size, max_size=state.target.size))
    def check(data: bytes) -> None:
        state.check(data)

    try:
        check()
    except BaseException as error:
        if state.worst is None or isinstance(error, KeyboardInterrupt):
            raise
        value, why = state.worst
        raise Finding(state.target.name, value, why) from why


def _measured(decode: Callable[[Any], bool], value: Any) -> tuple[bool, int]:
    tracemalloc.start()
    try:
        accepted = decode(value)
        return accepted, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Thousands of damaged files are no news."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def limit_memory() -> None:
    """Whatever a decoder takes beyond this, in Python or in C, ends in a MemoryError, which is a finding."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = ADDRESS_SPACE_BYTES_MAX if hard == resource.RLIM_INFINITY else min(hard, ADDRESS_SPACE_BYTES_MAX)
    resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def heading() -> str:
    """Above the lines of a table."""
    return f"{'decoder':<12}{'inputs':>10}{'accepted':>10}{'refused':>10}{'seconds':>9}{'peak memory':>13}"


def line(ran: Ran) -> str:
    """One decoder's line."""
    counts = f"{ran.inputs:>10,}{ran.accepted:>10,}{ran.refused:>10,}"
    return f"{ran.name:<12}{counts}{ran.seconds:>9.1f}{ran.peak / 1024:>9,.0f} KiB"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 4000 else f"{text[:4000]} … ({len(text):,} characters)"
