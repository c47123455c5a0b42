"""What is no state is refused when a node is made of it, and the message names what is missing."""

from __future__ import annotations

import functools
import types
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from replicator import ConfigError, Node
from replicator.registry.state import Registry
from replicator.state.contract import at_version, check_state, takes_version
from replicator.state.file import FileState
from replicator.state.sqlite import SQLiteState
from replicator.state.sqlite_pages import SQLitePages
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.kv import KV


def plain() -> dict[str, Callable[..., Any]]:
    return {
        "snapshot": lambda self: iter([]),
        "restore": lambda self, pieces: None,
        "apply": lambda self, change: None,
    }


def state_with(**methods: Any) -> Any:
    """An object of class Flags with the methods of a state, but for these; None: without that one."""
    body = {name: method for name, method in (plain() | methods).items() if method is not None}
    return type("Flags", (), body)()


async def coroutine(self: Any, change: Any = None) -> None: ...


async def pieces_that_wait(self: Any) -> AsyncIterator[Any]:
    yield []


def pieces(self: Any) -> Iterator[Any]:
    yield []


def pieces_of(self: Any, change: Any) -> Iterator[Any]:
    yield []


def refused(state: object) -> str:
    with pytest.raises(ConfigError) as raised:
        check_state(state)
    assert raised.value.fields["setting"] == "state"
    assert "\n" not in str(raised.value)
    return str(raised.value)


class CallableObject:
    async def __call__(self, change: Any) -> None: ...


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (KV, "KV is a class: give an object, `KV()`"),
        (None, "NoneType has no snapshot()"),
        ({}, "dict has no snapshot()"),
        (state_with(snapshot=None), "Flags has no snapshot()"),
        (state_with(restore=None), "Flags has no restore()"),
        (state_with(restore=None, restor=lambda self, pieces: None), "no restore(), but restor(): is that it?"),
        (state_with(snapshot=None, snapshots=lambda self: []), "no snapshot(), but snapshots(): is that it?"),
        (state_with(apply=None, aply=lambda self, change: None), "Flags has no apply(), but aply(): is that it?"),
        (state_with(apply=None, Apply=lambda self, change: None), "no apply(), but Apply(): is that it?"),
        (state_with(apply=None, apply_=lambda self, change: None), "no apply(), but apply_(): is that it?"),
        (state_with(apply=None, applly=lambda self, change: None), "no apply(), but applly(): is that it?"),
        (state_with(apply=coroutine), "apply() of Flags is async"),
        (state_with(restore=coroutine), "restore() of Flags is async"),
        (state_with(snapshot=coroutine), "snapshot() of Flags is async"),
        (state_with(snapshot=pieces_that_wait), "snapshot() of Flags is async"),
        (state_with(apply=functools.partialmethod(coroutine)), "apply() of Flags is async"),
        (state_with(apply=CallableObject()), "apply() of Flags is async"),
        (state_with(apply=pieces_of), "apply() of Flags has a `yield` in it"),
        (state_with(restore=pieces_of), "restore() of Flags has a `yield` in it"),
        (state_with(apply=lambda self: None), "apply() of Flags is called with one argument: too many positional"),
        (state_with(apply=lambda self, a, b: None), "apply() of Flags is called with one argument: missing a required"),
        (state_with(restore=lambda self: None), "restore() of Flags is called with one argument"),
        (state_with(snapshot=lambda self, x: []), "snapshot() of Flags is called with no argument"),
        (state_with(apply={"op": "set"}), "apply() of Flags is not a method"),
        (state_with(snapshot=[]), "snapshot() of Flags is not a method"),
        (state_with(survived=lambda self: True, apply=None), "Flags has survived() and no published()"),
        (state_with(survived=lambda self: 1, publishd=lambda self: 1, apply=None), "no published(), but publishd()"),
    ],
)
def test_what_is_no_state_is_named(state: object, said: str) -> None:
    assert said in refused(state)


@pytest.mark.parametrize(
    "state",
    [
        KV(),
        Registry(),
        FileState("f"),
        SQLiteState("f"),
        SQLitePages("f"),
        state_with(snapshot=pieces),
        state_with(apply=None),
        state_with(apply=None, supply=lambda self: None, publish=lambda self: None, reply=lambda self: None),
        state_with(apply=lambda self, *changes, **more: None),
        state_with(apply=functools.partialmethod(lambda self, kind, change: None, "kind")),
        types.SimpleNamespace(snapshot=list, restore=print, apply=[].append),
        MagicMock(),
    ],
    ids=lambda state: type(state).__name__,
)
def test_what_is_one_is_taken(state: object) -> None:
    check_state(state)


def test_a_node_refuses_it_before_it_touches_anything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="KV is a class"):
        Node(KV, group="g", name="a", log=MemoryLog(MemoryRedis()), data_dir=tmp_path / "a")  # type: ignore[arg-type]
    assert not (tmp_path / "a").exists()


class OnlyAsked(KV):
    """Nothing of a state is called when it is looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.called = 0

    def snapshot(self) -> Iterator[Any]:
        self.called += 1
        return super().snapshot()

    def restore(self, pieces: Iterable[Any]) -> None:
        self.called += 1


def test_no_method_is_called_for_that() -> None:
    state = OnlyAsked()
    check_state(state)
    assert state.called == 0


# --- the version ------------------------------------------------------------------------------------------------------


class Versioned:
    def apply(self, change: Any, version: int) -> Any:
        return change, version

    def snapshot(self, *, version: int) -> Iterator[Any]:
        return iter([version])

    def restore(self, pieces: Any, version: int = 1) -> None:
        self.restored = pieces, version


def test_a_method_with_a_parameter_of_that_name_is_told_the_version() -> None:
    state = Versioned()
    check_state(state)
    assert at_version(state.apply, 3)("x") == ("x", 3)
    assert list(at_version(state.snapshot, 3)()) == [3]
    at_version(state.restore, 3)("pieces")
    assert state.restored == ("pieces", 3)


def test_nobody_else_is_told_anything() -> None:
    class Odd:
        def apply(self, version: Any) -> Any:
            return version

        def restore(self, version: Any, /, *more: Any) -> None: ...

        def snapshot(self) -> Iterator[Any]:
            return iter(())

    state = Odd()
    check_state(state)
    assert not any(map(takes_version, (state.apply, state.restore, state.snapshot, dict.get, None)))
    assert at_version(state.apply, 3)("x") == "x"
