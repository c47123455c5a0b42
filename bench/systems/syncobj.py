"""PySyncObj: a Raft in Python. Three processes, of which the leader sends and a follower receives."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import orjson

from bench.harness import Child, Setting, heard, now_ns
from bench.inbox import PATIENCE_S, Inbox
from bench.loads import Pace, pace_of
from bench.peers import SyncObjGroup, syncobj_version
from bench.systems.base import BlockingSender, Running, System, answered_by, body_of

__all__ = ["DEFAULTS", "EACH_MS", "SyncObjSender"]

#: As it comes it dumps its state and cuts its log off after 5,000 entries, and a follower that lags gets the dump, not
#: the entries: then nobody could say when it got a change. It is spared that; the package sends its snapshots as ever.
OPTIONS: Mapping[str, float] = {"logCompactionMinEntries": 10**9}

#: It looks at its queue, and sends to its followers, this often; 50 and 100 ms as it comes.
EACH_MS_OPTIONS: Mapping[str, float] = {"autoTickPeriod": 0.001, "appendEntriesPeriod": 0.001}

MEANS = "in the memory of two of three processes (quorum), applied on the leader; no fsync; an old leader cannot commit"


class SyncObjSender(BlockingSender):
    """The leader. `note` is its replicated method; an answer comes on the thread of PySyncObj."""

    def __init__(self, note: Callable[..., Any]) -> None:
        self._note = note

    def commit(self, body: bytes) -> None:
        self._note(body, sync=True, timeout=PATIENCE_S)

    def commit_all(self, bodies: Sequence[bytes]) -> None:
        answers = _Answers(len(bodies))
        for body in bodies:
            self._note(body, callback=answers.one)
        answers.wait()

    def concurrent(self, submitters: int, seconds: float) -> Pace:
        """Without a thread for each: whoever is answered sends its next one from there. Threads are slower."""
        body, until_ns, answers = body_of(), now_ns() + int(seconds * 1e9), _Answers(submitters)
        latencies_ns: list[int] = []

        def answered(began_ns: int, result: Any, error: Any) -> None:
            now = now_ns()
            latencies_ns.append(now - began_ns)
            if error or now >= until_ns:
                answers.one(result, error)
            else:
                send()

        def send() -> None:
            self._note(body, callback=partial(answered, now_ns()))

        def send_and_wait() -> None:
            for _ in range(submitters):
                send()
            answers.wait()

        return pace_of(latencies_ns, send_and_wait)

    def close(self) -> None:
        """Nothing: what it uses ends with its process."""


class _Answers:
    """Waits for so many answers."""

    def __init__(self, expected: int) -> None:
        self._left = expected
        self._errors: list[Any] = []
        self._all = threading.Event()

    def one(self, _: Any, error: Any) -> None:
        if error:
            self._errors.append(error)
        self._left -= 1
        if self._left <= 0:
            self._all.set()

    def wait(self) -> None:
        if not self._all.wait(PATIENCE_S) or self._errors:
            raise RuntimeError(f"{self._left} commands without an answer; errors: {self._errors[:3]}")


def be_member(pipe: Connection, address: str, others: list[str], options: Mapping[str, Any]) -> None:
    """One of the three. It takes what a sender is told, what a receiver is told, and what `SyncObjGroup` asks."""
    from pysyncobj import SyncObj, SyncObjConf, replicated

    # A follower warns of each entry that it was sent twice, which a busy leader does all the time.
    logging.getLogger("pysyncobj").setLevel(logging.CRITICAL + 1)
    inbox = Inbox()

    class Noted(SyncObj):  # type: ignore[misc]
        @replicated  # type: ignore[untyped-decorator]
        def note(self, body: bytes) -> None:
            inbox.apply(orjson.loads(body))

    pipe.send("ready")
    heard(pipe)
    noted = Noted(address, others, SyncObjConf(**options))
    noted.waitBinded()
    sender = SyncObjSender(noted.note)
    pipe.send("started")
    while (told := heard(pipe)) is not None:
        if told == "state":
            status = noted.getStatus()
            connected = [key for key, value in status.items() if key.startswith("partner_node_status") and value == 2]
            pipe.send((status["leader"] and str(status["leader"]), len(connected)))
        elif told == "leads":
            pipe.send(str(noted.getStatus()["leader"]) == address)
        elif isinstance(told, int):
            pipe.send(inbox.until(told))
        else:
            pipe.send(answered_by(sender, told))


@contextmanager
def run(options: Mapping[str, float], _: Setting) -> Iterator[Running]:
    with SyncObjGroup({**OPTIONS, **options}, be_member) as group:
        leads: list[Child] = [child for child in group.children if child.ask("leads")]
        follows = next(child for child in group.children if child is not leads[0])
        yield Running(leads[0], follows)


def _is_installed() -> bool:
    return syncobj_version() is not None


DEFAULTS = System(name="PySyncObj", means=MEANS, run=partial(run, {}), is_installed=_is_installed)
EACH_MS = System(name="PySyncObj, 1 ms", means=MEANS, run=partial(run, EACH_MS_OPTIONS), is_installed=_is_installed)
