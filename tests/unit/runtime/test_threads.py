"""Threads that the system refuses to start."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from replicator import NoThread
from replicator.runtime.threads import started
from tests.support.kv import PATIENCE_S


def test_it_runs_with_its_arguments_and_holds_up_no_end_of_the_program() -> None:
    done = threading.Event()
    got: list[Any] = []
    thread = started(lambda *args: (got.extend(args), done.set()), 1, "b", name="worker")
    assert done.wait(PATIENCE_S)
    assert (got, thread.name, thread.daemon) == ([1, "b"], "worker", True)


@pytest.mark.parametrize("refusal", [RuntimeError("can't start new thread"), MemoryError()])
def test_one_that_is_refused_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, refusal: Exception) -> None:
    def refuse(self: threading.Thread) -> None:
        raise refusal

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(NoThread, match=r"the system starts no thread for a-digester \(.+\): raise the limit"):
        started(print, name="a-digester")
