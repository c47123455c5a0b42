"""Whatever hangs between a node and Redis: every call keeps its time, and nothing but Redis itself costs the lease."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import Host, LogUnavailable, Node, OutcomeUnknown, ops
from replicator.log.redis_log import RedisLog
from replicator.log.scripts import SCRIPTS, load_scripts
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.redis_server import RedisServer
from tests.conftest import RedisFactory
from tests.support.kv import KV, PATIENCE_S, eventually, in_step, in_thread, push, pushed, put, submitted
from tests.support.opaque import Text

#: What the callers give. A third of the lease is many times as long, and a caller who keeps Redis' time and not its
#: own takes at least that long. `LATE_S`: what a busy machine adds.
TIMEOUT_S = 0.5
LEASE_S = 27.0
LATE_S = 6.0

#: Within this time what is to be sent, and to get no answer, is sent, also by a busy machine.
SENT_S = 3.0

#: A lease that only a hang costs, and no busy machine.
STEADY_S = 4.5

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def server(redis_factory: RedisFactory) -> RedisServer:
    return redis_factory()


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    assert server.socket_path is not None
    with Proxy(server.socket_path) as proxy:
        yield proxy


class Nodes:
    """Nodes of this test, each of which is stopped at its end."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.started: list[Node] = []

    def __call__(self, name: str, url: str, *, state: Any = None, **options: Any) -> Node:
        options = {"group": "g", "lease_s": LEASE_S} | options
        node = Node(state or KV(), name=name, redis=url, data_dir=self._directory / name, **options)
        node.start()
        self.started.append(node)
        return node

    def primary(self, name: str, url: str, **options: Any) -> Node:
        node = self(name, url, **options)
        node.promote(timeout_s=PATIENCE_S)
        return node


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    yield nodes
    for node in nodes.started:
        node.stop()


class Checking(KV):
    """Tells of a change that is about to be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()

    def check(self, change: Any) -> None:
        self.asked.set()


class Full:
    """Takes the place of a server that listens, and never takes a connection: its backlog is full, as good as a host
    that drops what is sent to it."""

    def __init__(self, port: int) -> None:
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(0)
        self._clients: list[socket.socket] = []
        for _ in range(64):
            client = socket.socket()
            self._clients.append(client)
            client.settimeout(0.2)
            try:
                client.connect(("127.0.0.1", port))
            except TimeoutError:
                return
        raise AssertionError("the backlog does not fill")

    def close(self) -> None:
        for each in (self._listener, *self._clients):
            each.close()


@contextlib.contextmanager
def silent(proxy: Proxy) -> Iterator[None]:
    """What is sent on the connections that there are is not answered."""
    proxy.stall()
    try:
        yield
    finally:
        proxy.go()


@contextlib.contextmanager
def deaf(proxy: Proxy) -> Iterator[None]:
    """The connections end, new ones are taken, and nothing on them is answered."""
    proxy.stall()
    proxy.cut()
    try:
        yield
    finally:
        proxy.go()


@contextlib.contextmanager
def black_hole(proxy: Proxy) -> Iterator[None]:
    """The connections end, and new ones come to nothing."""
    proxy.refuse()
    full = Full(proxy.port)
    proxy.cut()
    try:
        yield
    finally:
        full.close()
        proxy.accept()


HANGS: dict[str, Callable[[Proxy], contextlib.AbstractContextManager[None]]] = {
    "silent": silent,
    "deaf": deaf,
    "black hole": black_hole,
}

each_hang = pytest.mark.parametrize("hang", HANGS.values(), ids=HANGS)


def time_of(call: Callable[[], Any]) -> float:
    """How long it takes to fail."""
    began = time.monotonic()
    with pytest.raises((LogUnavailable, TimeoutError)):
        call()
    return time.monotonic() - began


def read_fresh(node: Node) -> None:
    with node.reading(fresh=True, timeout_s=TIMEOUT_S):
        raise AssertionError("nobody can know what is committed")


CALLS: dict[str, Callable[[Node], Any]] = {
    "submit": lambda node: node.submit(push("x"), timeout_s=TIMEOUT_S),
    "submit_many": lambda node: node.submit_many([push("x")] * 3, timeout_s=TIMEOUT_S),
    "asubmit": lambda node: asyncio.run(node.asubmit(push("x"), timeout_s=TIMEOUT_S)),
    "asubmit_many": lambda node: asyncio.run(node.asubmit_many([push("x")] * 3, timeout_s=TIMEOUT_S)),
    "fresh": read_fresh,
    "replicated": lambda node: node.submit(push("x"), ack="replicated:1", timeout_s=TIMEOUT_S),
    "publish": lambda node: node.publish(timeout_s=TIMEOUT_S),
    "replace": lambda node: node.replace([{}], timeout_s=TIMEOUT_S),
    "promote": lambda node: node.promote(timeout_s=TIMEOUT_S),
    "wait": lambda node: node.wait(n=1000, timeout_s=TIMEOUT_S),
}


# --- every call keeps its time ---------------------------------------------------------------------------------------


@each_hang
@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_over_when_its_time_is_whatever_hangs(name: str, hang: Any, proxy: Proxy, nodes: Nodes) -> None:
    a = nodes.primary("a", proxy.url)
    a.submit(push("before"))
    with hang(proxy):
        # Two, one after the other: the first finds a connection, the second has to have a new one.
        assert max(time_of(lambda: CALLS[name](a)) for _ in range(2)) < TIMEOUT_S + LATE_S


@each_hang
def test_those_who_call_at_the_same_time_do_not_wait_for_one_another(hang: Any, proxy: Proxy, nodes: Nodes) -> None:
    a = nodes.primary("a", proxy.url)
    a.submit(push("before"))
    with hang(proxy):
        calls = [in_thread(lambda call=call: time_of(lambda: call(a))) for call in CALLS.values() for _ in range(3)]
        assert max(call() for call in calls) < TIMEOUT_S + LATE_S


@each_hang
def test_a_state_without_apply_is_published_in_time_or_not_at_all(hang: Any, proxy: Proxy, nodes: Nodes) -> None:
    text = Text([b"first"])
    a = nodes.primary("a", proxy.url, state=text)
    a.publish()
    text.pieces = [b"second"]
    with hang(proxy):
        assert time_of(lambda: a.publish(timeout_s=TIMEOUT_S)) < TIMEOUT_S + LATE_S


@each_hang
def test_the_tools_keep_their_time(hang: Any, proxy: Proxy, nodes: Nodes) -> None:
    nodes.primary("a", proxy.url)
    nodes("b", proxy.url)
    log = RedisLog(proxy.url, "g")
    eventually(lambda: len(log.look().heartbeats) == 2)
    tools: list[Callable[[], Any]] = [
        lambda: ops.promote(log, "b", by="ann", timeout_s=TIMEOUT_S),
        lambda: ops.switchover(log, "b", by="ann", timeout_s=TIMEOUT_S),
        lambda: ops.snapshot(log, by="ann", timeout_s=TIMEOUT_S),
        lambda: ops.verify(log, by="ann", timeout_s=TIMEOUT_S),
        lambda: ops.recover(log, by="ann", timeout_s=TIMEOUT_S),
    ]
    with hang(proxy):
        assert max(map(time_of, tools)) < TIMEOUT_S + LATE_S
    log.close()


@each_hang
def test_a_node_ends_although_everything_hangs(hang: Any, proxy: Proxy, nodes: Nodes) -> None:
    state = Checking()
    a = nodes.primary("a", proxy.url, state=state)
    with hang(proxy):
        writing = in_thread(lambda: time_of(lambda: a.submit(push("x"), timeout_s=PATIENCE_S)))
        assert state.asked.wait(PATIENCE_S), "the write is under way"
        began = time.monotonic()
        a.stop()
        assert time.monotonic() - began < 2 * LEASE_S
        assert writing() < PATIENCE_S


def test_what_has_no_answer_is_settled_before_anything_else_is_written(proxy: Proxy, nodes: Nodes) -> None:
    a = nodes.primary("a", proxy.url)
    b = nodes("b", proxy.url)
    a.submit(push("before"))
    proxy.stall("replies")
    with pytest.raises(OutcomeUnknown):
        a.submit(push("perhaps"), timeout_s=SENT_S)
    with pytest.raises(LogUnavailable) as caught:
        a.submit(push("certainly not"), timeout_s=TIMEOUT_S)
    assert type(caught.value) is LogUnavailable, "nothing was written"
    proxy.go()
    a.submit(push("after"), timeout_s=PATIENCE_S)
    in_step(a, b)
    assert pushed(a) == pushed(b) == ["before", "perhaps", "after"]


def test_who_has_more_time_is_not_told_when_that_of_another_one_is_over(proxy: Proxy, nodes: Nodes) -> None:
    state = Checking()
    a = nodes.primary("a", proxy.url, state=state)
    a.submit(push("before"))
    proxy.stall("replies")
    state.asked.clear()
    hasty = in_thread(lambda: time_of(lambda: a.submit(push("hasty"), timeout_s=SENT_S)))
    assert state.asked.wait(PATIENCE_S), "it is sent, and the others wait behind it"
    patient = [in_thread(lambda number=number: a.submit(push(number), timeout_s=PATIENCE_S)) for number in range(5)] + [
        in_thread(lambda: asyncio.run(a.asubmit(push("task"), timeout_s=PATIENCE_S)))
    ]
    assert hasty() < SENT_S + LATE_S
    proxy.go()
    assert len({each() for each in patient}) == 6, "each has its own place"
    assert sorted(map(str, pushed(a))) == sorted(["before", "hasty", *map(str, range(5)), "task"])


# --- nothing stands between the keeper and its lease -----------------------------------------------------------------


class Watch:
    """Looks at a primary all the time: whether it has its lease, and is not replaced."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._term = node.term
        self._ends = threading.Event()
        self._lost: list[str] = []
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._ends.wait(0.01):
            if self._node.lease_ms is None or self._node.term != self._term:
                self._lost.append(f"lease {self._node.lease_ms}, term {self._node.term}")

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        assert not self._lost, self._lost[0]


def sha_of(script: str) -> bytes:
    assert script in SCRIPTS
    return load_scripts()[script].sha


def test_a_hundred_fresh_readers_on_a_long_line_do_not_cost_the_lease(
    server: RedisServer, proxy: Proxy, nodes: Nodes
) -> None:
    a = nodes.primary("a", proxy.url, lease_s=STEADY_S)
    b = nodes("b", server.url, lease_s=STEADY_S, auto_promote=True)
    a.submit(push("before"))
    proxy.delay(0.02)
    ends = threading.Event()
    reads, errors = [0], []

    def read() -> None:
        while not ends.wait(0.02):  # so that it is the line that is busy, and not this process
            try:
                with a.reading(fresh=True, timeout_s=PATIENCE_S) as state:
                    reads[0] += len(state.pushed) > 0
            except Exception as error:
                errors.append(error)

    with Watch(a):
        readers = [in_thread(read) for _ in range(100)]
        ends.wait(2.5 * STEADY_S)
        ends.set()
        for reader in readers:
            reader()
    assert reads[0] > 0
    assert not errors
    assert b.role == "standby"


@pytest.mark.parametrize("stuck", ["look", "beat"])
def test_a_request_that_hangs_does_not_cost_the_lease(
    stuck: str, server: RedisServer, proxy: Proxy, nodes: Nodes
) -> None:
    a = nodes.primary("a", proxy.url, lease_s=STEADY_S)
    nodes("b", server.url, lease_s=STEADY_S, auto_promote=True)
    with Watch(a):
        proxy.hold_requests(matching=sha_of(stuck))
        proxy.wait_held(timeout_s=PATIENCE_S)
        time.sleep(2 * STEADY_S)
        a.submit(push("all the while"), timeout_s=PATIENCE_S)
        proxy.release_requests()


def test_a_renewal_that_hangs_is_made_again_on_another_connection(proxy: Proxy, nodes: Nodes) -> None:
    a = nodes.primary("a", proxy.url, lease_s=4.5)
    with Watch(a):
        assert proxy.lose_flow(matching=sha_of("renew")).wait(PATIENCE_S)
        time.sleep(6)


def test_a_fresh_read_whose_question_got_lost_asks_again(proxy: Proxy, nodes: Nodes) -> None:
    a = nodes.primary("a", proxy.url, lease_s=3.0)
    submitted(a, push("before"))
    lost = proxy.lose_flow(matching=sha_of("look"))
    while not lost.is_set():
        with a.reading(fresh=True, timeout_s=PATIENCE_S) as state:
            assert state.pushed == ["before"]


def test_a_write_without_an_answer_does_not_cost_the_lease(proxy: Proxy, nodes: Nodes) -> None:
    a = nodes.primary("a", proxy.url, lease_s=STEADY_S)
    a.submit(push("before"))
    with Watch(a):
        proxy.hold_requests(matching=sha_of("append"))
        with pytest.raises(OutcomeUnknown):
            a.submit(push("held"), timeout_s=SENT_S)
        time.sleep(2 * STEADY_S)  # the keeper tries to settle it, again and again
        proxy.release_requests()
    a.submit(push("after"), timeout_s=PATIENCE_S)
    assert pushed(a) == ["before", "held", "after"]


def test_the_nodes_of_a_host_hold_their_leases_whatever_their_keepers_wait_for(proxy: Proxy, tmp_path: Path) -> None:
    with Host(proxy.url) as host:
        made = [
            host.node(KV(), group=f"g{number}", name="a", data_dir=tmp_path / str(number), lease_s=STEADY_S)
            for number in range(5)
        ]
        for node in made:
            node.promote(timeout_s=PATIENCE_S)
        with contextlib.ExitStack() as watches:
            for node in made:
                watches.enter_context(Watch(node))
            proxy.hold_requests(matching=sha_of("look"))
            proxy.wait_held(timeout_s=PATIENCE_S)
            time.sleep(2 * STEADY_S)
            proxy.release_requests()


def test_a_silent_name_server_does_not_cost_what_is_known(
    proxy: Proxy, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = nodes.primary("a", f"redis://localhost:{proxy.port}/0", lease_s=2 * STEADY_S)
    a.submit(put("k", 1))
    speaks = threading.Event()
    resolve = socket.getaddrinfo

    def getaddrinfo(name: str, *args: Any, **more: Any) -> Any:
        if name in ("localhost", "no-such-name.invalid"):  # nobody is asked for what an address stands for
            speaks.wait()
        return resolve(name, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        with Watch(a):
            proxy.cut()
            eventually(lambda: a.submit(put("k", 2), timeout_s=PATIENCE_S) is not None)
            time.sleep(2.5 * STEADY_S)
        unknown = RedisLog("redis://no-such-name.invalid:6379/0", "g", timeout_s=TIMEOUT_S)
        assert time_of(unknown.look) < TIMEOUT_S + LATE_S
        unknown.close()
    finally:
        speaks.set()
