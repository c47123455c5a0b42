"""Nodes beside a directory are killed (kill -9) at random moments, again and again, while a program writes it.

    python -m tests.acceptance.directory_kills [--kills 50] [--seed 1]

Real processes: a Redis, and two nodes with a directory each. A program works on that of the node that leads, and kills
fall on the node that leads, on the standby, and on both. Judged:

- *Every reader sees whole files*, on both sides, all the time: each file has the digest of itself in it.
- *A node that comes to lead has one cut*: the program says before each step what it is about to touch, and after it all
  that is there. So nothing else may differ from that.
- *What was published is there*, and whenever the program stands still the standby becomes equal, modes and links too.

The exit code is 0 only if all of that holds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from replicator.format.manifest import RESERVED
from replicator.log.redis_log import RedisLog
from replicator.runtime.threads import started
from replicator.sandbox.redis_server import RedisServer
from tests.support.nodes_beside import NodeBeside, alive, lead, until

__all__ = ["Kills", "run"]

#: Within so long after a publication a kill falls.
MOMENT_S_MAX = 0.6

#: What the program says: what it is about to touch, and what is there.
INTENT, THERE = "zz-intent", "zz-there"

_DIGEST_BYTES = 40


def sealed(content: bytes) -> bytes:
    """With its digest at its front."""
    return hashlib.sha1(content).hexdigest().encode() + content


def is_whole(data: bytes) -> bool:
    return hashlib.sha1(data[_DIGEST_BYTES:]).hexdigest().encode() == data[:_DIGEST_BYTES]


def paths_in(top: Path) -> Iterator[Path]:
    """All that is there, but for what nodes have there themselves. It may be written meanwhile."""
    for above, directories, names in os.walk(top):
        if Path(above) == top and RESERVED in directories:
            directories.remove(RESERVED)
        yield from (Path(above, name) for name in (*directories, *names))


def inside(top: Path) -> dict[str, Any]:
    """What is there, by path."""
    found: dict[str, Any] = {}
    for path in paths_in(top):
        name = str(path.relative_to(top))
        with suppress(FileNotFoundError, NotADirectoryError):
            about = path.lstat()
            mode = stat.S_IMODE(about.st_mode)
            if stat.S_ISLNK(about.st_mode):
                found[name] = ["l", os.readlink(path)]
            elif stat.S_ISDIR(about.st_mode):
                found[name] = ["d", mode]
            else:
                found[name] = ["f", mode, hashlib.sha1(path.read_bytes()).hexdigest()]
    return found


class Program:
    """Writes a directory, on a thread. `step`: the last that it has done."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top = top
        self.step = said(top, THERE)["step"] if (top / THERE).exists() else 0
        self._random = random.Random(seed)
        self._aside = top.with_name(f"{top.name}-of-the-program")
        self._over = threading.Event()
        self._thread = started(self._work, name="program")

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        # In bursts: there is no cut of a directory that is never still.
        while not self._over.wait(0.4 if self.step % 8 == 0 else self._random.random() * 0.06):
            self._do(self.step + 1)
            self.step += 1

    def _do(self, step: int) -> None:
        steps = [self._new, self._new, self._rewrite, self._remove, self._rename, self._link, self._mode, self._turn]
        touched, act = self._random.choice(steps)(step)
        self._say(INTENT, {"step": step, "touched": touched})
        act()
        there = inside(self.top)
        self._say(THERE, {"step": step, "there": {name: what for name, what in there.items() if name[:3] != "zz-"}})

    def _say(self, name: str, what: dict[str, Any]) -> None:
        self._write(name, json.dumps(what).encode())

    def _write(self, name: str, content: bytes) -> None:
        """As a careful program does: nobody finds a half of it."""
        self._aside.write_bytes(sealed(content))
        os.replace(self._aside, self.top / name)

    def _bytes(self) -> bytes:
        return self._random.randbytes(self._random.choice((0, 10, 1000, 1000, 50_000, 400_000, 2_500_000)))

    def _some(self) -> Path:
        names = [path for path in sorted(self.top.iterdir()) if path.name[:3] != "zz-"]
        return self._random.choice(names) if len(names) > 12 else self.top / "none"

    # --- what it does: the names at the top that it touches, and how ---

    def _new(self, step: int) -> tuple[list[str], Callable[[], object]]:
        if step % 3:
            return [f"f{step % 40}"], lambda: self._file(f"f{step % 40}")
        return [f"d{step % 10}"], lambda: self._directory(f"d{step % 10}")

    def _file(self, name: str) -> None:
        self._gone(self.top / name)
        self._write(name, self._bytes())

    def _directory(self, name: str) -> None:
        if not (self.top / name).is_dir() or (self.top / name).is_symlink():
            self._gone(self.top / name)
            (self.top / name).mkdir()
        (self.top / name / "below").mkdir(exist_ok=True)
        for number in range(5):
            self._write(f"{name}/below/{self._random.randrange(8)}", self._random.randbytes(number * 3000))

    def _rewrite(self, step: int) -> tuple[list[str], Callable[[], object]]:
        path = self._some()
        is_file = path.is_file() and not path.is_symlink()
        content = path.read_bytes()[_DIGEST_BYTES:] + b"more" * 100 if is_file else b""
        return ([path.name], lambda: self._write(path.name, content)) if is_file else self._new(step)

    def _remove(self, step: int) -> tuple[list[str], Callable[[], object]]:
        path = self._some()
        return [path.name], lambda: self._gone(path)

    def _rename(self, step: int) -> tuple[list[str], Callable[[], object]]:
        path, to = self._some(), self.top / f"r{step % 20}"
        if not path.exists() or path == to:
            return self._new(step)
        return [path.name, to.name], lambda: (self._gone(to), path.rename(to))

    def _link(self, step: int) -> tuple[list[str], Callable[[], object]]:
        path = self.top / f"f{step % 40}"
        return [path.name], lambda: (self._gone(path), path.symlink_to(f"f{(step + 1) % 40}"))

    def _mode(self, step: int) -> tuple[list[str], Callable[[], object]]:
        path = self._some()
        if not path.exists() or path.is_symlink():
            return self._new(step)
        return [path.name], lambda: path.chmod(self._random.choice((0o700, 0o750, 0o755)))

    def _turn(self, step: int) -> tuple[list[str], Callable[[], object]]:
        """A file in the place of a directory, or the reverse."""
        path = self._some()
        if path.is_dir() and not path.is_symlink():
            return [path.name], lambda: self._file(path.name)
        return [path.name], lambda: self._directory(path.name)

    def _gone(self, path: Path) -> None:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def said(top: Path, name: str) -> dict[str, Any]:
    """What the program said there."""
    what: dict[str, Any] = json.loads((top / name).read_bytes()[_DIGEST_BYTES:])
    return what


def torn(top: Path) -> list[str]:
    """What is there, or is not, and does not belong to one moment of the program."""
    if not (top / THERE).exists():
        return []
    intent, there, found = said(top, INTENT), said(top, THERE), inside(top)
    touched = intent["touched"] if intent["step"] > there["step"] else []
    names = {name for name in there["there"].keys() | found.keys() if there["there"].get(name) != found.get(name)}
    return sorted(name for name in names if name[:3] != "zz-" and name.split("/")[0] not in touched)


class Reader:
    """Reads a directory again and again, on a thread. `wrong`: files that were not whole."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.reads = 0
        self.wrong: list[str] = []
        self._over = threading.Event()
        self._thread = started(self._read, name=f"reads-{top.name}")

    def _read(self) -> None:
        while not self._over.wait(0.03):
            for path in paths_in(self.top):
                with suppress(OSError):
                    if stat.S_ISREG(path.lstat().st_mode):
                        if not is_whole(path.read_bytes()):
                            self.wrong.append(str(path))
                        self.reads += 1

    def end(self) -> None:
        self._over.set()
        self._thread.join()


class DirectoryNode(NodeBeside):
    """Beside the directory `path`."""

    def __init__(self, url: str, at: Path, name: str) -> None:
        self.path = at / f"{name}-kept"
        super().__init__(url, at, name, "--dir", str(self.path))


class Kills:
    """Two nodes, a program, and what befalls them. `broken`: what must not be, in words."""

    def __init__(self, at: Path, *, seed: int, say: Callable[[str], None]) -> None:
        self.done: Counter[str] = Counter()
        self.broken: list[str] = []
        self._at = at
        self._random = random.Random(seed)
        self._say = say
        self._published = 0
        self._kinds = {"standby": self._standby_dies, "primary": self._primary_dies, "both": self._both_die}

    def run(self, count: int) -> None:
        """So many kills, of each kind in turn."""
        with ExitStack() as stack:
            server = RedisServer(self._at / "redis")
            stack.callback(server.kill)
            server.start()
            self._log = RedisLog(server.url, "g")
            stack.callback(self._log.close)
            self.nodes = self._leader, self._other = [DirectoryNode(server.url, self._at, name) for name in "ab"]
            self._leader.path.mkdir()
            (self._leader.path / "first").write_bytes(sealed(b"first"))
            for node in self.nodes:
                stack.callback(node.kill)
                node.start()
            lead(self._log, self._leader)
            self._begin()
            stack.callback(lambda: self._program.end())
            readers = [Reader(node.path) for node in self.nodes]
            for reader in readers:
                stack.callback(reader.end)
            for number in range(count):
                self._kill(number)
            self._rest()
            for reader in readers:
                reader.end()
                self._holds(not reader.wrong and reader.reads > 0, f"a reader saw: {reader.wrong[:3]}")
            for node in self.nodes:
                self._holds((code := node.end()) == 0, f"{node.name} ends in order, and not with {code}")
                self._holds(not node.bugs, f"{node.name} said: {node.bugs[:3]}")

    def _kill(self, number: int) -> None:
        kind = list(self._kinds)[number % len(self._kinds)]
        self._note_published()
        time.sleep(self._random.random() * MOMENT_S_MAX)
        self._kinds[kind]()
        self.done[kind] += 1
        if number % 3 == 2:
            self._rest()
        self._say(f"{number + 1:4} {kind:10} step {self._program.step}, {len(self.broken)} broken")

    def _note_published(self) -> None:
        """One publication may have begun before the step. The one after it has it."""
        step, before = self._program.step, self._leader.publications
        until(lambda: self._leader.publications >= before + 2, "it is published")
        self._published = max(self._published, step)

    def _standby_dies(self) -> None:
        self._other.kill()
        self._other.start()
        alive(self._log, self._other.name)

    def _primary_dies(self) -> None:
        self._leader.kill()
        self._program.end()
        self._fail_over()

    def _both_die(self) -> None:
        for node in self._random.sample(self.nodes, 2):
            node.kill()
        self._program.end()
        self._other.start()
        self._fail_over()

    def _fail_over(self) -> None:
        former, self._leader, self._other = self._leader, self._other, self._leader
        lead(self._log, self._leader)
        self._holds(not torn(self._leader.path), f"{self._leader.name} leads with {torn(self._leader.path)[:5]}")
        step = said(self._leader.path, THERE)["step"]
        self._holds(step >= self._published, f"step {self._published} was published, {step} is there")
        self._published = step
        former.start()
        self._begin()
        alive(self._log, former.name)

    def _rest(self) -> None:
        """The program stands still: both are equal then."""
        self._program.end()
        alive(self._log, "a", "b")
        same = inside(self._leader.path)
        until(lambda: inside(self._other.path) == same, "the standby is equal")
        self._begin()

    def _begin(self) -> None:
        self._program = Program(self._leader.path, self._random.randrange(1000))

    def _holds(self, holds: bool, otherwise: str) -> None:
        if not holds:
            self.broken.append(otherwise)
            self._say(f"     BROKEN: {otherwise}")


def run(at: Path, *, kills: int, seed: int, say: Callable[[str], None]) -> Kills:
    """Carry it out."""
    story = Kills(at, seed=seed, say=say)
    story.run(kills)
    return story


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.directory_kills")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    at = Path(tempfile.mkdtemp(prefix="replicator-kills-"))
    story = run(at, kills=options.kills, seed=options.seed, say=lambda line: print(line, flush=True))
    print(f"{len(story.broken)} broken; the files are in {at}" if story.broken else "all of it held")
    return 1 if story.broken else 0


if __name__ == "__main__":
    sys.exit(main())
