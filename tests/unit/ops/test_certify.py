"""Certifying a group: good ones pass, while their nodes run; what contradicts the log or another node is named.

Rules of the log alone are tested in test_walk.py.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator import ApplyFailed, Node
from replicator.errors import CheckpointError, ConfigError, KeyReused, LeaseLost, LogLost, ReplicatorError
from replicator.format.codec import digest_of_pieces, encode_change, encode_changes
from replicator.format.ids import ERA, Position, RecordId
from replicator.log.interface import Batch
from replicator.ops import certify as certify_module
from replicator.ops.certify import CannotRebuild, Certificate, certify, copied
from replicator.ops.log_check import Violation
from replicator.protocol.fold import Verdict
from replicator.registry.state import Registry
from replicator.state.class_name import are_alike, kind_of
from replicator.storage.checkpoint import Checkpoint, Step
from replicator.storage.checkpoint_reader import DamagedCheckpoint
from replicator.testing import MemoryLog, MemoryRedis
from tests.support.kv import KV, PATIENCE_S, Group, eventually, in_step, in_thread, push, put
from tests.support.logs import Entry, Pen, fail_over, forged


def of(group: Group, *nodes: Node, log: MemoryLog | None = None) -> Certificate:
    return certify(log or MemoryLog(group.server, "g"), [node.data_dir for node in nodes], make_state=KV)


def saved(*nodes: Node) -> None:
    """Wait until all are at one place, on their disks, too: a primary saves a little later."""
    in_step(*nodes)
    for node in nodes:
        node._running.replica.flush()


def violation(*args: Any, **options: Any) -> Violation:
    with pytest.raises(Violation) as raised:
        of(*args, **options)
    return raised.value


# --- good ones -------------------------------------------------------------------------------------------------------


def test_a_group_that_runs_is_certified(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    for number in range(300):
        a.submit(push(number))
    saved(a, b)
    found = of(group, a, b)
    assert (found.log.record_count, found.log.change_count, found.log.trimmed) == (301, 300, False)
    for name, node in zip("ab", found.nodes, strict=True):
        assert (node.node, node.position, node.place) == (name, "1-301", "in the log")
        assert (node.common_record_count, node.trimmed_record_count, node.divergent_record_count) == (300, 0, 0)
    assert found.equal_nodes == [["a", "b"]]
    assert found.nodes[0].digest == found.nodes[1].digest
    assert found.to_dict()["log"]["change_count"] == 300


def test_terms_snapshots_markers_and_a_trim_are_certified(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    for number in range(5):
        a.submit(push(number))
    a.publish()
    a.submit(put("key", "value"))
    b.promote(timeout_s=PATIENCE_S)
    b.submit(push("x"))
    b.publish()
    group.log().request("digest", by="test")
    eventually(lambda: b.position.id.n == 12)
    saved(a, b)
    found = of(group, a, b)
    assert (found.log.trimmed, found.log.term_count, found.log.marker_count, found.log.snapshot_count) == (
        True,
        2,
        1,
        2,
    )
    assert found.equal_nodes == [["a", "b"]]
    c = group.node("c")
    saved(a, b, c)
    assert of(group, a, b, c).equal_nodes == [["a", "b", "c"]]


def test_a_node_that_was_stopped_and_one_that_is_behind_are_certified(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    a.submit(push("x"))
    in_step(a, b)
    b.stop()
    a.submit(push("y"))
    saved(a)
    found = of(group, a, b)
    assert [(node.place, node.common_record_count) for node in found.nodes] == [("in the log", 2), ("in the log", 1)]
    assert found.equal_nodes == []


def test_one_that_is_older_than_the_log_is_before_it(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    a.submit(push("x"))
    in_step(a, b)
    b.stop()
    a.submit(push("y"))
    a.publish()
    a.publish()
    saved(a)
    found = of(group, a, b)
    assert (found.nodes[1].place, found.nodes[1].trimmed_record_count, found.nodes[1].divergent_record_count) == (
        "before the log",
        1,
        0,
    )


def test_one_that_never_had_anything_is_new(group: Group, tmp_path: Path) -> None:
    a = group.primary("a")
    Checkpoint(tmp_path / "b", "g", node="b").close()
    found = certify(MemoryLog(group.server, "g"), [a.data_dir, tmp_path / "b"], make_state=KV)
    assert found.nodes[1].place == "new"


def test_a_rebase_is_certified_on_all_nodes(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    a.submit(push("x"))
    in_step(a, b)
    before = group.server.state
    a.submit(push("y"))
    in_step(a, b)
    group.fail_over(before)
    eventually(lambda: a.leads and a.term > ERA)
    saved(a, b)
    at_once = of(group, a, b)
    assert (at_once.log.rebase_count, at_once.equal_nodes) == (1, [["a", "b"]])
    a.submit(push("z"))
    saved(a, b)
    assert [node.divergent_record_count for node in of(group, a, b).nodes] == [0, 0]


def saved_by(pen: Pen, data_dir: Path) -> Path:
    """The checkpoint of a node that folded what the pen did."""
    with Checkpoint(data_dir, "g", node=pen.node_state.me.node) as checkpoint:
        checkpoint.save(pen.node_state.view, pen.steps, boot="1")
    return data_dir


def test_nodes_in_the_middle_of_a_rebase_are_certified(tmp_path: Path) -> None:
    # given a, which has 1-2 and goes on from it, and b, which has not, and follows the log
    server = MemoryRedis(clock_ms=lambda: 1.0)
    a = Pen(server, "a")
    a.promote()
    b = Pen(server, "b")
    copy = server.state
    a.change("x")
    fail_over(server, copy)
    a.promote()
    parts = a.parts(size=10)
    next(parts)
    # when a has sent part 0, then it is at a place in the log, and has a change that the log lost
    (node,) = certify(MemoryLog(server, "g"), [saved_by(a, tmp_path / "a")], make_state=KV).nodes
    assert (node.place, node.common_record_count, node.trimmed_record_count, node.divergent_record_count) == (
        "in the log",
        0,
        1,
        0,
    )
    # when b has just restored the state of 1-2, then it is at a place that only the snapshot has
    last = list(parts)[-1]
    b.log.disconnect()
    while b.node_state.view.cursor.id < last.id and b.position.id != RecordId(1, 2):
        b._fold(b.log.read(b.node_state.view.cursor.id, count=1).records[0])
    assert b.position == last.as_of
    (node,) = certify(MemoryLog(server, "g"), [saved_by(b, tmp_path / "b")], make_state=KV).nodes
    assert (node.position, node.place) == ("1-2", "in the log")


def test_a_history_that_parted_is_no_violation_and_its_divergent_tail_is_told(group: Group) -> None:
    a, b = diverged(group)
    found = of(group, a, b)
    assert [(node.place, node.divergent_record_count) for node in found.nodes] == [
        ("not in the log", 1),
        ("in the log", 0),
    ]


def diverged(group: Group) -> tuple[Node, Node]:
    """a is stopped with a change that Redis lost, b leads without it."""
    a, b = group.primary("a"), group.node("b")
    a.submit(push("x"))
    in_step(a, b)
    b.stop()
    before = group.server.state
    a.submit(push("only a has it"))
    a.stop()
    group.fail_over(replace(before, beats=()))
    b = group.node("b")
    b.wait(position="1-2", timeout_s=PATIENCE_S)
    b.promote(timeout_s=PATIENCE_S)
    b.submit(push("y"))
    saved(b)
    return a, b


def test_one_that_is_ahead_of_a_log_that_lost_its_tail_is_ahead(group: Group) -> None:
    a = group.primary("a")
    before = group.server.state
    a.submit(push("x"))
    a.stop()
    group.fail_over(before)
    found = of(group, a)
    assert (found.nodes[0].place, found.nodes[0].divergent_record_count) == ("ahead of the log", 1)


def test_nodes_are_certified_while_changes_come_in(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    saved(a, b)
    written: list[int] = []
    enough = threading.Event()

    def write() -> None:
        # A pause after each: at full speed the log grows faster than it is walked beside this thread.
        while not enough.wait(0.002):
            with suppress(LeaseLost):  # a machine with much to do keeps the keeper waiting
                a.submit(put(str(len(written) % 50), "v" * 2000))
                written.append(len(written))

    writing = in_thread(write)
    try:
        for certified in range(20):
            eventually(lambda so_far=certified: len(written) > 20 * so_far, "another write")
            found = of(group, a, b)
            assert {node.place for node in found.nodes} <= {"in the log", "before the log"}
    finally:
        enough.set()
        writing()


def test_a_log_that_is_trimmed_under_the_reader_is_read_again(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    a = group.primary("a")
    for number in range(10):
        a.submit(push(number))
    a.publish()
    log = MemoryLog(group.server, "g")
    read, trims = log.read, [True]

    def trimmed_after_it(*args: Any, **options: Any) -> Batch:
        batch = read(*args, **options)
        if trims:
            trims.pop()
            a.publish()
        return batch

    monkeypatch.setattr(certify_module, "RECORDS_AT_ONCE", 3)
    monkeypatch.setattr(log, "read", trimmed_after_it)
    told: list[str] = []
    found = certify(log, [], make_state=KV, progress=told.append)
    assert found.log.trimmed
    assert told == ["the log was trimmed meanwhile; once more"]


def test_a_log_that_is_always_trimmed_under_the_reader_is_given_up(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = group.primary("a")
    a.submit(push(1))
    a.publish()
    log = MemoryLog(group.server, "g")
    read = log.read

    def trimmed_before_it(*args: Any, **options: Any) -> Batch:
        a.submit(push(1))
        a.publish()
        a.publish()
        return read(*args, **options)

    monkeypatch.setattr(log, "read", trimmed_before_it)
    with pytest.raises(ReplicatorError, match="trimmed 5 times"):
        certify(log, [], make_state=KV)


# --- violations of the log, found on the way -------------------------------------------------------------------------


def test_a_forged_log_is_a_violation(group: Group) -> None:
    a = group.primary("a")
    for number in range(5):
        a.submit(push(number))
    log = forged(group.server, lambda entries: entries.pop(2), rechain=False)
    assert violation(group, log=log).rule == "ids"


def test_something_that_is_no_record_is_a_violation(group: Group) -> None:
    a = group.primary("a")
    a.submit(push(1))
    state = group.server.state
    entries = (*state.entries[:1], state.entries[1]._replace(header=b"{}"))
    group.server._write(entries=entries)
    found = violation(group)
    assert (found.rule, found.ids) == ("body", (RecordId(1, 2),))


def test_a_stray_entry_is_a_violation(group: Group) -> None:
    group.primary("a")
    group.server.stray(RecordId(99, 1))
    found = violation(group)
    assert (found.rule, found.ids[0]) == ("head", RecordId(99, 1))


def test_a_snapshot_of_another_history_is_a_violation() -> None:
    pen = Pen(MemoryRedis(clock_ms=lambda: 1.0))
    pen.promote()
    pen.change("x")
    pen.snapshot(size=1000)
    pen.change("y")
    as_of = f"1-2@{'0' * 32}"
    log = forged(pen.server, lambda entries: entries[2].header.update(as_of=as_of))
    with pytest.raises(Violation, match="there is a snapshot of 1-2@0000") as raised:
        certify(log, [], make_state=KV)
    assert raised.value.rule == "snapshot"


def test_without_a_log_there_is_nothing_to_certify() -> None:
    with pytest.raises(LogLost):
        certify(MemoryLog(MemoryRedis(), "g"), [], make_state=KV)


# --- checkpoints -----------------------------------------------------------------------------------------------------


def rewritten(entry: Entry, value: Any) -> None:
    codec, body, digest = encode_changes([encode_change(push(value))])
    entry.body = body
    entry.header |= {"codec": codec, "digest": digest}


def test_a_node_whose_record_is_another_is_a_violation(group: Group) -> None:
    a = group.primary("a")
    for number in range(5):
        a.submit(push(number))
    saved(a)
    # a log that is good in itself, and tells another history
    log = forged(group.server, lambda entries: rewritten(entries[2], "X"))
    found = violation(group, a, log=log)
    assert (found.rule, found.node, found.ids) == ("checkpoint", "a", (RecordId(1, 3),))


def test_a_node_whose_position_has_another_chain_is_a_violation(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    a.submit(push(1))
    b.promote(timeout_s=PATIENCE_S)
    saved(a, b)
    # nothing but the term record differs, which is no row of the checkpoint
    log = forged(group.server, lambda entries: entries[2].header.update(reason="another"))
    found = violation(group, b, log=log)
    assert (found.rule, found.node, found.ids) == ("checkpoint", "b", (RecordId(2, 3),))
    assert "has the chain" in found.message


def test_a_node_that_has_a_record_which_the_log_it_follows_has_not_is_a_violation(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    a.submit(push(1))
    old = a._running.replica.node_state.change(codec="json", digest="d", count=1, body=b"[]", at=1)
    b.promote(timeout_s=PATIENCE_S)
    saved(a, b)
    b.stop()
    # a stale record that went past the fence of b's fold, onto its disk
    stale = replace(old, id=RecordId(1, 9))
    with Checkpoint(b.data_dir, "g", node="b") as checkpoint:
        loaded = checkpoint.load()
        assert loaded is not None
        steps = [Step(stale, Verdict.APPLY, loaded.view)]
        checkpoint.save(loaded.view, steps, boot="x")
    found = violation(group, b)
    assert (found.rule, found.node, found.ids) == ("checkpoint", "b", (RecordId(2, 3), RecordId(1, 9)))


def test_a_node_of_another_log_is_a_violation(group: Group) -> None:
    a = group.primary("a")
    saved(a)
    head = group.server.look().head
    assert head is not None
    log = forged(group.server, lambda entries: entries[0].header.update(log_id="log-2"))
    log.server._write(head=log.server._head()._replace(log_id="log-2", position=log.server._head().position))
    a.stop()
    with Checkpoint(a.data_dir, "g", node="a") as checkpoint:
        loaded = checkpoint.load()
        assert loaded is not None
        checkpoint.save(loaded.view._replace(position=Position(RecordId(1, 9), "0" * 32)), boot="x")
    found = violation(group, a, log=log)
    assert (found.rule, "follows log" in found.message) == ("checkpoint", True)


def test_a_snapshot_on_disk_that_is_not_the_logs_is_a_violation(group: Group) -> None:
    a = group.primary("a")
    a.submit(push("x"))
    a.publish()
    saved(a)
    other = Pen(MemoryRedis(), "a", boot=a.boot)

    def another(entries: list[Entry]) -> None:
        other.promote()
        other.pushed = ["other"]
        (part,) = other.snapshot(size=1000)
        entries[-1].body = part.body
        entries[-1].header["digest"] = part.digest

    a.stop()
    with Checkpoint(a.data_dir, "g", node="a") as checkpoint:  # so that only the snapshot contradicts
        loaded = checkpoint.load()
        assert loaded is not None
        checkpoint.save(loaded.view._replace(position=Position(RecordId(1, 9), "0" * 32)), boot="x")
    found = violation(group, a, log=forged(group.server, another))
    assert (found.rule, found.ids) == ("checkpoint", (RecordId(1, 2),))
    assert "its snapshot of 1-2" in found.message


def test_a_checkpoint_of_another_group_is_refused(group: Group, tmp_path: Path) -> None:
    group.primary("a")
    Checkpoint(tmp_path / "x", "other", node="x").close()
    with pytest.raises(ConfigError, match="of group other"):
        certify(MemoryLog(group.server, "g"), [tmp_path / "x"], make_state=KV)


# --- states ----------------------------------------------------------------------------------------------------------


def test_states_that_differ_at_one_position_are_a_violation(group: Group) -> None:
    """Each checkpoint is the log's; what `apply` makes of it is not the same."""
    a, b = group.primary("a"), group.node("b")
    a.submit(push("x"))
    saved(a, b)
    made: list[KV] = []

    def not_deterministic() -> KV:
        state = KV()
        state.in_apply = lambda _: state.pushed.append(len(made))
        made.append(state)
        return state

    with pytest.raises(Violation, match="different states") as raised:
        certify(MemoryLog(group.server, "g"), [a.data_dir, b.data_dir], make_state=not_deterministic)
    assert (raised.value.rule, raised.value.ids) == ("state", (RecordId(1, 2),))


def test_an_error_of_apply_is_an_outcome_where_the_nodes_took_it_for_one(group: Group) -> None:
    a = group.primary("a", on_apply_error="reject")
    a.submit(push("x"))
    with pytest.raises(ApplyFailed):
        a.submit({"unheard of": 1})
    a.submit(push("y"))
    saved(a)
    (node,) = of(group, a).nodes
    assert node.position == "1-4"


def test_a_change_that_was_rejected_is_an_outcome(group: Group) -> None:
    a = group.primary("a")
    a.submit(push("x"))
    with pytest.raises(ReplicatorError, match="no"):
        a.submit({"reject": "no"})
    saved(a)
    assert of(group, a).nodes[0].common_record_count == 2


def test_changes_with_keys_are_certified_however_a_node_came_to_them(group: Group) -> None:
    a, b = group.primary("a"), group.node("b")
    a.submit(push("in a snapshot"), key="k")
    a.publish()
    for key in ("k", "l", "l"):
        a.submit(push("in a snapshot" if key == "k" else "later"), key=key)
    with pytest.raises(KeyReused):
        a.submit(push("another"), key="l")
    eventually(lambda: b.position == a.position)
    saved(a, b)
    found = of(group, a, b)
    assert found.equal_nodes == [["a", "b"]]
    # and the keys are among what is compared
    with a.reading() as state:
        assert found.nodes[0].digest != digest_of_pieces(state.snapshot())


def test_a_class_that_cannot_take_the_changes_is_said_so(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    a = group.primary("a")
    a.submit(push("x"))
    saved(a)

    def fail(state: KV, change: Any) -> Any:
        raise KeyError("op")

    # given a later version of the class
    monkeypatch.setattr(KV, "apply", fail)
    with pytest.raises(CannotRebuild, match=r"a: its state cannot be rebuilt .*KeyError"):
        certify(MemoryLog(group.server, "g"), [a.data_dir], make_state=KV)


# --- whose state it is ------------------------------------------------------------------------------------------------


class Other:
    """Takes any change and makes nothing of it: everything would be certified."""

    def apply(self, change: Any) -> None:
        pass

    def snapshot(self) -> Iterator[Any]:
        return iter(())

    def restore(self, pieces: Any) -> None:
        list(pieces)


def test_a_checkpoint_of_another_application_is_refused_and_its_own_is_named(group: Group) -> None:
    a = group.primary("a")
    a.submit(push("x"))
    saved(a)
    log = MemoryLog(group.server, "g")
    for make_state, name in ((Other, "test_certify:Other"), (Registry, "replicator.registry.state:Registry")):
        with pytest.raises(ConfigError, match=r"--state tests\.support\.kv:KV") as raised:
            certify(log, [a.data_dir], make_state=make_state)
        assert name in str(raised.value)
    assert certify(log, [a.data_dir], make_state=KV, assumed=True)


def test_a_checkpoint_that_does_not_say_whose_it_is_has_to_be_told(group: Group) -> None:
    a = group.primary("a")
    saved(a)
    a.stop()
    with closing(sqlite3.connect(a.data_dir / "checkpoint.sqlite")) as db, db:
        db.execute("DELETE FROM meta WHERE key = 'state'")
    log = MemoryLog(group.server, "g")
    with pytest.raises(ConfigError, match="does not say of which class"):
        certify(log, [a.data_dir], make_state=KV, assumed=True)
    assert certify(log, [a.data_dir], make_state=KV)


def test_a_class_of_the_script_that_was_run_is_known_by_its_name() -> None:
    assert are_alike("__main__:Counter", "app:Counter")
    assert not are_alike("__main__:Counter", "app:Other")
    assert not are_alike("one:Counter", "two:Counter")
    assert not are_alike("whole", "app:whole")
    assert kind_of(KV()) == "tests.support.kv:KV"


# --- copies ----------------------------------------------------------------------------------------------------------


def torn(times: int, monkeypatch: pytest.MonkeyPatch, also: Callable[[Path], None] = lambda path: None) -> list[Path]:
    """The first copies are torn: the node wrote meanwhile."""
    copies: list[Path] = []
    copy = certify_module._copy

    def tear(source: Path, place: Path) -> Path:
        made = copy(source, place)
        copies.append(made)
        if len(copies) <= times:
            data = made.read_bytes()
            made.write_bytes(data[: len(data) // 2])
            also(source)
        return made

    monkeypatch.setattr(certify_module, "_copy", tear)
    monkeypatch.setattr(certify_module, "COPY_AGAIN_AFTER_S", 0.0)
    return copies


def touched(source: Path) -> None:
    found = source.stat()
    os.utime(source, ns=(found.st_atime_ns, found.st_mtime_ns + 1))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    pen = Pen(MemoryRedis(), "a")
    pen.promote()
    with Checkpoint(tmp_path / "a", "g", node="a") as checkpoint:
        checkpoint.save(pen.node_state.view, boot="1")
    return tmp_path / "a"


def test_a_copy_that_is_torn_is_made_again(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = torn(2, monkeypatch, touched)
    with copied(data_dir) as stored:
        assert stored.view.position.id == RecordId(1, 1)
    assert len(copies) == 3
    assert not copies[0].exists()
    assert not copies[2].parent.parent.exists()


def test_one_that_is_torn_each_time_is_given_up(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = torn(99, monkeypatch, touched)
    with pytest.raises(CheckpointError, match="no whole copy of it in 6"), copied(data_dir):
        pass
    assert len(copies) == 6


def test_a_file_that_is_wrong_while_its_node_writes_is_damaged_and_not_torn(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a node whose file was damaged, and which goes on writing behind that
    with Checkpoint(data_dir, "g", node="a") as running:
        view = Pen(MemoryRedis(), "a").node_state.view
        running.save(view, boot="2")
        path = data_dir / "checkpoint.sqlite"
        data = path.read_bytes()
        assert data.count(b"CREATE TABLE part") == 1
        path.write_bytes(data.replace(b"CREATE TABLE part", b"CREATE TABLE prat"))
        monkeypatch.setattr(certify_module, "COPY_AGAIN_AFTER_S", 0.0)
        copy = certify_module._copy

        def written_to(source: Path, place: Path) -> Path:
            made = copy(source, place)
            running.save(view, boot="3")
            return made

        monkeypatch.setattr(certify_module, "_copy", written_to)
        # then it is called what it is
        with pytest.raises(DamagedCheckpoint, match=r"a/checkpoint\.sqlite: it is damaged"), copied(data_dir):
            pass


def test_a_copy_during_which_a_wal_began_anew_is_made_again(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin_anew(source: Path) -> None:
        source.with_name(f"{source.name}-wal").write_bytes(os.urandom(40))

    copies = torn(2, monkeypatch, begin_anew)
    with copied(data_dir) as stored:
        assert stored.view.position.id == RecordId(1, 1)
    assert len(copies) == 3


def test_a_file_that_stands_still_and_is_wrong_is_damaged(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = torn(99, monkeypatch)
    with pytest.raises(DamagedCheckpoint, match=r"a/checkpoint\.sqlite: it is damaged"), copied(data_dir):
        pass
    assert len(copies) == 1


def test_what_is_only_in_the_wal_is_copied(data_dir: Path, tmp_path: Path) -> None:
    view = Pen(MemoryRedis()).node_state.view
    with Checkpoint(data_dir, "g", node="a") as checkpoint:
        checkpoint.save(view._replace(term=7), boot="2")
        assert (data_dir / "checkpoint.sqlite-wal").stat().st_size > 0
        before = {path.name: path.read_bytes() for path in data_dir.iterdir()}
        with copied(data_dir) as stored:
            assert stored.view.term == 7
        assert {path.name: path.read_bytes() for path in data_dir.iterdir()} == before
    shutil.rmtree(data_dir)
    with pytest.raises(CheckpointError, match="No such file"), copied(data_dir):
        pass


def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "checkpoint.sqlite")) as db:
        db.execute("CREATE TABLE t (x)")
    with pytest.raises(CheckpointError, match="another program"), copied(tmp_path):
        pass
