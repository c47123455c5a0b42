"""Programs and nodes beside a database of SQLite are killed (kill -9) at random moments, again and again.

    python -m tests.acceptance.sqlite_kills [--kills 50] [--way pages] [--mode wal] [--seed 1]

Real processes: a Redis, two nodes with a database each, and a program that works on the one of the node that leads: it
transfers money (tests/support/bank.py), checkpoints, makes and drops indices, vacuums. Killed are the program, the node
that leads, the standby, several at once, and the process that reads the database by pages. Judged after each kill:

- *Every reader sees one moment of the database*: sums, counters, indices and SQLite's own check. Readers read both
  databases all the time, that of the node that leads and that of the standby.
- *Every published transaction is there*: of a transfer that was committed before two publications began, the next one
  that leads has to know. And nothing is there that no program had committed.
- *What was committed and not published is kept*, beside the database of the node that was killed.

The exit code is 0 only if all of that holds.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from replicator.log.redis_log import RedisLog
from replicator.runtime.threads import started
from replicator.sandbox.redis_server import RedisServer
from tests.support.bank import MODES, Broken, audited, content
from tests.support.bank_program import BankProgram
from tests.support.database_nodes import WAYS, DatabaseNode, database_nodes
from tests.support.nodes_beside import alive, lead, until

#: Within so long after the nodes and the program work, a kill falls.
MOMENT_S_MAX = 0.6

#: How often readers look.
READ_EVERY_S = 0.03


class Reader:
    """Reads a database again and again, on a thread. `wrong`: what was never the content of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reads = 0
        self.wrong: list[str] = []
        self._over = threading.Event()
        self._thread = started(self._read, name=f"reads-{path.name}")

    def _read(self) -> None:
        while not self._over.wait(READ_EVERY_S):
            try:
                self.reads += audited(self.path, busy_s=1.0) >= 0
            except (Broken, sqlite3.ProgrammingError) as error:
                self.wrong.append(str(error))
            except (sqlite3.Error, OSError):  # it is locked, or was moved away right now
                continue

    def end(self) -> None:
        self._over.set()
        self._thread.join()


class Kills:
    """Two nodes, a program, and what befalls them. `broken`: what must not be, in words."""

    def __init__(self, directory: Path, *, way: str, mode: str, seed: int, say: Callable[[str], None]) -> None:
        self.done: Counter[str] = Counter()
        self.broken: list[str] = []
        self._directory = directory
        self._way = way
        self._mode = mode
        self._random = random.Random(seed)
        self._say = say
        self._ended = ExitStack()
        #: A transfer with this number was published, and one with that was committed, at least.
        self._published = self._committed = 0
        self._kinds: dict[str, Callable[[], None]] = {
            "program": self._kill_program,
            "primary": self._kill_primary,
            "standby": self._kill_standby,
            "program and primary": self._kill_program_and_primary,
            "standby and primary": self._kill_standby_and_primary,
        }
        if way != "copy":
            self._kinds["reader"] = self._kill_reader

    def __enter__(self) -> Kills:
        with self._ended as stack:
            server = RedisServer(self._directory / "redis")
            stack.callback(server.kill)
            server.start()
            self._log = RedisLog(server.url, "g")
            stack.callback(self._log.close)
            self._nodes = database_nodes(server.url, self._directory, "a", "b", way=self._way)
            for node in self._nodes.values():
                stack.callback(node.kill)
            lead(self._log, self._nodes["a"])
            self._leader, self._standby = self._nodes.values()
            self._start_program()
            stack.callback(lambda: self._program.kill())
            self.readers = [Reader(node.path) for node in self._nodes.values()]
            for reader in self.readers:
                stack.callback(reader.end)
            self._ended = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.close()

    def run(self, count: int) -> None:
        """So many kills, of each kind in turn."""
        kinds = list(self._kinds)
        for number in range(count):
            kind = kinds[number % len(kinds)]
            began = time.monotonic()
            self._at_a_moment()
            self._kinds[kind]()
            self.done[kind] += 1
            took_s = time.monotonic() - began
            self._say(f"{number + 1:4} {kind:20} {self._seen} ({took_s:.1f} s), {len(self.broken)} broken")
        self._end_program()
        self._rest()
        until(lambda: all(reader.reads for reader in self.readers), "each database is read")
        for reader in self.readers:
            reader.end()
            self._holds(not reader.wrong, f"a reader of {reader.path.name} saw: {reader.wrong[:3]}")
        for node in self._nodes.values():
            self._holds((code := node.end()) == 0, f"{node.name} ends in order, and not with {code}")
            self._holds(not node.bugs, f"{node.name} said: {node.bugs[:3]}")

    # --- the moments at which it happens ---

    def _at_a_moment(self) -> None:
        """Wait until it is known of some transfers of this program that they are published, and for a moment longer."""
        known = self._transfers
        until(lambda: self._transfers > known, "the program works")
        self._note_published()
        moment = time.monotonic() + self._random.random() * MOMENT_S_MAX
        while time.monotonic() < moment:
            time.sleep(0.002)

    def _note_published(self) -> None:
        """One publication may have begun before the transfer. The one after it has it."""
        transfers, before = self._transfers, self._leader.publications
        until(lambda: self._leader.publications >= before + 2, "it is published")
        self._published = max(self._published, transfers)

    @property
    def _transfers(self) -> int:
        said = self._program.said
        return 0 if said is None else said.transfers

    # --- what befalls them ---

    def _kill_program(self) -> None:
        """In the middle of a transaction, a checkpoint, a VACUUM: what was not committed must not be published."""
        self._program.kill()
        self._rest()
        self._start_program()

    def _kill_reader(self) -> None:
        """The process that reads the database for the node that leads, which starts another one."""
        _, *readers = self._leader.processes
        self._holds(bool(readers), "a process reads the database")
        for reader in readers:
            reader.kill()
        self._note_published()
        self._end_program()
        self._rest()
        self._start_program()

    def _kill_standby(self) -> None:
        """In the middle of what it applies. It comes back, and follows."""
        self._standby.kill()
        self._standby.start()
        self._end_program()
        self._rest()
        self._start_program()

    def _kill_primary(self) -> None:
        self._leader.kill()
        self._end_program()
        self._fail_over()

    def _kill_program_and_primary(self) -> None:
        for kill in self._random.sample([self._program.kill, self._leader.kill], 2):
            kill()
        self._fail_over()

    def _kill_standby_and_primary(self) -> None:
        """The standby leads as it comes back."""
        self._standby.kill()
        self._leader.kill()
        self._end_program()
        self._standby.start()
        self._fail_over()

    # --- what has to hold then ---

    def _rest(self) -> None:
        """The program stands still: the standby has what the primary has, however the program ended."""
        self._committed = self._audited(self._leader.path, "the primary's database")
        self._holds(self._committed >= self._transfers, f"committed is {self._transfers}, there is {self._committed}")
        alive(self._log, *self._nodes)
        same = content(self._leader.path)
        until(lambda: self._standby.content() == same, "the standby is equal")
        self._published = self._committed
        self._audit(self._standby)
        self._seen = f"both have {self._committed} transfers"

    def _fail_over(self) -> None:
        """The primary is gone, and so is its program: the other one leads, and that one comes back."""
        former, self._leader, self._standby = self._leader, self._standby, self._leader
        committed = self._audited(former.path, "the database of a node that was killed")
        kept_before = set(former.replaced)
        lead(self._log, self._leader)
        found = self._audited(self._leader.path, "the database of the node that leads now")
        self._holds(found >= self._published, f"published were {self._published}, there are {found}")
        self._holds(found <= committed, f"committed were {committed}, there are {found}")
        former.start()
        self._seen = f"{self._published} were published, {found} are there, {committed} were committed"
        self._start_program()
        alive(self._log, *self._nodes)
        if found < committed:
            self._is_kept(former, kept_before, committed)

    def _is_kept(self, former: DatabaseNode, before: set[Path], committed: int) -> None:
        until(lambda: set(former.replaced) - before, "what was not published is kept")
        kept = [self._audited(path, f"{path.name}") for path in set(former.replaced) - before]
        self._holds(committed in kept, f"{committed} were committed and not published, kept are {kept}")

    def _audit(self, node: DatabaseNode) -> None:
        try:
            found = node.audited()
        except Broken as error:
            self._holds(False, f"{node.name}: {error}")
        else:
            self._holds(found == self._committed, f"{node.name} has {found}, committed are {self._committed}")

    def _audited(self, path: Path, what: str) -> int:
        try:
            return audited(path)
        except Broken as error:
            self._holds(False, f"{what}: {error}")
            return -1

    def _holds(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.broken.append(otherwise)
            self._say(f"     BROKEN: {otherwise}")

    # --- the program ---

    def _start_program(self) -> None:
        """Where it is to work now. What an earlier one said is of another database."""
        out = self._directory / f"program-{sum(self.done.values())}-{self._random.random()}"
        seed = self._random.randrange(1000)
        self._program = BankProgram(self._leader.path, out, mode=self._mode, acts=True, seed=seed)

    def _end_program(self) -> None:
        self._program.end()


def run(directory: Path, *, kills: int, way: str, mode: str, seed: int, say: Callable[[str], None]) -> Kills:
    """Carry it out."""
    began = time.monotonic()
    with Kills(directory, way=way, mode=mode, seed=seed, say=say) as story:
        story.run(kills)
    say(f"{sum(story.done.values())} kills in {time.monotonic() - began:.0f} s: {dict(story.done)}")
    say(f"reads of both databases: {sum(reader.reads for reader in story.readers)}")
    return story


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.sqlite_kills")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--way", choices=list(WAYS), default="pages")
    parser.add_argument("--mode", choices=MODES, default="wal")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="replicator-kills-"))
    story = run(
        directory, kills=options.kills, way=options.way, mode=options.mode, seed=options.seed,
        say=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(f"{len(story.broken)} broken; the files are in {directory}" if story.broken else "all of it held")
    return 1 if story.broken else 0


if __name__ == "__main__":
    sys.exit(main())
