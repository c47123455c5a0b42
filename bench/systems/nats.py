"""NATS JetStream with file storage: one nats-server, and nats-py on both ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import orjson

from bench.binaries import find_program
from bench.harness import Setting
from bench.inbox import Inbox, received_aside
from bench.systems.base import AsyncSender, Running, System, running
from bench.systems.servers import is_listening, started
from replicator.sandbox.free_ports import free_port

__all__ = ["JETSTREAM", "NatsSender"]

STREAM, SUBJECT = "bench", "bench.changes"


class NatsSender(AsyncSender):
    """Publishes to a stream and waits for its answer; several at once without waiting in between."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner.run(self._connect(url))

    async def _connect(self, url: str) -> None:
        import nats

        self._connection: Any = await nats.connect(url)
        self._stream = self._connection.jetstream()
        await self._stream.add_stream(name=STREAM, subjects=[SUBJECT], storage="file")

    async def commit(self, body: bytes) -> None:
        await self._stream.publish(SUBJECT, body)

    async def commit_all(self, bodies: Sequence[bytes]) -> None:
        answers = [await self._stream.publish_async(SUBJECT, body) for body in bodies]
        await asyncio.gather(*answers)

    def close(self) -> None:
        self.runner.run(self._connection.close())
        super().close()


@contextmanager
def receive(inbox: Inbox, url: str) -> Iterator[None]:
    with received_aside(inbox, partial(_receive, inbox, url)):
        yield


def _receive(inbox: Inbox, url: str, ready: Callable[[], None]) -> None:
    async def subscribe() -> None:
        import nats

        async def arrived(message: Any) -> None:
            inbox.apply(orjson.loads(message.data))

        connection = await nats.connect(url)
        # Ordered: the server pushes, and nothing is acknowledged one by one.
        await connection.jetstream().subscribe(SUBJECT, cb=arrived, ordered_consumer=True)
        ready()
        await asyncio.Event().wait()

    asyncio.run(subscribe())


@contextmanager
def run(setting: Setting) -> Iterator[Running]:
    program, port, directory = find_program("nats-server"), free_port(), setting.fresh("nats")
    assert program is not None
    argv = [str(program.path), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(directory)]
    with started(argv, program.environment, lambda: is_listening(port)):
        url = f"nats://127.0.0.1:{port}"
        with running((NatsSender, url), (receive, url)) as both:
            yield both


JETSTREAM = System(
    name="NATS JetStream",
    means="written to the file of one server, fsync every two minutes; no terms, but the last sequence can be compared",
    run=run,
    is_installed=lambda: find_spec("nats") is not None and find_program("nats-server") is not None,
)
