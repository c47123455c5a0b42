"""Giving up large states in slices."""

from __future__ import annotations

import _thread
import threading
from typing import Any

import pytest

from replicator.state.release import SLICE, let_go
from tests.support.kv import eventually


def test_what_is_small_is_gone_at_once() -> None:
    small = {number: [number] for number in range(SLICE // 2)}
    few = [[number] for number in range(SLICE // 2)]
    let_go(small, few, {})
    assert (small, few) == ({}, [])


def test_what_is_large_is_emptied_on_another_thread() -> None:
    freed_by: set[int] = set()

    class Entry:
        def __del__(self) -> None:
            freed_by.add(threading.get_ident())

    kept = Entry()
    large: dict[Any, Any] = {number: Entry() for number in range(5 * SLICE)} | {"kept": kept}
    many: list[Any] = [Entry() for _ in range(5 * SLICE + 1)]
    small = {1: 2}
    let_go(large, many, small)
    eventually(lambda: not large and not many and not small, "the end of it")
    assert threading.get_ident() not in freed_by
    assert len(freed_by) == 1


def test_without_threads_it_goes_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    large = {number: [number] for number in range(5 * SLICE)}
    let_go(large)
    assert large == {}
