"""A class whose methods are changes: what is checked where, what is in the log, and what no class can be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from replicator import (
    ChangeRejected,
    Commands,
    ConfigError,
    InvalidChange,
    NotJSON,
    NotSubmitted,
    Stalled,
    change,
)
from replicator.format.codec import decode_changes
from replicator.format.ids import ZERO_ID
from replicator.format.records import ChangeRecord
from replicator.state.conversion import converter_of
from tests.support.flags import Flag, FlagState
from tests.support.kv import Group, eventually, in_step


@dataclass(frozen=True)
class Window:
    begins: datetime
    ends: datetime | None = None

    def __post_init__(self) -> None:
        if self.ends is not None and self.ends < self.begins:
            raise ValueError("it ends before it begins")


@dataclass
class Windows(Commands):
    windows: dict[str, Window] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)

    @change
    def plan(self, name: str, window: Window, *, note: Any = None) -> Window:
        self.seen.append(name)
        self.windows[name] = window
        return window

    @change
    def fail(self, moves: bool = False) -> None:
        raise ZeroDivisionError


MORNING = datetime(2026, 1, 31, 9, tzinfo=UTC)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def refused(make: Callable[[], Any]) -> InvalidChange:
    with pytest.raises(InvalidChange) as raised:
        make()
    return raised.value


# --- A change that is made --------------------------------------------------------------------------------------------


def test_a_change_is_plain_json_with_all_its_arguments() -> None:
    assert orjson.dumps(FlagState.set_flag("x", on=True)) == b'{"set_flag":{"name":"x","on":true,"percent":100}}'
    assert orjson.dumps(Windows.plan("x", Window(MORNING))) == (
        b'{"plan":{"name":"x","window":{"begins":"2026-01-31T09:00:00+00:00","ends":null},"note":null}}'
    )


@pytest.mark.parametrize(
    ("make", "field_at_fault"),
    [
        (lambda: FlagState.set_flag("x", on=1), "on"),
        (lambda: FlagState.set_flag("x", on=None), "on"),
        (lambda: FlagState.set_flag(7, on=True), "name"),
        (lambda: FlagState.set_flag("x", on=True, percent=True), "percent"),
        (lambda: FlagState.set_flag("x", on=True, percent=2**64), "percent"),
        (lambda: FlagState.own(1, ["a", 2]), "flags[1]"),
        (lambda: Windows.plan("x", {"begins": "2026-01-31"}), "window"),
        (lambda: Windows.plan("x", Window("noon")), "window.begins"),  # type: ignore[arg-type]
    ],
)
def test_an_argument_of_a_wrong_type_is_refused_where_the_change_is_made(make: Any, field_at_fault: str) -> None:
    assert refused(make).field == field_at_fault


@pytest.mark.parametrize(
    "make",
    [
        lambda: FlagState.set_flag("x"),
        lambda: FlagState.set_flag("x", True, 1, 2),
        lambda: FlagState.set_flag("x", on=True, percnt=1),
        lambda: Windows.plan("x", Window(MORNING), "a note"),
    ],
)
def test_arguments_that_are_too_many_or_too_few_are_refused_where_the_change_is_made(make: Any) -> None:
    assert str(refused(make)).startswith(("set_flag: ", "plan: "))


def test_an_argument_that_may_be_anything_has_to_be_json() -> None:
    assert Windows.plan("x", Window(MORNING), note={"by": [1]})["plan"]["note"] == {"by": [1]}
    for value in ({1}, float("nan"), 2**70):
        with pytest.raises(NotJSON):
            Windows.plan("x", Window(MORNING), note=value)


def test_what_somebody_sent_as_json_is_checked_and_gets_its_defaults() -> None:
    assert FlagState.checked({"set_flag": {"on": True, "name": "x"}}) == FlagState.set_flag("x", on=True)
    sent = {"plan": {"name": "x", "window": {"begins": "2026-01-31T09:00:00Z"}}}
    assert Windows.checked(sent) == Windows.plan("x", Window(MORNING))


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "set_flag",
        {},
        {"set_flag": {"name": "x", "on": True}, "note": {"text": "x"}},
        {"no_such": {}},
        {"apply": {}},
        {"flags": {}},
        {"set_flag": None},
        {"set_flag": ["x", True]},
        {"set_flag": {"name": "x"}},
        {"set_flag": {"name": "x", "on": True, "by": "me"}},
        {"set_flag": {"name": "x", "on": 1}},
        {"set_flag": {"name": "x", "on": True, "percent": 1.0}},
    ],
)
def test_a_change_that_does_not_fit_is_rejected_by_apply_as_well_and_moves_nothing(sent: Any) -> None:
    state = FlagState(flags={"x": Flag(False)})
    refused(lambda: FlagState.checked(sent))
    refused(lambda: state.apply(sent))
    assert state == FlagState(flags={"x": Flag(False)})


def test_a_signature_can_be_asked_for() -> None:
    assert str(inspect.signature(FlagState.set_flag)) == "(name: 'str', on: 'bool', percent: 'int' = 100) -> 'Flag'"


# --- A change that is carried out -------------------------------------------------------------------------------------


def test_apply_calls_the_method_with_values_of_its_types() -> None:
    state = Windows()
    assert state.apply(Windows.plan("x", Window(MORNING, NOON))) == Window(MORNING, NOON)
    assert state == Windows(windows={"x": Window(MORNING, NOON)}, seen=["x"])


def test_an_argument_that_is_left_out_in_the_log_has_its_default() -> None:
    assert FlagState().apply({"set_flag": {"name": "x", "on": True}}) == Flag(on=True, percent=100)


def test_a_value_that_its_own_class_refuses_is_rejected() -> None:
    sent = {"plan": {"name": "x", "window": {"begins": NOON.isoformat(), "ends": MORNING.isoformat()}}}
    error = refused(lambda: Windows().apply(sent))
    assert (error.field, str(error)) == ("window", "window is refused: it ends before it begins")


def test_outside_of_apply_a_change_is_refused_because_it_would_change_one_copy_alone() -> None:
    state = FlagState()
    with pytest.raises(NotSubmitted, match=r"submit FlagState\.set_flag"):
        state.set_flag("x", on=True)
    with pytest.raises(ChangeRejected):
        state.apply(FlagState.drop_flag("x"))
    with pytest.raises(NotSubmitted):  # after a rejection as well
        state.set_flag("x", on=True)
    assert state == FlagState()


def test_a_change_may_call_another_one_and_a_subclass_may_replace_one() -> None:
    state = Audited()
    assert state.apply(Audited.set_flag("x", on=True)) == Flag(on=True)
    assert state == Audited(flags={"x": Flag(on=True)}, notes=["x"])


@dataclass
class Audited(FlagState):
    @change
    def set_flag(self, name: str, on: bool, percent: int = 100) -> Flag:
        self.note(name)
        return super().set_flag(name, on, percent)


@dataclass
class Lists(Commands):
    lists: list[tuple[int, ...]] = field(default_factory=list)

    @change
    def lst(self, x: list[int] = [], y: Any = {}, z: float = 1) -> list[int]:  # noqa: B006
        x.append(1)
        y["more"] = True
        self.lists.append((*x, len(y)))
        assert type(z) is float
        return x

    @change
    def twice(self) -> None:
        self.lst()
        self.lst([7])


def test_a_default_is_a_copy_of_its_own_for_each_call() -> None:
    # given
    state = Lists()
    # when
    for _ in range(2):
        state.apply({"lst": {}})
        state.apply({"twice": {}})
    # then
    assert state.lists == [(1, 1), (1, 1), (7, 1, 1)] * 2
    assert Lists.lst() == Lists.checked({"lst": {}}) == {"lst": {"x": [], "y": {}, "z": 1.0}}


# --- On nodes ---------------------------------------------------------------------------------------------------------


def test_nodes_apply_what_is_in_the_log(group: Group) -> None:
    # given
    a, b = group.primary(state=FlagState()), group.node("b", state=FlagState())
    # when
    assert a.submit(FlagState.set_flag("dark-mode", on=True, percent=50)) == Flag(on=True, percent=50)
    with pytest.raises(ChangeRejected, match="percent is at most 100"):
        a.submit(FlagState.set_flag("dark-mode", on=True, percent=101))
    # then
    in_step(a, b)
    for node in (a, b):
        with node.reading() as state:
            assert state == FlagState(flags={"dark-mode": Flag(on=True, percent=50)})
    first = next(record for record in group.log().read(ZERO_ID).records if isinstance(record, ChangeRecord))
    assert decode_changes(first.codec, first.body, first.digest, first.count, id_=str(first.id)) == [
        {"set_flag": {"name": "dark-mode", "on": True, "percent": 50}}
    ]


def test_a_record_of_other_code_is_rejected_and_stalls_nobody(group: Group) -> None:
    # given
    a, b = group.primary(state=FlagState()), group.node("b", state=FlagState())
    # when
    for sent in ({"archive": {"name": "x"}}, {"set_flag": {"name": "x", "on": True, "owner": "me"}}, 7):
        with pytest.raises(InvalidChange):
            a.submit(sent)
    # then
    assert a.submit(FlagState.set_flag("x", on=True)) == Flag(on=True)
    in_step(a, b)
    assert (a.stalled, b.stalled) == (None, None)


def test_a_node_that_was_updated_later_applies_what_it_rejected_before(group: Group) -> None:
    # given two versions of a class, and a standby with the older one
    a, b = group.primary(state=NewVersion()), group.node("b", state=OldVersion())
    # when
    a.submit(NewVersion.note("one", by="me"))
    in_step(a, b)
    with b.reading() as state:
        assert state.notes == []
    b.stop()
    again = group.node("b", state=NewVersion(), data_dir=b.data_dir)
    # then
    with again.reading() as state:
        assert state.notes == ["one"]


@dataclass
class OldVersion(Commands):
    notes: list[str] = field(default_factory=list)

    @change
    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class NewVersion(Commands):
    notes: list[str] = field(default_factory=list)

    @change
    def note(self, text: str, by: str = "") -> None:
        self.notes.append(text)


OldVersion.__qualname__ = NewVersion.__qualname__  # a node starts with the class that its checkpoint is of


def test_any_other_exception_of_a_method_is_a_bug_and_stalls(group: Group) -> None:
    a = group.primary(state=Windows())
    with pytest.raises(Stalled, match="ZeroDivisionError"):
        a.submit(Windows.fail())


def test_a_standby_that_comes_late_gets_it_in_pieces(group: Group) -> None:
    # given
    a = group.primary(state=FlagState())
    a.submit_many([FlagState.set_flag(f"flag-{number}", on=True, percent=number % 100) for number in range(1000)])
    a.submit(FlagState.own(7, ["flag-1", "flag-2"]))
    a.submit(FlagState.note("the first"))
    a.publish()
    # when
    b = group.node("b", state=FlagState())
    # then
    eventually(lambda: b.in_sync and b.position == a.position)
    with a.reading() as ours, b.reading() as theirs:
        assert theirs == ours
        assert list(theirs.flags) == list(ours.flags)
        assert theirs.owners == {7: ("flag-1", "flag-2")}


@dataclass
class Bounded(Commands):
    """Its fields have to fit one another, and one had another name before."""

    most: int = 2
    names: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.names) > self.most:
            raise ValueError("too many names")

    def restore(self, pieces: Any) -> None:
        super().restore({{"texts": "names"}.get(name, name): part for name, part in each.items()} for each in pieces)

    @change
    def add(self, name: str) -> None:
        self.names.append((name, name))


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([{"most": 1}, {"names": [["a", "a"], ["b"]]}], InvalidChange),
        ([{"nams": []}], InvalidChange),
        ([{"most": 1, "names": [["a", "a"], ["b", "b"]]}], ValueError),
    ],
)
def test_pieces_that_do_not_fit_are_refused_before_they_are_sent(group: Group, pieces: Any, error: type) -> None:
    # given
    a, b = group.primary(state=Bounded()), group.node("b", state=Bounded())
    a.submit(Bounded.add("x"))
    before = a.position
    # when
    with pytest.raises(error):
        a.replace(pieces)
    # then
    assert a.position == before
    a.submit(Bounded.add("y"))
    in_step(a, b)
    assert (a.stalled, b.stalled) == (None, None)
    with b.reading() as state:
        assert state == Bounded(names=[("x", "x"), ("y", "y")])


def test_pieces_are_tried_as_json_has_them_and_as_the_class_restores_them(group: Group) -> None:
    # given
    a, b = group.primary(state=Bounded()), group.node("b", state=Bounded())
    # when
    a.replace([{"texts": [("a", "b")]}])
    # then
    eventually(lambda: b.in_sync and b.position == a.position)
    with b.reading() as state:
        assert state == Bounded(names=[("a", "b")])


def test_a_class_with_its_own_snapshot_and_restore_is_not_tried() -> None:
    Own().check_pieces(iter([1, 2, 3]))


# --- What no class can be ---------------------------------------------------------------------------------------------


class Plain(Commands):
    @change
    def note(self, text: str) -> None: ...


class Own(Commands):
    """With its own snapshot: its attributes may be what they like."""

    def __init__(self) -> None:
        self.lists: dict[str, list[str]] = {}

    @change
    def add(self, name: str, text: str) -> int:
        self.lists.setdefault(name, []).append(text)
        return len(self.lists[name])

    def snapshot(self) -> Iterator[Any]:
        return iter([{name: list(texts) for name, texts in self.lists.items()}])

    def restore(self, pieces: Iterable[Any]) -> None:
        (self.lists,) = pieces


def test_a_class_that_is_no_dataclass_has_its_own_snapshot(group: Group) -> None:
    with pytest.raises(ConfigError, match="Plain: make it a @dataclass, or give it"):
        Plain()
    a, b = group.primary(state=Own()), group.node("b", state=Own())
    assert a.submit(Own.add("x", "y")) == 1
    in_step(a, b)
    with b.reading() as state:
        assert state.lists == {"x": ["y"]}


class Untyped(Commands):
    @change
    def note(self, text) -> None: ...  # type: ignore[no-untyped-def]


class Unwritable(Commands):
    @change
    def note(self, texts: set[str]) -> None: ...


class Elsewhere(Commands):
    @change
    def note(self, text: NoSuchName) -> None: ...  # type: ignore[name-defined]  # noqa: F821


class Misnamed(Commands):
    apply = change(lambda self: None)  # type: ignore[assignment]


class NoInteger(Commands):
    @change
    def note(self, v: int = None) -> None: ...  # type: ignore[assignment]  # noqa: RUF013


class NoJson(Commands):
    @change
    def note(self, v: Any = float("nan")) -> None: ...


@dataclass(frozen=True)
class Job:
    name: str
    id: UUID = field(default_factory=uuid4)


class NewEachTime(Commands):
    @change
    def note(self, jobs: list[Job]) -> None: ...


@dataclass(frozen=True)
class Unfit:
    percent: int = None  # type: ignore[assignment]


class UnfitRecord(Commands):
    @change
    def note(self, unfit: Unfit) -> None: ...


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (NoInteger, "NoInteger.note: a default is not of its type: v must be an integer"),
        (NoJson, "NoJson.note: a default is not of its type: .*NaN"),
        (NewEachTime, r"NewEachTime.note: jobs: Job.id has a default_factory that may give each node another value"),
        (UnfitRecord, r"UnfitRecord.note: unfit: a default is not of its type: Unfit.percent must be an integer"),
        (Untyped, "Untyped.note: give text a type"),
        (Unwritable, r"Unwritable.note: texts: set\[str\] is no type that can be written down as JSON"),
        (Elsewhere, "Elsewhere.note: its annotations cannot be resolved .*NoSuchName"),
        (Misnamed, "Misnamed.apply: give the change the name of its method"),
    ],
)
def test_a_class_that_cannot_be_one_is_refused_when_it_is_made(kind: type, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        kind()


@dataclass(frozen=True)
class Limits:
    least: int = 0
    names: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    limits: Limits = field(default_factory=Limits)
    tags: dict[str, int] = field(default_factory=dict)


def test_a_default_that_is_the_same_on_every_node_may_be_made_anew() -> None:
    assert converter_of(Plan).decode({}, "it") == Plan(Limits(0, []), {})


def takes_any_number(self: Any, *texts: str) -> None: ...


def takes_any_name(self: Any, **texts: str) -> None: ...


def takes_no_name(self: Any, text: str, /) -> None: ...


async def waits(self: Any, text: str) -> None: ...


def takes_nothing() -> None: ...


@pytest.mark.parametrize("method", [takes_any_number, takes_any_name, takes_no_name, takes_nothing, waits])
def test_a_method_that_cannot_be_a_change_is_refused_when_it_is_marked(method: Any) -> None:
    with pytest.raises(ConfigError, match=method.__name__):
        change(method)
