"""Redis by itself: a plain stream, and Redis' own replication with and without waiting for the replica."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import orjson

from bench.harness import Setting, plain_client, wait_until
from bench.inbox import Inbox, received_aside
from bench.loads import Pace, by_threads
from bench.systems.base import BlockingSender, Running, System, running
from replicator.sandbox.redis_server import Directives, RedisServer

__all__ = ["PLAIN", "REPLICATED", "REPLICATED_AND_WAITED", "RedisSender", "receive_stream"]

#: How long `WAIT` waits for the replica. It answers in less than a millisecond.
WAIT_MS = 10_000

#: Within this, each of many threads has connected.
CONNECT_S = 0.05


class RedisSender(BlockingSender):
    """redis-py and a stream. With `replicas`, each answer is waited for until so many replicas have it."""

    def __init__(self, url: str, stream: str, replicas: int = 0) -> None:
        self._url = url
        self._stream = stream
        self._replicas = replicas
        self._client = plain_client(url)

    def commit(self, body: bytes) -> None:
        if not self._replicas:
            self._client.xadd(self._stream, {"b": body})
            return
        self.commit_all([body])

    def commit_all(self, bodies: Sequence[bytes]) -> None:
        # One round trip for all of it.
        with self._client.pipeline(transaction=False) as pipe:
            for body in bodies:
                pipe.xadd(self._stream, {"b": body})
            if self._replicas:
                pipe.wait(self._replicas, WAIT_MS)
            self._check(pipe.execute())

    def concurrent(self, submitters: int, seconds: float) -> Pace:
        """By threads: asyncio tasks over redis-py's other client were some three times slower."""
        # Each thread has a connection of the pool. They are made before the time begins.
        by_threads(self._client.ping, submitters, CONNECT_S)
        return super().concurrent(submitters, seconds)

    def _check(self, answers: list[object]) -> None:
        if self._replicas and answers[-1] != self._replicas:
            raise RuntimeError(f"WAIT was answered {answers[-1]}")

    def close(self) -> None:
        self._client.close()


@contextmanager
def receive_stream(inbox: Inbox, url: str, stream: str) -> Iterator[None]:
    """`XREAD BLOCK` from the beginning of the stream."""
    with received_aside(inbox, partial(_read, inbox, url, stream)):
        yield


def _read(inbox: Inbox, url: str, stream: str, ready: Callable[[], None]) -> None:
    after = "0-0"
    with plain_client(url) as client:
        client.ping()
        ready()
        while True:
            for _, entries in client.xread({stream: after}, block=1000, count=1000) or []:
                for _, fields in entries:
                    inbox.apply(orjson.loads(fields[b"b"]))
                after = entries[-1][0]


@contextmanager
def run_plain(setting: Setting) -> Iterator[Running]:
    place = setting.url, setting.group("stream")
    with running((RedisSender, *place), (receive_stream, *place)) as both:
        yield both


@contextmanager
def run_replicated(setting: Setting, replicas_waited: int = 0) -> Iterator[Running]:
    """A master and a replica, which fsync as the Redis of this run does. The receiver reads from the replica."""
    with plain_client(setting.url) as client:
        fsync = client.config_get("appendfsync")["appendfsync"]
    config: Directives = {"appendfsync": fsync, "auto-aof-rewrite-percentage": 0, "repl-diskless-sync-delay": 0}
    with RedisServer(setting.fresh("master"), port=0, config=config) as master:
        of = ["127.0.0.1", str(master.port)]
        with RedisServer(setting.fresh("replica"), config={**config, "replicaof": of}) as replica:
            wait_until(lambda: _is_linked(replica.url), "a replica that is in sync")
            stream = setting.group("stream")
            with running(
                (RedisSender, master.url, stream, replicas_waited), (receive_stream, replica.url, stream)
            ) as both:
                yield both


def _is_linked(url: str) -> bool:
    with plain_client(url) as client:
        return bool(client.info("replication").get("master_link_status") == "up")


@contextmanager
def run_waited(setting: Setting) -> Iterator[Running]:
    with run_replicated(setting, replicas_waited=1) as both:
        yield both


PLAIN = System(
    name="XADD",
    means="in the server's memory and its AOF, whose fsync is the server's; no fence, and nobody who applies it",
    run=run_plain,
)
REPLICATED = System(
    name="Redis replica",
    means="as XADD, on the master only; the replica gets it a little later; no fence, and a failover can lose it",
    run=run_replicated,
)
REPLICATED_AND_WAITED = System(
    name="Redis replica, WAIT 1",
    means="in the memory of master and replica, fsync by both servers as they are set; no fence",
    run=run_waited,
)
