"""A name server that knows some names: A records over UDP, and nothing else."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator, Mapping

__all__ = ["name_server"]

A, QUERY_BYTES = 1, 12

#: An answer; with authority; it may be asked to recurse. And: there is no such name.
ANSWERED, UNKNOWN = 0x8580, 0x8583


@contextlib.contextmanager
def name_server(address: str, names: Mapping[str, str]) -> Iterator[None]:
    """Answer on port 53 of this address. `names`: their addresses; it is looked into at each question."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        server.settimeout(0.2)
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    asked, by = server.recvfrom(1500)
                    server.sendto(_answer(asked, names), by)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _answer(asked: bytes, names: Mapping[str, str]) -> bytes:
    labels, at = [], QUERY_BYTES
    while length := asked[at]:
        labels.append(asked[at + 1 : at + 1 + length].decode())
        at += 1 + length
    question = asked[QUERY_BYTES : at + 5]
    (kind,) = struct.unpack("!H", asked[at + 1 : at + 3])
    found = names.get(".".join(labels).lower())
    records = b""
    if found is not None and kind == A:
        # The name is that of the question, at byte 12; class IN, 1 s, 4 bytes.
        records = struct.pack("!HHHIH", 0xC000 | QUERY_BYTES, A, 1, 1, 4) + socket.inet_aton(found)
    flags = UNKNOWN if found is None else ANSWERED
    return asked[:2] + struct.pack("!HHHHH", flags, 1, 1 if records else 0, 0, 0) + question + records
