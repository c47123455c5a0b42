"""A server that refuses: because it is a replica, full or loading, or because the user lacks a right."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from replicator.errors import LogUnavailable, OutcomeUnknown
from replicator.format.acts import encode_version
from replicator.format.ids import Position, RecordId, Writer
from replicator.format.records import seal_change
from replicator.log import rights
from replicator.log.redis_log import RedisLog
from replicator.protocol.group import Code, Reply
from replicator.protocol.heartbeat import Heartbeat
from replicator.sandbox.redis_server import ServerBinary
from tests.conftest import RedisFactory
from tests.support.kv import eventually
from tests.support.log_calls import CALLS, WRITES, calls, in_thread, refused
from tests.support.worlds import GROUP, Author, RedisWorld, ids, lead, looked, promote

# --- a server that refuses --------------------------------------------------------------------------------------------


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
    with pytest.raises(LogUnavailable, match="the password, of the URL or its file, is wrong"):
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


# --- a user who lacks a right -----------------------------------------------------------------------------------------


#: What a node needs.
RIGHTS = (
    "eval", "evalsha", "info", "get", "set", "incr", "del", "type", "exists", "pttl", "time", "hmget", "hset",
    "hget", "hgetall", "xadd", "xtrim", "xread", "xrevrange", "xrange", "xinfo", "client|setname",
)  # fmt: skip

#: Without these a node follows, and does not lead.
LEADING = ("set", "del", "incr", "xtrim", "type")

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


@pytest.mark.parametrize("right", [right for right in RIGHTS if right not in LEADING])
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


@pytest.mark.parametrize("right", LEADING)
def test_without_a_right_of_a_primary_a_node_may_follow(
    right: str, world: RedisWorld, steward: Steward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rights, "AGAIN_S_MAX", 0.0)
    steward.take(right)
    log = steward.log()
    said = log.check_rights()
    assert f"the Redis user u may not use {right}, which a primary has to: `ACL SETUSER u +{right}`" in said
    assert "`replicator --group contract acl node` prints all that it takes" in said
    log.look()
    log.beat(Heartbeat("a", "1"))
    steward.give(*RIGHTS)
    assert log.check_rights() == ""


def test_a_user_who_may_not_write_the_log_is_not_tried_at_every_beat(
    world: RedisWorld, steward: Steward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trial leaves an entry in `ACL LOG`."""
    monkeypatch.setattr(rights, "AGAIN_S", rights.AGAIN_S_MAX)
    steward.take("set")
    log = steward.log()
    said = log.check_rights()
    called = calls(world, "eval"), calls(world)
    assert [log.check_rights() for _ in range(5)] == [said] * 5
    assert (calls(world, "eval"), calls(world)) == called


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
    assert "may not use xtrim" in log.check_rights()
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


def test_an_act_of_which_the_script_stopped_in_the_middle_is_told_once_it_is_done(
    world: RedisWorld, steward: Steward
) -> None:
    log = steward.log()
    author = lead(log)
    codec, body, digest = encode_version(2, before=1, by="ann")
    record = seal_change(
        writer=author.writer, term=1, after=author.position, at=0, codec=codec, digest=digest, count=1, body=body,
        version=2,
    )  # fmt: skip
    steward.take("hset")
    with pytest.raises(OutcomeUnknown):
        log.append(record)
    steward.give(*RIGHTS)
    assert [entry.what for entry in log.history().entries] == ["found"]
    assert log.append(record).code is Code.OK
    assert log.append(record).code is Code.DUPLICATE
    assert [(entry.what, entry.number) for entry in log.history().entries] == [("found", 1), ("finalize", 2)]


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
    # It takes 100 ms for each key, and answers after every 2 MB.
    server.config |= {"key-load-delay": "100000"}
    starting = in_thread(server.start)
    errors = set()

    def is_loading() -> bool:
        with contextlib.suppress(OutcomeUnknown):
            try:
                author.append()
            except LogUnavailable as error:
                errors.add(str(error))
        return any("LOADING" in error and "it will answer soon" in error for error in errors)

    eventually(is_loading, "a refusal because it loads")
    with redis.Redis.from_url(server.url) as admin:
        admin.config_set("key-load-delay", 0)  # all was seen
    starting.result()
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
