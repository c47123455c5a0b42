"""What belongs to a process: refused in a forked child, let go there, and never freed where that would do harm."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import pytest

import replicator.runtime.process
from replicator.errors import WrongProcess
from replicator.runtime.process import Owner, keep_for_ever, let_go_in_child, quiet_before_fork
from tests.support.forking import Child, in_child, outcome
from tests.support.kv import PATIENCE_S, in_thread


class Thing:
    def __init__(self) -> None:
        self.let_go = 0


class TestOwner:
    def test_the_process_that_made_it_may_use_it(self) -> None:
        owner = Owner("a thing")
        owner.check()
        assert owner.is_here

    def test_a_forked_child_may_not_and_is_told_what_to_do(self) -> None:
        owner = Owner("node a")

        def work() -> tuple[bool, str]:
            with pytest.raises(WrongProcess) as raised:
                owner.check()
            return owner.is_here, str(raised.value)

        is_here, said = in_child(work)
        assert not is_here
        assert said.startswith(f"node a belongs to process {os.getpid()}, and this is process ")
        assert ": make one after the fork (gunicorn: without --preload" in said

    def test_what_a_child_makes_is_its_own(self) -> None:
        assert in_child(lambda: outcome(Owner("its own").check)) == "gave None"


class TestLettingGo:
    def test_a_child_lets_go_before_anything_else_runs_in_it_and_the_parent_does_not(self) -> None:
        thing = Thing()
        let_go_in_child(thing, lambda each: setattr(each, "let_go", each.let_go + 1))
        assert in_child(lambda: thing.let_go) == 1
        assert thing.let_go == 0

    def test_a_childs_child_does_not_do_it_again(self) -> None:
        thing = Thing()
        let_go_in_child(thing, lambda each: setattr(each, "let_go", each.let_go + 1))
        assert in_child(lambda: in_child(lambda: thing.let_go)) == 1

    def test_one_that_fails_keeps_no_other_from_it(self) -> None:
        bad, good = Thing(), Thing()

        def fails(each: Thing) -> None:
            raise OSError("no")

        for thing, let_go in ((bad, fails), (good, lambda each: setattr(each, "let_go", 1))):
            let_go_in_child(thing, let_go)
        assert in_child(lambda: good.let_go) == 1

    def test_what_is_gone_is_not_kept_for_it(self) -> None:
        thing = Thing()
        let_go_in_child(thing, lambda each: None)
        gone = weakref.ref(thing)
        del thing
        gc.collect()
        assert gone() is None


def test_what_is_kept_for_ever_is_never_freed() -> None:
    def work() -> bool:
        thing = Thing()
        keep_for_ever(thing)
        there = weakref.ref(thing)
        del thing
        gc.collect()
        return there() is not None

    assert in_child(work)


class TestQuiet:
    def test_a_fork_waits_for_who_has_such_a_lock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicator.runtime.process, "QUIET_WITHIN_S", PATIENCE_S)
        lock = threading.RLock()
        quiet_before_fork(lock)
        held, events = threading.Event(), []

        def hold() -> None:
            with lock:
                held.set()
                time.sleep(0.1)
                events.append("given back")

        holder = in_thread(hold)
        held.wait()
        assert in_child(lambda: list(events)) == ["given back"]
        holder()
        with lock:  # and has given it back
            pass

    def test_but_not_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(replicator.runtime.process, "QUIET_WITHIN_S", 0.05)
        lock = threading.RLock()
        quiet_before_fork(lock)
        held, enough = threading.Event(), threading.Event()

        def forks_too() -> int:
            monkeypatch.setattr(replicator.runtime.process, "QUIET_WITHIN_S", 3600)
            number: int = in_child(lambda: 1)
            return number

        def hold() -> None:
            with lock:
                held.set()
                enough.wait()

        holder = in_thread(hold)
        held.wait()
        try:
            # Nor does the child, when it forks: nobody will ever give that lock back there.
            assert in_child(forks_too) == 1
        finally:
            enough.set()
            holder()

    def test_threads_that_fork_at_once_do_not_wait_for_each_other_for_ever(
        self,
    ) -> None:
        locks = [threading.RLock() for _ in range(50)]

        def begin() -> None:
            for lock in locks:
                quiet_before_fork(lock)

        def fork() -> list[int]:
            children = [Child(lambda: 1) for _ in range(5)]
            return [child.result() for child in children]

        forks = [in_thread(fork) for _ in range(3)]
        in_thread(begin)()
        assert [each() for each in forks] == [[1] * 5] * 3
