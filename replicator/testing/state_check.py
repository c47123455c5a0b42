"""Whether a state is one that nodes can replicate: `check_state` tries what they will do to it.

    check_state(FlagState, [FlagState.set_flag("x", on=True), FlagState.drop_flag("x")])
    check_state(FlagState, strategies.commands(FlagState))          # with Hypothesis: many, and the shortest that fails

| what is tried | what breaks without it |
|---|---|
| each change is, decoded, what was passed | `apply` gets lists for tuples, and texts for dates, on every node |
| two states that are given the same changes are equal, after each | standbys differ from the primary |
| a change that was rejected moved nothing | likewise: a standby that starts later does not see it |
| a snapshot shows the state as it was when it was taken | a snapshot that is sent while changes go on is of no state |
| a state restored from a snapshot gives the same snapshot, whatever it was before | standbys differ after a restart |
| and goes on from there as the first one does | likewise, later: something is in the state and not in its snapshot |
| a restore that breaks off leaves the state as it was | a node that lost its connection serves half a state |
| nothing shows of a restore before its last piece | readers see half a state |
| what `apply` returns is JSON (a warning) | the answer to a write with a key is not kept |

It runs in one process, so it does not see what differs between processes alone: the order of a set of texts, or the
date of today.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from ..errors import ChangeRejected, ChangeTooLarge, ConfigError, NotJSON
from ..format.codec import encoded, frame_of
from ..runtime import checks
from ..state import State, TypedResults, contract
from .failures import CheckFailed, difference, shown

__all__ = ["check_state"]

#: How many places of a long list of changes a snapshot is restored at, and gone on from.
RESTORED_AT_MOST = 30

#: Of a strategy. More than that nobody waits for.
EXAMPLES_MAX = 1_000_000

#: How many changes an example of a strategy has at the most.
EXAMPLE_CHANGES_MAX = 20


def check_state(factory: Callable[[], Any], changes: Any, *, examples: int = 100) -> None:
    """Try the states that `factory` makes with these changes. Raises `CheckFailed`, which says what is wrong and where.

    `changes`: in their order; or a Hypothesis strategy that gives one change, then `examples` lists of up to 20 are
    tried. What `apply` rejects is fine, and tried as well. Raises `ConfigError` for what is no state at all.
    """
    checks.whole("examples", examples, least=1, most=EXAMPLES_MAX)
    _check_makes_states(factory)
    if _is_strategy(changes):
        _check_examples(factory, changes, examples)
    else:
        _Trial(factory, list(changes)).check()


def _check_makes_states(factory: Callable[[], Any]) -> None:
    if not callable(factory):
        raise ConfigError(setting="factory", problem="give what makes a state: a class, or a function")
    first, second = factory(), factory()
    contract.check_state(first)
    if not isinstance(first, State):
        raise ConfigError(setting="factory", problem=f"{type(first).__name__} has no apply(): there is nothing to try")
    if first is second:
        raise ConfigError(setting="factory", problem="it gives the same object twice: each node has one of its own")


def _is_strategy(changes: Any) -> bool:
    """Whoever has one has imported Hypothesis."""
    hypothesis = sys.modules.get("hypothesis.strategies")
    return hypothesis is not None and isinstance(changes, hypothesis.SearchStrategy)


def _check_examples(factory: Callable[[], Any], change: Any, examples: int) -> None:
    from hypothesis import HealthCheck, given, settings, strategies

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategies.lists(change, max_size=EXAMPLE_CHANGES_MAX))
    def tried(changes: list[Any]) -> None:
        _Trial(factory, changes).check()

    tried()


class _Outcome(NamedTuple):
    """What became of a change. `said`: its result, or why it was rejected, as JSON; None: it is none."""

    rejected: bool
    said: bytes | None
    shown: str


class _Broken(Exception):
    """The pieces of a snapshot that break off."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A change, and the state after it, as the frames of a snapshot. The first one has no change."""

    outcome: _Outcome | None
    frames: list[bytes]


class _Trial:
    """Of one list of changes."""

    def __init__(self, factory: Callable[[], Any], changes: list[Any]) -> None:
        self._factory = factory
        self._changes = changes
        self._name = type(factory()).__name__

    def check(self) -> None:
        for number in range(len(self._changes)):
            self._check_round_trip(number)
        steps = self._check_each_change()
        for place in _places(len(self._changes)):
            self._check_restored(steps, place)
        if steps[-1].frames != steps[0].frames:
            self._check_broken(steps[0], steps[-1], "new")
            self._check_broken(steps[-1], steps[0], "with all changes in it")

    # --- changes -----------------------------------------------------------------------------------------------------

    def _check_round_trip(self, number: int) -> None:
        change = self._changes[number]
        try:
            (decoded,) = encoded([change]).changes
        except (NotJSON, ChangeTooLarge) as error:
            raise self._failed(number, f"it cannot be written to the log: {error}") from None
        if found := _not_as_passed(change, decoded, ""):
            raise self._failed(number, f"it is not what apply() gets: {found}. Pass what JSON has")

    def _check_each_change(self) -> list[_Step]:
        first, second = self._factory(), self._factory()
        steps = [_Step(None, self._frames(first, -1))]
        self._compare(-1, "two new states differ", steps[0].frames, self._frames(second, -1), ("one", "the other"))
        for number in range(len(self._changes)):
            begun = first.snapshot()
            outcome = self._applied(first, number)
            after = self._frames(first, number)
            self._check_outcome(number, outcome, self._applied(second, number), "two states, given the same changes,")
            self._check_deterministic(number, after, self._frames(second, number))
            if outcome.rejected:
                self._check_moved_nothing(number, steps[-1].frames, after)
            self._check_begun(number, steps[-1].frames, self._drawn(begun, number))
            self._warn_if_not_kept(number, outcome)
            steps.append(_Step(outcome, after))
        return steps

    def _applied(self, state: Any, number: int) -> _Outcome:
        """Apply it, as a node would: decoded, and a copy of its own."""
        (change,) = encoded([self._changes[number]]).changes
        try:
            result = state.apply(change)
        except ChangeRejected as rejected:
            return _Outcome(True, str(rejected).encode(), f"rejects it: {rejected}")
        except Exception as error:
            advice = "every node stalls at it. Raise ChangeRejected for what is not to be, before anything is changed"
            raise self._failed(number, f"apply() raised {error!r}, and {advice}") from error
        return _Outcome(False, _json_of(_told(state, change, result)), f"gives {shown(result)}")

    def _check_outcome(self, number: int, one: _Outcome, other: _Outcome, what: str) -> None:
        if (one.rejected, one.said) != (other.rejected, other.said):
            problem = f"{what} do not do the same: one {one.shown}, the other {other.shown}"
            raise self._failed(number, f"{problem}. {_DETERMINISM}")

    def _check_deterministic(self, number: int, one: list[bytes], other: list[bytes]) -> None:
        problem = "two states that were given the same changes differ after it"
        self._compare(number, problem, one, other, ("one", "the other"), _DETERMINISM)

    def _check_moved_nothing(self, number: int, before: list[bytes], after: list[bytes]) -> None:
        problem = "apply() raised ChangeRejected, and the state is another one than before"
        self._compare(
            number, problem, before, after, ("before it", "after it"), "Check all of it before you change any"
        )

    def _check_begun(self, number: int, before: list[bytes], drawn: list[bytes]) -> None:
        problem = "a snapshot that was taken before it and drawn after it is not the state as it was"
        advice = "Replace records, never mutate them, and draw from a shallow copy of what holds them"
        self._compare(number, problem, before, drawn, ("the state", "the snapshot"), advice)

    def _warn_if_not_kept(self, number: int, outcome: _Outcome) -> None:
        if outcome.said is None:
            problem = f"apply() {outcome.shown}, which is not JSON: a write with a key does not keep its answer"
            warnings.warn(f"{self._name}, {self._at(number)}: {problem}", stacklevel=2)

    # --- snapshots ---------------------------------------------------------------------------------------------------

    def _check_restored(self, steps: Sequence[_Step], place: int) -> None:
        """Restore what the state was after so many changes, into a new one and into one that is further, and go on."""
        frames, number = steps[place].frames, place - 1
        state = self._restored(self._factory(), frames, number)
        problem = "a state that was restored from a snapshot gives another one"
        advice = "restore() must take in all that snapshot() gives, in its order"
        self._compare(number, problem, frames, self._frames(state, number), ("the first", "the restored one"), advice)
        used = self._restored(self._factory(), steps[-1].frames, len(self._changes) - 1)
        self._restored(used, frames, number)
        problem = "a state that was another one before, and was restored from a snapshot, gives another one"
        advice = "restore() must leave nothing of what was there"
        self._compare(number, problem, frames, self._frames(used, number), ("the first", "the restored one"), advice)
        self._go_on(state, steps, place)

    def _go_on(self, state: Any, steps: Sequence[_Step], place: int) -> None:
        when = f"after change {place}" if place else "at first"
        since = f"the state as it was {when}, restored from its snapshot"
        for number in range(place, len(self._changes)):
            known = steps[number + 1]
            assert known.outcome is not None
            self._check_outcome(number, known.outcome, self._applied(state, number), f"a state and {since},")
            problem = f"a state and {since}, differ after it"
            advice = "Something that apply() goes by is not in the snapshot"
            self._compare(
                number, problem, known.frames, self._frames(state, number), ("the first", "the restored one"), advice
            )

    def _restored(self, state: Any, frames: list[bytes], number: int) -> Any:
        try:
            state.restore(_pieces(frames))
        except Exception as error:
            problem = f"restore() of what snapshot() gave then raised {error!r}: every node stalls at it"
            raise self._failed(number, problem) from error
        return state

    def _check_broken(self, has: _Step, other: _Step, which: str) -> None:
        """Restore `other` into a state that has `has`, and break off: at each piece, and after the last one."""
        last = len(self._changes) - 1
        for count in range(len(other.frames) + 1):
            state = self._restored(self._factory(), has.frames, last)
            told = f"a state ({which}) was restored from {len(other.frames)} pieces, which broke off after {count}"
            pieces = self._breaking(state, has.frames, other.frames[:count], last)
            try:
                state.restore(pieces)
            except _Broken:
                pass
            except CheckFailed:
                raise
            except Exception as error:
                raise self._failed(last, f"{told}: restore() raised {error!r}, {_LET_PASS}") from None
            else:
                raise self._failed(last, f"{told}: restore() returned, {_LET_PASS}")
            self._compare(last, told, has.frames, self._frames(state, last), ("before", "after"), _ATOMICITY)

    def _breaking(self, state: Any, has: list[bytes], frames: list[bytes], number: int) -> Iterator[Any]:
        for count, piece in enumerate(_pieces(frames), start=1):
            yield piece
            problem = f"after piece {count} of a restore the state shows something of it"
            self._compare(number, problem, has, self._frames(state, number), ("before", "then"), _ATOMICITY)
        raise _Broken

    def _frames(self, state: Any, number: int) -> list[bytes]:
        return self._drawn(state.snapshot(), number)

    def _drawn(self, pieces: Iterable[Any], number: int) -> list[bytes]:
        """Of a snapshot: its pieces, as they are sent."""
        try:
            return [_tagged(piece) for piece in pieces]
        except (NotJSON, ChangeTooLarge) as error:
            raise self._failed(number, f"a piece of the snapshot after it cannot be sent: {error}") from None
        except Exception as error:
            problem = f"drawing a snapshot raised {error!r}. {_DRAWING}"
            raise self._failed(number, problem) from error

    # --- what is told ------------------------------------------------------------------------------------------------

    def _compare(
        self, number: int, problem: str, one: list[bytes], other: list[bytes], names: tuple[str, str], advice: str = ""
    ) -> None:
        if one != other:
            found = difference(list(_pieces(one)), list(_pieces(other)), names=names, place="snapshot")
            raise self._failed(number, f"{problem}: {found or 'the bytes of their snapshots'}. {advice}".rstrip(". "))

    def _failed(self, number: int, problem: str) -> CheckFailed:
        return CheckFailed(f"{self._name}, {self._at(number)}: {problem}")

    def _at(self, number: int) -> str:
        if number < 0:
            return "before any change"
        return f"change {number + 1} of {len(self._changes)}, {shown(self._changes[number])}"


_DETERMINISM = "apply() must go by the state and the change alone: what a clock or chance gives, put into the change"

_LET_PASS = "and must let pass what the pieces raise"

_ATOMICITY = "Draw all pieces first, build aside, then assign"

_DRAWING = "Pieces are drawn while changes go on: draw them from a shallow copy, taken when snapshot() is called"


def _places(count: int) -> list[int]:
    """After how many of so many changes a snapshot is restored: all, or some that are spread evenly."""
    if count < RESTORED_AT_MOST:
        return list(range(count + 1))
    return sorted({round(count * place / (RESTORED_AT_MOST - 1)) for place in range(RESTORED_AT_MOST)})


def _tagged(piece: Any) -> bytes:
    """A piece as it is sent, with its kind before it: a state must not give bytes once and JSON another time."""
    return (b"r" if isinstance(piece, bytes | bytearray | memoryview) else b"j") + frame_of(piece)


def _pieces(frames: Iterable[bytes]) -> Iterator[Any]:
    """As a node decodes them."""
    for frame in frames:
        yield frame[5:] if frame[:1] == b"r" else orjson.loads(frame[1:])


def _told(state: Any, change: Any, result: Any) -> Any:
    """What is kept of a result, where the state says so itself; else the result."""
    if not isinstance(state, TypedResults):
        return result
    try:
        return state.result_to_json(change, result)
    except Exception:  # it is not of the type that it should be, so it is not kept
        return result


def _json_of(result: Any) -> bytes | None:
    try:
        return encoded([result]).json
    except NotJSON:
        return None
    except ChangeTooLarge:
        return orjson.dumps(result)


def _not_as_passed(passed: Any, decoded: Any, place: str) -> str:
    """The first place at which what was passed is not what JSON makes of it; empty: it is the same."""
    if isinstance(passed, dict) and isinstance(decoded, dict):
        pairs = [(value, decoded.get(key), f"{place}[{key!r}]") for key, value in passed.items()]
    elif isinstance(passed, list) and isinstance(decoded, list):
        pairs = [(one, other, f"{place}[{at}]") for at, (one, other) in enumerate(zip(passed, decoded, strict=False))]
    elif type(passed) is type(decoded) and passed == decoded:
        return ""
    else:
        where = f"at {place}, " if place else ""
        return f"{where}{shown(passed)} was passed, and apply() gets {shown(decoded)}"
    return next(filter(None, (_not_as_passed(*each) for each in pairs)), "")
