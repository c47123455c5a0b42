"""Replies that are lost, requests that are late, and servers that are killed, replaced or forgetful."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from replicator.errors import ConfigError, LogUnavailable, OutcomeUnknown
from replicator.format.ids import ERA, ZERO_ID, Position, RecordId, Writer
from replicator.log import wire
from replicator.log.redis_log import RedisLog
from replicator.log.scripts import SCRIPTS, _Script
from replicator.protocol.group import Code, Reply
from replicator.sandbox.fault_proxy import Proxy
from replicator.sandbox.redis_server import RedisServer, ServerBinary
from tests.conftest import RedisFactory
from tests.support.kv import PATIENCE_S
from tests.support.log_calls import CALLS, WRITES, calls, in_thread, wait_until
from tests.support.worlds import GROUP, Author, RedisWorld, ids, lead, promote

# --- replies that are lost, requests that are late --------------------------------------------------------------------


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
    assert lost.wait(PATIENCE_S)
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
        late.result(PATIENCE_S)
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
        late.result(PATIENCE_S)
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
    assert late.result(PATIENCE_S) == Reply(Code.CONFLICT, term=2, node="c")
    assert world.contents() == before


def test_a_server_that_does_not_answer_in_time_leaves_the_outcome_unknown(
    world: RedisWorld, log: RedisLog, proxy: Proxy, far: RedisLog
) -> None:
    author = lead(log)
    author.log = far
    author.append("warm")
    record, called = author.change("x"), calls(world)
    # given one that is in a hurry, on the same connections: all that it waits for is the answer
    hasty = RedisLog(proxy.url, GROUP, timeout_s=0.2, connections=far.connections)
    proxy.stall("replies")
    with pytest.raises(OutcomeUnknown):
        hasty.append(record)
    wait_until(lambda: calls(world) == called + 1)
    proxy.go()
    assert far.append(record).code is Code.DUPLICATE


def test_an_append_whose_time_is_over_is_not_sent(log: RedisLog) -> None:
    author = lead(log)
    author.append("first")  # there is a connection
    with pytest.raises(LogUnavailable) as caught, log.within(time.monotonic() - 1).appending(author.change("late")):
        raise AssertionError("it was sent")
    assert type(caught.value) is LogUnavailable
    assert ids(log) == ["1-1", "1-2"]
    assert author.append("in time") == Reply(Code.OK)


def test_an_append_in_two_steps_ends_in_time_as_well(
    world: RedisWorld, log: RedisLog, proxy: Proxy, far: RedisLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = lead(log)
    far.append(author.change())
    author.position = far.look().head.position  # type: ignore[union-attr]
    record, called = author.change("x"), calls(world)
    proxy.stall("replies")
    # given a clock that stands still until the request is out: however busy the machine is, it is sent in time
    now = [time.monotonic()]
    with monkeypatch.context() as patched:
        patched.setattr(wire, "time", SimpleNamespace(monotonic=lambda: now[0]))
        with far.within(now[0] + 0.2).appending(record) as appending:
            now[0] += 1.0
            too_late = threading.Timer(10.0, proxy.go)  # whoever still waits then gets an answer
            too_late.start()
            with pytest.raises(OutcomeUnknown):
                appending.receive()
            too_late.cancel()
    wait_until(lambda: calls(world) == called + 1)
    proxy.go()
    assert far.append(record) == Reply(Code.DUPLICATE, id=record.id)


def test_a_connection_that_breaks_between_the_two_steps_of_an_append_leaves_the_outcome_unknown(
    log: RedisLog, proxy: Proxy, far: RedisLog
) -> None:
    author = lead(log)
    far.append(author.change())
    author.position = far.look().head.position  # type: ignore[union-attr]
    record = author.change("x")
    proxy.stall("replies")  # or the answer is here before the connection breaks
    with far.appending(record) as appending:
        proxy.cut()
        with pytest.raises(OutcomeUnknown):
            appending.receive()
    proxy.go()
    assert far.append(record).code in (Code.OK, Code.DUPLICATE)
    assert ids(log) == ["1-1", "1-2", "1-3"]


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


# --- runs -------------------------------------------------------------------------------------------------------------


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
        log.newest_request()
        world.admin.client_kill_filter(skipme=True)
        with pytest.raises(LogUnavailable):
            log.newest_request()
    assert log.newest_request() == "0-0"


# --- scripts ----------------------------------------------------------------------------------------------------------


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


# --- eviction, durability ---------------------------------------------------------------------------------------------


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
    log = RedisLog(server.url, GROUP, timeout_s=PATIENCE_S)
    author = lead(log)
    author.append()
    record = author.change("x")
    server.pause()
    with pytest.raises(OutcomeUnknown):
        RedisLog(server.url, GROUP, timeout_s=0.3, connections=log.connections).append(record)
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
