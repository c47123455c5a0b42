"""A sidecar and a proxy: when its program takes requests, and that they are answered before the program stops."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from replicator.service import requests_under_way
from replicator.service.sidecar import Sidecar
from replicator.state.file import FileState
from tests.support.kv import PATIENCE_S, Group, eventually, in_thread
from tests.support.role_commands import lines, telling

#: Nodes that say often how they are, and that no busy machine costs their lease.
STEADY: dict[str, Any] = {"lease_s": 10 * PATIENCE_S, "beat_every_s": 0.3}


@pytest.fixture(autouse=True)
def answers_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests_under_way, "ANSWERED_WITHIN_S", 10 * PATIENCE_S)


def test_a_program_is_told_to_stop_when_it_has_answered_what_it_was_passed(group: Group, told: Path) -> None:
    a = group.node("a", **STEADY)
    with Sidecar(a, on_primary=telling(told), on_standby=telling(told)) as sidecar:
        # given a request to the program of a primary
        assert sidecar.program_term == 0
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: sidecar.program_term == 1 and lines(told)[-1:] == ["primary 1 a g"])
        before = len(lines(told))
        with sidecar.requests.one():
            # when a switchover is asked for
            group.log().request("prepare", by="ops", node="a")
            eventually(lambda: sidecar.requests.is_awaited)
            # then it takes no other one, and goes on until that is answered
            assert sidecar.program_term == 0
            assert len(lines(told)) == before
        eventually(lambda: lines(told)[before:] == ["standby 1 a g"])
        assert not sidecar.requests.is_awaited


def test_the_end_of_a_node_waits_for_answers_too(group: Group, told: Path) -> None:
    a = group.primary("a", **STEADY)
    sidecar = Sidecar(a, on_primary=telling(told), on_standby=telling(told))
    with sidecar:
        eventually(lambda: sidecar.program_term == 1 and lines(told))
        with sidecar.requests.one():
            ended = in_thread(lambda: sidecar.__exit__(None, None, None), patience_s=2 * PATIENCE_S)
            eventually(lambda: sidecar.requests.is_awaited)
            assert (sidecar.program_term, lines(told)) == (0, ["primary 1 a g"])
        ended()
        assert lines(told)[1:] == ["standby 1 a g"]


def test_what_was_written_by_now_is_published_at_a_position_that_others_can_wait_for(
    group: Group, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    state = FileState(ours, still_s=0)
    a, b = group.node("a", state=state, **STEADY), group.node("b", state=FileState(theirs), **STEADY)
    ours.write_bytes(b"before")
    a.promote(timeout_s=PATIENCE_S)
    with Sidecar(a, state, publish_every_s=600) as sidecar:
        for content in (b"one", b"two", b"two"):
            ours.write_bytes(content)
            publication = sidecar.publish_now()
            assert publication.problem == ""
            b.wait(position=publication.position, timeout_s=PATIENCE_S)
            assert theirs.read_bytes() == content
        b.promote(timeout_s=PATIENCE_S)
        eventually(lambda: not a.leads)
        assert sidecar.publish_now() == ("", "it does not lead")


def test_a_switchover_that_ends_with_the_lease_does_not_shorten_the_wait_of_the_next_one(
    group: Group, told: Path
) -> None:
    log = group.faulty_log()
    a = group.node("a", lease_s=5.0, beat_every_s=0.3, log=log)
    with Sidecar(a, on_primary=telling(told), on_standby=telling(told)) as sidecar:
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: sidecar.program_term and lines(told)[-1:] == ["primary 1 a g"])
        with sidecar.requests.one():
            group.log().request("prepare", by="ops", node="a")
            eventually(lambda: sidecar.requests.is_awaited)
            log.renewals_fail = True
            eventually(lambda: lines(told)[-1].startswith("standby"))
            assert not sidecar.requests.is_awaited
        log.renewals_fail = False


class Meeting(FileState):
    """Notes whether two looked at it at once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, still_s=0)
        self.have_met = False
        self._barrier = threading.Barrier(2)

    def seen(self) -> object:
        with suppress(threading.BrokenBarrierError):
            self._barrier.wait(0.3)
            self.have_met = True
        self._barrier.reset()
        return super().seen()


def test_one_at_a_time_looks_at_what_the_program_wrote(group: Group, tmp_path: Path) -> None:
    path = tmp_path / "ours"
    path.write_bytes(b"before")
    state = Meeting(path)
    a = group.node("a", state=state, **STEADY)
    a.promote(timeout_s=PATIENCE_S)
    with Sidecar(a, state, publish_every_s=600) as sidecar:
        answers = [in_thread(sidecar.publish_now, patience_s=PATIENCE_S) for _ in range(2)]
        assert [answer().problem for answer in answers] == ["", ""]
    assert not state.have_met
