"""Which signals end a process in order: seen in processes of their own, for handlers belong to all of a process."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from replicator.runtime.signals import Interruption

WAITS = """
import threading
from replicator.runtime.signals import on_end
asked = []
on_end(lambda number, frame: asked.append(number))
print("ready", flush=True)
while not asked:
    threading.Event().wait(0.02)
print(asked[0], flush=True)
"""

ALL = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT]


def started(before: Callable[[], object] = lambda: None) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, text=True, preexec_fn=before, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", ALL)
def test_each_of_them_ends_it_in_order(number: signal.Signals) -> None:
    process = started()
    process.send_signal(number)
    out, _ = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, f"{int(number)}\n")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGQUIT])
def test_what_was_ignored_at_the_start_stays_ignored(number: signal.Signals) -> None:
    process = started(lambda: signal.signal(number, signal.SIG_IGN))
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, f"{int(signal.SIGTERM)}\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_means_this_very_process_is_heeded_all_the_same(number: signal.Signals) -> None:
    process = started(lambda: signal.signal(number, signal.SIG_IGN))
    process.send_signal(number)
    out, _ = process.communicate(timeout=300)
    assert (process.returncode, out) == (0, f"{int(number)}\n")


class TestAnInterruption:
    """The signals come from this thread, so each comes where it is sent."""

    def test_is_met_once_and_later_signals_do_nothing(self) -> None:
        met: list[str] = []

        def work() -> None:
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                met.append("the first")
                signal.raise_signal(signal.SIGTERM)
                raise

        with handlers_kept(), Interruption() as interruption:
            assert interruption.meets(work) is None
            signal.raise_signal(signal.SIGINT)
        assert met == ["the first"]

    def test_that_came_before_keeps_the_work_from_beginning(self) -> None:
        done: list[str] = []
        with handlers_kept(), Interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
            assert interruption.meets(lambda: done.append("done")) is None
        assert done == []

    def test_does_not_come_into_what_cleans_up(self) -> None:
        with handlers_kept(), Interruption() as interruption:
            assert interruption.meets(lambda: 7) == 7
            signal.raise_signal(signal.SIGTERM)

    def test_is_told_of_a_signal_that_was_blocked_until_then(self) -> None:
        done: list[str] = []
        with handlers_kept():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            signal.raise_signal(signal.SIGTERM)
            with Interruption() as interruption:
                assert interruption.meets(lambda: done.append("done")) is None
        assert done == []

    def test_leaves_an_impatient_second_signal_nothing_to_end(self) -> None:
        with handlers_kept():
            with Interruption() as interruption:
                interruption.meets(lambda: signal.raise_signal(signal.SIGTERM))
            signal.raise_signal(signal.SIGTERM)

    def test_that_did_not_come_leaves_everything_as_it_was(self) -> None:
        with handlers_kept():
            before = [signal.getsignal(number) for number in ALL]
            with Interruption() as interruption:
                interruption.meets(lambda: None)
            assert [signal.getsignal(number) for number in ALL] == before

    def test_lets_the_errors_of_the_work_through(self) -> None:
        with handlers_kept(), Interruption() as interruption, pytest.raises(ValueError, match="x"):
            interruption.meets(lambda: int("x"))


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ALL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


TO_ANOTHER_THREAD = """
import signal, threading, time
from replicator.runtime.signals import on_end, wait_until
ended = threading.Event()
on_end(lambda *_: ended.set())
def signalled():
    time.sleep(0.2)  # by then the main thread waits
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    threading.Event().wait()
threading.Thread(target=signalled, daemon=True).start()
wait_until(ended)
print("heard", flush=True)
"""


def test_one_that_comes_to_another_thread_is_heard_by_who_waits() -> None:
    done = subprocess.run([sys.executable, "-c", TO_ANOTHER_THREAD], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "heard\n")
