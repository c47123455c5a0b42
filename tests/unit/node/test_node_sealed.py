"""A group with a key, over a log in memory: states of all kinds, and what an application says in its exceptions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from replicator import CorruptRecord, Node, ops
from replicator.format.records import parse
from replicator.log.replies import heard
from tests.support.kv import KV, PATIENCE_S, Group, eventually, in_step, push
from tests.support.opaque import Text, has
from tests.support.sealed import MARKER, key_file


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return key_file(tmp_path / "keys")


def shown(group: Group, directory: Path) -> list[object]:
    """Where the marker is to be seen: in Redis, or in files."""
    files = [path for path in directory.rglob("*") if path.is_file() and MARKER.encode() in path.read_bytes()]
    return [*files, *(["redis"] if MARKER in repr(group.server.state) else [])]


def test_a_state_that_is_replicated_whole_is_on_no_disk_as_it_is(group: Group, keys: Path, tmp_path: Path) -> None:
    a = group.primary(state=Text([MARKER]), key_file=keys)
    b = group.node("b", state=Text(), key_file=keys)
    a.publish()
    has(b, [MARKER])
    long = [f"{MARKER} {number}" for number in range(2000)]
    a._setup.state.pieces = long
    a.publish()
    has(b, long)
    a._setup.state.pieces = [*long, f"{MARKER} more"]
    assert a.publish().what == "patch"
    has(b, [*long, f"{MARKER} more"])
    for node in (a, b):
        node._running.replica.flush()
        assert (node.data_dir / "payload").stat().st_size > len(MARKER) * 2000
    assert shown(group, tmp_path) == []
    b.stop()
    again = group.node("b", state=Text(), key_file=keys)
    has(again, [*long, f"{MARKER} more"])
    in_step(a, again)


def test_what_an_application_says_in_an_exception_is_for_who_has_the_key(
    group: Group, keys: Path, tmp_path: Path
) -> None:
    class Faulty(KV):
        def apply(self, change: Any) -> Any:
            raise ValueError(f"cannot take {change}")

    a = group.primary(key_file=keys)
    b: Node[Any] = group.node("b", state=Faulty(), key_file=keys)
    in_step(a, b)
    a.submit(push(MARKER))
    eventually(lambda: b.stalled)
    assert "ValueError, of which the log of this node says more" in b.stalled
    group.wake()

    def told() -> list[str]:
        sealing = a._setup.log.sealing
        beats = {node: data for node, _, data in group.server.state.beats}
        return [
            heartbeat.stalled
            for opens in (sealing, None)
            if (heartbeat := heard(beats["b"], 0, 0, opens)) is not None  # type: ignore[arg-type]
        ]

    eventually(lambda: all(told()))
    with_key, without = told()
    assert with_key == b.stalled
    assert without == "what is the matter is sealed: give the group's key file"
    assert shown(group, tmp_path) == []


def test_a_node_without_a_key_stops_before_the_first_sealed_record(group: Group, keys: Path) -> None:
    a = group.primary(key_file=keys)
    a.submit(push("x"))
    group.server.set_head(sealed=False)  # as somebody would who has Redis
    b = group.node("b")
    problem = eventually(lambda: b.problem)
    assert "it is sealed, and no key was given: give the group's key file" in problem
    assert b.position.id.n <= 1


def test_a_term_that_is_taken_by_force_is_vouched_for_and_for_that_term_alone(group: Group, keys: Path) -> None:
    a = group.primary(key_file=keys)
    b = group.node("b", key_file=keys)
    in_step(a, b)
    term = b.promote(force=True, timeout_s=PATIENCE_S)
    eventually(lambda: a.term == b.term == term)
    in_step(a, b)
    header = next(entry.header for entry in group.server.state.entries if entry.id.term == term)
    opens = a._setup.log.sealing
    assert parse(f"{term}-2", header, b"", opens).node == "b"
    for later in (term + 1, term + 7):
        with pytest.raises(CorruptRecord, match="whoever took this term had not the group's key"):
            parse(f"{later}-2", header, b"", opens)


def test_status_names_a_node_that_has_another_key(group: Group, keys: Path, tmp_path: Path) -> None:
    a = group.primary(key_file=keys)
    x = group.node("x", key_file=key_file(tmp_path / "another"))
    eventually(lambda: x.problem)
    found = eventually(lambda: ops.status(a._setup.log).problem)
    assert found.startswith("the group's key does not vouch for what x says")
    assert "does not have: add that one" in x.problem
