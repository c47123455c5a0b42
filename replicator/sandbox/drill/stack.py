"""The stack of a drill, and all that can be seen of it and done to it.

Two Redis servers, one of which is the master, and three nodes, under supervisord (`drill.conf`) and the rules of
`replicator.sandbox.stack`: nothing is left behind. Each node reaches Redis by a proxy of its own, which can be made to
fail, and which leads elsewhere when Redis moves. So a failover of Redis is here what it is where a virtual address
moves.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from replicator.errors import LogUnavailable, ReplicatorError
from replicator.format.codec import encode_change, encode_changes
from replicator.log.connection import Link
from replicator.log.finders import finder_for
from replicator.log.redis_log import RedisLog
from replicator.protocol import election
from replicator.protocol.fold import Holder, View
from replicator.protocol.group import Code, Head
from replicator.protocol.node_state import NodeState
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.redis_server import SERVER_VARIABLE, find_server
from replicator.sandbox.stack import NODES, DevStack

__all__ = ["Scene"]

#: What supervisord runs. Data, as the scripts in lua/ are.
CONF = Path(__file__).with_name("drill.conf")

#: How long the group may take until all nodes are in step again, beyond this many leases. A restart of Redis is two
#: heartbeats, one of a node is a second of Python; the rest is for a busy machine.
SETTLE_S = 30.0
SETTLE_LEASES = 10

#: Redis answers these at once, or is gone.
REDIS_TIMEOUT_S = 2.0

#: A read of the whole state on a busy machine.
READ_TIMEOUT_S = 30.0

POLL_S = 0.05


class Scene:
    """The stack of a drill, and all that can be done to it. A context; `stack` is started and ended by its owner.

    `directory`: exists, and is empty.
    """

    def __init__(self, directory: Path, *, group: str, lease_s: float, log_level: str) -> None:
        self.lease_s = lease_s
        self._control = directory / "control"
        self._control.mkdir()
        self._open = ExitStack()
        #: Kept ours while a server is down: a writer's connection could take the port meanwhile.
        self._ports = {name: self._reserve_port() for name in ("redis-1", "redis-2")}
        self.master = "redis-1"
        self._proxies = {name: Proxy(self._ports[self.master]) for name in (*NODES, "drill")}
        self.stack = DevStack(
            directory,
            port=0,
            group=group,
            redis_url=self._proxies["drill"].url,
            conf=CONF,
            environment={
                "REPLICATOR_LOG_LEVEL": log_level,
                SERVER_VARIABLE: str(find_server().path),
                "REPLICATOR_LEASE_S": str(lease_s),
                "REPLICATOR_AUTO_PROMOTE": "1",
                "REPLICATOR_ACK": "appended",
                "REPLICATOR_ADVERTISE": "",
                "REPLICATOR_DRILL_CONTROL": str(self._control),
                **{f"REPLICATOR_REDIS_{name[-1]}": self._url(name) for name in self._ports},
                **{f"REPLICATOR_REDIS_{name.upper()}": self._proxies[name].url for name in NODES},
            },
        )
        self.log = RedisLog(self.stack.redis_url, group, timeout_s=REDIS_TIMEOUT_S)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.close()
        for proxy in self._proxies.values():
            proxy.close()
        self._open.close()

    # What is seen

    def led(self) -> Head | None:
        """The newest record and its holder, if that leads; None also if Redis does not answer."""
        with contextlib.suppress(LogUnavailable):
            look = self.log.look()
            return look.head if election.is_settled(look) else None
        return None

    def wait_settled(self, since: float, look: Callable[[], object] = lambda: None) -> Head:
        """Wait until somebody leads, and all nodes have said after `since` that they are in step; `look` meanwhile.

        Raises `ReplicatorError`, with what is missing.
        """
        patience_s = SETTLE_S + SETTLE_LEASES * self.lease_s
        deadline = time.monotonic() + patience_s
        while (missing := self._unsettled(since)) is not None:
            if time.monotonic() > deadline:
                raise ReplicatorError(f"after {patience_s:.0f} s {missing}")
            self.tick()
            look()
        head = self.led()
        return head if head is not None else self.wait_settled(since, look)

    def _unsettled(self, since: float) -> str | None:
        # Taken before the ages are: an answer may take its time.
        age_s = time.monotonic() - since
        try:
            look = self.log.look()
        except LogUnavailable as unavailable:
            return str(unavailable)
        if not election.is_settled(look) or look.lease_ms is None:
            return "nobody leads"
        for name in NODES:
            heartbeat = look.heartbeats.get(name)
            if heartbeat is None or heartbeat.age_ms / 1000 > age_s or not heartbeat.alive:
                return f"node {name} does not report"
            if heartbeat.run != look.run or heartbeat.term != look.term or not heartbeat.in_sync:
                why = heartbeat.problem or heartbeat.stalled or f"at {heartbeat.position.id}"
                return f"node {name} is not in step: {why}"
        return None

    def tick(self) -> None:
        """Wait a moment, and have supervisord look after its programs: what was killed comes back at once."""
        self.stack.pids()
        time.sleep(POLL_S)

    def stale_refused(self) -> int:
        """How many records of the nodes Redis has refused because their time was over."""
        return sum(len(path.read_text().splitlines()) for path in self._control.glob("refused-*"))

    def registered(self, token: str) -> Counter[str]:
        """How often each tag that begins with `token` is in the state: read from the primary, with all that is
        committed.
        """
        deadline = time.monotonic() + READ_TIMEOUT_S
        while True:
            try:
                return _tags_of(self._state(), token)
            except (OSError, http.client.HTTPException, LogUnavailable) as error:
                if time.monotonic() > deadline:
                    raise ReplicatorError(f"the state could not be read: {error}") from error
                self.tick()

    def _state(self) -> bytes:
        head = self.led()
        place = urlsplit(self.stack.urls()[head.node if head is not None else NODES[0]]).netloc
        connection = http.client.HTTPConnection(place, timeout=READ_TIMEOUT_S)
        try:
            connection.request("GET", "/v1/state", headers={"Replicator-Fresh": "1"})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise http.client.HTTPException(f"{response.status} {body[:200].decode(errors='replace')}")
        return body

    # What is done

    def kill(self, program: str) -> None:
        self.stack.signal(program, signal.SIGKILL)

    def slow_file(self, node: str) -> Path:
        return self._control / f"slow-{node}"

    def proxy(self, node: str) -> Proxy:
        return self._proxies[node]

    def send_stale(self, before: Head) -> bool:
        """Send a record in the name of the primary that was, as one of its own would be; whether Redis refused it."""
        view = View(term=before.term, holder=Holder(before.node, before.boot, before.run), position=before.position)
        codec, body, digest = encode_changes([encode_change({"op": "register", "owner": "drill", "tags": ["stale"]})])
        was = NodeState(me=before.writer, view=view, run=before.run)
        reply = self.log.append(was.change(codec=codec, body=body, digest=digest, count=1, at=0))
        return reply.code not in (Code.OK, Code.DUPLICATE)

    def follow_master(self) -> None:
        """Have the server that is not the master become its replica, with all it has."""
        self.stack.start_program(self._other)
        wait = self._asking(self._other)
        self._ask(self.master, b"CONFIG", b"SET", b"repl-diskless-sync-delay", b"0")
        self._ask(self._other, b"REPLICAOF", b"127.0.0.1", str(self._ports[self.master]).encode())
        wait(lambda: b"master_link_status:up" in self._ask(self._other, b"INFO", b"replication"), "does not follow")

    def fail_over(self) -> None:
        """End the master for good, make its replica the master, and lead everybody there."""
        self.stack.kill_program(self.master)
        self._ask(self._other, b"REPLICAOF", b"NO", b"ONE")
        self.master = self._other
        for proxy in self._proxies.values():
            proxy.lead_to(self._ports[self.master])

    @property
    def _other(self) -> str:
        return "redis-2" if self.master == "redis-1" else "redis-1"

    def _asking(self, server: str) -> Callable[[Callable[[], bool], str], None]:
        def wait(holds: Callable[[], bool], problem: str) -> None:
            deadline = time.monotonic() + SETTLE_S
            while not holds():
                if time.monotonic() > deadline:
                    raise ReplicatorError(f"{server} {problem}\n{self.stack.log_tail(server)}")
                time.sleep(POLL_S)

        wait(lambda: self._answers(server), "does not answer")
        return wait

    def _answers(self, server: str) -> bool:
        with contextlib.suppress(LogUnavailable):
            return bool(self._ask(server, b"PING") == b"PONG")
        return False

    def _ask(self, server: str, *command: bytes) -> Any:
        finder = finder_for(self._url(server), key=b"", name="replicator-drill", timeout_s=REDIS_TIMEOUT_S)
        link = Link(finder, self._url(server))
        try:
            return link.call(*command)
        finally:
            link.close()

    def _url(self, server: str) -> str:
        return f"redis://127.0.0.1:{self._ports[server]}/0"

    def _reserve_port(self) -> int:
        # Bound and never listening, as the proxies do it: the server may listen there, and nobody else gets the port.
        reservation = self._open.enter_context(socket.socket())
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        port: int = reservation.getsockname()[1]
        return port


def _tags_of(document: bytes, token: str) -> Counter[str]:
    nodes = orjson.loads(document)["nodes"].values()
    return Counter(tag for node in nodes for tag in node.get("tags", ()) if tag.startswith(token))
