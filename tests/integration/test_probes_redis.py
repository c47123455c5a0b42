"""Probes of real nodes while Redis hangs: they are answered from memory, and what they promise is withdrawn in time."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from replicator import Node
from replicator.sandbox.redis_server import RedisServer
from replicator.web.envelope import health_app
from replicator.web.probes import PROBES
from replicator.web.server import WebServer
from tests.support import plain_http
from tests.support.kv import KV, PATIENCE_S, eventually, in_step, put

#: While it does not answer a node must not wait for it, for a third of its lease: long, so that it would be seen.
LEASE_S = 6.0


class Served:
    """A node, and its server."""

    def __init__(self, node: Node, url: str) -> None:
        self.node = node
        self._url = url

    def ask(self, path: str) -> httpx.Response:
        return plain_http.get(f"{self._url}{path}", timeout=PATIENCE_S)

    def status(self, path: str) -> int:
        return self.ask(path).status_code


@pytest.fixture
def group(any_redis: RedisServer, tmp_path: Path) -> Iterator[tuple[Served, Served]]:
    """A primary, a standby that has all, and nobody who takes over."""
    with ExitStack() as stack:
        served = []
        for name in ("a", "b"):
            data_dir = tmp_path / name
            node = Node(KV(), group="g", name=name, redis=any_redis.url, data_dir=data_dir, lease_s=LEASE_S)
            stack.enter_context(node)
            server = stack.enter_context(WebServer(health_app(node)))
            served.append(Served(node, server.url))
        served[0].node.promote(timeout_s=PATIENCE_S)
        served[0].node.submit(put("k", 1))
        in_step(*(each.node for each in served))
        yield served[0], served[1]


@contextmanager
def hanging(server: RedisServer) -> Iterator[None]:
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_probes_are_answered_and_promises_withdrawn_while_redis_hangs(
    any_redis: RedisServer, group: tuple[Served, Served]
) -> None:
    a, b = group
    eventually(lambda: b.status("/standby?lag=0&lag_s=60") == 200, "a standby in sync")
    # (on a busy machine the primary may have been without its lease for a moment)
    eventually(lambda: (a.status("/primary"), b.status("/primary")) == (200, 503), "one primary")
    eventually(lambda: (a.status("/read-only?lag_s=0"), a.status("/standby")) == (200, 503), "no standby")
    with hanging(any_redis):
        # the lease runs out on the node's own clock, and nobody has to tell it
        eventually(lambda: a.status("/primary") == 503, "a primary without a lease")
        assert not a.node.leads
        # a standby may lack what came since its last look, and knows for how long that has been
        eventually(lambda: b.status("/standby?lag_s=1") == 503, "a standby that may be stale")
        assert b.ask("/standby?lag_s=1").json()["error"] == "behind"
        # whoever sets no limit may read on
        assert b.status("/standby") == b.status("/standby?lag_s=86400") == 200
        for name in PROBES:
            assert a.status(f"/{name}") in (200, 503)
    eventually(lambda: a.status("/primary") == 200, "a primary that renewed its lease")
    eventually(lambda: b.status("/standby?lag_s=60&lag=0") == 200, "a standby that follows again")


def test_the_members_and_the_history_are_told_by_every_node(group: tuple[Served, Served]) -> None:
    a, b = group

    def roles(of: Served) -> dict[str, Any]:
        return {each["node"]: each["role"] for each in of.ask("/cluster").json()["nodes"]}

    def told_by(of: Served) -> dict[str, Any]:
        found: dict[str, Any] = of.ask("/history").json()
        assert (found["group"], found["seen_by"]) == ("g", of.node.name)
        return found

    for each in (a, b):
        eventually(lambda each=each: roles(each) == {"a": "primary", "b": "standby"}, "all members")
        told = eventually(lambda each=each: told_by(each)["entries"], "a history")[0]
        assert (told["what"], told["term"], told["node"], told["boot"]) == ("found", 1, "a", a.node.boot)
    b.node.promote(timeout_s=PATIENCE_S, reason="a drill")
    for each in (a, b):
        newest = lambda each=each: told_by(each)["entries"][-1]  # noqa: E731
        eventually(lambda newest=newest: (newest()["node"], newest()["reason"]) == ("b", "a drill"), "another leader")
        assert (newest()["ended_node"], newest()["ended_term"]) == ("a", 1)
        assert told_by(each)["complete"] is True
    eventually(lambda: roles(a) == {"a": "standby", "b": "primary"}, "the old primary sees the new one")
