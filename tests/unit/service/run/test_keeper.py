"""The keeper of a program ends it, and all that it has started: in time, when asked, and when the node is gone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replicator.service.run.keeper import DEFAULT, ControlGroup
from replicator.service.run.program import KEEPER
from tests.support.beacon import beacon, signs
from tests.support.kv import PATIENCE_S, eventually
from tests.support.needs import needs

LONG_S = 1000.0


class Kept:
    """A program with its keeper, and the node's end of their socket."""

    def __init__(self, command: str, *, until_s: float, grace_s: float, least: int, begins: bool) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(PATIENCE_S)
        descriptor = fcntl.fcntl(theirs, fcntl.F_DUPFD_CLOEXEC, least)
        until = repr(time.monotonic() + until_s)
        lock = os.dup(descriptor)
        arguments = [str(os.getpid()), str(descriptor), str(lock), until, repr(grace_s), *shlex.split(command)]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(KEEPER), *arguments],
            pass_fds=[descriptor, lock],
            stderr=subprocess.DEVNULL,
        )
        self.group = ControlGroup(lock)
        theirs.close()
        os.close(descriptor)
        os.close(lock)
        self._unread = b""
        self.pid = int(self.hears("started")) if begins else 0

    def begins(self) -> bool:
        """Whether it does, or has no time left to."""
        with contextlib.suppress(AssertionError):
            self.pid = int(self.hears("started"))
        return bool(self.pid)

    def hears(self, word: str) -> str:
        while b"\n" not in self._unread:
            data = self.socket.recv(4096)
            assert data, f"it ended without {word}"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        said, _, rest = line.decode().partition(" ")
        assert said == word
        return rest

    def last(self) -> str:
        """How it ended, whether or not it had begun."""
        with contextlib.suppress(AssertionError):
            return self.hears("ended")
        return self.hears("ended")

    def says(self, line: str) -> None:
        self.socket.sendall(f"{line}\n".encode())


Keep = Callable[..., Kept]


@pytest.fixture
def keep() -> Iterator[Keep]:
    kept: list[Kept] = []

    def keep(
        command: str, *, until_s: float = LONG_S, grace_s: float = 0.1, least: int = 0, begins: bool = True
    ) -> Kept:
        kept.append(Kept(command, until_s=until_s, grace_s=grace_s, least=least, begins=begins))
        return kept[-1]

    yield keep
    for each in kept:
        each.socket.close()
        each.process.wait(PATIENCE_S)
        each.group.end()  # of a keeper that was killed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "signs"


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def pids(path: Path) -> set[int]:
    return {sign.pid for sign in signs(path)}


def test_one_that_is_asked_to_end_ends_in_order(keep: Keep, path: Path) -> None:
    kept = keep(beacon(path))
    eventually(lambda: pids(path) == {kept.pid})
    kept.says(f"end {LONG_S}")
    assert kept.hears("ended") == "0 asked"
    assert signs(path)[-1].what == "stop"


def test_who_ignores_that_is_killed_with_all_that_it_started(keep: Keep, path: Path) -> None:
    kept = keep(beacon(path, "rude", "child"))
    eventually(lambda: len(pids(path)) == 2)
    kept.says("end 0.1")
    assert kept.hears("ended") == "-9 asked"
    assert not any(map(lives, pids(path)))


def test_when_the_time_is_over_it_ends_though_nobody_says_so(keep: Keep, path: Path) -> None:
    for until_s in (2.0, 12.0, 45.0):  # a busy machine may not have begun it when its time is over
        said = keep(beacon(path, "rude"), until_s=until_s, begins=False).last()
        if pids(path):
            break
    assert said == "-9 lease"
    polite = keep(beacon(path), until_s=LONG_S, grace_s=LONG_S - 0.5, begins=False)
    # A machine that is busy may not have it ready for a SIGTERM yet, or may not have begun it.
    assert polite.last() in ("0 lease", "-15 lease"), "SIGTERM comes before the end of the time"


def outlives(kept: Kept, path: Path, until_s: float) -> bool:
    """Whether a program whose lease is renewed lives when its first one is over."""
    if not kept.begins():
        return False
    first = time.monotonic() + until_s
    kept.says(f"until {time.monotonic() + LONG_S!r}")
    kept.says(f"until {time.monotonic()!r}")  # a time that was given stays given
    eventually(lambda: not lives(kept.pid) or (signs(path) and signs(path)[-1].at > first + 0.1))
    return lives(kept.pid)


def test_it_goes_on_when_the_lease_is_renewed(keep: Keep, path: Path) -> None:
    # a busy machine may not have begun it when its time is over, or not have renewed it
    times = (2.0, 12.0, 45.0)
    assert any(outlives(keep(beacon(path), until_s=until_s, begins=False), path, until_s) for until_s in times)


def test_when_the_node_is_gone_nothing_is_left(keep: Keep, path: Path) -> None:
    kept = keep(beacon(path, "rude", "child"))
    eventually(lambda: len(pids(path)) == 2)
    kept.socket.close()
    assert kept.process.wait(PATIENCE_S) == 0
    assert not any(map(lives, pids(path)))


def test_when_it_is_killed_itself_the_system_kills_the_program(keep: Keep, path: Path) -> None:
    needs(sys.platform == "linux", "Linux")
    kept = keep(beacon(path, "rude"))
    eventually(lambda: pids(path))
    os.kill(kept.process.pid, signal.SIGKILL)
    eventually(lambda: not lives(kept.pid))


def test_what_a_program_leaves_behind_ends_with_it(keep: Keep, path: Path) -> None:
    kept = keep(beacon(path, "ends", "child"))
    assert kept.hears("ended") == "3 exit"
    assert not any(map(lives, pids(path)))


def test_signals_of_a_terminal_neither_end_nor_stop_it(keep: Keep, path: Path) -> None:
    kept = keep(beacon(path))
    eventually(lambda: pids(path))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTOU):
        kept.process.send_signal(number)
    seen = len(signs(path))
    eventually(lambda: len(signs(path)) > seen + 3)
    assert kept.process.poll() is None
    kept.says(f"end {LONG_S}")
    assert kept.hears("ended") == "0 asked"


def test_a_program_finds_no_signal_ignored_that_its_keeper_ignores(keep: Keep, path: Path) -> None:
    needs(Path("/proc/self/status").exists(), "Linux")
    assert keep(f"sh -c 'grep SigIgn: /proc/self/status > {path}'").hears("ended") == "0 exit"
    ignored = int(path.read_text().split()[1], 16)
    assert [number for number in DEFAULT if ignored >> (number - 1) & 1] == []


def test_one_that_has_no_time_left_is_not_begun(keep: Keep, path: Path) -> None:
    kept = keep(beacon(path), until_s=1.0, grace_s=1.0, begins=False)
    assert kept.hears("ended") == "0 lease"
    assert signs(path) == []


def test_a_node_with_a_thousand_descriptors_has_a_keeper_all_the_same(keep: Keep, path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needs(hard == resource.RLIM_INFINITY or hard > 2000, "more than 2000 open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2000) if soft != resource.RLIM_INFINITY else soft, hard))
    try:
        kept = keep(beacon(path), least=1500)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    eventually(lambda: pids(path))
    kept.says(f"end {LONG_S}")
    assert kept.hears("ended") == "0 asked"


def test_when_it_fails_itself_nothing_is_left(keep: Keep, path: Path) -> None:
    kept = keep(beacon(path, "rude", "child"))
    eventually(lambda: len(pids(path)) == 2)
    kept.says("until never")
    assert kept.process.wait(PATIENCE_S) == 1
    assert not any(map(lives, pids(path)))


@pytest.mark.parametrize(("command", "status"), [("/no/such/program", 127), ("/dev/null", 126)])
def test_a_program_that_cannot_be_started_ends_as_in_a_shell(keep: Keep, command: str, status: int) -> None:
    assert keep(command).hears("ended") == f"{status} exit"


def test_what_a_killed_keeper_left_ends_before_another_one_begins(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file, subprocess.Popen(["sleep", "1000"]) as left:
        group = ControlGroup(file.fileno())
        group.make()
        needs(bool(group.path) and Path(group.path).is_dir(), "a cgroup v2 that may be written to")
        (Path(group.path) / "cgroup.procs").write_text(str(left.pid))
        assert group.members() == [left.pid]
        again = ControlGroup(file.fileno())
        again.make()
        assert left.wait(PATIENCE_S) == -signal.SIGKILL
        assert again.members() == []
        again.end()
        assert not Path(again.path).exists()


def test_where_there_are_no_control_groups_nothing_is_done(path: Path) -> None:
    with path.open("w") as file:
        group = ControlGroup(file.fileno())
        group.path = ""
        group.make()
        group.join()
        group.kill()
        assert group.members() == []
        group.end()
        # nor where one could not be made: a file of that name is none of a control group
        group.path = str(path.parent / "none")
        group.join()
        group.kill()
        assert group.members() == []
        assert not any(Path(f"{at}/cgroup.kill").exists() for at in ("", path.parent, group.path))
