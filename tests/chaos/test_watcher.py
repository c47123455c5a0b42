"""What is seen of a run: nothing is taken for later than it was, and what nobody saw is known."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from replicator.format.ids import RecordId
from replicator.log.interface import Batch

from .history import Notes
from .watcher import LogWatcher, NodeWatcher


def test_a_node_is_seen_as_it_was_when_it_was_asked(tmp_path: Path) -> None:
    # given a node whose answer comes late: what it said may be over by then
    watcher = NodeWatcher("a", tmp_path / "socket", Notes(tmp_path / "notes"))
    answered_at: list[int] = []

    def answer(*_: Any) -> dict[str, Any]:
        answered_at.append(time.monotonic_ns())
        return {"boot": "a1", "term": 1, "role": "primary"}

    watcher._caller = SimpleNamespace(call=answer)  # type: ignore[assignment]
    watcher.once()
    (seen,) = watcher.sightings
    assert seen.at <= answered_at[0]


class Log:
    """Gives what it has when it is read."""

    def __init__(self) -> None:
        self.ids: list[RecordId] = []

    def look(self) -> Any:
        return SimpleNamespace(run="run-1")

    def read(self, after: RecordId, *, count: int) -> Batch:
        new = [id_ for id_ in self.ids if id_ > after]
        records: list[Any] = [SimpleNamespace(id=id_, node="a", boot="a1", kind="term") for id_ in new]
        return Batch(records, [])


def test_terms_that_were_trimmed_before_they_were_read_are_known_to_be_unread(tmp_path: Path) -> None:
    log = Log()
    watcher = LogWatcher(lambda: log, Notes(tmp_path / "notes"))  # type: ignore[arg-type, return-value]
    log.ids = [RecordId(1, 1), RecordId(2, 2)]
    watcher.once()
    assert watcher.unread == []
    # when the log was trimmed, and begins in a later term
    log.ids = [RecordId(5, 9), RecordId(5, 10)]
    watcher.once()
    assert [term for missed in watcher.unread for term in missed] == [3, 4]
    assert [each.term for each in watcher.written] == [1, 2, 5, 5]
