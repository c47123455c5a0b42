"""etcd, of one node and of three, over gRPC.

The few messages that are needed are built and read by hand here, after etcd's `rpc.proto` and `kv.proto`, so that
neither a generator nor its output is needed, but `grpcio` alone. etcd's own gateway to HTTP and JSON would do without
that, and costs etcd a second hop within its process, which is no merit of anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec

import orjson

from bench.binaries import find_program
from bench.harness import Setting, wait_until
from bench.inbox import Inbox, received_aside
from bench.systems.base import AsyncSender, Running, System, running
from bench.systems.servers import started
from replicator.sandbox.free_ports import free_port

__all__ = ["ONE", "THREE", "EtcdSender", "field", "fields"]

PUT, TXN, WATCH = "/etcdserverpb.KV/Put", "/etcdserverpb.KV/Txn", "/etcdserverpb.Watch/Watch"
STATUS = "/etcdserverpb.Maintenance/Status"

#: All keys begin with this, and `END` is the first one behind them.
PREFIX, END = b"bench/", b"bench0"


# --- protobuf ---------------------------------------------------------------------------------------------------------


def field(number: int, value: bytes) -> bytes:
    """A field of bytes, or of a message."""
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbers and values of a message's fields: bytes, or integers. etcd's messages have no others."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        value, at = _read_varint(message, at)
        if key & 7 == 0:
            yield key >> 3, value
        elif key & 7 == 2:
            yield key >> 3, message[at : at + value]
            at += value
        else:
            raise ValueError(f"a field of the wire type {key & 7}")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def put_request(key: bytes, value: bytes) -> bytes:
    return field(1, key) + field(2, value)


def txn_request(puts: Sequence[bytes]) -> bytes:
    """No comparison, and all these puts if it succeeds."""
    return b"".join(field(2, field(2, put)) for put in puts)


def watch_request() -> bytes:
    return field(1, field(1, PREFIX) + field(2, END))


def values_of(response: bytes) -> list[bytes]:
    """The values in the events of an answer to a watch."""
    events = _values(response, 11)
    pairs = [pair for event in events for pair in _values(event, 2)]
    return [value for pair in pairs for value in _values(pair, 5)]


def _values(message: bytes, wanted: int) -> list[bytes]:
    return [value for number, value in fields(message) if number == wanted and isinstance(value, bytes)]


# --- the ends ---------------------------------------------------------------------------------------------------------


class EtcdSender(AsyncSender):
    """A put for each change, and a transaction of puts for several."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.runner.run(self._connect(port))

    async def _connect(self, port: int) -> None:
        import grpc

        # Without serializers: bytes go in and out.
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._put = self._channel.unary_unary(PUT)
        self._txn = self._channel.unary_unary(TXN)

    async def commit(self, body: bytes) -> None:
        await self._put(put_request(PREFIX, body))

    async def commit_all(self, bodies: Sequence[bytes]) -> None:
        # A transaction may write a key once.
        await self._txn(
            txn_request([put_request(b"%s%d" % (PREFIX, number), body) for number, body in enumerate(bodies)])
        )

    def close(self) -> None:
        self.runner.run(self._channel.close())
        super().close()


@contextmanager
def receive(inbox: Inbox, port: int) -> Iterator[None]:
    with received_aside(inbox, partial(_receive, inbox, port)):
        yield


def _receive(inbox: Inbox, port: int, ready: Callable[[], None]) -> None:
    async def watch() -> None:
        import grpc

        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.stream_stream(WATCH)()
            await call.write(watch_request())
            await call.read()  # it was created
            ready()
            while True:
                for value in values_of(await call.read()):
                    inbox.apply(orjson.loads(value))

    asyncio.run(watch())


# --- the servers ------------------------------------------------------------------------------------------------------


@contextmanager
def run(nodes: int, setting: Setting) -> Iterator[Running]:
    program = find_program("etcd")
    assert program is not None
    clients, peers = ([free_port() for _ in range(nodes)] for _ in range(2))
    together = ",".join(f"n{number}=http://127.0.0.1:{port}" for number, port in enumerate(peers))
    with ExitStack() as stack:
        for number in range(nodes):
            argv = [str(program.path), *_options(number, clients[number], peers[number], together)]
            argv += ["--data-dir", str(setting.fresh("etcd"))]
            # The first ones cannot answer before there is a quorum.
            stack.enter_context(started(argv, program.environment, lambda: True))
        leader = _leader(clients)
        # The one that watches does so at the leader, which is the first to know.
        yield stack.enter_context(running((EtcdSender, leader), (receive, leader)))


def _options(number: int, client: int, peer: int, together: str) -> list[str]:
    for_clients, for_peers = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    return [
        *("--name", f"n{number}", "--log-level", "error", "--logger", "zap"),
        *("--listen-client-urls", for_clients, "--advertise-client-urls", for_clients),
        *("--listen-peer-urls", for_peers, "--initial-advertise-peer-urls", for_peers),
        *("--initial-cluster", together),
    ]


def _leader(ports: Sequence[int]) -> int:
    """The port of the leader, once all know it."""
    found: list[int] = []

    def all_know() -> bool:
        told = [_told_by(port) for port in ports]
        leaders = {leader for _, leader in told}
        found[:] = [port for port, (member, leader) in zip(ports, told, strict=True) if member == leader != 0]
        return len(leaders) == 1 and len(found) == 1

    wait_until(all_know, "a leader that all nodes of etcd know")
    return found[0]


def _told_by(port: int) -> tuple[int, int]:
    """The id of the node at this port, and that of the leader; 0 for what it does not know yet."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            status = dict(fields(channel.unary_unary(STATUS)(b"", timeout=1)))
        except grpc.RpcError:
            return 0, 0
    header = status.get(1, b"")
    assert isinstance(header, bytes)
    member, leader = dict(fields(header)).get(2, 0), status.get(4, 0)
    assert isinstance(member, int)
    assert isinstance(leader, int)
    return member, leader


def _is_installed() -> bool:
    return find_spec("grpc") is not None and find_program("etcd") is not None


MEANS = "fsync by a quorum, of one or of three, before the answer; linearizable; comparisons in a transaction can fence"
ONE = System(name="etcd, 1 node", means=MEANS, run=partial(run, 1), is_installed=_is_installed)
THREE = System(name="etcd, 3 nodes", means=MEANS, run=partial(run, 3), is_installed=_is_installed)
