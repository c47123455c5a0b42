"""What a system is, and the two kinds of senders: those of blocking clients, and those of asyncio clients."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from bench.harness import Child, Setting, heard, now_ns
from bench.inbox import be_receiver
from bench.loads import Pace, a_change, by_tasks, by_threads, in_batches, paced
from replicator.format.codec import encode_change

__all__ = ["AsyncSender", "BlockingSender", "Running", "Sender", "Sent", "System", "be_sender", "body_of", "running"]


class Sent(NamedTuple):
    """When the call that sent a ping began and ended."""

    called_ns: int
    answered_ns: int


class Running(NamedTuple):
    """A system that runs: the process that sends (see `answered_by`), and the one that receives (see `be_receiver`)."""

    sender: Child
    receiver: Child


@dataclass(frozen=True, kw_only=True)
class System:
    """A system that can be measured."""

    name: str
    #: What an answer to its sender means, in a line.
    means: str
    #: Starts it anew.
    run: Callable[[Setting], AbstractContextManager[Running]]
    #: Whether all is there that it needs.
    is_installed: Callable[[], bool] = lambda: True


def body_of(number: int | None = None) -> bytes:
    """A change as JSON, for a system that takes bytes."""
    return encode_change(a_change(number))


class Sender(ABC):
    """A client of a system. Every method returns once what it sent is committed."""

    @abstractmethod
    def send(self, number: int) -> None:
        """Commit a ping."""

    @abstractmethod
    def one_at_a_time(self, seconds: float) -> Pace: ...

    @abstractmethod
    def concurrent(self, submitters: int, seconds: float) -> Pace: ...

    @abstractmethod
    def batches(self, size: int, seconds: float) -> Pace | None:
        """None: it has no way to take several at once."""

    def pings(self, first: int, pings: int, apart_s: float, seconds: float) -> list[Sent]:
        """Send so many pings with pauses; fewer if that takes longer than so many seconds."""
        sent: list[Sent] = []
        until_ns = now_ns() + int(seconds * 1e9)
        for number in range(first, first + pings):
            if now_ns() > until_ns:
                break
            time.sleep(apart_s)
            called_ns = now_ns()
            self.send(number)
            sent.append(Sent(called_ns, now_ns()))
        return sent

    @abstractmethod
    def close(self) -> None:
        """End what the constructor began."""


class BlockingSender(Sender):
    """For a client whose calls block. Those who submit at the same time are threads."""

    @abstractmethod
    def commit(self, body: bytes) -> None: ...

    @abstractmethod
    def commit_all(self, bodies: Sequence[bytes]) -> None:
        """Several at once, in the way that the client has for it."""

    def send(self, number: int) -> None:
        self.commit(body_of(number))

    def one_at_a_time(self, seconds: float) -> Pace:
        body = body_of()
        return paced(lambda: self.commit(body), seconds)

    def concurrent(self, submitters: int, seconds: float) -> Pace:
        body = body_of()
        return by_threads(lambda: self.commit(body), submitters, seconds)

    def batches(self, size: int, seconds: float) -> Pace:
        bodies = [body_of()] * size
        return in_batches(lambda: self.commit_all(bodies), size, seconds)


class AsyncSender(Sender):
    """For an asyncio client. Those who submit at the same time are tasks."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()

    @abstractmethod
    async def commit(self, body: bytes) -> None: ...

    @abstractmethod
    async def commit_all(self, bodies: Sequence[bytes]) -> None: ...

    def send(self, number: int) -> None:
        self.runner.run(self.commit(body_of(number)))

    def one_at_a_time(self, seconds: float) -> Pace:
        return self.concurrent(1, seconds)

    def concurrent(self, submitters: int, seconds: float) -> Pace:
        body = body_of()
        return self.runner.run(by_tasks(lambda: self.commit(body), submitters, seconds))

    def batches(self, size: int, seconds: float) -> Pace:
        bodies = [body_of()] * size
        return self.runner.run(by_tasks(lambda: self.commit_all(bodies), 1, seconds, size))

    def pings(self, first: int, pings: int, apart_s: float, seconds: float) -> list[Sent]:
        return self.runner.run(self._pings(first, pings, apart_s, seconds))

    async def _pings(self, first: int, pings: int, apart_s: float, seconds: float) -> list[Sent]:
        # The loop has to run in the pauses, too, or it would find there what came in meanwhile.
        sent: list[Sent] = []
        until_ns = now_ns() + int(seconds * 1e9)
        for number in range(first, first + pings):
            if now_ns() > until_ns:
                break
            await asyncio.sleep(apart_s)
            called_ns = now_ns()
            await self.commit(body_of(number))
            sent.append(Sent(called_ns, now_ns()))
        return sent

    def close(self) -> None:
        self.runner.close()


def be_sender(pipe: Connection, make: Callable[..., Sender], *address: Any) -> None:
    """A process that sends: told the name of a method and its arguments, it answers with what that gives."""
    sender = make(*address)
    try:
        pipe.send("ready")
        while (told := heard(pipe)) is not None:
            pipe.send(answered_by(sender, told))
    finally:
        sender.close()


def answered_by(sender: Sender, told: tuple[Any, ...]) -> Any:
    name, *arguments = told
    return getattr(sender, name)(*arguments)


@contextmanager
def running(sender: tuple[Any, ...], receiver: tuple[Any, ...]) -> Iterator[Running]:
    """The two processes of a system, which are ready. Each is given what makes it, and where to."""
    with Child(be_sender, *sender) as sends:
        sends.hear()
        with Child(be_receiver, *receiver) as receives:
            receives.hear()
            yield Running(sends, receives)
