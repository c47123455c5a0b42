"""The question before what can lose something, and `--yes`, which answers it.

Nothing is asked where nothing can be lost, so that scripts need no `--yes` for that. Where something can be, and there
is no terminal to ask at, the command does nothing and ends with exit code 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from replicator.errors import ReplicatorError
from replicator.runtime.checks import plain

__all__ = ["confirm", "yes_option"]

yes_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--yes", is_flag=True, help="Do not ask, though something may be lost."
)


class NotConfirmed(ReplicatorError):
    """nothing was done: {risks}; there is no terminal to ask at, so say --yes if that is meant"""

    exit_code = 2


class _Declined(ReplicatorError):
    """nothing was done"""


def confirm(what: str, risks: Sequence[str], *, yes: bool) -> None:
    """Ask whether to go on. Raises `NotConfirmed`, or another error (exit code 1) if the answer is no."""
    if yes or not risks:
        return
    if not _has_terminal():
        raise NotConfirmed(risks="; ".join(risks))
    for risk in risks:
        click.echo(f"  {plain(risk)}", err=True)
    if not click.confirm(plain(what), err=True):
        raise _Declined()


def _has_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
