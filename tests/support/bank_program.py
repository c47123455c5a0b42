"""A program that works on a bank (bank.py) until it is ended, as a process of its own, and the one that starts it.

    python -m tests.support.bank_program PATH [--mode wal] [--every-s 0.01] [--acts] [--busy-s 20] [--seed 1]

It opens the database, transfers money, and, if it `acts`, does now and then what else programs do (bank_actions.py).
With every line it says what it has committed: `TRANSFERS REFUSALS`, where a refusal is SQLITE_BUSY. So what stands in
its output was committed; the database may have one transfer more.
"""

from __future__ import annotations

import argparse
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from .bank import Bank
from .bank_actions import ACTIONS, OF_WAL
from .kv import PATIENCE_S, eventually

__all__ = ["BankProgram", "Said"]

#: Of the transactions of one that acts, about so many are something else than a transfer.
ACTS = 0.15


class Said(NamedTuple):
    """How many transfers the database had after its newest commit, and how often SQLite refused the lock."""

    transfers: int
    refusals: int


class BankProgram:
    """The process. `out`: where it says what it did; several may write into one, one after the other."""

    def __init__(
        self,
        path: Path,
        out: Path,
        *,
        mode: str = "wal",
        every_s: float = 0.01,
        acts: bool = False,
        busy_s: float = PATIENCE_S,
        seed: int = 1,
    ) -> None:
        self._out = out
        words = [sys.executable, "-m", __name__, str(path), "--mode", mode, "--every-s", str(every_s)]
        words += ["--busy-s", str(busy_s), "--seed", str(seed), *(["--acts"] if acts else [])]
        with out.open("ab") as file:
            self.process = subprocess.Popen(words, stdout=file, stderr=file)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> Said | None:
        """None: nothing yet. Raises `AssertionError` with what it said if it failed."""
        lines = self._out.read_text().rpartition("\n")[0].splitlines() if self._out.exists() else []
        if not lines:
            return None
        words = lines[-1].split(" ")
        assert [word.isdigit() for word in words] == [True, True], "\n".join(lines[-30:])
        return Said(*map(int, words))

    def has_begun(self) -> None:
        """Wait until it has committed something."""
        eventually(lambda: self.said is not None, "the program works", patience_s=6 * PATIENCE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """As a supervisor does, once it has begun. It has committed what it began."""
        self.has_begun()
        self.process.terminate()
        assert self.process.wait() == 0, self._out.read_text()[-2000:]

    def __enter__(self) -> BankProgram:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("path", type=Path)
    parser.add_argument("--mode", default="wal")
    parser.add_argument("--every-s", type=float, default=0.01)
    parser.add_argument("--acts", action="store_true")
    parser.add_argument("--busy-s", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    over: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: over.append(number))
    refusals, chance = 0, random.Random(options.seed)
    bank = opened(options.path, options.mode, options.busy_s, over)
    while bank is not None and not over:
        try:
            work(bank, chance, acts=options.acts, of_wal=options.mode == "wal")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            refusals += 1
        else:
            print(bank.transfers, refusals, flush=True)
        time.sleep(options.every_s)
    return 0


def opened(path: Path, mode: str, busy_s: float, over: list[int]) -> Bank | None:
    """With a busy time of 0 even that may be refused. None: it is to end."""
    while not over:
        try:
            return Bank(path, mode=mode, busy_s=busy_s)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            time.sleep(0.01)
    return None


def work(bank: Bank, chance: random.Random, *, acts: bool, of_wal: bool) -> None:
    if acts and chance.random() < ACTS:
        actions = ACTIONS | (OF_WAL if of_wal else {})
        # Which takes longer than all others together, and is tried by itself.
        actions = {name: action for name, action in actions.items() if "frames" not in name}
        actions[chance.choice(list(actions))](bank)
    else:
        bank.transfer()


if __name__ == "__main__":
    sys.exit(main())
