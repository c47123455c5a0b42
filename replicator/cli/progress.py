"""How far a command is that takes its time: on a terminal a bar (with rich, `replicator[watch]`), otherwise lines.

All of it goes to stderr. What a command says in words is a line either way, above the bar; what has a number (`Step`)
moves the bar, and is a line only where there is none. The bar is gone when the command is done.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from replicator.ops import Progress, Step
from replicator.runtime.checks import plain

__all__ = ["Counted", "progress_of", "say_line"]


@contextmanager
def progress_of(what: str, *, lines: bool = True) -> Iterator[Progress]:
    """Call what it gives with what is to be told. `what`: the work, in a word, which stands beside the bar. `lines`:
    what is told is a line where there is no bar; otherwise nothing is said there.
    """
    bar = _bar()
    if bar is None:
        yield say_line if lines else lambda _: None
        return
    # Without an end at first: then the bar only shows that it goes on.
    with bar:
        task = bar.add_task(what, total=None, told="")

        def tell(text: str) -> None:
            if isinstance(text, Step):
                bar.update(task, completed=text.done, total=text.total, told=plain(text))
            else:
                bar.console.print(plain(text), markup=False, highlight=False, soft_wrap=True)

        yield tell


def say_line(text: str) -> None:
    """For people, on stderr."""
    click.echo(plain(text), err=True)


def _bar() -> Any:
    """One that is to be started; None: there is no terminal, or no rich."""
    if not sys.stderr.isatty() or threading.current_thread() is not threading.main_thread():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    except ImportError:
        return None
    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        return None

    told = TextColumn("{task.fields[told]}", markup=False)
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn(), told]
    # What goes to stdout is a result, and may go to a file: rich would show it on the terminal.
    return Progress(*columns, console=console, transient=True, redirect_stdout=False)


class Counted:
    """A file that is sent, and tells how much of it was read."""

    def __init__(self, file: IO[bytes], size: int, tell: Progress) -> None:
        self._file, self._size, self._tell, self._read = file, size, tell, 0

    def read(self, count: int = -1) -> bytes:
        data = self._file.read(count)
        self._read += len(data)
        self._tell(Step(f"{self._read / 1e6:.1f} of {self._size / 1e6:.1f} MB", self._read, self._size))
        return data
