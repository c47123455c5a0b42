"""Jobs, as an application would write them. Where they write to is in REPLICATOR_TEST_URL."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replicator.client import Client
from replicator.rq import Term, in_term, submit_from_job

#: Called in the middle of a job that runs in the process of the test.
meanwhile: list[Callable[[], Any]] = []


def register(owner: str, part: str = "") -> Any:
    with Client(urls=[os.environ["REPLICATOR_TEST_URL"]]) as client:
        return submit_from_job(client, {"op": "register", "owner": owner}, part=part)


def register_two(owner: str) -> Any:
    return [register(f"{owner}-{part}", part) for part in ("first", "second")]


def register_two_without_parts(owner: str) -> Any:
    return [register(f"{owner}-{part}") for part in ("first", "second")]


def register_and_fail(owner: str, marker: str) -> Any:
    result = register(owner)
    if is_first(marker):
        raise RuntimeError("after it has written")
    return result


def register_and_die(owner: str, marker: str) -> Any:
    result = register(owner)
    if is_first(marker):
        os.kill(os.getpid(), signal.SIGKILL)
    return result


def is_first(marker: str) -> bool:
    path = Path(marker)
    if path.exists():
        return False
    path.touch()
    return True


@in_term
def bill(term: Term, path: str) -> str:
    for work in meanwhile:
        work()
    term.check()
    with open(path, "a") as lines:
        lines.write(f"{term.number}\n")
    return f"{term.group} {term.number}"


@in_term
def begin(term: Term, path: str) -> None:
    Path(path).touch()


@in_term(redis="unix:///nobody/is/here")
def bill_elsewhere(term: Term, path: str) -> None:
    Path(path).touch()
