"""The threads of a host, without a server: a bug in one node's way does not flood the log, nor keep a core busy."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import pytest

from replicator.node.worker_pool import Team
from tests.support.kv import PATIENCE_S, eventually


def test_a_bug_that_comes_back_at_once_is_told_once_and_tried_more_and_more_rarely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = threading.Event()
    tries: list[float] = []

    def broken() -> None:
        tries.append(time.monotonic())
        raise ValueError("seven")

    def take() -> Callable[[], None] | None:
        return None if ended.is_set() else broken

    with caplog.at_level(logging.INFO):
        team = Team("ha-loop", take, size=1)
        team.begin()
        eventually(lambda: len(tries) > 1)
        time.sleep(2.0)
        ended.set()
        team.join(PATIENCE_S)
    assert len(tries) < 10, "on a slow machine there are fewer"
    [record] = caplog.records
    assert record.getMessage() == "a bug in replicator: ValueError('seven')"
    assert record.exc_info is not None, "it has a traceback"
