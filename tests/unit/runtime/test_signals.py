"""Which signals end a process in order: seen in processes of their own, for handlers belong to all of a process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

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
