"""What a network and a real server can do to a client of the log, on every server at hand."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import redis

from replicator.errors import ConfigError, LogUnavailable, OutcomeUnknown
from replicator.format.ids import ERA, ZERO_ID, Position, RecordId, Writer
from replicator.log.interface import Ack, Log
from replicator.log.redis_log import RedisLog
from replicator.log.scripts import SCRIPTS, _Script
from replicator.protocol.group import Code, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.redis_server import RedisServer, ServerBinary
from tests.conftest import RedisFactory
from tests.support.worlds import GROUP, LEASE_MS, LOG_ID, Author, RedisWorld, ids, lead, looked, promote


@pytest.fixture(scope="module")
def _world(redis_binary: ServerBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisWorld]:
    world = RedisWorld(redis_binary, tmp_path_factory.mktemp("redis"))
    yield world
    world.close()


@pytest.fixture
def world(_world: RedisWorld) -> Iterator[RedisWorld]:
    _world.flush()
    yield _world
    _world.admin.config_set("maxmemory", 0)
    _world.admin.config_set("maxmemory-policy", "noeviction")
    _world.forget_clients()


@pytest.fixture
def log(world: RedisWorld) -> RedisLog:
    return world.log()


@pytest.fixture
def proxy(world: RedisWorld) -> Iterator[Proxy]:
    assert world.server.socket_path is not None
    with Proxy(world.server.socket_path) as proxy:
        yield proxy


@pytest.fixture
def far(proxy: Proxy) -> Iterator[RedisLog]:
    """A log whose connections go through the proxy."""
    log = RedisLog(proxy.url, GROUP, timeout_s=3)
    yield log
    log.close()


def calls(world: RedisWorld, command: str = "evalsha") -> int:
    """How often the server was sent this command."""
    stats = world.admin.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def in_thread(call: Callable[[], Any]) -> Future[Any]:
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


WRITES: dict[str, Callable[[Log, Author], Any]] = {
    "append": lambda log, author: log.append(author.change("again")),
    "part": lambda log, author: log.part(author.part(0, 1, as_of=author.position)),
    "promote": lambda log, author: promote(log, "b"),
    "renew": lambda log, author: log.renew(author.writer, 1, LEASE_MS),
    "give_back": lambda log, author: log.give_back(author.writer, 1),
    "beat": lambda log, author: log.beat(Heartbeat("a", "1")),
    "ask": lambda log, author: log.ask("snapshot", by="ann"),
}
READS: dict[str, Callable[[Log, Author], Any]] = {
    "look": lambda log, author: log.look(),
    "read": lambda log, author: log.read(ZERO_ID, asks_after="0-0"),
    "find": lambda log, author: log.find(RecordId(1, 1)),
}
CALLS = WRITES | READS


# --- replies that are lost, requests that are late -------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
def test_a_request_whose_reply_is_lost_is_sent_once(
    name: str, world: RedisWorld, log: RedisLog, proxy: Proxy, far: RedisLog
) -> None:
    CALLS[name](far, lead(log))  # the connection is there, the script is known
    author = lead(log)
    sent = proxy.requests_sent
    lost = proxy.drop_reply_after()
    with pytest.raises(LogUnavailable) as caught:
        CALLS[name](far, author)
    assert type(caught.value) is (OutcomeUnknown if name in WRITES else LogUnavailable)
    assert lost.wait(1)
    assert proxy.requests_sent == sent + 1
    time.sleep(0.02)
    assert proxy.requests_sent == sent + 1


def test_the_server_itself_sees_one_evalsha_for_a_lost_reply(
    world: RedisWorld, log: RedisLog, proxy: Proxy, far: RedisLog
) -> None:
    author = lead(log)
    author.append()
    far.append(author.change("warm"))
    author.position = far.look().head.position  # type: ignore[union-attr]
    before = calls(world)
    proxy.drop_reply_after()
    with pytest.raises(OutcomeUnknown):
        far.append(author.change("x"))
    assert calls(world) == before + 1


def test_an_append_whose_reply_is_lost_is_there_and_lands_once(log: RedisLog, proxy: Proxy, far: RedisLog) -> None:
    """G4."""
    author = lead(log)
    record = author.change()
    far.append(record)
    author.position = record.position
    record = author.change("x")
    proxy.drop_reply_after()
    with pytest.raises(OutcomeUnknown):
        far.append(record)
    assert ids(log) == ["1-1", "1-2", "1-3"]
    assert far.append(record) == Reply(Code.DUPLICATE, id=record.id)
    assert ids(log) == ["1-1", "1-2", "1-3"]


def test_a_part_whose_reply_is_lost_is_there_and_lands_once(log: RedisLog, proxy: Proxy, far: RedisLog) -> None:
    author = lead(log)
    far.part(author.part(0, as_of=author.position))
    record = author.part(0, 1, as_of=author.position)
    author.position = far.look().head.position  # type: ignore[union-attr]
    record = author.part(1, 2, as_of=author.position)
    proxy.drop_reply_after()
    with pytest.raises(OutcomeUnknown):
        far.part(record)
    assert far.part(record) == Reply(Code.DUPLICATE, id=record.id)
    assert ids(log) == ["1-1", "1-2", "1-3"]


def test_a_promotion_whose_reply_is_lost_is_not_taken_twice_with_an_expectation(
    log: RedisLog, proxy: Proxy, far: RedisLog
) -> None:
    """G1."""
    lead(log, "a")
    lead(far, "a")
    proxy.drop_reply_after()
    with pytest.raises(OutcomeUnknown):
        promote(far, "b", expect=2)
    assert promote(far, "b", expect=2) == Reply(Code.CONFLICT, term=3, node="b")
    assert log.look().term == 3


def test_a_promotion_whose_reply_is_lost_and_repeated_anyway_takes_two_terms(
    log: RedisLog, proxy: Proxy, far: RedisLog
) -> None:
    lead(far, "a")
    proxy.drop_reply_after()
    with pytest.raises(OutcomeUnknown):
        promote(far, "b")
    assert promote(far, "b").term == 3
    assert ids(log) == ["1-1", "2-2", "3-3"]


def test_an_append_that_is_held_back_until_another_was_promoted_changes_nothing(
    world: RedisWorld, log: RedisLog, proxy: Proxy, far: RedisLog
) -> None:
    """G1."""
    author = lead(log, "a")
    author.log = far
    author.append("warm")
    proxy.hold_requests(matching=b"EVALSHA")
    late = in_thread(lambda: author.append("late"))
    proxy.wait_held()
    proxy.cut()
    with pytest.raises(OutcomeUnknown):
        late.result(5)
    lead(log, "b")
    before, called = world.contents(), calls(world)
    proxy.release_requests()
    wait_until(lambda: calls(world) == called + 1)
    assert world.contents() == before
    assert ids(log) == ["1-1", "1-2", "2-3"]


def test_an_append_that_is_held_back_and_still_in_time_lands_once(
    world: RedisWorld, log: RedisLog, proxy: Proxy, far: RedisLog
) -> None:
    author = lead(log, "a")
    author.log = far
    author.append("warm")
    record = author.change("late")
    proxy.hold_requests(matching=b"EVALSHA")
    late = in_thread(lambda: far.append(record))
    proxy.wait_held()
    proxy.cut()
    with pytest.raises(OutcomeUnknown):
        late.result(5)
    assert log.append(record).code is Code.OK, "the repeat overtakes the first attempt"
    called = calls(world)
    proxy.release_requests()
    wait_until(lambda: calls(world) == called + 1)
    assert ids(log) == ["1-1", "1-2", "1-3"]


def test_a_promotion_that_is_held_back_is_refused_by_what_it_expects(
    world: RedisWorld, log: RedisLog, proxy: Proxy, far: RedisLog
) -> None:
    """G1."""
    lead(far, "a")
    proxy.hold_requests(matching=b"EVALSHA")
    late = in_thread(lambda: promote(far, "b", expect=1))
    proxy.wait_held()
    lead(log, "c")
    before = world.contents()
    proxy.release_requests()
    assert late.result(5) == Reply(Code.CONFLICT, term=2, node="c")
    assert world.contents() == before


def test_a_server_that_does_not_answer_in_time_leaves_the_outcome_unknown(world: RedisWorld, proxy: Proxy) -> None:
    author = lead(world.log())
    hasty = RedisLog(proxy.url, GROUP, timeout_s=0.2)
    author.log = hasty
    author.append("warm")
    record = author.change("x")
    proxy.stall("replies")
    with pytest.raises(OutcomeUnknown):
        hasty.append(record)
    proxy.go()
    assert hasty.append(record).code is Code.DUPLICATE
    hasty.close()


def test_what_was_certainly_not_sent_is_unavailable_and_not_unknown(proxy: Proxy, far: RedisLog) -> None:
    author = lead(far)
    proxy.refuse()
    proxy.cut()
    with pytest.raises(LogUnavailable):
        far.append(author.change())
    for call in CALLS.values():
        with pytest.raises(LogUnavailable):  # the first call of each connection finds it cut
            call(far, author)
    for call in CALLS.values():
        with pytest.raises(LogUnavailable) as caught:
            call(far, author)
        assert type(caught.value) is LogUnavailable
    proxy.accept()
    assert far.append(author.change()).code is Code.OK


def test_after_a_cut_the_log_connects_again_by_itself(proxy: Proxy, far: RedisLog) -> None:
    author = lead(far)
    author.log = far
    author.append()
    proxy.cut()
    record = author.change()
    with pytest.raises(OutcomeUnknown):
        far.append(record)
    assert far.append(record).code in (Code.OK, Code.DUPLICATE)


@pytest.mark.parametrize("url", ["redis://:geheim@127.0.0.1:1/0", "redis://ann:geheim@127.0.0.1:1/0?password=geheim"])
def test_a_password_is_not_shown_in_an_error(url: str) -> None:
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1:1") as caught:
        RedisLog(url, "g").look()
    assert "geheim" not in str(caught.value)
    with pytest.raises(ConfigError) as refused:
        RedisLog(url.replace("redis:", "http:"), "g")
    assert "geheim" not in str(refused.value)


def test_nobody_listens(tmp_path: Path) -> None:
    log = RedisLog(f"unix://{tmp_path}/none.sock", "g")
    for call in CALLS.values():
        with pytest.raises(LogUnavailable, match="not available"):
            call(log, Author(log, Writer("a", "1"), 1, Position(RecordId(1, 1), "0" * 32)))


# --- runs ------------------------------------------------------------------------------------------------------------


def replicate(admin: Any, port: int) -> None:
    """Follow the server at `port`, and wait until its data is there."""
    admin.replicaof("127.0.0.1", port)
    wait_until(lambda: admin.info("replication")["master_link_status"] == "up")


def test_a_master_that_was_a_replica_for_a_while_is_another_run(
    redis_factory: RedisFactory, redis_binary: ServerBinary
) -> None:
    """G3. It was not restarted and no connection was cut, but it has the other one's data now."""
    quick = {"repl-diskless-sync-delay": 0}
    server, other = (redis_factory(binary=redis_binary, port=0, config=quick) for _ in range(2))
    log = RedisLog(server.url, GROUP)
    author = lead(log)
    author.append()
    before = log.look()
    with redis.Redis.from_url(server.url) as admin, redis.Redis.from_url(other.url) as new_master:
        id_before = admin.info("server")["run_id"]
        replicate(new_master, server.port or 0)
        new_master.replicaof("NO", "ONE")
        author.log.append(author.change("will be lost"))
        replicate(admin, other.port or 0)
        admin.replicaof("NO", "ONE")
        assert admin.info("server")["run_id"] == id_before
    assert log.look().run != before.run
    assert author.append().code is Code.NEW_RUN
    after = lead(log, "b")
    assert after.term == ERA + 1
    assert after.append().code is Code.OK, "each connection learns the new run"


def test_the_first_replica_is_a_new_run_in_which_all_goes_on(
    redis_factory: RedisFactory, redis_binary: ServerBinary
) -> None:
    quick = {"repl-diskless-sync-delay": 0}
    server, other = (redis_factory(binary=redis_binary, port=0, config=quick) for _ in range(2))
    log = RedisLog(server.url, GROUP)
    author = lead(log)
    author.append()
    before = log.look()
    with redis.Redis.from_url(other.url) as replica:
        replicate(replica, server.port or 0)
    assert author.append().code is Code.OK, "nobody has noticed yet, and nothing was lost"
    assert log.look().run != before.run
    assert author.append().code is Code.NEW_RUN
    author = lead(log)
    assert author.append().code is Code.OK
    assert ids(log) == ["1-1", "1-2", "1-3", f"{ERA + 1}-4", f"{ERA + 1}-5"]


def test_the_run_that_a_connection_learns_is_the_one_that_the_scripts_give(world: RedisWorld, log: RedisLog) -> None:
    reply = promote(log, "a")
    assert reply.code is Code.OK
    info = world.admin.info("server") | world.admin.info("replication")
    run = f"{info['run_id'][:16]}-{info['master_replid'][:16]}"
    assert log.look().run == run
    opened = log._finder.open()
    assert opened.run == run
    opened.wire.close()


def test_a_log_connects_again_as_often_as_it_must(world: RedisWorld, log: RedisLog) -> None:
    """redis-py's pools make a hundred connections, and then no more."""
    for _ in range(110):
        log.newest_ask()
        world.admin.client_kill_filter(skipme=True)
        with pytest.raises(LogUnavailable):
            log.newest_ask()
    assert log.newest_ask() == "0-0"


# --- scripts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_loads(name: str, world: RedisWorld) -> None:
    script = _Script(name)
    assert world.admin.script_load(script.text) == script.sha.decode()


def test_the_write_itself_makes_no_log(world: RedisWorld) -> None:
    """The fence looks first whether there is a log; had it been passed, XADD would not make one either."""
    fence = (resources.files("replicator.log") / "lua" / "fence.lua").read_text()
    keys = [world.key(name) for name in ("term", "log", "head")]
    assert world.admin.eval(fence + "return add('1-2', '{}', '')", len(keys), *keys) == [b"lost"]
    assert world.admin.keys("*") == []


@pytest.mark.parametrize("name", CALLS)
def test_a_server_that_forgot_the_scripts_is_told_again(name: str, world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    world.admin.script_flush()
    CALLS[name](log, author)
    world.admin.script_flush()
    assert lead(log, "z").append().code is Code.OK


# --- a server that refuses -------------------------------------------------------------------------------------------


def refused(world: RedisWorld, calls: dict[str, Any], log: Log, author: Author, advice: str) -> None:
    """Every one of these calls says what to do, and none of them changes anything."""
    before = world.contents()
    for name, call in calls.items():
        with pytest.raises(LogUnavailable, match=advice) as caught:
            call(log, author)
        assert type(caught.value) is LogUnavailable, name
    assert world.contents() == before


WITHOUT_GIVE_BACK = {name: call for name, call in WRITES.items() if name != "give_back"}  # it frees memory


def test_a_replica_takes_no_writes(world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    world.admin.replicaof("127.0.0.1", "1")
    try:
        refused(world, WRITES, log, author, "READONLY.*point the URL at the master")
        assert log.look().term == 1
    finally:
        world.admin.replicaof("NO", "ONE")


def test_a_server_without_memory_writes_nothing(world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    world.admin.config_set("maxmemory", 1)
    refused(world, WITHOUT_GIVE_BACK, log, author, "OOM.*raise maxmemory")
    assert log.look().term == 1
    world.admin.config_set("maxmemory", 0)
    assert author.append().code is Code.OK


def test_a_server_that_wants_a_password(redis_factory: RedisFactory, redis_binary: ServerBinary) -> None:
    server = redis_factory(binary=redis_binary, config={"requirepass": "secret"})
    log = RedisLog(server.url, GROUP)
    author = Author(log, Writer("a", "1"), 1, Position(RecordId(1, 1), "0" * 32))
    for call in CALLS.values():
        with pytest.raises(LogUnavailable, match="put it into the URL"):
            call(log, author)
    with pytest.raises(LogUnavailable, match="the password in the URL is wrong"):
        RedisLog(f"{server.url}?password=guess", GROUP).look()
    with pytest.raises(LogUnavailable) as caught:
        RedisLog(f"{server.url}?password=guess", GROUP).look()
    assert "guess" not in str(caught.value)
    good = RedisLog(f"{server.url}?password=secret", GROUP)
    assert good.look().head is None
    assert lead(good).append().code is Code.OK


def test_a_password_that_is_asked_for_in_the_middle(redis_factory: RedisFactory, redis_binary: ServerBinary) -> None:
    server = redis_factory(binary=redis_binary)
    log = RedisLog(server.url, GROUP)
    author = lead(log)
    author.append()
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("requirepass", "secret")
        admin.client_kill_filter(skipme=True)
    with pytest.raises(OutcomeUnknown):
        author.append()
    with pytest.raises(LogUnavailable, match="put it into the URL"):
        author.append()


def test_a_user_who_may_only_read(redis_factory: RedisFactory, redis_binary: ServerBinary) -> None:
    server = redis_factory(binary=redis_binary)
    lead(RedisLog(server.url, GROUP))
    with redis.Redis.from_url(server.url) as admin:
        rules = ("~*", "+@read", "+@connection", "+info", "+evalsha", "+eval", "+script", "+time")
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", *rules)
    log = RedisLog(f"{server.url}?username=reader&password=pw", GROUP)
    assert log.look().term == 1
    with pytest.raises(LogUnavailable, match="this user may not do that"):
        promote(log, "b")
    assert log.look().term == 1
    assert ids(log) == ["1-1"]


# --- a user who lacks a right ----------------------------------------------------------------------------------------

#: What a node needs.
RIGHTS = (
    "eval", "evalsha", "info", "get", "set", "incr", "del", "type", "exists", "pttl", "time", "hmget", "hset",
    "hget", "hgetall", "xadd", "xtrim", "xread", "xrevrange", "xrange", "xinfo", "client|setname",
)  # fmt: skip

#: Without these it does not come as far as to a script.
CONNECTING = ("eval", "evalsha", "info", "client|setname")


class Steward:
    """Gives and takes the rights of the user `u`."""

    def __init__(self, world: RedisWorld) -> None:
        self._admin = world.admin
        self._url = f"{world.server.url}?username=u&password=p"
        self.give(*RIGHTS)

    def give(self, *rights: str, keys: str = f"replicator:{{{GROUP}}}:*") -> None:
        allowed = [f"+{right}" for right in rights]
        self._admin.execute_command("ACL", "SETUSER", "u", "reset", "on", ">p", f"~{keys}", "-@all", *allowed)

    def take(self, *rights: str) -> None:
        self.give(*(right for right in RIGHTS if right not in rights))

    def log(self) -> RedisLog:
        return RedisLog(self._url, GROUP)


@pytest.fixture
def steward(world: RedisWorld) -> Iterator[Steward]:
    yield Steward(world)
    world.admin.execute_command("ACL", "DELUSER", "u")


def test_with_all_rights_of_a_node_nothing_is_missing_and_nothing_is_left(world: RedisWorld, steward: Steward) -> None:
    log = steward.log()
    log.check_rights()
    assert world.admin.keys("*") == []
    author = lead(log)
    before, called = world.contents(), calls(world)
    for _ in range(10):
        log.check_rights()
    assert (world.contents(), calls(world)) == (before, called), "once it was seen nobody asks again"
    assert [author.append().code for _ in range(3)] == [Code.OK] * 3
    author.snapshot()
    author.snapshot()


@pytest.mark.parametrize("right", RIGHTS)
def test_a_right_that_is_missing_is_named_with_what_to_do(right: str, world: RedisWorld, steward: Steward) -> None:
    steward.take(right)
    log = steward.log()
    with pytest.raises(LogUnavailable, match=right.partition("|")[0]) as caught:
        log.check_rights()
    assert type(caught.value) is LogUnavailable
    if right not in CONNECTING:
        assert f"the Redis user u may not use {right}, which a node has to: `ACL SETUSER u +{right}`" in str(
            caught.value
        )
    world.admin.delete(f"replicator:{{{GROUP}}}:probe")  # a user who may not delete leaves it for a second
    assert world.admin.keys("*") == []
    steward.give(*RIGHTS)
    log.check_rights()


def test_all_rights_that_are_missing_are_named_together(steward: Steward) -> None:
    steward.take("hset", "xtrim", "xread")
    with pytest.raises(LogUnavailable, match=r"may not use hset, xtrim, xread.*ACL SETUSER u \+hset \+xtrim \+xread`"):
        steward.log().check_rights()


def test_a_user_of_other_keys_is_told_which(world: RedisWorld, steward: Steward) -> None:
    steward.give(*RIGHTS, keys="another:*")
    with pytest.raises(LogUnavailable, match=re.escape(f"`ACL SETUSER u ~replicator:{{{GROUP}}}:*`")):
        steward.log().check_rights()
    with pytest.raises(LogUnavailable, match=re.escape(f"`ACL SETUSER u ~replicator:{{{GROUP}}}:*`")):
        promote(steward.log())
    assert world.admin.keys("*") == []


def test_the_rights_are_looked_at_again_in_another_run_and_after_a_refusal(world: RedisWorld, steward: Steward) -> None:
    log = steward.log()
    author = lead(log)
    log.check_rights()
    steward.take("hset")
    log.check_rights()
    with pytest.raises(OutcomeUnknown):
        author.append()
    with pytest.raises(LogUnavailable, match="may not use hset"):
        log.check_rights()
    steward.give(*RIGHTS)
    log.check_rights()
    world.fail_over(world.copy())
    steward.take("xtrim")
    looked(log, 5)
    with pytest.raises(LogUnavailable, match="may not use xtrim"):
        log.check_rights()
    steward.give(*RIGHTS)


@pytest.mark.parametrize("right", ["set", "incr", "del", "hset", "xadd", "get", "hmget", "xinfo", "time"])
@pytest.mark.parametrize("founds", [True, False], ids=["founds", "goes on"])
def test_a_promotion_for_which_a_right_is_missing_changes_nothing(
    right: str, founds: bool, world: RedisWorld, steward: Steward
) -> None:
    """Least of all does it leave a log without a head."""
    log = steward.log()
    if not founds:
        lead(log)
    before = world.contents()
    steward.take(right)
    if right in ("xinfo",) and founds:
        assert promote(log).code is Code.OK, "it is not needed for that"
        return
    with pytest.raises(LogUnavailable) as caught:
        promote(log, "b")
    assert type(caught.value) is LogUnavailable
    world.admin.delete(f"replicator:{{{GROUP}}}:probe")
    assert world.contents() == before
    steward.give(*RIGHTS)
    assert promote(log, "b").code is Code.OK


def test_an_append_that_stops_in_the_middle_has_an_unknown_outcome_and_a_repeat_ends_it(
    world: RedisWorld, steward: Steward
) -> None:
    """The record is in the stream, and others read it: whoever wrote it must not hear that it is not."""
    log = steward.log()
    author = lead(log)
    author.append()
    steward.take("hset")
    record = author.change("x")
    for _ in range(2):
        with pytest.raises(OutcomeUnknown, match=r"the script append was stopped in the middle: .*hset|user executing"):
            log.append(record)
    assert ids(log) == ["1-1", "1-2", "1-3"]
    assert log.look().head.position.id == RecordId(1, 2)  # type: ignore[union-attr]
    steward.give(*RIGHTS)
    assert log.append(record).code is Code.OK
    assert log.append(record) == Reply(Code.DUPLICATE, id=record.id)
    author.position = record.position
    assert author.append().code is Code.OK
    assert ids(log) == ["1-1", "1-2", "1-3", "1-4"]
    head = log.look().head
    assert head is not None
    assert (head.position, head.changed) == (author.position, RecordId(1, 4))


def test_a_part_that_stops_in_the_middle_has_an_unknown_outcome_and_a_repeat_ends_it(
    world: RedisWorld, steward: Steward
) -> None:
    log = steward.log()
    author = lead(log)
    as_of = author.position
    author.append_part(0, as_of=as_of)
    steward.take("hset")
    last = author.part(1, 2, as_of=as_of)
    with pytest.raises(OutcomeUnknown):
        log.part(last)
    steward.give(*RIGHTS)
    assert log.part(last).code is Code.OK
    author.position = last.position
    assert log.look().head.snapshot_at == as_of.id  # type: ignore[union-attr]
    # The next one cuts the log behind it. What cannot be cut now is cut with the one after.
    steward.take("xtrim")
    as_of = author.position
    first = author.part(0, 1, as_of=as_of)
    with pytest.raises(OutcomeUnknown):
        log.part(first)
    assert log.part(first) == Reply(Code.DUPLICATE, id=first.id)
    author.position = first.position
    assert ids(log)[0] == "1-1"
    steward.give(*RIGHTS)
    author.snapshot()
    assert ids(log) == ["1-4", "1-5", "1-6"]


def test_what_a_pause_and_a_lease_that_is_given_back_did_halfway_is_not_said_to_be_undone(
    world: RedisWorld, steward: Steward
) -> None:
    log = steward.log()
    author = lead(log)
    steward.take("xadd")
    with pytest.raises(OutcomeUnknown, match="pause was stopped in the middle"):
        log.pause("upgrade")
    with pytest.raises(OutcomeUnknown, match="yield was stopped in the middle"):
        log.give_back(author.writer, 1)
    look = log.look()
    assert (look.lease_ms, look.head.paused if look.head else None) == (None, "upgrade")


@pytest.mark.parametrize(
    "line", [b"-ERR user_script:7: attempt to index a nil value", b"-ERR Error running script", b"-WHATEVER"]
)
def test_of_a_script_that_broke_the_outcome_is_unknown(line: bytes, tmp_path: Path) -> None:
    fake = FakeServer(tmp_path, line)
    log = RedisLog(f"unix://{fake.path}", GROUP)
    author = Author(log, Writer("a", "1"), 1, Position(RecordId(1, 1), "0" * 32))
    for name in ("append", "part", "promote", "renew", "give_back", "beat"):
        with pytest.raises(OutcomeUnknown):
            WRITES[name](log, author)
    fake.close()


@pytest.mark.parametrize("word", ["READONLY", "OOM", "NOREPLICAS", "NOPERM", "MISCONF", "BUSY", "WRONGTYPE"])
def test_what_keeps_a_script_from_its_first_write_has_written_nothing(word: str, tmp_path: Path) -> None:
    fake = FakeServer(tmp_path, f"-{word} it does not go".encode())
    log = RedisLog(f"unix://{fake.path}", GROUP)
    author = Author(log, Writer("a", "1"), 1, Position(RecordId(1, 1), "0" * 32))
    for name in ("append", "part", "promote", "renew", "give_back", "beat"):
        with pytest.raises(LogUnavailable) as caught:
            WRITES[name](log, author)
        assert type(caught.value) is LogUnavailable, name
    fake.close()


def test_a_master_without_enough_replicas_writes_nothing(world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    world.admin.config_set("min-replicas-to-write", 1)
    try:
        refused(world, WRITES, log, author, "NOREPLICAS")
    finally:
        world.admin.config_set("min-replicas-to-write", 0)


def test_a_server_that_is_loading(redis_factory: RedisFactory, redis_binary: ServerBinary) -> None:
    server = redis_factory(binary=redis_binary, config={"appendonly": "no"})
    log = RedisLog(server.url, GROUP)
    author = lead(log)
    author.append()
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("rdbcompression", "no")
        admin.mset({f"filler-{i}": "x" * 500_000 for i in range(30)})
        admin.save()
    server.kill()
    # It takes 15 ms for each key, and answers after every 2 MB.
    server.config |= {"key-load-delay": "15000"}
    starting = in_thread(server.start)
    errors = set()
    while not starting.done():
        with contextlib.suppress(OutcomeUnknown):
            try:
                author.append()
            except LogUnavailable as error:
                errors.add(str(error))
        time.sleep(0.005)
    starting.result()
    assert any("LOADING" in error and "it will answer soon" in error for error in errors), errors
    fresh = RedisLog(server.url, GROUP)
    assert ids(fresh) == ["1-1", "1-2"]


INFO = b"run_id:" + b"a" * 40 + b"\r\nmaster_replid:" + b"b" * 40


class FakeServer:
    """Answers INFO as a Redis, and everything else with one line of its own."""

    def __init__(self, directory: Path, line: bytes, *, info: bytes = INFO) -> None:
        self.path = directory / "fake.sock"
        self._line = line
        self._info = b"$%d\r\n%s\r\n" % (len(info), info)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(self.path))
        self._socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        from replicator.sandbox.fault_proxy import split_requests

        buffer = bytearray()
        while chunk := connection.recv(65536):
            buffer += chunk
            for request in split_requests(buffer):
                if b"INFO" in request and b"SETINFO" not in request:
                    connection.sendall(self._info)
                else:
                    connection.sendall(b"+OK\r\n" if b"CLIENT" in request else self._line + b"\r\n")
        connection.close()

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        (b"-LOADING Redis is loading the dataset in memory", "it will answer soon"),
        (b"-MISCONF Redis is configured to save RDB snapshots", "cannot write to its disk"),
        (b"-BUSY Redis is busy running a script", "a script keeps it busy"),
        (b"-NOAUTH Authentication required.", "put it into the URL"),
        (b"-ERR unknown command", "unknown command"),
    ],
)
def test_what_a_server_answers_is_passed_on_with_advice(line: bytes, advice: str, tmp_path: Path) -> None:
    fake = FakeServer(tmp_path, line)
    log = RedisLog(f"unix://{fake.path}", GROUP)
    author = Author(log, Writer("a", "1"), 1, Position(RecordId(1, 1), "0" * 32))
    for call in CALLS.values():
        with pytest.raises(LogUnavailable, match=advice) as caught:
            call(log, author)
        assert type(caught.value) is LogUnavailable
    fake.close()


@pytest.mark.parametrize(
    "line", [b"+OK", b":7", b"$-1", b"*0", b"*1\r\n+perhaps", b"*3\r\n+ok\r\n+1\r\n+1-1", b"*2\r\n+ok\r\n$-1"]
)
def test_of_a_write_whose_answer_cannot_be_understood_the_outcome_is_unknown(line: bytes, tmp_path: Path) -> None:
    fake = FakeServer(tmp_path, line)
    log = RedisLog(f"unix://{fake.path}", GROUP)
    author = Author(log, Writer("a", "1"), 1, Position(RecordId(1, 1), "0" * 32))
    for name in ("append", "part", "promote", "renew", "give_back", "beat"):
        with pytest.raises(OutcomeUnknown, match="as no script of ours does"):
            WRITES[name](log, author)
    fake.close()


def test_what_is_no_redis_is_told_so(tmp_path: Path) -> None:
    fake = FakeServer(tmp_path, b"+OK", info=b"hello")
    with pytest.raises(LogUnavailable, match="is it a Redis"):
        RedisLog(f"unix://{fake.path}", GROUP).look()
    fake.close()


# --- keys that hold something else -----------------------------------------------------------------------------------

USES = {
    "term": ("append", "part", "promote", "renew", "look"),
    "log": ("append", "part", "promote", "look", "read", "find"),
    "head": ("append", "part", "promote", "renew", "look"),
    "lease": ("promote", "renew", "give_back"),
    "commands": ("promote", "ask", "read"),
    "nodes": ("beat", "look"),
}


@pytest.mark.parametrize("key", USES)
def test_a_key_of_the_wrong_type_is_named_and_left_alone(key: str, world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    log.beat(Heartbeat("a", "1"))
    world.admin.delete(world.key(key))
    world.admin.rpush(world.key(key), "something else")
    says = re.escape(f"WRONGTYPE {world.key(key)} holds something else than a ")
    refused(world, {name: CALLS[name] for name in USES[key]}, log, author, says)


@pytest.mark.parametrize("value", ["seven", "", "-1", "1.5", "007", "1e3"])
def test_a_term_key_that_holds_no_term_is_named_and_left_alone(value: str, world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    world.admin.set(world.key("term"), value)
    refused(world, {name: CALLS[name] for name in USES["term"]}, log, author, "BADTERM.*changed by hand")


@pytest.mark.parametrize("value", [2**53 - 1, 2**53, 2**63 - 1, 10**30])
def test_a_term_key_beyond_the_limit_is_not_passed(value: int, world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    world.admin.set(world.key("term"), value)
    refused(world, {"promote": CALLS["promote"]}, log, author, "no more terms")
    assert author.append().code is Code.FENCED


def test_a_term_key_that_no_number_of_lua_holds_is_named(world: RedisWorld, log: RedisLog) -> None:
    lead(log)
    world.admin.set(world.key("term"), "9" * 400)
    with pytest.raises(LogUnavailable, match="was changed by hand") as caught:
        log.look()
    assert world.key("term") in str(caught.value)


def test_one_bad_heartbeat_does_not_hide_the_others(world: RedisWorld, log: RedisLog) -> None:
    lead(log)
    log.beat(Heartbeat("a", "1"))
    for i, bad in enumerate(["", "x", "12 ", "12 {}", '12 {"position": 3}', "12 \xff", "12 null", "9" * 5000 + " {}"]):
        world.admin.hset(world.key("nodes"), f"bad-{i}", bad)
    assert list(log.look().heartbeats) == ["a"]


def test_a_heartbeat_under_another_nodes_name_is_passed_over(world: RedisWorld, log: RedisLog) -> None:
    lead(log)
    log.beat(Heartbeat("a", "1"))
    forged = b"12 " + Heartbeat("a", "2").to_json()
    for name in ("0", "z"):  # before the other one, and behind it
        world.admin.hset(world.key("nodes"), name, forged)
    assert {name: heartbeat.boot for name, heartbeat in log.look().heartbeats.items()} == {"a": "1"}


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("log_id", None, "it has no log_id"),
        ("boot", None, "it has no boot"),
        ("boot", b"\xff", "invalid start byte"),
        ("term", None, "it has no term"),
        ("term", b"five", "'five' is no number"),
        ("term", b"inf", "'inf' is no number"),
        ("term", b"0x10", "'0x10' is no number"),
        ("term", b"9007199254740992", "is too large"),
        ("id", b"nowhere", "'nowhere' is not of the form TERM-N"),
        ("chain", b"tail", "is not of the form TERM-N@CHAIN"),
        ("ends", b"1-7 x", "'x' is not of the form TERM-N"),
        ("part_next", b"-1", "'-1' is no number"),
    ],
)
def test_a_head_that_somebody_else_wrote_is_named_with_what_to_do(
    field: str, value: bytes | None, why: str, world: RedisWorld, log: RedisLog
) -> None:
    lead(log)
    key = world.key("head")
    if value is None:
        world.admin.hdel(key, field)
    else:
        world.admin.hset(key, field, value)
    before = world.contents()
    with pytest.raises(LogUnavailable) as caught:
        log.look()
    text = str(caught.value)
    assert f"something else than replicator wrote to {key} (" in text
    assert why in text
    assert world.contents() == before
    # and what it says to do leads out of it
    assert "`replicator recover` mends it" in text
    assert (
        promote(log, "b", new_log_id=LOG_ID, anew=True, floor=1, unfollowed=caught.value.look.last_id).code is Code.OK
    )
    assert log.look().head is not None


def test_a_field_of_the_head_that_nobody_knows_is_nobodys_concern(world: RedisWorld, log: RedisLog) -> None:
    lead(log)
    before = log.look().head
    world.admin.hset(world.key("head"), b"\xff", b"\xff")
    assert log.look().head == before


def test_an_ask_and_an_ack_that_somebody_else_wrote_hide_no_others(world: RedisWorld, log: RedisLog) -> None:
    lead(log)
    for name in ("commands", "acks"):
        world.admin.xadd(world.key(name), {b"\xff": b"\xff", b"ask": b"\xff"})
    log.ask("snapshot", by="ann")
    log.ack(Ack("b", RecordId(1, 1)))
    batch = log.read(None, asks_after="0-0", acks_after="0-0")
    assert [(ask.what, ask.by) for ask in batch.asks][-2:] == [("\N{REPLACEMENT CHARACTER}", ""), ("snapshot", "ann")]
    assert list(batch.acks) == [Ack("b", RecordId(1, 1))]


def test_half_a_log_is_lost_and_not_founded_over(world: RedisWorld, log: RedisLog) -> None:
    for half in ("log", "head"):
        world.flush()
        author = lead(log)
        world.admin.delete(world.key(half))
        before = world.contents()
        assert author.append() == Reply(Code.LOST)
        assert log.renew(author.writer, 1, LEASE_MS) == Reply(Code.LOST)
        assert promote(log, "b") == Reply(Code.LOST)
        assert log.look().head is None
        assert world.contents() == before


def test_a_stray_record_that_was_deleted_is_still_in_the_way(world: RedisWorld, log: RedisLog) -> None:
    author = lead(log)
    stray = world.admin.xadd(world.key("log"), {"hello": "world"}).decode()
    world.admin.xdel(world.key("log"), stray)
    assert author.append() == Reply(Code.STRAY, id=RecordId.parse(stray))
    assert str(log.look().last_id) == stray


# --- eviction, durability --------------------------------------------------------------------------------------------


def test_an_evicted_term_key_does_not_let_a_term_go_back(world: RedisWorld, log: RedisLog) -> None:
    """G3."""
    lead(log, "a")
    author = lead(log, "a", floor=40)
    assert author.term == 41
    # By frequency, so that the test can say which keys stay: those of the log that are used all the time.
    world.admin.config_set("maxmemory-policy", "allkeys-lfu")
    world.admin.config_set("maxmemory-samples", 10)
    for _ in range(100):
        world.admin.hget(world.key("head"), "id")
        world.admin.xlen(world.key("log"))
    world.admin.config_set("maxmemory", world.admin.info("memory")["used_memory"] + 300_000)
    for i in range(3_000):
        world.admin.set(f"filler-{i}", b"x" * 20_000)
        if not world.admin.exists(world.key("term")):
            break
    assert not world.admin.exists(world.key("term"))
    assert world.admin.exists(world.key("log"), world.key("head")) == 2
    world.admin.config_set("maxmemory", 0)
    assert log.look().term == 41
    assert author.append().code is Code.OK
    assert promote(log, "b").term == 42


@pytest.mark.parametrize("fsync", ["always", "everysec"])
def test_a_server_that_was_killed_comes_back_with_every_acknowledged_record(
    redis_factory: RedisFactory, redis_binary: ServerBinary, fsync: str
) -> None:
    """G4: a killed process loses nothing that it had written to its AOF.

    With `always` that is all that it acknowledged. With `everysec` it acknowledges first, and holds the write back, for
    two seconds at the most, while the fsync before is not done.
    """
    server: RedisServer = redis_factory(binary=redis_binary, config={"appendfsync": fsync})
    log = RedisLog(server.url, GROUP)
    author = lead(log)
    for value in range(20):
        author.append(value)
    if fsync == "everysec":
        wait_until(lambda: any(b"1-21" in path.read_bytes() for path in server.data_dir.rglob("*.aof")))
    server.kill()
    for call in (author.append, log.look, lambda: log.read(ZERO_ID)):
        with pytest.raises(LogUnavailable):
            call()
    server.start()
    assert author.append().code is Code.NEW_RUN, "the connection is a new one, and knows the new run"
    assert ids(log)[-1] == "1-21"
    assert lead(log, "a").position.id == RecordId(ERA + 1, 22)


def test_the_first_write_after_a_restart_is_not_repeated_behind_the_callers_back(
    redis_factory: RedisFactory, redis_binary: ServerBinary
) -> None:
    server = redis_factory(binary=redis_binary)
    log = RedisLog(server.url, GROUP)
    author = lead(log)
    author.append()
    server.restart()
    with pytest.raises(OutcomeUnknown):
        author.append()
    assert author.append().code is Code.NEW_RUN


def test_a_paused_server_is_unavailable_and_then_goes_on(
    redis_factory: RedisFactory, redis_binary: ServerBinary
) -> None:
    server = redis_factory(binary=redis_binary)
    log = RedisLog(server.url, GROUP, timeout_s=0.3)
    author = lead(log)
    author.append()
    record = author.change("x")
    server.pause()
    with pytest.raises(OutcomeUnknown):
        log.append(record)
    server.resume()
    assert log.append(record).code in (Code.OK, Code.DUPLICATE)
    assert ids(log) == ["1-1", "1-2", "1-3"]


def test_threads_may_share_a_log(log: RedisLog) -> None:
    author = lead(log)
    for value in range(50):
        author.append(value)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda i: log.find(RecordId(1, 1 + i % 50)), range(400)))
    assert [record.id.n for record in found if record] == [1 + i % 50 for i in range(400)]
