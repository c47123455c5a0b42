"""What the event listener makes of what supervisord tells it. That it works is in tests/integration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from replicator.workers.lease_listener import OK, READY, Event, Events, LeaseListener, directories_of, serve

from replicator.errors import ConfigError, LogUnavailable, StillRuns
from replicator.ops.release import Released


def event(name: str, body: str) -> bytes:
    head = f"ver:3.0 server:supervisor serial:21 pool:leases poolserial:10 eventname:{name} len:{len(body)}\n"
    return (head + body).encode()


EXITED = event("PROCESS_STATE_EXITED", "processname:node groupname:node from_state:RUNNING expected:0 pid:999999")
FATAL = event("PROCESS_STATE_FATAL", "processname:node groupname:node from_state:BACKOFF")


class Asked:
    """Gives leases back, and notes for which directories."""

    def __init__(self, error: Exception | None = None) -> None:
        self.directories: list[Path] = []
        self._error = error

    def __call__(self, data_dir: Path) -> Released:
        self.directories.append(data_dir)
        if self._error is not None:
            raise self._error
        return Released(data_dir=data_dir, boot="b1", node="a", term=1)


def test_events_are_cut_out_of_a_stream_wherever_it_is_interrupted() -> None:
    stream = EXITED + FATAL
    for size in (1, 7, 50, len(stream)):
        events = Events()
        parts = [stream[at : at + size] for at in range(0, len(stream), size)]
        found = [each for part in parts for each in events.received(part)]
        assert [(each.name, each.program, each.pid) for each in found] == [
            ("PROCESS_STATE_EXITED", "node", 999999), ("PROCESS_STATE_FATAL", "node", 0),
        ]  # fmt: skip


@pytest.mark.parametrize("state", ["EXITED", "BACKOFF", "FATAL", "STOPPED", "UNKNOWN"])
def test_whatever_says_that_a_node_ended_has_it_look(state: str) -> None:
    asked = Asked()
    heard = Event(eventname=f"PROCESS_STATE_{state}", processname="node")
    LeaseListener({"node": Path("/d")}, asked).heard(heard)
    assert asked.directories == [Path("/d")]


def test_other_programs_and_other_states_are_nothing_to_it() -> None:
    asked = Asked()
    listener = LeaseListener({"node": Path("/d")}, asked)
    listener.heard(Event(eventname="PROCESS_STATE_EXITED", processname="redis", pid="1"))
    listener.heard(Event(eventname="PROCESS_STATE_STARTING", processname="node"))
    listener.heard(Event(eventname="TICK_5"))
    assert asked.directories == []


def test_nothing_is_given_back_while_a_process_of_its_group_lives() -> None:
    asked = Asked()
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as process:
        listener = LeaseListener({"node": Path("/d")}, asked)
        heard = Event(eventname="PROCESS_STATE_EXITED", processname="node", pid=str(process.pid))
        listener.heard(heard)
        assert asked.directories == []
        process.communicate()
        listener.heard(heard)
        assert asked.directories == [Path("/d")]


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="the system has no pidfd")
def test_a_process_that_it_watches_is_seen_to_die_before_supervisord_says_so() -> None:
    asked = Asked()
    listener = LeaseListener({"node": Path("/d")}, asked)
    process = subprocess.Popen([sys.executable, "-c", "pass"], process_group=0)
    listener.runs("node", process.pid)
    ((key, _),) = listener.selector.select(60)  # it has ended, and nobody has waited for it
    listener.died(key.fd, *key.data)
    assert asked.directories == [Path("/d")]
    process.wait()


def test_the_end_of_an_earlier_process_is_not_taken_for_that_of_the_present_one() -> None:
    # the listener was late: by now the program runs again
    asked = Asked()
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    earlier = subprocess.Popen([sys.executable, "-c", "pass"], process_group=0)
    earlier.wait()
    with subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0) as present:
        listener = LeaseListener({"node": Path("/d")}, asked)
        listener.runs("node", earlier.pid)
        listener.runs("node", present.pid)
        listener.ended("node", earlier.pid)
        assert asked.directories == [Path("/d")], "the lock decides"
        # and what is left of the present one counts when it is its turn
        listener.ended("node")
        assert len(asked.directories) == 1
        present.communicate()


@pytest.mark.parametrize(
    "error",
    [StillRuns(path="/d", who="process 7"), LogUnavailable(url="redis://h", problem="away"), ZeroDivisionError()],
)
def test_what_fails_does_not_end_it(error: Exception) -> None:
    asked = Asked(error)
    listener = LeaseListener({"node": Path("/d")}, asked)
    to_it, from_it = os.pipe(), os.pipe()
    os.write(to_it[1], EXITED + FATAL)
    os.close(to_it[1])
    serve(listener, to_it[0], from_it[1])
    assert os.read(from_it[0], 4096) == READY + 2 * (OK + READY)
    assert len(asked.directories) == 2
    for descriptor in (to_it[0], *from_it):
        os.close(descriptor)


@pytest.mark.parametrize("arguments", [[], ["node"], ["=/d"], ["node="]])
def test_programs_and_directories_have_to_be_named(arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="node-a=/data/a"):
        directories_of(arguments)
