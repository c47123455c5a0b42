"""A node whose Redis user may not write the log follows, and leads nothing, whatever befalls the group."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from replicator.errors import LogUnavailable, PromotionRefused
from replicator.log.memory_history import MemoryHistory
from replicator.testing import MemoryLog, MemoryState
from tests.support.kv import BEAT_S, PATIENCE_S, Group, after_beats, eventually, in_step, push, pushed


class OfAStandby(MemoryLog):
    """The log of a user who may not write it; what the node asked for all the same is in `tried`."""

    may_not = "the user may not use set"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tried: list[str] = []

    def check_rights(self) -> str:
        return self.may_not

    def promote(self, *arguments: Any) -> Any:
        return self._refused("promote") if self.may_not else super().promote(*arguments)

    def refill_history(self, *arguments: Any, **options: Any) -> Any:
        return self._refused("refill") if self.may_not else super().refill_history(*arguments, **options)

    def _refused(self, what: str) -> Any:
        self.tried.append(what)
        raise LogUnavailable.refuses(self.url, "NOPERM")


def test_it_follows_and_takes_over_from_nobody(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    log = OfAStandby(group.server)
    a = group.primary("a", beat_every_s=BEAT_S)
    b = group.node("b", log=log, auto_promote=True, beat_every_s=BEAT_S)
    a.submit(push("x"))
    in_step(a, b)
    assert pushed(b) == ["x"]
    told = eventually(lambda: group.server.look().heartbeats.get("b"))
    assert (told.follows_only, told.candidate) == (log.may_not, False)
    with pytest.raises(PromotionRefused, match="it may not lead: the user may not use set"):
        b.promote(force=True, timeout_s=PATIENCE_S)
    a.stop()
    after_beats(3, b)
    assert log.tried == []
    assert [record.__dict__.get("event") for record in caplog.records].count("rights.follows_only") == 1
    log.may_not = ""
    group.wake()
    eventually(lambda: b.role == "primary", "it takes over once it may")


def test_it_founds_no_log(group: Group) -> None:
    log = OfAStandby(group.server)
    a = group.primary("a", beat_every_s=BEAT_S)
    b = group.node("b", log=log, auto_promote=True, on_log_lost="recover", beat_every_s=BEAT_S)
    in_step(a, b)
    a.stop()
    group.fail_over(MemoryState())
    after_beats(4, b)
    assert log.tried == []
    log.may_not = ""
    eventually(lambda: b.role == "primary", "it founds it anew once it may")


def test_it_puts_no_history_back(group: Group) -> None:
    log = OfAStandby(group.server)
    a, b = group.primary("a", beat_every_s=BEAT_S), group.node("b", log=log, beat_every_s=BEAT_S)
    in_step(a, b)
    eventually(lambda: len(b.history().entries) == 1)
    data_dir = b.data_dir
    b.stop()
    group.server._write(history=MemoryHistory(count=1))
    again = group.node("b", log=OfAStandby(group.server), data_dir=data_dir, beat_every_s=BEAT_S)
    after_beats(3, again)
    assert again._setup.log.tried == []  # type: ignore[attr-defined]
    assert len(again.history().entries) == 1
