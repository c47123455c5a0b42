"""Gives the lease of a node back at once when its process dies: an event listener of supervisord.

    [eventlistener:leases]
    command=python -m replicator.workers.lease_listener node-a=/data/a node-b=/data/b
    events=PROCESS_STATE

Each argument is a program of this supervisord (its process name) and the data directory of the node that it runs.
REPLICATOR_REDIS and REPLICATOR_GROUP name the group. What is safe about it is in `replicator/ops/release.py`: an event
only says when to look. The lock on the data directory says whether the node is dead, and the script in Redis compares
its boot with that of the lease. So it does no harm that an event is late, is sent twice, or tells of a wrapper whose
node lives on.

supervisord looks at ended children once a second. So where the system has it (Linux), the listener watches the
processes itself, by a pidfd, from when supervisord calls them RUNNING; events are what remains.

Nothing is given back while something is left of the process group of the dead one: children of a node may be at work
that only a leader does.
"""

from __future__ import annotations

import logging
import os
import re
import selectors
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from replicator import ops
from replicator.errors import ConfigError, ReplicatorError, StillRuns
from replicator.log.redis_log import RedisLog
from replicator.log.urls import url_in
from replicator.runtime.event_log import EventLogger
from replicator.runtime.process_group import ENDS_WITHIN_S, left_after
from replicator.sandbox.supervisord import Control

__all__ = ["Event", "Events", "LeaseListener", "directories_of"]

logger = EventLogger(__name__)

READY = b"READY\n"
OK = b"RESULT 2\nOK"

RUNNING = "PROCESS_STATE_RUNNING"

#: After these a process is not there; whether that is so is seen by its lock.
ENDED = tuple(f"PROCESS_STATE_{state}" for state in ("EXITED", "BACKOFF", "FATAL", "STOPPED", "UNKNOWN"))

#: In the state of a process that supervisord calls running.
STATE_RUNNING = 20


class Event(dict[str, str]):
    """The fields of an event's header and of its body."""

    @property
    def name(self) -> str:
        return self.get("eventname", "")

    @property
    def program(self) -> str:
        return self.get("processname", "")

    @property
    def pid(self) -> int:
        """0: it does not say."""
        return int(self.get("pid", "0"))


class Events:
    """What supervisord writes, cut into events."""

    def __init__(self) -> None:
        self._received = b""

    def received(self, data: bytes) -> Iterator[Event]:
        """Take some bytes; the events that are whole by that."""
        self._received += data
        while True:
            line, newline, rest = self._received.partition(b"\n")
            if not newline:
                return
            header = _fields(line)
            length = int(header.get("len", "0"))
            if len(rest) < length:
                return
            self._received = rest[length:]
            yield Event({**_fields(rest[:length].partition(b"\n")[0]), **header})


def _fields(line: bytes) -> dict[str, str]:
    return dict(re.findall(r"(\S+?):(\S*)", line.decode("utf-8", "replace")))


class LeaseListener:
    """`directories`: of programs. `give_back`: for a data directory; raises what `ops.release` does."""

    def __init__(self, directories: Mapping[str, Path], give_back: Callable[[Path], ops.Released]) -> None:
        self._directories = directories
        self._give_back = give_back
        #: The process of each program that was running last.
        self._pids: dict[str, int] = {}
        self.selector = selectors.DefaultSelector()

    def runs(self, program: str, pid: int) -> None:
        """The program is this process now: watch it."""
        if program not in self._directories or pid <= 0 or self._pids.get(program) == pid:
            return
        self._pids[program] = pid
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):  # it has ended: there will be an event
                # Whoever has the number by now, if it is another one: its end only has us look.
                self.selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (program, pid))

    def died(self, descriptor: int, program: str, pid: int) -> None:
        """The process behind a pidfd has ended."""
        self.selector.unregister(descriptor)
        os.close(descriptor)
        self.ended(program, pid)

    def heard(self, event: Event) -> None:
        if event.program not in self._directories:
            return
        if event.name == RUNNING:
            self.runs(event.program, event.pid)
        elif event.name in ENDED:
            self.ended(event.program, event.pid)

    def ended(self, program: str, pid: int = 0) -> None:
        """This process of a program may have ended: give its lease back, if it is dead. Nothing here raises.

        `pid`: 0 if the event does not say; then it is the one that was running last.
        """
        leader = pid or self._pids.get(program, 0)
        if leader and (left := left_after(leader, ENDS_WITHIN_S)):
            logger.warning(
                "lease.children_live", "%s has ended, and processes that it started live on: %s", program, left
            )
            return
        try:
            logger.info("lease.given_back_for", "%s: %s", program, self._give_back(self._directories[program]))
        except StillRuns as error:
            logger.info("lease.not_given_back_for", "%s: %s", program, error)
        except ReplicatorError as error:
            logger.warning(
                "lease.not_given_back_for",
                "%s: nothing was given back, and its lease runs out by itself: %s",
                program,
                error,
            )
        except Exception:
            logger.exception("bug", "%s: a bug in replicator", program)


def serve(listener: LeaseListener, stdin: int = 0, stdout: int = 1) -> None:
    """Listen until supervisord closes the pipe."""
    events, selector = Events(), listener.selector
    selector.register(stdin, selectors.EVENT_READ)
    os.write(stdout, READY)
    while True:
        for key, _ in selector.select():
            if key.fd != stdin:
                listener.died(key.fd, *key.data)
                continue
            data = os.read(stdin, 65536)
            if not data:
                return
            for event in events.received(data):
                listener.heard(event)
                os.write(stdout, OK + READY)


def directories_of(arguments: Sequence[str]) -> dict[str, Path]:
    """`PROGRAM=DATA_DIR ...`. Raises `ConfigError`."""
    found: dict[str, Path] = {}
    for each in arguments:
        program, equals, directory = each.partition("=")
        if not (program and equals and directory):
            raise ConfigError(setting=each, problem="is not PROGRAM=DATA_DIR, like node-a=/data/a")
        found[program] = Path(directory)
    if not found:
        raise ConfigError(setting="PROGRAM=DATA_DIR", problem="give the programs that run nodes, like node-a=/data/a")
    return found


def _running() -> dict[str, int]:
    """What runs already, if supervisord can be asked: this listener may have been started anew."""
    url = os.environ.get("SUPERVISOR_SERVER_URL", "")
    if not url.startswith("unix://"):
        return {}
    try:
        programs = Control(Path(url.removeprefix("unix://"))).programs()
    except ReplicatorError as error:
        logger.warning("programs.not_known", "what runs already is not known: %s", error)
        return {}
    return {name: info["pid"] for name, info in programs.items() if info["state"] == STATE_RUNNING}


def main(arguments: Sequence[str]) -> None:
    # Standard output is for supervisord.
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        directories = directories_of(arguments)
        _setting("REPLICATOR_REDIS")
        log = RedisLog(url_in(os.environ), _setting("REPLICATOR_GROUP"))
    except ReplicatorError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    with suppress(ReplicatorError):
        log.look()  # the connections are there when they are needed
    listener = LeaseListener(directories, lambda data_dir: ops.release(log, data_dir, by="its supervisord"))
    for program, pid in _running().items():
        listener.runs(program, pid)
    try:
        serve(listener)
    finally:
        log.close()


def _setting(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise ConfigError(setting=name, problem="is not set")
    return value


if __name__ == "__main__":
    main(sys.argv[1:])
