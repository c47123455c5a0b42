"""A directory in a group: nodes follow file by file, and a node that leads has all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import CheckpointError, Node, StateError
from replicator.format.codec import digest_of_pieces
from replicator.format.manifest import Content
from replicator.replica.files_updater import FilesUpdater
from replicator.replica.restore import Dropped
from replicator.state.directory import DirectoryState, state
from replicator.state.directory.restoring import Restoring
from replicator.state.files import FilesState
from replicator.storage.published_files import View
from tests.support.kv import PATIENCE_S, Group, eventually

#: A patch is smaller than that.
BALLAST = "".join(str(number) for number in range(10_000))


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path / "nodes")
    yield group
    group.close()


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    (tmp_path / "ours").mkdir()
    put(tmp_path / "ours", {"a": "1", "d/one": "one", "d/two": "two", "large": BALLAST})
    return tmp_path / "ours"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return tmp_path / "theirs"


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """How many paths each restore looked at; None: at all of them. No look at all becomes due."""
    monkeypatch.setattr(state, "LOOK_PAUSE_TIMES", 1e9)
    found: list[int | None] = []
    real = Restoring.restore_files

    def noted(self: Restoring, files: Any, end: Any, *, change: Any, insisting: bool) -> None:
        found.append(None if change is None else len(change.gone) + len(change.entries))
        real(self, files, end, change=change, insisting=insisting)

    monkeypatch.setattr(Restoring, "restore_files", noted)
    return found


def put(top: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(content)


def texts(top: Path) -> dict[str, str]:
    return {str(path.relative_to(top)): path.read_text() for path in sorted(top.rglob("*")) if path.is_file()}


def are_equal(one: Path, two: Path) -> bool:
    try:
        return texts(one) == texts(two)
    except FileNotFoundError:
        return False


def asides(top: Path) -> dict[str, str]:
    kept = sorted(top.parent.glob(f"{top.name}.replaced-*"))
    return {path: text for aside in kept for path, text in texts(aside).items()}


def published(node: Node, ours: Path, files: dict[str, str]) -> str:
    put(ours, files)
    return node.publish(timeout_s=PATIENCE_S).what


def pair(group: Group, ours: Path, theirs: Path) -> tuple[Node, Node]:
    """A primary that published what it has, and a standby that has it."""
    a = group.primary("a", state=DirectoryState(ours))
    published(a, ours, {})
    b = group.node("b", state=DirectoryState(theirs))
    eventually(lambda: are_equal(ours, theirs))
    return a, b


def test_it_is_a_state_that_is_followed_by_file(group: Group, ours: Path) -> None:
    assert isinstance(DirectoryState(ours), FilesState)
    assert isinstance(group.node("a", state=DirectoryState(ours))._running.replica._updater, FilesUpdater)


def test_a_standby_looks_at_what_changed_and_at_all_of_it_before_it_leads(
    group: Group, ours: Path, theirs: Path, only: list[int | None]
) -> None:
    a, b = pair(group, ours, theirs)
    only.clear()
    for turn in range(5):
        assert published(a, ours, {"a": str(turn), f"new{turn}": "1"}) == "patch"
        eventually(lambda: are_equal(ours, theirs))
    (ours / "d/one").unlink()
    assert published(a, ours, {}) == "patch"
    eventually(lambda: are_equal(ours, theirs))
    assert only == [2, 2, 2, 2, 2, 1]
    wanted = digest_of_pieces(DirectoryState(ours).snapshot())
    eventually(lambda: digest_of_pieces(b._running.replica.pieces()) == wanted)
    # what somebody wrote on the standby is not what the next primary has
    put(theirs, {"d/two": "somebody's", "stray": "somebody's"})
    (theirs / "a").unlink()
    b.promote(timeout_s=PATIENCE_S)
    assert texts(theirs) == texts(ours)
    assert asides(theirs) == {"d/two": "somebody's", "stray": "somebody's"}
    # and what its program writes from then on is its own
    assert published(b, theirs, {"b": "of b"}) == "patch"
    eventually(lambda: are_equal(ours, theirs))


def test_a_node_that_comes_back_has_what_was_published(group: Group, ours: Path, theirs: Path) -> None:
    a = group.primary("a", state=DirectoryState(ours))
    published(a, ours, {})
    b = group.node("b", state=DirectoryState(theirs))
    for turn in range(3):
        published(a, ours, {f"new{turn}": str(turn)})
    eventually(lambda: are_equal(ours, theirs))
    group.crash(b)
    published(a, ours, {"missed": "1"})
    put(theirs, {"d/one": "somebody's"})
    b = group.node("b", state=DirectoryState(theirs))
    eventually(lambda: are_equal(ours, theirs))
    assert asides(theirs) == {"d/one": "somebody's"}
    # the primary, too: its program went on meanwhile
    group.crash(a)
    put(ours, {"meanwhile": "1"})
    a = group.node("a", state=DirectoryState(ours))
    eventually(lambda: a.leads)
    assert published(a, ours, {}) == "patch"
    eventually(lambda: "meanwhile" in texts(theirs) and are_equal(ours, theirs))
    assert asides(ours) == {}
    # and one that joins gets a snapshot of it
    late = theirs.with_name("late")
    group.node("late", state=DirectoryState(late))
    eventually(lambda: are_equal(ours, late))


def test_what_cannot_be_written_is_written_later_as_a_whole(
    group: Group, ours: Path, theirs: Path, only: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair(group, ours, theirs)
    refused: list[int] = []
    noted = Restoring.restore_files

    def refuses(self: Restoring, *args: Any, **more: Any) -> None:
        refused.append(1)
        if len(refused) < 3:
            raise StateError(path=theirs, problem="No space left on device")
        noted(self, *args, **more)

    only.clear()
    monkeypatch.setattr(Restoring, "restore_files", refuses)
    published(a, ours, {"a": "2"})
    published(a, ours, {"a": "3", "b": "3"})
    eventually(lambda: are_equal(ours, theirs))
    eventually(lambda: b.in_sync and b._running.replica.applied.unwritten is None)
    assert only[0] is None
    published(a, ours, {"a": "4"})
    eventually(lambda: are_equal(ours, theirs))
    assert only[-1] == 1
    assert asides(theirs) == {}


def test_what_is_published_while_it_is_written_later_is_not_taken_for_written(
    group: Group, ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair(group, ours, theirs)
    calls: list[int] = []
    real = Restoring.restore_files

    def late(self: Restoring, *args: Any, **more: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise StateError(path=theirs, problem="No space left on device")
        if len(calls) == 2:
            before = b.position
            published(a, ours, {"a": "3", "b": "3"})
            eventually(lambda: b.position.id > before.id)
        real(self, *args, **more)

    monkeypatch.setattr(Restoring, "restore_files", late)
    published(a, ours, {"a": "2"})
    eventually(lambda: len(calls) > 1 and are_equal(ours, theirs))


def test_a_node_that_stops_before_all_of_it_was_looked_at_does_not_lead(
    group: Group, ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its next start would take what somebody wrote there for what its program left, and publish it."""
    a, b = pair(group, ours, theirs)
    published(a, ours, {"a": "2"})
    eventually(lambda: are_equal(ours, theirs))
    updater: Any = b._running.replica._updater
    rebuild, adopted = updater._rebuild, []
    monkeypatch.setattr(updater, "_write_once", lambda *, insisting: monkeypatch.setattr(rebuild, "closed", True))
    monkeypatch.setattr(rebuild, "save_and_adopt", lambda *record: adopted.append(record))
    updater._lead(None, None, None)
    assert rebuild.closed
    assert adopted == []
    monkeypatch.undo()


@pytest.mark.parametrize("what", ["a content", "nothing but a name"])
def test_a_node_that_stops_writes_no_more(
    group: Group, ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    _, b = pair(group, ours, theirs)
    put(theirs, {"d/one": "somebody's"} if what == "a content" else {"stray": "somebody's"})
    before = texts(theirs)
    updater: Any = b._running.replica._updater
    # if a content is to be drawn, it is not drawn to the end
    end = iter(()) if what == "a content" else updater._published_pieces()
    with monkeypatch.context() as stopping:
        stopping.setattr(updater._rebuild, "closed", True)
        with pytest.raises(Dropped):
            updater._becoming(1).restore(end)
    assert texts(theirs) == before


def test_a_disk_that_does_not_give_what_was_published_is_asked_again(
    group: Group, ours: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no fault of the state: the node does not stall, and does not take it for written."""
    a, b = pair(group, ours, theirs)
    refused: list[int] = []
    real = View.content

    def refuses(self: View, content: Content) -> Iterator[bytes]:
        refused.append(1)
        if len(refused) < 3:
            raise CheckpointError(path=theirs, problem="Input/output error")
        yield from real(self, content)

    monkeypatch.setattr(View, "content", refuses)
    published(a, ours, {"a": "2"})
    eventually(lambda: are_equal(ours, theirs))
    assert len(refused) >= 3
    assert not b.stalled


class ByBytes:
    """A directory as nodes of before knew it: by the pieces of snapshots."""

    def __init__(self, top: Path) -> None:
        self._state = DirectoryState(top)
        self.snapshot, self.restore = self._state.snapshot, self._state.restore
        self.survived, self.published = self._state.survived, self._state.published


def test_a_node_follows_a_primary_that_publishes_bytes(group: Group, ours: Path, theirs: Path) -> None:
    a = group.primary("a", state=ByBytes(ours))
    published(a, ours, {})
    b = group.node("b", state=DirectoryState(theirs))
    for turn in range(3):
        assert published(a, ours, {"a": str(turn), f"new{turn}": "1" * 1000 * turn}) == "patch"
        eventually(lambda: are_equal(ours, theirs))
    assert b.in_sync
    # it has them on its disk, and goes on by file
    b.stop()
    b = group.node("b", state=DirectoryState(theirs))
    a.stop()
    b.promote(timeout_s=PATIENCE_S)
    assert published(b, theirs, {"b": "1"}) == "patch"
    c = group.node("c", state=DirectoryState(theirs.with_name("c")))
    eventually(lambda: are_equal(theirs, theirs.with_name("c")))
    assert c.in_sync
