"""A lease is given back for the boot that is dead, and for no other one."""

from __future__ import annotations

import fcntl
import importlib
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from replicator import ops
from replicator.errors import ConfigError, DirectoryInUse, LogUnavailable, ProgramStillRuns, StillRuns
from replicator.format.ids import Writer
from replicator.node.node import Node
from replicator.ops.release import Released
from replicator.protocol.group import LeaseText
from replicator.storage import directory_lock, program_lock
from replicator.storage.directory_lock import DirectoryLock
from tests.support.kv import PATIENCE_S, Group, eventually, in_thread, put
from tests.support.nodes import reported

#: The module, which the package hides behind its function.
release = importlib.import_module("replicator.ops.release")

#: It does not run out within a test.
LEASE_S = 600.0


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    group.close()


def holder(group: Group) -> str | None:
    """The node and the boot that have the lease."""
    lease = LeaseText.parse(group.log().look().lease)
    return lease.holder.partition(" ")[2] if lease else None


def crashed(group: Group, **options: object) -> tuple[Node, Path]:
    """A primary that was killed: its lease is there, and its directory as it left it, in the same place."""
    a = group.primary("a", lease_s=LEASE_S, **options)
    a.submit(put("k", 1))
    held = f"a {a.boot}"
    lock = (a.data_dir / "lock").read_bytes()
    group.crash(a)
    (a.data_dir / "lock").write_bytes(lock)
    assert holder(group) == held
    return a, a.data_dir


def test_the_lease_of_a_node_that_was_killed_is_given_back_and_another_one_leads(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, data_dir = crashed(group)
    b = group.node("b", log=(log := group.log()), lease_s=LEASE_S, auto_promote=True)
    b.wait(position="1-2", timeout_s=PATIENCE_S)  # so it reads what is said to the group, too
    reported(group, b)
    # and given that it looks at the group once it has heard that the lease was given back, and by whom
    may_look, look = threading.Event(), log.look
    monkeypatch.setattr(log, "look", lambda: look() if may_look.wait(PATIENCE_S) else None)
    released = ops.release(group.log(), data_dir, by="test")
    assert (released.node, released.term, released.boot) == ("a", 1, a.boot)
    eventually(lambda: b._running.ha_loop.candidate._gave_back[0] == "a", "it hears of it")
    may_look.set()
    eventually(lambda: b.leads, "another leader")
    # and the history does not say that it stopped in order
    gave_back, takeover = ops.history(group.log()).entries[-2:]
    assert (gave_back.what, gave_back.node, gave_back.by) == ("release", "a", "test")
    assert (takeover.what, takeover.ended, takeover.ended_at) == ("takeover", "crashed", gave_back.at)
    assert takeover.reason == "a ended, as test saw, which gave its lease back"


def test_the_lease_of_a_node_that_runs_is_left_alone(group: Group) -> None:
    a = group.primary("a", lease_s=LEASE_S)
    with pytest.raises(StillRuns, match="is using it, so its lease is not given back") as refused:
        ops.release(group.log(), a.data_dir, by="test")
    assert refused.value.exit_code == 3
    assert holder(group) == f"a {a.boot}"


def test_a_process_that_lives_on_behind_one_that_died_keeps_its_lease(group: Group) -> None:
    # what supervisord started is dead, and what that started has the directory
    _, data_dir = crashed(group)
    held = holder(group)
    child = (
        "import sys; from pathlib import Path; from replicator.storage.directory_lock import DirectoryLock;"
        "lock = DirectoryLock(Path(sys.argv[1])); print('has it', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", child, str(data_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"has it\n"
        with pytest.raises(StillRuns, match=f"process {process.pid} is using it"):
            ops.release(group.log(), data_dir, by="test")
        assert holder(group) == held
        process.communicate()
    assert ops.release(group.log(), data_dir, by="test").node == "a"


def test_it_waits_for_the_program_that_the_node_ran(group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    # what kept the program outlives the node, and has not ended it yet
    _, data_dir = crashed(group)
    held, lock = holder(group), program_lock.take_program_lock(data_dir)
    assert lock is not None
    assert program_lock.take_program_lock(data_dir) is None, "and the next node here starts none beside it"
    monkeypatch.setattr(release, "PROGRAM_ENDS_WITHIN_S", 0.0)
    with pytest.raises(ProgramStillRuns, match="not yet the program") as refused:
        ops.release(group.log(), data_dir, by="test")
    assert refused.value.exit_code == 3
    assert holder(group) == held
    # when it ends within the time
    waits = threading.Event()
    monkeypatch.setattr(release, "PROGRAM_ENDS_WITHIN_S", PATIENCE_S)
    monkeypatch.setattr(program_lock.time, "sleep", lambda _: waits.set())
    result = in_thread(lambda: ops.release(group.log(), data_dir, by="test"))
    assert waits.wait(PATIENCE_S)
    assert holder(group) == held
    os.close(lock)
    assert result().node == "a"


def test_whoever_comes_late_leaves_the_successor_its_lease(group: Group, tmp_path: Path) -> None:
    # the node was started again elsewhere, with the same name, and leads
    _, data_dir = crashed(group)
    group.log().give_back(*_held_by(group))
    successor = group.primary("a", data_dir=tmp_path / "elsewhere", lease_s=LEASE_S)
    released = ops.release(group.log(), data_dir, by="test")
    assert released.node is None
    assert holder(group) == f"a {successor.boot}"
    assert successor.leads


def test_a_successor_in_the_same_directory_keeps_its_lease(group: Group) -> None:
    _, data_dir = crashed(group)
    successor = group.node("a", lease_s=LEASE_S)
    eventually(lambda: successor.leads, "it takes the term again")
    with pytest.raises(StillRuns):
        ops.release(group.log(), data_dir, by="test")
    assert holder(group) == f"a {successor.boot}"


def test_a_lease_that_is_taken_between_the_look_and_the_end_of_it_is_left_alone(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data_dir = crashed(group)
    b = group.node("b", lease_s=LEASE_S)
    log = group.log()
    seen = log.look()
    b.promote(force=True, timeout_s=PATIENCE_S)
    monkeypatch.setattr(log, "look", lambda: seen)
    ops.release(log, data_dir, by="test")
    assert holder(group) == f"b {b.boot}"


def test_a_copy_of_a_directory_says_nothing_of_the_node_that_it_is_a_copy_of(group: Group, tmp_path: Path) -> None:
    a = group.primary("a", lease_s=LEASE_S)
    shutil.copytree(a.data_dir, tmp_path / "copy")
    assert ops.release(group.log(), tmp_path / "copy", by="test") == Released(data_dir=tmp_path / "copy", boot="")
    assert holder(group) == f"a {a.boot}"


def test_a_node_that_stopped_in_order_has_nothing_to_give_back(group: Group) -> None:
    a = group.primary("a", lease_s=LEASE_S)
    a.stop()
    released = ops.release(group.log(), a.data_dir, by="test")
    assert (released.boot, released.node) == (a.boot, None)
    assert "has no lease to give back" in str(released)


def test_what_is_no_data_directory_is_named(group: Group, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere is no data directory of a node"):
        ops.release(group.log(), tmp_path / "nowhere", by="test")


def test_while_redis_is_away_nothing_is_given_back_and_that_is_said(group: Group) -> None:
    _, data_dir = crashed(group)
    log = group.log()
    log.down = "away"
    with pytest.raises(LogUnavailable):
        ops.release(log, data_dir, by="test")


@pytest.mark.parametrize("moments", [1, 3 * directory_lock.TRIES], ids=["for a moment", "and stands still"])
def test_a_node_that_starts_while_somebody_asks_starts_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: int
) -> None:
    DirectoryLock(tmp_path).release()
    waited_s: list[float] = []
    with (tmp_path / "lock").open("rb") as asks:
        fcntl.flock(asks, fcntl.LOCK_SH)

        def sleep(seconds: float) -> None:
            waited_s.append(seconds)
            if len(waited_s) == moments:
                fcntl.flock(asks, fcntl.LOCK_UN)  # whoever asked has its answer

        monkeypatch.setattr(directory_lock, "time", SimpleNamespace(sleep=sleep))
        DirectoryLock(tmp_path).release()
    assert waited_s == [directory_lock.TRY_AGAIN_S] * moments


def test_a_node_that_starts_where_another_one_works_says_so_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited_s: list[float] = []
    monkeypatch.setattr(directory_lock, "time", SimpleNamespace(sleep=waited_s.append))
    works = DirectoryLock(tmp_path)
    with pytest.raises(DirectoryInUse, match=f"process {os.getpid()} is using it"):
        DirectoryLock(tmp_path)
    assert len(waited_s) < directory_lock.TRIES
    works.release()


def _held_by(group: Group) -> tuple[Writer, int]:
    look = group.log().look()
    assert look.head is not None
    return look.head.writer, look.term
