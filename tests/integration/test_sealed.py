"""A group with a key over a real Redis: what is found where, and what somebody gets who has Redis and not the key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from replicator import (
    CheckpointError,
    ConfigError,
    CorruptRecord,
    Host,
    LogUnavailable,
    NotAcknowledged,
    PromotionRefused,
    RecordId,
    ops,
)
from replicator.archive import backup
from replicator.archive.archiver import Archiver, Settings
from replicator.archive.catalog import Catalog
from replicator.archive.checking import check
from replicator.archive.opening import place_of
from replicator.format.ids import ZERO_ID
from replicator.format.records import CLOSED
from replicator.jobs.own_job import OwnJob
from replicator.jobs.plain_pickle import PlainPickle
from replicator.jobs.queue import JobQueue
from replicator.jobs.work import JobSettings, run
from replicator.log.redis_log import RedisLog, client_for
from replicator.ops.certify import certify
from replicator.ops.log_check import Violation
from replicator.sandbox.redis_server import RedisServer
from replicator.storage import forks
from replicator.storage.fork_writer import StateInFork
from replicator.storage.keyring import Entry, KeyFile, changed, dropped, new_key, read_entries, write_entries
from tests.support.jobs import start_worker
from tests.support.kv import KV, PATIENCE_S, document, eventually, in_step, in_thread, push, pushed, put
from tests.support.sealed import MARKER, Entries, Intruder, Scene, key_file


class Played(NamedTuple):
    """A group that has written, and stands still. `entries`: of its log."""

    server: RedisServer
    scene: Scene
    entries: Entries


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    found = RedisServer(tmp_path_factory.mktemp("redis"), config={"appendfsync": "always"})
    try:
        yield found.start()
    finally:
        found.kill()


@pytest.fixture(scope="module")
def played(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    directory = tmp_path_factory.mktemp("sealed")
    scene = Scene(server.url, directory, key_file(directory / "keys"))
    try:
        scene.play()
        for node in scene.nodes:
            node._running.replica.flush()
        here, there = Intruder(server.url), Intruder(attacked_url(server))
        for name in ("log", "head", "term"):  # now: whoever has a snapshot made later has the log begin later
            there.redis.restore(there.key(name), 0, here.redis.dump(here.key(name)))
        yield Played(server, scene, here.entries())
    finally:
        scene.close()


def attacked_url(server: RedisServer) -> str:
    """Where a copy of the group is, for who attacks it."""
    return f"{server.url}?db=3"


def files_with(directory: Path, text: str) -> list[Path]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return [path for path in found if text.encode() in path.read_bytes()]


# --- nothing of the payload is anywhere ------------------------------------------------------------------------------


def test_nothing_of_the_payload_is_in_redis_its_aof_checkpoints_forks_archives_and_backups(
    played: Played, tmp_path: Path
) -> None:
    server, scene, _ = played
    a = scene.nodes[0]
    checkpoint = a._running.checkpoint
    plain = checkpoint.write_fork("as saved", RecordId(1, 3))
    state = StateInFork(document(a))
    of_state = checkpoint.write_fork("of the state", RecordId(1, 3), of_state=state)
    archiver = Archiver(
        RedisLog(server.url, "g", sealing=CLOSED), place_of(str(tmp_path / "archive"), make=True), Settings()
    )
    (tmp_path / "archive").mkdir()
    archiver.begin()
    while archiver.turn() == 0 or archiver.status.lag_records:
        pass
    archiver.end()
    with_key = scene.log()
    backup.from_log(tmp_path / "backup", with_key, as_of=with_key.look().head.snapshot_at, state="kv")  # type: ignore[union-attr]

    assert not [found for found in Intruder(server.url).everything() if MARKER.encode() in found]
    for directory in (server.data_dir, scene.directory, tmp_path):
        assert files_with(directory, MARKER) == []
    # And all of it is there for whoever has the key.
    keys = KeyFile(scene.keys)
    for fork in (plain, of_state):
        assert MARKER in str(list(forks.export_state(forks.read(fork), keys=keys)))
        with pytest.raises(CheckpointError, match="give the group's key file"):
            list(forks.export_state(forks.read(fork)))
    with backup.opened(tmp_path / "backup", keys=keys) as opened:
        assert MARKER in str(list(opened.pieces()))
    facts = check(Catalog(place_of(str(tmp_path / "archive")), keys=keys), rules=True)
    assert facts.record_count > 5


def test_nothing_of_the_payload_is_in_what_jobs_leave(played: Played, tmp_path: Path) -> None:
    url, scene, backups = played.server.url, played.scene, tmp_path / "backups"
    settings = {"REPLICATOR_KEY_FILE": str(scene.keys), "REPLICATOR_BACKUPS": str(backups)}
    state = {"REPLICATOR_CERTIFY_STATE": "tests.support.kv:KV", "REPLICATOR_DATA_DIR": str(scene.directory)}
    worker = start_worker(url, tmp_path / "worker.log", **settings, **state)
    found: list[Any] = []
    try:
        with JobQueue(url, "g") as queue, client_for(url) as client:
            eventually(queue.has_worker)
            for name in ("backup", "certify"):
                id = queue.ask(name, {}).id
                found.append(queue.follow(id, name, wait_s=60.0, progress=found.append))
                job = OwnJob.fetch(id, connection=client, serializer=PlainPickle)
                found += [job.get_meta(), client.hgetall(job.key), job.latest_result().return_value]  # type: ignore[union-attr]
    finally:
        worker.terminate()
        assert worker.wait(60) == 0
    assert MARKER not in repr(found)
    assert not [each for each in Intruder(url).everything() if MARKER.encode() in each]
    assert files_with(tmp_path, MARKER) == []
    (file,) = backups.glob("*.backup")
    with backup.opened(file, keys=KeyFile(scene.keys)) as opened:
        assert MARKER in str(list(opened.pieces()))
    without = JobSettings(redis=url, group="g", backups=backups)
    with pytest.raises(CorruptRecord, match="no key was given: give the group's key file"):
        run("backup", {}, without, by="test", key="0123456789abcdef")


def test_the_digests_that_nodes_compare_are_no_digests_of_the_state(played: Played) -> None:
    report = ops.verify(played.scene.log(), by="test", timeout_s=60)
    assert len(report.digests) == 2
    assert not report.differ
    state = certify(
        played.scene.log(),
        [played.scene.directory / "a"],
        make_state=KV,
        keys=KeyFile(played.scene.keys),
    )
    assert state.nodes[0].digest not in report.digests.values()


def test_a_new_node_is_rebuilt_from_the_sealed_log_and_started_again_from_its_sealed_disk(played: Played) -> None:
    scene = played.scene
    for _ in range(2):
        node = scene.start("new")
        eventually(lambda node=node: node.position == scene.nodes[1].position)  # type: ignore[misc]
        assert document(node) == document(scene.nodes[1])
        node.stop()
        scene.nodes.remove(node)


def test_a_standby_of_a_host_opens_what_is_sealed(played: Played, tmp_path: Path) -> None:
    scene = played.scene
    with Host(scene.url) as host:  # its logs are told the keys after they were made
        node = host.node(KV(), group=scene.group, name="hosted", data_dir=tmp_path / "hosted", key_file=scene.keys)
        eventually(lambda: node.position == scene.nodes[1].position)
        assert document(node) == document(scene.nodes[1])
        assert node._setup.log.read(ZERO_ID).records


# --- no key, the wrong key, a lost key -------------------------------------------------------------------------------


def test_who_has_no_key_and_who_has_the_wrong_one_is_told_what_to_do(played: Played, tmp_path: Path) -> None:
    scene, wrong = played.scene, key_file(tmp_path / "wrong")
    with pytest.raises(ConfigError, match="give it the group's key file"):
        scene.start("x", key_file="", data_dir=tmp_path / "x")
    x = scene.start("x", key_file=wrong, data_dir=tmp_path / "x")
    eventually(lambda: f"which {wrong} does not have: add that one" in x.problem)
    assert not x.leads
    for node in (x, scene.nodes[0]):
        node.stop()
    scene.nodes.remove(x)
    for given, text in ((wrong, "does not have: add that one"), ("", "give the group's key file")):
        with pytest.raises(CheckpointError, match=text) as raised:
            scene.start("a", key_file=given)
        assert "the node rebuilds itself from the log" in str(raised.value)
    assert (scene.directory / "a" / "checkpoint.sqlite").exists(), "nothing was set aside"
    scene.nodes[0] = scene.start("a")
    scene.nodes.pop()
    eventually(lambda: scene.nodes[0].position == scene.nodes[1].position)


def test_an_operator_without_the_key_promotes_nobody(played: Played) -> None:
    log = RedisLog(played.server.url, "g")
    eventually(lambda: log.look().heartbeats["a"].alive, "a, which was just started, having reported")
    with pytest.raises(PromotionRefused, match="no key was given: give --key-file"):
        ops.promote(log, "a", by="test")
    assert Intruder(played.server.url).entries()[-1][0] == played.entries[-1][0]
    log.close()


# --- somebody who has Redis ------------------------------------------------------------------------------------------


def kinds(entries: Entries, kind: str) -> list[int]:
    return [at for at, (_, _, header, _) in enumerate(entries) if orjson.loads(header)["kind"] == kind]


def edited(entry: tuple[int, int, bytes, bytes], **fields: Any) -> tuple[int, int, bytes, bytes]:
    term, n, header, body = entry
    return term, n, orjson.dumps(orjson.loads(header) | fields), body


def flip_a_byte(entries: Entries, other: Entries) -> int:
    at = kinds(entries, "change")[2]
    term, n, header, body = entries[at]
    entries[at] = term, n, header, body[:-20] + bytes([body[-20] ^ 1]) + body[-19:]
    return at


def claim_other_counts(entries: Entries, other: Entries) -> int:
    at = kinds(entries, "change")[1]
    entries[at] = edited(entries[at], count=0)
    return at


def write_unsealed(entries: Entries, other: Entries) -> int:
    at = kinds(entries, "change")[-1]
    term, n, header, _ = entries[at]
    told = orjson.loads(header) | {"v": 1, "digest": "0" * 32}
    entries[at] = term, n, orjson.dumps(told), b'[{"push":"forged"}]'
    return at


def copy_from_another_place(entries: Entries, other: Entries) -> int:
    first, at = kinds(entries, "change")[0], kinds(entries, "change")[-1]
    entries[at] = (*entries[at][:2], *entries[first][2:])
    return at


def copy_the_body_alone(entries: Entries, other: Entries) -> int:
    first, at = kinds(entries, "change")[-2:]
    entries[at] = (*entries[at][:3], entries[first][3])
    return at


def copy_from_another_term(entries: Entries, other: Entries) -> int:
    at = kinds(entries, "change")[-1]
    of_first = next(each for each in kinds(entries, "change") if entries[each][0] != entries[at][0])
    body = entries[of_first][3]
    entries[at] = (*entries[at][:3], body)
    return at


def copy_from_another_group(entries: Entries, other: Entries) -> int:
    at = kinds(entries, "change")[0]
    entries[at] = (*entries[at][:2], *other[kinds(other, "change")[0]][2:])
    return at


def swap_two(entries: Entries, other: Entries) -> int:
    one, two = kinds(entries, "change")[-2:]
    entries[one], entries[two] = (*entries[one][:2], *entries[two][2:]), (*entries[two][:2], *entries[one][2:])
    return one


def replay_an_old_snapshot(entries: Entries, other: Entries) -> int:
    at = kinds(entries, "part")[0]
    term, n = entries[-1][:2]
    newest = orjson.loads(entries[-1][2])
    part = edited(entries[at], node=newest["node"], boot=newest["boot"], replaces=True)
    entries.append((term, n + 1, *part[2:]))
    return len(entries) - 1


def repeat_the_last(entries: Entries, other: Entries) -> int:
    term, n, header, body = entries[-1]
    entries.append((term, n + 1, header, body))
    return len(entries) - 1


def forge_a_term(entries: Entries, other: Entries) -> int:
    term, n = entries[-1][:2]
    _, _, header, _ = entries[kinds(entries, "term")[-1]]
    told = {name: value for name, value in orjson.loads(header).items() if name != "seal"}
    told |= {"node": "z", "boot": "z", "ends": f"1-{n}"}
    entries.append((term + 1, n + 1, orjson.dumps(told), b""))
    return len(entries) - 1


def replay_a_claim(entries: Entries, other: Entries) -> int:
    term, n = entries[-1][:2]
    _, _, header, _ = entries[kinds(entries, "term")[-1]]
    entries.append((term + 1, n + 1, header, b""))
    return len(entries) - 1


def have_a_claim_skip_a_change(entries: Entries, other: Entries) -> int:
    at = kinds(entries, "term")[-1]
    entries[at] = edited(entries[at], skip="1-3")
    return at


def name_another_holder(entries: Entries, other: Entries) -> int:
    at = kinds(entries, "term")[-1]
    entries[at] = edited(entries[at], node="z", boot="z")
    return at


ATTACKS: list[Callable[[Entries, Entries], int]] = [
    flip_a_byte,
    claim_other_counts,
    write_unsealed,
    copy_from_another_place,
    copy_the_body_alone,
    copy_from_another_term,
    copy_from_another_group,
    swap_two,
    replay_an_old_snapshot,
    repeat_the_last,
    forge_a_term,
    replay_a_claim,
    have_a_claim_skip_a_change,
    name_another_holder,
]


class Attacked(NamedTuple):
    """A copy of the group's Redis, in a database of its own, with a node that reads it. `other`: of another group."""

    intruder: Intruder
    scene: Scene
    entries: Entries
    other: Entries


@pytest.fixture(scope="module")
def attacked(played: Played, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    server, scene, _ = played
    directory, url = tmp_path_factory.mktemp("attacked"), attacked_url(server)
    there = Intruder(url)
    group = Scene(server.url, directory, scene.keys, group="other")
    other = group.start("o")
    other.promote(timeout_s=PATIENCE_S)
    eventually(lambda: other.leads)
    other.submit(put(MARKER, "other"))
    copy = Scene(url, directory, scene.keys)
    try:
        yield Attacked(there, copy, there.entries(), Intruder(server.url, "other").entries())
    finally:
        group.close()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_somebody_without_the_key_does_to_the_log_is_refused_and_named(
    attack: Callable[[Entries, Entries], int], attacked: Attacked, tmp_path: Path
) -> None:
    entries = list(attacked.entries)
    at = attack(entries, attacked.other)
    attacked.intruder.put(entries)
    bad = f"{entries[at][0]}-{entries[at][1]}"

    with pytest.raises(Violation, match=bad) as raised:
        certify(attacked.scene.log(), make_state=KV)
    assert raised.value.rule == "body"
    assert "key" in str(raised.value)
    node = attacked.scene.start("reader", data_dir=tmp_path / "reader")
    try:
        eventually(lambda: bad in node.problem and "key" in node.problem, f"a word about {bad}")
        assert node.position.id < RecordId.parse(bad)
    finally:
        node.stop()
        attacked.scene.nodes.remove(node)


def test_a_forged_heartbeat_and_a_forged_ack_count_for_nothing_and_are_named(played: Played) -> None:
    scene = played.scene
    leader = eventually(lambda: next((node for node in scene.nodes if node.leads), None))
    intruder = Intruder(played.server.url)
    intruder.redis.hdel(intruder.key("nodes"), "x")
    beats = intruder.redis.hgetall(intruder.key("nodes"))
    stamp, _, told = beats[leader.name.encode()].partition(b" ")
    for name in ("z", "y"):  # one says so without a MAC, one with that of another heartbeat
        forged = orjson.loads(told) | {"node": name, "synced": "9-999", "role": "standby"}
        if name == "z":
            del forged["mac"]
        intruder.redis.hset(intruder.key("nodes"), name, stamp + b" " + orjson.dumps(forged))
    intruder.redis.xadd(intruder.key("acks"), {"node": "z", "at": "9-999"})
    look = scene.log().look()
    assert look.forged == ("y", "z")
    assert not {"y", "z"} & look.heartbeats.keys()
    with pytest.raises(NotAcknowledged):
        leader.submit(push("x"), ack="applied:2", timeout_s=5)
    with pytest.raises(Violation, match="y, z"):
        certify(scene.log(), make_state=KV)
    intruder.redis.hdel(intruder.key("nodes"), "y", "z")
    with pytest.raises(Violation, match="acks of z"):
        certify(scene.log(), make_state=KV)
    intruder.redis.delete(intruder.key("acks"))
    certify(scene.log(), make_state=KV)


def test_a_group_in_whose_log_somebody_wrote_is_founded_anew_from_what_its_nodes_have(
    server: RedisServer, tmp_path: Path
) -> None:
    url = f"{server.url}?db=8"
    scene, intruder = Scene(url, tmp_path, key_file(tmp_path / "keys"), group="w"), Intruder(url, "w")
    a = scene.start("a", beat_every_s=0.2)
    a.promote(timeout_s=PATIENCE_S)
    b = scene.start("b", beat_every_s=0.2)
    eventually(lambda: a.leads)
    a.submit(push("kept"), ack="applied:1")
    in_step(a, b)
    entries = intruder.entries()
    repeat_the_last(entries, [])
    intruder.put(entries)
    eventually(lambda: "forged" in b.problem)
    intruder.redis.delete(intruder.key("head"))
    ops.recover(scene.log(), by="test")
    in_step(a, b)
    eventually(lambda: a.problem == b.problem == "")
    assert pushed(a) == pushed(b) == ["kept"]
    scene.close()


# --- other keys ------------------------------------------------------------------------------------------------------


def test_a_key_is_replaced_under_load_and_the_old_one_opens_nothing_that_is_left(
    server: RedisServer, tmp_path: Path
) -> None:
    keys = key_file(tmp_path / "keys")
    scene = Scene(f"{server.url}?db=4", tmp_path, keys, group="r")
    a, enough, written = scene.start("a"), threading.Event(), list[int]()
    a.promote(timeout_s=PATIENCE_S)
    b = scene.start("b")
    eventually(lambda: a.leads)

    def write() -> None:
        while not enough.is_set():
            try:
                a.submit(push(len(written)))
            except LogUnavailable:
                continue
            written.append(len(written))

    def more() -> None:
        reached = len(written) + 20
        eventually(lambda: len(written) >= reached)

    writer = in_thread(write)
    try:
        more()
        (old,) = read_entries(keys)
        new = Entry(False, new_key())
        write_entries(keys, [old, new])
        eventually(lambda: all(len(node._setup.log.sealing.keyring.opens) == 2 for node in (a, b)))  # type: ignore[union-attr]
        write_entries(keys, changed([old, new], new.name))
        eventually(lambda: a._setup.log.sealing.sealer.key.name == new.name)  # type: ignore[union-attr]
        more()
        assert not ops.verify(scene.log(), by="test", timeout_s=60).differ
        scene.snapshot()
        scene.snapshot()  # the log is cut at the first one
        more()
        eventually(lambda: (kept := b._running.checkpoint.snapshot) is not None and kept.as_of.id.n > 20)
        write_entries(keys, dropped(read_entries(keys), old.name))
        eventually(lambda: all(len(node._setup.log.sealing.keyring.opens) == 1 for node in (a, b)))  # type: ignore[union-attr]
        more()
    finally:
        enough.set()
        writer()
    in_step(a, b)
    eventually(lambda: a.problem == b.problem == "")
    b.stop()
    scene.nodes.remove(b)
    again = scene.start("b")
    in_step(a, again)
    with again.reading() as state:
        assert state.pushed[: len(written)] == written
    scene.close()


def test_nodes_of_a_host_have_each_the_keys_of_its_own_group(server: RedisServer, tmp_path: Path) -> None:
    url, files = f"{server.url}?db=7", {name: key_file(tmp_path / name) for name in ("g1", "g2")}
    with Host(url) as host:
        nodes = {
            group: host.node(KV(), group=group, name="a", data_dir=tmp_path / f"{group}-a", key_file=keys)
            for group, keys in files.items()
        }
        for group, node in nodes.items():
            node.promote(timeout_s=PATIENCE_S)
            node.submit(push(f"{MARKER} {group}"))
    assert files_with(tmp_path, MARKER) == []
    for group, keys in files.items():
        scene = Scene(url, tmp_path / f"of-{group}", keys, group=group)
        a = scene.start("b")
        eventually(lambda a=a: a.position.id.n == 2)  # type: ignore[misc]
        with a.reading() as state:
            assert state.pushed == [f"{MARKER} {group}"]
        scene.close()


def test_a_group_gets_its_first_key_while_it_runs(server: RedisServer, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    key = Entry(False, new_key())
    scene = Scene(f"{server.url}?db=5", tmp_path, keys, group="f")
    a = scene.start("a", key_file="")
    a.promote(timeout_s=PATIENCE_S)
    eventually(lambda: a.leads)
    a.submit(push("plain"))
    write_entries(keys, [key, Entry(True, None)], new=True)
    a.stop()
    scene.nodes.clear()
    a = scene.start("a")
    eventually(lambda: a.leads)
    write_entries(keys, changed(read_entries(keys), key.name))
    eventually(lambda: a._setup.log.sealing.sealer is not None)  # type: ignore[union-attr]
    a.submit(push("sealed"))
    scene.snapshot()
    scene.snapshot()
    write_entries(keys, dropped(read_entries(keys), "unsealed"))
    eventually(lambda: not a._setup.log.sealing.keyring.takes_unsealed)  # type: ignore[union-attr]
    b = scene.start("b")
    in_step(a, b)
    with b.reading() as state:
        assert state.pushed == ["plain", "sealed"]
    scene.close()


def test_nodes_that_run_go_on_with_a_new_key_though_the_old_one_is_lost(server: RedisServer, tmp_path: Path) -> None:
    keys = key_file(tmp_path / "keys")
    scene = Scene(f"{server.url}?db=6", tmp_path, keys, group="l")
    a = scene.start("a")
    a.promote(timeout_s=PATIENCE_S)
    b = scene.start("b")
    eventually(lambda: a.leads)
    a.submit(push("before"))
    in_step(a, b)
    keys.unlink()
    key_file(keys)
    (new,) = read_entries(keys)
    eventually(lambda: all(node._setup.log.sealing.keyring.writes.name == new.name for node in (a, b)))  # type: ignore[union-attr]
    scene.snapshot()
    scene.snapshot()
    a.submit(push("after"))
    in_step(a, b)
    b.stop()
    b = scene.start("b")
    in_step(a, b)
    with b.reading() as state:
        assert state.pushed == ["before", "after"]
    scene.close()
