"""A group with a key over a real Redis, and somebody who has that Redis and not the key."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import redis

from replicator import Node, ops
from replicator.format.ids import ZERO_CHAIN, extend_chain
from replicator.log.redis_log import RedisLog
from replicator.storage.keyring import Entry, KeyFile, new_key, write_entries

from .kv import KV, LEASE_S, PATIENCE_S, eventually, push, put

__all__ = ["MARKER", "Entries", "Intruder", "Scene", "key_file"]

#: What is to be found nowhere.
MARKER = "marker-in-the-payload-8471"

#: The entries of a stream: term, n, header, body.
Entries = list[tuple[int, int, bytes, bytes]]


def key_file(path: Path, *, secret: bytes | None = None) -> Path:
    """A key file with one key."""
    write_entries(path, [Entry(True, secret or new_key())], new=True)
    return path


class Scene:
    """Nodes `a` and `b` of group `g`, and what they wrote in two terms: changes, keys, snapshots, a marker."""

    def __init__(self, url: str, directory: Path, keys: Path, *, group: str = "g") -> None:
        self.url, self.directory, self.keys, self.group = url, directory, keys, group
        self.nodes: list[Node[KV]] = []

    def start(self, name: str, **options: Any) -> Node[KV]:
        options = {"lease_s": LEASE_S, "key_file": self.keys, "data_dir": self.directory / name} | options
        node = Node(KV(), group=self.group, name=name, redis=self.url, **options)
        self.nodes.append(node)
        node.start()
        return node

    def play(self) -> Node[KV]:
        """Write what there is to be found; the node that leads."""
        a = self.start("a")
        a.promote(timeout_s=PATIENCE_S)
        eventually(lambda: a.leads)
        b = self.start("b")
        for index in range(3):
            a.submit(put(f"{MARKER}-{index}", f"{MARKER} {index}"))
        a.submit(push(MARKER), key=f"key of {MARKER}")
        self.snapshot()
        a.submit(push(f"{MARKER} after the snapshot"), ack="applied:1")
        eventually(lambda: b.position == a.position)
        b.promote(timeout_s=PATIENCE_S)
        eventually(lambda: b.leads)
        for index in range(3):
            b.submit(push(f"{MARKER} {secrets.token_hex(100)} of b {index}"))
        eventually(lambda: a.position == b.position)
        return b

    def snapshot(self) -> None:
        log = self.log()
        ops.snapshot(log, by="test", timeout_s=60)
        log.close()

    def log(self) -> RedisLog:
        return RedisLog(self.url, self.group, sealing=KeyFile(self.keys).of(self.group))

    def close(self) -> None:
        for node in self.nodes:
            node.stop()


class Intruder:
    """Has Redis, knows the format, and has no key. What it changes it links again, so that chains and head fit."""

    def __init__(self, url: str, group: str = "g") -> None:
        self.redis: Any = redis.Redis.from_url(url)
        self._prefix = f"replicator:{{{group}}}:"

    def key(self, name: str) -> str:
        return self._prefix + name

    def entries(self) -> Entries:
        found = self.redis.xrange(self.key("log"))
        return [(*map(int, id_.split(b"-")), fields[b"h"], fields[b"b"]) for id_, fields in found]

    def put(self, entries: Entries) -> None:
        """Have these in the place of the log."""
        self.redis.delete(self.key("log"))
        prev = orjson.loads(entries[0][2])["prev"] if entries[0][:2] != (1, 1) else ZERO_CHAIN
        for term, n, header, body in entries:
            told = orjson.loads(header)
            if told["prev"] != prev:
                header = orjson.dumps(told | {"prev": prev})
            self.redis.xadd(self.key("log"), {"h": header, "b": body}, id=f"{term}-{n}")
            prev = extend_chain(prev, header, body)
        head = {"id": f"{term}-{n}", "chain": prev, "term": term}
        newest = orjson.loads(next(h for t, _, h, _ in reversed(entries) if t == term))
        self.redis.hset(self.key("head"), mapping=head | {"node": newest["node"], "boot": newest["boot"]})
        self.redis.set(self.key("term"), term)

    def everything(self) -> Iterator[bytes]:
        """All that Redis has, as DUMP gives it and as it is read."""
        readers: dict[bytes, Callable[[Any], Any]] = {
            b"string": self.redis.get,
            b"hash": self.redis.hgetall,
            b"stream": self.redis.xrange,
            b"list": lambda key: self.redis.lrange(key, 0, -1),
            b"set": self.redis.smembers,
            b"zset": lambda key: self.redis.zrange(key, 0, -1),
        }
        for key in self.redis.keys("*"):
            yield bytes(self.redis.dump(key))
            yield repr(readers[self.redis.type(key)](key)).encode()
