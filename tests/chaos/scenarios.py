"""Short scripted runs, one for each variant of `broken.py`: made to go wrong if that rule is missing, and only then.

They run over one Redis whose AOF is always written, with three nodes and no client but the script. What a script notes
goes through the same checker as everything else.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from replicator import ReplicatorError, ops
from replicator.log.redis_log import RedisLog
from replicator.sandbox.redis_server import ServerBinary, find_server

from .checker import Event, Verdict, check
from .client import Client, Place
from .cluster import LEASE_S, SETTLE_S, Cluster
from .redises import OneRedis

#: A broken group may never settle. A whole one takes a second, or as long as a busy machine needs.
SETTLE_BROKEN_S = 4.0

T = TypeVar("T")


class Script:
    """What a script does to a cluster. Every method waits until what it does is done."""

    def __init__(self, cluster: Cluster, redis: OneRedis) -> None:
        self.cluster = cluster
        self.redis = redis
        self.client = Client("s", cluster.sockets, cluster.history("script"))

    def lead(self, node: str) -> None:
        """Make this node the primary, whoever took over meanwhile."""
        log = self.redis.open_log()
        try:
            self._until(lambda: self._led_by(node, log), f"{node} leads")
        finally:
            log.close()

    def _led_by(self, node: str, log: RedisLog) -> bool:
        if self.cluster.primary == node:
            return True
        try:
            # By force: where a rule is missing, another node may say that it has more.
            ops.promote(log, node, by="script", force=True, lease_ms=int(LEASE_S * 1000), timeout_s=2.0)
        except (ReplicatorError, TimeoutError):
            return False
        return True

    def write_with_key(self, node: str) -> Place:
        """Write a value there, which has to be taken soon, and may be sent again."""
        return self._led_until(node, lambda: self.client.write(node, "appended", keyed=True), f"{node} takes a write")

    def write_again(self, node: str, place: Place) -> None:
        """Send a value again that is there already."""
        self._led_until(node, lambda: self.client.repeat(node, place), f"{node} answers")

    def another_leads_than(self, node: str) -> str:
        """Wait until another node has taken over; which."""
        others = [name for name in self.cluster.names if name != node]
        return self._until(lambda: next(filter(self._takes_writes, others), None), f"another than {node} leads")

    def _takes_writes(self, node: str) -> bool:
        status = self.cluster.status(node)
        return bool(status) and status["role"] == "primary" and status["takes_writes"]

    def write(self, node: str) -> Place:
        """Write a value there, which has to be taken soon."""
        return self._led_until(node, lambda: self.client.write(node, "appended"), f"{node} takes a write")

    def write_held(self, node: str) -> threading.Thread:
        """Write a value there, which stays on its way to Redis; the thread that waits for the answer."""
        proxy, writers = self.redis.proxies[node], list[threading.Thread]()

        def held() -> bool:
            if not proxy.requests_held and not (writers and writers[-1].is_alive()):
                proxy.hold_requests(matching=self.client.next_value.encode())
                writers.append(threading.Thread(target=self.client.write, args=(node, "appended")))
                writers[-1].start()
            return proxy.requests_held > 0

        self._led_until(node, held, f"{node} sends a write")
        return writers[-1]

    def write_elsewhere(self, node: str) -> Place:
        """Write a value at another node, whichever leads by then: it has to be taken soon."""
        others = [name for name in self.cluster.names if name != node]

        def written() -> Place | None:
            return next(filter(None, (self.client.write(name, "appended") for name in others)), None)

        return self._until(written, f"another than {node} takes a write")

    def try_to_write(self, node: str, seconds: float) -> None:
        """Write there as often as it goes."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.client.write(node, "appended")

    def has(self, node: str, count: int) -> None:
        """Wait until that node has so many values."""
        self._until(lambda: self.cluster.status(node).get("count", 0) >= count, f"{node} has {count} values")

    def saved(self) -> None:
        """Give everybody the time to save."""
        time.sleep(LEASE_S)

    @contextmanager
    def cut_off(self, *nodes: str) -> Iterator[None]:
        """These nodes do not reach Redis meanwhile."""
        for node in nodes:
            self.redis.proxies[node].refuse()
            self.redis.proxies[node].cut()
        yield
        for node in nodes:
            self.redis.proxies[node].accept()

    def kill(self, node: str) -> None:
        began = time.monotonic_ns()
        self.cluster.nodes[node].kill()
        self.cluster.events.append(Event(kind="kill-node", node=node, began=began, ended=time.monotonic_ns()))

    def start(self, node: str) -> None:
        """Start it, and wait until it answers."""
        boot = self.cluster.watchers[node].sightings[-1].boot
        self.cluster.nodes[node].start()
        self._until(lambda: self.cluster.status(node).get("boot", boot) != boot, f"{node} is back")

    def _led_until(self, node: str, holds: Callable[[], T | None], what: str) -> T:
        """Until it does, that node leads: on a busy machine another one may have taken over in the very moment."""

        def led() -> T | None:
            found = holds()
            if not found:
                self.lead(node)
            return found

        return self._until(led, what)

    def _until(self, holds: Callable[[], T | None], what: str) -> T:
        found: list[T] = []

        def found_it() -> bool:
            result = holds()
            if result:
                found.append(result)
            return bool(found)

        assert self.cluster.wait_for(found_it), f"not in time: {what}"
        return found[0]


class Scenario(NamedTuple):
    """A story, and what plays it."""

    story: str
    play: Callable[[Script], None]


def _restarted_primary(script: Script) -> None:
    script.lead("a")
    script.write("a")
    script.saved()
    with script.cut_off("b", "c"):
        script.kill("a")
        script.start("a")
        script.try_to_write("a", 1.0)


def _write_that_is_refused(script: Script) -> None:
    script.lead("a")
    first = script.write("a")
    writer = script.write_held("a")
    reader = Client("r", script.cluster.sockets, script.cluster.history("reader"))
    reader.read("a", first)
    script.lead("b")
    script.redis.proxies["a"].release_requests()
    writer.join()
    script.write_elsewhere("a")


def _divergent_tail_of_a_paused_primary(script: Script) -> None:
    script.lead("a")
    for node in ("b", "c"):
        script.has(node, script.write("a").index + 1)
    with script.cut_off("b", "c"):
        roll_back = script.redis.roll_back()
        script.write("a")
        script.write("a")
        script.saved()
        script.cluster.nodes["a"].pause()
        roll_back()
    script.write(script.another_leads_than("a"))
    script.cluster.nodes["a"].resume()


def _primary_that_knows_no_better(script: Script) -> None:
    script.lead("a")
    script.has("b", script.write("a").index + 1)
    with ExitStack() as others:
        with script.cut_off("a"):
            roll_back = script.redis.roll_back()
            script.write(script.another_leads_than("a"))
            script.saved()
            # The others come back after it: on a busy machine they would be there first, and the story another one.
            others.enter_context(script.cut_off("b", "c"))
            roll_back()
        script.try_to_write("a", 2.0)


def _standby_without_redis(script: Script) -> None:
    script.lead("a")
    script.has("b", script.write("a").index + 1)
    script.kill("b")
    with script.cut_off("b"):
        script.start("b")


def _write_that_is_sent_again(script: Script) -> None:
    script.lead("a")
    place = script.write_with_key("a")
    script.lead("b")
    script.write_again("b", place)


SCENARIOS = {
    "boot-check": Scenario(
        "The primary is killed and restarted, and asked to write before another one takes over: its old boot leads.",
        _restarted_primary,
    ),
    "apply-before-append": Scenario(
        "The primary's append is held up on its way. Meanwhile somebody reads there, and then another one leads.",
        _write_that_is_refused,
    ),
    "reader-term-and-chain": Scenario(
        "Redis comes back without what only the primary has, while that is paused. It wakes up under another one.",
        _divergent_tail_of_a_paused_primary,
    ),
    "keep-holder-over-run": Scenario(
        "A primary that was cut off does not know that it was replaced; nor does Redis, which comes back as it was.",
        _primary_that_knows_no_better,
    ),
    "keys-in-apply": Scenario(
        "A client that heard nothing sends its write again, with the same key, to the next primary.",
        _write_that_is_sent_again,
    ),
    "forget-term": Scenario(
        "A standby is killed, and starts while it cannot reach Redis: what it knows is what it has.",
        _standby_without_redis,
    ),
}


def play(name: str, directory: Path, *, breaks: str = "", binary: ServerBinary | None = None) -> Verdict:
    """Play a scenario, with a rule taken out of every node if `breaks` names one, and check what came of it."""
    redis = OneRedis(directory, binary or find_server(), aof="always")
    with Cluster(directory, redis, breaks=breaks) as cluster:
        script = Script(cluster, redis)
        SCENARIOS[name].play(script)
        cluster.heal()
        return check(cluster.collect(cluster.settle(SETTLE_BROKEN_S if breaks else SETTLE_S)))
