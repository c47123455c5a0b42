"""Where the master is: how long the sources of that are waited for, and which of them to believe."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from replicator.log import master_discovery
from replicator.log.master_discovery import Answer, MasterDiscovery
from tests.support.kv import PATIENCE_S, eventually


class Room:
    """Three sources. `said`: what each one says, or why not; one that is in `hangs` says nothing until `go`."""

    def __init__(self) -> None:
        self.said: dict[str, Answer[str] | Exception] = {name: Answer(1, "m") for name in "abc"}
        self.hangs: set[str] = set()
        self.go = threading.Event()
        self.discovery: MasterDiscovery[str] = MasterDiscovery("abc", self._ask)

    def _ask(self, name: str) -> Answer[str]:
        if name in self.hangs:
            assert self.go.wait(PATIENCE_S)
        said = self.said[name]
        if isinstance(said, Exception):
            raise said
        return said

    def asked(self, wait_s: float = PATIENCE_S, *, someone_s: float = 0.0) -> list[str]:
        self.discovery.ask(wait_s, someone_s=someone_s)
        return self.discovery.places()


@pytest.fixture
def room() -> Iterator[Room]:
    room = Room()
    yield room
    room.go.set()


def test_the_newest_epoch_counts(room: Room) -> None:
    room.said["c"] = Answer(2, "n")
    assert room.asked() == ["n"]


def test_of_one_epoch_the_place_that_most_name_comes_first(room: Room) -> None:
    room.said = {"a": Answer(0, "m"), "b": Answer(0, "n"), "c": Answer(0, "n")}
    assert room.asked() == ["n", "m"]


def test_who_hangs_is_waited_for_once(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_discovery, "GOOD_FOR_S", 3600.0)
    room.hangs = {"a"}
    assert room.asked(2.0) == ["m"]
    began = time.monotonic()
    assert room.asked(PATIENCE_S) == ["m"]
    assert time.monotonic() - began < PATIENCE_S / 2
    assert room.discovery.problems() == [("a", None)]


def test_where_all_hang_the_first_word_of_any_is_waited_for(room: Room) -> None:
    room.hangs = set("abc")
    threading.Timer(0.2, room.go.set).start()
    assert room.asked(0.01, someone_s=PATIENCE_S) == ["m"]


def test_where_all_fail_nobody_is_waited_for(room: Room) -> None:
    room.said = {name: OSError(f"{name} is gone") for name in "abc"}
    began = time.monotonic()
    assert room.asked(0.01, someone_s=PATIENCE_S) == []
    assert time.monotonic() - began < PATIENCE_S / 2
    assert [str(problem) for _, problem in room.discovery.problems()] == ["a is gone", "b is gone", "c is gone"]


def test_what_somebody_said_is_good_for_a_while_and_no_longer(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_discovery, "GOOD_FOR_S", 3600.0)
    assert room.asked() == ["m"]
    room.hangs = set("abc")
    assert room.asked(0.01) == ["m"]
    monkeypatch.setattr(master_discovery, "GOOD_FOR_S", 0.0)
    eventually(lambda: room.discovery.places() == [])


def test_a_newer_epoch_is_remembered_until_most_of_them_say_otherwise(room: Room) -> None:
    room.said["c"] = Answer(2, "n")
    assert room.asked() == ["n"]
    room.said.update(b=OSError("cut off"), c=OSError("cut off"))
    assert room.asked() == ["n"]
    room.said["b"] = Answer(1, "m")
    assert room.asked() == ["m"]
