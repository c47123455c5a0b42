"""What Redis vouches for, on every server at hand: that replicas have it (WAIT), that its own disk has it (WAITAOF).

Redis answers both for what was written before the last write of the connection that asks, and some servers vouch for
anything if that connection never wrote. So a confirmation is a renewal of the lease, and then the question.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from replicator import ConfigError, Node, NotAcknowledged
from replicator.format.ids import Writer
from replicator.log.interface import Confirmation
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Code
from replicator.sandbox.redis_server import RedisServer, ServerBinary
from tests.support.kv import KV, PATIENCE_S, eventually, in_step, in_thread, push, pushed
from tests.support.worlds import GROUP, LEASE_MS, Author, lead, promote

RedisFactory = Callable[..., RedisServer]

#: How long Redis is given where it is to say no.
SHORT_MS = 100

#: And where it is to say yes, which it does at once: long enough for a busy machine.
LONG_MS = int(PATIENCE_S * 1000)


class Pair:
    """A master with one replica, and an author that holds the term there."""

    def __init__(self, factory: RedisFactory, binary: ServerBinary, **config: str) -> None:
        quick = {"repl-diskless-sync-delay": 0, **config}
        self.master = factory(binary=binary, unix_socket=False, port=0, config=quick)
        # Before the replica: the first one that attaches makes it another run.
        follow = {**quick, "replicaof": ["127.0.0.1", str(self.master.port)]}
        self.replica = factory(binary=binary, unix_socket=False, port=0, config=follow)
        eventually(self._follows)
        self.log = RedisLog(self.master.url, GROUP, timeout_s=PATIENCE_S)  # it waits no longer than for any answer
        self.author = lead(self.log)

    def _follows(self) -> bool:
        with redis.Redis.from_url(self.replica.url) as client:
            return bool(client.info("replication")["master_link_status"] == "up")

    def confirm(self, timeout_ms: int, *, replicas: int = 1, log: RedisLog | None = None) -> Confirmation:
        return confirm(log or self.log, self.author, timeout_ms, replicas=replicas)


def confirm(
    log: RedisLog, author: Author, timeout_ms: int, *, replicas: int = 0, fsynced: bool = False
) -> Confirmation:
    return log.confirm(author.writer, author.term, LEASE_MS, replicas=replicas, fsynced=fsynced, timeout_ms=timeout_ms)


@pytest.fixture
def pair(redis_factory: RedisFactory, redis_binary: ServerBinary) -> Iterator[Pair]:
    pair = Pair(redis_factory, redis_binary)
    yield pair
    pair.replica.resume()
    pair.log.close()


def knows_waitaof(binary: ServerBinary) -> bool:
    return binary.flavour == "valkey" or binary.version >= (7, 2, 0)


class TestReplicas:
    def test_a_replica_that_has_it_is_counted(self, pair: Pair) -> None:
        pair.author.append()
        assert pair.confirm(LONG_MS).reply.code is Code.OK
        assert pair.confirm(LONG_MS).have == 1

    def test_one_that_hangs_is_not(self, pair: Pair) -> None:
        assert pair.confirm(LONG_MS).have == 1
        pair.replica.pause()
        pair.author.append()
        assert pair.confirm(SHORT_MS) == Confirmation(pair.log.renew(pair.author.writer, 1, LEASE_MS), 0)
        pair.replica.resume()
        assert pair.confirm(LONG_MS).have == 1

    def test_more_than_there_are_are_waited_for_in_vain(self, pair: Pair) -> None:
        pair.author.append()
        # It is 0 where even the one that there is was late.
        assert eventually(lambda: pair.confirm(SHORT_MS, replicas=2).have) == 1

    def test_a_repeat_that_wrote_nothing_gives_no_false_assurance(self, pair: Pair) -> None:
        """Some servers vouch for a connection's own writes only, and a duplicate writes nothing."""
        pair.replica.pause()
        record = pair.author.change()
        assert pair.log.append(record).code is Code.OK
        again = RedisLog(pair.master.url, GROUP)  # as after a lost answer: on a connection that has written nothing
        assert again.append(record).code is Code.DUPLICATE
        assert pair.confirm(SHORT_MS, log=again).have == 0
        again.close()

    def test_a_connection_that_asks_for_the_first_time_gives_no_false_assurance(self, pair: Pair) -> None:
        pair.replica.pause()
        pair.author.append()
        assert pair.confirm(SHORT_MS).have == 0
        pair.author.append()
        assert pair.confirm(SHORT_MS).have == 0

    def test_a_fenced_writer_gets_the_refusal_and_no_answer(self, pair: Pair) -> None:
        promote(pair.log, "b")
        with redis.Redis.from_url(pair.master.url) as client:
            lease = client.get(f"replicator:{{{GROUP}}}:lease")
            confirmation = pair.confirm(LONG_MS)
            assert confirmation.reply.code is Code.FENCED
            assert (confirmation.reply.term, confirmation.reply.node, confirmation.have) == (2, "b", 0)
            assert client.get(f"replicator:{{{GROUP}}}:lease") == lease

    def test_another_boot_gets_the_refusal(self, pair: Pair) -> None:
        pair.author.writer = Writer("a", "another")
        assert pair.confirm(LONG_MS).reply.code is Code.FENCED

    def test_a_redis_that_came_back_gets_no_assurance_for_what_it_may_have_lost(self, pair: Pair) -> None:
        pair.author.append()
        assert pair.confirm(LONG_MS).have == 1
        pair.master.kill()
        pair.master.start()
        log = RedisLog(pair.master.url, GROUP)
        assert pair.confirm(LONG_MS, log=log) == Confirmation(log.renew(pair.author.writer, 1, LEASE_MS), 0)
        assert pair.confirm(LONG_MS, log=log).reply.code is Code.NEW_RUN
        log.close()

    def test_it_renews_the_lease(self, pair: Pair) -> None:
        promote(pair.log, "a", lease_ms=50)
        pair.author.term = 2
        pair.confirm(LONG_MS)
        assert (pair.log.look().lease_ms or 0) > 10_000

    def test_whoever_writes_meanwhile_does_not_wait_behind_it(self, pair: Pair) -> None:
        pair.replica.pause()
        with ThreadPoolExecutor(1) as thread, redis.Redis.from_url(pair.master.url) as client:
            waiting = thread.submit(pair.confirm, LONG_MS)
            eventually(lambda: client.info("clients")["blocked_clients"] == 1, "a WAIT")
            for _ in range(5):
                assert pair.author.append().code is Code.OK
            pair.log.look()
            assert not waiting.done()
            pair.replica.resume()
            assert waiting.result(PATIENCE_S).have == 1

    def test_it_does_not_wait_longer_than_redis_may_take_to_answer(self, pair: Pair) -> None:
        pair.replica.pause()
        pair.author.append()
        pair.confirm(SHORT_MS)  # the connection is there
        log = RedisLog(pair.master.url, GROUP, timeout_s=1.5, connections=pair.log.connections)
        for timeout_ms in (0, 60_000):  # to Redis, 0 is for ever
            assert pair.confirm(timeout_ms, log=log).have == 0


class TestDisk:
    @pytest.fixture
    def log(self, redis_factory: RedisFactory, redis_binary: ServerBinary) -> Iterator[RedisLog]:
        server = redis_factory(binary=redis_binary, config={"appendfsync": "everysec"})
        log = RedisLog(server.url, GROUP, timeout_s=PATIENCE_S)
        yield log
        log.close()

    def test_a_server_that_can_says_when_it_is_on_its_disk(self, log: RedisLog, redis_binary: ServerBinary) -> None:
        if not knows_waitaof(redis_binary):
            pytest.skip("it knows no WAITAOF")
        author = lead(log)
        author.append()
        assert confirm(log, author, LONG_MS, fsynced=True).have == 1

    def test_it_does_not_say_so_before(self, redis_factory: RedisFactory, redis_binary: ServerBinary) -> None:
        if not knows_waitaof(redis_binary):
            pytest.skip("it knows no WAITAOF")
        log = RedisLog(redis_factory(binary=redis_binary, config={"appendfsync": "no"}).url, GROUP)
        author = lead(log)
        assert confirm(log, author, SHORT_MS, fsynced=True).have == 0
        author.append()
        assert confirm(log, author, SHORT_MS, fsynced=True).have == 0
        log.close()

    def test_a_server_that_knows_no_waitaof_says_what_to_do(self, log: RedisLog, redis_binary: ServerBinary) -> None:
        if knows_waitaof(redis_binary):
            pytest.skip("it knows WAITAOF")
        author = lead(log)
        with pytest.raises(ConfigError, match=r"fsynced: .*7\.2 or Valkey.*`appendfsync always`"):
            confirm(log, author, LONG_MS, fsynced=True)
        assert author.append().code is Code.OK

    def test_a_server_without_an_aof_says_what_to_do(
        self, redis_factory: RedisFactory, redis_binary: ServerBinary
    ) -> None:
        log = RedisLog(redis_factory(binary=redis_binary, config={"appendonly": "no"}).url, GROUP)
        author = lead(log)
        with pytest.raises(ConfigError, match=r"fsynced: .*an AOF.*`appendfsync always`"):
            confirm(log, author, LONG_MS, fsynced=True)
        assert author.append().code is Code.OK
        log.close()

    def test_a_fenced_writer_gets_the_refusal(self, log: RedisLog) -> None:
        author = lead(log)
        promote(log, "b")
        assert confirm(log, author, LONG_MS, fsynced=True).reply.code is Code.FENCED


class TestNodes:
    @pytest.fixture
    def start(self, tmp_path: Path) -> Iterator[Callable[..., Node]]:
        nodes: list[Node] = []

        def start(name: str, url: str, ack: str) -> Node:
            nodes.append(Node(KV(), group="g", name=name, redis=url, data_dir=tmp_path / name, ack=ack, lease_s=5.0))
            nodes[-1].start()
            return nodes[-1]

        yield start
        for node in nodes:
            node.stop()

    def test_many_writers_wait_for_a_replica_together(self, pair: Pair, start: Callable[..., Node]) -> None:
        a = start("a", pair.master.url, "replicated:1")
        a.promote(timeout_s=PATIENCE_S)
        for done in [in_thread(lambda t=t: [a.submit(push([t, i])) for i in range(10)]) for t in range(6)]:
            done()
        assert len(pushed(a)) == 60
        pair.replica.pause()
        with pytest.raises(NotAcknowledged, match="0 of 1 replica has it"):
            a.submit(push("x"), timeout_s=3.0)
        pair.replica.resume()
        a.submit(push("y"))
        assert pushed(a)[-2:] == ["x", "y"]

    def test_a_standby_acknowledges(self, redis_server: RedisServer, start: Callable[..., Node]) -> None:
        a, b = start("a", redis_server.url, "applied:1"), start("b", redis_server.url, "appended")
        a.promote(timeout_s=PATIENCE_S)
        for i in range(20):
            a.submit(push(i))
            assert len(pushed(b)) >= i, "on its disk before it is applied"
        in_step(a, b)
        assert pushed(b) == list(range(20))

    def test_a_server_that_cannot_is_told_and_the_change_is_in_the_log(
        self, redis_factory: RedisFactory, redis_binary: ServerBinary, start: Callable[..., Node]
    ) -> None:
        server = redis_factory(binary=redis_binary, config={"appendonly": "no"})
        a = start("a", server.url, "fsynced")
        a.promote(timeout_s=PATIENCE_S)
        with pytest.raises(NotAcknowledged, match="appendfsync always"):
            a.submit(push("x"))
        assert pushed(a) == ["x"]
